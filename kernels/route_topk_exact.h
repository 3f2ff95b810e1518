// From the approximate scores of route_topk.h to exact answers.
//
// RouteTopKCuda multiplies float16 queries with float16 keys and sums in float32, so its scores are
// off by a bounded amount. The caller takes the k-th best approximate score less twice that bound
// as `threshold`: every chunk that can decide the answer scores at least that. CollectRowsCuda
// lists these chunks, RescoreRowsCuda gives each its exact score: the float32 nearest to the inner
// product of the float32 query and the float16 key, summed in float64 in the order of the
// dimensions, the best over the tokens. That is the same number, bit for bit, as a plain loop gives
// on the host.
//
// All functions enqueue on `stream`, allocate nothing, do not synchronise, and return a cudaError_t
// as int (0 on success).
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

// packed [n_packed, padded_dim] float16 = scale * queries [n_tokens, dim] float32; columns past dim
// are 0, rows past n_tokens repeat the last token. n_packed >= n_tokens >= 1. All device memory.
int PackRouteQueriesCuda(const float* queries, size_t n_tokens, int dim, float scale, void* packed,
                         size_t n_packed, int padded_dim, cudaStream_t stream);

// Appends {segment, chunk} of every allowed document's chunks whose score is at least `threshold`
// to rows[*count ...], in no particular order. *count grows past `capacity` when there are more;
// only the first `capacity` are stored. Arguments as in RouteParams; all device memory.
int CollectRowsCuda(const float* chunk_scores, const uint32_t* document_begin, size_t n_documents,
                    const uint32_t* allowed, float threshold, uint32_t segment, RouteRow* rows,
                    uint32_t capacity, uint32_t* count, cudaStream_t stream);

// results[i] = rows[i] with its exact score, for i < min(*count, capacity); *result_count = *count.
// keys[s] is the [rows, padded_dim] float16 matrix of segment s. results and result_count may be
// mapped host memory, everything else is device memory. padded_dim <= 1024.
int RescoreRowsCuda(const RouteRow* rows, const uint32_t* count, uint32_t capacity,
                    const void* const* keys, const float* queries, size_t n_tokens, int dim,
                    int padded_dim, RouteRow* results, uint32_t* result_count, cudaStream_t stream);

}  // namespace msadb::kernels

#endif  // MSADB_KERNELS_ROUTE_TOPK_EXACT_H_
