#include "server/routes.h"

#include <algorithm>
#include <array>
#include <vector>

#include "base/utf8.h"
#include "server/handlers.h"

namespace msadb::server {
namespace {

constexpr size_t kSmallBody = 1u << 20;      // a question of 256 KiB, escaped, and a filter
constexpr size_t kDocumentBody = 64u << 20;  // a text of 16 MiB, escaped
constexpr std::string_view kJson = "application/json";

constexpr std::array kRoutes = {
    Route{"GET", "/", "console", Scope::kPublic, Right::kRead, Where::kInline, 0, GetConsole, 200,
          "", "", "text/html", "", "The console, a page for people"},
    Route{"GET", "/openapi.json", "openapi", Scope::kPublic, Right::kRead, Where::kInline, 0,
          GetOpenApi, 200, "", "OpenApi", kJson, "", "This description"},
    Route{"GET", "/healthz", "health", Scope::kPublic, Right::kRead, Where::kInline, 0, GetHealth,
          200, "", "State", kJson, "", "Whether the process lives"},
    Route{"GET", "/readyz", "ready", Scope::kPublic, Right::kRead, Where::kInline, 0, GetReady, 200,
          "", "State", kJson, "", "Whether calls are taken; 503 while the server stops"},
    Route{"GET", "/metrics", "metrics", Scope::kServer, Right::kRead, Where::kStorage, 0,
          GetMetrics, 200, "", "", "text/plain", "", "Counters for Prometheus"},
    Route{"GET", "/v1/stats", "stats", Scope::kServer, Right::kRead, Where::kStorage, 0, GetStats,
          200, "", "DatabaseStats", kJson, "", "Sizes of the whole database, tier by tier"},
    Route{"GET", "/v1/collections", "listCollections", Scope::kToken, Right::kRead,
          Where::kStorage, 0, ListCollections, 200, "", "Collections", kJson, "",
          "The collections that the token may read"},
    Route{"POST", "/v1/collections", "createCollection", Scope::kBody, Right::kAdmin,
          Where::kStorage, kSmallBody, CreateCollection, 201, "NewCollection", "Created", kJson, "",
          "Make an empty collection"},
    Route{"GET", "/v1/collections/{collection}", "getCollection", Scope::kCollection, Right::kRead,
          Where::kStorage, 0, GetCollection, 200, "", "CollectionStats", kJson, "",
          "Sizes of one collection"},
    Route{"DELETE", "/v1/collections/{collection}", "dropCollection", Scope::kCollection,
          Right::kAdmin, Where::kStorage, 0, DropCollection, 200, "", "Dropped", kJson, "",
          "Delete a collection with all its documents"},
    Route{"GET", "/v1/collections/{collection}/documents", "listDocuments", Scope::kCollection,
          Right::kRead, Where::kStorage, 0, ListDocuments, 200, "", "DocumentPage", kJson,
          "after limit text where", "Documents in ascending id, a page at a time"},
    Route{"POST", "/v1/collections/{collection}/documents", "insertDocument", Scope::kCollection,
          Right::kWrite, Where::kModel, kDocumentBody, InsertDocument, 201, "NewDocument",
          "DocumentId", kJson, "", "Insert a document; 409 when its key is taken"},
    Route{"PUT", "/v1/collections/{collection}/documents", "upsertDocument", Scope::kCollection,
          Right::kWrite, Where::kModel, kDocumentBody, UpsertDocument, 200, "NewDocument",
          "DocumentId", kJson, "", "Replace the document of the same key, or insert it"},
    Route{"POST", "/v1/collections/{collection}/batch", "insertDocuments", Scope::kCollection,
          Right::kWrite, Where::kModel, kDocumentBody, InsertDocuments, 201, "Batch", "Inserted",
          kJson, "", "Insert many documents, committed batch by batch"},
    Route{"POST", "/v1/collections/{collection}/delete", "deleteDocuments", Scope::kCollection,
          Right::kWrite, Where::kStorage, kSmallBody, DeleteDocuments, 200, "DeleteWhere",
          "Deleted", kJson, "", "Delete every document whose metadata matches, in one commit"},
    Route{"POST", "/v1/collections/{collection}/transaction", "applyTransaction",
          Scope::kCollection, Right::kWrite, Where::kModel, kDocumentBody, ApplyTransaction, 200,
          "Transaction", "TransactionIds", kJson, "",
          "Several changes, durable and visible together or not at all"},
    Route{"GET", "/v1/collections/{collection}/documents/{id}", "getDocument", Scope::kCollection,
          Right::kRead, Where::kStorage, 0, GetDocument, 200, "", "Document", kJson, "",
          "One document by its number"},
    Route{"DELETE", "/v1/collections/{collection}/documents/{id}", "deleteDocument",
          Scope::kCollection, Right::kWrite, Where::kStorage, 0, DeleteDocument, 200, "", "Deleted",
          kJson, "", "Delete one document by its number"},
    Route{"GET", "/v1/collections/{collection}/keys/{key}", "getDocumentByKey", Scope::kCollection,
          Right::kRead, Where::kStorage, 0, GetDocumentByKey, 200, "", "Document", kJson, "",
          "One document by its key"},
    Route{"DELETE", "/v1/collections/{collection}/keys/{key}", "deleteDocumentByKey",
          Scope::kCollection, Right::kWrite, Where::kStorage, 0, DeleteDocumentByKey, 200, "",
          "Deleted", kJson, "", "Delete one document by its key"},
    Route{"POST", "/v1/collections/{collection}/search", "search", Scope::kCollection, Right::kRead,
          Where::kModel, kSmallBody, Search, 200, "Search", "Hits", kJson, "",
          "Rank documents by the model's routing; nothing is generated"},
    Route{"POST", "/v1/collections/{collection}/ask", "ask", Scope::kCollection, Right::kRead,
          Where::kModel, kSmallBody, Ask, 200, "Ask", "Answer", kJson, "",
          "Answer a question; with \"stream\" as Server-Sent Events: text, then answer or error"},
    Route{"GET", "/v1/models", "listModels", Scope::kToken, Right::kRead, Where::kStorage, 0,
          ListModels, 200, "", "Models", kJson, "", "OpenAI: the collections as models"},
    Route{"GET", "/v1/models/{collection}", "getModel", Scope::kCollection, Right::kRead,
          Where::kStorage, 0, GetModel, 200, "", "Model", kJson, "", "OpenAI: one of them"},
    Route{"POST", "/v1/chat/completions", "completeChat", Scope::kBody, Right::kRead,
          Where::kStorage, kSmallBody, CompleteChat, 200, "Chat", "ChatCompletion", kJson, "",
          "OpenAI: ask the collection named by \"model\""},
    Route{"POST", "/mcp", "mcp", Scope::kBody, Right::kRead, Where::kStorage, 4u << 20, HandleMcp,
          200, "McpMessage", "McpMessage", kJson, "collection",
          "Model Context Protocol: one JSON-RPC message"},
};

// Undoes percent-encoding. In queries '+' is a space.
Result<std::string> Decode(std::string_view text, bool plus_is_space) {
  const auto digit = [](char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
  };
  std::string decoded;
  decoded.reserve(text.size());
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '%') {
      const int high = i + 2 < text.size() ? digit(text[i + 1]) : -1;
      const int low = i + 2 < text.size() ? digit(text[i + 2]) : -1;
      if (high < 0 || low < 0) {
        return Status::InvalidArgument("the address has a percent sign that encodes nothing");
      }
      decoded.push_back(static_cast<char>(high << 4 | low));
      i += 2;
    } else {
      decoded.push_back(plus_is_space && text[i] == '+' ? ' ' : text[i]);
    }
  }
  if (!base::IsValidUtf8(decoded)) return Status::InvalidArgument("the address is not UTF-8");
  return decoded;
}

std::vector<std::string_view> Split(std::string_view text, char separator) {
  std::vector<std::string_view> pieces;
  while (true) {
    const size_t end = text.find(separator);
    pieces.push_back(text.substr(0, end));
    if (end == std::string_view::npos) return pieces;
    text.remove_prefix(end + 1);
  }
}

bool IsVariable(std::string_view segment) { return segment.starts_with('{'); }

bool SegmentsMatch(const std::vector<std::string_view>& pattern,
                   const std::vector<std::string_view>& path) {
  if (pattern.size() != path.size()) return false;
  for (size_t i = 0; i < path.size(); ++i) {
    if (IsVariable(pattern[i]) ? path[i].empty() : pattern[i] != path[i]) return false;
  }
  return true;
}

}  // namespace

std::span<const Route> Routes() { return kRoutes; }

Result<RouteMatch> MatchRoute(std::string_view method, std::string_view path) {
  const auto segments = Split(path, '/');
  for (const Route& route : kRoutes) {
    const auto pattern = Split(route.path, '/');
    if (route.method != method || !SegmentsMatch(pattern, segments)) continue;
    RouteMatch match{.route = &route, .path = {}};
    for (size_t i = 0; i < segments.size(); ++i) {
      if (!IsVariable(pattern[i])) continue;
      MSADB_ASSIGN_OR_RETURN(std::string value, Decode(segments[i], false));
      match.path.emplace(pattern[i].substr(1, pattern[i].size() - 2), std::move(value));
    }
    return match;
  }
  if (const std::string methods = MethodsOf(path); !methods.empty()) {
    return Status::Unsupported("this address takes " + methods + " only");
  }
  return Status::NotFound("there is nothing at this address; GET /openapi.json lists all");
}

std::string MethodsOf(std::string_view path) {
  const auto segments = Split(path, '/');
  std::string methods;
  for (const Route& route : kRoutes) {
    if (!SegmentsMatch(Split(route.path, '/'), segments)) continue;
    methods += (methods.empty() ? "" : ", ") + std::string(route.method);
  }
  return methods;
}

Result<std::map<std::string, std::string, std::less<>>> ParseQuery(std::string_view query,
                                                                   std::string_view known) {
  std::map<std::string, std::string, std::less<>> values;
  const auto names = Split(known, ' ');
  if (query.empty()) return values;
  for (const std::string_view pair : Split(query, '&')) {
    const size_t equals = std::min(pair.find('='), pair.size());
    MSADB_ASSIGN_OR_RETURN(std::string name, Decode(pair.substr(0, equals), true));
    MSADB_ASSIGN_OR_RETURN(std::string value,
                           Decode(pair.substr(std::min(equals + 1, pair.size())), true));
    if (name.empty() || std::find(names.begin(), names.end(), name) == names.end()) {
      return Status::InvalidArgument(known.empty() ? "this call takes no query parameters"
                                                   : "unknown query parameter; known are " +
                                                         std::string(known));
    }
    if (!values.emplace(std::move(name), std::move(value)).second) {
      return Status::InvalidArgument("a query parameter occurs twice");
    }
  }
  return values;
}

}  // namespace msadb::server
