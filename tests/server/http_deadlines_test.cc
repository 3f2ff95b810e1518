// Connections that are held on purpose: each is cut by an absolute deadline, and others are served
// meanwhile. The deadlines are short here; how long anything takes is not judged.
#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <cstring>
#include <functional>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "server/http_server.h"

namespace msadb::server {
namespace {

using std::chrono::milliseconds;
using Clock = std::chrono::steady_clock;

// Far above what any step needs on a busy machine.
constexpr std::chrono::seconds kPatience{60};

class Socket {
 public:
  explicit Socket(uint16_t port) : fd_(socket(AF_INET, SOCK_STREAM, 0)) {
    // Small buffers, so that little unread data stops the other side.
    const int bytes = 4096;
    setsockopt(fd_, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof(bytes));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    const auto* generic = reinterpret_cast<const sockaddr*>(&address);
    EXPECT_EQ(connect(fd_, generic, sizeof(address)), 0) << std::strerror(errno);
  }
  Socket(Socket&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  ~Socket() {
    if (fd_ >= 0) close(fd_);
  }

  // False when the other side is gone.
  bool Send(std::string_view bytes) {
    return send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL | MSG_DONTWAIT) >= 0 ||
           errno == EAGAIN;
  }
  // Whether the other side has closed; nothing is read.
  bool IsClosed() {
    char byte;
    const ssize_t size = recv(fd_, &byte, 1, MSG_DONTWAIT | MSG_PEEK);
    return size == 0 || (size < 0 && errno != EAGAIN);
  }
  // All that comes until the other side closes.
  std::string ReadAll() {
    std::string all;
    char buffer[4096];
    pollfd waiting{.fd = fd_, .events = POLLIN, .revents = 0};
    while (poll(&waiting, 1, static_cast<int>(milliseconds(kPatience).count())) > 0) {
      const ssize_t size = recv(fd_, buffer, sizeof(buffer), 0);
      if (size <= 0) return all;
      all.append(buffer, static_cast<size_t>(size));
    }
    ADD_FAILURE() << "the connection stays open";
    return all;
  }

 private:
  int fd_;
};

class HttpDeadlines : public testing::Test {
 protected:
  // Without a database: the addresses asked here do not need one.
  HttpDeadlines() : admission_({}), service_(nullptr, nullptr, &admission_, {}) {}

  void Start(const HttpServerOptions& options) {
    auto server = HttpServer::Start(&service_, options);
    ASSERT_TRUE(server.ok()) << server.status().ToString();
    server_ = std::move(*server);
  }

  void ExpectHealthy() {
    Socket socket(server_->port());
    ASSERT_TRUE(
        socket.Send("GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"));
    const std::string reply = socket.ReadAll();
    EXPECT_TRUE(reply.starts_with("HTTP/1.1 200 ")) << reply;
  }

  // Opens connections that each begin with `begin` and then do `hold` now and then, and waits until
  // the server has cut them all. Others are served meanwhile.
  void ExpectCut(size_t count, std::string_view begin, const std::function<void(Socket&)>& hold) {
    std::vector<Socket> held;
    for (size_t i = 0; i < count; ++i) {
      held.emplace_back(server_->port());
      ASSERT_TRUE(held.back().Send(begin));
    }
    // Not where a client that is slow to send its request would be cut too.
    if (!begin.empty()) ExpectHealthy();
    const auto limit = Clock::now() + kPatience;
    while (service_.metrics().connections_timed_out < count && Clock::now() < limit) {
      for (Socket& socket : held) hold(socket);
      std::this_thread::sleep_for(milliseconds(10));
    }
    EXPECT_EQ(service_.metrics().connections_timed_out, count);
    while (service_.metrics().connections != 0 && Clock::now() < limit) {
      std::this_thread::sleep_for(milliseconds(10));
    }
    EXPECT_EQ(service_.metrics().connections, 0);
  }

  Admission admission_;
  HttpService service_;
  std::unique_ptr<HttpServer> server_;
};

// Deadlines of the other phases are long, so that only the one in question can cut.
TEST_F(HttpDeadlines, AHeaderThatComesByteByByte) {
  Start({.header_time = milliseconds(300)});
  ExpectCut(200, "GET /healthz HTTP/1.1\r\nX: ", [](Socket& socket) { socket.Send("x"); });
}

TEST_F(HttpDeadlines, ABodyThatComesByteByByte) {
  Start({.body_time = milliseconds(300)});
  ExpectCut(200,
            "POST /v1/collections HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            "Content-Length: 1000000\r\n\r\n{",
            [](Socket& socket) { socket.Send(" "); });
  EXPECT_TRUE(service_.TakeBodyBytes(512u << 20)) << "memory of a body was not given back";
}

TEST_F(HttpDeadlines, RepliesThatNobodyReads) {
  Start({.write_time = milliseconds(300)});
  std::string requests;
  for (int i = 0; i < 500; ++i) requests += "GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n";
  ExpectCut(50, requests, [](Socket&) {});
}

TEST_F(HttpDeadlines, AConnectionWithoutRequests) {
  Start({.idle_time = milliseconds(300)});
  ExpectCut(200, "", [](Socket&) {});
}

TEST_F(HttpDeadlines, MoreConnectionsThanAllowedAreClosedAtOnce) {
  Start({.connections_max = 20});
  std::vector<Socket> first;
  for (int i = 0; i < 20; ++i) first.emplace_back(server_->port());
  const auto limit = Clock::now() + kPatience;
  while (service_.metrics().connections < 20 && Clock::now() < limit) {
    std::this_thread::sleep_for(milliseconds(1));
  }
  for (int i = 0; i < 100; ++i) EXPECT_EQ(Socket(server_->port()).ReadAll(), "");
  EXPECT_EQ(service_.metrics().connections_refused, 100u);
  for (Socket& socket : first) EXPECT_FALSE(socket.IsClosed());
  first.clear();
  while (service_.metrics().connections > 0 && Clock::now() < limit) {
    std::this_thread::sleep_for(milliseconds(1));
  }
  ExpectHealthy();
}

}  // namespace
}  // namespace msadb::server
