// search and ask.
#include <chrono>

#include "server/handlers.h"
#include "server/request_json.h"

namespace msadb::server {
namespace {

std::string Event(const char* name, const Json& data) {
  return std::string("event: ") + name + "\ndata: " + Dump(data) + "\n\n";
}

HttpReply EventStream() {
  return {.content_type = "text/event-stream; charset=utf-8",
          .body = {},
          .fields = {{"X-Accel-Buffering", "no"}}};
}

// Answers as Server-Sent Events: "text" for every piece, then "answer" with all of it, or "error".
// Until the first piece an error is an ordinary reply.
HandlerResult AskStreaming(Collection& collection, const std::string& question, AskOptions options,
                           Exchange& exchange) {
  bool begun = false;
  const auto begin = [&] {
    if (!begun) exchange.Begin(EventStream());
    begun = true;
  };
  options.on_text = [&](std::string_view piece) {
    begin();
    return exchange.Write(Event("text", {{"text", std::string(piece)}}));
  };
  const auto answer = collection.Ask(question, options);
  if (!answer.ok()) {
    if (!begun) return answer.status();
    exchange.Write(Event("error", ErrorToJson(answer.status())));
  } else {
    begin();
    exchange.Write(Event("answer", ToJson(*answer, options.trace)));
  }
  exchange.End();
  return std::optional<HttpReply>();
}

}  // namespace

void BoundByCall(const Call& call, AskOptions* options) {
  options->stop = call.stop.get_token();
  if (!options->deadline || *options->deadline > call.deadline) options->deadline = call.deadline;
}

HandlerResult Search(HttpService& service, const CallPtr& call, const ExchangePtr&) {
  MSADB_ASSIGN_OR_RETURN(const auto json, ParseRequestJson(call->body));
  std::string query;
  SearchOptions options;
  uint64_t top_k = options.top_k;
  MSADB_RETURN_IF_ERROR(FieldReader(json)
                            .Required("query", &query)
                            .Number("top_k", &top_k, 1, 1000)
                            .Where("where", &options.where)
                            .Flag("include_text", &options.include_text)
                            .Done());
  options.top_k = top_k;
  MSADB_ASSIGN_OR_RETURN(const auto collection,
                         service.database().OpenCollection(call->path.at("collection")));
  MSADB_ASSIGN_OR_RETURN(const auto hits, collection->Search(query, options));
  Json listed = Json::array();
  for (const SearchHit& hit : hits) listed.push_back(ToJson(hit));
  return std::optional(JsonReply({{"hits", std::move(listed)}}));
}

HandlerResult Ask(HttpService& service, const CallPtr& call, const ExchangePtr& exchange) {
  MSADB_ASSIGN_OR_RETURN(const auto json, ParseRequestJson(call->body));
  std::string question;
  AskOptions options;
  uint64_t deadline_ms = 0;
  bool stream = false;
  MSADB_RETURN_IF_ERROR(
      FieldReader(json)
          .Required("question", &question)
          .Where("where", &options.where)
          .Flag("trace", &options.trace)
          .Flag("stream", &stream)
          .Number("deadline_ms", &deadline_ms, 1, 3'600'000)
          .Number("rounds_max", &options.rounds_max, 1, 64)
          .Number("answer_tokens_max", &options.answer_tokens_max, 1, 1 << 20)
          .Number("retrieved_text_tokens_max", &options.retrieved_text_tokens_max, 0, 1 << 20)
          .Number("temperature", &options.temperature, 0.0f, 100.0f)
          .Number("top_p", &options.top_p, 0.0f, 1.0f)
          .Number("seed", &options.seed, 0, std::numeric_limits<uint64_t>::max())
          .Done());
  if (deadline_ms > 0) {
    options.deadline = call->arrived + std::chrono::milliseconds(deadline_ms);
  }
  BoundByCall(*call, &options);
  MSADB_ASSIGN_OR_RETURN(const auto collection,
                         service.database().OpenCollection(call->path.at("collection")));
  if (stream) return AskStreaming(*collection, question, std::move(options), *exchange);
  MSADB_ASSIGN_OR_RETURN(const Answer answer, collection->Ask(question, options));
  return std::optional(JsonReply(ToJson(answer, options.trace)));
}

}  // namespace msadb::server
