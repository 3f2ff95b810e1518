// Grouped-query attention over float32 keys and values:
//
//   out[i, h, :] = sum over visible j of softmax_j(scale * q[i, h] . k[j, g(h)]) * v[j, g(h), :]
//   g(h) = h / (heads / kv_heads)
//
// What a query sees is said by segments. Query i (from 0) of a segment sees the segment's keys
// 0 .. visible_before + i: all of a leading context, and the local tokens up to itself.
//   packed documents   one segment each, visible_before = 0: causal within the document
//   question prefill   one segment over [prefix; memory; local], visible_before = prefix + memory
//   decoding           the same with one query: AttentionDecode
#ifndef MSADB_KERNELS_ATTENTION_H_
#define MSADB_KERNELS_ATTENTION_H_

#include <cstddef>
#include <span>

#include "kernels/aligned_buffer.h"

namespace msadb::kernels {

struct AttentionSegment {
  size_t query_begin = 0;  // row of q and out
  size_t query_count = 0;
  size_t key_begin = 0;       // row of k and v; visible_before + query_count rows from there
  size_t visible_before = 0;  // leading keys that every query of the segment sees
};

struct AttentionParams {
  const float* q = nullptr;  // [queries, heads, head_dim]
  size_t q_stride = 0;       // floats between queries
  const float* k = nullptr;  // [keys, kv_heads, head_dim]
  const float* v = nullptr;  // [keys, kv_heads, head_dim]
  size_t kv_stride = 0;      // floats between keys, for k and v
  float* out = nullptr;      // [queries, heads, head_dim]; no overlap with q, k, v
  size_t out_stride = 0;     // floats between queries
  const AttentionSegment* segments = nullptr;  // query ranges do not overlap
  size_t segment_count = 0;
  size_t heads = 0;  // a multiple of kv_heads
  size_t kv_heads = 0;
  size_t head_dim = 0;
  float scale = 0;  // head_dim^-1/2
};

// Plain loops. Throws std::bad_alloc.
void AttentionRef(const AttentionParams& p);

// Scratch memory, reused between calls; one call at a time.
struct AttentionWorkspace {
  AlignedBuffer packed_keys;
  AlignedBuffer scratch;
};

// Any number of queries, on up to `threads` threads. Blocked softmax: the score matrix never exists
// whole. Throws std::bad_alloc.
void AttentionPrefill(const AttentionParams& p, int threads, AttentionWorkspace* workspace);

// The same for segments of one query each, of several calls at once (heads, kv_heads and head_dim
// are those of the first): reads every key and value once, without packing them. A query's result
// depends on nothing but its own keys. Throws std::bad_alloc.
void AttentionDecode(std::span<const AttentionParams> calls, int threads,
                     AttentionWorkspace* workspace);

}  // namespace msadb::kernels

#endif  // MSADB_KERNELS_ATTENTION_H_
