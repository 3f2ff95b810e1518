#include "server/json_forms.h"

#include "msadb/transfer.h"

namespace msadb {
namespace {

Json OptionalString(const std::optional<std::string>& value) {
  return value ? Json(*value) : Json(nullptr);
}

Json TraceToJson(const AnswerTrace& trace) {
  Json rounds = Json::array();
  for (const auto& round : trace.rounds) {
    Json layers = Json::array();
    for (const auto& layer : round.layers) {
      Json documents = Json::array();
      for (const auto& routed : layer.documents) {
        documents.push_back({{"number", routed.number}, {"score", routed.score}});
      }
      layers.push_back({{"layer", layer.layer}, {"documents", std::move(documents)}});
    }
    rounds.push_back({{"generated", round.generated},
                      {"appended", round.appended},
                      {"layers", std::move(layers)},
                      {"prefill_ms", round.prefill_ms},
                      {"routing_ms", round.routing_ms},
                      {"fetch_ms", round.fetch_ms},
                      {"decode_ms", round.decode_ms}});
  }
  return rounds;
}

}  // namespace

Json ToJson(const Metadata& metadata) {
  Json object = Json::object();
  for (const auto& [name, value] : metadata) {
    std::visit([&, &name = name](const auto& held) { object[name] = held; }, value);
  }
  return object;
}

Json ToJson(const Document& document, bool with_text) {
  Json parts = Json::array();
  for (const auto& part : document.parts) {
    parts.push_back({{"number", part.number},
                     {"text_offset", part.text_offset},
                     {"text_size", part.text_size},
                     {"tokens", part.token_count},
                     {"chunks", part.chunk_count}});
  }
  Json object = {{"id", document.id}, {"key", OptionalString(document.key)}};
  if (with_text) object["text"] = document.text;
  object["metadata"] = ToJson(document.metadata);
  object["source"] = document.source;
  object["written_by"] = document.written_by;
  object["created_at"] = FormatTime(document.created_at);
  object["expires_at"] =
      document.expires_at ? Json(FormatTime(*document.expires_at)) : Json(nullptr);
  object["parts"] = std::move(parts);
  return object;
}

Json ToJson(const SearchHit& hit) {
  return {{"id", hit.id},
          {"part", hit.part},
          {"score", hit.score},
          {"key", OptionalString(hit.key)},
          {"text", hit.text},
          {"text_offset", hit.text_offset},
          {"metadata", ToJson(hit.metadata)},
          {"source", hit.source},
          {"written_by", hit.written_by},
          {"created_at", FormatTime(hit.created_at)}};
}

Json ToJson(const Answer& answer, bool with_trace) {
  Json citations = Json::array();
  for (const auto& citation : answer.citations) {
    citations.push_back({{"id", citation.id},
                         {"part", citation.part},
                         {"key", OptionalString(citation.key)},
                         {"text", citation.text},
                         {"text_offset", citation.text_offset},
                         {"source", citation.source},
                         {"written_by", citation.written_by},
                         {"created_at", FormatTime(citation.created_at)},
                         {"in_answer", citation.in_answer}});
  }
  Json object = {{"answer", answer.text},
                 {"citations", std::move(citations)},
                 {"finish_reason", answer.finish_reason == FinishReason::kStop ? "stop" : "length"},
                 {"prompt_tokens", answer.prompt_tokens},
                 {"generated_tokens", answer.generated_tokens}};
  if (with_trace) object["trace"] = TraceToJson(answer.trace);
  return object;
}

Json ToJson(const CollectionStats& stats) {
  return {{"name", stats.name},
          {"documents", stats.documents},
          {"parts", stats.parts},
          {"tokens", stats.tokens},
          {"chunks", stats.chunks},
          {"text_bytes", stats.text_bytes},
          {"routing_bytes", stats.routing_bytes},
          {"content_bytes", stats.content_bytes},
          {"index_loaded", stats.index_loaded},
          {"index_bytes", stats.index_bytes}};
}

Json ToJson(const DatabaseStats& stats) {
  Json collections = Json::array();
  for (const auto& collection : stats.collections) collections.push_back(ToJson(collection));
  return {{"model_fingerprint", stats.model_fingerprint},
          {"disk_bytes", stats.disk_bytes},
          {"block_cache_bytes", stats.block_cache_bytes},
          {"block_cache_capacity", stats.block_cache_capacity},
          {"block_cache_hits", stats.block_cache_hits},
          {"block_cache_misses", stats.block_cache_misses},
          {"index_bytes", stats.index_bytes},
          {"collections", std::move(collections)}};
}

Json ErrorToJson(const Status& status) {
  return {{"error",
           {{"code", StatusCodeName(status.code())}, {"message", std::string(status.message())}}}};
}

std::string Dump(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace msadb
