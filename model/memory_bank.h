// The centre of msadb: what the model asks of memory, and nothing else.
//
// The model declares this interface and runs against it; db/ implements it over a snapshot of
// index/ (routing keys) and storage/ (content blocks); tests implement it over std::vectors. The
// model never sees a collection, a file or an index; memory never sees a token.
//
// Vocabulary (docs/architecture.md, MSA paper sections 2-3):
//   routing layer r     ordinal 0 <= r < n_routing_layers, ascending in model layer number
//   n_kv_heads (G), head_dim (D), kv_dim = G * D
//   chunk               up to `pooling_kernel_size` consecutive tokens of one document, mean-pooled
//   document number     the number n that was encoded into the text as "[n]. "; never reused
#ifndef MSADB_MODEL_MEMORY_BANK_H_
#define MSADB_MODEL_MEMORY_BANK_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "msadb/status.h"

namespace msadb::model {

using DocumentNumber = uint64_t;

// The memory of one document as the encoder produces it (paper section 2, stage 1). All values are
// finite float32, row-major.
struct EncodedDocument {
  uint32_t n_tokens = 0;  // tokens of the encoded text, template and number included
  uint32_t n_chunks = 0;  // ceil(n_tokens / pooling_kernel_size)
  // Routing keys, already in the metric's form: L2-normalised per head for `cosine`, raw for
  // `scaled_dot`.
  std::vector<float> routing_keys;  // [n_routing_layers, n_chunks, kv_dim]
  std::vector<float> keys;          // [n_routing_layers, n_chunks, kv_dim], pooled after RoPE
  std::vector<float> values;        // [n_routing_layers, n_chunks, kv_dim]
};

struct RoutedDocument {
  DocumentNumber number = 0;
  float score = 0;  // max over query tokens and the document's chunks (paper eq. for S_ij)
};

// Folded queries of one question in one routing layer. The fold (spec "inner-product form") makes
// score(t, c) = dot(queries[t], routing_key[c]) exactly, whatever the metric.
struct RouteQuery {
  const float* queries = nullptr;  // [n_tokens, kv_dim], host memory, owned by the caller
  size_t n_tokens = 0;
  size_t kv_dim = 0;
  size_t top_k = 0;  // documents wanted
};

// Where Fetch leaves one layer's content: as float32 copies, or in place as the addresses of
// bfloat16 rows, which saves the copies and lets a GPU read page-locked rows itself. Buffers are
// reused between calls: Fetch resizes them.
struct ContentBlocks {
  std::vector<float> keys;    // [n_rows, kv_dim]; rows in the order Fetch documents
  std::vector<float> values;  // [n_rows, kv_dim]
  // Or, instead: [n_rows] addresses of [kv_dim] bfloat16, valid while `keep` lives.
  std::vector<const uint16_t*> key_rows;
  std::vector<const uint16_t*> value_rows;
  std::shared_ptr<const void> keep;
  size_t n_rows = 0;

  void Clear() {
    n_rows = 0;
    key_rows.clear();
    value_rows.clear();
    keep.reset();
  }
};

// One consistent view of a memory. All calls of one question see the same documents, also when
// others delete or insert meanwhile. Implementations are safe for concurrent calls.
class MemoryBank {
 public:
  virtual ~MemoryBank() = default;

  virtual size_t document_count() const = 0;

  // The exact top_k documents of routing layer `r`, best first; equal scores by ascending number.
  // Fewer than top_k when the bank holds fewer. An empty bank gives an empty list.
  virtual Result<std::vector<RoutedDocument>> Route(int r, const RouteQuery& query) = 0;

  // Content K and V of routing layer `r` for `documents`, which must be ascending and unique: rows
  // are concatenated in that order, each document's chunks in text order. NotFound when a document
  // is not in this view.
  virtual Status Fetch(int r, std::span<const DocumentNumber> documents, ContentBlocks* out) = 0;

  // Tells that `documents` will probably be fetched for later layers of the same question. A hint:
  // it may do nothing, never fails and never blocks.
  virtual void Prefetch(std::span<const DocumentNumber> documents) {}

  // The stored text of a document (Memory Interleave appends it), or NotFound.
  virtual Result<std::string> Text(DocumentNumber number) = 0;
};

}  // namespace msadb::model

#endif  // MSADB_MODEL_MEMORY_BANK_H_
