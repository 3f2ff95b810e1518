// The client library against servers that go away, come back, refuse and hang; and without
// blocking.
#include <atomic>
#include <future>
#include <thread>

#include "msadb/client_coroutine.h"
#include "tests/client/wire_test_util.h"

namespace msadb::client {
namespace {

using db::Doc;
using db::ToStatus;
using ::testing::HasSubstr;

class ClientTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_OK(server_.database().CreateCollection("notes"));
    ASSERT_OK_AND(db_, Connect({.port = server_.port()}));
    ASSERT_OK_AND(notes_, db_->OpenCollection("notes"));
  }
  void Restart() {
    server_.Stop();
    server_.Start();
  }

  TestServer server_;
  std::shared_ptr<Database> db_;
  std::shared_ptr<Collection> notes_;
};

// Accepts connections, greets like a server, and then does what the test says.
class FakeServer {
 public:
  FakeServer() : fd_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    EXPECT_EQ(::bind(fd_, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
    EXPECT_EQ(::listen(fd_, 16), 0);
    socklen_t size = sizeof(address);
    EXPECT_EQ(::getsockname(fd_, reinterpret_cast<sockaddr*>(&address), &size), 0);
    port_ = ntohs(address.sin_port);
  }
  ~FakeServer() {
    ::shutdown(fd_, SHUT_RDWR);
    if (thread_.joinable()) thread_.join();
    ::close(fd_);
  }
  uint16_t port() const { return port_; }
  int requests() const { return requests_.load(); }

  // For every request: `reply` gives bytes to send; empty: the connection is closed.
  void Serve(std::function<std::string(const wire::Frame&)> reply) {
    thread_ = std::thread([this, reply = std::move(reply)] {
      for (;;) {
        const int client = ::accept(fd_, nullptr, nullptr);
        if (client < 0) return;
        One(client, reply);
        ::close(client);
      }
    });
  }

  static std::string Reply(const wire::Frame& request, const std::vector<uint8_t>& payload,
                           bool last = true) {
    return wire::EncodeFrame(request.request, last, payload);
  }

 private:
  void One(int client, const std::function<std::string(const wire::Frame&)>& reply) {
    wire::FrameReader reader(1u << 20);
    size_t preface_left = wire::kPrefaceBytes;
    bool greeted = false;
    uint8_t buffer[4096];
    for (;;) {
      const ssize_t n = ::recv(client, buffer, sizeof(buffer), 0);
      if (n <= 0) return;
      std::span<const uint8_t> bytes(buffer, static_cast<size_t>(n));
      const size_t skip = std::min(preface_left, bytes.size());
      preface_left -= skip;
      bytes = bytes.subspan(skip);
      wire::Frame frame;
      for (;;) {
        const auto complete = reader.Next(&bytes, &frame);
        if (!complete.ok() || !*complete) break;
        std::string out;
        if (!greeted) {
          greeted = true;
          wire::Builder b;
          const wire::fb::Limits limits = wire::Encode(Limits{});
          out = Reply(frame, wire::FinishReply(&b, wire::fb::CreateWelcome(b, 0, 0, 0, 64, &limits,
                                                                           1u << 20, 4, 4)));
        } else {
          ++requests_;
          out = reply(frame);
          if (out.empty()) return;
        }
        if (::send(client, out.data(), out.size(), MSG_NOSIGNAL) < 0) return;
      }
    }
  }

  const int fd_;
  uint16_t port_ = 0;
  std::atomic<int> requests_{0};
  std::thread thread_;
};

TEST(Connecting, SaysWhatIsWrong) {
  EXPECT_CODE(Connect({.host = ""}), StatusCode::kInvalidArgument);
  EXPECT_CODE(Connect({.port = 0}), StatusCode::kInvalidArgument);
  EXPECT_CODE(Connect({.token = std::string(5000, 'x')}), StatusCode::kInvalidArgument);
  // A port that nobody listens on: one that was free a moment ago.
  uint16_t port = 0;
  { port = FakeServer().port(); }
  const auto unreachable = Connect({.port = port});
  EXPECT_CODE(unreachable, StatusCode::kUnavailable);
  EXPECT_THAT(std::string(unreachable.status().message()), HasSubstr(std::to_string(port)));
  EXPECT_CODE(Connect({.host = "no.such.host.invalid"}), StatusCode::kUnavailable);
}

TEST(Connecting, NeedsAToken) {
  db::TempFolder folder;
  const std::string file = folder / "tokens";
  ASSERT_OK_AND(const std::string reader,
                server::TokenStore::Add(file, {"reader", {{"notes", server::Right::kRead}}}));
  ASSERT_OK_AND(const std::string writer,
                server::TokenStore::Add(file, {"writer", {{"notes", server::Right::kWrite}}}));
  ASSERT_OK_AND(const std::string admin,
                server::TokenStore::Add(file, {"admin", {{"*", server::Right::kAdmin}}}));
  ASSERT_OK_AND(const auto tokens, server::TokenStore::Open(file));
  TestServer server({}, tokens.get());
  const auto connect = [&](const std::string& token) {
    return Connect({.port = server.port(), .token = token});
  };
  for (const std::string& bad :
       {std::string(), std::string("x"), admin + "0", admin.substr(0, admin.size() - 1)}) {
    EXPECT_CODE(connect(bad), StatusCode::kPermissionDenied);
  }
  ASSERT_OK_AND(auto as_admin, connect(admin));
  ASSERT_OK(as_admin->CreateCollection("notes"));
  ASSERT_OK(as_admin->CreateCollection("secrets"));
  ASSERT_OK_AND(auto as_writer, connect(writer));
  ASSERT_OK_AND(auto written, as_writer->OpenCollection("notes"));
  ASSERT_OK_AND(const DocumentId id, written->Insert(Doc("text")));

  ASSERT_OK_AND(auto as_reader, connect(reader));
  ASSERT_OK_AND(auto notes, as_reader->OpenCollection("notes"));
  EXPECT_OK(notes->Get(id));
  EXPECT_OK(notes->Search("text"));
  EXPECT_OK(notes->Ask("text"));
  EXPECT_OK(notes->Stats());
  EXPECT_OK(notes->TakeSnapshot());
  EXPECT_CODE(notes->Insert(Doc("more")), StatusCode::kPermissionDenied);
  const NewDocument one = Doc("more");
  EXPECT_CODE(notes->InsertMany({&one, 1}), StatusCode::kPermissionDenied);
  EXPECT_CODE(notes->Delete(id), StatusCode::kPermissionDenied);
  EXPECT_CODE(notes->DeleteWhere(Filter()), StatusCode::kPermissionDenied);
  EXPECT_CODE(notes->Begin(), StatusCode::kPermissionDenied);
  EXPECT_CODE(as_reader->DropCollection("notes"), StatusCode::kPermissionDenied);
  EXPECT_CODE(as_reader->Stats(), StatusCode::kPermissionDenied);
  EXPECT_CODE(as_reader->Verify(), StatusCode::kPermissionDenied);
  EXPECT_CODE(as_reader->Compact(), StatusCode::kPermissionDenied);
  // A foreign collection cannot be told from a missing one.
  for (const char* name : {"secrets", "missing"}) {
    EXPECT_CODE(as_reader->OpenCollection(name), StatusCode::kNotFound);
    EXPECT_CODE(as_reader->GetOrCreateCollection(name), StatusCode::kNotFound);
    EXPECT_CODE(as_reader->CreateCollection(name), StatusCode::kNotFound);
    EXPECT_CODE(as_reader->DropCollection(name), StatusCode::kNotFound);
  }
  ASSERT_OK_AND(const auto names, as_reader->ListCollections());
  EXPECT_THAT(names, ::testing::ElementsAre("notes"));
}

TEST_F(ClientTest, ComesBackAfterTheServerDid) {
  ASSERT_OK(notes_->Insert(Doc("before", "k")));
  ASSERT_OK_AND(auto transaction, notes_->Begin());
  ASSERT_OK(transaction->Insert(Doc("never committed")));
  ASSERT_OK_AND(auto snapshot, notes_->TakeSnapshot());
  Restart();
  ASSERT_OK_AND(const Document document, notes_->GetByKey("k"));
  EXPECT_EQ(document.text, "before");
  const Status commit = transaction->Commit();
  EXPECT_CODE(commit, StatusCode::kUnavailable);
  EXPECT_FALSE(OutcomeUnknown(commit)) << commit.ToString();
  EXPECT_CODE(snapshot->Count(), StatusCode::kUnavailable);
  EXPECT_OK(notes_->Insert(Doc("after")));
  server_.Stop();
  const Status gone = ToStatus(notes_->Insert(Doc("nobody there")));
  EXPECT_CODE(gone, StatusCode::kUnavailable);
  EXPECT_CODE(notes_->Count(), StatusCode::kUnavailable);
  server_.Start();
  ASSERT_OK_AND(const uint64_t count, notes_->Count());
  EXPECT_EQ(count, 2u);
}

TEST(LostReplies, ReadsAreRepeatedOnceAndChangesNever) {
  FakeServer server;
  std::atomic<bool> answer{false};
  server.Serve([&](const wire::Frame& request) -> std::string {
    if (!answer.exchange(true)) return {};
    wire::Builder b;
    return FakeServer::Reply(request, wire::FinishReply(&b, wire::fb::CreateNumber(b, 7)));
  });
  ASSERT_OK_AND(auto db, Connect({.port = server.port()}));
  auto async = AsyncDatabase::Of(db)->Collection("notes");
  std::promise<Result<uint64_t>> counted;
  async->Count([&](Result<uint64_t> result) { counted.set_value(std::move(result)); });
  ASSERT_OK_AND(const uint64_t count, counted.get_future().get());
  EXPECT_EQ(count, 7u);
  EXPECT_EQ(server.requests(), 2);

  answer = false;
  std::promise<Result<DocumentId>> inserted;
  async->Insert(Doc("text"),
                [&](Result<DocumentId> result) { inserted.set_value(std::move(result)); });
  const auto lost = inserted.get_future().get();
  EXPECT_CODE(lost, StatusCode::kUnavailable);
  EXPECT_TRUE(OutcomeUnknown(lost.status())) << lost.status().ToString();
  EXPECT_EQ(server.requests(), 3);
}

TEST(LostReplies, NonsenseFromTheServerIsAnError) {
  const auto answer_with = [](std::function<std::string(const wire::Frame&)> reply) {
    FakeServer server;
    server.Serve(std::move(reply));
    auto db = Connect({.port = server.port()});
    EXPECT_TRUE(db.ok()) << db.status().ToString();
    return ToStatus((*db)->ListCollections());
  };
  // A reply of another kind, a damaged one, and bytes that are no frame.
  EXPECT_CODE(answer_with([](const wire::Frame& request) {
                wire::Builder b;
                return FakeServer::Reply(request, wire::FinishReply(&b, wire::fb::CreateDone(b)));
              }),
              StatusCode::kCorruption);
  EXPECT_CODE(answer_with([](const wire::Frame& request) {
                return FakeServer::Reply(request, std::vector<uint8_t>(50, 0xab));
              }),
              StatusCode::kCorruption);
  EXPECT_CODE(answer_with([](const wire::Frame&) { return std::string(64, '\xff'); }),
              StatusCode::kInvalidArgument);
  EXPECT_CODE(answer_with([](const wire::Frame& request) {
                return FakeServer::Reply(
                    request, wire::ErrorReply(Status(static_cast<StatusCode>(77), "later")));
              }),
              StatusCode::kInternal);
}

TEST(LostReplies, SilenceEndsWithTheDeadline) {
  FakeServer server;
  server.Serve([](const wire::Frame&) { return std::string("\0", 1); });
  ASSERT_OK_AND(auto db,
                Connect({.port = server.port(), .request_timeout = std::chrono::milliseconds(50)}));
  EXPECT_CODE(db->ListCollections(), StatusCode::kDeadlineExceeded);
  const auto created = db->CreateCollection("notes");
  EXPECT_CODE(created, StatusCode::kDeadlineExceeded);
  EXPECT_TRUE(OutcomeUnknown(created.status()));
}

TEST(LostReplies, StopEndsAnAskThatHangs) {
  FakeServer server;
  std::atomic<int> cancels{0};
  server.Serve([&](const wire::Frame& request) -> std::string {
    const auto message = wire::VerifyRequest(request.payload);
    wire::Builder b;
    if (message.ok() && (*message)->body_as_Cancel() != nullptr) {
      ++cancels;
      return FakeServer::Reply(request, wire::ErrorReply(Status::Cancelled("stopped")));
    }
    if (message.ok() && (*message)->body_as_OpenCollection() != nullptr) {
      return FakeServer::Reply(request, wire::FinishReply(&b, wire::fb::CreateDone(b)));
    }
    return FakeServer::Reply(
        request, wire::FinishReply(&b, wire::fb::CreateTextPiece(b, b.CreateString("piece"))),
        false);
  });
  ASSERT_OK_AND(auto db, Connect({.port = server.port()}));
  ASSERT_OK_AND(auto notes, db->OpenCollection("notes"));
  std::stop_source stop;
  AskOptions options;
  options.stop = stop.get_token();
  options.on_text = [&](std::string_view piece) {
    EXPECT_EQ(piece, "piece");
    stop.request_stop();
    return true;
  };
  EXPECT_CODE(notes->Ask("question", options), StatusCode::kCancelled);
  // The server was told, and the connection still serves.
  ASSERT_OK(db->OpenCollection("notes"));
  EXPECT_EQ(cancels.load(), 1);
}

TEST_F(ClientTest, Callbacks) {
  const auto async = AsyncDatabase::Of(db_);
  ASSERT_NE(async, nullptr);
  EXPECT_EQ(AsyncDatabase::Of(server_.shared_database()), nullptr);
  const auto notes = async->Collection("notes");
  constexpr int kMany = 200;
  std::atomic<int> done{0};
  std::promise<void> all;
  for (int i = 0; i < kMany; ++i) {
    notes->Insert(Doc("text " + std::to_string(i)), [&](Result<DocumentId> id) {
      EXPECT_TRUE(id.ok()) << id.status().ToString();
      if (++done == kMany) all.set_value();
    });
  }
  all.get_future().wait();
  ASSERT_OK_AND(const uint64_t count, notes_->Count());
  EXPECT_EQ(count, static_cast<uint64_t>(kMany));
  // A blocking call from a callback would wait for itself.
  std::promise<Status> inside;
  async->Ping([&](const Status&) { inside.set_value(ToStatus(notes_->Count())); });
  EXPECT_CODE(inside.get_future().get(), StatusCode::kFailedPrecondition);
}

TEST_F(ClientTest, QueueIsBounded) {
  ASSERT_OK_AND(auto db, Connect({.port = server_.port(), .queued_requests_max = 4}));
  const auto async = AsyncDatabase::Of(db);
  constexpr int kMany = 500;
  std::atomic<int> refused{0}, done{0};
  std::promise<void> all;
  for (int i = 0; i < kMany; ++i) {
    async->Ping([&](const Status& status) {
      if (status.code() == StatusCode::kResourceExhausted) ++refused;
      if (++done == kMany) all.set_value();
    });
  }
  all.get_future().wait();
  EXPECT_GT(refused.load(), 0);
  EXPECT_LT(refused.load(), kMany);
  EXPECT_OK(db->ListCollections());
}

Task<uint64_t> RememberAndCount(AsyncCollection& notes) {
  const NewDocument document = Doc("spare key under the flowerpot", "key");
  const auto id = co_await Insert(notes, document);
  EXPECT_OK(id);
  const auto found = co_await Get(notes, *id);
  EXPECT_OK(found);
  const auto hits = co_await Search(notes, "spare key");
  EXPECT_OK(hits);
  EXPECT_EQ(hits->front().id, *id);
  const auto answer = co_await Ask(notes, "where is the spare key");
  EXPECT_OK(answer);
  const auto count = co_await Count(notes);
  const Status deleted = co_await DeleteByKey(notes, "key");
  EXPECT_OK(deleted);
  co_return count.ok() ? *count : 0;
}

Task<int> Twice(AsyncCollection& notes) {
  const uint64_t first = co_await RememberAndCount(notes);
  const uint64_t second = co_await RememberAndCount(notes);
  co_return static_cast<int>(first + second);
}

TEST_F(ClientTest, Coroutines) {
  const auto notes = AsyncDatabase::Of(db_)->Collection("notes");
  EXPECT_EQ(Wait(Twice(*notes)), 2);
}

TEST_F(ClientTest, ServerStopsGracefully) {
  ASSERT_OK(notes_->Insert(Doc("text")));
  std::atomic<bool> go{true};
  std::atomic<int> served{0}, refused{0};
  std::thread caller([&] {
    while (go) {
      const auto count = notes_->Count();
      ++(count.ok() ? served : refused);
      if (!count.ok()) {
        EXPECT_CODE(count, StatusCode::kUnavailable);
      }
    }
  });
  while (served < 20) std::this_thread::yield();
  EXPECT_TRUE(server_.wire().Shutdown(std::chrono::seconds(10)));
  go = false;
  caller.join();
  EXPECT_GE(served.load(), 20);
}

TEST(ClientErrors, TheHttpPortIsNotTheBinaryOne) {
  const std::string_view answer = "HTTP/1.1 400 Bad Request\r\n";
  const auto* data = reinterpret_cast<const uint8_t*>(answer.data());
  std::span<const uint8_t> bytes(data, answer.size());
  wire::FrameReader reader(1u << 20);
  wire::Frame frame;
  const auto read = reader.Next(&bytes, &frame);
  ASSERT_EQ(read.status().code(), StatusCode::kInvalidArgument);
  EXPECT_NE(read.status().message().find("--binary-listen"), std::string::npos);
}

}  // namespace
}  // namespace msadb::client
