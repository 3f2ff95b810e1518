#include "db/encoder.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

#include "db/splitter.h"
#include "kernels/dtype.h"
#include "values/validate.h"

namespace msadb::db {
namespace {

// The number stands in the encoded text, so its digits cost tokens. Parts are cut for the longest
// number there can be; the small loss does not matter, and a cut never depends on the number.
constexpr storage::Number kLongestNumber = 18'446'744'073'709'551'615ull;

// Tokens around a text: template and number. The text's own tokens may join differently at its
// edges, hence the slack.
Result<size_t> TemplateTokens(const model::Model& model) {
  constexpr size_t kEdgeSlack = 4;
  MSADB_ASSIGN_OR_RETURN(const size_t with, model.CountDocumentTokens({kLongestNumber, "a"}));
  MSADB_ASSIGN_OR_RETURN(const size_t alone, model.CountTokens("a"));
  return with - std::min(with, alone) + kEdgeSlack;
}

// Stored bytes of one chunk: routing keys, K and V in 16 bits each.
size_t ChunkBytes(const model::Model& model) {
  return model.routing_layer_count() * model.kv_dim() * 3 * sizeof(uint16_t);
}

bool AllFinite(std::span<const uint16_t> f16) {
  return std::none_of(f16.begin(), f16.end(),
                      [](uint16_t bits) { return (bits & 0x7C00) == 0x7C00; });
}

// [n_layers][n_chunks][dim] K and V -> [n_chunks][n_layers][2][dim].
std::vector<uint16_t> PackBlocks(const model::EncodedDocument& encoded, size_t n_layers,
                                 size_t dim) {
  std::vector<uint16_t> blocks(n_layers * encoded.n_chunks * 2 * dim);
  uint16_t* out = blocks.data();
  for (size_t chunk = 0; chunk < encoded.n_chunks; ++chunk) {
    for (size_t layer = 0; layer < n_layers; ++layer) {
      const size_t row = (layer * encoded.n_chunks + chunk) * dim;
      kernels::ConvertF32ToBf16(encoded.keys.data() + row, out, dim);
      kernels::ConvertF32ToBf16(encoded.values.data() + row, out + dim, dim);
      out += 2 * dim;
    }
  }
  return blocks;
}

Status Fill(const model::Model& model, const model::EncodedDocument& encoded, PendingPart* part) {
  const size_t n_layers = model.routing_layer_count();
  const size_t dim = model.kv_dim();
  const size_t elements = n_layers * encoded.n_chunks * dim;
  if (encoded.n_chunks == 0 || encoded.routing_keys.size() != elements ||
      encoded.keys.size() != elements || encoded.values.size() != elements) {
    return Status::Internal("the model returned memory of another shape than it announced");
  }
  part->record.token_count = encoded.n_tokens;
  part->record.chunk_count = encoded.n_chunks;
  part->routing.resize(elements);
  kernels::ConvertF32ToF16(encoded.routing_keys.data(), part->routing.data(), elements);
  if (!AllFinite(part->routing)) {
    return Status::Unsupported(
        "a routing key of this model exceeds float16; use the 'cosine' routing metric");
  }
  part->blocks = PackBlocks(encoded, n_layers, dim);
  return Status::Ok();
}

storage::PartRecord MakeRecord(const NewDocument& document, DocumentId id, size_t index,
                               const PlannedDocument& planned, TimePoint now) {
  const PlannedDocument::Part& part = planned.parts[index];
  storage::PartRecord record;
  record.first_number = id;
  record.part_index = static_cast<uint32_t>(index);
  record.part_count = static_cast<uint32_t>(planned.parts.size());
  record.text_offset = part.text_offset;
  record.text = document.text.substr(part.text_offset, part.text_size);
  record.text_bytes = part.text_size;
  record.created_us = ToMicroseconds(document.created_at.value_or(now));
  if (index == 0) {
    record.key = document.key;
    record.metadata = document.metadata;
    record.source = document.source;
    record.written_by = document.written_by;
    if (document.expires_at) record.expires_us = ToMicroseconds(*document.expires_at);
  }
  return record;
}

}  // namespace

size_t PendingDocument::bytes() const {
  size_t bytes = values::MetadataBytes(first().metadata) + first().source.size() +
                 first().written_by.size() + (first().key ? first().key->size() : 0);
  for (const PendingPart& part : parts) {
    bytes += part.record.text.size() + (part.routing.size() + part.blocks.size()) * 2;
  }
  return bytes;
}

storage::TensorShape RoutingShape(const Engine& engine, uint32_t n_chunks) {
  const model::Model& model = engine.model();
  return {kRoutingType, static_cast<uint32_t>(model.routing_layer_count()), n_chunks,
          static_cast<uint32_t>(model.kv_dim())};
}

storage::TensorShape BlocksShape(const Engine& engine, uint32_t n_chunks) {
  storage::TensorShape shape = RoutingShape(engine, n_chunks);
  shape.dtype = kBlocksType;
  return shape;
}

Result<PlannedDocument> PlanDocument(const Engine& engine, const NewDocument& document) {
  const model::Model& model = engine.model();
  MSADB_ASSIGN_OR_RETURN(const size_t around, TemplateTokens(model));
  MSADB_ASSIGN_OR_RETURN(const size_t tokens, model.CountTokens(document.text));
  const size_t tokens_max = model.document_tokens_max();
  if (tokens_max <= around) {
    return Status::Unsupported("the model's document_tokens_max leaves no room for text");
  }
  PlannedDocument planned;
  planned.document = &document;
  if (tokens + around <= tokens_max) {
    planned.parts.push_back({0, document.text.size()});
  } else {
    MSADB_ASSIGN_OR_RETURN(
        const auto parts, SplitText(document.text, tokens_max - around, [&](std::string_view text) {
          return model.CountTokens(text);
        }));
    for (const TextPart& part : parts) planned.parts.push_back({part.offset, part.size});
  }
  planned.tokens = tokens + planned.parts.size() * around;
  const size_t chunks = planned.tokens / model.chunk_tokens() + planned.parts.size();
  planned.bytes =
      document.text.size() + values::MetadataBytes(document.metadata) + chunks * ChunkBytes(model);
  return planned;
}

Result<std::vector<DocumentId>> ReserveIds(const Engine& engine, storage::CollectionId collection,
                                           std::span<const PlannedDocument> planned) {
  size_t parts = 0;
  for (const PlannedDocument& document : planned) parts += document.parts.size();
  std::vector<DocumentId> ids;
  if (parts == 0) return ids;
  MSADB_ASSIGN_OR_RETURN(storage::Number next, engine.store->ReserveNumbers(collection, parts));
  ids.reserve(planned.size());
  for (const PlannedDocument& document : planned) {
    ids.push_back(next);
    next += document.parts.size();
  }
  return ids;
}

Result<std::vector<PendingDocument>> EncodeDocuments(const Engine& engine,
                                                     std::span<const PlannedDocument> planned,
                                                     std::span<const DocumentId> ids) {
  size_t bytes = 0;
  for (const PlannedDocument& document : planned) bytes += document.bytes;
  if (bytes > engine.options.limits.transaction_bytes_max) {
    return Status::ResourceExhausted("encoding would take about " + std::to_string(bytes) +
                                     " bytes, more than Limits::transaction_bytes_max = " +
                                     std::to_string(engine.options.limits.transaction_bytes_max) +
                                     "; divide the document or the batch, or raise the limit");
  }
  const TimePoint now = Now();
  std::vector<PendingDocument> documents(planned.size());
  std::vector<PendingPart*> pending;
  for (size_t d = 0; d < planned.size(); ++d) {
    PendingDocument& document = documents[d];
    document.id = ids[d];
    document.parts.resize(planned[d].parts.size());
    for (size_t i = 0; i < document.parts.size(); ++i) {
      document.parts[i].record = MakeRecord(*planned[d].document, document.id, i, planned[d], now);
      pending.push_back(&document.parts[i]);
    }
  }

  // Encoded memory is float32 and three times the stored size: convert it a slice at a time.
  const size_t slice_tokens = std::max<size_t>(engine.options.encode_batch_tokens, 1);
  std::vector<model::DocumentInput> inputs;
  for (size_t begin = 0; begin < pending.size();) {
    inputs.clear();
    size_t end = begin, tokens = 0;
    while (end < pending.size() && (end == begin || tokens < slice_tokens)) {
      const std::string& text = pending[end]->record.text;
      inputs.push_back({pending[end]->number(), text});
      tokens += text.size() / 3 + 8;
      ++end;
    }
    MSADB_ASSIGN_OR_RETURN(const auto encoded, engine.model().EncodeDocuments(inputs));
    if (encoded.size() != inputs.size()) {
      return Status::Internal("the model returned another number of documents than it was given");
    }
    for (size_t i = 0; i < encoded.size(); ++i) {
      MSADB_RETURN_IF_ERROR(Fill(engine.model(), encoded[i], pending[begin + i]));
    }
    begin = end;
  }
  return documents;
}

Status AddToWriteSet(const Engine& engine, storage::CollectionId collection,
                     const PendingDocument& document, storage::WriteSet* set) {
  for (const PendingPart& part : document.parts) {
    const uint32_t n_chunks = part.record.chunk_count;
    const storage::TensorView routing{RoutingShape(engine, n_chunks),
                                      std::as_bytes(std::span(part.routing))};
    const storage::TensorView blocks{BlocksShape(engine, n_chunks),
                                     std::as_bytes(std::span(part.blocks))};
    MSADB_RETURN_IF_ERROR(set->PutPart(collection, part.number(), part.record, routing, blocks));
  }
  return Status::Ok();
}

Document AssembleDocument(std::span<const storage::PartRecord* const> parts) {
  const storage::PartRecord& first = *parts.front();
  Document document;
  document.id = first.first_number;
  document.key = first.key;
  document.metadata = first.metadata;
  document.source = first.source;
  document.written_by = first.written_by;
  document.created_at = FromMicroseconds(first.created_us);
  if (first.expires_us) document.expires_at = FromMicroseconds(*first.expires_us);
  document.parts.reserve(parts.size());
  for (const storage::PartRecord* part : parts) {
    document.text += part->text;
    document.parts.push_back({first.first_number + part->part_index, part->text_offset,
                              part->text_bytes, part->token_count, part->chunk_count});
  }
  return document;
}

}  // namespace msadb::db
