// Collections and documents.
#include <charconv>

#include "msadb/transfer.h"
#include "server/console_page.h"
#include "server/handlers.h"
#include "server/request_json.h"

namespace msadb::server {
namespace {

constexpr uint64_t kListLimitMax = 10'000;
constexpr size_t kListStep = 64;  // documents read at a time, so that a page's bytes stay bounded

Result<uint64_t> ParseId(std::string_view text) {
  uint64_t id = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), id);
  if (error != std::errc() || end != text.data() + text.size() || id == 0) {
    return Status::InvalidArgument("a document's id is a whole number from 1");
  }
  return id;
}

Result<std::shared_ptr<Collection>> CollectionOf(HttpService& service, const Call& call) {
  return service.database().OpenCollection(call.path.at("collection"));
}

const std::string* QueryValue(const Call& call, std::string_view name) {
  const auto found = call.query.find(name);
  return found == call.query.end() ? nullptr : &found->second;
}

Result<uint64_t> QueryNumber(const Call& call, std::string_view name, uint64_t fallback,
                             uint64_t least, uint64_t most) {
  const std::string* text = QueryValue(call, name);
  if (text == nullptr) return fallback;
  uint64_t value = 0;
  const auto [end, error] = std::from_chars(text->data(), text->data() + text->size(), value);
  if (error != std::errc() || end != text->data() + text->size() || value < least || value > most) {
    return Status::InvalidArgument("'" + std::string(name) + "' must be a whole number from " +
                                   std::to_string(least) + " to " + std::to_string(most));
  }
  return value;
}

Result<bool> QueryFlag(const Call& call, std::string_view name, bool fallback) {
  const std::string* text = QueryValue(call, name);
  if (text == nullptr) return fallback;
  if (*text == "true") return true;
  if (*text == "false") return false;
  return Status::InvalidArgument("'" + std::string(name) + "' must be true or false");
}

// Who wrote it is what the token says, whatever the body says.
Result<NewDocument> ReadDocument(const Call& call, const nlohmann::json& json) {
  MSADB_ASSIGN_OR_RETURN(
      NewDocument document,
      DocumentFromJson(json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace)));
  document.written_by = call.principal->name();
  return document;
}

HandlerResult Deleted(uint64_t count) { return std::optional(JsonReply({{"deleted", count}})); }

}  // namespace

HttpReply JsonReply(const Json& json, unsigned status) {
  return {.status = status, .body = Dump(json)};
}

HandlerResult GetConsole(HttpService&, const CallPtr&, const ExchangePtr&) {
  return std::optional(HttpReply{.content_type = "text/html; charset=utf-8",
                                 .body = std::string(kConsolePage),
                                 .fields = {{"Content-Security-Policy", ConsoleSecurityPolicy()}}});
}

HandlerResult GetOpenApi(HttpService&, const CallPtr&, const ExchangePtr&) {
  return std::optional(HttpReply{.body = OpenApiJson()});
}

HandlerResult GetHealth(HttpService&, const CallPtr&, const ExchangePtr&) {
  return std::optional(JsonReply({{"status", "ok"}}));
}

HandlerResult GetReady(HttpService& service, const CallPtr&, const ExchangePtr&) {
  if (service.admission().draining()) return Status::Unavailable("the server is stopping");
  return std::optional(JsonReply({{"status", "ready"}}));
}

HandlerResult GetMetrics(HttpService& service, const CallPtr&, const ExchangePtr&) {
  MSADB_ASSIGN_OR_RETURN(const DatabaseStats stats, service.database().Stats());
  std::optional<WireStats> wire;
  if (service.options().wire_stats) wire = service.options().wire_stats();
  return std::optional(HttpReply{
      .content_type = "text/plain; version=0.0.4; charset=utf-8",
      .body = service.metrics().Text(service.admission().stats(), stats, wire ? &*wire : nullptr)});
}

HandlerResult GetStats(HttpService& service, const CallPtr&, const ExchangePtr&) {
  MSADB_ASSIGN_OR_RETURN(const DatabaseStats stats, service.database().Stats());
  return std::optional(JsonReply(ToJson(stats)));
}

Result<std::vector<std::string>> VisibleCollections(HttpService& service, const Call& call) {
  MSADB_ASSIGN_OR_RETURN(std::vector<std::string> names, service.database().ListCollections());
  std::erase_if(names, [&](const std::string& name) {
    return !call.principal->CheckCollection(name, Right::kRead).ok();
  });
  return names;
}

HandlerResult ListCollections(HttpService& service, const CallPtr& call, const ExchangePtr&) {
  MSADB_ASSIGN_OR_RETURN(const auto names, VisibleCollections(service, *call));
  Json listed = Json::array();
  for (const std::string& name : names) {
    auto collection = service.database().OpenCollection(name);
    if (!collection.ok()) continue;  // dropped meanwhile
    auto count = (*collection)->Count();
    if (!count.ok()) continue;
    listed.push_back({{"name", name},
                      {"documents", *count},
                      {"right", RightName(*call->principal->RightFor(name))}});
  }
  return std::optional(JsonReply({{"collections", std::move(listed)}}));
}

HandlerResult CreateCollection(HttpService& service, const CallPtr& call, const ExchangePtr&) {
  MSADB_ASSIGN_OR_RETURN(const auto json, ParseRequestJson(call->body));
  std::string name;
  MSADB_RETURN_IF_ERROR(FieldReader(json).Required("name", &name).Done());
  MSADB_RETURN_IF_ERROR(call->principal->CheckCollection(name, Right::kAdmin));
  MSADB_ASSIGN_OR_RETURN(const auto collection, service.database().CreateCollection(name));
  return std::optional(JsonReply({{"created", name}}, 201));
}

HandlerResult GetCollection(HttpService& service, const CallPtr& call, const ExchangePtr&) {
  MSADB_ASSIGN_OR_RETURN(const auto collection, CollectionOf(service, *call));
  MSADB_ASSIGN_OR_RETURN(const CollectionStats stats, collection->Stats());
  return std::optional(JsonReply(ToJson(stats)));
}

HandlerResult DropCollection(HttpService& service, const CallPtr& call, const ExchangePtr&) {
  const std::string& name = call->path.at("collection");
  MSADB_RETURN_IF_ERROR(service.database().DropCollection(name));
  return std::optional(JsonReply({{"dropped", name}}));
}

HandlerResult ListDocuments(HttpService& service, const CallPtr& call, const ExchangePtr&) {
  ListOptions options;
  MSADB_ASSIGN_OR_RETURN(options.start_after,
                         QueryNumber(*call, "after", 0, 0, std::numeric_limits<int64_t>::max()));
  MSADB_ASSIGN_OR_RETURN(const uint64_t limit, QueryNumber(*call, "limit", 100, 1, kListLimitMax));
  MSADB_ASSIGN_OR_RETURN(options.include_text, QueryFlag(*call, "text", true));
  if (const std::string* where = QueryValue(*call, "where")) {
    auto filter = Filter::Parse(*where);
    if (!filter.ok()) return filter.status().WithContext("'where'");
    options.where = std::move(*filter);
  }
  MSADB_ASSIGN_OR_RETURN(const auto collection, CollectionOf(service, *call));

  Json documents = Json::array();
  Json next = nullptr;
  size_t bytes = 0;
  while (true) {
    options.limit = std::min<size_t>(kListStep, limit - documents.size());
    MSADB_ASSIGN_OR_RETURN(const DocumentPage page, collection->List(options));
    for (const Document& document : page.documents) {
      documents.push_back(ToJson(document, options.include_text));
      bytes += document.text.size();
      options.start_after = document.id;
      if (bytes >= service.options().page_bytes_max) break;
    }
    const bool whole = page.documents.empty() || options.start_after == page.documents.back().id;
    if (whole && !page.next) break;
    if (documents.size() >= limit || bytes >= service.options().page_bytes_max) {
      next = options.start_after;
      break;
    }
  }
  return std::optional(JsonReply({{"documents", std::move(documents)}, {"next", std::move(next)}}));
}

HandlerResult InsertDocument(HttpService& service, const CallPtr& call, const ExchangePtr&) {
  MSADB_ASSIGN_OR_RETURN(const auto json, ParseRequestJson(call->body));
  MSADB_ASSIGN_OR_RETURN(const NewDocument document, ReadDocument(*call, json));
  MSADB_ASSIGN_OR_RETURN(const auto collection, CollectionOf(service, *call));
  MSADB_ASSIGN_OR_RETURN(const DocumentId id, collection->Insert(document));
  return std::optional(JsonReply({{"id", id}}, 201));
}

HandlerResult UpsertDocument(HttpService& service, const CallPtr& call, const ExchangePtr&) {
  MSADB_ASSIGN_OR_RETURN(const auto json, ParseRequestJson(call->body));
  MSADB_ASSIGN_OR_RETURN(const NewDocument document, ReadDocument(*call, json));
  MSADB_ASSIGN_OR_RETURN(const auto collection, CollectionOf(service, *call));
  MSADB_ASSIGN_OR_RETURN(const DocumentId id, collection->Upsert(document));
  return std::optional(JsonReply({{"id", id}}));
}

HandlerResult InsertDocuments(HttpService& service, const CallPtr& call, const ExchangePtr&) {
  MSADB_ASSIGN_OR_RETURN(const auto json, ParseRequestJson(call->body));
  const nlohmann::json* list = nullptr;
  InsertManyOptions options;
  MSADB_RETURN_IF_ERROR(FieldReader(json)
                            .Any("documents", &list)
                            .Flag("replace_existing", &options.replace_existing)
                            .Done());
  if (list == nullptr || !list->is_array()) {
    return Status::InvalidArgument("'documents' must be a list of documents");
  }
  std::vector<NewDocument> documents;
  documents.reserve(list->size());
  for (const auto& item : *list) {
    auto document = ReadDocument(*call, item);
    if (!document.ok()) {
      return document.status().WithContext("documents[" + std::to_string(documents.size()) + "]");
    }
    documents.push_back(std::move(*document));
  }
  options.on_progress = [&](const InsertProgress&) { return !call->stop.stop_requested(); };
  MSADB_ASSIGN_OR_RETURN(const auto collection, CollectionOf(service, *call));
  MSADB_ASSIGN_OR_RETURN(const size_t inserted, collection->InsertMany(documents, options));
  return std::optional(JsonReply({{"inserted", inserted}}, 201));
}

HandlerResult GetDocument(HttpService& service, const CallPtr& call, const ExchangePtr&) {
  MSADB_ASSIGN_OR_RETURN(const uint64_t id, ParseId(call->path.at("id")));
  MSADB_ASSIGN_OR_RETURN(const auto collection, CollectionOf(service, *call));
  MSADB_ASSIGN_OR_RETURN(const Document document, collection->Get(id));
  return std::optional(JsonReply(ToJson(document, true)));
}

HandlerResult DeleteDocument(HttpService& service, const CallPtr& call, const ExchangePtr&) {
  MSADB_ASSIGN_OR_RETURN(const uint64_t id, ParseId(call->path.at("id")));
  MSADB_ASSIGN_OR_RETURN(const auto collection, CollectionOf(service, *call));
  MSADB_RETURN_IF_ERROR(collection->Delete(id));
  return Deleted(1);
}

HandlerResult GetDocumentByKey(HttpService& service, const CallPtr& call, const ExchangePtr&) {
  MSADB_ASSIGN_OR_RETURN(const auto collection, CollectionOf(service, *call));
  MSADB_ASSIGN_OR_RETURN(const Document document, collection->GetByKey(call->path.at("key")));
  return std::optional(JsonReply(ToJson(document, true)));
}

HandlerResult DeleteDocumentByKey(HttpService& service, const CallPtr& call, const ExchangePtr&) {
  MSADB_ASSIGN_OR_RETURN(const auto collection, CollectionOf(service, *call));
  MSADB_RETURN_IF_ERROR(collection->DeleteByKey(call->path.at("key")));
  return Deleted(1);
}

HandlerResult DeleteDocuments(HttpService& service, const CallPtr& call, const ExchangePtr&) {
  MSADB_ASSIGN_OR_RETURN(const auto json, ParseRequestJson(call->body));
  std::optional<Filter> where;
  MSADB_RETURN_IF_ERROR(FieldReader(json).Where("where", &where).Done());
  if (!where) {
    return Status::InvalidArgument("'where' is missing; {} deletes every document");
  }
  MSADB_ASSIGN_OR_RETURN(const auto collection, CollectionOf(service, *call));
  MSADB_ASSIGN_OR_RETURN(const uint64_t count, collection->DeleteWhere(*where));
  return Deleted(count);
}

namespace {

// One element of "changes". Gives the id that it makes, or null.
Result<Json> ApplyChange(const Call& call, Transaction& transaction, const nlohmann::json& change) {
  std::string op;
  std::string key;
  uint64_t id = 0;
  const nlohmann::json* document = nullptr;
  if (!change.is_object()) return Status::InvalidArgument("must be an object");
  MSADB_RETURN_IF_ERROR(FieldReader(change)
                            .Required("op", &op)
                            .Any("document", &document)
                            .Number("id", &id, 1, std::numeric_limits<int64_t>::max())
                            .Text("key", &key)
                            .Done());
  if (op == "insert" || op == "upsert") {
    if (document == nullptr || id != 0 || change.contains("key")) {
      return Status::InvalidArgument("'" + op + "' takes \"document\" and nothing else");
    }
    MSADB_ASSIGN_OR_RETURN(const NewDocument value, ReadDocument(call, *document));
    MSADB_ASSIGN_OR_RETURN(const DocumentId made,
                           op == "insert" ? transaction.Insert(value) : transaction.Upsert(value));
    return Json(made);
  }
  if (op == "delete") {
    if (document != nullptr || (id != 0) == change.contains("key")) {
      return Status::InvalidArgument("'delete' takes either \"id\" or \"key\"");
    }
    MSADB_RETURN_IF_ERROR(id != 0 ? transaction.Delete(id) : transaction.DeleteByKey(key));
    return Json(nullptr);
  }
  return Status::InvalidArgument("'op' must be insert, upsert or delete");
}

}  // namespace

HandlerResult ApplyTransaction(HttpService& service, const CallPtr& call, const ExchangePtr&) {
  MSADB_ASSIGN_OR_RETURN(const auto json, ParseRequestJson(call->body));
  const nlohmann::json* changes = nullptr;
  MSADB_RETURN_IF_ERROR(FieldReader(json).Any("changes", &changes).Done());
  if (changes == nullptr || !changes->is_array() || changes->empty()) {
    return Status::InvalidArgument("'changes' must be a list with at least one change");
  }
  MSADB_ASSIGN_OR_RETURN(const auto collection, CollectionOf(service, *call));
  MSADB_ASSIGN_OR_RETURN(const auto transaction, collection->Begin());
  Json ids = Json::array();
  for (const auto& change : *changes) {
    if (call->stop.stop_requested()) return Status::Cancelled("the caller went away");
    auto id = ApplyChange(*call, *transaction, change);
    if (!id.ok()) return id.status().WithContext("changes[" + std::to_string(ids.size()) + "]");
    ids.push_back(std::move(*id));
  }
  MSADB_RETURN_IF_ERROR(transaction->Commit());
  return std::optional(JsonReply({{"ids", std::move(ids)}}));
}

}  // namespace msadb::server
