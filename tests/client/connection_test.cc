// What happens to a connection of the binary port: TLS, back-pressure, limits, loss and the
// server's end.
#include <openssl/bio.h>
#include <openssl/ssl.h>

#include <algorithm>
#include <condition_variable>
#include <cstdlib>
#include <future>
#include <map>
#include <mutex>
#include <thread>

#include "tests/client/wire_test_util.h"

namespace msadb::client {
namespace {

using db::Doc;
using db::ToStatus;
using ::testing::HasSubstr;

// Far above what any step needs on a busy machine.
constexpr std::chrono::seconds kPatience{60};

// True as soon as `holds` is.
template <typename Fn>
bool Eventually(Fn holds) {
  const auto limit = std::chrono::steady_clock::now() + kPatience;
  while (!holds()) {
    if (std::chrono::steady_clock::now() > limit) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  return true;
}

// Holds questions inside the model until it is opened or they are stopped.
class Gate {
 public:
  ~Gate() { Open(); }

  // As FakeModelOptions::on_answer.
  void Hold(const std::stop_token& stop) {
    std::unique_lock lock(mutex_);
    ++arrived_;
    changed_.notify_all();
    changed_.wait(lock, stop, [this] { return open_; });
    if (stop.stop_requested()) ++stopped_;
  }
  void Open() {
    std::lock_guard lock(mutex_);
    open_ = true;
    changed_.notify_all();
  }
  bool WaitForArrivals(int count) {
    return Eventually([&] { return arrived() >= count; });
  }
  int arrived() const {
    std::lock_guard lock(mutex_);
    return arrived_;
  }
  int stopped() const {
    std::lock_guard lock(mutex_);
    return stopped_;
  }

 private:
  mutable std::mutex mutex_;
  std::condition_variable_any changed_;
  bool open_ = false;
  int arrived_ = 0;
  int stopped_ = 0;
};

// Options of a database whose questions wait at `gate`.
Options GatedOptions(Gate* gate) {
  Options options = db::TestOptions();
  options.model =
      db::MakeFakeModel({.on_answer = [gate](const std::stop_token& stop) { gate->Hold(stop); }});
  return options;
}

std::string AskFrame(uint64_t number) {
  return RequestFrame(number, [](wire::Builder& b) {
    const auto name = wire::EncodeText(&b, "notes");
    return wire::fb::CreateAsk(b, name, 0, wire::EncodeText(&b, "what is kept?"), 0, true, true);
  });
}

std::string GetFrame(uint64_t number, DocumentId id) {
  return RequestFrame(number, [&](wire::Builder& b) {
    return wire::fb::CreateGet(b, wire::EncodeText(&b, "notes"), 0, id);
  });
}

// The last message of the next reply to end; others of it are passed over.
std::optional<wire::Frame> NextEnd(RawSocket* socket) {
  for (;;) {
    auto frame = socket->Receive();
    if (!frame || frame->last) return frame;
  }
}

void ExpectNothingKept(TestServer& server) {
  EXPECT_TRUE(Eventually([&] {
    const auto wire = server.wire().stats();
    const auto admission = server.admission().stats();
    return wire.connections == 0 && wire.requests_active == 0 && wire.handles == 0 &&
           wire.reply_bytes == 0 && admission.queued[0] + admission.queued[1] == 0 &&
           admission.running[0] + admission.running[1] == 0;
  }));
}

// ---- TLS

class WireTls : public ::testing::Test {
 protected:
  void SetUp() override {
    if (std::system("openssl version > /dev/null 2>&1") != 0) {
      GTEST_SKIP() << "the openssl program is not installed";
    }
    good_ = MakeCertificate("good");
    other_ = MakeCertificate("other");
  }

  // A certificate of its own authority for localhost and 127.0.0.1. Its key: the same with ".key".
  std::string MakeCertificate(const std::string& name) {
    const std::string file = folder_ / name;
    const std::string command =
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 "
        "-subj /CN=localhost -addext subjectAltName=DNS:localhost,IP:127.0.0.1 -out " +
        file + " -keyout " + file + ".key 2> /dev/null";
    EXPECT_EQ(std::system(command.c_str()), 0);
    return file;
  }

  server::WireServerOptions WithTls() const {
    server::WireServerOptions options;
    options.certificate_file = good_;
    options.key_file = good_ + ".key";
    return options;
  }

  static ClientOptions To(const TestServer& server, const std::string& ca_file) {
    ClientOptions options{.port = server.port()};
    options.tls.enabled = true;
    options.tls.ca_file = ca_file;
    return options;
  }

  static void ExpectServes(const ClientOptions& options) {
    ASSERT_OK_AND(auto database, Connect(options));
    ASSERT_OK_AND(auto notes, database->GetOrCreateCollection("notes"));
    ASSERT_OK_AND(const DocumentId id, notes->Insert(Doc("kept behind a door")));
    ASSERT_OK_AND(const Document document, notes->Get(id));
    EXPECT_EQ(document.text, "kept behind a door");
    EXPECT_OK(notes->Ask("kept"));
    EXPECT_OK(notes->Delete(id));
  }

  db::TempFolder folder_;
  std::string good_, other_;
};

TEST_F(WireTls, TheRightAuthorityServes) {
  TestServer server(WithTls());
  ClientOptions options = To(server, good_);
  ExpectServes(options);
  options.tls.server_name = "localhost";
  ExpectServes(options);
  // Messages of many TLS records, both ways.
  ASSERT_OK_AND(auto database, Connect(options));
  ASSERT_OK_AND(auto notes, database->GetOrCreateCollection("notes"));
  const std::string large = db::Words("x", 200'000);
  ASSERT_OK_AND(const DocumentId id, notes->Insert(Doc(large)));
  ASSERT_OK_AND(const Document document, notes->Get(id));
  EXPECT_EQ(document.text, large);
}

TEST_F(WireTls, WhoeverCannotBeVerifiedIsRefused) {
  TestServer server(WithTls());
  const auto expect_refused = [](const ClientOptions& options) {
    const auto refused = Connect(options);
    EXPECT_CODE(refused, StatusCode::kUnavailable);
    EXPECT_THAT(std::string(refused.status().message()), HasSubstr("TLS"));
  };
  expect_refused(To(server, other_));
  expect_refused(To(server, ""));  // the system's authorities did not sign it
  ClientOptions other_name = To(server, good_);
  other_name.tls.server_name = "example.org";
  expect_refused(other_name);
  EXPECT_CODE(Connect(To(server, folder_ / "missing")), StatusCode::kInvalidArgument);
  // None of them got as far as saying who it is.
  EXPECT_EQ(server.wire().stats().requests, 0u);

  ClientOptions anybody = To(server, other_);
  anybody.tls.verify = false;
  ExpectServes(anybody);
  ExpectServes(To(server, good_));
}

TEST_F(WireTls, PlainAndTlsDoNotMix) {
  TestServer with_tls(WithTls()), plain;
  EXPECT_CODE(Connect({.port = with_tls.port()}), StatusCode::kUnavailable);
  const auto refused = Connect(To(plain, good_));
  EXPECT_CODE(refused, StatusCode::kUnavailable);
  EXPECT_THAT(std::string(refused.status().message()), HasSubstr("TLS"));
  // Whatever a plain client says to a port with TLS, it gets no message of ours.
  RawSocket raw(with_tls.port());
  ASSERT_TRUE(raw.Send(PrefaceBytes() + HelloFrame() + PingFrame(1)));
  EXPECT_FALSE(raw.Receive());
  EXPECT_TRUE(raw.ReadToEnd());
  EXPECT_EQ(with_tls.wire().stats().requests, 0u);
  EXPECT_EQ(plain.wire().stats().requests, 0u);
  ExpectServes(To(with_tls, good_));
  ExpectServes({.port = plain.port()});
}

TEST_F(WireTls, FilesThatAreNoneStopTheServerFromStarting) {
  TestServer server;
  const server::WireServices services{.database = server.shared_database(),
                                      .admission = &server.admission()};
  const auto start = [&](const std::string& certificate, const std::string& key) {
    return server::StartWireServer(
        {.certificate_file = certificate, .key_file = key, .insecure = true}, services);
  };
  EXPECT_CODE(start(good_, ""), StatusCode::kInvalidArgument);
  EXPECT_CODE(start(folder_ / "missing", good_ + ".key"), StatusCode::kInvalidArgument);
  EXPECT_CODE(start(good_, other_ + ".key"), StatusCode::kInvalidArgument);
  EXPECT_CODE(start(good_ + ".key", good_ + ".key"), StatusCode::kInvalidArgument);
  EXPECT_OK(start(good_, good_ + ".key"));
}

// What a TLS client sends first.
std::string ClientHello() {
  std::unique_ptr<SSL_CTX, void (*)(SSL_CTX*)> context(SSL_CTX_new(TLS_client_method()),
                                                       SSL_CTX_free);
  std::unique_ptr<SSL, void (*)(SSL*)> tls(SSL_new(context.get()), SSL_free);
  BIO* const out = BIO_new(BIO_s_mem());
  SSL_set_bio(tls.get(), BIO_new(BIO_s_mem()), out);  // takes both
  EXPECT_LT(SSL_connect(tls.get()), 1);
  std::string hello(BIO_ctrl_pending(out), '\0');
  EXPECT_EQ(BIO_read(out, hello.data(), static_cast<int>(hello.size())),
            static_cast<int>(hello.size()));
  return hello;
}

TEST_F(WireTls, HandshakesCutAtEveryByteAndSilentOnes) {
  server::WireServerOptions options = WithTls();
  options.hello_timeout = std::chrono::seconds(3);
  TestServer server(options);
  const std::string hello = ClientHello();
  ASSERT_GT(hello.size(), 100u);
  for (size_t cut = 0; cut <= hello.size(); ++cut) {
    RawSocket socket(server.port());
    ASSERT_TRUE(socket.connected());
    socket.Send(std::string_view(hello).substr(0, cut));
    if (cut % 2 == 1) socket.Reset();
  }
  ExpectServes(To(server, good_));
  RawSocket silent(server.port());
  silent.Send(hello);
  char first;  // of the server's part of the handshake
  ASSERT_EQ(::recv(silent.fd(), &first, 1, 0), 1);
  EXPECT_TRUE(Eventually([&] { return server.wire().stats().connections == 0; }));
  EXPECT_EQ(server.wire().stats().requests_active, 0u);
}

// ---- Back-pressure

class BackPressure : public ::testing::Test {
 protected:
  static constexpr size_t kHigh = 4u << 20;    // the default of reply_bytes_high
  static constexpr uint64_t kGets = 60;        // below the limit of requests at a time
  static constexpr uint64_t kPings = 100'000;  // 5 MB: more than the sockets take
  // What is begun before kHigh is reached ends: one reply for each worker that a collection gets.
  static constexpr size_t kBeginsMax = 4;

  void Start(const server::WireServerOptions& options) {
    ASSERT_EQ(options.reply_bytes_high, kHigh);
    server_ = std::make_unique<TestServer>(options);
    ASSERT_OK_AND(auto notes, server_->database().CreateCollection("notes"));
    text_ = db::Words("x", 200'000);
    ASSERT_OK_AND(id_, notes->Insert(Doc(text_)));
    for (uint64_t i = 1; i <= kGets; ++i) gets_ += GetFrame(i, id_);
    for (uint64_t i = 1; i <= kPings; ++i) pings_ += PingFrame(kGets + i);
  }

  size_t ReplyBytesMax() const { return kHigh + kBeginsMax * (text_.size() + 4096); }

  // Others are served as if nothing were.
  void ExpectOthersServed() {
    ASSERT_OK_AND(auto database, Connect({.port = server_->port()}));
    ASSERT_OK_AND(auto notes, database->OpenCollection("notes"));
    for (int i = 0; i < 20; ++i) {
      ASSERT_OK_AND(const DocumentId id, notes->Insert(Doc("another's text")));
      EXPECT_OK(notes->Get(id));
      EXPECT_OK(notes->Ask("another's"));
      EXPECT_OK(notes->Delete(id));
    }
  }

  std::unique_ptr<TestServer> server_;
  std::string text_, gets_, pings_;
  DocumentId id_ = 0;
};

TEST_F(BackPressure, WhoeverDoesNotReadIsNotReadAndThenCut) {
  server::WireServerOptions options;
  options.write_timeout = std::chrono::seconds(3);
  Start(options);
  RawSocket socket(server_->port());
  ASSERT_TRUE(socket.Send(PrefaceBytes() + HelloFrame() + gets_));
  const auto reply_bytes = [&] { return server_->wire().stats().reply_bytes; };
  ASSERT_TRUE(Eventually([&] { return reply_bytes() >= kHigh; }));
  std::thread sender([&] { EXPECT_FALSE(socket.Send(pings_)) << "all was taken"; });
  ExpectOthersServed();
  size_t most = 0;
  EXPECT_TRUE(Eventually([&] {
    most = std::max(most, reply_bytes());
    return server_->wire().stats().connections == 0;
  }));
  sender.join();
  EXPECT_LT(most, ReplyBytesMax());
  EXPECT_EQ(server_->wire().stats().connections_cut, 1u);
  // The pings taken are those that were on their way; the client of the others made 81 requests.
  EXPECT_LT(server_->wire().stats().requests, kGets + 81 + kPings / 5);
  ExpectNothingKept(*server_);
}

TEST_F(BackPressure, WhoeverReadsLateGetsEveryReplyOnce) {
  Start({});
  RawSocket socket(server_->port());
  ASSERT_TRUE(socket.Send(PrefaceBytes() + HelloFrame() + gets_));
  const auto reply_bytes = [&] { return server_->wire().stats().reply_bytes; };
  ASSERT_TRUE(Eventually([&] { return reply_bytes() >= kHigh; }));
  std::thread sender([&] { EXPECT_TRUE(socket.Send(pings_)); });
  ExpectOthersServed();
  size_t most = reply_bytes();
  ASSERT_TRUE(socket.Receive());  // the Welcome
  std::map<StatusCode, uint64_t> outcomes;
  std::vector<bool> answered(kGets + kPings + 1);
  for (uint64_t i = 0; i < kGets + kPings; ++i) {
    const auto frame = socket.Receive();
    if (!frame) {
      ADD_FAILURE() << "nothing after " << i << " replies";
      break;
    }
    most = std::max(most, reply_bytes());
    ASSERT_LT(frame->request, answered.size());
    EXPECT_FALSE(answered[frame->request]) << frame->request;
    answered[frame->request] = true;
    const auto reply = wire::VerifyReply(frame->payload);
    ASSERT_OK(ToStatus(reply));
    if (frame->request <= kGets) {
      const auto* documents = (*reply)->body_as_Documents();
      ASSERT_NE(documents, nullptr);
      EXPECT_EQ(documents->documents()->Get(0)->text()->size(), text_.size());
    } else {
      ++outcomes[StatusOf(*frame).code()];
    }
  }
  sender.join();
  // Beside pings that were answered there are those refused for the limits of requests and queues.
  EXPECT_GT(outcomes[StatusCode::kOk], 0u);
  EXPECT_EQ(outcomes[StatusCode::kOk] + outcomes[StatusCode::kResourceExhausted] +
                outcomes[StatusCode::kUnavailable],
            kPings);
  EXPECT_LT(most, ReplyBytesMax());
  socket.FinishSending();
  EXPECT_TRUE(socket.ReadToEnd());
  ExpectNothingKept(*server_);
}

// ---- Limits

TEST(RequestLimit, OneMoreIsRefusedAndTheOthersGoOn) {
  Gate gate;
  server::WireServerOptions options;
  options.requests_max = 3;
  TestServer server(options, nullptr, GatedOptions(&gate));
  ASSERT_OK(server.database().CreateCollection("notes"));
  RawSocket socket(server.port());
  ASSERT_TRUE(socket.Send(PrefaceBytes() + HelloFrame()));
  ASSERT_TRUE(socket.Receive());
  ASSERT_TRUE(socket.Send(AskFrame(1) + AskFrame(2) + AskFrame(3)));
  ASSERT_TRUE(gate.WaitForArrivals(3));
  const auto expect_end = [&](uint64_t number, StatusCode code) {
    const auto end = NextEnd(&socket);
    ASSERT_TRUE(end);
    EXPECT_EQ(end->request, number);
    EXPECT_CODE(StatusOf(*end), code);
  };
  ASSERT_TRUE(socket.Send(AskFrame(4) + PingFrame(5)));
  expect_end(4, StatusCode::kResourceExhausted);
  expect_end(5, StatusCode::kResourceExhausted);
  // A Cancel is no further request, and what it ends makes room.
  ASSERT_TRUE(
      socket.Send(RequestFrame(2, [](wire::Builder& b) { return wire::fb::CreateCancel(b); })));
  expect_end(2, StatusCode::kCancelled);
  ASSERT_TRUE(socket.Send(PingFrame(6)));
  expect_end(6, StatusCode::kOk);
  EXPECT_EQ(gate.arrived(), 3);
  gate.Open();
  for (int i = 0; i < 2; ++i) {
    const auto end = NextEnd(&socket);
    ASSERT_TRUE(end);
    EXPECT_TRUE(end->request == 1 || end->request == 3) << end->request;
    EXPECT_OK(StatusOf(*end));
  }
}

TEST(RequestLimit, TheClientWaitsInsteadOfBeingRefused) {
  server::WireServerOptions options;
  options.requests_max = 3;
  TestServer server(options);
  ASSERT_OK(server.database().CreateCollection("notes"));
  ASSERT_OK_AND(auto database, Connect({.port = server.port()}));
  const auto notes = AsyncDatabase::Of(database)->Collection("notes");
  std::vector<std::promise<Status>> ends(50);
  for (auto& end : ends) {
    notes->Ask("what is kept?", {},
               [&end](Result<Answer> answer) { end.set_value(ToStatus(answer)); });
  }
  for (auto& end : ends) EXPECT_OK(end.get_future().get());
  EXPECT_EQ(server.wire().stats().request_errors, 0u);
}

// ---- Loss

TEST(LostConnections, QuestionsThatRunOrWaitAreDropped) {
  Gate gate;
  TestServer server({}, nullptr, GatedOptions(&gate));
  ASSERT_OK(server.database().CreateCollection("notes"));
  constexpr int kAsks = 20;  // more than the workers of one collection
  for (const bool reset : {false, true}) {
    const int before = gate.arrived();
    {
      RawSocket socket(server.port());
      std::string bytes = PrefaceBytes() + HelloFrame();
      for (uint64_t i = 1; i <= kAsks; ++i) bytes += AskFrame(i);
      ASSERT_TRUE(socket.Send(bytes));
      // As many as may run do, and the others wait.
      ASSERT_TRUE(Eventually([&] {
        const auto stats = server.admission().stats();
        const int running = gate.arrived() - before;
        return running > 0 && stats.queued[1] > 0 &&
               stats.queued[1] + static_cast<size_t>(running) == kAsks;
      }));
      if (reset) socket.Reset();
    }
    ExpectNothingKept(server);
    // Whatever reached the model was told to stop.
    EXPECT_EQ(gate.stopped(), gate.arrived());
  }
  gate.Open();
  ASSERT_OK_AND(auto database, Connect({.port = server.port()}));
  ASSERT_OK_AND(auto notes, database->OpenCollection("notes"));
  EXPECT_OK(notes->Ask("anything left?"));
}

TEST(LostConnections, ABatchEndsBetweenItsCommits) {
  TestServer server;
  ASSERT_OK_AND(auto notes, server.database().CreateCollection("notes"));
  constexpr int kDocuments = 500;  // a commit for about every six of them
  const std::string batch = RequestFrame(1, [](wire::Builder& b) {
    std::vector<flatbuffers::Offset<wire::fb::NewDocument>> documents;
    for (int i = 0; i < kDocuments; ++i) {
      documents.push_back(wire::Encode(
          &b, Doc("one two three four five six seven eight nine " + std::to_string(i))));
    }
    const auto name = wire::EncodeText(&b, "notes");
    const auto list = b.CreateVector(documents);
    return wire::fb::CreateInsertBatch(b, name, list, false, true);
  });
  {
    RawSocket socket(server.port());
    ASSERT_TRUE(socket.Send(PrefaceBytes() + HelloFrame() + batch));
    ASSERT_TRUE(socket.Receive());
    const auto progress = socket.Receive();  // the first commit is done
    ASSERT_TRUE(progress);
    EXPECT_FALSE(progress->last);
    socket.Reset();
  }
  ExpectNothingKept(server);
  // What is there is the beginning of the batch, whole.
  ListOptions all;
  all.limit = kDocuments;
  ASSERT_OK_AND(const DocumentPage page, notes->List(all));
  EXPECT_FALSE(page.documents.empty());
  for (size_t i = 0; i < page.documents.size(); ++i) {
    EXPECT_THAT(page.documents[i].text, ::testing::EndsWith(" " + std::to_string(i)));
  }
  ASSERT_OK_AND(const VerifyReport report, server.database().Verify());
  EXPECT_TRUE(report.ok());
}

// ---- The server's end

class Draining : public ::testing::Test {
 protected:
  Draining() : server_({}, nullptr, GatedOptions(&gate_)) {
    EXPECT_TRUE(server_.database().CreateCollection("notes").ok());
  }

  // A connection with a question under way.
  void Ask(RawSocket* socket) {
    ASSERT_TRUE(socket->Send(PrefaceBytes() + HelloFrame() + AskFrame(1)));
    ASSERT_TRUE(socket->Receive());
    ASSERT_TRUE(gate_.WaitForArrivals(1));
  }

  std::future<bool> Shutdown(std::chrono::milliseconds patience) {
    return std::async(std::launch::async,
                      [this, patience] { return server_.wire().Shutdown(patience); });
  }

  static void ExpectGoAway(RawSocket* socket) {
    const auto frame = socket->Receive();
    ASSERT_TRUE(frame);
    EXPECT_EQ(frame->request, 0u);
    const auto reply = wire::VerifyReply(frame->payload);
    ASSERT_OK(ToStatus(reply));
    EXPECT_NE((*reply)->body_as_GoAway(), nullptr);
  }

  Gate gate_;
  TestServer server_;
};

TEST_F(Draining, AnAnswerUnderWayArrives) {
  auto connection = std::make_unique<RawSocket>(server_.port());
  RawSocket& socket = *connection;
  Ask(&socket);
  auto drained = Shutdown(kPatience);
  ExpectGoAway(&socket);
  // What comes later is refused, in words.
  ASSERT_TRUE(socket.Send(AskFrame(2)));
  auto end = NextEnd(&socket);
  ASSERT_TRUE(end);
  EXPECT_EQ(end->request, 2u);
  EXPECT_CODE(StatusOf(*end), StatusCode::kUnavailable);
  RawSocket late(server_.port());
  late.Send(PrefaceBytes() + HelloFrame());
  EXPECT_FALSE(late.Receive());

  gate_.Open();
  end = NextEnd(&socket);
  ASSERT_TRUE(end);
  EXPECT_EQ(end->request, 1u);
  EXPECT_OK(StatusOf(*end));
  EXPECT_TRUE(socket.ReadToEnd());
  connection.reset();
  EXPECT_TRUE(drained.get());
  EXPECT_EQ(server_.wire().stats().connections_cut, 0u);
}

TEST_F(Draining, WhatOutlastsThePatienceGetsATypedError) {
  auto connection = std::make_unique<RawSocket>(server_.port());
  RawSocket& socket = *connection;
  Ask(&socket);
  auto drained = Shutdown(std::chrono::milliseconds(20));
  ExpectGoAway(&socket);
  const auto end = NextEnd(&socket);
  ASSERT_TRUE(end);
  EXPECT_EQ(end->request, 1u);
  EXPECT_CODE(StatusOf(*end), StatusCode::kUnavailable);
  EXPECT_TRUE(socket.ReadToEnd());
  connection.reset();
  EXPECT_FALSE(drained.get());
  EXPECT_EQ(gate_.stopped(), 1);
}

TEST_F(Draining, TheClientGetsItsAnswerToo) {
  ASSERT_OK_AND(auto database, Connect({.port = server_.port()}));
  ASSERT_OK_AND(auto notes, database->OpenCollection("notes"));
  auto answer = std::async(std::launch::async, [&] { return ToStatus(notes->Ask("what?")); });
  ASSERT_TRUE(gate_.WaitForArrivals(1));
  auto drained = Shutdown(kPatience);
  // Nobody listens any more: the server has begun to stop.
  EXPECT_TRUE(Eventually([&] { return !RawSocket(server_.port()).connected(); }));
  // It waits for what is under way, and then finds nobody.
  auto late = std::async(std::launch::async, [&] { return ToStatus(notes->Count()); });
  gate_.Open();
  EXPECT_OK(answer.get());
  EXPECT_CODE(late.get(), StatusCode::kUnavailable);
  EXPECT_TRUE(drained.get());
}

// One line of the log that holds all of `parts`.
bool HasLine(const std::vector<std::string>& lines, const std::vector<std::string>& parts) {
  return std::any_of(lines.begin(), lines.end(), [&](const std::string& line) {
    return std::all_of(parts.begin(), parts.end(), [&](const std::string& part) {
      return line.find(part) != std::string::npos;
    });
  });
}

TEST(WireLog, SaysWhoDidWhatAndWhatCameOfItButNothingThatIsStored) {
  std::mutex mutex;
  std::vector<std::string> lines;
  const auto logged = [&](const std::vector<std::string>& parts) {
    return Eventually([&] {
      std::lock_guard lock(mutex);
      return HasLine(lines, parts);
    });
  };
  db::TempFolder folder;
  const auto token = server::TokenStore::Add(
      folder / "tokens.json", {.name = "writer", .grants = {{"*", server::Right::kAdmin}}});
  ASSERT_OK(token);
  const auto tokens = server::TokenStore::Open(folder / "tokens.json");
  ASSERT_OK(tokens);
  TestServer server({}, tokens->get(), db::TestOptions(), [&](std::string_view line) {
    std::lock_guard lock(mutex);
    lines.emplace_back(line);
  });

  auto db = Connect({.port = server.port(), .token = *token, .name = "a \"program\""});
  ASSERT_OK(db);
  auto notes = (*db)->GetOrCreateCollection("secret-name");
  ASSERT_OK(notes);
  ASSERT_OK((*notes)->Insert(Doc("Unmistakable words.")));
  EXPECT_CODE((*notes)->Get(77), StatusCode::kNotFound);
  const std::string who = R"("token":"writer","client":"a \"program\"","remote":"127.0.0.1"})";
  EXPECT_TRUE(logged({R"("route":"Hello","status":"OK")", who}));
  EXPECT_TRUE(logged({R"("port":"binary","route":"Put","status":"OK","ms":)", who}));
  EXPECT_TRUE(logged({R"("route":"Get","status":"NotFound")", R"("bytes_out":)", who}));

  EXPECT_CODE(Connect({.port = server.port(), .token = "wrong"}), StatusCode::kPermissionDenied);
  EXPECT_TRUE(logged({R"("route":"Hello","status":"PermissionDenied","token":"")"}));

  {
    RawSocket stranger(server.port());
    ASSERT_TRUE(stranger.Send("GET / HTTP/1.1\r\n\r\n"));
    EXPECT_TRUE(stranger.ReadToEnd());
  }
  EXPECT_TRUE(logged({R"("route":"none","status":"cut","token":"")"}));

  RawSocket client(server.port());
  ASSERT_TRUE(client.Send(PrefaceBytes() + HelloFrame(*token) +
                          wire::EncodeFrame(5, true, std::vector<uint8_t>{1, 2})));
  ASSERT_TRUE(client.Receive());
  EXPECT_TRUE(logged({R"("route":"none","status":"InvalidArgument","token":"writer")"}));

  std::lock_guard lock(mutex);
  for (const std::string& line : lines) {
    for (const std::string& word :
         {std::string("Unmistakable"), std::string("secret-name"), *token}) {
      EXPECT_EQ(line.find(word), std::string::npos) << line;
    }
  }
}

TEST(WireLog, ARequestWhoseConnectionIsLostIsLoggedOnce) {
  std::mutex mutex;
  std::vector<std::string> lines;
  Gate gate;
  TestServer server({}, nullptr, GatedOptions(&gate), [&](std::string_view line) {
    std::lock_guard lock(mutex);
    lines.emplace_back(line);
  });
  const auto count = [&] {
    std::lock_guard lock(mutex);
    return std::count_if(lines.begin(), lines.end(), [](const std::string& line) {
      return line.find(R"("route":"Ask")") != std::string::npos;
    });
  };
  ASSERT_OK(server.database().CreateCollection("notes"));
  ASSERT_OK((*server.database().OpenCollection("notes"))->Insert(Doc("A note.")));
  {
    RawSocket client(server.port());
    ASSERT_TRUE(client.Send(PrefaceBytes() + HelloFrame() + AskFrame(9)));
    ASSERT_TRUE(gate.WaitForArrivals(1));
    client.Reset();
  }
  EXPECT_TRUE(Eventually([&] { return count() == 1 && gate.stopped() == 1; }));
  server.Stop();
  EXPECT_EQ(count(), 1);
  std::lock_guard lock(mutex);
  EXPECT_TRUE(HasLine(lines, {R"("route":"Ask","status":"cut","ms":)"}));
}

}  // namespace
}  // namespace msadb::client
