// One connection to a server, kept up: requests of all threads go out over it by number, and
// replies find their request again.
#ifndef MSADB_CLIENT_CHANNEL_H_
#define MSADB_CLIENT_CHANNEL_H_

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "client/frame.h"
#include "msadb/client.h"

namespace msadb::client {

// What the server said of itself when the connection was made.
struct ServerInfo {
  uint64_t epoch = 0;  // which connection: 1, 2, ...; handles of another one are gone
  std::string model_fingerprint;
  std::string model_description;
  size_t document_tokens_max = 0;
  Limits limits;
  size_t frame_bytes_max = 0;
  uint32_t requests_max = 1;
};

// A request under way. Whoever makes it fills in the first part, then leaves it to the Channel.
struct Exchange {
  std::vector<uint8_t> payload;
  bool changes = false;  // not to be sent twice
  uint64_t epoch = 0;    // the connection its handle belongs to; 0: any will do
  std::optional<std::chrono::steady_clock::time_point> deadline;
  // Both are called from the channel's thread: on_frame for every message up to the last, or
  // on_failed once if that never comes.
  std::function<void(wire::Frame)> on_frame;
  std::function<void(const Status&)> on_failed;

  // The channel's own notes.
  struct Progress {
    uint64_t number = 0;
    uint64_t epoch = 0;     // the connection it went over
    bool sent = false;      // the first byte may have left
    bool answered = false;  // a message came
    bool retried = false;
    bool ended = false;
    std::shared_ptr<void> timer;
  } progress;
};

class Channel {
 public:
  // Connects first. Errors as client::Connect.
  static Result<std::shared_ptr<Channel>> Open(const ClientOptions& options);
  // Ends what is under way with Cancelled.
  ~Channel();
  Channel(const Channel&) = delete;
  Channel& operator=(const Channel&) = delete;

  // Never blocks. ResourceExhausted through on_failed when too much waits.
  void Start(std::shared_ptr<Exchange> exchange);
  // Ends it now with `reason` unless it ended, and tells the server.
  void Abort(std::shared_ptr<Exchange> exchange, Status reason);
  // Asks the server to stop; the reply still comes.
  void RequestCancel(std::shared_ptr<Exchange> exchange);

  ServerInfo info() const;
  const ClientOptions& options() const;
  bool on_own_thread() const { return std::this_thread::get_id() == thread_.get_id(); }

 private:
  class Io;
  Channel() = default;

  std::shared_ptr<Io> io_;
  std::thread thread_;
};

// The words that OutcomeUnknown looks for.
inline constexpr const char* kOutcomeUnknownWords = "; the change may have been made";

}  // namespace msadb::client

#endif  // MSADB_CLIENT_CHANNEL_H_
