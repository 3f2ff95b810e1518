// The fused engine. One pass over the admissible keys: a tile of rows is multiplied with all
// queries while it is in cache and reduced over tokens there; then chunks are reduced to documents.
// Only one float per chunk is ever kept. Reads each key once, whatever the number of tokens,
// tombstones and allowed documents.
#include <omp.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <limits>

#include "index/scoring.h"
#include "index/search.h"

namespace msadb::index::internal {
namespace {

// Neighbouring admissible rows of one segment.
struct Run {
  const float* keys = nullptr;
  size_t n_rows = 0;
};

// Up to kTileRows rows, in order, as runs [run_begin, run_end).
struct Tile {
  size_t run_begin = 0;
  size_t run_end = 0;
  size_t n_rows = 0;
  size_t first_row = 0;  // among all admissible rows
};

struct Plan {
  std::vector<Candidate> documents;  // every admissible document; their rows follow each other
  std::vector<Run> runs;
  std::vector<Tile> tiles;
  size_t n_rows = 0;
};

// Cuts `n_rows` rows at `keys` into the plan's tiles.
void AddRows(const float* keys, size_t n_rows, size_t dim, Plan* plan) {
  while (n_rows > 0) {
    if (plan->tiles.empty() || plan->tiles.back().n_rows == kTileRows) {
      plan->tiles.push_back({plan->runs.size(), plan->runs.size(), 0, plan->n_rows});
    }
    Tile& tile = plan->tiles.back();
    const size_t taken = std::min(n_rows, kTileRows - tile.n_rows);
    const bool continues = tile.run_end > tile.run_begin &&
                           plan->runs.back().keys + plan->runs.back().n_rows * dim == keys;
    if (continues) {
      plan->runs.back().n_rows += taken;
    } else {
      plan->runs.push_back({keys, taken});
      ++tile.run_end;
    }
    tile.n_rows += taken;
    plan->n_rows += taken;
    keys += taken * dim;
    n_rows -= taken;
  }
}

Plan MakePlan(const SearchRequest& request) {
  const Version& version = *request.version;
  const size_t dim = version.config.dim;
  Plan plan;
  plan.documents.reserve(request.selection ? request.selection->n_documents
                                           : version.live_documents);
  for (uint32_t s = 0; s < version.segments.size(); ++s) {
    const SegmentView& view = version.segments[s];
    const float* keys = view.segment->keys(request.layer);
    if (request.selection == nullptr && view.dead_documents == 0) {
      for (uint32_t i = 0; i < view.n_documents; ++i) plan.documents.push_back({s, i});
      AddRows(keys, view.n_rows, dim, &plan);
      continue;
    }
    for (uint32_t i = 0; i < view.n_documents; ++i) {
      const bool admissible =
          request.selection ? TestBit(request.selection->allowed[s], i) : !view.IsDead(i);
      if (!admissible) continue;
      plan.documents.push_back({s, i});
      AddRows(keys + size_t{view.row_begin(i)} * dim, view.n_chunks(i), dim, &plan);
    }
  }
  return plan;
}

// Max over tokens of every admissible row, in the plan's order.
std::vector<float> ScoreRows(const SearchRequest& request, const Plan& plan) {
  const size_t dim = request.version->config.dim;
  const bool gathers = plan.runs.size() > plan.tiles.size();
  std::vector<float> scores(plan.n_rows);
  Scratch products(kTileRows * kTileTokens);
  Scratch gathered(gathers ? kTileRows * dim : 0);
  const auto n_tiles = static_cast<int64_t>(plan.tiles.size());
  const int n_threads =
      WorthThreads(plan.n_rows, dim, request.n_tokens) ? omp_get_max_threads() : 1;
  const OneThreadBlas one_thread_blas;
#pragma omp parallel for schedule(dynamic) num_threads(n_threads)
  for (int64_t i = 0; i < n_tiles; ++i) {
    const Tile& tile = plan.tiles[i];
    const float* keys = plan.runs[tile.run_begin].keys;
    if (tile.run_end - tile.run_begin > 1) {
      float* to = gathered.mine();
      keys = to;
      for (size_t r = tile.run_begin; r < tile.run_end; ++r) {
        const size_t floats = plan.runs[r].n_rows * dim;
        std::memcpy(to, plan.runs[r].keys, floats * sizeof(float));
        to += floats;
      }
    }
    MaxScores(keys, tile.n_rows, dim, request.queries, request.n_tokens, products.mine(),
              scores.data() + tile.first_row);
  }
  return scores;
}

// The k-th largest value, or -infinity when there are fewer.
float KthLargest(const std::vector<float>& values, size_t k) {
  if (values.size() < k) return -std::numeric_limits<float>::infinity();
  std::vector<float> heap(values.begin(), values.begin() + k);  // the k largest, smallest on top
  std::make_heap(heap.begin(), heap.end(), std::greater<>());
  for (size_t i = k; i < values.size(); ++i) {
    if (values[i] <= heap.front()) continue;
    std::pop_heap(heap.begin(), heap.end(), std::greater<>());
    heap.back() = values[i];
    std::push_heap(heap.begin(), heap.end(), std::greater<>());
  }
  return heap.front();
}

}  // namespace

std::vector<RoutedDocument> SearchFused(const SearchRequest& request) {
  const Plan plan = MakePlan(request);
  const std::vector<float> row_scores = ScoreRows(request, plan);

  std::vector<float> document_scores(plan.documents.size());
  size_t row = 0;
  for (size_t i = 0; i < plan.documents.size(); ++i) {
    const Candidate& document = plan.documents[i];
    const uint32_t n_chunks =
        request.version->segments[document.segment].n_chunks(document.ordinal);
    document_scores[i] =
        *std::max_element(row_scores.begin() + row, row_scores.begin() + row + n_chunks);
    row += n_chunks;
  }

  // At least k documents score the k-th approximate score minus the error, so none that is further
  // below can be among the best k.
  const double worth = KthLargest(document_scores, request.k) - 2 * request.score_error_max;
  std::vector<Candidate> candidates;
  for (size_t i = 0; i < plan.documents.size(); ++i) {
    if (document_scores[i] >= worth) candidates.push_back(plan.documents[i]);
  }
  return Rank(request, candidates);
}

}  // namespace msadb::index::internal
