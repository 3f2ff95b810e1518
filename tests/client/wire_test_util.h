// A server in this process and a plain socket to say anything to it.
#ifndef MSADB_TESTS_CLIENT_WIRE_TEST_UTIL_H_
#define MSADB_TESTS_CLIENT_WIRE_TEST_UTIL_H_

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "client/codec.h"
#include "msadb/client.h"
#include "server/wire_server.h"
#include "tests/db/db_test_util.h"

namespace msadb::client {

class TestServer {
 public:
  explicit TestServer(const server::WireServerOptions& options = {},
                      server::TokenStore* tokens = nullptr,
                      const Options& database_options = db::TestOptions(),
                      std::function<void(std::string_view)> log = {})
      : options_(options) {
    options_.insecure = tokens == nullptr || options.insecure;
    auto opened = Database::Open(folder_ / "db", database_options);
    EXPECT_TRUE(opened.ok()) << opened.status().ToString();
    database_ = std::move(*opened);
    services_.database = database_;
    services_.tokens = tokens;
    services_.log = std::move(log);
    Start();
  }
  ~TestServer() { Stop(); }

  void Start() {
    admission_ = std::make_unique<server::Admission>(server::AdmissionOptions{});
    services_.admission = admission_.get();
    auto server = server::StartWireServer(options_, services_);
    ASSERT_TRUE(server.ok()) << server.status().ToString();
    server_ = std::move(*server);
    options_.port = server_->port();  // for the next Start
  }
  void Stop() {
    server_.reset();
    admission_.reset();
  }

  uint16_t port() const { return options_.port; }
  server::WireServer& wire() { return *server_; }
  server::Admission& admission() { return *admission_; }
  Database& database() { return *database_; }
  const std::shared_ptr<Database>& shared_database() const { return database_; }

 private:
  db::TempFolder folder_;
  server::WireServerOptions options_;
  std::shared_ptr<Database> database_;
  server::WireServices services_;
  std::unique_ptr<server::Admission> admission_;
  std::unique_ptr<server::WireServer> server_;
};

// Blocking, with a limit on every wait so that a hanging server fails a test instead of hanging it.
class RawSocket {
 public:
  explicit RawSocket(uint16_t port) : fd_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    connected_ = ::connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0;
  }
  ~RawSocket() { ::close(fd_); }
  RawSocket(const RawSocket&) = delete;
  RawSocket& operator=(const RawSocket&) = delete;

  bool connected() const { return connected_; }
  int fd() const { return fd_; }

  bool Send(std::string_view bytes) {
    while (!bytes.empty()) {
      const ssize_t n = ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (n <= 0) return false;
      bytes.remove_prefix(static_cast<size_t>(n));
    }
    return true;
  }
  void FinishSending() { ::shutdown(fd_, SHUT_WR); }
  // RST instead of FIN.
  void Reset() {
    const linger now{1, 0};
    ::setsockopt(fd_, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
  }

  // The next message, or nothing when the server closed or is silent for `wait_ms`.
  std::optional<wire::Frame> Receive(int wait_ms = 10'000) {
    for (;;) {
      wire::Frame frame;
      std::span<const uint8_t> bytes(pending_.data() + taken_, pending_.size() - taken_);
      const size_t before = bytes.size();
      const auto complete = reader_.Next(&bytes, &frame);
      taken_ += before - bytes.size();
      EXPECT_TRUE(complete.ok()) << complete.status().ToString();
      if (!complete.ok()) return std::nullopt;
      if (*complete) return frame;
      pollfd waiting{fd_, POLLIN, 0};
      if (::poll(&waiting, 1, wait_ms) != 1) return std::nullopt;
      pending_.resize(64u << 10);
      const ssize_t n = ::recv(fd_, pending_.data(), pending_.size(), 0);
      pending_.resize(n > 0 ? static_cast<size_t>(n) : 0);
      taken_ = 0;
      if (n <= 0) {
        closed_ = true;
        return std::nullopt;
      }
    }
  }
  // Reads until the server closes. False: it did not.
  bool ReadToEnd(int wait_ms = 10'000) {
    while (!closed_ && Receive(wait_ms)) {
    }
    return closed_;
  }

 private:
  const int fd_;
  bool connected_ = false;
  bool closed_ = false;
  wire::FrameReader reader_{256u << 20};
  std::vector<uint8_t> pending_;
  size_t taken_ = 0;
};

inline std::string PrefaceBytes(uint16_t version = wire::kProtocolVersion) {
  const auto preface = wire::Preface(version);
  return std::string(preface.begin(), preface.end());
}

template <typename Make>
std::string RequestFrame(uint64_t number, Make make) {
  wire::Builder b;
  const auto body = make(b);
  return wire::EncodeFrame(number, true, wire::FinishRequest(&b, body));
}

inline std::string HelloFrame(std::string_view token = "") {
  return RequestFrame(0, [&](wire::Builder& b) {
    const auto token_offset = wire::EncodeText(&b, token);
    return wire::fb::CreateHello(b, token_offset, wire::EncodeText(&b, "a test"));
  });
}

inline std::string PutFrame(uint64_t number, std::string_view collection, const NewDocument& doc) {
  return RequestFrame(number, [&](wire::Builder& b) {
    const auto name = wire::EncodeText(&b, collection);
    const auto document = wire::Encode(&b, doc);
    return wire::fb::CreatePut(b, name, 0, document, false);
  });
}

inline std::string PingFrame(uint64_t number) {
  return RequestFrame(number, [](wire::Builder& b) { return wire::fb::CreatePing(b); });
}

// The status that a message carries, OK when it is no Error.
inline Status StatusOf(const wire::Frame& frame) {
  const auto reply = wire::VerifyReply(frame.payload);
  EXPECT_TRUE(reply.ok()) << reply.status().ToString();
  if (!reply.ok()) return reply.status();
  const auto* error = (*reply)->body_as_Error();
  return error == nullptr ? Status::Ok() : wire::ReadError(*error);
}

}  // namespace msadb::client

#endif  // MSADB_TESTS_CLIENT_WIRE_TEST_UTIL_H_
