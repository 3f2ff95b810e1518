// Writers and readers at once. Documents carry a version in their text, so that a history tells
// whether an update was lost, a transaction was seen in part, or time ran backwards.
#include <atomic>
#include <map>
#include <mutex>
#include <random>
#include <thread>

#include "tests/db/db_test_util.h"

namespace msadb::db {
namespace {

constexpr int kWriters = 4;
constexpr int kReaders = 8;
constexpr int kCounters = 6;

int ScaleOf(const char* name, int otherwise) {
  const char* value = std::getenv(name);
  return value != nullptr ? std::atoi(value) : otherwise;
}

std::string CounterKey(int i) { return "counter" + std::to_string(i); }
std::string CounterText(int i, uint64_t value) {
  return "counter" + std::to_string(i) + " value " + std::to_string(value);
}
uint64_t ValueOf(const std::string& text) { return std::stoull(text.substr(text.rfind(' ') + 1)); }

class ConcurrencyTest : public ::testing::Test {
 protected:
  void SetUp() override {
    Options options = TestOptions();
    options.durability = Durability::kBuffered;
    options.expiry_interval = std::chrono::milliseconds(5);
    ASSERT_OK_AND(db_, Database::Open(folder_ / "db", options));
    ASSERT_OK_AND(notes_, db_->CreateCollection("notes"));
  }

  // Runs writer(i) kWriters times and reader(i) kReaders times until the writers are done.
  void RunAll(const std::function<void(int)>& writer,
              const std::function<void(int, const std::atomic<bool>&)>& reader) {
    std::atomic<bool> done{false};
    std::vector<std::jthread> readers, writers;
    for (int i = 0; i < kReaders; ++i) readers.emplace_back([&, i] { reader(i, done); });
    for (int i = 0; i < kWriters; ++i) writers.emplace_back([&, i] { writer(i); });
    writers.clear();
    done = true;
  }

  TempFolder folder_;
  std::shared_ptr<Database> db_;
  std::shared_ptr<Collection> notes_;
};

// Every increment reads two counters and writes both plus one document; every acknowledged one must
// count. All counters always add up to twice the number of increments.
TEST_F(ConcurrencyTest, NoUpdateIsLostAndNoTransactionSeenInPart) {
  const int increments = ScaleOf("MSADB_TEST_INCREMENTS", 60);
  for (int i = 0; i < kCounters; ++i)
    ASSERT_OK(notes_->Upsert(Doc(CounterText(i, 0), CounterKey(i))));
  std::atomic<uint64_t> acknowledged{0}, conflicts{0}, observations{0};
  std::mutex failures_mutex;
  std::vector<std::string> failures;
  const auto fail = [&](const std::string& what) {
    std::lock_guard lock(failures_mutex);
    if (failures.size() < 20) failures.push_back(what);
  };

  const auto increment = [&](std::mt19937_64& random) -> Status {
    const int a = static_cast<int>(random() % kCounters);
    const int b = (a + 1 + static_cast<int>(random() % (kCounters - 1))) % kCounters;
    MSADB_ASSIGN_OR_RETURN(const auto transaction, notes_->Begin());
    for (const int i : {a, b}) {
      MSADB_ASSIGN_OR_RETURN(const Document counter, transaction->GetByKey(CounterKey(i)));
      MSADB_RETURN_IF_ERROR(
          transaction->Upsert(Doc(CounterText(i, ValueOf(counter.text) + 1), CounterKey(i)))
              .status());
    }
    MSADB_RETURN_IF_ERROR(transaction->Insert(Doc("logline of an increment")).status());
    return transaction->Commit();
  };
  const auto writer = [&](int w) {
    std::mt19937_64 random(w);
    for (int n = 0; n < increments;) {
      const Status status = increment(random);
      if (status.ok()) {
        ++n;
        const uint64_t now = ++acknowledged;
        // A reader that starts after the acknowledgement sees at least that much.
        auto count = notes_->Count();
        if (!count.ok() || *count < kCounters + now) fail("acknowledged, not seen");
      } else if (status.code() == StatusCode::kConflict) {
        ++conflicts;
      } else {
        fail("writer: " + status.ToString());
        return;
      }
    }
  };
  // One look at everything: totals, and the same through list, search and ask.
  const auto look = [&](CollectionReader& view, uint64_t* total) -> Status {
    ListOptions all;
    all.limit = 10'000;
    MSADB_ASSIGN_OR_RETURN(const DocumentPage page, view.List(all));
    uint64_t sum = 0, lines = 0, counters = 0;
    for (const Document& document : page.documents) {
      if (document.key) {
        sum += ValueOf(document.text);
        ++counters;
      } else {
        ++lines;
      }
    }
    if (counters != kCounters || sum != 2 * lines) {
      fail("sum " + std::to_string(sum) + " of " + std::to_string(counters) + " counters, " +
           std::to_string(lines) + " lines");
    }
    *total = sum;
    return Status::Ok();
  };
  const auto reader = [&](int r, const std::atomic<bool>& done) {
    std::mt19937_64 random(100 + r);
    uint64_t last_total = 0;
    std::map<int, uint64_t> last_value;
    while (!done) {
      Status status;
      switch (random() % 4) {
        case 0: {
          uint64_t total = 0;
          auto snapshot = notes_->TakeSnapshot();
          status = snapshot.ok() ? look(**snapshot, &total) : snapshot.status();
          if (status.ok() && total < last_total) fail("time ran backwards in snapshots");
          last_total = total;
          if (status.ok() && random() % 4 == 0) {
            uint64_t again = 0;
            status = look(**snapshot, &again);
            if (again != total) fail("a snapshot changed");
            // Index and storage of the snapshot agree.
            auto hits = (*snapshot)->Search("logline", {.top_k = 1000, .include_text = false});
            auto count = (*snapshot)->Count();
            if (!hits.ok() || !count.ok() || hits->size() != *count)
              fail("index and storage differ");
          }
          break;
        }
        case 1: {
          const int i = static_cast<int>(random() % kCounters);
          auto counter = notes_->GetByKey(CounterKey(i));
          if (!counter.ok()) {
            status = counter.status();
            break;
          }
          const uint64_t value = ValueOf(counter->text);
          if (value < last_value[i]) fail("a counter went back");
          last_value[i] = value;
          break;
        }
        case 2: {
          // The fake model fails when content and text do not belong together.
          auto answer = notes_->Ask("counter" + std::to_string(random() % kCounters) + " value");
          status = answer.status();
          if (answer.ok() && answer->citations.size() != 1) fail("no citation");
          break;
        }
        default: {
          auto hits = notes_->Search("counter1 value", {.top_k = 3});
          status = hits.status();
          if (hits.ok() && hits->size() < 3) fail("too few hits");
        }
      }
      if (!status.ok()) fail("reader: " + status.ToString());
      ++observations;
    }
  };
  RunAll(writer, reader);
  for (const std::string& failure : failures) ADD_FAILURE() << failure;
  EXPECT_EQ(acknowledged, static_cast<uint64_t>(kWriters * increments));
  uint64_t total = 0;
  EXPECT_OK(look(*notes_, &total));
  EXPECT_EQ(total, 2 * acknowledged);
  EXPECT_GT(observations, 0u);
  RecordProperty("conflicts", std::to_string(conflicts));
  ASSERT_OK_AND(const VerifyReport report, db_->Verify());
  EXPECT_TRUE(report.ok()) << report.problems[0];
}

// Everything at once on several collections: nothing fails in a way that it should not.
TEST_F(ConcurrencyTest, EveryVerbAtOnce) {
  const int rounds = ScaleOf("MSADB_TEST_ROUNDS", 25);
  std::mutex failures_mutex;
  std::vector<std::string> failures;
  const auto check = [&](const Status& status, std::initializer_list<StatusCode> allowed) {
    if (status.ok() || std::find(allowed.begin(), allowed.end(), status.code()) != allowed.end()) {
      return;
    }
    std::lock_guard lock(failures_mutex);
    if (failures.size() < 20) failures.push_back(status.ToString());
  };
  const auto writer = [&](int w) {
    std::mt19937_64 random(w + 1000);
    for (int n = 0; n < rounds; ++n) {
      const std::string key = "k" + std::to_string(random() % 20);
      switch (random() % 8) {
        case 0:
          check(notes_->Insert(Doc("text " + key, key)).status(), {StatusCode::kAlreadyExists});
          break;
        case 1:
          check(notes_->Upsert(Doc("text " + key + Words(" y", 90), key)).status(), {});
          break;
        case 2:
          check(notes_->DeleteByKey(key), {StatusCode::kNotFound});
          break;
        case 3: {
          std::vector<NewDocument> many;
          for (int i = 0; i < 30; ++i) many.push_back(Doc("bulk", "b" + std::to_string(i)));
          check(notes_->InsertMany(many).status(), {});
          break;
        }
        case 4: {
          NewDocument brief = Doc("brief");
          brief.expires_at = std::chrono::time_point_cast<std::chrono::microseconds>(
                                 std::chrono::system_clock::now()) +
                             std::chrono::milliseconds(20);
          // A slow machine may take longer than that to get to it.
          check(notes_->Insert(brief).status(), {StatusCode::kInvalidArgument});
          break;
        }
        case 5: {
          const std::string name = "other" + std::to_string(random() % 2);
          auto other = db_->GetOrCreateCollection(name);
          check(other.status(), {});
          if (other.ok()) {
            check((*other)->Insert(Doc("elsewhere")).status(), {StatusCode::kNotFound});
            check((*other)->Search("elsewhere").status(), {StatusCode::kNotFound});
          }
          if (random() % 2) check(db_->DropCollection(name), {StatusCode::kNotFound});
          break;
        }
        case 6:
          check(db_->Compact(), {StatusCode::kFailedPrecondition});
          break;
        default: {
          auto transaction = notes_->Begin();
          check(transaction.status(), {});
          if (!transaction.ok()) break;
          check((*transaction)->Upsert(Doc("t", key)).status(), {});
          check((*transaction)->Insert(Doc("t2")).status(), {});
          check((*transaction)->Commit(), {StatusCode::kConflict});
        }
      }
    }
  };
  const auto reader = [&](int r, const std::atomic<bool>& done) {
    std::mt19937_64 random(r + 2000);
    while (!done) {
      switch (random() % 5) {
        case 0:
          check(notes_->Ask("text k3").status(), {});
          break;
        case 1:
          check(notes_->Search("bulk").status(), {});
          break;
        case 2:
          check(notes_->List().status(), {});
          break;
        case 3:
          check(db_->Stats().status(), {});
          break;
        default:
          check(notes_->GetByKey("b3").status(), {StatusCode::kNotFound});
      }
    }
  };
  RunAll(writer, reader);
  for (const std::string& failure : failures) ADD_FAILURE() << failure;
  ASSERT_OK_AND(const VerifyReport report, db_->Verify());
  EXPECT_TRUE(report.ok()) << report.problems[0];
}

}  // namespace
}  // namespace msadb::db
