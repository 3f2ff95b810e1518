// Transactions: all or nothing, read your writes, first committer wins; checked by example and
// against an oracle over random operations.
#include <map>
#include <random>
#include <thread>

#include "tests/db/db_test_util.h"

namespace msadb::db {
namespace {

class TransactionTest : public ::testing::Test {
 protected:
  void SetUp() override { Open(); }

  void Open() {
    notes_.reset();
    db_.reset();
    ASSERT_OK_AND(db_, Database::Open(folder_ / "db", TestOptions()));
    ASSERT_OK_AND(notes_, db_->GetOrCreateCollection("notes"));
  }

  std::unique_ptr<Transaction> Begin() {
    auto transaction = notes_->Begin();
    EXPECT_TRUE(transaction.ok()) << transaction.status().ToString();
    return transaction.ok() ? std::move(*transaction) : nullptr;
  }

  uint64_t Count() { return notes_->Count().value(); }

  TempFolder folder_;
  std::shared_ptr<Database> db_;
  std::shared_ptr<Collection> notes_;
};

TEST_F(TransactionTest, ReadsItsOwnWritesOverTheStateAtItsBeginning) {
  ASSERT_OK_AND(const DocumentId old, notes_->Insert(Doc("old", "a")));
  auto transaction = Begin();
  ASSERT_OK_AND(const DocumentId fresh, transaction->Insert(Doc("new", "b")));
  ASSERT_OK(notes_->Insert(Doc("outside", "c")));
  EXPECT_EQ(transaction->Get(fresh)->text, "new");
  EXPECT_EQ(transaction->GetByKey("b")->id, fresh);
  EXPECT_CODE(transaction->GetByKey("c"), StatusCode::kNotFound);
  EXPECT_CODE(notes_->GetByKey("b"), StatusCode::kNotFound);
  EXPECT_CODE(transaction->Insert(Doc("x", "a")), StatusCode::kAlreadyExists);
  EXPECT_CODE(transaction->Insert(Doc("x", "b")), StatusCode::kAlreadyExists);
  ASSERT_OK_AND(const DocumentId replaced, transaction->Upsert(Doc("newer", "a")));
  EXPECT_CODE(transaction->Get(old), StatusCode::kNotFound);
  EXPECT_EQ(transaction->GetByKey("a")->id, replaced);
  ASSERT_OK(transaction->DeleteByKey("b"));
  EXPECT_CODE(transaction->Get(fresh), StatusCode::kNotFound);
  EXPECT_CODE(transaction->DeleteByKey("b"), StatusCode::kNotFound);
  ASSERT_OK_AND(const DocumentId b2, transaction->Insert(Doc("b again", "b")));
  ASSERT_OK_AND(const DocumentId b3, transaction->Upsert(Doc("b third", "b")));
  EXPECT_CODE(transaction->Get(b2), StatusCode::kNotFound);
  EXPECT_EQ(notes_->GetByKey("a")->text, "old");
  ASSERT_OK(transaction->Commit());
  EXPECT_EQ(notes_->GetByKey("a")->id, replaced);
  EXPECT_EQ(notes_->GetByKey("b")->id, b3);
  EXPECT_EQ(Count(), 3u);
  for (const DocumentId gone : {old, fresh, b2}) {
    EXPECT_CODE(notes_->Get(gone), StatusCode::kNotFound);
  }
  EXPECT_CODE(transaction->Commit(), StatusCode::kFailedPrecondition);
  EXPECT_CODE(transaction->Insert(Doc("x")), StatusCode::kFailedPrecondition);
  EXPECT_CODE(transaction->Get(replaced), StatusCode::kFailedPrecondition);
}

TEST_F(TransactionTest, RolledBackOrDroppedItLeavesNothing) {
  ASSERT_OK_AND(const DocumentId id, notes_->Insert(Doc("stays", "k")));
  auto transaction = Begin();
  ASSERT_OK(transaction->Insert(Doc("gone")));
  ASSERT_OK(transaction->Delete(id));
  transaction->Rollback();
  EXPECT_CODE(transaction->Commit(), StatusCode::kFailedPrecondition);
  {
    auto dropped = Begin();
    ASSERT_OK(dropped->Upsert(Doc("gone too", "k")));
  }
  EXPECT_EQ(Count(), 1u);
  EXPECT_EQ(notes_->GetByKey("k")->text, "stays");
}

TEST_F(TransactionTest, FirstCommitterWins) {
  ASSERT_OK_AND(const DocumentId a, notes_->Insert(Doc("a", "a")));
  ASSERT_OK_AND(const DocumentId plain, notes_->Insert(Doc("plain")));
  struct Case {
    std::string name;
    std::function<Status(Transaction&)> mine;
    std::function<Status(Collection&)> theirs;
    bool conflict;
  };
  const auto id_of = [](Collection& c, const char* key) { return c.GetByKey(key)->id; };
  const std::vector<Case> cases = {
      {"both upsert a key", [](Transaction& t) { return t.Upsert(Doc("mine", "a")).status(); },
       [](Collection& c) { return c.Upsert(Doc("theirs", "a")).status(); }, true},
      {"both insert a key", [](Transaction& t) { return t.Insert(Doc("mine", "n1")).status(); },
       [](Collection& c) { return c.Insert(Doc("theirs", "n1")).status(); }, true},
      {"a key came and went", [](Transaction& t) { return t.Insert(Doc("mine", "n2")).status(); },
       [](Collection& c) {
         MSADB_RETURN_IF_ERROR(c.Insert(Doc("theirs", "n2")).status());
         return c.DeleteByKey("n2");
       },
       true},
      {"both delete a key", [](Transaction& t) { return t.DeleteByKey("a"); },
       [](Collection& c) { return c.DeleteByKey("a"); }, true},
      {"delete by id against upsert", [&](Transaction& t) { return t.Delete(id_of(*notes_, "a")); },
       [](Collection& c) { return c.Upsert(Doc("theirs", "a")).status(); }, true},
      {"both delete a document without key", [&](Transaction& t) { return t.Delete(plain); },
       [&](Collection& c) { return c.Delete(plain); }, true},
      {"different keys", [](Transaction& t) { return t.Upsert(Doc("mine", "m")).status(); },
       [](Collection& c) { return c.Upsert(Doc("theirs", "t")).status(); }, false},
      {"inserts without keys", [](Transaction& t) { return t.Insert(Doc("mine")).status(); },
       [](Collection& c) { return c.Insert(Doc("theirs")).status(); }, false},
  };
  for (const Case& test : cases) {
    SCOPED_TRACE(test.name);
    if (!notes_->GetByKey("a").ok()) {
      ASSERT_OK(notes_->Insert(Doc("a", "a")));
    }
    auto transaction = Begin();
    ASSERT_OK(test.mine(*transaction));
    ASSERT_OK(transaction->Insert(Doc("rides along " + test.name)));
    ASSERT_OK(test.theirs(*notes_));
    const uint64_t count = Count();
    const Status status = transaction->Commit();
    if (test.conflict) {
      EXPECT_EQ(status.code(), StatusCode::kConflict) << status.ToString();
      EXPECT_EQ(Count(), count);
    } else {
      EXPECT_OK(status);
      EXPECT_EQ(Count(), count + 2);
    }
  }
  (void)a;
}

TEST_F(TransactionTest, HoldsAtMostTheAllowedNumberOfOperations) {
  Options options = TestOptions();
  options.limits.transaction_operations_max = 3;
  notes_.reset();
  db_.reset();
  ASSERT_OK_AND(db_, Database::Open(folder_ / "db", options));
  ASSERT_OK_AND(notes_, db_->OpenCollection("notes"));
  auto transaction = Begin();
  for (int i = 0; i < 3; ++i) ASSERT_OK(transaction->Insert(Doc("x")));
  EXPECT_CODE(transaction->Insert(Doc("x")), StatusCode::kResourceExhausted);
  ASSERT_OK(transaction->Commit());
  EXPECT_EQ(Count(), 3u);
}

TEST_F(TransactionTest, ExpiryDoesNotConflict) {
  NewDocument brief = Doc("brief", "k");
  brief.expires_at =
      std::chrono::time_point_cast<std::chrono::microseconds>(std::chrono::system_clock::now()) +
      std::chrono::milliseconds(100);
  ASSERT_OK(notes_->Insert(brief));
  std::this_thread::sleep_until(*brief.expires_at);
  auto before_sweep = Begin();
  ASSERT_OK(before_sweep->Insert(Doc("successor", "k")));
  auto other = Begin();
  ASSERT_OK(other->Insert(Doc("unrelated")));
  ASSERT_OK(other->Commit());
  ASSERT_OK(before_sweep->Commit());
  EXPECT_EQ(notes_->GetByKey("k")->text, "successor");
  ASSERT_OK_AND(const CollectionStats stats, notes_->Stats());
  EXPECT_EQ(stats.documents, 2u);
}

// --- Random operations against an oracle ---

struct OracleDocument {
  std::string text;
  std::optional<std::string> key;
};
using Oracle = std::map<DocumentId, OracleDocument>;

std::optional<DocumentId> OwnerOf(const Oracle& oracle, const std::string& key) {
  for (const auto& [id, document] : oracle) {
    if (document.key == key) return id;
  }
  return std::nullopt;
}

void ExpectSame(CollectionReader& reader, const Oracle& oracle, bool search) {
  ListOptions list;
  list.limit = 10'000;
  ASSERT_OK_AND(const DocumentPage page, reader.List(list));
  ASSERT_EQ(page.documents.size(), oracle.size());
  auto expected = oracle.begin();
  for (const Document& document : page.documents) {
    ASSERT_EQ(document.id, expected->first);
    ASSERT_EQ(document.text, expected->second.text);
    ASSERT_EQ(document.key, expected->second.key);
    ++expected;
  }
  ASSERT_EQ(reader.Count().value(), oracle.size());
  if (!search || oracle.empty()) return;
  // The index has exactly the same documents, and each is found by its own words.
  ASSERT_OK_AND(const auto hits, reader.Search("unique", {.top_k = 1000, .include_text = false}));
  ASSERT_EQ(hits.size(), oracle.size());
  ASSERT_OK_AND(const Answer answer, reader.Ask(FirstChunk(std::prev(oracle.end())->second.text)));
  ASSERT_EQ(answer.citations.size(), 1u);
  ASSERT_TRUE(oracle.contains(answer.citations[0].id));
  ASSERT_EQ(answer.citations[0].id, std::prev(oracle.end())->first);
}

class RandomTransactions {
 public:
  explicit RandomTransactions(uint64_t seed) : random_(seed) {}

  void Run() {
    Reopen();
    std::vector<std::pair<std::unique_ptr<Snapshot>, Oracle>> snapshots;
    for (int step = 0; step < 60; ++step) {
      SCOPED_TRACE("step " + std::to_string(step));
      switch (random_() % 8) {
        case 0:
          ExpectSame(*notes_, oracle_, random_() % 2);
          break;
        case 1: {
          auto snapshot = notes_->TakeSnapshot();
          ASSERT_OK(snapshot);
          snapshots.emplace_back(std::move(*snapshot), oracle_);
          break;
        }
        case 2:
          if (random_() % 3 == 0) {
            for (auto& [snapshot, oracle] : snapshots) ExpectSame(*snapshot, oracle, true);
            snapshots.clear();
            if (random_() % 2) ASSERT_OK(db_->Compact());
            Reopen();
          }
          break;
        case 3:
          SingleOperation();
          break;
        default:
          OneTransaction();
      }
      if (::testing::Test::HasFatalFailure()) return;
    }
    for (auto& [snapshot, oracle] : snapshots) ExpectSame(*snapshot, oracle, true);
    ExpectSame(*notes_, oracle_, true);
    ASSERT_OK_AND(const VerifyReport report, db_->Verify());
    EXPECT_TRUE(report.ok()) << report.problems[0];
  }

 private:
  void Reopen() {
    notes_.reset();
    db_.reset();
    ASSERT_OK_AND(db_, Database::Open(folder_ / "db", TestOptions()));
    ASSERT_OK_AND(notes_, db_->GetOrCreateCollection("notes"));
    ExpectSame(*notes_, oracle_, random_() % 2);
  }

  NewDocument RandomDocument(bool with_key) {
    std::string text = "unique" + std::to_string(++counter_) + " words";
    if (random_() % 6 == 0) text += " " + Words("long" + std::to_string(counter_) + "x", 100);
    NewDocument document = Doc(text);
    if (with_key) document.key = "key" + std::to_string(random_() % 12);
    return document;
  }

  DocumentId RandomId(const Oracle& oracle) {
    if (oracle.empty() || random_() % 10 == 0) return 1'000'000 + random_() % 5;
    auto it = oracle.begin();
    std::advance(it, random_() % oracle.size());
    return it->first;
  }

  // Applies one random operation to `target` (a Transaction or the Collection) and to `oracle`.
  template <typename Target>
  void Operate(Target& target, Oracle* oracle) {
    switch (random_() % 5) {
      case 0:
      case 1: {
        const NewDocument document = RandomDocument(random_() % 2);
        const auto owner = document.key ? OwnerOf(*oracle, *document.key) : std::nullopt;
        auto id = target.Insert(document);
        if (owner) {
          ASSERT_EQ(id.status().code(), StatusCode::kAlreadyExists);
        } else {
          ASSERT_OK(id);
          ASSERT_FALSE(oracle->contains(*id));
          (*oracle)[*id] = {document.text, document.key};
        }
        break;
      }
      case 2: {
        const NewDocument document = RandomDocument(true);
        const auto owner = OwnerOf(*oracle, *document.key);
        ASSERT_OK_AND(const DocumentId id, target.Upsert(document));
        if (owner) oracle->erase(*owner);
        (*oracle)[id] = {document.text, document.key};
        break;
      }
      case 3: {
        const DocumentId id = RandomId(*oracle);
        ASSERT_EQ(target.Delete(id).ok(), oracle->erase(id) == 1);
        break;
      }
      default: {
        const std::string key = "key" + std::to_string(random_() % 12);
        const auto owner = OwnerOf(*oracle, key);
        ASSERT_EQ(target.DeleteByKey(key).ok(), owner.has_value());
        if (owner) oracle->erase(*owner);
      }
    }
    const DocumentId id = RandomId(*oracle);
    const auto got = target.Get(id);
    ASSERT_EQ(got.ok(), oracle->contains(id));
    if (got.ok()) {
      ASSERT_EQ(got->text, oracle->at(id).text);
    }
  }

  void SingleOperation() { Operate(*notes_, &oracle_); }

  // Sometimes two at once; whether the second may commit is known from what both touched.
  void OneTransaction() {
    auto first = notes_->Begin();
    ASSERT_OK(first);
    Oracle after = oracle_;
    const size_t operations = random_() % 8;
    for (size_t i = 0; i < operations; ++i) {
      Operate(**first, &after);
      if (::testing::Test::HasFatalFailure()) return;
    }
    switch (random_() % 4) {
      case 0:
        (*first)->Rollback();
        break;
      case 1:
        first->reset();
        break;
      default:
        ASSERT_OK((*first)->Commit());
        oracle_ = std::move(after);
    }
  }

  std::mt19937_64 random_;
  TempFolder folder_;
  std::shared_ptr<Database> db_;
  std::shared_ptr<Collection> notes_;
  Oracle oracle_;
  uint64_t counter_ = 0;
};

TEST(TransactionProperty, AgreesWithAnOracle) {
  const char* given = std::getenv("MSADB_TEST_SEED");
  const uint64_t first = given != nullptr ? std::strtoull(given, nullptr, 10) : 1;
  const uint64_t seeds = given != nullptr ? 1 : 12;
  for (uint64_t seed = first; seed < first + seeds; ++seed) {
    SCOPED_TRACE("MSADB_TEST_SEED=" + std::to_string(seed));
    RandomTransactions(seed).Run();
    if (::testing::Test::HasFatalFailure()) return;
  }
}

}  // namespace
}  // namespace msadb::db
