// Whatever is said to the binary port: a typed error or a clean close, nothing lost, nothing kept.
#include <malloc.h>

#include <climits>
#include <iostream>
#include <limits>
#include <random>
#include <thread>

#include "tests/client/wire_test_util.h"

namespace msadb::client {
namespace {

using db::Doc;
using db::ToStatus;

// Of the heap, in use: what a leak adds to, and the allocator's own habits do not. Zero under
// AddressSanitizer, which finds leaks itself.
size_t HeapBytes() {
  const struct mallinfo2 info = mallinfo2();
  return info.uordblks + info.hblkhd;
}

class Robustness : public ::testing::Test {
 protected:
  Robustness() {
    auto created = server_.database().CreateCollection("notes");
    EXPECT_TRUE(created.ok());
    notes_ = std::move(*created);
  }

  // The server still serves, and what was stored is there.
  void ExpectHealthy() {
    RawSocket socket(server_.port());
    ASSERT_TRUE(socket.Send(PrefaceBytes() + HelloFrame() + PingFrame(1)));
    const auto welcome = socket.Receive();
    ASSERT_TRUE(welcome);
    const auto pong = socket.Receive();
    ASSERT_TRUE(pong);
    EXPECT_EQ(pong->request, 1u);
    EXPECT_OK(StatusOf(*pong));
  }

  // Waits until the server has let go of every connection.
  void ExpectNothingKept() {
    for (int i = 0; i < 2000; ++i) {
      const auto stats = server_.wire().stats();
      if (stats.connections == 0 && stats.requests_active == 0 && stats.handles == 0) return;
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    const auto stats = server_.wire().stats();
    ADD_FAILURE() << stats.connections << " connections, " << stats.requests_active
                  << " requests and " << stats.handles << " handles are left";
  }

  // A whole conversation of every kind of request.
  static std::string Conversation() {
    namespace fb = wire::fb;
    using B = wire::Builder;
    std::string bytes = PrefaceBytes() + HelloFrame();
    bytes += PutFrame(1, "notes", Doc("first text", "key", {{"n", int64_t{1}}}));
    bytes +=
        RequestFrame(2, [](B& b) { return fb::CreateGet(b, wire::EncodeText(&b, "notes"), 0, 1); });
    bytes += RequestFrame(3, [](B& b) {
      const auto name = wire::EncodeText(&b, "notes");
      const auto query = wire::EncodeText(&b, "first");
      return fb::CreateSearch(b, name, 0, query, 3, wire::EncodeText(&b, R"({"n": 1})"));
    });
    bytes += RequestFrame(4, [](B& b) {
      const auto name = wire::EncodeText(&b, "notes");
      const auto question = wire::EncodeText(&b, "what is first?");
      return fb::CreateAsk(b, name, 0, question, 0, true, true);
    });
    bytes +=
        RequestFrame(5, [](B& b) { return fb::CreateBegin(b, wire::EncodeText(&b, "notes")); });
    bytes += RequestFrame(
        6, [](B& b) { return fb::CreateTakeSnapshot(b, wire::EncodeText(&b, "notes")); });
    bytes += RequestFrame(
        7, [](B& b) { return fb::CreateList(b, wire::EncodeText(&b, "notes"), 0, 0, 100); });
    bytes += RequestFrame(4, [](B& b) { return fb::CreateCancel(b); });
    return bytes + PingFrame(8);
  }

  TestServer server_;
  std::shared_ptr<Collection> notes_;
};

TEST_F(Robustness, ConversationsCutAtEveryByte) {
  const std::string conversation = Conversation();
  for (size_t cut = 0; cut <= conversation.size(); ++cut) {
    RawSocket socket(server_.port());
    ASSERT_TRUE(socket.connected());
    socket.Send(std::string_view(conversation).substr(0, cut));
    // In turn: closed at once, reset, or half closed and read to the end.
    if (cut % 3 == 1) socket.Reset();
    if (cut % 3 == 2) {
      socket.FinishSending();
      EXPECT_TRUE(socket.ReadToEnd()) << "cut at " << cut;
    }
  }
  ExpectHealthy();
  ExpectNothingKept();
  // A Put is there whole or not at all.
  ListOptions all;
  all.limit = 10'000;
  ASSERT_OK_AND(const DocumentPage page, notes_->List(all));
  for (const Document& document : page.documents) EXPECT_EQ(document.text, "first text");
  ASSERT_OK_AND(const VerifyReport report, server_.database().Verify());
  EXPECT_TRUE(report.ok());
}

TEST_F(Robustness, FramesThatAreNone) {
  const auto answer_to = [&](const std::string& bytes) {
    RawSocket socket(server_.port());
    EXPECT_TRUE(socket.Send(PrefaceBytes() + HelloFrame()));
    EXPECT_TRUE(socket.Receive());
    EXPECT_TRUE(socket.Send(bytes));
    const auto error = socket.Receive();
    EXPECT_TRUE(error);
    Status status = error ? StatusOf(*error) : Status::Ok();
    if (error) {
      EXPECT_EQ(error->request, 0u);
    }
    EXPECT_TRUE(socket.ReadToEnd());
    return status;
  };
  std::string header(wire::kHeaderBytes, '\0');
  EXPECT_CODE(answer_to(header), StatusCode::kInvalidArgument);  // no payload
  header[0] = header[1] = header[2] = header[3] = '\xff';
  EXPECT_CODE(answer_to(header), StatusCode::kInvalidArgument);  // 4 GiB
  header.assign(wire::kHeaderBytes, '\0');
  header[0] = 8;
  header[5] = 1;
  EXPECT_CODE(answer_to(header), StatusCode::kInvalidArgument);        // unknown flag
  EXPECT_CODE(answer_to(PingFrame(0)), StatusCode::kInvalidArgument);  // number 0
  std::string ping = PingFrame(9);
  ping[4] = 0;
  EXPECT_CODE(answer_to(ping), StatusCode::kInvalidArgument);  // not the last
  ExpectHealthy();
  ExpectNothingKept();
}

TEST_F(Robustness, OtherProtocolsAndVersions) {
  for (const std::string& bytes :
       {std::string("GET / HTTP/1.1\r\nHost: x\r\n\r\n"), std::string("MSADB\r\n\0", 8),
        std::string(100, '\0'), std::string("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03", 10)}) {
    RawSocket socket(server_.port());
    socket.Send(bytes);
    EXPECT_FALSE(socket.Receive());
    EXPECT_TRUE(socket.ReadToEnd());
  }
  RawSocket socket(server_.port());
  socket.Send(PrefaceBytes(99) + HelloFrame());
  const auto error = socket.Receive();
  ASSERT_TRUE(error);
  EXPECT_CODE(StatusOf(*error), StatusCode::kUnsupported);
  EXPECT_TRUE(socket.ReadToEnd());
  // A first message that is no Hello, and one larger than a Hello may be.
  for (const std::string& first :
       {PingFrame(1), PutFrame(1, "notes", Doc(std::string(100'000, 'x')))}) {
    RawSocket early(server_.port());
    early.Send(PrefaceBytes() + first);
    const auto refused = early.Receive();
    ASSERT_TRUE(refused);
    EXPECT_CODE(StatusOf(*refused), StatusCode::kInvalidArgument);
    EXPECT_TRUE(early.ReadToEnd());
  }
  ExpectHealthy();
}

TEST_F(Robustness, UnknownRequestsAndDamagedMessagesAreAnswered) {
  RawSocket socket(server_.port());
  ASSERT_TRUE(socket.Send(PrefaceBytes() + HelloFrame()));
  ASSERT_TRUE(socket.Receive());
  // A kind of request from a later version.
  wire::Builder b;
  const auto body = wire::fb::CreatePing(b);
  b.Finish(wire::fb::CreateRequest(b, 0, static_cast<wire::fb::RequestBody>(200), body.Union()));
  const std::span<const uint8_t> unknown(b.GetBufferPointer(), b.GetSize());
  ASSERT_TRUE(socket.Send(wire::EncodeFrame(1, true, unknown)));
  auto reply = socket.Receive();
  ASSERT_TRUE(reply);
  EXPECT_EQ(reply->request, 1u);
  EXPECT_CODE(StatusOf(*reply), StatusCode::kUnsupported);
  // No FlatBuffer at all; the connection goes on.
  const std::vector<uint8_t> noise(40, 0xee);
  ASSERT_TRUE(socket.Send(wire::EncodeFrame(2, true, noise) + PingFrame(3)));
  for (int i = 0; i < 2; ++i) {
    reply = socket.Receive();
    ASSERT_TRUE(reply);
    EXPECT_CODE(StatusOf(*reply),
                reply->request == 2 ? StatusCode::kInvalidArgument : StatusCode::kOk);
  }
  // Strings that share their bytes would take far more memory than was sent.
  wire::Builder shared;
  const auto text = shared.CreateString(std::string(10'000, 'x'));
  std::vector<flatbuffers::Offset<flatbuffers::String>> list(10'000, text);
  const auto list_offset = shared.CreateVector(list);
  const auto name = shared.CreateString("a");
  wire::fb::ValueBuilder value(shared);
  value.add_name(name);
  value.add_kind(wire::fb::ValueKind::TextList);
  value.add_list(list_offset);
  const auto value_offset = value.Finish();
  const auto metadata = shared.CreateVector(&value_offset, 1);
  const auto document = wire::fb::CreateNewDocument(shared, text, 0, metadata);
  const auto collection = shared.CreateString("notes");
  const auto put = wire::fb::CreatePut(shared, collection, 0, document, false);
  ASSERT_TRUE(socket.Send(wire::EncodeFrame(4, true, wire::FinishRequest(&shared, put))));
  reply = socket.Receive();
  ASSERT_TRUE(reply);
  EXPECT_CODE(StatusOf(*reply), StatusCode::kInvalidArgument);
  ASSERT_OK_AND(const uint64_t count, notes_->Count());
  EXPECT_EQ(count, 0u);
}

TEST_F(Robustness, TenThousandBadConversationsLeaveNothing) {
  constexpr uint64_t kSeed = 20231123;
  std::mt19937_64 random(kSeed);
  const std::string good = Conversation();
  const auto one = [&] {
    std::string bytes = good;
    for (uint64_t changes = 1 + random() % 4; changes > 0; --changes) {
      const size_t at = random() % bytes.size();
      switch (random() % 4) {
        case 0:
          bytes[at] = static_cast<char>(random());
          break;
        case 1:
          bytes[at] = static_cast<char>(bytes[at] ^ (1 << random() % 8));
          break;
        case 2:
          bytes.resize(at + 1);
          break;
        default:
          bytes.insert(at, 1 + random() % 20, static_cast<char>(random()));
      }
    }
    RawSocket socket(server_.port());
    socket.Send(bytes);
    if (random() % 2 == 0) socket.Reset();
  };
  std::cout << "seed " << kSeed << "\n";
  // A changed byte can make a sound request of another kind, one that drops the collection too.
  // Each round begins and ends with an empty database, so that what was let in does not count.
  const auto many = [&](int times) {
    for (int i = 0; i < times; ++i) {
      if (i % 50 == 0) {
        ASSERT_OK(server_.database().GetOrCreateCollection("notes"));
      }
      one();
    }
    ExpectHealthy();
    ExpectNothingKept();
    ASSERT_OK_AND(const VerifyReport report, server_.database().Verify());
    EXPECT_TRUE(report.ok());
    ASSERT_OK_AND(const auto names, server_.database().ListCollections());
    for (const std::string& name : names) ASSERT_OK(server_.database().DropCollection(name));
    ASSERT_OK(server_.database().Compact());
  };
  many(2000);
  const size_t before = HeapBytes();
  many(8000);
  const size_t after = HeapBytes();
  std::cout << "heap before " << (before >> 10) << " KiB, after " << (after >> 10) << " KiB\n";
  // A KiB lost in each conversation would be 8 MiB; caches take some 200 KiB.
  EXPECT_LT(after, before + (1u << 20));
}

TEST_F(Robustness, ConnectionsLostAtEveryByteOfTheReplies) {
  const std::string conversation = Conversation();
  constexpr size_t kReplyBytesAtLeast = 600;
  for (size_t taken = 0; taken <= kReplyBytesAtLeast; taken += 7) {
    RawSocket socket(server_.port());
    ASSERT_TRUE(socket.Send(conversation));
    std::string replies(taken, '\0');
    if (taken > 0) {
      // Each request has an answer, and those are longer together.
      ASSERT_EQ(::recv(socket.fd(), replies.data(), taken, MSG_WAITALL),
                static_cast<ssize_t>(taken));
    }
    socket.Reset();
  }
  ExpectHealthy();
  ExpectNothingKept();
  ASSERT_OK_AND(const VerifyReport report, server_.database().Verify());
  EXPECT_TRUE(report.ok());
}

TEST_F(Robustness, HugeNumbersAreAnswered) {
  namespace fb = wire::fb;
  using B = wire::Builder;
  constexpr uint64_t kMax = UINT64_MAX;
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  RawSocket socket(server_.port());
  ASSERT_TRUE(socket.Send(PrefaceBytes() + HelloFrame()));
  ASSERT_TRUE(socket.Receive());
  const auto answer = [&](uint64_t number, auto make) {
    EXPECT_TRUE(socket.Send(RequestFrame(number, [&](B& b) {
      const auto name = wire::EncodeText(&b, "notes");
      return make(b, name, wire::EncodeText(&b, "text"));
    })));
    for (;;) {
      const auto reply = socket.Receive();
      EXPECT_TRUE(reply);
      if (!reply) return Status::Internal("no answer");
      EXPECT_EQ(reply->request, number);
      if (reply->last) return StatusOf(*reply);
    }
  };
  const auto put = [&](std::optional<int64_t> expires_at, std::optional<int64_t> created_at) {
    return answer(kMax, [&](B& b, auto name, auto) {
      NewDocument document = Doc("text");
      if (expires_at) document.expires_at = TimePoint(std::chrono::microseconds(*expires_at));
      if (created_at) document.created_at = TimePoint(std::chrono::microseconds(*created_at));
      return fb::CreatePut(b, name, 0, wire::Encode(&b, document));
    });
  };
  const auto ask = [&](int rounds, int tokens, int text_tokens, float temperature, float top_p) {
    return answer(1, [&](B& b, auto name, auto text) {
      return fb::CreateAsk(b, name, 0, text, 0, true, true, rounds, tokens, text_tokens,
                           temperature, top_p, kMax);
    });
  };
  EXPECT_OK(put({}, {}));
  EXPECT_CODE(put(INT64_MIN, {}), StatusCode::kInvalidArgument);
  EXPECT_CODE(put(INT64_MAX, {}), StatusCode::kInvalidArgument);
  EXPECT_CODE(put({}, INT64_MIN), StatusCode::kInvalidArgument);
  EXPECT_CODE(put({}, INT64_MAX), StatusCode::kInvalidArgument);
  EXPECT_CODE(answer(1, [&](B& b, auto n, auto) { return fb::CreateGet(b, n, 0, kMax); }),
              StatusCode::kNotFound);
  EXPECT_CODE(answer(1, [&](B& b, auto n, auto) { return fb::CreateDelete(b, n, 0, kMax); }),
              StatusCode::kNotFound);
  EXPECT_CODE(answer(1, [&](B& b, auto n, auto) { return fb::CreateGet(b, n, kMax, 1); }),
              StatusCode::kInvalidArgument);
  EXPECT_CODE(answer(1, [&](B& b, auto, auto) { return fb::CreateCommit(b, kMax); }),
              StatusCode::kInvalidArgument);
  EXPECT_OK(answer(1, [&](B& b, auto, auto) { return fb::CreateRelease(b, kMax); }));
  EXPECT_CODE(answer(1, [&](B& b, auto n, auto) { return fb::CreateList(b, n, 0, 0, kMax); }),
              StatusCode::kInvalidArgument);
  EXPECT_OK(answer(1, [&](B& b, auto n, auto) { return fb::CreateList(b, n, 0, kMax, 10'000); }));
  EXPECT_CODE(answer(1, [&](B& b, auto n, auto t) { return fb::CreateSearch(b, n, 0, t, kMax); }),
              StatusCode::kInvalidArgument);
  EXPECT_CODE(ask(INT_MAX, 8, 100, 0, 1), StatusCode::kInvalidArgument);
  EXPECT_CODE(ask(INT_MIN, 8, 100, 0, 1), StatusCode::kInvalidArgument);
  EXPECT_CODE(ask(4, INT_MAX, 100, 0, 1), StatusCode::kInvalidArgument);
  EXPECT_CODE(ask(4, INT_MIN, 100, 0, 1), StatusCode::kInvalidArgument);
  EXPECT_CODE(ask(4, 8, INT_MAX, 0, 1), StatusCode::kInvalidArgument);
  EXPECT_CODE(ask(4, 8, INT_MIN, 0, 1), StatusCode::kInvalidArgument);
  for (const float bad : {kNan, kInfinity, -kInfinity}) {
    EXPECT_CODE(ask(4, 8, 100, bad, 1), StatusCode::kInvalidArgument);
    EXPECT_CODE(ask(4, 8, 100, 0, bad), StatusCode::kInvalidArgument);
  }
  // A time limit of 600 million years is one.
  B b;
  const auto ping = fb::CreatePing(b);
  b.Finish(fb::CreateRequest(b, kMax, fb::RequestBody::Ping, ping.Union()));
  socket.Send(wire::EncodeFrame(kMax, true, {b.GetBufferPointer(), b.GetSize()}));
  const auto pong = socket.Receive();
  ASSERT_TRUE(pong);
  EXPECT_OK(StatusOf(*pong));
  ASSERT_OK_AND(const uint64_t count, notes_->Count());
  EXPECT_EQ(count, 1u);
}

TEST_F(Robustness, FieldsOfLaterVersionsAreIgnored) {
  wire::Builder b;
  const auto name = b.CreateString("notes");
  const auto more = b.CreateString("what a later version says");
  const auto body_start = b.StartTable();
  b.AddOffset(wire::fb::Count::VT_COLLECTION, name);
  b.AddOffset(flatbuffers::FieldIndexToOffset(20), more);
  b.AddElement<uint64_t>(flatbuffers::FieldIndexToOffset(21), UINT64_MAX, 0);
  const flatbuffers::Offset<void> body(b.EndTable(body_start));
  const auto start = b.StartTable();
  b.AddElement<uint8_t>(wire::fb::Request::VT_BODY_TYPE,
                        static_cast<uint8_t>(wire::fb::RequestBody::Count), 0);
  b.AddOffset(wire::fb::Request::VT_BODY, body);
  b.AddOffset(flatbuffers::FieldIndexToOffset(30), more);
  b.Finish(flatbuffers::Offset<wire::fb::Request>(b.EndTable(start)));
  ASSERT_OK(notes_->Insert(Doc("text")));
  RawSocket socket(server_.port());
  ASSERT_TRUE(socket.Send(PrefaceBytes() + HelloFrame() +
                          wire::EncodeFrame(1, true, {b.GetBufferPointer(), b.GetSize()})));
  ASSERT_TRUE(socket.Receive());
  const auto reply = socket.Receive();
  ASSERT_TRUE(reply);
  ASSERT_OK(StatusOf(*reply));
  EXPECT_EQ((*wire::VerifyReply(reply->payload))->body_as_Number()->value(), 1u);
}

TEST(WireTokens, TenThousandWrongTokensLeaveNothing) {
  db::TempFolder folder;
  const std::string path = folder / "tokens";
  ASSERT_OK_AND(const std::string good,
                server::TokenStore::Add(path, {"notes", {{"*", server::Right::kAdmin}}}));
  ASSERT_OK_AND(const auto store, server::TokenStore::Open(path));
  TestServer server({}, store.get());
  constexpr uint64_t kSeed = 20231124;
  std::cout << "seed " << kSeed << "\n";
  std::mt19937_64 random(kSeed);
  const auto one = [&] {
    std::string token = good;
    switch (random() % 4) {
      case 0:
        token.resize(random() % token.size());
        break;
      case 1:
        token.back() = token.back() == '0' ? '1' : '0';
        break;
      case 2:
        token += std::string(1 + random() % 3000, static_cast<char>(random()));
        break;
      default:
        for (char& c : token) c = static_cast<char>(random());
    }
    RawSocket socket(server.port());
    ASSERT_TRUE(socket.Send(PrefaceBytes() + HelloFrame(token) + PingFrame(1)));
    const auto refused = socket.Receive();
    ASSERT_TRUE(refused);
    EXPECT_EQ(refused->request, 0u);
    EXPECT_CODE(StatusOf(*refused), StatusCode::kPermissionDenied);
    EXPECT_FALSE(socket.Receive());
  };
  const auto many = [&](int times) {
    for (int i = 0; i < times && !HasFailure(); ++i) one();
    while (server.wire().stats().connections > 0) std::this_thread::yield();
  };
  many(2000);
  const size_t before = HeapBytes();
  many(10'000);
  const size_t after = HeapBytes();
  std::cout << "heap before " << (before >> 10) << " KiB, after " << (after >> 10) << " KiB\n";
  // 100 bytes lost for each would be more.
  EXPECT_LT(after, before + 900'000);
  EXPECT_EQ(server.wire().stats().hellos_refused, 12'000u);
  ASSERT_OK(Connect({.port = server.port(), .token = good}));
}

// ---- Deadlines and slow clients

TEST(WireDeadlines, SilentAndSlowClientsAreCut) {
  server::WireServerOptions options;
  options.hello_timeout = std::chrono::milliseconds(200);
  options.frame_timeout = std::chrono::milliseconds(200);
  options.write_timeout = std::chrono::milliseconds(300);
  TestServer server(options);
  RawSocket silent(server.port());
  EXPECT_TRUE(silent.ReadToEnd());
  RawSocket half_hello(server.port());
  half_hello.Send(PrefaceBytes() + HelloFrame().substr(0, 20));
  EXPECT_TRUE(half_hello.ReadToEnd());
  RawSocket half_frame(server.port());
  half_frame.Send(PrefaceBytes() + HelloFrame() + PingFrame(1).substr(0, 18));
  EXPECT_TRUE(half_frame.Receive());
  EXPECT_TRUE(half_frame.ReadToEnd());

  // Asks for much and reads nothing.
  ASSERT_OK_AND(auto notes, server.database().CreateCollection("notes"));
  ASSERT_OK(notes->Insert(Doc(db::Words("x", 400'000))));
  RawSocket reader(server.port());
  std::string many = PrefaceBytes() + HelloFrame();
  for (uint64_t i = 1; i <= 60; ++i) {
    many += RequestFrame(i, [](wire::Builder& b) {
      return wire::fb::CreateGet(b, wire::EncodeText(&b, "notes"), 0, 1);
    });
  }
  reader.Send(many);
  for (int i = 0; i < 2000 && server.wire().stats().connections > 0; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  EXPECT_EQ(server.wire().stats().connections, 0u);
}

TEST(WireDeadlines, IdleHandlesEnd) {
  server::WireServerOptions options;
  options.handle_idle_timeout = std::chrono::milliseconds(100);
  TestServer server(options);
  ASSERT_OK_AND(auto db, Connect({.port = server.port()}));
  ASSERT_OK_AND(auto notes, db->CreateCollection("notes"));
  ASSERT_OK_AND(auto transaction, notes->Begin());
  ASSERT_OK_AND(auto snapshot, notes->TakeSnapshot());
  ASSERT_OK(transaction->Insert(Doc("text")));
  for (int i = 0; i < 2000 && server.wire().stats().handles > 0; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  EXPECT_EQ(server.wire().stats().handles, 0u);
  EXPECT_CODE(transaction->Commit(), StatusCode::kFailedPrecondition);
  EXPECT_CODE(snapshot->Count(), StatusCode::kFailedPrecondition);
  ASSERT_OK_AND(const uint64_t count, notes->Count());
  EXPECT_EQ(count, 0u);
}

TEST(WireLimits, HandlesConnectionsAndRequests) {
  server::WireServerOptions options;
  options.handles_max = 3;
  options.connections_max = 2;
  TestServer server(options);
  ASSERT_OK_AND(auto db, Connect({.port = server.port()}));
  ASSERT_OK_AND(auto notes, db->CreateCollection("notes"));
  std::vector<std::unique_ptr<Snapshot>> snapshots;
  for (int i = 0; i < 3; ++i) {
    ASSERT_OK_AND(auto snapshot, notes->TakeSnapshot());
    snapshots.push_back(std::move(snapshot));
  }
  EXPECT_CODE(notes->TakeSnapshot(), StatusCode::kResourceExhausted);
  EXPECT_CODE(notes->Begin(), StatusCode::kResourceExhausted);
  snapshots.pop_back();
  // Nobody waits for the server to have ended it.
  const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(30);
  Status taken = ToStatus(notes->TakeSnapshot());
  while (!taken.ok() && std::chrono::steady_clock::now() < until) {
    EXPECT_EQ(taken.code(), StatusCode::kResourceExhausted) << taken.ToString();
    taken = ToStatus(notes->TakeSnapshot());
  }
  EXPECT_OK(taken);
  ASSERT_OK_AND(auto second, Connect({.port = server.port()}));
  EXPECT_CODE(Connect({.port = server.port()}), StatusCode::kUnavailable);
  second.reset();
}

}  // namespace
}  // namespace msadb::client
