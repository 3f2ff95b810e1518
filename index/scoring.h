// Scores of tiles of keys, and the canonical score of a document.
#ifndef MSADB_INDEX_SCORING_H_
#define MSADB_INDEX_SCORING_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "index/search.h"

namespace msadb::index::internal {

// Keys scored at a time: 256 rows of 192 floats stay in a core's second-level cache while the
// queries pass over them (measured: bench/index).
inline constexpr size_t kTileRows = 256;
inline constexpr size_t kTileTokens = 128;

// One document that may be in the answer.
struct Candidate {
  uint32_t segment = 0;
  uint32_t ordinal = 0;
};

// out[r] = max over tokens of dot(queries[t], keys[r]), float32. keys [n_rows <= kTileRows, dim].
// `scratch` has kTileRows * kTileTokens floats.
void MaxScores(const float* keys, size_t n_rows, size_t dim, const float* queries, size_t n_tokens,
               float* scratch, float* out);

// Scores `candidates` canonically and returns the best request.k of them, best first, equal scores
// by ascending number.
std::vector<RoutedDocument> Rank(const SearchRequest& request,
                                 const std::vector<Candidate>& candidates);

// Whether scoring `n_rows` rows against `n_tokens` tokens is enough work for several threads.
// Waking them costs more than a small search, and far more while other programs use the cores.
bool WorthThreads(size_t n_rows, size_t dim, size_t n_tokens);

// Keeps BLAS on the calling thread while it lives: this room shares out the tiles itself, and
// inside a region of one thread BLAS would start its own. Affects no other thread.
class OneThreadBlas {
 public:
  OneThreadBlas();
  ~OneThreadBlas();
  OneThreadBlas(const OneThreadBlas&) = delete;
  OneThreadBlas& operator=(const OneThreadBlas&) = delete;

 private:
  int threads_;
};

// Per-thread working memory for a parallel region, where nothing may throw.
class Scratch {
 public:
  explicit Scratch(size_t floats_per_thread);
  float* mine();  // of the calling OpenMP thread

 private:
  size_t stride_;
  std::vector<float> floats_;
};

}  // namespace msadb::index::internal

#endif  // MSADB_INDEX_SCORING_H_
