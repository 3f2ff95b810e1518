#include "client/codec.h"

#include <chrono>
#include <utility>

namespace msadb::wire {
namespace {

using flatbuffers::Offset;

template <typename Root>
Result<const Root*> VerifyRoot(std::span<const uint8_t> payload) {
  flatbuffers::Verifier verifier(payload.data(), payload.size(), kDepthMax, kTablesMax);
  if (!verifier.VerifyBuffer<Root>(nullptr)) {
    return Status::InvalidArgument("a message is damaged, nested too deep or has too many tables");
  }
  const Root* root = flatbuffers::GetRoot<Root>(payload.data());
  if (root->body() == nullptr) return Status::InvalidArgument("a message has no body");
  return root;
}

int64_t Micros(TimePoint time) { return time.time_since_epoch().count(); }
TimePoint Time(int64_t micros) { return TimePoint(std::chrono::microseconds(micros)); }

flatbuffers::Optional<int64_t> OptionalMicros(const std::optional<TimePoint>& time) {
  return time ? flatbuffers::Optional<int64_t>(Micros(*time)) : flatbuffers::nullopt;
}
std::optional<TimePoint> OptionalTime(flatbuffers::Optional<int64_t> micros) {
  if (!micros) return std::nullopt;
  return Time(*micros);
}

Offset<flatbuffers::Vector<Offset<flatbuffers::String>>> EncodeList(
    Builder* b, const std::vector<std::string>& list) {
  std::vector<Offset<flatbuffers::String>> offsets;
  offsets.reserve(list.size());
  for (const std::string& item : list) offsets.push_back(b->CreateString(item));
  return b->CreateVector(offsets);
}

Offset<fb::Value> EncodeValue(Builder* b, const std::string& name, const MetadataValue& value) {
  const auto name_offset = b->CreateString(name);
  Offset<flatbuffers::String> text;
  Offset<flatbuffers::Vector<Offset<flatbuffers::String>>> list;
  if (const auto* v = std::get_if<std::string>(&value)) text = b->CreateString(*v);
  if (const auto* v = std::get_if<std::vector<std::string>>(&value)) list = EncodeList(b, *v);
  fb::ValueBuilder out(*b);
  out.add_name(name_offset);
  if (!text.IsNull()) out.add_text(text);
  if (!list.IsNull()) out.add_list(list);
  if (const auto* v = std::get_if<int64_t>(&value)) {
    out.add_kind(fb::ValueKind::Integer);
    out.add_integer(*v);
  } else if (const auto* v = std::get_if<double>(&value)) {
    out.add_kind(fb::ValueKind::Real);
    out.add_real(*v);
  } else if (const auto* v = std::get_if<bool>(&value)) {
    out.add_kind(fb::ValueKind::Boolean);
    out.add_boolean(*v);
  } else {
    out.add_kind(list.IsNull() ? fb::ValueKind::Text : fb::ValueKind::TextList);
  }
  return out.Finish();
}

Offset<flatbuffers::Vector<Offset<fb::Value>>> EncodeMetadata(Builder* b,
                                                              const Metadata& metadata) {
  if (metadata.empty()) return 0;
  std::vector<Offset<fb::Value>> values;
  values.reserve(metadata.size());
  for (const auto& [name, value] : metadata) values.push_back(EncodeValue(b, name, value));
  return b->CreateVector(values);
}

size_t ByteCount(const Metadata& metadata) {
  size_t bytes = 0;
  for (const auto& [name, value] : metadata) {
    bytes += name.size() + 40;
    if (const auto* text = std::get_if<std::string>(&value)) bytes += text->size();
    if (const auto* list = std::get_if<std::vector<std::string>>(&value)) {
      for (const std::string& item : *list) bytes += item.size() + 9;
    }
  }
  return bytes;
}

Offset<fb::TraceRound> EncodeRound(Builder* b, const AnswerTrace::Round& round) {
  std::vector<Offset<fb::TraceLayer>> layers;
  for (const AnswerTrace::Layer& layer : round.layers) {
    std::vector<fb::RoutedDocument> documents;
    for (const auto& routed : layer.documents) documents.emplace_back(routed.number, routed.score);
    layers.push_back(fb::CreateTraceLayer(*b, layer.layer, b->CreateVectorOfStructs(documents)));
  }
  const auto generated = b->CreateVector(round.generated);
  const auto appended = b->CreateVector(round.appended);
  return fb::CreateTraceRound(*b, generated, appended, b->CreateVector(layers), round.prefill_ms,
                              round.routing_ms, round.fetch_ms, round.decode_ms);
}

}  // namespace

Result<const fb::Request*> VerifyRequest(std::span<const uint8_t> payload) {
  return VerifyRoot<fb::Request>(payload);
}
Result<const fb::Reply*> VerifyReply(std::span<const uint8_t> payload) {
  return VerifyRoot<fb::Reply>(payload);
}

Offset<flatbuffers::String> EncodeText(Builder* b, std::string_view text) {
  return b->CreateString(text.data(), text.size());
}
Offset<flatbuffers::String> EncodeOptional(Builder* b, const std::optional<std::string>& text) {
  return text ? EncodeText(b, *text) : 0;
}
Offset<flatbuffers::String> EncodeFilter(Builder* b, const std::optional<Filter>& where) {
  return where ? EncodeText(b, where->ToJson()) : 0;
}

Offset<fb::NewDocument> Encode(Builder* b, const NewDocument& document) {
  const auto text = EncodeText(b, document.text);
  const auto key = EncodeOptional(b, document.key);
  const auto metadata = EncodeMetadata(b, document.metadata);
  const auto source = EncodeText(b, document.source);
  return fb::CreateNewDocument(*b, text, key, metadata, source, OptionalMicros(document.expires_at),
                               OptionalMicros(document.created_at));
}

Offset<fb::Document> Encode(Builder* b, const Document& document) {
  std::vector<fb::Part> parts;
  parts.reserve(document.parts.size());
  for (const DocumentPart& part : document.parts) {
    parts.emplace_back(part.number, part.text_offset, part.text_size, part.token_count,
                       part.chunk_count);
  }
  const auto text = EncodeText(b, document.text);
  const auto key = EncodeOptional(b, document.key);
  const auto metadata = EncodeMetadata(b, document.metadata);
  const auto source = EncodeText(b, document.source);
  const auto written_by = EncodeText(b, document.written_by);
  return fb::CreateDocument(*b, document.id, text, key, metadata, source,
                            Micros(document.created_at), OptionalMicros(document.expires_at),
                            b->CreateVectorOfStructs(parts), written_by);
}

Offset<fb::Hit> Encode(Builder* b, const SearchHit& hit) {
  const auto text = EncodeText(b, hit.text);
  const auto key = EncodeOptional(b, hit.key);
  const auto metadata = EncodeMetadata(b, hit.metadata);
  const auto source = EncodeText(b, hit.source);
  const auto written_by = EncodeText(b, hit.written_by);
  return fb::CreateHit(*b, hit.id, hit.part, hit.score, text, hit.text_offset, key, metadata,
                       source, written_by, Micros(hit.created_at));
}

Offset<fb::Answer> Encode(Builder* b, const msadb::Answer& answer) {
  std::vector<Offset<fb::Citation>> citations;
  for (const msadb::Citation& citation : answer.citations) {
    const auto text = EncodeText(b, citation.text);
    const auto key = EncodeOptional(b, citation.key);
    const auto source = EncodeText(b, citation.source);
    const auto written_by = EncodeText(b, citation.written_by);
    citations.push_back(fb::CreateCitation(*b, citation.id, citation.part, citation.text_offset,
                                           text, key, source, citation.in_answer, written_by,
                                           Micros(citation.created_at)));
  }
  std::vector<Offset<fb::TraceRound>> rounds;
  for (const AnswerTrace::Round& round : answer.trace.rounds) {
    rounds.push_back(EncodeRound(b, round));
  }
  const auto text = EncodeText(b, answer.text);
  const auto citation_list = b->CreateVector(citations);
  return fb::CreateAnswer(*b, text, citation_list,
                          static_cast<fb::FinishReason>(answer.finish_reason), answer.prompt_tokens,
                          answer.generated_tokens, b->CreateVector(rounds));
}

Offset<fb::CollectionNumbers> Encode(Builder* b, const msadb::CollectionStats& stats) {
  return fb::CreateCollectionNumbers(*b, EncodeText(b, stats.name), stats.documents, stats.parts,
                                     stats.tokens, stats.chunks, stats.text_bytes,
                                     stats.routing_bytes, stats.content_bytes, stats.index_loaded,
                                     stats.index_bytes);
}

Offset<fb::DatabaseStats> Encode(Builder* b, const msadb::DatabaseStats& stats) {
  return fb::CreateDatabaseStats(*b, EncodeText(b, stats.model_fingerprint), stats.disk_bytes,
                                 stats.block_cache_bytes, stats.block_cache_capacity,
                                 stats.block_cache_hits, stats.block_cache_misses,
                                 stats.index_bytes);
}

Offset<fb::VerifyReport> Encode(Builder* b, const msadb::VerifyReport& report) {
  return fb::CreateVerifyReport(*b, report.documents_checked, report.bytes_checked,
                                EncodeList(b, report.problems), report.truncated);
}

Offset<fb::Error> Encode(Builder* b, const Status& status, uint64_t committed) {
  return fb::CreateError(*b, static_cast<uint8_t>(status.code()), EncodeText(b, status.message()),
                         committed);
}

fb::Limits Encode(const msadb::Limits& limits) {
  return fb::Limits(limits.text_bytes_max, limits.key_bytes_max, limits.source_bytes_max,
                    limits.metadata_entries_max, limits.metadata_bytes_max,
                    limits.question_bytes_max, limits.transaction_operations_max,
                    limits.transaction_bytes_max);
}

std::vector<uint8_t> ErrorReply(const Status& status, uint64_t committed) {
  Builder b(256);
  return FinishReply(&b, Encode(&b, status, committed));
}

size_t TableCount(const Metadata& metadata) { return 1 + metadata.size(); }

size_t ByteCount(const NewDocument& document) {
  return document.text.size() + (document.key ? document.key->size() : 0) + document.source.size() +
         ByteCount(document.metadata) + 64;
}
size_t ByteCount(const Document& document) {
  return document.text.size() + (document.key ? document.key->size() : 0) + document.source.size() +
         document.written_by.size() + ByteCount(document.metadata) + 32 * document.parts.size() +
         112;
}
size_t ByteCount(const SearchHit& hit) {
  return hit.text.size() + (hit.key ? hit.key->size() : 0) + hit.source.size() +
         hit.written_by.size() + ByteCount(hit.metadata) + 120;
}

Status Decoder::Take(size_t bytes) {
  if (bytes > bytes_left_) {
    return Status::InvalidArgument("a message uses the same bytes more than once");
  }
  bytes_left_ -= bytes;
  return Status::Ok();
}

template <typename T>
Status Decoder::ReadNumbers(const flatbuffers::Vector<T>* in, std::vector<T>* out) {
  out->clear();
  if (in == nullptr) return Status::Ok();
  MSADB_RETURN_IF_ERROR(Take(in->size() * sizeof(T)));
  out->assign(in->begin(), in->end());
  return Status::Ok();
}

Status Decoder::Read(const flatbuffers::String* in, std::string* out) {
  out->clear();
  if (in == nullptr) return Status::Ok();
  // Where it is referred to, its length and its end cost more than this in every honest message.
  MSADB_RETURN_IF_ERROR(Take(in->size() + 8));
  out->assign(in->data(), in->size());
  return Status::Ok();
}

Status Decoder::Read(const flatbuffers::String* in, std::optional<std::string>* out) {
  out->reset();
  if (in == nullptr) return Status::Ok();
  return Read(in, &out->emplace());
}

Status Decoder::Read(const flatbuffers::String* in, std::optional<Filter>* out) {
  out->reset();
  if (in == nullptr) return Status::Ok();
  MSADB_ASSIGN_OR_RETURN(*out, Filter::Parse({in->data(), in->size()}));
  return Status::Ok();
}

Status Decoder::Read(const flatbuffers::Vector<Offset<flatbuffers::String>>* in,
                     std::vector<std::string>* out) {
  out->clear();
  if (in == nullptr) return Status::Ok();
  for (const flatbuffers::String* item : *in) {
    MSADB_RETURN_IF_ERROR(Read(item, &out->emplace_back()));
  }
  return Status::Ok();
}

Status Decoder::Read(const flatbuffers::Vector<Offset<fb::Value>>* in, Metadata* out) {
  out->clear();
  if (in == nullptr) return Status::Ok();
  for (const fb::Value* item : *in) {
    std::string name;
    MSADB_RETURN_IF_ERROR(Read(item->name(), &name));
    MetadataValue value;
    switch (item->kind()) {
      case fb::ValueKind::Text:
        MSADB_RETURN_IF_ERROR(Read(item->text(), &value.emplace<std::string>()));
        break;
      case fb::ValueKind::Integer:
        value = item->integer();
        break;
      case fb::ValueKind::Real:
        value = item->real();
        break;
      case fb::ValueKind::Boolean:
        value = item->boolean();
        break;
      case fb::ValueKind::TextList:
        MSADB_RETURN_IF_ERROR(Read(item->list(), &value.emplace<std::vector<std::string>>()));
        break;
      default:
        return Status::InvalidArgument("the metadata value '" + name +
                                       "' is of a kind that this version does not know");
    }
    if (!out->emplace(name, std::move(value)).second) {
      return Status::InvalidArgument("the metadata name '" + name + "' appears twice");
    }
  }
  return Status::Ok();
}

Status Decoder::Read(const fb::NewDocument* in, NewDocument* out) {
  *out = {};
  if (in == nullptr) return Status::InvalidArgument("a message lacks its document");
  MSADB_RETURN_IF_ERROR(Read(in->text(), &out->text));
  MSADB_RETURN_IF_ERROR(Read(in->key(), &out->key));
  MSADB_RETURN_IF_ERROR(Read(in->metadata(), &out->metadata));
  MSADB_RETURN_IF_ERROR(Read(in->source(), &out->source));
  out->expires_at = OptionalTime(in->expires_at());
  out->created_at = OptionalTime(in->created_at());
  return Status::Ok();
}

Status Decoder::Read(const fb::Document* in, Document* out) {
  *out = {};
  out->id = in->id();
  MSADB_RETURN_IF_ERROR(Read(in->text(), &out->text));
  MSADB_RETURN_IF_ERROR(Read(in->key(), &out->key));
  MSADB_RETURN_IF_ERROR(Read(in->metadata(), &out->metadata));
  MSADB_RETURN_IF_ERROR(Read(in->source(), &out->source));
  MSADB_RETURN_IF_ERROR(Read(in->written_by(), &out->written_by));
  out->created_at = Time(in->created_at());
  out->expires_at = OptionalTime(in->expires_at());
  if (in->parts() != nullptr) {
    MSADB_RETURN_IF_ERROR(Take(in->parts()->size() * sizeof(fb::Part)));
    for (const fb::Part* part : *in->parts()) {
      out->parts.push_back({part->number(), part->text_offset(), part->text_size(),
                            part->token_count(), part->chunk_count()});
    }
  }
  return Status::Ok();
}

Status Decoder::Read(const fb::Hit* in, SearchHit* out) {
  *out = {};
  out->id = in->id();
  out->part = in->part();
  out->score = in->score();
  out->text_offset = in->text_offset();
  MSADB_RETURN_IF_ERROR(Read(in->text(), &out->text));
  MSADB_RETURN_IF_ERROR(Read(in->key(), &out->key));
  MSADB_RETURN_IF_ERROR(Read(in->metadata(), &out->metadata));
  MSADB_RETURN_IF_ERROR(Read(in->source(), &out->source));
  out->created_at = Time(in->created_at());
  return Read(in->written_by(), &out->written_by);
}

Status Decoder::Read(const fb::Answer* in, msadb::Answer* out) {
  *out = {};
  MSADB_RETURN_IF_ERROR(Read(in->text(), &out->text));
  out->finish_reason = in->finish_reason() == fb::FinishReason::Length
                           ? msadb::FinishReason::kLength
                           : msadb::FinishReason::kStop;
  out->prompt_tokens = in->prompt_tokens();
  out->generated_tokens = in->generated_tokens();
  if (in->citations() != nullptr) {
    for (const fb::Citation* citation : *in->citations()) {
      msadb::Citation& to = out->citations.emplace_back();
      to.id = citation->id();
      to.part = citation->part();
      to.text_offset = citation->text_offset();
      to.in_answer = citation->in_answer();
      MSADB_RETURN_IF_ERROR(Read(citation->text(), &to.text));
      MSADB_RETURN_IF_ERROR(Read(citation->key(), &to.key));
      MSADB_RETURN_IF_ERROR(Read(citation->source(), &to.source));
      MSADB_RETURN_IF_ERROR(Read(citation->written_by(), &to.written_by));
      to.created_at = Time(citation->created_at());
    }
  }
  if (in->trace() == nullptr) return Status::Ok();
  for (const fb::TraceRound* round : *in->trace()) {
    AnswerTrace::Round& to = out->trace.rounds.emplace_back();
    MSADB_RETURN_IF_ERROR(ReadNumbers(round->generated(), &to.generated));
    MSADB_RETURN_IF_ERROR(ReadNumbers(round->appended(), &to.appended));
    to.prefill_ms = round->prefill_ms();
    to.routing_ms = round->routing_ms();
    to.fetch_ms = round->fetch_ms();
    to.decode_ms = round->decode_ms();
    if (round->layers() == nullptr) continue;
    for (const fb::TraceLayer* layer : *round->layers()) {
      AnswerTrace::Layer& to_layer = to.layers.emplace_back();
      to_layer.layer = layer->layer();
      if (layer->documents() == nullptr) continue;
      MSADB_RETURN_IF_ERROR(Take(layer->documents()->size() * sizeof(fb::RoutedDocument)));
      for (const fb::RoutedDocument* routed : *layer->documents()) {
        to_layer.documents.push_back({routed->number(), routed->score()});
      }
    }
  }
  return Status::Ok();
}

Status Decoder::Read(const fb::CollectionNumbers* in, msadb::CollectionStats* out) {
  *out = {};
  MSADB_RETURN_IF_ERROR(Read(in->name(), &out->name));
  out->documents = in->documents();
  out->parts = in->parts();
  out->tokens = in->tokens();
  out->chunks = in->chunks();
  out->text_bytes = in->text_bytes();
  out->routing_bytes = in->routing_bytes();
  out->content_bytes = in->content_bytes();
  out->index_loaded = in->index_loaded();
  out->index_bytes = in->index_bytes();
  return Status::Ok();
}

Status Decoder::Read(const fb::DatabaseStats* in, msadb::DatabaseStats* out) {
  MSADB_RETURN_IF_ERROR(Read(in->model_fingerprint(), &out->model_fingerprint));
  out->disk_bytes = in->disk_bytes();
  out->block_cache_bytes = in->block_cache_bytes();
  out->block_cache_capacity = in->block_cache_capacity();
  out->block_cache_hits = in->block_cache_hits();
  out->block_cache_misses = in->block_cache_misses();
  out->index_bytes = in->index_bytes();
  return Status::Ok();
}

Status Decoder::Read(const fb::VerifyReport* in, msadb::VerifyReport* out) {
  *out = {};
  out->documents_checked = in->documents_checked();
  out->bytes_checked = in->bytes_checked();
  out->truncated = in->truncated();
  return Read(in->problems(), &out->problems);
}

Status ReadError(const fb::Error& error) {
  const std::string_view message =
      error.message() == nullptr
          ? std::string_view()
          : std::string_view(error.message()->data(), error.message()->size());
  const uint8_t code = error.code();
  if (code == 0 || code > static_cast<uint8_t>(StatusCode::kPermissionDenied)) {
    return Status::Internal("the server sent an error of unknown code " + std::to_string(code) +
                            ": " + std::string(message));
  }
  return Status(static_cast<StatusCode>(code), message);
}

msadb::Limits ReadLimits(const fb::Limits* limits) {
  msadb::Limits out;
  if (limits == nullptr) return out;
  out.text_bytes_max = limits->text_bytes_max();
  out.key_bytes_max = limits->key_bytes_max();
  out.source_bytes_max = limits->source_bytes_max();
  out.metadata_entries_max = limits->metadata_entries_max();
  out.metadata_bytes_max = limits->metadata_bytes_max();
  out.question_bytes_max = limits->question_bytes_max();
  out.transaction_operations_max = limits->transaction_operations_max();
  out.transaction_bytes_max = limits->transaction_bytes_max();
  return out;
}

}  // namespace msadb::wire
