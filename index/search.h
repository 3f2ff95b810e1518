// The two ways to find the exact top-k documents of one layer in one version.
//
// Both work in two steps. First float32 products by BLAS or FAISS give approximate scores with a
// known error bound, enough to name every document that can be in the answer. Then those few
// documents are scored in float64, rounded to float32 and ranked. So the answer does not depend on
// how a matrix product of this or that shape happens to round, and the engines agree bit for bit.
#ifndef MSADB_INDEX_SEARCH_H_
#define MSADB_INDEX_SEARCH_H_

#include <cstddef>
#include <vector>

#include "index/routing_index.h"
#include "index/version.h"

namespace msadb::index::internal {

// Checked by the caller: layer in range, queries finite, n_tokens > 0, k > 0.
struct SearchRequest {
  const Version* version = nullptr;
  int layer = 0;
  const float* queries = nullptr;  // [n_tokens, dim]
  size_t n_tokens = 0;
  size_t k = 0;
  const SelectionBits* selection = nullptr;  // null: every live document
  float query_norm_max = 0;                  // MaxRowNorm of the queries
  // Bound on |approximate - exact| of every score of the CPU engines, rounding of the exact score
  // included.
  double score_error_max = 0;
};

// Both throw std::bad_alloc (and SearchFaiss FaissException): call them inside Guard().
std::vector<RoutedDocument> SearchFused(const SearchRequest& request);
std::vector<RoutedDocument> SearchFaiss(const SearchRequest& request);

// Both engines on GPUs (search_device.cc): the same two steps, each where the keys are. Throws
// DeviceFailure too.
std::vector<RoutedDocument> SearchDevices(const SearchRequest& request);
// Ok when an index of this configuration can be made here; Unsupported or InvalidArgument says why
// not. Throws nothing; Ok for no devices.
Status CheckDevices(const IndexConfig& config);

// Largest 2-norm of the rows of x [n, dim], rounded up; infinity when a value is not finite or the
// norm is beyond kNormMax.
float MaxRowNorm(const float* x, size_t n, size_t dim);
// Keeps float32 products finite.
inline constexpr float kNormMax = 1e15f;

double ScoreErrorMax(size_t dim, float query_norm_max, float key_norm_max);

}  // namespace msadb::index::internal

#endif  // MSADB_INDEX_SEARCH_H_
