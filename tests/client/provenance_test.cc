// Who wrote a document is what the token says, however the request was made.
#include "tests/client/wire_test_util.h"

namespace msadb::client {
namespace {

namespace fb = wire::fb;
using db::Doc;
using db::ToStatus;
using server::Right;
using ::testing::Each;
using ::testing::ElementsAre;
using wire::Builder;
using wire::EncodeText;

class Provenance : public ::testing::Test {
 protected:
  void SetUp() override {
    ada_ = AddToken("ada");
    agent_ = AddToken("agent");
    ASSERT_OK_AND(tokens_, server::TokenStore::Open(folder_ / "tokens.json"));
    server_ =
        std::make_unique<TestServer>(server::WireServerOptions{.insecure = true}, tokens_.get());
    ASSERT_OK(server_->database().CreateCollection("notes"));
  }

  std::string AddToken(const std::string& name) {
    auto token = server::TokenStore::Add(folder_ / "tokens.json",
                                         {.name = name, .grants = {{"notes", Right::kWrite}}});
    EXPECT_TRUE(token.ok()) << token.status().ToString();
    return token.ok() ? *token : "";
  }

  std::shared_ptr<Collection> NotesOf(const std::string& token) {
    auto database = Connect({.port = server_->port(), .token = token});
    EXPECT_TRUE(database.ok()) << database.status().ToString();
    auto notes = (*database)->OpenCollection("notes");
    EXPECT_TRUE(notes.ok()) << notes.status().ToString();
    return *notes;
  }

  static NewDocument Forged(std::string text, std::optional<std::string> key = {}) {
    NewDocument document = Doc(std::move(text), std::move(key));
    document.written_by = "admin";
    document.source = "admin";
    return document;
  }

  // Of all documents, ascending, as the database itself holds them.
  std::vector<std::string> Writers() {
    std::vector<std::string> writers;
    auto notes = server_->database().OpenCollection("notes");
    EXPECT_TRUE(notes.ok());
    auto page = (*notes)->List();
    EXPECT_TRUE(page.ok());
    for (const Document& document : page->documents) writers.push_back(document.written_by);
    return writers;
  }

  db::TempFolder folder_;
  std::string ada_, agent_;
  std::unique_ptr<server::TokenStore> tokens_;
  std::unique_ptr<TestServer> server_;
};

TEST_F(Provenance, EveryWayToWriteStoresTheTokensName) {
  const auto ada = NotesOf(ada_);
  const auto agent = NotesOf(agent_);
  ASSERT_OK(ada->Insert(Forged("one")));
  ASSERT_OK(agent->Upsert(Forged("two", "k")));
  const std::vector<NewDocument> many = {Forged("three"), Doc("four")};
  ASSERT_OK(ada->InsertMany(many));
  ASSERT_OK_AND(const auto transaction, agent->Begin());
  ASSERT_OK_AND(const DocumentId id, transaction->Insert(Forged("five")));
  ASSERT_OK_AND(const Document mine, transaction->Get(id));
  EXPECT_EQ(mine.written_by, "agent");
  ASSERT_OK(transaction->Upsert(Forged("six", "k6")));
  ASSERT_OK(transaction->Commit());
  EXPECT_THAT(Writers(), ElementsAre("ada", "agent", "ada", "ada", "agent", "agent"));
  // Whoever replaces a document wrote it.
  ASSERT_OK(ada->Upsert(Forged("two again", "k")));
  ASSERT_OK_AND(const Document replaced, agent->GetByKey("k"));
  EXPECT_EQ(replaced.written_by, "ada");

  // Either may delete what the other wrote: the right to write is for the collection.
  ASSERT_OK_AND(const Filter where, Filter::Parse(R"({"$written_by": "agent"})"));
  ASSERT_OK_AND(const uint64_t deleted, ada->DeleteWhere(where));
  EXPECT_EQ(deleted, 2u);
  EXPECT_THAT(Writers(), Each("ada"));
}

// A client of its own make may send what msadb's never does: the table of a document with a field
// behind the known ones.
TEST_F(Provenance, AFieldThatTheProtocolDoesNotHaveIsNotRead) {
  RawSocket socket(server_->port());
  ASSERT_TRUE(socket.connected());
  const auto document = [](Builder& b) {
    const auto text = EncodeText(&b, "forged");
    const auto writer = EncodeText(&b, "admin");
    const auto table = b.StartTable();
    b.AddOffset(fb::NewDocument::VT_TEXT, text);
    for (int slot = 6; slot < 12; ++slot) {
      b.AddOffset(flatbuffers::FieldIndexToOffset(static_cast<flatbuffers::voffset_t>(slot)),
                  writer);
    }
    return flatbuffers::Offset<fb::NewDocument>(b.EndTable(table));
  };
  const std::string put = RequestFrame(1, [&](Builder& b) {
    const auto name = EncodeText(&b, "notes");
    return fb::CreatePut(b, name, 0, document(b), false);
  });
  const std::string batch = RequestFrame(2, [&](Builder& b) {
    const auto name = EncodeText(&b, "notes");
    const auto one = document(b);
    return fb::CreateInsertBatch(b, name, b.CreateVector(&one, 1));
  });
  ASSERT_TRUE(socket.Send(PrefaceBytes() + HelloFrame(agent_) + put + batch));
  for (int replies = 0; replies < 3; ++replies) {  // Welcome and two numbers
    const auto frame = socket.Receive();
    ASSERT_TRUE(frame);
    EXPECT_OK(StatusOf(*frame));
  }
  EXPECT_THAT(Writers(), ElementsAre("agent", "agent"));
}

// What an older server sends lacks the newer fields.
TEST_F(Provenance, RepliesWithoutItRead) {
  Builder b;
  const auto text = EncodeText(&b, "text");
  const fb::Part part(7, 0, 4, 2, 1);
  const auto parts = b.CreateVectorOfStructs(&part, 1);
  fb::DocumentBuilder old(b);
  old.add_id(7);
  old.add_text(text);
  old.add_created_at(5);
  old.add_parts(parts);
  b.Finish(old.Finish());
  Document document;
  wire::Decoder decoder(b.GetSize());
  ASSERT_OK(decoder.Read(flatbuffers::GetRoot<fb::Document>(b.GetBufferPointer()), &document));
  EXPECT_EQ(document.text, "text");
  EXPECT_EQ(document.written_by, "");
  EXPECT_EQ(document.created_at.time_since_epoch().count(), 5);
}

}  // namespace
}  // namespace msadb::client
