#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/route_topk.h"

namespace msadb::kernels {
namespace {

float HalfToFloat(uint16_t h) {
  const int exponent = (h >> 10) & 31;
  const int mantissa = h & 1023;
  float value;
  if (exponent == 0) {
    value = std::ldexp(static_cast<float>(mantissa), -24);
  } else if (exponent == 31) {
    value =
        mantissa ? std::numeric_limits<float>::quiet_NaN() : std::numeric_limits<float>::infinity();
  } else {
    value = std::ldexp(static_cast<float>(mantissa + 1024), exponent - 25);
  }
  return h & 0x8000 ? -value : value;
}

// A key's values as the products see them: int8 keys are scaled after the maximum.
void Unpack(const RouteParams& p, const RouteSegment& segment, size_t chunk, float* key) {
  for (size_t i = 0; i < static_cast<size_t>(p.dim); ++i) {
    const size_t at = chunk * p.dim + i;
    key[i] = p.key_type == RouteKeyType::kInt8
                 ? static_cast<const int8_t*>(segment.keys)[at]
                 : HalfToFloat(static_cast<const uint16_t*>(segment.keys)[at]);
  }
}

void ScoreChunks(const RouteParams& p, const RouteSegment& segment, const float* queries) {
  std::vector<float> key(p.dim);
  for (size_t c = 0; c < segment.n_chunks; ++c) {
    Unpack(p, segment, c, key.data());
    for (int q = 0; q < p.columns.n_questions; ++q) {
      float best = -std::numeric_limits<float>::infinity();
      for (int column = 0; column < kRouteColumns; ++column) {
        if (p.columns.block_question[column / 8] != q) continue;
        float dot = 0;
        for (int i = 0; i < p.dim; ++i) dot += key[i] * queries[size_t(column) * p.dim + i];
        best = std::max(best, dot);
      }
      if (p.key_type == RouteKeyType::kInt8) best *= segment.scales[c];
      float& score = p.chunk_scores[q * p.n_scores + segment.first_score + c];
      score = p.accumulate ? std::max(score, best) : best;
    }
  }
}

void AppendDocuments(const RouteSegment& segment, const float* scores,
                     std::vector<RoutedOrdinal>* documents) {
  for (size_t d = 0; d < segment.n_documents; ++d) {
    if (segment.allowed != nullptr && !(segment.allowed[d / 32] >> (d % 32) & 1)) continue;
    float best = -std::numeric_limits<float>::infinity();
    for (uint32_t c = segment.document_begin[d]; c < segment.document_begin[d + 1]; ++c) {
      best = std::max(best, scores[segment.first_score + c]);
    }
    if (best > -std::numeric_limits<float>::infinity()) {
      documents->push_back({best, static_cast<uint32_t>(segment.first_document + d)});
    }
  }
}

}  // namespace

void RouteTopKReference(const RouteParams& p) {
  const auto* packed = static_cast<const uint16_t*>(p.queries);
  std::vector<float> queries(static_cast<size_t>(kRouteColumns) * p.dim);
  for (size_t column = 0; column < kRouteColumns; ++column) {
    for (int i = 0; i < p.dim; ++i) {
      queries[column * p.dim + i] = HalfToFloat(
          packed[column * RoutePackedDim(p.key_type, p.dim) + RoutePackedColumn(p.key_type, i)]);
    }
  }
  for (size_t s = 0; s < p.n_segments; ++s) ScoreChunks(p, p.segments[s], queries.data());
  if (p.more_columns) return;
  for (int q = 0; q < p.columns.n_questions; ++q) {
    std::vector<RoutedOrdinal> documents;
    for (size_t s = 0; s < p.n_segments; ++s) {
      AppendDocuments(p.segments[s], p.chunk_scores + q * p.n_scores, &documents);
    }
    std::sort(documents.begin(), documents.end(), [](const auto& a, const auto& b) {
      return a.score != b.score ? a.score > b.score : a.document < b.document;
    });
    documents.resize(std::max<size_t>(documents.size(), p.top_k),
                     {-std::numeric_limits<float>::infinity(), UINT32_MAX});
    std::copy_n(documents.begin(), p.top_k, p.results + size_t(q) * p.top_k);
  }
}

}  // namespace msadb::kernels
