// One connection of the binary port: greeting, frames in, replies out, deadlines. What a request
// does is in wire_handlers.cc.
#ifndef MSADB_SERVER_WIRE_SESSION_H_
#define MSADB_SERVER_WIRE_SESSION_H_

#include <atomic>
#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "client/codec.h"
#include "client/frame.h"
#include "client/stream.h"
#include "server/wire_server.h"

namespace msadb::server {

class WireSession;

// Shared by the connections of one server.
struct WireContext {
  WireServerOptions options;
  WireServices services;
  boost::asio::io_context io;

  std::atomic<size_t> requests_active{0};
  std::atomic<size_t> requests_alive{0};  // also those whose connection is gone
  std::atomic<size_t> handles{0};
  std::atomic<size_t> request_bytes{0};
  std::atomic<uint64_t> connections_accepted{0};
  std::atomic<uint64_t> connections_cut{0};
  std::atomic<uint64_t> hellos_refused{0};
  std::atomic<uint64_t> requests{0};
  std::atomic<uint64_t> request_errors{0};

  std::mutex mutex;
  std::set<std::shared_ptr<WireSession>> sessions;  // mutex
};
using WireContextPtr = std::shared_ptr<WireContext>;

// Bytes of a large request, counted against WireServerOptions::request_bytes_max while it lives.
class Reservation {
 public:
  Reservation() = default;
  // Empty when there is no room.
  static std::optional<Reservation> Take(const WireContextPtr& context, size_t bytes);
  Reservation(Reservation&& other) noexcept
      : context_(std::move(other.context_)), bytes_(std::exchange(other.bytes_, 0)) {}
  Reservation& operator=(Reservation&& other) noexcept;
  ~Reservation();

 private:
  WireContextPtr context_;
  size_t bytes_ = 0;
};

// A transaction or snapshot of one connection.
struct WireHandle {
  std::string collection;
  std::unique_ptr<Transaction> transaction;  // one of the two
  std::shared_ptr<Snapshot> snapshot;
  std::atomic<bool> busy{false};  // a transaction serves one request at a time
  std::atomic<int64_t> used_ns{0};
  WireContextPtr context;
  ~WireHandle() { context->handles.fetch_sub(1); }
};
using WireHandlePtr = std::shared_ptr<WireHandle>;

// A request under way.
struct WireRequest {
  explicit WireRequest(WireContextPtr context) : session_context(std::move(context)) {
    session_context->requests_alive.fetch_add(1);
  }
  ~WireRequest() { session_context->requests_alive.fetch_sub(1); }

  std::shared_ptr<WireSession> session;
  const WireContextPtr session_context;
  std::shared_ptr<const Principal> principal;
  uint64_t number = 0;
  std::vector<uint8_t> payload;
  const wire::fb::Request* message = nullptr;  // inside payload
  Reservation reservation;
  std::stop_source stop;
  std::optional<std::chrono::steady_clock::time_point> deadline;
  const std::chrono::steady_clock::time_point began = std::chrono::steady_clock::now();
  size_t bytes_sent = 0;  // of replies; on the connection's executor
};
using WireRequestPtr = std::shared_ptr<WireRequest>;

// Private methods run on the connection's own executor; the others may be called from any thread.
class WireSession : public std::enable_shared_from_this<WireSession> {
 public:
  WireSession(WireContextPtr context, std::shared_ptr<wire::Stream> stream);
  ~WireSession();
  // Begins to serve; once.
  void PostStart();

  // Sends a message of the reply to request `number`. False: nobody will read it.
  bool Send(uint64_t number, bool last, const std::vector<uint8_t>& payload,
            StatusCode code = StatusCode::kOk);
  void SendError(uint64_t number, const Status& status, uint64_t committed = 0);
  // Calls `fn` on the connection's executor as soon as less than reply_bytes_high waits. Dropped
  // when the connection ends first.
  void WhenWritable(std::function<void()> fn);
  bool open() const { return !closed_.load(); }
  // Of replies, that the other side has not taken yet.
  size_t reply_bytes() const { return out_bytes_.load(); }

  // NotFound / FailedPrecondition: closed for idleness or never there.
  Result<WireHandlePtr> FindHandle(uint64_t number);
  // ResourceExhausted: too many.
  Result<uint64_t> AddHandle(WireHandlePtr handle);
  // Harmless when it is gone already.
  void RemoveHandle(uint64_t number);

  // No new requests; the connection ends when those under way have.
  void GoAway(const std::string& reason);
  // Asks those under way to stop; they are answered Unavailable.
  void StopRequests();
  // Ends it now; requests under way are asked to stop.
  void Cut();
  bool has_requests() const { return active_count_.load() > 0; }

 private:
  using Clock = std::chrono::steady_clock;
  void Start();
  enum class Phase { kPreface, kHello, kOpen, kClosing, kClosed };

  void Read();
  void Take(std::span<const uint8_t> bytes);
  Status TakePreface(std::span<const uint8_t>* bytes);
  void TakeFrame(wire::Frame frame);
  void TakeHello(const wire::Frame& frame);
  void TakeRequest(wire::Frame frame);
  void Submit(const WireRequestPtr& request);
  void RequestEnded(uint64_t number, StatusCode code);
  // One line of the log: what `request` came to; null: what no request was made of.
  void Log(std::string_view route, std::string_view status, const WireRequest* request = nullptr);
  bool StillWelcome();

  void Enqueue(std::string bytes);
  void Write();
  // Too much waits for the other side to read it: nothing is begun for it, nor read from it.
  bool BackedUp() const { return out_bytes_.load() >= context_->options.reply_bytes_high; }
  void RunParked();
  // Sends the error outside any request and closes once it is written.
  void CloseWith(const Status& status);
  void CloseAfterWrites();
  void CutOnStrand(bool counted);

  std::optional<Clock::time_point> NextDeadline() const;
  void Rearm();
  void OnTimer();
  void CloseIdleHandles(Clock::time_point now);
  size_t HandleCount() const;

  const WireContextPtr context_;
  const std::shared_ptr<wire::Stream> stream_;
  const boost::asio::any_io_executor executor_;
  std::string remote_address_;
  boost::asio::steady_timer timer_;
  std::optional<Clock::time_point> armed_;

  Phase phase_ = Phase::kPreface;
  std::array<uint8_t, wire::kPrefaceBytes> preface_{};
  size_t preface_filled_ = 0;
  std::vector<uint8_t> read_buffer_;
  wire::FrameReader reader_{wire::kHelloBytesMax};
  bool reading_ = false;
  bool held_ = false;  // not reading, because BackedUp
  Reservation frame_reservation_;
  std::string token_;
  std::string client_name_;  // as it says itself
  std::shared_ptr<const Principal> principal_;
  Clock::time_point principal_checked_{};

  std::map<uint64_t, WireRequestPtr> active_;
  std::atomic<size_t> active_count_{0};
  bool going_away_ = false;
  bool idle_notice_ = false;  // going away for idleness: a new request takes it back

  std::deque<std::string> out_;
  size_t out_offset_ = 0;  // of out_.front(), written
  std::atomic<size_t> out_bytes_{0};
  bool writing_ = false;
  std::deque<std::function<void()>> parked_;
  std::atomic<bool> closed_{false};
  std::atomic<bool> stopping_requests_{false};

  Clock::time_point hello_deadline_;
  std::optional<Clock::time_point> frame_began_;
  std::optional<Clock::time_point> write_deadline_;
  std::optional<Clock::time_point> closing_deadline_;
  Clock::time_point idle_since_;

  mutable std::mutex handles_mutex_;
  std::map<uint64_t, WireHandlePtr> handles_;  // handles_mutex_
  uint64_t last_handle_ = 0;                   // handles_mutex_
};

// Where a request waits, before it runs.
Lane LaneOf(const wire::fb::Request& message);
std::string CollectionOf(const wire::fb::Request& message);
// Serves it on a worker; the reply's last message ends it.
void HandleWireRequest(const WireRequestPtr& request);

}  // namespace msadb::server

#endif  // MSADB_SERVER_WIRE_SESSION_H_
