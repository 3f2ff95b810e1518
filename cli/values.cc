#include "cli/values.h"

#include <charconv>
#include <cmath>

#include "msadb/transfer.h"

namespace msadb::cli {
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

Result<std::chrono::milliseconds> ParseDuration(std::string_view text) {
  constexpr double kMillisMax = 100.0 * 366 * 24 * 3600 * 1000;
  const auto bad = [&] {
    return Status::InvalidArgument("'" + std::string(text) +
                                   "' is not a duration; write 250ms, 90s, 15m, 12h, 30d or 2w");
  };
  double number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || !std::isfinite(number) || number < 0) return bad();
  const std::string_view unit(end, static_cast<size_t>(text.data() + text.size() - end));
  double millis = 0;
  if (unit == "ms")
    millis = number;
  else if (unit == "s" || unit.empty())
    millis = number * 1e3;
  else if (unit == "m")
    millis = number * 60e3;
  else if (unit == "h")
    millis = number * 3600e3;
  else if (unit == "d")
    millis = number * 86400e3;
  else if (unit == "w")
    millis = number * 7 * 86400e3;
  else
    return bad();
  if (millis > kMillisMax) return bad();
  return std::chrono::milliseconds(static_cast<int64_t>(millis));
}

Result<TimePoint> ParseExpiry(std::string_view text, TimePoint now) {
  if (auto duration = ParseDuration(text); duration.ok()) return now + *duration;
  std::string time(text);
  if (time.size() == std::string_view("2026-12-31").size()) time += "T00:00:00Z";
  auto parsed = ParseTime(time);
  if (!parsed.ok()) {
    return Status::InvalidArgument("'" + std::string(text) +
                                   "' is neither a duration (90s, 15m, 12h, 30d, 2w) nor a time in "
                                   "UTC (2026-12-31 or 2026-12-31T23:59:59Z)");
  }
  return *parsed;
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
          {"source", hit.source}};
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

TimePoint Now() {
  return std::chrono::time_point_cast<std::chrono::microseconds>(std::chrono::system_clock::now());
}

}  // namespace msadb::cli
