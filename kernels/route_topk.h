// Fused document routing on a GPU: which k documents score best for a question, in one pass over
// the routing keys (MSA paper section 3.3, spec section 3 "the inner-product form").
//
//   score(question, document) = max over the question's tokens t, max over the document's chunks c
//   of
//                               dot(queries[t], keys[c])
//
// The [tokens, chunks] score matrix never exists: products stay in registers, are reduced over
// tokens there, and only one float per (question, chunk) leaves the chip.
//
// Keys lie in segments, as an index keeps them; one search takes all segments of a GPU at once.
//
// Results are bit-stable: the same inputs give the same scores and order on every run. Equal scores
// order by ascending document ordinal.
#ifndef MSADB_KERNELS_ROUTE_TOPK_H_
#define MSADB_KERNELS_ROUTE_TOPK_H_

#include <cstddef>
#include <cstdint>

typedef struct CUstream_st* cudaStream_t;

namespace msadb::kernels {

// Query columns that one pass over the keys serves. More tokens cost more passes.
inline constexpr int kRouteColumns = 64;
// Questions of one call: each takes at least one group of 8 columns.
inline constexpr int kRouteQuestionsMax = kRouteColumns / 8;
inline constexpr int kRouteTopKMax = 64;

// Of one launch over the keys; more segments cost more launches.
inline constexpr size_t kRouteSegmentsMax = 64;

enum class RouteKeyType : uint8_t {
  kFloat16,
  kInt8,  // with a scale a row: a key's values are float32 products of the scale and the int8
          // values
};

// Keys of some documents. Chunks and documents count from 0 in each segment.
struct RouteSegment {
  const void* keys = nullptr;                // device, [n_chunks, dim] of the type, 16-byte aligned
  const float* scales = nullptr;             // kInt8: device, [n_chunks], positive
  size_t n_chunks = 0;                       // at least 1, < 2^31 - 128
  const uint32_t* document_begin = nullptr;  // device, [n_documents + 1], chunk offsets, ascending
  size_t n_documents = 0;                    // at least 1
  const uint32_t* allowed = nullptr;  // device, bit d of word d/32 set: document may be returned;
                                      // null: all
  size_t first_score = 0;             // of chunk 0 in chunk_scores
  size_t first_document = 0;          // documents in the segments before: the ordinal of document 0
};

struct RoutedOrdinal {
  float score;
  uint32_t document;  // ordinal over all segments; UINT32_MAX past the last result
};

// Column layout of up to kRouteQuestionsMax questions in one pass. Every question is padded to a
// multiple of 8 columns by repeating its last token, which changes no maximum.
struct RouteColumns {
  int n_questions = 0;
  int block_question[kRouteColumns / 8];  // question of each group of 8 columns; -1: unused
};

struct RouteParams {
  RouteKeyType key_type = RouteKeyType::kFloat16;
  const RouteSegment* segments = nullptr;         // host, [n_segments]
  const RouteSegment* device_segments = nullptr;  // the same in device memory
  size_t n_segments = 0;          // at least 1; fewer than 2^32 - 1 documents in all
  int dim = 0;                    // of a key's row: a multiple of 8 (kInt8: 16), at most 1024
  const void* queries = nullptr;  // device, [kRouteColumns, RoutePackedDim()] float16, in
                                  // RouteColumns' layout, values at RoutePackedColumn()
  RouteColumns columns;
  int top_k = 0;  // 1..kRouteTopKMax
  bool more_columns =
      false;  // keep chunk_scores as they are: a later pass takes the maximum into them
  bool accumulate = false;           // take the maximum with chunk_scores of earlier passes
  float* chunk_scores = nullptr;     // device workspace, [n_questions, n_scores]
  size_t n_scores = 0;               // at least the end of every segment's scores
  void* candidates = nullptr;        // device workspace of RouteCandidateBytes()
  uint32_t* counters = nullptr;      // device workspace, [kRouteCounters], zero before and after
  RoutedOrdinal* results = nullptr;  // device or mapped host, [n_questions, top_k], best first
};

inline constexpr size_t kRouteCounters = 2;

// Values of a row of queries beside keys of `dim` values, and the place of dimension i among them.
// For int8 keys, which a thread reads 16 at a time and multiplies 4 at a time, dimensions are
// permuted within groups of 128; places without a dimension hold 0.
constexpr int RoutePackedDim(RouteKeyType type, int dim) {
  return type == RouteKeyType::kInt8 ? (dim + 127) / 128 * 128 : dim;
}
constexpr int RoutePackedColumn(RouteKeyType type, int i) {
  if (type != RouteKeyType::kInt8) return i;
  // The bits of i % 128: 2 for the thread of a quad, 1 for the half of the group, 2 for the step of
  // 16 columns, 1 for the half of a step, 1 for the place in a pair.
  const int thread = i >> 5 & 3, half = i >> 4 & 1, step = i >> 2 & 3, part = i >> 1 & 1;
  return i / 128 * 128 + half * 64 + step * 16 + part * 8 + thread * 2 + i % 2;
}

size_t RouteCandidateBytes(int n_questions, int top_k);

// Whether this build has code for the current device: 0, or a cudaError_t.
int RouteTopKSupported();

// Enqueues the search on `stream`; allocates nothing and does not synchronise. Returns a
// cudaError_t as int (0 on success); invalid parameters give cudaErrorInvalidValue.
int RouteTopKCuda(const RouteParams& params, cudaStream_t stream);

// The same in plain loops on the host, float32 accumulation, all pointers host memory (of the
// workspaces only chunk_scores is used); keys and queries are float16 bits. The specification of
// the kernel.
void RouteTopKReference(const RouteParams& params);

}  // namespace msadb::kernels

#endif  // MSADB_KERNELS_ROUTE_TOPK_H_
