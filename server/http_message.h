// What passes between the sockets (http_server.cc) and what answers requests (http_service.h),
// without a type of the HTTP library.
#ifndef MSADB_SERVER_HTTP_MESSAGE_H_
#define MSADB_SERVER_HTTP_MESSAGE_H_

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "msadb/status.h"
#include "server/access.h"

namespace msadb::server {

struct Route;

// The head of a request: all that is looked at before its body is read.
struct RequestHead {
  std::string method;
  std::string target;  // as sent: path and query, percent-encoded
  std::string host;    // the fields of the same names; empty when absent
  std::string origin;
  std::string authorization;
  std::string content_type;
  std::optional<uint64_t> content_length;
  bool chunked = false;
  bool secure = false;            // came over TLS
  std::string local_address;      // of this end of the connection, without port
  std::string remote_address;     // for the log
};

// A request that was let in: it has a route, the token's rights suffice for what the head names, and
// its form is acceptable. Its body comes next.
struct Call {
  const Route* route = nullptr;
  std::map<std::string, std::string, std::less<>> path;   // {collection} and so on, decoded
  std::map<std::string, std::string, std::less<>> query;  // decoded
  std::shared_ptr<const Principal> principal;             // null on routes that need no token
  std::string body;
  std::stop_source stop;  // requested when the client is gone
  std::chrono::steady_clock::time_point arrived{};   // when its head had been read
  std::chrono::steady_clock::time_point deadline{};  // when nobody waits for it any more
};

struct HttpReply {
  unsigned status = 200;
  std::string content_type = "application/json";
  std::string body;
  std::vector<std::pair<std::string, std::string>> fields;  // further header fields
};

// The way back to the client. Every method may be called from any thread, none blocks.
class Exchange {
 public:
  virtual ~Exchange() = default;
  // The whole answer. Either this once, or Begin, Write any number of times, End.
  virtual void Reply(HttpReply reply) = 0;
  // Sends the head of an answer whose body follows piece by piece.
  virtual void Begin(HttpReply head) = 0;
  // False when nobody reads any more: the client is gone, or so slow that too much waits.
  virtual bool Write(std::string piece) = 0;
  virtual void End() = 0;
};

// The answer to an error, also for OpenAI's clients, which read error.message, .type and .code.
HttpReply ErrorReply(const Status& status);
// 401 when the token is missing or wrong: the head says so with WWW-Authenticate.
HttpReply UnauthorizedReply();
unsigned HttpStatusOf(StatusCode code);

}  // namespace msadb::server

#endif  // MSADB_SERVER_HTTP_MESSAGE_H_
