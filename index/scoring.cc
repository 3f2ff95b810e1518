#include "index/scoring.h"

#include <cblas.h>
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <limits>

namespace msadb::index::internal {
namespace {

// Below this many tokens a matrix-vector product per token beats packing for a matrix product.
constexpr size_t kMatrixTokensMin = 5;

// out [n_tokens, n_rows] = queries . keys^T
void TileScores(const float* keys, size_t n_rows, size_t dim, const float* queries, size_t n_tokens,
                float* out) {
  const auto rows = static_cast<blasint>(n_rows), d = static_cast<blasint>(dim);
  if (n_tokens < kMatrixTokensMin) {
    for (size_t t = 0; t < n_tokens; ++t) {
      cblas_sgemv(CblasRowMajor, CblasNoTrans, rows, d, 1.0f, keys, d, queries + t * dim, 1, 0.0f,
                  out + t * n_rows, 1);
    }
    return;
  }
  cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, static_cast<blasint>(n_tokens), rows, d,
              1.0f, queries, d, keys, d, 0.0f, out, rows);
}

// Products of floats are exact in double, so with or without fused multiply-add this is one number.
double ExactDot(const float* a, const float* b, size_t dim) {
  double sum = 0;
  for (size_t i = 0; i < dim; ++i) sum += static_cast<double>(a[i]) * static_cast<double>(b[i]);
  return sum;
}

// About a millisecond of one core.
constexpr size_t kThreadedWorkMin = size_t{1} << 25;

// The canonical score of a document whose rows are keys [n_rows, dim]. Only pairs whose float32
// product is within the error bound of the best are worth a float64 one.
float CanonicalScore(const SearchRequest& request, const float* keys, size_t n_rows,
                     float* scratch) {
  const size_t dim = request.version->config.dim;
  double best = -std::numeric_limits<double>::infinity();
  for (size_t row = 0; row < n_rows; row += kTileRows) {
    const size_t rows = std::min(kTileRows, n_rows - row);
    for (size_t token = 0; token < request.n_tokens; token += kTileTokens) {
      const size_t tokens = std::min(kTileTokens, request.n_tokens - token);
      const float* tile_keys = keys + row * dim;
      const float* tile_queries = request.queries + token * dim;
      TileScores(tile_keys, rows, dim, tile_queries, tokens, scratch);
      const double tile_best = *std::max_element(scratch, scratch + rows * tokens);
      const double worth =
          std::max(tile_best - 2 * request.score_error_max, best - request.score_error_max);
      for (size_t i = 0; i < rows * tokens; ++i) {
        if (scratch[i] < worth) continue;
        best = std::max(best,
                        ExactDot(tile_queries + i / rows * dim, tile_keys + i % rows * dim, dim));
      }
    }
  }
  return static_cast<float>(best);
}

}  // namespace

bool WorthThreads(size_t n_rows, size_t dim, size_t n_tokens) {
  // Reading a key from memory takes as long as multiplying it with about 16 tokens.
  return n_rows * dim >= kThreadedWorkMin / (n_tokens + 16);
}

// The number of threads is a setting of the calling thread, which OpenBLAS (OpenMP) respects.
OneThreadBlas::OneThreadBlas() : threads_(omp_get_max_threads()) { omp_set_num_threads(1); }
OneThreadBlas::~OneThreadBlas() { omp_set_num_threads(threads_); }

Scratch::Scratch(size_t floats_per_thread)
    // A cache line apart, so that threads do not write to each other's lines.
    : stride_(floats_per_thread + 16), floats_(stride_ * omp_get_max_threads()) {}

float* Scratch::mine() { return floats_.data() + stride_ * omp_get_thread_num(); }

void MaxScores(const float* keys, size_t n_rows, size_t dim, const float* queries, size_t n_tokens,
               float* scratch, float* out) {
  std::fill_n(out, n_rows, -std::numeric_limits<float>::infinity());
  for (size_t token = 0; token < n_tokens; token += kTileTokens) {
    const size_t tokens = std::min(kTileTokens, n_tokens - token);
    TileScores(keys, n_rows, dim, queries + token * dim, tokens, scratch);
    for (size_t t = 0; t < tokens; ++t) {
      const float* scores = scratch + t * n_rows;
#pragma omp simd
      for (size_t r = 0; r < n_rows; ++r) out[r] = std::max(out[r], scores[r]);
    }
  }
}

std::vector<RoutedDocument> Rank(const SearchRequest& request,
                                 const std::vector<Candidate>& candidates) {
  const Version& version = *request.version;
  std::vector<RoutedDocument> ranked(candidates.size());
  Scratch scratch(kTileRows * kTileTokens);
  const auto n = static_cast<int64_t>(candidates.size());
  size_t n_rows = 0;
  for (const Candidate& candidate : candidates) {
    n_rows += version.segments[candidate.segment].n_chunks(candidate.ordinal);
  }
  const int n_threads =
      WorthThreads(n_rows, version.config.dim, request.n_tokens) ? omp_get_max_threads() : 1;
  const OneThreadBlas one_thread_blas;
#pragma omp parallel for schedule(dynamic) num_threads(n_threads)
  for (int64_t i = 0; i < n; ++i) {
    const SegmentView& view = version.segments[candidates[i].segment];
    const uint32_t ordinal = candidates[i].ordinal;
    const float* keys =
        view.segment->keys(request.layer) + size_t{view.row_begin(ordinal)} * version.config.dim;
    ranked[i].number = view.number(ordinal);
    ranked[i].score = CanonicalScore(request, keys, view.n_chunks(ordinal), scratch.mine());
  }
  const size_t wanted = std::min(request.k, ranked.size());
  std::partial_sort(ranked.begin(), ranked.begin() + wanted, ranked.end(),
                    [](const RoutedDocument& a, const RoutedDocument& b) {
                      return a.score != b.score ? a.score > b.score : a.number < b.number;
                    });
  ranked.resize(wanted);
  return ranked;
}

float MaxRowNorm(const float* x, size_t n, size_t dim) {
  float square_max = 0;
  for (size_t row = 0; row < n; ++row) {
    const float* values = x + row * dim;
    float square = 0;
#pragma omp simd reduction(+ : square)
    for (size_t i = 0; i < dim; ++i) square += values[i] * values[i];
    // Written so that NaN fails it.
    if (!(square <= kNormMax * kNormMax)) return std::numeric_limits<float>::infinity();
    square_max = std::max(square_max, square);
  }
  // The sum above may be too small by dim rounding errors, or by squares that underflow.
  const float relative = 1.0f + static_cast<float>(dim + 2) * std::numeric_limits<float>::epsilon();
  return std::sqrt(square_max) * relative + std::sqrt(static_cast<float>(dim)) * 1e-19f;
}

double ScoreErrorMax(size_t dim, float query_norm_max, float key_norm_max) {
  // |computed - exact| <= gamma_d * sum |q_i k_i| <= gamma_d * |q| |k| in any order of summation
  // (Higham, Accuracy and Stability of Numerical Algorithms, section 3.1); the rounding of the
  // canonical score to float32 is one more unit. 1e-36 covers products that underflow.
  constexpr double kUnit = 0x1p-24;
  const double units = static_cast<double>(dim + 8) * kUnit;
  return units / (1 - units) * static_cast<double>(query_norm_max) *
             static_cast<double>(key_norm_max) +
         1e-36;
}

}  // namespace msadb::index::internal
