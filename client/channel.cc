#include "client/channel.h"

#include <netinet/tcp.h>

#include <algorithm>
#include <atomic>
#include <boost/asio/connect.hpp>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <deque>
#include <future>
#include <map>
#include <mutex>
#include <set>
#include <utility>

#include "client/codec.h"
#include "client/stream.h"

namespace msadb::client {
namespace {

namespace asio = boost::asio;
using asio::ip::tcp;
using wire::ErrorCode;
using Clock = std::chrono::steady_clock;
using ExchangePtr = std::shared_ptr<Exchange>;

constexpr size_t kReadBytes = 64u << 10;
// A server's own DeadlineExceeded is worth waiting for: it knows what it did.
constexpr std::chrono::milliseconds kDeadlineGrace{500};

Status WithUnknownOutcome(const Status& status) {
  return Status(status.code(), std::string(status.message()) + kOutcomeUnknownWords);
}

// One TCP connection. Handlers hold it, so that its buffers outlive them.
struct Link {
  std::shared_ptr<wire::Stream> stream;
  wire::FrameReader reader{0};
  std::vector<uint8_t> read_buffer = std::vector<uint8_t>(kReadBytes);
  struct Outgoing {
    std::string bytes;
    ExchangePtr exchange;  // null: a Cancel or the greeting
  };
  std::deque<Outgoing> out;
  bool writing = false;
  bool welcomed = false;
  bool going_away = false;
};
using LinkPtr = std::shared_ptr<Link>;

void SetSocketOptions(tcp::socket& socket) {
  ErrorCode ignored;
  socket.set_option(tcp::no_delay(true), ignored);
  socket.set_option(asio::socket_base::keep_alive(true), ignored);
  // A server whose machine is gone is noticed within about a minute.
  const auto set = [&](int name, int value) {
    ::setsockopt(socket.native_handle(), IPPROTO_TCP, name, &value, sizeof(value));
  };
  set(TCP_KEEPIDLE, 30);
  set(TCP_KEEPINTVL, 10);
  set(TCP_KEEPCNT, 3);
  set(TCP_USER_TIMEOUT, 60'000);
}

}  // namespace

// Everything below `Run` is touched by the channel's thread alone, but for `info` and the counts.
class Channel::Io : public std::enable_shared_from_this<Channel::Io> {
 public:
  explicit Io(ClientOptions options)
      : options_(std::move(options)),
        where_(options_.host + ":" + std::to_string(options_.port)),
        work_(asio::make_work_guard(context_)),
        resolver_(context_),
        connect_timer_(context_) {}

  Status SetUpTls() {
    if (!options_.tls.enabled) return Status::Ok();
    MSADB_ASSIGN_OR_RETURN(tls_, wire::MakeClientTls(options_.tls.ca_file, options_.tls.verify));
    return Status::Ok();
  }

  void Run() {
    for (;;) {
      try {
        context_.run();
        return;
      } catch (const std::exception& e) {
        // Out of memory, in all likelihood. The connection's state is unknown.
        Lose(Status::ResourceExhausted(std::string("the client failed: ") + e.what()));
      }
    }
  }

  template <typename Fn>
  void Post(Fn fn) {
    asio::post(context_, [self = shared_from_this(), fn = std::move(fn)] { fn(*self); });
  }

  void ConnectFirst(std::function<void(const Status&)> done) {
    first_ = std::move(done);
    BeginConnect();
  }

  // Counted before posting, so that callers are refused at once. Forget follows in any case.
  bool Admit(const Exchange& exchange) {
    const size_t requests = queued_requests_.fetch_add(1) + 1;
    const size_t bytes = queued_bytes_.fetch_add(exchange.payload.size()) + exchange.payload.size();
    return requests <= options_.queued_requests_max && bytes <= options_.queued_bytes_max;
  }
  void Forget(const Exchange& exchange) {
    queued_requests_.fetch_sub(1);
    queued_bytes_.fetch_sub(exchange.payload.size());
  }

  void Begin(ExchangePtr exchange) {
    if (closed_) return End(exchange, Status::Cancelled("the database was closed"));
    if (exchange->deadline) ArmTimer(exchange);
    waiting_.push_back(std::move(exchange));
    Pump();
  }

  void Abort(const ExchangePtr& exchange, const Status& reason) {
    if (exchange->progress.ended) return;
    const auto waits = std::find(waiting_.begin(), waiting_.end(), exchange);
    if (waits != waiting_.end()) {
      waiting_.erase(waits);
      return End(exchange, reason);
    }
    active_.erase(exchange->progress.number);
    if (link_ != nullptr && !exchange->progress.sent) {
      std::erase_if(link_->out, [&](const auto& out) { return out.exchange == exchange; });
      return End(exchange, reason);
    }
    abandoned_.insert(exchange->progress.number);
    SendCancel(exchange->progress.number);
    End(exchange, exchange->changes ? WithUnknownOutcome(reason) : reason);
  }

  void RequestCancel(const ExchangePtr& exchange) {
    if (!exchange->progress.ended && active_.contains(exchange->progress.number)) {
      SendCancel(exchange->progress.number);
    }
  }

  void Close() {
    closed_ = true;
    const Status status = Status::Cancelled("the database was closed");
    DropLink();
    EndAll(&waiting_, status);
    auto active = std::exchange(active_, {});
    for (auto& [number, exchange] : active) {
      End(exchange,
          exchange->changes && exchange->progress.sent ? WithUnknownOutcome(status) : status);
    }
    connect_timer_.cancel();
    resolver_.cancel();
    work_.reset();
  }

  ServerInfo info() const {
    std::lock_guard lock(info_mutex_);
    return info_;
  }
  const ClientOptions& options() const { return options_; }

 private:
  void ArmTimer(const ExchangePtr& exchange) {
    auto timer = std::make_shared<asio::steady_timer>(context_);
    timer->expires_at(*exchange->deadline + kDeadlineGrace);
    timer->async_wait(
        [self = shared_from_this(), weak = std::weak_ptr(exchange), timer](const ErrorCode& error) {
          const ExchangePtr exchange = weak.lock();
          if (error || exchange == nullptr) return;
          self->Abort(exchange, Status::DeadlineExceeded("no answer from " + self->where_ +
                                                         " within the time allowed"));
        });
    exchange->progress.timer = std::move(timer);
  }

  void End(const ExchangePtr& exchange, const Status& status) {
    if (!MarkEnded(exchange)) return;
    exchange->on_failed(status);
    exchange->on_failed = nullptr;
    exchange->on_frame = nullptr;
  }

  bool MarkEnded(const ExchangePtr& exchange) {
    if (std::exchange(exchange->progress.ended, true)) return false;
    if (exchange->progress.timer != nullptr) {
      std::static_pointer_cast<asio::steady_timer>(exchange->progress.timer)->cancel();
      exchange->progress.timer.reset();
    }
    Forget(*exchange);
    return true;
  }

  void EndAll(std::deque<ExchangePtr>* exchanges, const Status& status) {
    for (auto& exchange : std::exchange(*exchanges, {})) End(exchange, status);
  }

  // ---- Connecting

  void BeginConnect() {
    if (closed_ || connecting_) return;
    connecting_ = true;
    connect_timer_.expires_after(options_.connect_timeout);
    connect_timer_.async_wait([self = shared_from_this()](const ErrorCode& error) {
      if (error || !self->connecting_) return;
      self->Lose(Status::Unavailable("no answer from " + self->where_ + " within " +
                                     std::to_string(self->options_.connect_timeout.count()) +
                                     " ms"));
    });
    const uint64_t attempt = ++attempt_;
    resolver_.async_resolve(options_.host, std::to_string(options_.port),
                            [self = shared_from_this(), attempt](
                                const ErrorCode& error, tcp::resolver::results_type results) {
                              if (!self->connecting_ || attempt != self->attempt_) return;
                              if (error) return self->Lose(self->CannotReach(error));
                              self->ConnectTo(std::move(results), attempt);
                            });
  }

  Status CannotReach(const ErrorCode& error) const {
    return Status::Unavailable("cannot reach " + where_ + ": " + error.message() +
                               "; is the server running?");
  }

  void ConnectTo(tcp::resolver::results_type results, uint64_t attempt) {
    auto socket = std::make_shared<tcp::socket>(context_);
    connecting_socket_ = socket;
    asio::async_connect(
        *socket, results,
        [self = shared_from_this(), socket, attempt](const ErrorCode& error, const tcp::endpoint&) {
          if (!self->connecting_ || attempt != self->attempt_) return;
          if (error) return self->Lose(self->CannotReach(error));
          self->Connected(std::move(*socket));
        });
  }

  void Connected(tcp::socket socket) {
    connecting_socket_.reset();
    SetSocketOptions(socket);
    auto link = std::make_shared<Link>();
    link_ = link;
    link->reader.set_payload_bytes_max(options_.message_bytes_max);
    const TlsOptions& tls = options_.tls;
    if (tls.enabled) {
      link->stream = wire::MakeTlsStream(std::move(socket), tls_, /*server=*/false,
                                         tls.server_name.empty() ? options_.host : tls.server_name,
                                         tls.verify);
    } else {
      link->stream = wire::MakeStream(std::move(socket));
    }
    link->stream->Handshake([self = shared_from_this(), link](const ErrorCode& error) {
      if (link != self->link_) return;
      if (error) {
        return self->Lose(
            Status::Unavailable("no TLS connection to " + self->where_ + ": " + error.message()));
      }
      self->SayHello(link);
    });
  }

  void SayHello(const LinkPtr& link) {
    wire::Builder b;
    const auto token = wire::EncodeText(&b, options_.token);
    const auto name = wire::EncodeText(&b, options_.name);
    const auto hello = wire::FinishRequest(&b, wire::fb::CreateHello(b, token, name));
    const auto preface = wire::Preface();
    std::string bytes(preface.begin(), preface.end());
    bytes += wire::EncodeFrame(0, true, hello);
    link->out.push_back({std::move(bytes), nullptr});
    Write(link);
    Read(link);
  }

  void Welcome(const LinkPtr& link, const wire::Frame& frame) {
    const auto reply = wire::VerifyReply(frame.payload);
    if (!reply.ok()) return Lose(reply.status().WithContext(where_));
    if (const auto* error = (*reply)->body_as_Error()) {
      return Lose(wire::ReadError(*error).WithContext(where_));
    }
    const auto* welcome = (*reply)->body_as_Welcome();
    if (welcome == nullptr) {
      return Lose(Status::InvalidArgument(where_ + " did not greet as an msadb server does"));
    }
    wire::Decoder decoder(frame.payload.size());
    ServerInfo info;
    Status status = decoder.Read(welcome->model_fingerprint(), &info.model_fingerprint);
    if (status.ok()) {
      status = decoder.Read(welcome->model_description(), &info.model_description);
    }
    if (!status.ok()) return Lose(status.WithContext(where_));
    info.document_tokens_max = welcome->document_tokens_max();
    info.limits = wire::ReadLimits(welcome->limits());
    info.frame_bytes_max = welcome->frame_bytes_max();
    info.requests_max = std::max(1u, welcome->requests_max());
    requests_max_ = info.requests_max;
    info.epoch = ++epoch_;
    {
      std::lock_guard lock(info_mutex_);
      info_ = std::move(info);
    }
    link->welcomed = true;
    connecting_ = false;
    connect_timer_.cancel();
    if (first_) std::exchange(first_, nullptr)(Status::Ok());
    Pump();
  }

  // ---- Losing the connection

  void DropLink() {
    if (connecting_socket_ != nullptr) {
      ErrorCode ignored;
      connecting_socket_->close(ignored);
      connecting_socket_.reset();
    }
    if (link_ != nullptr) link_->stream->Close();
    link_.reset();
    connecting_ = false;
    connect_timer_.cancel();
    abandoned_.clear();
  }

  void Lose(const Status& status) {
    const bool was_up = link_ != nullptr && link_->welcomed;
    DropLink();
    std::deque<ExchangePtr> again;
    std::vector<std::pair<ExchangePtr, Status>> over;
    for (auto& [number, exchange] : std::exchange(active_, {})) {
      Exchange::Progress& progress = exchange->progress;
      const bool repeatable = !exchange->changes && !progress.answered && !progress.retried;
      if (exchange->epoch == 0 && options_.reconnect && (!progress.sent || repeatable)) {
        progress.retried = progress.sent;
        progress.sent = false;
        again.push_back(exchange);
      } else {
        over.emplace_back(exchange,
                          exchange->changes && progress.sent ? WithUnknownOutcome(status) : status);
      }
    }
    waiting_.insert(waiting_.begin(), again.begin(), again.end());
    if (first_) std::exchange(first_, nullptr)(status);
    for (auto& [exchange, reason] : over) End(exchange, reason);
    if (!was_up || !options_.reconnect) {
      EndAll(&waiting_, status);
    } else if (!waiting_.empty()) {
      BeginConnect();
    }
  }

  // ---- Sending

  void Pump() {
    if (waiting_.empty()) return;
    if (link_ == nullptr || !link_->welcomed) {
      if (link_ == nullptr && !connecting_) {
        if (epoch_ > 0 && !options_.reconnect) {
          return EndAll(&waiting_, Status::Unavailable("the connection to " + where_ +
                                                       " was lost; connect again"));
        }
        BeginConnect();
      }
      return;
    }
    while (!waiting_.empty() && !link_->going_away &&
           active_.size() + abandoned_.size() < requests_max_) {
      const ExchangePtr exchange = waiting_.front();
      waiting_.pop_front();
      if (exchange->epoch != 0 && exchange->epoch != epoch_) {
        End(exchange, Status::Unavailable("the connection to " + where_ +
                                          " was lost, and with it this transaction or snapshot; "
                                          "begin another one"));
        continue;
      }
      exchange->progress.number = ++last_number_;
      exchange->progress.epoch = epoch_;
      active_[last_number_] = exchange;
      link_->out.push_back({wire::EncodeFrame(last_number_, true, exchange->payload), exchange});
    }
    Write(link_);
  }

  void SendCancel(uint64_t number) {
    if (link_ == nullptr || !link_->welcomed) return;
    wire::Builder b(64);
    const auto cancel = wire::FinishRequest(&b, wire::fb::CreateCancel(b));
    link_->out.push_back({wire::EncodeFrame(number, true, cancel), nullptr});
    Write(link_);
  }

  void Write(const LinkPtr& link) {
    if (link->writing || link->out.empty()) return;
    link->writing = true;
    const Link::Outgoing& front = link->out.front();
    if (front.exchange != nullptr) front.exchange->progress.sent = true;
    link->stream->Write(asio::buffer(front.bytes),
                        [self = shared_from_this(), link](const ErrorCode& error, size_t) {
                          link->writing = false;
                          if (link != self->link_) return;
                          if (error) return self->Lose(self->ConnectionLost(error));
                          link->out.pop_front();
                          self->Write(link);
                        });
  }

  // ---- Receiving

  Status ConnectionLost(const ErrorCode& error) const {
    return Status::Unavailable("the connection to " + where_ + " was lost: " + error.message());
  }

  void Read(const LinkPtr& link) {
    link->stream->Read(asio::buffer(link->read_buffer),
                       [self = shared_from_this(), link](const ErrorCode& error, size_t n) {
                         if (link != self->link_) return;
                         if (error) return self->Lose(self->ConnectionLost(error));
                         self->Take(link, {link->read_buffer.data(), n});
                       });
  }

  void Take(const LinkPtr& link, std::span<const uint8_t> bytes) {
    while (!bytes.empty()) {
      wire::Frame frame;
      const auto complete = link->reader.Next(&bytes, &frame);
      if (!complete.ok()) return Lose(complete.status().WithContext(where_));
      if (!*complete) break;
      Dispatch(link, std::move(frame));
      if (link != link_) return;
    }
    Read(link);
  }

  void Dispatch(const LinkPtr& link, wire::Frame frame) {
    if (!link->welcomed) return Welcome(link, frame);
    if (frame.request == 0) {
      // For the whole connection: why it ends now, or that it will end.
      const auto reply = wire::VerifyReply(frame.payload);
      if (!reply.ok()) return Lose(reply.status().WithContext(where_));
      if (const auto* error = (*reply)->body_as_Error()) {
        return Lose(wire::ReadError(*error).WithContext(where_));
      }
      link->going_away = true;
      return LeaveIfDone(link);
    }
    if (frame.last && abandoned_.erase(frame.request) > 0) {
      LeaveIfDone(link);
      return Pump();
    }
    const auto found = active_.find(frame.request);
    if (found == active_.end()) return;
    const ExchangePtr exchange = found->second;
    exchange->progress.answered = true;
    if (!frame.last) return exchange->on_frame(std::move(frame));
    active_.erase(found);
    MarkEnded(exchange);
    exchange->on_frame(std::move(frame));
    exchange->on_frame = nullptr;
    exchange->on_failed = nullptr;
    if (link != link_) return;
    LeaveIfDone(link);
    Pump();
  }

  void LeaveIfDone(const LinkPtr& link) {
    if (link != link_ || !link->going_away || !active_.empty()) return;
    DropLink();
    Pump();
  }

  const ClientOptions options_;
  const std::string where_;
  asio::io_context context_{1};
  asio::executor_work_guard<asio::io_context::executor_type> work_;
  tcp::resolver resolver_;
  asio::steady_timer connect_timer_;
  wire::TlsContext tls_;
  std::shared_ptr<tcp::socket> connecting_socket_;
  std::function<void(const Status&)> first_;

  bool closed_ = false;
  bool connecting_ = false;
  uint64_t attempt_ = 0;
  uint64_t epoch_ = 0;
  uint64_t last_number_ = 0;
  uint32_t requests_max_ = 1;
  LinkPtr link_;
  std::deque<ExchangePtr> waiting_;         // not yet given to a connection
  std::map<uint64_t, ExchangePtr> active_;  // given to link_, not ended
  std::set<uint64_t> abandoned_;            // ended here, not yet at the server

  mutable std::mutex info_mutex_;
  ServerInfo info_;
  std::atomic<size_t> queued_requests_{0};
  std::atomic<size_t> queued_bytes_{0};
};

Result<std::shared_ptr<Channel>> Channel::Open(const ClientOptions& options) {
  std::shared_ptr<Channel> channel(new Channel);
  channel->io_ = std::make_shared<Io>(options);
  MSADB_RETURN_IF_ERROR(channel->io_->SetUpTls());
  channel->thread_ = std::thread([io = channel->io_] { io->Run(); });
  auto connected = std::make_shared<std::promise<Status>>();
  channel->io_->Post([connected](Io& io) {
    io.ConnectFirst([connected](const Status& status) { connected->set_value(status); });
  });
  MSADB_RETURN_IF_ERROR(connected->get_future().get());
  return channel;
}

Channel::~Channel() {
  if (!thread_.joinable()) return;
  io_->Post([](Io& io) { io.Close(); });
  // The last owner may let go in one of its own callbacks.
  if (on_own_thread()) {
    thread_.detach();
  } else {
    thread_.join();
  }
}

void Channel::Start(std::shared_ptr<Exchange> exchange) {
  if (!io_->Admit(*exchange)) {
    io_->Forget(*exchange);
    exchange->progress.ended = true;
    return exchange->on_failed(Status::ResourceExhausted(
        "too many requests wait for the server; wait for some of them, or raise "
        "ClientOptions::queued_requests_max and queued_bytes_max"));
  }
  io_->Post([exchange = std::move(exchange)](Io& io) { io.Begin(exchange); });
}

void Channel::Abort(std::shared_ptr<Exchange> exchange, Status reason) {
  io_->Post([exchange = std::move(exchange), reason = std::move(reason)](Io& io) {
    io.Abort(exchange, reason);
  });
}

void Channel::RequestCancel(std::shared_ptr<Exchange> exchange) {
  io_->Post([exchange = std::move(exchange)](Io& io) { io.RequestCancel(exchange); });
}

ServerInfo Channel::info() const { return io_->info(); }
const ClientOptions& Channel::options() const { return io_->options(); }

}  // namespace msadb::client
