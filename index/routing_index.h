// Which documents does a question attend to? One RoutingIndex per collection answers that for every
// routing layer: an exact flat inner-product search over the routing keys of all documents (MSA
// paper section 3.3; spec section 3, "the inner-product form").
//
//   score(question, document) =
//       max over the question's tokens t, max over the document's chunks c, dot(queries[t], key[c])
//
// The index is derived data: storage is the truth, and db/ rebuilds the index from it at open.
//
// Vocabulary
//   n_layers   routing layers, ordinals 0 <= r < n_layers
//   dim        n_kv_heads * head_dim floats of one chunk's routing key in one layer
//   document   what has a number: one encoded text of 1 or more chunks. Numbers are never reused.
//
// How it works (docs/architecture.md): keys live in segments, append-only runs of rows that never
// move in memory. A Version is an immutable list of (segment, visible documents, tombstones).
// Writers fill rows that no version shows yet and then publish a new version in one step. A
// Snapshot is a version that somebody holds; it keeps its segments alive, also after they were
// compacted away.
//
// Threads: every method of RoutingIndex and Snapshot may be called from any thread at any time.
// Readers and writers never wait for each other; writers wait for each other.
// Errors: Status and Result; no exception leaves this room. A failed call has changed nothing.
#ifndef MSADB_INDEX_ROUTING_INDEX_H_
#define MSADB_INDEX_ROUTING_INDEX_H_

#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <span>
#include <vector>

#include "msadb/status.h"

namespace msadb::index {

using DocumentNumber = uint64_t;

// How a segment is searched. Both give the same documents, order and scores, bit for bit.
enum class Engine : uint8_t {
  kFused,  // one matrix product per tile, reduced over tokens and chunks at once (default: faster)
  kFaiss,  // FAISS top-k' lists per token, k' enlarged until the document top-k is proven exact
};

// What a key is rounded to when Prepare copies it.
enum class KeyType : uint8_t {
  kFloat,  // host memory: not at all; GPUs: float16, to nearest
  kInt8,   // 8-bit integers with one scale for each row of dim values; see RoundKeysToInt8
};

struct IndexConfig {
  int n_layers = 0;  // 1..1024
  size_t dim = 0;    // 1..65536

  Engine engine = Engine::kFused;

  // Everything this header says of keys (Keys, scores, exactness) holds for the rounded ones. So
  // with kInt8 GPU and CPU give the same answers, bit for bit, and with kFloat where all keys are
  // float16 values. kInt8 halves the memory of a GPU; in host memory the rounded values are float32
  // like any others, which saves nothing there and gives the answers of a GPU. On GPUs kFaiss reads
  // kFloat only.
  KeyType key_type = KeyType::kFloat;

  // Rows (chunks) of the first segment. Later segments are as large as all before them together, up
  // to `segment_rows_max`, so that reserved address space stays within about twice what is used;
  // reserved pages that were never written cost no memory.
  size_t segment_rows_min = 256;
  size_t segment_rows_max = 65'536;

  // CompactIfNeeded() rewrites a segment once this fraction of its rows is dead.
  double compact_dead_fraction = 0.5;

  // The GPUs whose memory holds the keys, as CUDA counts them; empty: host memory. Segments are
  // spread over all of them, every search runs on all of them at once. A GPU may be named more than
  // once. dim is at most 1024 then.
  std::vector<int> devices;

  // Prepare() answers ResourceExhausted rather than let bytes_used() pass this.
  size_t bytes_max = std::numeric_limits<size_t>::max();
};

// The routing keys of one document, as the encoder made them. Owned by the caller; copied by
// Prepare.
struct DocumentKeys {
  DocumentNumber number = 0;
  uint32_t n_chunks = 0;        // at least 1
  const float* keys = nullptr;  // [n_layers, n_chunks, dim], finite
};

struct RoutedDocument {
  DocumentNumber number = 0;
  float score = 0;
  friend bool operator==(const RoutedDocument&, const RoutedDocument&) = default;
};

struct IndexStats {
  uint64_t documents = 0;       // live
  uint64_t chunks = 0;          // live, per layer
  uint64_t dead_documents = 0;  // tombstones not compacted yet
  uint64_t dead_chunks = 0;
  size_t segments = 0;
  size_t bytes_used = 0;      // rows written, dead ones included, plus the document tables
  size_t bytes_reserved = 0;  // address space of all segments, also of those only a Snapshot holds
};

namespace internal {
struct Version;
struct SelectionBits;
class Core;
struct Pending;
}  // namespace internal

// A set of allowed documents, resolved against one Snapshot once and used for all its layers.
// Copying is cheap; immutable.
class Selection {
 public:
  size_t document_count() const;

 private:
  friend class Snapshot;
  std::shared_ptr<const internal::SelectionBits> bits_;
};

// One frozen state of the index. Copying is cheap. Outlives the index if need be. Holding one keeps
// the keys of documents deleted meanwhile in memory. A default-made Snapshot is empty: it has no
// documents, and Search gives an empty list.
class Snapshot {
 public:
  Snapshot() = default;

  uint64_t document_count() const;
  uint64_t chunk_count() const;  // per layer
  bool Contains(DocumentNumber number) const;
  // All live numbers, ascending.
  Result<std::vector<DocumentNumber>> Numbers() const;
  // The keys of one document, [n_layers, n_chunks, dim], bit for bit as inserted, but for the
  // rounding of IndexConfig::key_type. NotFound.
  Result<std::vector<float>> Keys(DocumentNumber number) const;

  // The documents of this snapshot whose number is in `allowed` (any order; unknown numbers and
  // repetitions are ignored).
  Result<Selection> Select(std::span<const DocumentNumber> allowed) const;

  // The exact `k` best documents of layer `layer` for queries [n_tokens, dim], score descending,
  // equal scores by ascending number; fewer when there are fewer. n_tokens == 0 or k == 0 gives an
  // empty list. With `selection` (made by Select of this snapshot or a copy of it) only its
  // documents count.
  //
  // Exact: a score is the float32 nearest to the inner product summed in float64, whatever the
  // engine, the segments, the number of threads or the other documents. So the answer depends on
  // nothing but the queries and the set of documents.
  // InvalidArgument: no such layer, queries not finite, a selection of another snapshot.
  // ResourceExhausted: no memory for the working buffers. Unavailable: a GPU stopped working.
  Result<std::vector<RoutedDocument>> Search(int layer, const float* queries, size_t n_tokens,
                                             size_t k, const Selection* selection = nullptr) const;

 private:
  friend class RoutingIndex;
  explicit Snapshot(std::shared_ptr<const internal::Version> version);
  std::shared_ptr<const internal::Version> version_;
};

// Inserts and deletes that have their room but are not visible yet. Publish() shows all of them at
// once; destroying it without Publish drops them. While it lives, other writers of this index wait:
// keep it only across the storage commit. Must not outlive the RoutingIndex. Not thread-safe
// itself, but may move to another thread.
class Change {
 public:
  Change(Change&&) noexcept;
  Change& operator=(Change&&) noexcept;
  ~Change();

  // Makes the change visible to every Snapshot taken from now on. Cannot fail. Call once.
  void Publish() noexcept;

 private:
  friend class RoutingIndex;
  explicit Change(std::unique_ptr<internal::Pending> pending);
  std::unique_ptr<internal::Pending> pending_;
};

// Rounds rows [n_rows, dim], finite, as an index of KeyType::kInt8 does: to scale * v for integers
// v of -127 to 127, where scale is the largest |value| of the row / 127, rounded to 16 significant
// bits; a row that is 0 everywhere, or smaller than 1.5e-36, to zeros. Rounding twice is rounding
// once. Throws std::bad_alloc.
void RoundKeysToInt8(float* rows, size_t n_rows, size_t dim);

// Memory that the rows of one chunk take in all layers of such an index.
size_t RowBytes(const IndexConfig& config);

class RoutingIndex {
 public:
  // InvalidArgument names the setting that is out of range. Unsupported: a GPU that is not there,
  // that this build has no code for, or an engine that this build lacks on GPUs.
  static Result<std::unique_ptr<RoutingIndex>> Create(const IndexConfig& config);
  ~RoutingIndex();
  RoutingIndex(const RoutingIndex&) = delete;
  RoutingIndex& operator=(const RoutingIndex&) = delete;

  // Takes all memory that `inserts` and `deletes` need and copies the keys; nothing is visible yet.
  // The order of use is: Prepare, storage commit, Publish.
  //   InvalidArgument    a number inserted twice or both inserted and deleted, n_chunks == 0, keys
  //   null
  //                      or not finite
  //   AlreadyExists      an inserted number is in the index
  //   NotFound           a deleted number is not in the index
  //   ResourceExhausted  bytes_max, the memory of the machine or that of the GPUs
  //   Unavailable        a GPU stopped working
  Result<Change> Prepare(std::span<const DocumentKeys> inserts,
                         std::span<const DocumentNumber> deletes);

  // The state after the last Publish.
  Snapshot TakeSnapshot() const;

  // Rewrites every segment that holds a deleted document and merges small ones. Afterwards no key
  // of a document deleted before the call is in memory, except through Snapshots still held.
  // Writers go on meanwhile. ResourceExhausted: nothing changed, try again with more memory.
  Status Compact();
  // Rewrites only segments that passed compact_dead_fraction. Cheap when there are none: meant to
  // be called after deletes.
  Status CompactIfNeeded();

  IndexStats Stats() const;
  const IndexConfig& config() const;

 private:
  explicit RoutingIndex(std::unique_ptr<internal::Core> core);
  std::unique_ptr<internal::Core> core_;
};

}  // namespace msadb::index

#endif  // MSADB_INDEX_ROUTING_INDEX_H_
