#include "server/http_server.h"

#include <openssl/ssl.h>

#include <atomic>
#include <boost/asio/bind_executor.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/ssl.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/strand.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http/error.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/status.hpp>
#include <boost/beast/http/string_body.hpp>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>
#include <unordered_map>

namespace msadb::server {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;
using boost::system::error_code;
using Clock = std::chrono::steady_clock;
using Tcp = asio::ip::tcp;

constexpr size_t kReadBytes = 32u << 10;
// After an early refusal the rest of a body is read and dropped, so that the client gets to see the
// reply instead of a reset.
constexpr size_t kLingerBytesMax = 1u << 20;
constexpr std::chrono::milliseconds kLingerTime{2000};

// An IPv4 peer of a socket that listens for IPv6 too is itself, not "::ffff:192.0.2.1".
std::string AddressText(const asio::ip::address& address) {
  if (address.is_v6() && address.to_v6().is_v4_mapped()) {
    return asio::ip::make_address_v4(asio::ip::v4_mapped, address.to_v6()).to_string();
  }
  return address.to_string();
}

class SessionBase {
 public:
  virtual ~SessionBase() = default;
  virtual void Start() = 0;
  virtual void CloseWhenIdle() = 0;
  virtual void Cut() = 0;
};

// What all connections of one server share.
class Connections {
 public:
  Connections(HttpService* s, const HttpServerOptions& o) : service(s), options(o) {}

  // False when there are too many already.
  bool Add(const std::shared_ptr<SessionBase>& session) {
    std::lock_guard lock(mutex_);
    if (sessions_.size() >= options.connections_max) return false;
    sessions_.emplace(session.get(), session);
    ++service->metrics().connections;
    ++service->metrics().connections_accepted;
    return true;
  }
  void Remove(SessionBase* session) {
    std::lock_guard lock(mutex_);
    if (sessions_.erase(session) > 0) --service->metrics().connections;
    if (sessions_.empty()) empty_.notify_all();
  }
  std::vector<std::shared_ptr<SessionBase>> All() {
    std::lock_guard lock(mutex_);
    std::vector<std::shared_ptr<SessionBase>> all;
    for (const auto& [key, weak] : sessions_) {
      if (auto session = weak.lock()) all.push_back(std::move(session));
    }
    return all;
  }
  void WaitUntilNone(std::chrono::milliseconds patience) {
    std::unique_lock lock(mutex_);
    empty_.wait_for(lock, patience, [this] { return sessions_.empty(); });
  }

  HttpService* const service;
  const HttpServerOptions options;
  std::atomic<bool> stopping{false};

 private:
  std::mutex mutex_;
  std::condition_variable empty_;
  std::unordered_map<SessionBase*, std::weak_ptr<SessionBase>> sessions_;
};

std::string ReplyHead(const HttpReply& reply, bool keep_alive, std::string_view framing) {
  std::string head = "HTTP/1.1 " + std::to_string(reply.status) + " ";
  head += reply.status == 499
              ? "Client Closed Request"
              : std::string(http::obsolete_reason(static_cast<http::status>(reply.status)));
  head += "\r\n";
  if (reply.status != 202 || !reply.body.empty()) {
    head += "Content-Type: " + reply.content_type + "\r\n";
  }
  head +=
      "Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n"
      "Referrer-Policy: no-referrer\r\n";
  for (const auto& [name, value] : reply.fields) head += name + ": " + value + "\r\n";
  head += framing;
  head += keep_alive ? "Connection: keep-alive\r\n\r\n" : "Connection: close\r\n\r\n";
  return head;
}

// One connection. Everything but the Exchange methods runs on its strand.
//
// At most one read and one write are pending. While a request is served, a read is kept pending to
// notice that the client hangs up; it is started only when the buffer is empty, because nothing may
// be consumed from the buffer while a read into it is pending.
template <typename Stream>
class Session : public SessionBase,
                public Exchange,
                public std::enable_shared_from_this<Session<Stream>> {
 public:
  Session(Stream stream, std::shared_ptr<Connections> connections)
      : stream_(std::move(stream)),
        timer_(stream_.get_executor()),
        connections_(std::move(connections)),
        options_(connections_->options),
        service_(*connections_->service) {}
  ~Session() override {
    ReleaseBody();
    connections_->Remove(this);
  }

  void Start() override {
    asio::post(stream_.get_executor(), [self = this->shared_from_this()] { self->Open(); });
  }
  void CloseWhenIdle() override {
    asio::post(stream_.get_executor(), [self = this->shared_from_this()] {
      self->keep_alive_ = false;
      if (self->phase_ == Phase::kHead && !self->head_begun_) self->Close();
    });
  }
  void Cut() override {
    asio::post(stream_.get_executor(), [self = this->shared_from_this()] { self->Close(); });
  }

  // Exchange
  void Reply(HttpReply reply) override {
    asio::post(stream_.get_executor(),
               [self = this->shared_from_this(), reply = std::move(reply)]() mutable {
                 self->SendWhole(std::move(reply));
               });
  }
  void Begin(HttpReply head) override {
    asio::post(stream_.get_executor(),
               [self = this->shared_from_this(), head = std::move(head)]() mutable {
                 self->status_ = head.status;
                 self->Send(ReplyHead(head, self->KeepAlive(), "Transfer-Encoding: chunked\r\n"));
               });
  }
  bool Write(std::string piece) override {
    if (gone_ || waiting_bytes_.fetch_add(piece.size()) > options_.stream_bytes_waiting_max) {
      return false;
    }
    asio::post(stream_.get_executor(),
               [self = this->shared_from_this(), piece = std::move(piece)]() mutable {
                 char size[20];
                 std::snprintf(size, sizeof(size), "%zx\r\n", piece.size());
                 self->streamed_bytes_ += piece.size();
                 self->Send(size + std::move(piece) + "\r\n");
               });
    return true;
  }
  void End() override {
    asio::post(stream_.get_executor(), [self = this->shared_from_this()] {
      self->complete_ = true;
      self->Send("0\r\n\r\n");
    });
  }

 private:
  enum class Phase { kHandshake, kHead, kBody, kServing, kLinger, kClosed };
  static constexpr bool kSecure = !std::is_same_v<Stream, Tcp::socket>;

  Tcp::socket& socket() {
    if constexpr (kSecure) {
      return stream_.next_layer();
    } else {
      return stream_;
    }
  }

  void Open() {
    error_code error;
    socket().set_option(Tcp::no_delay(true), error);
    const auto remote = socket().remote_endpoint(error);
    if (!error) remote_address_ = AddressText(remote.address());
    if constexpr (kSecure) {
      SetDeadline(options_.handshake_time);
      stream_.async_handshake(asio::ssl::stream_base::server,
                              [self = this->shared_from_this()](const error_code& error) {
                                if (error) return self->Close();
                                self->NextRequest();
                              });
    } else {
      NextRequest();
    }
  }

  void NextRequest() {
    if (phase_ == Phase::kClosed) return;
    if (connections_->stopping) return Close();
    phase_ = Phase::kHead;
    head_begun_ = false;
    complete_ = false;
    status_ = 0;
    streamed_bytes_ = 0;
    waiting_bytes_ = 0;
    call_.reset();
    parser_.emplace();
    parser_->header_limit(options_.header_bytes_max);
    SetDeadline(options_.idle_time);
    if (buffer_.size() > 0) {
      BeginHead();
      Parse();
    } else {
      Read();
    }
  }

  void BeginHead() {
    head_begun_ = true;
    began_at_ = Clock::now();
    SetDeadline(options_.header_time);
  }

  void Read() {
    if (reading_ || phase_ == Phase::kClosed) return;
    reading_ = true;
    stream_.async_read_some(buffer_.prepare(kReadBytes),
                            [self = this->shared_from_this()](const error_code& error, size_t n) {
                              self->OnRead(error, n);
                            });
  }

  void OnRead(const error_code& error, size_t bytes) {
    reading_ = false;
    if (phase_ == Phase::kClosed) return;
    buffer_.commit(bytes);
    if (error) {
      // A request cut short needs no reply; one being served has lost its reader.
      if (phase_ != Phase::kServing) return Close();
      keep_alive_ = false;
      if (complete_) return;  // it may well have the reply already; writing the rest tells
      gone_ = true;
      if (call_) call_->stop.request_stop();
      return;
    }
    switch (phase_) {
      case Phase::kHead:
        if (!head_begun_) BeginHead();
        return Parse();
      case Phase::kBody:
        return Parse();
      case Phase::kLinger:
        lingered_bytes_ += bytes;
        buffer_.consume(buffer_.size());
        return lingered_bytes_ > kLingerBytesMax ? Close() : Read();
      default:
        return;  // the next request, early: it waits
    }
  }

  void Parse() {
    error_code error;
    while (buffer_.size() > 0 && !parser_->is_done()) {
      if (phase_ == Phase::kBody && !ReserveBody()) return;
      const size_t used = parser_->put(buffer_.data(), error);
      buffer_.consume(used);
      if (error == http::error::need_more) {
        // A head longer than allowed ends here, one in pieces goes on.
        if (buffer_.size() > 2 * size_t{options_.header_bytes_max} + kReadBytes) {
          return Refuse(400, "a line is too long");
        }
        return Read();
      }
      if (error) return RefuseMalformed(error);
      if (phase_ == Phase::kHead && parser_->is_header_done()) {
        if (!OnHead()) return;
      }
    }
    if (parser_->is_done()) return ServeCall();
    Read();
  }

  // False when the request was refused.
  bool OnHead() {
    const auto& message = parser_->get();
    const auto only = [&](http::field field) {
      return std::string(message.count(field) == 1 ? message[field] : beast::string_view());
    };
    client_keeps_alive_ = message.keep_alive();
    is_head_ = message.method() == http::verb::head;
    for (const http::field field : {http::field::host, http::field::origin,
                                    http::field::authorization, http::field::content_type}) {
      if (message.count(field) > 1) {
        Refuse(400, "a header field occurs twice");
        return false;
      }
    }
    RequestHead head;
    head.method = std::string(message.method_string());
    head.target = std::string(message.target());
    head.host = only(http::field::host);
    head.origin = only(http::field::origin);
    head.authorization = only(http::field::authorization);
    head.content_type = only(http::field::content_type);
    head.chunked = parser_->chunked();
    if (const auto length = parser_->content_length()) head.content_length = *length;
    head.secure = kSecure;
    error_code error;
    const auto local = socket().local_endpoint(error);
    if (!error) head.local_address = AddressText(local.address());
    head.remote_address = remote_address_;

    auto admitted = service_.Admit(head);
    if (auto* refusal = std::get_if<HttpReply>(&admitted)) {
      if (!parser_->is_done()) keep_alive_ = false;
      SendWhole(std::move(*refusal));
      return false;
    }
    call_ = std::move(std::get<std::shared_ptr<Call>>(admitted));
    phase_ = Phase::kBody;
    SetDeadline(options_.body_time);
    parser_->body_limit(std::max<uint64_t>(call_->route->body_bytes_max, 1));
    parser_->eager(true);
    if (!parser_->is_done() && !ReserveBody()) return false;
    if (!parser_->is_done() && beast::iequals(message[http::field::expect], "100-continue")) {
      Send("HTTP/1.1 100 Continue\r\n\r\n");
    }
    return true;
  }

  // Takes memory from what all connections share, for an announced length at once, for chunks as
  // they come. False when the request was refused.
  bool ReserveBody() {
    const auto length = parser_->content_length();
    size_t needed = parser_->get().body().size() + buffer_.size();
    if (length) needed = std::max<size_t>(needed, *length);
    needed = std::min(needed, call_->route->body_bytes_max);
    if (needed <= body_bytes_) return true;
    const size_t step = std::max(needed - body_bytes_, body_bytes_);
    if (!service_.TakeBodyBytes(step)) {
      keep_alive_ = false;
      SendWhole(ErrorReply(Status::Unavailable("too much is being sent at once; try again later")));
      return false;
    }
    body_bytes_ += step;
    return true;
  }

  void ReleaseBody() {
    service_.GiveBackBodyBytes(body_bytes_);
    body_bytes_ = 0;
  }

  void Refuse(unsigned status, const std::string& what) {
    keep_alive_ = false;
    HttpReply reply = ErrorReply(Status::InvalidArgument(what));
    reply.status = status;
    SendWhole(std::move(reply));
  }

  void RefuseMalformed(const error_code& error) {
    if (error == http::error::header_limit) return Refuse(431, "the header is too long");
    if (error == http::error::body_limit) return Refuse(413, "the body is too long");
    Refuse(400, "malformed HTTP: " + error.message());
  }

  void ServeCall() {
    if (!call_) return;
    phase_ = Phase::kServing;
    ClearDeadline();
    received_bytes_ = parser_->get().body().size();
    call_->body = std::move(parser_->get().body());
    if (buffer_.size() == 0) Read();
    service_.Serve(call_, this->shared_from_this());
  }

  bool KeepAlive() const { return keep_alive_ && client_keeps_alive_ && !connections_->stopping; }

  void SendWhole(HttpReply reply) {
    if (phase_ == Phase::kClosed) return;
    phase_ = Phase::kServing;
    status_ = reply.status;
    complete_ = true;
    streamed_bytes_ = reply.body.size();
    std::string bytes = ReplyHead(reply, KeepAlive(),
                                  "Content-Length: " + std::to_string(reply.body.size()) + "\r\n");
    if (!is_head_) bytes += reply.body;
    Send(std::move(bytes));
  }

  void Send(std::string bytes) {
    if (phase_ == Phase::kClosed) return;
    out_.push_back(std::move(bytes));
    if (!writing_) WriteNext();
  }

  void WriteNext() {
    writing_ = true;
    SetDeadline(phase_ == Phase::kBody ? options_.body_time : options_.write_time);
    asio::async_write(stream_, asio::buffer(out_.front()),
                      [self = this->shared_from_this()](const error_code& error, size_t) {
                        self->OnWritten(error);
                      });
  }

  void OnWritten(const error_code& error) {
    writing_ = false;
    if (phase_ == Phase::kClosed) return;
    if (error) return Close();
    if (phase_ == Phase::kServing) ClearDeadline();
    const size_t sent = out_.front().size();
    // What was counted in Write is less than what was sent for it, by its framing.
    size_t waiting = waiting_bytes_.load();
    while (!waiting_bytes_.compare_exchange_weak(waiting, waiting - std::min(waiting, sent))) {
    }
    out_.pop_front();
    if (!out_.empty()) return WriteNext();
    if (complete_) OnReplied();
  }

  void OnReplied() {
    Finish();
    if (KeepAlive()) {
      // A read may be pending, then nothing is buffered and it brings the next request.
      return NextRequest();
    }
    error_code ignored;
    socket().shutdown(Tcp::socket::shutdown_send, ignored);
    phase_ = Phase::kLinger;
    buffer_.consume(reading_ ? 0 : buffer_.size());
    SetDeadline(kLingerTime);
    Read();
  }

  // Tells the service what became of a request. Once for each.
  void Finish() {
    if (!head_begun_) return;
    head_begun_ = false;
    service_.Finished({.route = call_ ? call_->route : nullptr,
                       .principal = call_ && call_->principal ? call_->principal->name() : "",
                       .remote_address = remote_address_,
                       .status = gone_ ? 0 : status_,
                       .body_bytes = received_bytes_,
                       .reply_bytes = streamed_bytes_,
                       .took = Clock::now() - began_at_});
    received_bytes_ = 0;
    ReleaseBody();
  }

  void SetDeadline(std::chrono::milliseconds time) {
    timer_.expires_after(time);
    timer_.async_wait([weak = this->weak_from_this()](const error_code& error) {
      const auto self = weak.lock();
      if (error || !self || self->timer_.expiry() > Clock::now()) return;
      if (self->phase_ != Phase::kLinger) ++self->service_.metrics().connections_timed_out;
      self->Close();
    });
  }

  // A wait that ended just before finds the later time and does nothing.
  void ClearDeadline() { timer_.expires_at(Clock::time_point::max()); }

  void Close() {
    if (phase_ == Phase::kClosed) return;
    gone_ = true;
    if (call_) call_->stop.request_stop();
    if (phase_ != Phase::kLinger) Finish();
    phase_ = Phase::kClosed;
    timer_.cancel();
    error_code ignored;
    socket().shutdown(Tcp::socket::shutdown_both, ignored);
    socket().close(ignored);
  }

  Stream stream_;
  asio::steady_timer timer_;
  const std::shared_ptr<Connections> connections_;
  const HttpServerOptions& options_;
  HttpService& service_;

  Phase phase_ = Phase::kHandshake;
  beast::flat_buffer buffer_;
  std::optional<http::request_parser<http::string_body>> parser_;
  std::shared_ptr<Call> call_;  // null until a request was admitted
  bool reading_ = false;
  bool writing_ = false;
  bool head_begun_ = false;  // a request is under way
  bool complete_ = false;    // all of the reply is in out_
  bool keep_alive_ = true;
  bool client_keeps_alive_ = true;
  bool is_head_ = false;
  std::deque<std::string> out_;
  size_t body_bytes_ = 0;  // taken from the service
  size_t lingered_bytes_ = 0;

  Clock::time_point began_at_{};
  std::string remote_address_;
  unsigned status_ = 0;
  uint64_t received_bytes_ = 0;
  uint64_t streamed_bytes_ = 0;

  std::atomic<bool> gone_{false};
  std::atomic<size_t> waiting_bytes_{0};
};

class HttpServerImpl : public HttpServer {
 public:
  HttpServerImpl(HttpService* service, const HttpServerOptions& options)
      : connections_(std::make_shared<Connections>(service, options)),
        acceptor_(asio::make_strand(io_)) {}
  ~HttpServerImpl() override { Stop(std::chrono::milliseconds(0)); }

  Status Listen() {
    const HttpServerOptions& options = connections_->options;
    error_code error;
    const auto address = asio::ip::make_address(options.address, error);
    if (error) {
      return Status::InvalidArgument("'" + options.address + "' is not an IP address to listen on");
    }
    if (!options.tls_certificate.empty()) MSADB_RETURN_IF_ERROR(LoadCertificate());
    const Tcp::endpoint endpoint(address, options.port);
    const auto failed = [&] {
      return Status::IOError("cannot listen on " + options.address + " port " +
                             std::to_string(options.port) + ": " + error.message());
    };
    acceptor_.open(endpoint.protocol(), error);
    if (error) return failed();
    acceptor_.set_option(asio::socket_base::reuse_address(true), error);
    if (error) return failed();
    acceptor_.bind(endpoint, error);
    if (error) return failed();
    acceptor_.listen(asio::socket_base::max_listen_connections, error);
    if (error) return failed();
    port_ = acceptor_.local_endpoint(error).port();
    Accept();
    for (int i = 0; i < std::max(1, options.threads); ++i) {
      threads_.emplace_back([this] { io_.run(); });
    }
    return Status::Ok();
  }

  uint16_t port() const override { return port_; }

  void StopAccepting() override {
    connections_->stopping = true;
    asio::post(acceptor_.get_executor(), [this] {
      error_code ignored;
      acceptor_.close(ignored);
    });
    for (const auto& session : connections_->All()) session->CloseWhenIdle();
  }

  void Stop(std::chrono::milliseconds patience) override {
    if (threads_.empty()) return;
    StopAccepting();
    connections_->WaitUntilNone(patience);
    for (const auto& session : connections_->All()) session->Cut();
    connections_->WaitUntilNone(std::chrono::milliseconds(1000));
    io_.stop();
    for (std::thread& thread : threads_) thread.join();
    threads_.clear();
  }

 private:
  Status LoadCertificate() {
    const HttpServerOptions& options = connections_->options;
    tls_.emplace(asio::ssl::context::tls_server);
    SSL_CTX_set_min_proto_version(tls_->native_handle(), TLS1_2_VERSION);
    SSL_CTX_set_options(tls_->native_handle(), SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION);
    error_code error;
    tls_->use_certificate_chain_file(options.tls_certificate, error);
    if (error) {
      return Status::InvalidArgument(options.tls_certificate +
                                     " is no PEM certificate: " + error.message());
    }
    tls_->use_private_key_file(options.tls_key, asio::ssl::context::pem, error);
    if (error) {
      return Status::InvalidArgument(options.tls_key +
                                     " is no PEM key of that certificate: " + error.message());
    }
    return Status::Ok();
  }

  void Accept() {
    acceptor_.async_accept(
        asio::make_strand(io_), [this](const error_code& error, Tcp::socket socket) {
          if (!acceptor_.is_open()) return;
          if (!error) {
            Welcome(std::move(socket));
          } else if (error == asio::error::no_descriptors || error == asio::error::no_memory) {
            // Trying again at once would spin until a connection ends.
            pause_.expires_after(std::chrono::milliseconds(50));
            pause_.async_wait([this](const error_code& cancelled) {
              if (!cancelled) Accept();
            });
            return;
          }
          Accept();
        });
  }

  void Welcome(Tcp::socket socket) {
    std::shared_ptr<SessionBase> session;
    if (tls_) {
      session = std::make_shared<Session<asio::ssl::stream<Tcp::socket>>>(
          asio::ssl::stream<Tcp::socket>(std::move(socket), *tls_), connections_);
    } else {
      session = std::make_shared<Session<Tcp::socket>>(std::move(socket), connections_);
    }
    if (!connections_->Add(session)) {
      ++connections_->service->metrics().connections_refused;
      return;
    }
    session->Start();
  }

  const std::shared_ptr<Connections> connections_;
  std::optional<asio::ssl::context> tls_;
  asio::io_context io_;
  Tcp::acceptor acceptor_;
  asio::steady_timer pause_{acceptor_.get_executor()};
  std::vector<std::thread> threads_;
  uint16_t port_ = 0;
};

}  // namespace

Result<std::unique_ptr<HttpServer>> HttpServer::Start(HttpService* service,
                                                      const HttpServerOptions& options) {
  auto server = std::make_unique<HttpServerImpl>(service, options);
  MSADB_RETURN_IF_ERROR(server->Listen());
  return std::unique_ptr<HttpServer>(std::move(server));
}

}  // namespace msadb::server
