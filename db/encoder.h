// NewDocument -> what storage and index hold of it: divided into parts, numbered, encoded by the
// model and rounded to the stored precision. Takes no lock of db/.
#ifndef MSADB_DB_ENCODER_H_
#define MSADB_DB_ENCODER_H_

#include <cstdint>
#include <span>
#include <vector>

#include "db/engine.h"
#include "storage/record.h"

namespace msadb::db {

// Stored precision. Routing keys are unit vectors per head (cosine), where float16 is exact to
// about 2^-11; content K/V have the range of activations, which bfloat16 keeps.
inline constexpr storage::DataType kRoutingType = storage::DataType::kF16;
inline constexpr storage::DataType kBlocksType = storage::DataType::kBF16;

struct PendingPart {
  storage::PartRecord record;
  std::vector<uint16_t> routing;  // float16  [n_layers][n_chunks][dim]
  std::vector<uint16_t> blocks;   // bfloat16 [n_chunks][n_layers][2][dim]

  storage::Number number() const { return record.first_number + record.part_index; }
};

// An encoded document that is not committed yet.
struct PendingDocument {
  DocumentId id = 0;
  std::vector<PendingPart> parts;

  const storage::PartRecord& first() const { return parts.front().record; }
  size_t bytes() const;  // text, metadata and encoded blocks: what transaction_bytes_max bounds
};

// A document divided for the model, not encoded yet.
struct PlannedDocument {
  const NewDocument* document = nullptr;  // the caller's
  struct Part {
    size_t text_offset = 0;
    size_t text_size = 0;
  };
  std::vector<Part> parts;
  size_t tokens = 0;  // about; enough to size batches by
  size_t bytes = 0;   // about, once encoded; never less than PendingDocument::bytes() by much
};

// Divides `document`, which is valid, at sentence ends into parts that the model accepts.
Result<PlannedDocument> PlanDocument(const Engine& engine, const NewDocument& document);

// Consecutive numbers for all parts; the id of each document, in the order given.
Result<std::vector<DocumentId>> ReserveIds(const Engine& engine, storage::CollectionId collection,
                                           std::span<const PlannedDocument> planned);

// Encodes all documents under the given ids. ResourceExhausted before anything is encoded when they
// would exceed Limits::transaction_bytes_max together.
Result<std::vector<PendingDocument>> EncodeDocuments(const Engine& engine,
                                                     std::span<const PlannedDocument> planned,
                                                     std::span<const DocumentId> ids);

// Shapes of the stored values of a part with `n_chunks` chunks.
storage::TensorShape RoutingShape(const Engine& engine, uint32_t n_chunks);
storage::TensorShape BlocksShape(const Engine& engine, uint32_t n_chunks);

// Adds all parts of a document to a write set of the engine's store.
Status AddToWriteSet(const Engine& engine, storage::CollectionId collection,
                     const PendingDocument& document, storage::WriteSet* set);

// One document from all its parts, in order.
Document AssembleDocument(std::span<const storage::PartRecord* const> parts);

}  // namespace msadb::db

#endif  // MSADB_DB_ENCODER_H_
