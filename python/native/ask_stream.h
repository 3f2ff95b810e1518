// A question that is being answered on a thread of its own, while another takes the pieces. The
// asking thread never touches Python, so it needs no GIL and cannot be held up by one.
#ifndef MSADB_PYTHON_ASK_STREAM_H_
#define MSADB_PYTHON_ASK_STREAM_H_

#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <stop_token>
#include <string>
#include <thread>

#include "msadb/database.h"

namespace msadb::python {

class AskStream {
 public:
  // Starts at once. `options.stop` and on_text are the stream's own; `cancel` stops it too.
  AskStream(std::shared_ptr<CollectionReader> memory, std::string question, AskOptions options,
            std::stop_token cancel);
  // Cancels and waits for the asking thread.
  ~AskStream();
  AskStream(const AskStream&) = delete;
  AskStream& operator=(const AskStream&) = delete;

  struct Event {
    std::string piece;    // when neither flag is set
    bool ended = false;   // no more pieces: result() is there
    bool waited = false;  // nothing came in time; ask again
  };
  // The next piece, waiting for it at most so long. Pieces that came before a failure come first.
  Event Next(std::chrono::milliseconds wait_max);
  void Cancel() { stop_.request_stop(); }
  // Null until Next said `ended`.
  const Result<Answer>* result();

 private:
  std::stop_source stop_;
  std::stop_callback<std::function<void()>> forward_;
  std::mutex mutex_;  // guards what follows
  std::condition_variable changed_;
  std::deque<std::string> pieces_;
  std::optional<Result<Answer>> result_;
  std::thread thread_;
};

}  // namespace msadb::python

#endif  // MSADB_PYTHON_ASK_STREAM_H_
