#include "server/wire_server.h"

#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/strand.hpp>
#include <condition_variable>
#include <thread>
#include <utility>

#include "server/wire_session.h"

namespace msadb::server {
namespace {

namespace asio = boost::asio;
using asio::ip::tcp;
using wire::ErrorCode;

Status CheckOptions(const WireServerOptions& options, const WireServices& services,
                    const asio::ip::address& address) {
  if (services.database == nullptr || services.admission == nullptr) {
    return Status::InvalidArgument("WireServices needs a database and an Admission");
  }
  if (options.threads < 1 || options.threads > 256 || options.connections_max == 0 ||
      options.requests_max == 0 || options.handles_max == 0) {
    return Status::InvalidArgument("WireServerOptions: threads must be 1 to 256, and no maximum 0");
  }
  if (options.frame_bytes_max < wire::kHelloBytesMax || options.frame_bytes_max > (1u << 30)) {
    return Status::InvalidArgument("WireServerOptions::frame_bytes_max must be 4 KiB to 1 GiB");
  }
  for (const auto timeout : {options.hello_timeout, options.frame_timeout, options.write_timeout,
                             options.idle_timeout, options.handle_idle_timeout}) {
    if (timeout.count() <= 0) {
      return Status::InvalidArgument("WireServerOptions: a time limit must be positive");
    }
  }
  if (options.certificate_file.empty() != options.key_file.empty()) {
    return Status::InvalidArgument("TLS needs both a certificate and a key");
  }
  if (options.insecure) return Status::Ok();
  if (services.tokens == nullptr) {
    return Status::InvalidArgument("a server without tokens serves anybody; give it a token file");
  }
  if (!address.is_loopback() && options.certificate_file.empty()) {
    return Status::InvalidArgument("'" + options.address +
                                   "' can be reached from other machines, and without TLS tokens "
                                   "could be read on the way; give a certificate and a key, or "
                                   "listen on 127.0.0.1");
  }
  return Status::Ok();
}

class Server final : public WireServer {
 public:
  explicit Server(const WireServerOptions& options, const WireServices& services)
      : context_(std::make_shared<WireContext>()),
        work_(asio::make_work_guard(context_->io)),
        acceptor_(asio::make_strand(context_->io)),
        retry_(acceptor_.get_executor()) {
    context_->options = options;
    context_->services = services;
  }

  // Handlers and requests hold connections, and those the context: nobody may be left when the
  // threads go, or the database would stay open.
  ~Server() override {
    Shutdown(std::chrono::milliseconds(0));
    while (!threads_.empty()) {
      const auto sessions = Sessions();
      if (sessions.empty() && context_->requests_alive.load() == 0) break;
      for (const auto& session : sessions) session->Cut();
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    work_.reset();
    for (std::thread& thread : threads_) thread.join();
    // A worker may still be letting go of its last request; the database closes now all the same.
    context_->services.database.reset();
  }

  Status Listen() {
    const WireServerOptions& options = context_->options;
    ErrorCode error;
    const auto address = asio::ip::make_address(options.address, error);
    if (error) {
      return Status::InvalidArgument("'" + options.address +
                                     "' is no address; use 127.0.0.1 or "
                                     "another one of this machine");
    }
    MSADB_RETURN_IF_ERROR(CheckOptions(options, context_->services, address));
    if (!options.certificate_file.empty()) {
      MSADB_ASSIGN_OR_RETURN(tls_, wire::MakeServerTls(options.certificate_file, options.key_file));
    }
    const tcp::endpoint endpoint(address, options.port);
    acceptor_.open(endpoint.protocol(), error);
    if (!error) acceptor_.set_option(tcp::acceptor::reuse_address(true), error);
    if (!error) acceptor_.bind(endpoint, error);
    if (!error) acceptor_.listen(asio::socket_base::max_listen_connections, error);
    if (error) {
      return Status::Unavailable("cannot listen on " + options.address + ":" +
                                 std::to_string(options.port) + ": " + error.message());
    }
    port_ = acceptor_.local_endpoint(error).port();
    for (int i = 0; i < options.threads; ++i) threads_.emplace_back([this] { Work(); });
    asio::post(acceptor_.get_executor(), [this] { Accept(); });
    return Status::Ok();
  }

  uint16_t port() const override { return port_; }

  WireStats stats() const override {
    WireStats stats;
    {
      std::lock_guard lock(context_->mutex);
      stats.connections = context_->sessions.size();
      for (const auto& session : context_->sessions) stats.reply_bytes += session->reply_bytes();
    }
    stats.requests_active = context_->requests_active.load();
    stats.handles = context_->handles.load();
    stats.connections_accepted = context_->connections_accepted.load();
    stats.connections_cut = context_->connections_cut.load();
    stats.hellos_refused = context_->hellos_refused.load();
    stats.requests = context_->requests.load();
    stats.request_errors = context_->request_errors.load();
    return stats;
  }

  bool Shutdown(std::chrono::milliseconds patience) override {
    asio::post(acceptor_.get_executor(), [this] {
      ErrorCode ignored;
      acceptor_.close(ignored);
      retry_.cancel();
    });
    stopping_.store(true);
    const auto deadline = std::chrono::steady_clock::now() + patience;
    for (const auto& session : Sessions()) session->GoAway("the server is stopping");
    // Few and short waits: a server stops once.
    bool all = false;
    for (;;) {
      all = true;
      for (const auto& session : Sessions()) all = all && !session->has_requests();
      if (all || std::chrono::steady_clock::now() >= deadline) break;
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
    if (!all) {
      for (const auto& session : Sessions()) session->StopRequests();
    }
    // The last replies are on their way; give them the time to be taken.
    const auto linger =
        std::chrono::steady_clock::now() + std::chrono::seconds(patience.count() > 0 ? 2 : 0);
    while (!Sessions().empty() && std::chrono::steady_clock::now() < linger) {
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
    for (const auto& session : Sessions()) session->Cut();
    return all;
  }

 private:
  std::vector<std::shared_ptr<WireSession>> Sessions() const {
    std::lock_guard lock(context_->mutex);
    return {context_->sessions.begin(), context_->sessions.end()};
  }

  void Work() {
    for (;;) {
      try {
        context_->io.run();
        return;
      } catch (const std::exception&) {
        // Out of memory in one connection's handler; the others go on.
      }
    }
  }

  void Accept() {
    acceptor_.async_accept(asio::make_strand(context_->io),
                           [this](const ErrorCode& error, tcp::socket socket) {
                             if (stopping_.load() || !acceptor_.is_open()) return;
                             if (error) return RetryLater();
                             Serve(std::move(socket));
                             Accept();
                           });
  }

  // Out of descriptors, for one: accepting again at once would spin.
  void RetryLater() {
    retry_.expires_after(std::chrono::milliseconds(100));
    retry_.async_wait([this](const ErrorCode& error) {
      if (!error && !stopping_.load()) Accept();
    });
  }

  void Serve(tcp::socket socket) {
    context_->connections_accepted.fetch_add(1);
    std::shared_ptr<WireSession> session;
    {
      std::lock_guard lock(context_->mutex);
      if (context_->sessions.size() >= context_->options.connections_max) {
        context_->connections_cut.fetch_add(1);
        return;  // destroying the socket closes it
      }
      ErrorCode ignored;
      socket.set_option(tcp::no_delay(true), ignored);
      socket.set_option(asio::socket_base::keep_alive(true), ignored);
      std::shared_ptr<wire::Stream> stream =
          tls_ == nullptr ? wire::MakeStream(std::move(socket))
                          : wire::MakeTlsStream(std::move(socket), tls_, /*server=*/true, "",
                                                /*verify=*/false);
      session = std::make_shared<WireSession>(context_, std::move(stream));
      context_->sessions.insert(session);
    }
    session->PostStart();
  }

  const WireContextPtr context_;
  asio::executor_work_guard<asio::io_context::executor_type> work_;
  tcp::acceptor acceptor_;
  asio::steady_timer retry_;
  wire::TlsContext tls_;
  uint16_t port_ = 0;
  std::atomic<bool> stopping_{false};
  std::vector<std::thread> threads_;
};

}  // namespace

Result<std::unique_ptr<WireServer>> StartWireServer(const WireServerOptions& options,
                                                    const WireServices& services) {
  try {
    auto server = std::make_unique<Server>(options, services);
    MSADB_RETURN_IF_ERROR(server->Listen());
    return std::unique_ptr<WireServer>(std::move(server));
  } catch (const std::exception& e) {
    return Status::ResourceExhausted(std::string("the server cannot start: ") + e.what());
  }
}

}  // namespace msadb::server
