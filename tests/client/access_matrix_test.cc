// Every kind of request of the binary port with every kind of token.
#include <algorithm>
#include <functional>
#include <iostream>
#include <map>
#include <set>
#include <thread>

#include "tests/client/wire_test_util.h"

namespace msadb::client {
namespace {

namespace fb = wire::fb;
using db::Doc;
using db::ToStatus;
using server::Right;
using wire::Builder;
using wire::EncodeText;

enum class Scope {
  kToken,       // any valid token
  kCollection,  // the right must be for the collection
  kServer,      // the right must be for "*"
};

// Opens a handle on "notes" first when a row needs one.
enum class Opens { kNothing, kTransaction, kSnapshot };

struct Row {
  const char* name;
  fb::RequestBody kind;
  Scope scope;
  Right right;
  // The frame of the request: its number, the collection's name, a document's id, a handle or 0.
  std::function<std::string(uint64_t, const std::string&, uint64_t, uint64_t)> frame;
  StatusCode allowed = StatusCode::kOk;  // the answer to who may
  Opens opens = Opens::kNothing;
};

struct Who {
  const char* name;
  std::map<std::string, Right, std::less<>> grants;
  std::string token;
};

template <typename Make>
auto Frame(Make make) {
  return [make](uint64_t number, const std::string& name, uint64_t id, uint64_t handle) {
    return RequestFrame(number, [&](Builder& b) { return make(b, name, id, handle); });
  };
}

std::vector<Row> Rows() {
  using B = Builder;
  using N = const std::string;
  using U = uint64_t;
  using K = fb::RequestBody;
  const auto open = [](fb::OpenMode mode) {
    return Frame(
        [mode](B& b, N& n, U, U) { return fb::CreateOpenCollection(b, EncodeText(&b, n), mode); });
  };
  const auto put = Frame([](B& b, N& n, U, U handle) {
    const auto name = EncodeText(&b, n);
    return fb::CreatePut(b, name, handle, wire::Encode(&b, Doc("A heron stood here.", "heron")),
                         true);
  });
  const auto get = Frame(
      [](B& b, N& n, U id, U handle) { return fb::CreateGet(b, EncodeText(&b, n), handle, id); });
  const auto list = Frame(
      [](B& b, N& n, U, U handle) { return fb::CreateList(b, EncodeText(&b, n), handle, 0, 100); });
  const auto count =
      Frame([](B& b, N& n, U, U handle) { return fb::CreateCount(b, EncodeText(&b, n), handle); });
  const auto search = Frame([](B& b, N& n, U, U handle) {
    const auto name = EncodeText(&b, n);
    return fb::CreateSearch(b, name, handle, EncodeText(&b, "heron"));
  });
  const auto ask = Frame([](B& b, N& n, U, U handle) {
    const auto name = EncodeText(&b, n);
    return fb::CreateAsk(b, name, handle, EncodeText(&b, "heron"), 0, true);
  });
  const auto erase = Frame([](B& b, N& n, U id, U handle) {
    return fb::CreateDelete(b, EncodeText(&b, n), handle, id);
  });
  const auto commit = Frame([](B& b, N&, U, U handle) { return fb::CreateCommit(b, handle); });
  const auto release = Frame([](B& b, N&, U, U handle) { return fb::CreateRelease(b, handle); });
  constexpr auto kOk = StatusCode::kOk;
  constexpr auto kOver = StatusCode::kInvalidArgument;  // a handle that this connection never had
  return {
      // A second greeting, whatever the token.
      {"Hello", K::Hello, Scope::kToken, Right::kRead,
       Frame([](B& b, N&, U, U) { return fb::CreateHello(b); }), StatusCode::kFailedPrecondition},
      {"Ping", K::Ping, Scope::kToken, Right::kRead,
       Frame([](B& b, N&, U, U) { return fb::CreatePing(b); })},
      {"OpenCollection", K::OpenCollection, Scope::kCollection, Right::kRead,
       open(fb::OpenMode::Open)},
      {"OpenCollection that may create", K::OpenCollection, Scope::kCollection, Right::kRead,
       open(fb::OpenMode::OpenOrCreate)},
      {"OpenCollection that creates", K::OpenCollection, Scope::kCollection, Right::kAdmin,
       open(fb::OpenMode::Create), StatusCode::kAlreadyExists},
      {"DropCollection", K::DropCollection, Scope::kCollection, Right::kAdmin,
       Frame([](B& b, N& n, U, U) { return fb::CreateDropCollection(b, EncodeText(&b, n)); })},
      {"ListCollections", K::ListCollections, Scope::kToken, Right::kRead,
       Frame([](B& b, N&, U, U) { return fb::CreateListCollections(b); })},
      {"GetDatabaseStats", K::GetDatabaseStats, Scope::kServer, Right::kRead,
       Frame([](B& b, N&, U, U) { return fb::CreateGetDatabaseStats(b); })},
      {"GetCollectionStats", K::GetCollectionStats, Scope::kCollection, Right::kRead,
       Frame([](B& b, N& n, U, U) { return fb::CreateGetCollectionStats(b, EncodeText(&b, n)); })},
      {"VerifyDatabase", K::VerifyDatabase, Scope::kServer, Right::kAdmin,
       Frame([](B& b, N&, U, U) { return fb::CreateVerifyDatabase(b); })},
      {"Compact", K::Compact, Scope::kServer, Right::kAdmin,
       Frame([](B& b, N&, U, U) { return fb::CreateCompact(b); })},
      {"Get", K::Get, Scope::kCollection, Right::kRead, get},
      {"Get of a snapshot", K::Get, Scope::kCollection, Right::kRead, get, kOk, Opens::kSnapshot},
      {"Get in a transaction", K::Get, Scope::kCollection, Right::kWrite, get, kOk,
       Opens::kTransaction},
      {"List", K::List, Scope::kCollection, Right::kRead, list},
      {"List of a snapshot", K::List, Scope::kCollection, Right::kRead, list, kOk,
       Opens::kSnapshot},
      {"Count", K::Count, Scope::kCollection, Right::kRead, count},
      {"Count of a snapshot", K::Count, Scope::kCollection, Right::kRead, count, kOk,
       Opens::kSnapshot},
      {"Search", K::Search, Scope::kCollection, Right::kRead, search},
      {"Search of a snapshot", K::Search, Scope::kCollection, Right::kRead, search, kOk,
       Opens::kSnapshot},
      {"Ask", K::Ask, Scope::kCollection, Right::kRead, ask},
      {"Ask of a snapshot", K::Ask, Scope::kCollection, Right::kRead, ask, kOk, Opens::kSnapshot},
      {"Put", K::Put, Scope::kCollection, Right::kWrite, put},
      {"Put in a transaction", K::Put, Scope::kCollection, Right::kWrite, put, kOk,
       Opens::kTransaction},
      {"InsertBatch", K::InsertBatch, Scope::kCollection, Right::kWrite,
       Frame([](B& b, N& n, U, U) {
         const auto document = wire::Encode(&b, Doc("Two herons."));
         const auto documents = b.CreateVector(&document, 1);
         return fb::CreateInsertBatch(b, EncodeText(&b, n), documents);
       })},
      {"Delete", K::Delete, Scope::kCollection, Right::kWrite, erase},
      {"Delete in a transaction", K::Delete, Scope::kCollection, Right::kWrite, erase, kOk,
       Opens::kTransaction},
      {"DeleteWhere", K::DeleteWhere, Scope::kCollection, Right::kWrite,
       Frame([](B& b, N& n, U, U) {
         const auto name = EncodeText(&b, n);
         return fb::CreateDeleteWhere(b, name, EncodeText(&b, "{}"));
       })},
      {"Begin", K::Begin, Scope::kCollection, Right::kWrite,
       Frame([](B& b, N& n, U, U) { return fb::CreateBegin(b, EncodeText(&b, n)); })},
      {"TakeSnapshot", K::TakeSnapshot, Scope::kCollection, Right::kRead,
       Frame([](B& b, N& n, U, U) { return fb::CreateTakeSnapshot(b, EncodeText(&b, n)); })},
      {"Commit", K::Commit, Scope::kCollection, Right::kWrite, commit, kOk, Opens::kTransaction},
      {"Commit of another connection's transaction", K::Commit, Scope::kToken, Right::kRead,
       Frame([](B& b, N&, U, U) { return fb::CreateCommit(b, 1); }), kOver},
      {"Commit of a snapshot", K::Commit, Scope::kCollection, Right::kWrite, commit,
       StatusCode::kInvalidArgument, Opens::kSnapshot},
      {"Release", K::Release, Scope::kToken, Right::kRead, release},
  };
}

class AccessMatrix : public ::testing::Test {
 protected:
  AccessMatrix() : store_(MakeTokens()), server_({}, store_.get()) {}

  std::unique_ptr<server::TokenStore> MakeTokens() {
    for (Who& who : people_) {
      if (who.grants.empty()) continue;
      auto token = server::TokenStore::Add(folder_ / "tokens", {who.name, who.grants});
      EXPECT_TRUE(token.ok()) << token.status().ToString();
      if (token.ok()) who.token = *token;
    }
    auto store = server::TokenStore::Open(folder_ / "tokens");
    EXPECT_TRUE(store.ok()) << store.status().ToString();
    return store.ok() ? std::move(*store) : nullptr;
  }

  // A collection "notes" with one document, whatever a row did to it; returns the document's id.
  uint64_t Refresh() {
    auto notes = server_.database().GetOrCreateCollection("notes");
    EXPECT_TRUE(notes.ok()) << notes.status().ToString();
    EXPECT_OK((*notes)->DeleteWhere(Filter()));
    const auto id = (*notes)->Upsert(Doc("A heron stands at the pond.", "heron"));
    EXPECT_TRUE(id.ok()) << id.status().ToString();
    return id.ok() ? *id : 0;
  }

  static StatusCode Expected(const Row& row, const Who& who) {
    if (who.grants.empty()) return StatusCode::kPermissionDenied;
    if (row.scope == Scope::kToken) return row.allowed;
    const auto every = who.grants.find("*");
    const auto named = who.grants.find("notes");
    const bool has_every = every != who.grants.end();
    if (row.scope == Scope::kServer) {
      return has_every && every->second >= row.right ? row.allowed : StatusCode::kPermissionDenied;
    }
    if (!has_every && named == who.grants.end()) return StatusCode::kNotFound;
    const Right right = has_every ? every->second : named->second;
    return right >= row.right ? row.allowed : StatusCode::kPermissionDenied;
  }

  // The last message that answers request `number`.
  static std::optional<wire::Frame> Answer(RawSocket* socket, uint64_t number) {
    for (;;) {
      auto frame = socket->Receive();
      if (!frame || (frame->request == number && frame->last)) return frame;
    }
  }

  // A connection that is greeted, or none and the reason.
  Status Greet(RawSocket* socket, const std::string& token) {
    EXPECT_TRUE(socket->Send(PrefaceBytes() + HelloFrame(token)));
    const auto welcome = socket->Receive();
    EXPECT_TRUE(welcome);
    return welcome ? StatusOf(*welcome) : Status::Internal("no answer");
  }

  Status OpenHandle(RawSocket* socket, Opens what, uint64_t* handle) {
    socket->Send(
        what == Opens::kTransaction
            ? RequestFrame(1, [](Builder& b) { return fb::CreateBegin(b, Name(b)); })
            : RequestFrame(1, [](Builder& b) { return fb::CreateTakeSnapshot(b, Name(b)); }));
    const auto reply = Answer(socket, 1);
    EXPECT_TRUE(reply);
    if (!reply) return Status::Internal("no answer");
    MSADB_RETURN_IF_ERROR(StatusOf(*reply));
    *handle = (*wire::VerifyReply(reply->payload))->body_as_Number()->value();
    return Status::Ok();
  }
  static flatbuffers::Offset<flatbuffers::String> Name(Builder& b) {
    return EncodeText(&b, "notes");
  }

  // What `who` gets for `row`, greeting and handle included.
  Status Call(const Row& row, const Who& who, const std::string& collection, uint64_t id) {
    RawSocket socket(server_.port());
    MSADB_RETURN_IF_ERROR(Greet(&socket, who.token));
    uint64_t handle = 0;
    if (row.opens != Opens::kNothing) {
      MSADB_RETURN_IF_ERROR(OpenHandle(&socket, row.opens, &handle));
    }
    socket.Send(row.frame(2, collection, id, handle));
    const auto reply = Answer(&socket, 2);
    EXPECT_TRUE(reply) << row.name << " as " << who.name;
    return reply ? StatusOf(*reply) : Status::Internal("no answer");
  }

  db::TempFolder folder_;
  std::vector<Who> people_ = {
      {"none", {}, ""},
      {"bad", {}, "msadb_" + std::string(64, '0')},
      {"foreign", {{"other", Right::kAdmin}}, ""},
      {"read", {{"notes", Right::kRead}}, ""},
      {"write", {{"notes", Right::kWrite}}, ""},
      {"admin", {{"notes", Right::kAdmin}}, ""},
      {"read-all", {{"*", Right::kRead}}, ""},
      {"write-all", {{"*", Right::kWrite}}, ""},
      {"server", {{"*", Right::kAdmin}}, ""},
  };
  std::unique_ptr<server::TokenStore> store_;
  TestServer server_;
};

TEST_F(AccessMatrix, EveryCell) {
  const std::vector<Row> rows = Rows();
  std::set<fb::RequestBody> kinds;
  size_t cells = 0;
  for (const Row& row : rows) {
    kinds.insert(row.kind);
    for (const Who& who : people_) {
      const uint64_t id = Refresh();
      const Status status = Call(row, who, "notes", id);
      const StatusCode expected = Expected(row, who);
      EXPECT_EQ(status.code(), expected)
          << row.name << " as " << who.name << ": " << status.ToString();
      ++cells;
      if (expected == StatusCode::kOk) continue;
      // Who was refused changed nothing.
      ASSERT_OK_AND(const auto notes, server_.database().OpenCollection("notes"));
      ASSERT_OK_AND(const DocumentPage page, notes->List());
      ASSERT_EQ(page.documents.size(), 1u) << row.name << " as " << who.name;
      EXPECT_EQ(page.documents[0].id, id) << row.name << " as " << who.name;
    }
  }
  std::cout << cells << " cells of " << rows.size() << " requests\n";
  // Cancel has no answer of its own, see below; every other kind that there is has a row.
  for (const fb::RequestBody kind : fb::EnumValuesRequestBody()) {
    if (kind == fb::RequestBody::NONE || kind == fb::RequestBody::Cancel) continue;
    EXPECT_TRUE(kinds.contains(kind)) << fb::EnumNameRequestBody(kind) << " has no row";
  }
}

TEST_F(AccessMatrix, CancelReachesOnlyItsOwnConnection) {
  Refresh();
  RawSocket owner(server_.port());
  ASSERT_OK(Greet(&owner, people_.back().token));
  constexpr uint64_t kDocuments = 500;
  owner.Send(RequestFrame(7, [](Builder& b) {
    std::vector<flatbuffers::Offset<fb::NewDocument>> documents;
    for (uint64_t i = 0; i < kDocuments; ++i) {
      documents.push_back(wire::Encode(&b, Doc("Heron " + std::to_string(i))));
    }
    const auto list = b.CreateVector(documents);
    return fb::CreateInsertBatch(b, Name(b), list);
  }));
  for (const Who& who : people_) {
    SCOPED_TRACE(who.name);
    RawSocket socket(server_.port());
    const std::string cancel =
        RequestFrame(7, [](Builder& b) { return fb::CreateCancel(b); }) + PingFrame(8);
    if (who.grants.empty()) {
      EXPECT_CODE(Greet(&socket, who.token), StatusCode::kPermissionDenied);
      socket.Send(cancel);
      EXPECT_FALSE(socket.Receive());
      continue;
    }
    ASSERT_OK(Greet(&socket, who.token));
    socket.Send(cancel);
    const auto reply = socket.Receive();
    ASSERT_TRUE(reply);
    EXPECT_EQ(reply->request, 8u);
    EXPECT_OK(StatusOf(*reply));
  }
  const auto reply = Answer(&owner, 7);
  ASSERT_TRUE(reply);
  ASSERT_OK(StatusOf(*reply));
  EXPECT_EQ((*wire::VerifyReply(reply->payload))->body_as_Number()->value(), kDocuments);
}

TEST_F(AccessMatrix, AForeignCollectionCannotBeToldFromAMissingOne) {
  const Who& foreign = people_[2];
  ASSERT_STREQ(foreign.name, "foreign");
  for (const Row& row : Rows()) {
    if (row.scope != Scope::kCollection || row.opens != Opens::kNothing) continue;
    const uint64_t id = Refresh();
    const auto words = [&](const std::string& name) {
      std::string text = Call(row, foreign, name, id).ToString();
      for (size_t at = text.find(name); at != std::string::npos; at = text.find(name)) {
        text.replace(at, name.size(), "NAME");
      }
      return text;
    };
    EXPECT_EQ(words("notes"), words("absent")) << row.name;
  }
  // Nor for its owner's words: a missing collection is missing in the same words.
  const std::vector<Row> rows = Rows();
  const Row& count = *std::find_if(
      rows.begin(), rows.end(), [](const Row& row) { return row.kind == fb::RequestBody::Count; });
  EXPECT_EQ(Call(count, people_.back(), "absent", 1).ToString(),
            Call(count, foreign, "absent", 1).ToString());
}

TEST_F(AccessMatrix, ListsHoldWhatTheTokenMayRead) {
  Refresh();
  ASSERT_OK(server_.database().CreateCollection("other"));
  ASSERT_OK(server_.database().CreateCollection("third"));
  for (const Who& who : people_) {
    if (who.grants.empty()) continue;
    ASSERT_OK_AND(auto db, Connect({.port = server_.port(), .token = who.token}));
    ASSERT_OK_AND(auto names, db->ListCollections());
    std::sort(names.begin(), names.end());
    std::vector<std::string> expected = {"notes", "other", "third"};
    if (!who.grants.contains("*")) expected = {who.grants.begin()->first};
    EXPECT_EQ(names, expected) << who.name;
  }
}

TEST_F(AccessMatrix, ARevokedTokenEndsItsConnections) {
  ASSERT_OK_AND(const std::string token,
                server::TokenStore::Add(folder_ / "tokens", {"brief", {{"notes", Right::kRead}}}));
  RawSocket socket(server_.port());
  ASSERT_OK(Greet(&socket, token));
  ASSERT_OK(server::TokenStore::Revoke(folder_ / "tokens", "brief"));
  // The file is looked at once a second.
  bool ended = false;
  for (uint64_t number = 1; number < 2000 && !ended; ++number) {
    socket.Send(PingFrame(number));
    const auto reply = socket.Receive();
    ASSERT_TRUE(reply);
    ended = reply->request == 0;
    if (ended) {
      EXPECT_CODE(StatusOf(*reply), StatusCode::kPermissionDenied);
    }
    if (!ended) std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  EXPECT_TRUE(ended);
  EXPECT_TRUE(socket.ReadToEnd());
}

}  // namespace
}  // namespace msadb::client
