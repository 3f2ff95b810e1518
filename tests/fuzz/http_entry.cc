#include "tests/fuzz/http_entry.h"

#include <cmath>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <nlohmann/json.hpp>

#include "base/utf8.h"
#include "msadb/database.h"
#include "server/http_service.h"

namespace msadb::fuzz {
namespace {

using nlohmann::json;

constexpr const char kCollection[] = "notes";
constexpr DocumentId kId = 7;

void Require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "violated: %s\n", what);
  std::abort();
}

void RequireText(std::string_view text) {
  Require(base::IsValidUtf8(text), "text that reaches the database is UTF-8");
}

// A memory without a state, so that a finding depends on its input alone. It has one document and
// says of everything that came through whether a server may let it through.
Document TheDocument() {
  Document document;
  document.id = kId;
  document.text = "The \"spare\" key\nis \xf0\x9f\x97\x9d here.";
  document.key = "key/1";
  document.metadata = {{"n", int64_t{1}}, {"list", std::vector<std::string>{"a", ""}}};
  document.parts = {{kId, 0, document.text.size(), 9, 1}};
  return document;
}

Result<Document> ById(DocumentId id) {
  if (id != kId) return Status::NotFound("no such document");
  return TheDocument();
}

Result<Document> ByKey(std::string_view key) {
  RequireText(key);
  if (key != "key/1") return Status::NotFound("no such document");
  return TheDocument();
}

Status IsThere(const Result<Document>& document) {
  return document.ok() ? Status::Ok() : document.status();
}

Result<DocumentId> Take(const NewDocument& document) {
  RequireText(document.text);
  RequireText(document.source);
  RequireText(document.written_by);
  if (document.key) RequireText(*document.key);
  for (const auto& [name, value] : document.metadata) {
    RequireText(name);
    if (const auto* text = std::get_if<std::string>(&value)) RequireText(*text);
    if (const auto* number = std::get_if<double>(&value)) {
      Require(std::isfinite(*number), "a number of metadata is finite");
    }
  }
  return kId + 1;
}

class StubTransaction final : public Transaction {
 public:
  Result<DocumentId> Insert(const NewDocument& document) override { return Take(document); }
  Result<DocumentId> Upsert(const NewDocument& document) override { return Take(document); }
  Status Delete(DocumentId id) override { return IsThere(ById(id)); }
  Status DeleteByKey(std::string_view key) override { return IsThere(ByKey(key)); }
  Result<Document> Get(DocumentId id) override { return ById(id); }
  Result<Document> GetByKey(std::string_view key) override { return ByKey(key); }
  Status Commit() override { return Status::Ok(); }
  void Rollback() override {}
};

class StubCollection final : public Collection {
 public:
  std::string name() const override { return kCollection; }
  Result<Document> Get(DocumentId id) override { return ById(id); }
  Result<Document> GetByKey(std::string_view key) override { return ByKey(key); }
  Result<DocumentPage> List(const ListOptions& options) override {
    Require(options.limit >= 1 && options.limit <= 10'000, "the size of a page is bounded");
    DocumentPage page;
    if (options.start_after < kId) page.documents.push_back(TheDocument());
    return page;
  }
  Result<uint64_t> Count() override { return 1; }
  Result<std::vector<SearchHit>> Search(std::string_view query,
                                        const SearchOptions& options) override {
    RequireText(query);
    Require(options.top_k >= 1 && options.top_k <= 1000, "top_k is bounded");
    const Document document = TheDocument();
    SearchHit hit;
    hit.id = hit.part = kId;
    hit.text = query;
    hit.key = document.key;
    hit.metadata = document.metadata;
    return std::vector{hit};
  }
  // Says the question again, so that any text has to pass through the forms of an answer.
  Result<Answer> Ask(std::string_view question, const AskOptions& options) override {
    RequireText(question);
    Require(options.rounds_max >= 0 && options.rounds_max <= 64, "rounds are bounded");
    Require(options.answer_tokens_max >= 1 && options.answer_tokens_max <= 1 << 20 &&
                options.retrieved_text_tokens_max >= 0 &&
                options.retrieved_text_tokens_max <= 1 << 20,
            "tokens are bounded");
    Require(options.temperature >= 0 && options.temperature <= 10 && options.top_p >= 0 &&
                options.top_p <= 1,
            "sampling is bounded");
    Require(options.deadline.has_value(), "a question has a deadline");
    if (options.on_text && !options.on_text(question)) return Status::Cancelled("by on_text");
    Answer answer;
    answer.text = question;
    Citation citation;
    citation.id = citation.part = kId;
    citation.text = question;
    citation.key = "key/1";
    answer.citations.push_back(citation);
    if (options.trace)
      answer.trace.rounds.push_back({{kId}, {kId}, {{7, {{kId, 0.5f}}}}, 1, 2, 3, 4});
    return answer;
  }
  Result<DocumentId> Insert(const NewDocument& document) override { return Take(document); }
  Result<DocumentId> Upsert(const NewDocument& document) override { return Take(document); }
  Result<size_t> InsertMany(std::span<const NewDocument> documents,
                            const InsertManyOptions& options) override {
    for (const NewDocument& document : documents) (void)Take(document);
    if (options.on_progress) options.on_progress({});
    return documents.size();
  }
  Status Delete(DocumentId id) override { return IsThere(ById(id)); }
  Status DeleteByKey(std::string_view key) override { return IsThere(ByKey(key)); }
  Result<uint64_t> DeleteWhere(const Filter&) override { return 1; }
  Result<std::unique_ptr<Transaction>> Begin() override {
    return std::unique_ptr<Transaction>(std::make_unique<StubTransaction>());
  }
  Result<std::unique_ptr<Snapshot>> TakeSnapshot() override {
    return Status::Unsupported("no snapshots here");
  }
  Result<CollectionStats> Stats() override {
    CollectionStats stats;
    stats.name = kCollection;
    return stats;
  }
};

class StubDatabase final : public Database {
 public:
  Result<std::shared_ptr<Collection>> CreateCollection(std::string_view name) override {
    RequireText(name);
    if (name == kCollection) return Status::AlreadyExists("there is one");
    return collection_;
  }
  Result<std::shared_ptr<Collection>> OpenCollection(std::string_view name) override {
    RequireText(name);
    if (name != kCollection) return Status::NotFound("no such collection");
    return collection_;
  }
  Result<std::shared_ptr<Collection>> GetOrCreateCollection(std::string_view name) override {
    RequireText(name);
    return collection_;
  }
  Status DropCollection(std::string_view name) override { return OpenCollection(name).status(); }
  Result<std::vector<std::string>> ListCollections() override {
    return std::vector<std::string>{kCollection};
  }
  Result<DatabaseStats> Stats() override { return DatabaseStats(); }
  Result<VerifyReport> Verify() override { return VerifyReport(); }
  Status Compact() override { return Status::Ok(); }
  std::shared_ptr<LoadedModel> model() const override { return nullptr; }

 private:
  const std::shared_ptr<Collection> collection_ = std::make_shared<StubCollection>();
};

class Collected final : public server::Exchange {
 public:
  void Reply(server::HttpReply reply) override {
    std::lock_guard lock(mutex_);
    Require(!ended_ && !begun_, "a request is answered once");
    reply_ = std::move(reply);
    ended_ = true;
    changed_.notify_all();
  }
  void Begin(server::HttpReply head) override {
    std::lock_guard lock(mutex_);
    Require(!ended_ && !begun_, "a request is answered once");
    reply_ = std::move(head);
    begun_ = true;
  }
  bool Write(std::string piece) override {
    std::lock_guard lock(mutex_);
    Require(begun_ && !ended_, "a stream goes on between its beginning and its end");
    reply_.body += piece;
    return true;
  }
  void End() override {
    std::lock_guard lock(mutex_);
    Require(begun_ && !ended_, "a stream ends once");
    ended_ = true;
    changed_.notify_all();
  }

  server::HttpReply Wait() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return ended_; });
    return std::move(reply_);
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  server::HttpReply reply_;
  bool begun_ = false;
  bool ended_ = false;
};

// Every line of a stream is one field, and its data one JSON text: nothing that came in can end an
// event or begin another.
void CheckEvents(std::string_view stream) {
  while (!stream.empty()) {
    const size_t end = stream.find('\n');
    Require(end != std::string_view::npos, "a stream ends with a whole line");
    std::string_view line = stream.substr(0, end);
    stream.remove_prefix(end + 1);
    if (line.empty() || line.starts_with("event: ")) continue;
    Require(line.starts_with("data: "), "a line of a stream is a field");
    line.remove_prefix(6);
    Require(line == "[DONE]" || json::accept(line), "the data of an event is JSON");
  }
}

void CheckMcp(const json& message) {
  if (message.is_array()) {
    for (const json& one : message) CheckMcp(one);
    return;
  }
  Require(message.is_object() && message.contains("jsonrpc") && message.contains("id") &&
              message.contains("result") != message.contains("error"),
          "an answer of MCP is a result or an error");
  if (message.contains("error")) {
    Require(message["error"]["code"] != -32603, "bad input is no internal error");
  }
}

void Check(const server::HttpReply& reply, bool is_mcp) {
  Require((reply.status >= 200 && reply.status < 300) ||
              (reply.status >= 400 && reply.status < 500) || reply.status == 501,
          "bad input is the client's error");
  Require(base::IsValidUtf8(reply.body), "a reply is UTF-8");
  if (reply.content_type.starts_with("text/event-stream")) return CheckEvents(reply.body);
  if (reply.content_type != "application/json" || reply.body.empty()) return;
  const json body = json::parse(reply.body, nullptr, false);
  Require(!body.is_discarded(), "a reply is JSON");
  if (reply.status >= 400) {
    Require(body.contains("error") && body["error"]["message"].is_string() &&
                !body["error"]["message"].get_ref<const std::string&>().empty(),
            "an error says something");
  } else if (is_mcp) {
    CheckMcp(body);
  }
}

std::string Request(const std::string& line, const json& body) { return line + "\n" + body.dump(); }

}  // namespace

unsigned ServeHttp(std::string_view input) {
  static server::Admission admission({.workers = {1, 1}});
  static server::HttpService service(std::make_shared<StubDatabase>(), nullptr, &admission, {});
  const size_t line_end = std::min(input.find('\n'), input.size());
  const std::string_view line = input.substr(0, line_end);
  const std::string_view body = input.substr(std::min(line_end + 1, input.size()));
  const size_t space = std::min(line.find(' '), line.size());
  server::RequestHead head;
  head.method = line.substr(0, space);
  head.target = line.substr(std::min(space + 1, line.size()));
  head.host = "127.0.0.1";
  head.local_address = "127.0.0.1";
  if (!body.empty()) head.content_type = "application/json";
  head.content_length = body.size();
  auto admitted = service.Admit(head);
  if (const auto* refusal = std::get_if<server::HttpReply>(&admitted)) {
    Require(refusal->status >= 400 && refusal->status < 500, "a refusal is the client's error");
    Check(*refusal, false);
    return refusal->status;
  }
  auto& call = std::get<std::shared_ptr<server::Call>>(admitted);
  call->body = body;
  const bool is_mcp = std::string_view(call->route->path) == "/mcp";
  const auto exchange = std::make_shared<Collected>();
  service.Serve(call, exchange);
  const server::HttpReply reply = exchange->Wait();
  Check(reply, is_mcp);
  return reply.status;
}

void RunHttp(std::string_view input) { (void)ServeHttp(input); }

std::vector<std::string> HttpSeeds() {
  const json where = {{"$or", {{{"n", {{"$gt", 1}}}}, {{"t", {{"$in", {"a", "b"}}}}}}}};
  const json document = {{"text", "The spare key is under the pot."},
                         {"key", "k"},
                         {"metadata", {{"n", 1}, {"d", 0.5}, {"b", true}, {"l", {"x", "y"}}}},
                         {"source", "a test"},
                         {"created_at", "2026-11-22T10:00:00Z"},
                         {"expires_at", "2026-12-01T00:00:00Z"}};
  const std::string notes = "/v1/collections/notes";
  std::vector<std::string> seeds = {
      "GET /openapi.json\n",
      "GET /metrics\n",
      "GET /v1/collections\n",
      "GET " + notes + "\n",
      "DELETE " + notes + "\n",
      "GET " + notes + "/documents?after=3&limit=5&text=false&where=%7B%22n%22%3A1%7D\n",
      "GET " + notes + "/documents/7\n",
      "DELETE " + notes + "/documents/7\n",
      "GET " + notes + "/keys/key%2F1\n",
      "DELETE " + notes + "/keys/%F0%9F%97%9D\n",
      "GET /v1/models\n",
      "GET /v1/models/notes\n",
      "",
      "POST /mcp\n[]",
      "POST " + notes + "/ask\n{\"question\": \"\\ud83d\\udddd \\u0000 \\n\\n data: x\"}",
      Request("POST /v1/collections", {{"name", "other"}}),
      Request("POST " + notes + "/documents", document),
      Request("PUT " + notes + "/documents", document),
      Request("POST " + notes + "/batch",
              {{"documents", {document, {{"text", "another"}}}}, {"replace_existing", true}}),
      Request("POST " + notes + "/delete", {{"where", where}}),
      Request("POST " + notes + "/transaction", {{"changes",
                                                  {{{"op", "insert"}, {"document", document}},
                                                   {{"op", "upsert"}, {"document", document}},
                                                   {{"op", "delete"}, {"id", 7}},
                                                   {{"op", "delete"}, {"key", "key/1"}}}}}),
      Request("POST " + notes + "/search",
              {{"query", "where?"}, {"top_k", 3}, {"where", where}, {"include_text", false}}),
  };
  json ask = {{"question", "Where is the key?"},
              {"where", where},
              {"trace", true},
              {"stream", false},
              {"deadline_ms", 1000},
              {"rounds_max", 2},
              {"answer_tokens_max", 8},
              {"retrieved_text_tokens_max", 100},
              {"temperature", 0.5},
              {"top_p", 0.9},
              {"seed", 1}};
  seeds.push_back(Request("POST " + notes + "/ask", ask));
  ask["stream"] = true;
  seeds.push_back(Request("POST " + notes + "/ask", ask));
  json chat = {
      {"model", "notes"},
      {"messages",
       {{{"role", "system"}, {"content", "Be brief."}},
        {{"role", "user"}, {"content", {{{"type", "text"}, {"text", "Where is the key?"}}}}},
        {{"role", "assistant"}, {"content", nullptr}},
        {{"role", "user"}, {"content", "And in winter?"}}}},
      {"stream", false},
      {"stream_options", {{"include_usage", true}}},
      {"max_tokens", 8},
      {"temperature", 0},
      {"n", 1},
      {"tools", json::array()},
      {"msadb", {{"remember", true}, {"where", where}, {"trace", true}, {"rounds_max", 1}}}};
  seeds.push_back(Request("POST /v1/chat/completions", chat));
  chat["stream"] = true;
  seeds.push_back(Request("POST /v1/chat/completions", chat));

  const auto mcp = [&](const char* method, const json& params, const json& id = 1) {
    seeds.push_back(
        Request("POST /mcp?collection=notes",
                {{"jsonrpc", "2.0"}, {"id", id}, {"method", method}, {"params", params}}));
  };
  mcp("initialize", {{"protocolVersion", "2025-03-26"}, {"capabilities", json::object()}});
  mcp("ping", {{"_meta", {{"io.modelcontextprotocol/protocolVersion", "2026-07-28"}}}}, "an id");
  mcp("server/discover", json::object());
  mcp("tools/list", json::object());
  mcp("notifications/cancelled", {{"requestId", 1}});
  const auto tool = [&](const char* name, const json& arguments) {
    mcp("tools/call", {{"name", name}, {"arguments", arguments}});
  };
  tool("remember", {{"text", "a fact"},
                    {"key", "k"},
                    {"metadata", {{"n", 1}}},
                    {"source", "an agent"},
                    {"expires_in_seconds", 60}});
  tool("recall", {{"query", "a fact"}, {"limit", 3}, {"where", where}});
  tool("ask", {{"question", "which fact?"}, {"max_tokens", 8}, {"where", where}});
  tool("forget", {{"id", 7}});
  tool("forget", {{"key", "key/1"}});
  tool("forget", {{"where", where}});
  tool("list", {{"limit", 3}, {"start_after", 1}, {"text_bytes_max", 5}, {"where", where}});
  return seeds;
}

}  // namespace msadb::fuzz
