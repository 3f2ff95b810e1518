// Ctrl-C. Work that can stop early runs inside an InterruptScope and watches its token; the first
// signal then requests a stop and the verb ends with Cancelled. Everywhere else, for a second
// signal, and when the work has not stopped in time (it may wait for standard input), the
// process ends with exit code 130: a commit is on disk whole or not at all, so that is safe at any
// moment.
#ifndef MSADB_CLI_INTERRUPT_H_
#define MSADB_CLI_INTERRUPT_H_

#include <chrono>
#include <stop_token>

namespace msadb::cli {

// Blocks SIGINT and SIGTERM in this and all later threads and starts the one thread that waits for
// them. Call once, first thing in main.
void InstallInterruptHandler();

// At most one at a time.
class InterruptScope {
 public:
  // `patience`: how long the work may take to stop.
  explicit InterruptScope(std::chrono::milliseconds patience = std::chrono::seconds(5));
  ~InterruptScope();
  InterruptScope(const InterruptScope&) = delete;
  InterruptScope& operator=(const InterruptScope&) = delete;

  std::stop_token token() const { return source_.get_token(); }
  bool interrupted() const { return source_.stop_requested(); }

 private:
  std::stop_source source_;
};

}  // namespace msadb::cli

#endif  // MSADB_CLI_INTERRUPT_H_
