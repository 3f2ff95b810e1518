// Answers HTTP requests from a database: lets them in, runs them on the workers, keeps count. Knows
// nothing of sockets. Every method may be called from any thread; nothing here throws.
#ifndef MSADB_SERVER_HTTP_SERVICE_H_
#define MSADB_SERVER_HTTP_SERVICE_H_

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "msadb/database.h"
#include "server/access.h"
#include "server/admission.h"
#include "server/http_message.h"
#include "server/metrics.h"
#include "server/routes.h"

namespace msadb::server {

struct HttpServiceOptions {
  // Names by which clients may call the server beside the addresses it listens on and localhost.
  std::vector<std::string> hosts;
  // Upper bound of one call, waiting included. Clients may ask for less.
  std::chrono::milliseconds call_time_max{120'000};
  // A page of documents is closed when its texts have reached this.
  size_t page_bytes_max = 16u << 20;
  // Bodies being read at one time, all connections together.
  size_t body_bytes_in_flight_max = 512u << 20;
  // Takes one line, without line feed. May be called from several threads. Empty: no log.
  std::function<void(std::string_view line)> log;
  // Of the binary port, for /metrics. Empty: there is none.
  std::function<WireStats()> wire_stats;
};

// What a request came to, for log and metrics.
struct RequestOutcome {
  const Route* route = nullptr;  // null: none matched
  std::string principal;
  std::string remote_address;
  unsigned status = 0;  // 0: the client left before there was one
  uint64_t body_bytes = 0;
  uint64_t reply_bytes = 0;
  std::chrono::steady_clock::duration took{};
};

class HttpService {
 public:
  // All three must outlive this object. `tokens` null: whoever can connect is an administrator.
  HttpService(std::shared_ptr<Database> database, TokenStore* tokens, Admission* admission,
              HttpServiceOptions options);

  // Looks at the head alone. Either a Call, whose body is to be read (at most
  // route->body_bytes_max) and which then goes to Serve, or the refusal to send.
  std::variant<std::shared_ptr<Call>, HttpReply> Admit(const RequestHead& head);

  // Answers over `exchange`, from this thread or another, soon or later.
  void Serve(std::shared_ptr<Call> call, std::shared_ptr<Exchange> exchange);

  // Runs `work` on a worker when it is the collection's turn and replies with what it returns.
  using Work = std::function<Result<std::optional<HttpReply>>()>;
  void Run(std::shared_ptr<Call> call, std::shared_ptr<Exchange> exchange,
           const std::string& collection, Lane lane, Work work);

  // Reserves memory for a body. False: too much is being read already. Give back the same number.
  bool TakeBodyBytes(size_t bytes);
  void GiveBackBodyBytes(size_t bytes);

  void Finished(const RequestOutcome& outcome);

  Database& database() { return *database_; }
  Admission& admission() { return *admission_; }
  Metrics& metrics() { return metrics_; }
  const HttpServiceOptions& options() const { return options_; }

 private:
  Status CheckHostAndOrigin(const RequestHead& head) const;

  const std::shared_ptr<Database> database_;
  TokenStore* const tokens_;
  Admission* const admission_;
  const HttpServiceOptions options_;
  const std::shared_ptr<const Principal> anyone_;  // without tokens
  std::atomic<size_t> body_bytes_{0};
  Metrics metrics_;
};

}  // namespace msadb::server

#endif  // MSADB_SERVER_HTTP_SERVICE_H_
