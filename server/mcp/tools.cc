#include "server/mcp/tools.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <initializer_list>
#include <limits>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "msadb/transfer.h"

namespace msadb::mcp {
namespace {

constexpr int64_t kRecallLimitMax = 50;
constexpr int64_t kListLimitMax = 100;
constexpr int64_t kListTextMax = 10'000;
constexpr int64_t kAnswerTokensMax = 1024;
constexpr int64_t kExpirySecondsMax = int64_t{100} * 366 * 24 * 3600;
constexpr int64_t kIdMax = std::numeric_limits<int64_t>::max();

// Reads the arguments of a call one by one; the first mistake stays in status().
class Arguments {
 public:
  Arguments(const Json& object, std::initializer_list<std::string_view> known) : object_(object) {
    for (const auto& [name, value] : object.items()) {
      if (std::find(known.begin(), known.end(), name) != known.end()) continue;
      std::string list;
      for (const auto& one : known) list += (list.empty() ? "" : ", ") + std::string(one);
      Wrong("there is no argument '" + name.substr(0, 64) + "'; there are: " + list);
    }
  }

  const Status& status() const { return status_; }

  std::optional<std::string> Text(const char* name) {
    const Json* value = Find(name);
    if (value == nullptr) return std::nullopt;
    if (value->is_string()) return value->get<std::string>();
    Wrong(std::string("'") + name + "' must be a string");
    return std::nullopt;
  }

  std::string RequiredText(const char* name) {
    auto text = Text(name);
    if (!text) Wrong(std::string("'") + name + "' is missing");
    return text.value_or("");
  }

  std::optional<int64_t> Integer(const char* name, int64_t min, int64_t max) {
    const Json* value = Find(name);
    if (value == nullptr) return std::nullopt;
    // 3.0 is an integer in JSON Schema.
    if (value->is_number_float()) {
      const double number = value->get<double>();
      if (number >= -0x1p53 && number <= 0x1p53 &&
          number == static_cast<double>(static_cast<int64_t>(number))) {
        return Bounded(name, static_cast<int64_t>(number), min, max);
      }
    } else if (value->is_number_unsigned()) {
      const auto number = value->get<uint64_t>();
      if (number <= static_cast<uint64_t>(kIdMax)) {
        return Bounded(name, static_cast<int64_t>(number), min, max);
      }
    } else if (value->is_number_integer()) {
      return Bounded(name, value->get<int64_t>(), min, max);
    }
    Wrong(std::string("'") + name + "' must be an integer");
    return std::nullopt;
  }

  const Json* Object(const char* name) {
    const Json* value = Find(name);
    if (value == nullptr || value->is_object()) return value;
    Wrong(std::string("'") + name + "' must be an object");
    return nullptr;
  }

  std::optional<Filter> Where() {
    const Json* object = Object("where");
    if (object == nullptr) return std::nullopt;
    auto filter = Filter::Parse(object->dump());
    if (filter.ok()) return std::move(*filter);
    if (status_.ok()) status_ = filter.status();
    return std::nullopt;
  }

  void Wrong(const std::string& why) {
    if (status_.ok()) status_ = Status::InvalidArgument(why);
  }

 private:
  // Models write null for what they leave out.
  const Json* Find(const char* name) const {
    const auto found = object_.find(name);
    return found == object_.end() || found->is_null() ? nullptr : &*found;
  }

  std::optional<int64_t> Bounded(const char* name, int64_t number, int64_t min, int64_t max) {
    if (number >= min && number <= max) return number;
    Wrong(std::string("'") + name + "' must be from " + std::to_string(min) + " to " +
          std::to_string(max));
    return std::nullopt;
  }

  const Json& object_;
  Status status_;
};

Json StringOrNull(const std::optional<std::string>& text) {
  return text ? Json(*text) : Json(nullptr);
}

Json TimeOrNull(const std::optional<TimePoint>& time) {
  return time ? Json(FormatTime(*time)) : Json(nullptr);
}

Json MetadataJson(const Metadata& metadata) {
  Json object = Json::object();
  for (const auto& [name, value] : metadata) {
    std::visit([&, &name = name](const auto& held) { object[name] = held; }, value);
  }
  return object;
}

// --- Schemas ---

Json Property(const char* type, const char* description) {
  return {{"type", type}, {"description", description}};
}

Json Nullable(const char* type, const char* description) {
  return {{"type", Json::array({type, "null"})}, {"description", description}};
}

Json BoundedInteger(const char* description, int64_t min, int64_t max) {
  return {{"type", "integer"}, {"description", description}, {"minimum", min}, {"maximum", max}};
}

Json ObjectSchema(Json properties, std::initializer_list<const char*> required) {
  Json names = Json::array();
  for (const char* name : required) names.push_back(name);
  return {{"type", "object"},
          {"properties", std::move(properties)},
          {"required", std::move(names)},
          {"additionalProperties", false}};
}

Json ArrayOf(Json items, const char* description) {
  return {{"type", "array"}, {"description", description}, {"items", std::move(items)}};
}

Json WhereSchema() {
  return Property(
      "object",
      "Only documents that match this filter of their metadata, e.g. {\"topic\": \"garden\"}, "
      "{\"year\": {\"$gte\": 2025}}, {\"$or\": [{\"a\": 1}, {\"tags\": {\"$contains\": \"x\"}}]}. "
      "Operators: $eq $ne $gt $gte $lt $lte $in $nin $contains $exists $and $or $not. "
      "$written_by, $source and $created_at (a time like 2026-11-22T10:00:00Z) stand for who wrote "
      "a document, from where and when.");
}

Json MetadataSchema(const char* description) {
  return {{"type", "object"},
          {"description", description},
          {"additionalProperties",
           {{"anyOf", Json::array({{{"type", "string"}},
                                   {{"type", "number"}},
                                   {{"type", "boolean"}},
                                   {{"type", "array"}, {"items", {{"type", "string"}}}}})}}}};
}

// Of a document that a result tells of.
Json WriterSchema() {
  return Property("string", "Who wrote it, whatever its text says of that; may be empty");
}

Json NoticeSchema() { return Property("string", "How to read the texts"); }

struct Hints {
  bool read_only = false;
  bool destructive = false;
  bool idempotent = false;
};

Json Description(const char* name, const char* title, const char* text, Json input, Json output,
                 const Hints& hints) {
  return {{"name", name},
          {"title", title},
          {"description", text},
          {"inputSchema", std::move(input)},
          {"outputSchema", std::move(output)},
          {"annotations",
           {{"title", title},
            {"readOnlyHint", hints.read_only},
            {"destructiveHint", hints.destructive},
            {"idempotentHint", hints.idempotent},
            {"openWorldHint", false}}}};
}

// --- remember ---

Json DescribeRemember() {
  return Description(
      "remember", "Remember a text",
      "Stores one text in the memory, on disk, so that later recall and ask find it. Write it so "
      "that it can be understood alone: names instead of 'he', dates instead of 'tomorrow'. A few "
      "sentences are a good size. With a key that is stored already, the older text of that key is "
      "replaced and gone. Returns the number of the new document.",
      ObjectSchema(
          {{"text", Property("string", "What to remember")},
           {"key", Property("string",
                            "A name of your own for it, such as user/birthday; storing under the "
                            "same key again replaces it")},
           {"metadata", MetadataSchema("Fields to filter by later: strings, numbers, "
                                       "booleans or lists of strings")},
           {"source", Property("string", "Where it comes from, e.g. a file or a person")},
           {"expires_in_seconds",
            BoundedInteger("Forget it by itself after so many seconds", 1, kExpirySecondsMax)}},
          {"text"}),
      ObjectSchema(
          {{"id", Property("integer", "The number of the document")},
           {"key", Nullable("string", "Its key")},
           {"expires_at", Nullable("string", "When it will be forgotten, RFC 3339 in UTC")}},
          {"id", "key", "expires_at"}),
      {.destructive = true});
}

Result<Json> Remember(const ToolCall& call) {
  Arguments arguments(*call.arguments, {"text", "key", "metadata", "source", "expires_in_seconds"});
  NewDocument document;
  document.text = arguments.RequiredText("text");
  document.key = arguments.Text("key");
  document.source = arguments.Text("source").value_or("");
  document.written_by = call.written_by;
  const Json* metadata = arguments.Object("metadata");
  if (const auto seconds = arguments.Integer("expires_in_seconds", 1, kExpirySecondsMax)) {
    document.expires_at =
        std::chrono::time_point_cast<TimePoint::duration>(std::chrono::system_clock::now()) +
        std::chrono::seconds(*seconds);
  }
  MSADB_RETURN_IF_ERROR(arguments.status());
  if (metadata != nullptr) {
    MSADB_ASSIGN_OR_RETURN(document.metadata, MetadataFromJson(metadata->dump()));
  }
  MSADB_ASSIGN_OR_RETURN(const auto memory, (*call.memory)(Access::kWrite));
  MSADB_ASSIGN_OR_RETURN(const DocumentId id,
                         document.key ? memory->Upsert(document) : memory->Insert(document));
  return Json{{"id", id},
              {"key", StringOrNull(document.key)},
              {"expires_at", TimeOrNull(document.expires_at)}};
}

// --- recall ---

Json DescribeRecall() {
  return Description(
      "recall", "Find documents",
      "Ranks the stored documents for a query and returns the texts of the best. Nothing is "
      "generated: read the texts and judge yourself. There is always a best document, even when "
      "none "
      "is relevant; scores compare the documents of one call only.",
      ObjectSchema(
          {{"query", Property("string", "What to look for, as a question or a description")},
           {"limit",
            BoundedInteger("How many documents at most; 5 if left out", 1, kRecallLimitMax)},
           {"where", WhereSchema()}},
          {"query"}),
      ObjectSchema(
          {{"notice", NoticeSchema()},
           {"documents",
            ArrayOf(ObjectSchema({{"id", Property("integer", "The document")},
                                  {"part", Property("integer", "Its part that fits best")},
                                  {"score", Property("number", "Higher is better")},
                                  {"text", Property("string", "The text of that part")},
                                  {"text_offset",
                                   Property("integer", "Bytes before the part in the document")},
                                  {"key", Nullable("string", "The document's key")},
                                  {"metadata", MetadataSchema("The document's metadata")},
                                  {"source", Property("string", "Where it comes from")},
                                  {"written_by", WriterSchema()},
                                  {"created_at", Property("string", "RFC 3339 in UTC")}},
                                 {"id", "part", "score", "text", "text_offset", "key", "metadata",
                                  "source", "written_by", "created_at"}),
                    "Best first")}},
          {"notice", "documents"}),
      {.read_only = true, .idempotent = true});
}

Result<Json> Recall(const ToolCall& call) {
  Arguments arguments(*call.arguments, {"query", "limit", "where"});
  const std::string query = arguments.RequiredText("query");
  SearchOptions options;
  options.top_k = static_cast<size_t>(arguments.Integer("limit", 1, kRecallLimitMax).value_or(5));
  options.where = arguments.Where();
  MSADB_RETURN_IF_ERROR(arguments.status());
  MSADB_ASSIGN_OR_RETURN(const auto memory, (*call.memory)(Access::kRead));
  MSADB_ASSIGN_OR_RETURN(const auto hits, memory->Search(query, options));
  Json documents = Json::array();
  for (const SearchHit& hit : hits) {
    documents.push_back({{"id", hit.id},
                         {"part", hit.part},
                         {"score", hit.score},
                         {"text", hit.text},
                         {"text_offset", hit.text_offset},
                         {"key", StringOrNull(hit.key)},
                         {"metadata", MetadataJson(hit.metadata)},
                         {"source", hit.source},
                         {"written_by", hit.written_by},
                         {"created_at", FormatTime(hit.created_at)}});
  }
  return Json{{"notice", kStoredTextNotice}, {"documents", std::move(documents)}};
}

// --- ask ---

Json DescribeAsk() {
  return Description(
      "ask", "Ask the memory",
      "Lets the memory's own small language model answer a question from the stored documents, and "
      "names the documents it read. It finds what a text states plainly and does not reason; it "
      "can be "
      "wrong, so check the returned documents. Takes seconds. For a judgement of your own, "
      "use recall.",
      ObjectSchema({{"question", Property("string", "One question that can be understood alone")},
                    {"max_tokens", BoundedInteger("Longest answer, in tokens; 256 if left out", 1,
                                                  kAnswerTokensMax)},
                    {"where", WhereSchema()}},
                   {"question"}),
      ObjectSchema(
          {{"notice", NoticeSchema()},
           {"answer", Property("string", "What the memory's model says, made of stored texts")},
           {"finish_reason",
            {{"type", "string"},
             {"enum", Json::array({"stop", "length"})},
             {"description", "length: cut at max_tokens"}}},
           {"documents",
            ArrayOf(
                ObjectSchema(
                    {{"id", Property("integer", "The document")},
                     {"part", Property("integer", "Its part that was read")},
                     {"text", Property("string", "The text of that part")},
                     {"text_offset", Property("integer", "Bytes before the part in the document")},
                     {"key", Nullable("string", "The document's key")},
                     {"source", Property("string", "Where it comes from")},
                     {"written_by", WriterSchema()},
                     {"created_at", Property("string", "RFC 3339 in UTC")},
                     {"in_answer", Property("boolean", "Whether the answer names it")}},
                    {"id", "part", "text", "text_offset", "key", "source", "written_by",
                     "created_at", "in_answer"}),
                "What the answer rests on, in the order it was read")}},
          {"notice", "answer", "finish_reason", "documents"}),
      {.read_only = true, .idempotent = true});
}

Result<Json> Ask(const ToolCall& call) {
  Arguments arguments(*call.arguments, {"question", "max_tokens", "where"});
  const std::string question = arguments.RequiredText("question");
  AskOptions options;
  options.answer_tokens_max =
      static_cast<int>(arguments.Integer("max_tokens", 1, kAnswerTokensMax).value_or(256));
  options.where = arguments.Where();
  MSADB_RETURN_IF_ERROR(arguments.status());
  options.stop = call.stop;
  if (call.ask_timeout.count() > 0) {
    options.deadline = std::chrono::steady_clock::now() + call.ask_timeout;
  }
  MSADB_ASSIGN_OR_RETURN(const auto memory, (*call.memory)(Access::kRead));
  MSADB_ASSIGN_OR_RETURN(const auto answer, memory->Ask(question, options));
  Json documents = Json::array();
  for (const Citation& citation : answer.citations) {
    documents.push_back({{"id", citation.id},
                         {"part", citation.part},
                         {"text", citation.text},
                         {"text_offset", citation.text_offset},
                         {"key", StringOrNull(citation.key)},
                         {"source", citation.source},
                         {"written_by", citation.written_by},
                         {"created_at", FormatTime(citation.created_at)},
                         {"in_answer", citation.in_answer}});
  }
  return Json{{"notice", kStoredTextNotice},
              {"answer", answer.text},
              {"finish_reason", answer.finish_reason == FinishReason::kStop ? "stop" : "length"},
              {"documents", std::move(documents)}};
}

// --- forget ---

Json DescribeForget() {
  return Description(
      "forget", "Forget documents",
      "Deletes documents: one by its id or its key, or all that match a filter. Give exactly one "
      "of the three. It cannot be undone.",
      ObjectSchema(
          {{"id", BoundedInteger("The number of a document, from list or recall", 1, kIdMax)},
           {"key", Property("string", "The key of a document")},
           {"where", WhereSchema()}},
          {}),
      ObjectSchema({{"deleted", Property("integer", "How many documents were deleted")}},
                   {"deleted"}),
      {.destructive = true, .idempotent = true});
}

// Whether a filter looks at any field: {} does not, nor does {"$and": [{}]}.
bool NamesAField(const Json& where) {
  if (where.is_array()) return std::ranges::any_of(where, NamesAField);
  if (!where.is_object()) return false;
  for (const auto& [name, condition] : where.items()) {
    const bool joins = name == "$and" || name == "$or" || name == "$not";
    if (!joins || NamesAField(condition)) return true;
  }
  return false;
}

Result<Json> Forget(const ToolCall& call) {
  Arguments arguments(*call.arguments, {"id", "key", "where"});
  const auto id = arguments.Integer("id", 1, kIdMax);
  const auto key = arguments.Text("key");
  const Json* filter = arguments.Object("where");
  const auto where = arguments.Where();
  MSADB_RETURN_IF_ERROR(arguments.status());
  if (id.has_value() + key.has_value() + where.has_value() != 1) {
    return Status::InvalidArgument("give exactly one of 'id', 'key' and 'where'");
  }
  if (where && !NamesAField(*filter)) {
    return Status::InvalidArgument(
        "an empty 'where' would forget everything; name a field, e.g. {\"topic\": \"garden\"}");
  }
  MSADB_ASSIGN_OR_RETURN(const auto memory, (*call.memory)(Access::kWrite));
  uint64_t deleted = 1;
  if (id) {
    MSADB_RETURN_IF_ERROR(memory->Delete(static_cast<DocumentId>(*id)));
  } else if (key) {
    MSADB_RETURN_IF_ERROR(memory->DeleteByKey(*key));
  } else {
    MSADB_ASSIGN_OR_RETURN(deleted, memory->DeleteWhere(*where));
  }
  return Json{{"deleted", deleted}};
}

// --- list ---

Json DescribeList() {
  return Description(
      "list", "List documents",
      "Lists stored documents in the order they were stored, a page at a time. To go on, call it "
      "again "
      "with start_after set to the returned next. Long texts are cut, text_cut then is true.",
      ObjectSchema(
          {{"limit",
            BoundedInteger("How many documents at most; 20 if left out", 1, kListLimitMax)},
           {"start_after", BoundedInteger("Continue after the document of this number", 0, kIdMax)},
           {"text_bytes_max",
            BoundedInteger("Cut texts at so many bytes; 500 if left out", 0, kListTextMax)},
           {"where", WhereSchema()}},
          {}),
      ObjectSchema(
          {{"notice", NoticeSchema()},
           {"documents",
            ArrayOf(ObjectSchema({{"id", Property("integer", "The document")},
                                  {"key", Nullable("string", "Its key")},
                                  {"text", Property("string", "Its text, or the beginning of it")},
                                  {"text_cut", Property("boolean", "Whether the text goes on")},
                                  {"metadata", MetadataSchema("Its metadata")},
                                  {"source", Property("string", "Where it comes from")},
                                  {"written_by", WriterSchema()},
                                  {"created_at", Property("string", "RFC 3339 in UTC")},
                                  {"expires_at", Nullable("string", "RFC 3339 in UTC")}},
                                 {"id", "key", "text", "text_cut", "metadata", "source",
                                  "written_by", "created_at", "expires_at"}),
                    "Ascending id")},
           {"next", Nullable("integer", "For start_after; null at the end")}},
          {"notice", "documents", "next"}),
      {.read_only = true, .idempotent = true});
}

// The beginning of `text`, whole characters, at most `bytes`.
std::string Beginning(const std::string& text, size_t bytes) {
  if (text.size() <= bytes) return text;
  while (bytes > 0 && (static_cast<unsigned char>(text[bytes]) & 0xC0) == 0x80) --bytes;
  return text.substr(0, bytes);
}

Result<Json> List(const ToolCall& call) {
  Arguments arguments(*call.arguments, {"limit", "start_after", "text_bytes_max", "where"});
  ListOptions options;
  options.limit = static_cast<size_t>(arguments.Integer("limit", 1, kListLimitMax).value_or(20));
  options.start_after =
      static_cast<DocumentId>(arguments.Integer("start_after", 0, kIdMax).value_or(0));
  const auto text_bytes_max =
      static_cast<size_t>(arguments.Integer("text_bytes_max", 0, kListTextMax).value_or(500));
  options.where = arguments.Where();
  MSADB_RETURN_IF_ERROR(arguments.status());
  MSADB_ASSIGN_OR_RETURN(const auto memory, (*call.memory)(Access::kRead));
  MSADB_ASSIGN_OR_RETURN(const auto page, memory->List(options));
  Json documents = Json::array();
  for (const Document& document : page.documents) {
    documents.push_back({{"id", document.id},
                         {"key", StringOrNull(document.key)},
                         {"text", Beginning(document.text, text_bytes_max)},
                         {"text_cut", document.text.size() > text_bytes_max},
                         {"metadata", MetadataJson(document.metadata)},
                         {"source", document.source},
                         {"written_by", document.written_by},
                         {"created_at", FormatTime(document.created_at)},
                         {"expires_at", TimeOrNull(document.expires_at)}});
  }
  return Json{{"notice", kStoredTextNotice},
              {"documents", std::move(documents)},
              {"next", page.next ? Json(*page.next) : Json(nullptr)}};
}

constexpr std::array<Tool, 5> kTools = {{
    {"remember", Access::kWrite, DescribeRemember, Remember},
    {"recall", Access::kRead, DescribeRecall, Recall},
    {"ask", Access::kRead, DescribeAsk, Ask},
    {"forget", Access::kWrite, DescribeForget, Forget},
    {"list", Access::kRead, DescribeList, List},
}};

}  // namespace

std::span<const Tool> Tools() { return kTools; }

const Tool* FindTool(std::string_view name) {
  const auto found = std::find_if(kTools.begin(), kTools.end(),
                                  [&](const Tool& tool) { return tool.name == name; });
  return found == kTools.end() ? nullptr : &*found;
}

}  // namespace msadb::mcp
