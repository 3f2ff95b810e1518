// From the approximate scores of route_topk.h to exact answers.
//
// RouteTopKCuda multiplies float16 queries with the keys and sums in float32, so its scores are off
// by a bounded amount. Every chunk that can decide the answer scores at least the k-th best
// approximate score less twice that bound. CollectRowsCuda lists these chunks, RescoreRowsCuda
// gives each its exact score: the float32 nearest to the inner product of the float32 query and the
// key, summed in float64 in the order of the dimensions, the best over the tokens. That is the same
// number, bit for bit, as a plain loop gives on the host.
//
// All functions enqueue on `stream`, allocate nothing, do not synchronise, and return a cudaError_t
// as int (0 on success). Segments are those of RouteParams, in device memory.
#ifndef MSADB_KERNELS_ROUTE_TOPK_EXACT_H_
#define MSADB_KERNELS_ROUTE_TOPK_EXACT_H_

#include <cstddef>
#include <cstdint>

#include "kernels/route_topk.h"

namespace msadb::kernels {

// A chunk of one segment.
struct RouteRow {
  uint32_t segment;
  uint32_t row;
  float score;  // set by RescoreRowsCuda
};

// packed [n_packed, RoutePackedDim()] float16 = scale * queries [n_tokens, dim] float32 as
// RouteParams wants them; rows past n_tokens repeat the last token. n_packed >= n_tokens >= 1.
// Device memory.
int PackRouteQueriesCuda(RouteKeyType key_type, const float* queries, size_t n_tokens, int dim,
                         float scale, void* packed, size_t n_packed, cudaStream_t stream);

struct CollectParams {
  const RouteSegment* segments = nullptr;
  size_t n_segments = 0;
  size_t n_documents = 0;               // of all segments
  const float* chunk_scores = nullptr;  // of one question
  // Rows that score at least `margin` are listed. With `kth` (device memory, may be null) `margin`
  // is added to its score, rounded down; every row is listed when it is past the last result.
  double margin = 0;
  const RoutedOrdinal* kth = nullptr;
  RouteRow* rows = nullptr;   // device
  uint32_t capacity = 0;      // of rows
  uint32_t* count = nullptr;  // device
};

// Appends {segment, chunk} of the chunks of allowed documents to rows[*count ...], in no particular
// order. *count grows past `capacity` when there are more; only the first `capacity` are stored.
int CollectRowsCuda(const CollectParams& params, cudaStream_t stream);

struct RescoreParams {
  RouteKeyType key_type = RouteKeyType::kFloat16;
  const RouteSegment* segments = nullptr;
  int dim = 0;                     // as in RouteParams
  const float* queries = nullptr;  // device, [n_tokens, dim], 16-byte aligned
  size_t n_tokens = 0;
  const RouteRow* rows = nullptr;   // device
  const uint32_t* count = nullptr;  // device
  uint32_t capacity = 0;
  RouteRow* results = nullptr;       // device or mapped host, [capacity]
  uint32_t* result_count = nullptr;  // the same
};

// results[i] = rows[i] with its exact score, for i < min(*count, capacity); *result_count = *count.
int RescoreRowsCuda(const RescoreParams& params, cudaStream_t stream);

}  // namespace msadb::kernels

#endif  // MSADB_KERNELS_ROUTE_TOPK_EXACT_H_
