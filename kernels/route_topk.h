// Fused document routing on a GPU: which k documents score best for a question, in one pass over the
// routing keys (MSA paper section 3.3, spec section 3 "the inner-product form").
//
//   score(question, document) = max over the question's tokens t, max over the document's chunks c of
//                               dot(queries[t], keys[c])
//
// The [tokens, chunks] score matrix never exists: products stay in registers, are reduced over
// tokens there, and only one float per (question, chunk) leaves the chip.
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

struct RoutedOrdinal {
  float score;
  uint32_t document;  // ordinal, 0 <= document < n_documents; UINT32_MAX past the last result
};

// Column layout of up to kRouteQuestionsMax questions in one pass. Every question is padded to a
// multiple of 8 columns by repeating its last token, which changes no maximum.
struct RouteColumns {
  int n_questions = 0;
  int block_question[kRouteColumns / 8];  // question of each group of 8 columns; -1: unused
};

struct RouteParams {
  const void* keys = nullptr;              // device, [n_chunks, dim] float16, 16-byte aligned
  size_t n_chunks = 0;                     // < 2^31
  int dim = 0;                             // multiple of 8, 8..1024
  const void* queries = nullptr;           // device, [kRouteColumns, dim] float16, in RouteColumns' layout
  RouteColumns columns;
  const uint32_t* document_begin = nullptr;  // device, [n_documents + 1], chunk offsets, ascending
  size_t n_documents = 0;                    // < 2^32 - 1
  const uint32_t* allowed = nullptr;  // device, bit d of word d/32 set: document may be returned; null: all
  int top_k = 0;                      // 1..kRouteTopKMax
  bool more_columns = false;   // keep chunk_scores as they are: a later pass takes the maximum into them
  bool accumulate = false;     // take the maximum with chunk_scores of earlier passes
  float* chunk_scores = nullptr;      // device workspace, [n_questions, n_chunks]
  void* candidates = nullptr;         // device workspace of RouteCandidateBytes()
  RoutedOrdinal* results = nullptr;   // device or mapped host, [n_questions, top_k], best first
};

size_t RouteCandidateBytes(int n_questions, int top_k);

// Whether this build has code for the current device: 0, or a cudaError_t.
int RouteTopKSupported();

// Enqueues the search on `stream`; allocates nothing and does not synchronise. Returns a
// cudaError_t as int (0 on success); invalid parameters give cudaErrorInvalidValue.
int RouteTopKCuda(const RouteParams& params, cudaStream_t stream);

// The same in plain loops on the host, float32 accumulation, all pointers host memory; keys and
// queries are float16 bits. The specification of the kernel.
void RouteTopKReference(const RouteParams& params);

}  // namespace msadb::kernels

#endif  // MSADB_KERNELS_ROUTE_TOPK_H_
