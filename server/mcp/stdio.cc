#include "server/mcp/stdio.h"

#include <unistd.h>

#include <cerrno>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

namespace msadb::mcp {
namespace {

constexpr size_t kReadBytes = 64u << 10;

Status Failed(const char* what) {
  return Status::IOError(std::string(what) + ": " + std::strerror(errno));
}

// Writes whole lines, one at a time.
class LineWriter {
 public:
  explicit LineWriter(int fd) : fd_(fd) {}

  void Write(std::string line) {
    line += '\n';
    std::lock_guard lock(mutex_);
    std::string_view rest = line;
    while (!rest.empty() && status_.ok()) {
      const ssize_t written = write(fd_, rest.data(), rest.size());
      if (written >= 0) {
        rest.remove_prefix(static_cast<size_t>(written));
      } else if (errno != EINTR) {
        status_ = Failed("cannot write to the client");
      }
    }
  }

  Status status() {
    std::lock_guard lock(mutex_);
    return status_;
  }

 private:
  const int fd_;
  std::mutex mutex_;
  Status status_;
};

// Runs tool calls on a few threads, in the order they came. The session limits how many wait.
class Workers {
 public:
  using Work = std::function<std::optional<std::string>()>;

  Workers(int count, LineWriter& writer) : writer_(writer) {
    for (int i = 0; i < count; ++i) threads_.emplace_back([this] { Run(); });
  }
  // Waits until everything that was added has run.
  ~Workers() {
    {
      std::lock_guard lock(mutex_);
      closing_ = true;
    }
    changed_.notify_all();
    for (auto& thread : threads_) thread.join();
  }
  Workers(const Workers&) = delete;
  Workers& operator=(const Workers&) = delete;

  void Add(Work work) {
    {
      std::lock_guard lock(mutex_);
      queue_.push_back(std::move(work));
    }
    changed_.notify_one();
  }

 private:
  void Run() {
    while (true) {
      Work work;
      {
        std::unique_lock lock(mutex_);
        changed_.wait(lock, [&] { return closing_ || !queue_.empty(); });
        if (queue_.empty()) return;
        work = std::move(queue_.front());
        queue_.pop_front();
      }
      if (auto reply = work()) writer_.Write(std::move(*reply));
    }
  }

  LineWriter& writer_;
  std::mutex mutex_;  // guards queue_ and closing_
  std::condition_variable changed_;
  std::deque<Work> queue_;
  bool closing_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace

Status ServeStdio(const std::shared_ptr<Session>& session, int in, int out,
                  const StdioOptions& options) {
  LineWriter writer(out);
  Status status;
  {
    Workers workers(options.workers, writer);
    const auto receive = [&](std::string_view line) {
      if (!line.empty() && line.back() == '\r') line.remove_suffix(1);
      if (line.find_first_not_of(" \t") == std::string_view::npos) return;
      Reaction reaction = session->Receive(line);
      if (reaction.reply) writer.Write(std::move(*reaction.reply));
      if (reaction.work) workers.Add(std::move(reaction.work));
    };

    std::string pending;    // the beginning of a line
    bool skipping = false;  // the rest of a line that is too long
    std::vector<char> chunk(kReadBytes);
    while (status.ok()) {
      const ssize_t got = read(in, chunk.data(), chunk.size());
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) status = Failed("cannot read from the client");
      if (got <= 0) break;
      std::string_view rest(chunk.data(), static_cast<size_t>(got));
      while (!rest.empty()) {
        const size_t end = rest.find('\n');
        const std::string_view piece = rest.substr(0, end);
        if (!skipping && pending.size() + piece.size() > options.message_bytes_max) {
          skipping = true;
          pending = std::string();
          writer.Write(Session::ParseError("the message is larger than " +
                                           std::to_string(options.message_bytes_max) + " bytes"));
        }
        if (!skipping) pending += piece;
        if (end == std::string_view::npos) break;
        if (!skipping) receive(pending);
        pending.clear();
        skipping = false;
        rest.remove_prefix(end + 1);
      }
      if (Status written = writer.status(); !written.ok()) status = written;
    }
    if (status.ok() && !skipping) receive(pending);
    if (!status.ok()) session->CancelAll();
  }
  return status.ok() ? writer.status() : status;
}

}  // namespace msadb::mcp
