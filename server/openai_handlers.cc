// The API that OpenAI's clients speak: /v1/models and /v1/chat/completions. A model is a
// collection.
//
// The last user message is the question. What was said before is put in front of it as text, the
// newest as far as it fits, so that "and in winter?" is understood. Fields of our own are in the
// object "msadb", in the request (remember, where, trace, rounds_max) and in the answer (notice,
// citations, trace, remembered).
#include <chrono>
#include <mutex>

#include "server/handlers.h"
#include "server/mcp/session.h"
#include "server/request_json.h"

namespace msadb::server {
namespace {

// Of the conversation before the question. The question itself is bounded by the database.
constexpr size_t kContextBytesMax = 16u << 10;
constexpr size_t kMessagesMax = 10'000;

struct ChatRequest {
  std::string model;
  std::string question;
  std::string context;  // empty: the question stands alone
  AskOptions options;
  bool stream = false;
  bool include_usage = false;
  bool remember = false;
  std::string written_by;  // of what is remembered
};

// A message's text: a string, or a list of {"type": "text", "text": "..."}.
Result<std::string> MessageText(const nlohmann::json& content) {
  if (content.is_null()) return std::string();
  if (content.is_string()) return content.get<std::string>();
  if (!content.is_array()) return Status::InvalidArgument("content must be text");
  std::string text;
  for (const auto& part : content) {
    if (!part.is_object() || part.value("type", nlohmann::json()) != "text" ||
        !part.contains("text") || !part["text"].is_string()) {
      return Status::Unsupported("content may hold parts of the type \"text\" only");
    }
    text += part["text"].get<std::string>();
  }
  return text;
}

Status ReadMessages(const nlohmann::json* messages, ChatRequest* request) {
  if (messages == nullptr || !messages->is_array() || messages->empty() ||
      messages->size() > kMessagesMax) {
    return Status::InvalidArgument("'messages' must be a list of 1 to 10,000 messages");
  }
  std::vector<std::pair<std::string, std::string>> turns;
  for (const auto& message : *messages) {
    std::string role;
    const nlohmann::json* content = nullptr;
    if (!message.is_object()) return Status::InvalidArgument("a message must be an object");
    MSADB_RETURN_IF_ERROR(FieldReader(message)
                              .Required("role", &role)
                              .Any("content", &content)
                              .Ignore("name")
                              .Ignore("refusal")
                              .Ignore("annotations")
                              .Ignore("audio")
                              .Ignore("function_call")
                              .Ignore("tool_calls")
                              .Done());
    if (role != "system" && role != "developer" && role != "user" && role != "assistant") {
      return Status::Unsupported("a message's role must be system, developer, user or assistant");
    }
    MSADB_ASSIGN_OR_RETURN(std::string text,
                           MessageText(content == nullptr ? nlohmann::json() : *content));
    turns.emplace_back(std::move(role), std::move(text));
  }
  if (turns.back().first != "user") {
    return Status::InvalidArgument("the last message must be the user's: it is what is asked");
  }
  request->question = std::move(turns.back().second);
  turns.pop_back();

  size_t first = turns.size();
  size_t bytes = 0;
  while (first > 0 && bytes + turns[first - 1].second.size() <= kContextBytesMax) {
    bytes += turns[--first].second.size();
  }
  for (size_t i = first; i < turns.size(); ++i) {
    const auto& [role, text] = turns[i];
    if (text.empty()) continue;
    request->context += (role == "assistant" ? "Assistant: "
                         : role == "user"    ? "User: "
                                             : "") +
                        text + "\n";
  }
  return Status::Ok();
}

Result<ChatRequest> ReadChatRequest(std::string_view body) {
  MSADB_ASSIGN_OR_RETURN(const auto json, ParseRequestJson(body));
  ChatRequest request;
  AskOptions& options = request.options;
  const nlohmann::json* messages = nullptr;
  const nlohmann::json* stream_options = nullptr;
  const nlohmann::json* tools = nullptr;
  const nlohmann::json* own = nullptr;
  int choices = 1;
  FieldReader reader(json);
  reader.Required("model", &request.model)
      .Any("messages", &messages)
      .Flag("stream", &request.stream)
      .Any("stream_options", &stream_options)
      .Number("max_tokens", &options.answer_tokens_max, 1, 1 << 20)
      .Number("max_completion_tokens", &options.answer_tokens_max, 1, 1 << 20)
      .Number("temperature", &options.temperature, 0.0f, 2.0f)
      .Number("top_p", &options.top_p, 0.0f, 1.0f)
      .Number("seed", &options.seed, 0, std::numeric_limits<int64_t>::max())
      .Number("n", &choices, 1, 1)
      .Any("tools", &tools)
      .Any("msadb", &own);
  // They change how an answer is worded, filed or billed elsewhere; here they have no meaning.
  for (const char* name : {"frequency_penalty", "presence_penalty", "user", "metadata", "store",
                           "stop", "logit_bias", "logprobs", "top_logprobs", "response_format",
                           "service_tier", "parallel_tool_calls", "tool_choice", "reasoning_effort",
                           "safety_identifier", "prompt_cache_key", "verbosity", "modalities"}) {
    reader.Ignore(name);
  }
  MSADB_RETURN_IF_ERROR(reader.Done());
  if (tools != nullptr && !tools->empty()) {
    return Status::Unsupported("'tools' cannot be called; leave it out");
  }
  if (stream_options != nullptr) {
    MSADB_RETURN_IF_ERROR(FieldReader(*stream_options)
                              .Flag("include_usage", &request.include_usage)
                              .Ignore("include_obfuscation")
                              .Done());
  }
  if (own != nullptr) {
    Status status = FieldReader(*own)
                        .Flag("remember", &request.remember)
                        .Where("where", &options.where)
                        .Flag("trace", &options.trace)
                        .Number("rounds_max", &options.rounds_max, 1, 64)
                        .Done();
    if (!status.ok()) return status.WithContext("'msadb'");
  }
  MSADB_RETURN_IF_ERROR(ReadMessages(messages, &request));
  return request;
}

std::string NewCompletionId() {
  static std::atomic<uint64_t> next{1};
  const auto started = std::chrono::system_clock::now().time_since_epoch().count();
  return "chatcmpl-" + std::to_string(started) + "-" + std::to_string(next++);
}

int64_t NowSeconds() {
  return std::chrono::duration_cast<std::chrono::seconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

const char* FinishReasonName(FinishReason reason) {
  return reason == FinishReason::kStop ? "stop" : "length";
}

Json Usage(const Answer& answer) {
  return {{"prompt_tokens", answer.prompt_tokens},
          {"completion_tokens", answer.generated_tokens},
          {"total_tokens", answer.prompt_tokens + answer.generated_tokens}};
}

// Our own part of the answer.
Json Extras(const Answer& answer, bool with_trace, std::optional<DocumentId> remembered) {
  Json forms = ToJson(answer, with_trace);
  Json extras = {{"notice", mcp::kStoredTextNotice}, {"citations", std::move(forms["citations"])}};
  if (with_trace) extras["trace"] = std::move(forms["trace"]);
  extras["remembered"] = remembered ? Json(*remembered) : Json(nullptr);
  return extras;
}

class Completion {
 public:
  Completion(const ChatRequest& request, Exchange& exchange)
      : request_(request), exchange_(exchange), id_(NewCompletionId()), created_(NowSeconds()) {}

  HandlerResult Run(Collection& collection) {
    AskOptions options = request_.options;
    if (request_.stream) {
      options.on_text = [this](std::string_view piece) {
        Begin();
        return SendChunk({{"content", std::string(piece)}}, nullptr);
      };
    }
    const std::string question =
        request_.context.empty()
            ? request_.question
            : "Conversation so far:\n" + request_.context + "\nQuestion: " + request_.question;
    const auto answer = collection.Ask(question, options);
    if (!answer.ok()) return Fail(answer.status());
    std::optional<DocumentId> remembered;
    if (request_.remember) {
      auto id =
          collection.Insert({.text = "User: " + request_.question + "\nAssistant: " + answer->text,
                             .key = {},
                             .metadata = {{"kind", std::string("conversation")}},
                             .source = "chat",
                             .written_by = request_.written_by,
                             .expires_at = {},
                             .created_at = {}});
      if (!id.ok()) return Fail(id.status().WithContext("the turn could not be remembered"));
      remembered = *id;
    }
    return request_.stream ? FinishStream(*answer, remembered) : Whole(*answer, remembered);
  }

 private:
  Json Head(const char* object) const {
    return {{"id", id_}, {"object", object}, {"created", created_}, {"model", request_.model}};
  }

  HandlerResult Whole(const Answer& answer, std::optional<DocumentId> remembered) const {
    Json json = Head("chat.completion");
    json["choices"] = Json::array(
        {{{"index", 0},
          {"message", {{"role", "assistant"}, {"content", answer.text}, {"refusal", nullptr}}},
          {"logprobs", nullptr},
          {"finish_reason", FinishReasonName(answer.finish_reason)}}});
    json["usage"] = Usage(answer);
    json["msadb"] = Extras(answer, request_.options.trace, remembered);
    return std::optional(JsonReply(json));
  }

  void Begin() {
    if (begun_) return;
    begun_ = true;
    exchange_.Begin({.content_type = "text/event-stream; charset=utf-8", .body = {}, .fields = {}});
    SendChunk({{"role", "assistant"}, {"content", ""}}, nullptr);
  }

  bool Send(const Json& json) { return exchange_.Write("data: " + Dump(json) + "\n\n"); }

  bool SendChunk(Json delta, Json finish_reason, Json extras = nullptr) {
    Json json = Head("chat.completion.chunk");
    json["choices"] = Json::array({{{"index", 0},
                                    {"delta", std::move(delta)},
                                    {"logprobs", nullptr},
                                    {"finish_reason", std::move(finish_reason)}}});
    if (!extras.is_null()) json["msadb"] = std::move(extras);
    return Send(json);
  }

  HandlerResult FinishStream(const Answer& answer, std::optional<DocumentId> remembered) {
    Begin();
    SendChunk(Json::object(), FinishReasonName(answer.finish_reason),
              Extras(answer, request_.options.trace, remembered));
    if (request_.include_usage) {
      Json json = Head("chat.completion.chunk");
      json["choices"] = Json::array();
      json["usage"] = Usage(answer);
      Send(json);
    }
    exchange_.Write("data: [DONE]\n\n");
    exchange_.End();
    return std::optional<HttpReply>();
  }

  HandlerResult Fail(const Status& status) {
    if (!begun_) return status;
    Send(ErrorToJson(status));
    exchange_.End();
    return std::optional<HttpReply>();
  }

  const ChatRequest& request_;
  Exchange& exchange_;
  const std::string id_;
  const int64_t created_;
  bool begun_ = false;
};

Json ModelJson(const std::string& name) {
  return {{"id", name}, {"object", "model"}, {"created", 0}, {"owned_by", "msadb"}};
}

}  // namespace

HandlerResult ListModels(HttpService& service, const CallPtr& call, const ExchangePtr&) {
  MSADB_ASSIGN_OR_RETURN(const auto names, VisibleCollections(service, *call));
  Json list = Json::array();
  for (const std::string& name : names) list.push_back(ModelJson(name));
  return std::optional(JsonReply({{"object", "list"}, {"data", std::move(list)}}));
}

HandlerResult GetModel(HttpService& service, const CallPtr& call, const ExchangePtr&) {
  const std::string& name = call->path.at("collection");
  MSADB_ASSIGN_OR_RETURN(const auto collection, service.database().OpenCollection(name));
  return std::optional(JsonReply(ModelJson(name)));
}

HandlerResult CompleteChat(HttpService& service, const CallPtr& call, const ExchangePtr& exchange) {
  auto parsed = ReadChatRequest(call->body);
  if (parsed.status().code() == StatusCode::kUnsupported) {
    // OpenAI's clients take 501 for a fault of the server and send the same again.
    HttpReply refusal = ErrorReply(parsed.status());
    refusal.status = 400;
    return std::optional(std::move(refusal));
  }
  if (!parsed.ok()) return parsed.status();
  auto request = std::make_shared<ChatRequest>(std::move(*parsed));
  const Right needed = request->remember ? Right::kWrite : Right::kRead;
  MSADB_RETURN_IF_ERROR(call->principal->CheckCollection(request->model, needed));
  BoundByCall(*call, &request->options);
  request->written_by = call->principal->name();
  // Only now is it known whose turn this counts against.
  service.Run(call, exchange, request->model, Lane::kModel,
              [&service, request, exchange]() -> HandlerResult {
                MSADB_ASSIGN_OR_RETURN(const auto collection,
                                       service.database().OpenCollection(request->model));
                return Completion(*request, *exchange).Run(*collection);
              });
  return std::optional<HttpReply>();
}

}  // namespace msadb::server
