// Every address that the server answers, in one table. Requests are matched against it, rights are
// checked by it, the OpenAPI description is made of it, and the access test goes through it.
#ifndef MSADB_SERVER_ROUTES_H_
#define MSADB_SERVER_ROUTES_H_

#include <span>
#include <string>
#include <string_view>

#include "msadb/status.h"
#include "server/access.h"
#include "server/admission.h"
#include "server/http_message.h"
#include "server/json_forms.h"

namespace msadb::server {

class HttpService;

// What a token must allow before the body is read.
enum class Scope : uint8_t {
  kPublic,      // no token: tells nothing about the database
  kToken,       // any valid token; what it sees depends on its rights
  kCollection,  // the right, for the collection in the path
  kBody,        // a valid token; the right, for the collection that the body names
  kServer,      // the right, for "*"
};

enum class Where : uint8_t {
  kInline,  // quick and without the database: on the connection's own thread
  kStorage,
  kModel,
};

// Answers `call`; gives nothing when it answers over the exchange itself.
using Handler = Result<std::optional<HttpReply>> (*)(HttpService& service,
                                                     const std::shared_ptr<Call>& call,
                                                     const std::shared_ptr<Exchange>& exchange);

struct Route {
  std::string_view method;
  std::string_view path;  // "/v1/collections/{collection}/documents/{id}"
  std::string_view name;  // OpenAPI's operationId, the label in logs and metrics
  Scope scope;
  Right right;            // of kCollection, kBody and kServer
  Where where;
  size_t body_bytes_max;  // 0: no body
  Handler handler;
  unsigned success;                 // HTTP status
  std::string_view request_schema;  // name under components/schemas; empty: no body
  std::string_view reply_schema;    // empty: see reply_type
  std::string_view reply_type;      // content type of success
  std::string_view query;           // names of query parameters, separated by spaces
  std::string_view summary;
};

std::span<const Route> Routes();

struct RouteMatch {
  const Route* route = nullptr;
  std::map<std::string, std::string, std::less<>> path;
};
// NotFound: no such path. Unsupported: the path has other methods. InvalidArgument: percent signs
// that encode nothing, or bytes that are not UTF-8.
Result<RouteMatch> MatchRoute(std::string_view method, std::string_view path);
// "GET, POST": what the path takes, in the order of Routes(); empty: no such path.
std::string MethodsOf(std::string_view path);
Result<std::map<std::string, std::string, std::less<>>> ParseQuery(std::string_view query,
                                                                   std::string_view known);

// The OpenAPI 3.1 description of Routes().
const std::string& OpenApiJson();

}  // namespace msadb::server

#endif  // MSADB_SERVER_ROUTES_H_
