// A process that writes through the public API is killed with SIGKILL at random moments, many
// times. After each kill every acknowledged transaction must be there whole and searchable, no
// other in part.
//
// What transaction n does follows from n and the seed alone, so the parent knows the state after
// each. The child reports 'o' when the database is open with its index loaded, then n for every
// commit. What is found after the kill must be the state after the last n reported, or after n + 1,
// whose commit may have been durable before its report.
//
// MSADB_CRASH_KILLS=1000 and MSADB_TEST_SEED=n change the default of 200 kills and the seed.
#include <poll.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <map>
#include <random>
#include <thread>

#include "tests/db/db_test_util.h"

extern char** environ;

namespace msadb::db {
namespace {

constexpr int kKeys = 40;
constexpr uint64_t kOpened = ~uint64_t{0};

Options CrashOptions() {
  Options options = TestOptions();
  options.storage_memory_bytes = 2 << 20;  // small memtables: flushes happen
  return options;
}

// --- Transaction n ---

struct Operation {
  std::string key;
  std::string text;  // empty: delete
};

std::vector<Operation> TransactionOf(uint64_t seed, uint64_t n) {
  std::mt19937_64 random(seed * 1'000'003 + n);
  std::vector<Operation> operations;
  std::vector<int> keys(kKeys);
  for (int i = 0; i < kKeys; ++i) keys[i] = i;
  std::shuffle(keys.begin(), keys.end(), random);
  const size_t count = 1 + random() % 4;
  for (size_t i = 0; i < count; ++i) {
    Operation operation;
    operation.key = "key" + std::to_string(keys[i]);
    if (random() % 4 != 0) {
      // Some have several parts; they must live and die together.
      operation.text = "marker" + std::to_string(n) + "x" + std::to_string(keys[i]) + " " +
                       Words("w" + std::to_string(n) + "x", random() % 5 == 0 ? 150 : 10);
    }
    operations.push_back(operation);
  }
  return operations;
}

using State = std::map<std::string, std::string>;  // key -> text

void Apply(uint64_t seed, uint64_t n, State* state) {
  for (const Operation& operation : TransactionOf(seed, n)) {
    if (operation.text.empty()) {
      state->erase(operation.key);
    } else {
      (*state)[operation.key] = operation.text;
    }
  }
}

// --- The child ---

void Report(int fd, uint64_t n) {
  if (write(fd, &n, sizeof(n)) != sizeof(n)) _exit(3);
}

Status RunTransaction(Collection& notes, uint64_t seed, uint64_t n) {
  MSADB_ASSIGN_OR_RETURN(const auto transaction, notes.Begin());
  for (const Operation& operation : TransactionOf(seed, n)) {
    if (!operation.text.empty()) {
      MSADB_RETURN_IF_ERROR(transaction->Upsert(Doc(operation.text, operation.key)).status());
      continue;
    }
    const Status status = transaction->DeleteByKey(operation.key);
    if (!status.ok() && status.code() != StatusCode::kNotFound) return status;
  }
  return transaction->Commit();
}

Status Write(const std::string& folder, uint64_t seed, uint64_t first, int fd) {
  MSADB_ASSIGN_OR_RETURN(const auto db, Database::Open(folder, CrashOptions()));
  MSADB_ASSIGN_OR_RETURN(const auto notes, db->GetOrCreateCollection("notes"));
  MSADB_RETURN_IF_ERROR(notes->Search("load the index").status());
  Report(fd, kOpened);
  for (uint64_t n = first;; ++n) {
    MSADB_RETURN_IF_ERROR(RunTransaction(*notes, seed, n));
    Report(fd, n);
    if (n % 50 == 49) MSADB_RETURN_IF_ERROR(db->Compact());
  }
}

// Run as "--child FOLDER SEED FIRST FD".
int ChildMain(char** argv) {
  const Status status = Write(argv[2], std::strtoull(argv[3], nullptr, 10),
                              std::strtoull(argv[4], nullptr, 10), std::atoi(argv[5]));
  std::fprintf(stderr, "child: %s\n", status.ToString().c_str());
  return 1;
}

// --- The parent ---

struct Outcome {
  bool opened = false;
  uint64_t acknowledged = 0;  // the last n, 0 when none
  bool killed = false;        // by us, not by an error of its own
  std::chrono::microseconds open_time{0};
};

class CrashTest : public ::testing::Test {
 protected:
  // Starts a child that goes on with transaction `first`; kills it `delay` after its start, or
  // after it opened.
  Outcome RunAndKill(uint64_t first, std::chrono::microseconds delay, bool during_open) {
    int fds[2];
    EXPECT_EQ(pipe(fds), 0);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addclose(&actions, fds[0]);
    std::vector<std::string> arguments = {"db_crash_test",       "--child",
                                          folder_ / "db",        std::to_string(seed_),
                                          std::to_string(first), std::to_string(fds[1])};
    std::vector<char*> argv;
    for (std::string& argument : arguments) argv.push_back(argument.data());
    argv.push_back(nullptr);
    pid_t child = 0;
    EXPECT_EQ(posix_spawn(&child, "/proc/self/exe", &actions, nullptr, argv.data(), environ), 0);
    posix_spawn_file_actions_destroy(&actions);
    close(fds[1]);

    Outcome outcome;
    const auto start = std::chrono::steady_clock::now();
    auto kill_at = start + delay;
    bool armed = during_open;
    bool signalled = false;
    for (;;) {
      const auto now = std::chrono::steady_clock::now();
      if (armed && !signalled && now >= kill_at) {
        kill(child, SIGKILL);
        signalled = true;
      }
      int wait_ms = 20'000;
      if (armed && !signalled) {
        wait_ms = static_cast<int>(
            std::chrono::duration_cast<std::chrono::milliseconds>(kill_at - now).count());
      }
      pollfd poll_fd = {fds[0], POLLIN, 0};
      if (poll(&poll_fd, 1, std::max(wait_ms, 0)) <= 0) continue;
      uint64_t n = 0;
      if (read(fds[0], &n, sizeof(n)) != sizeof(n)) break;  // the child is gone
      if (n == kOpened) {
        outcome.opened = true;
        outcome.open_time = std::chrono::duration_cast<std::chrono::microseconds>(
            std::chrono::steady_clock::now() - start);
        if (!during_open) {
          armed = true;
          kill_at = std::chrono::steady_clock::now() + delay;
        }
      } else {
        outcome.acknowledged = n;
      }
    }
    close(fds[0]);
    int status = 0;
    EXPECT_EQ(waitpid(child, &status, 0), child);
    outcome.killed = WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
    return outcome;
  }

  // Whether the database holds exactly `state`.
  static bool Holds(const std::vector<Document>& documents, const State& state) {
    if (documents.size() != state.size()) return false;
    return std::all_of(documents.begin(), documents.end(), [&](const Document& document) {
      const auto it = state.find(document.key.value_or(""));
      return it != state.end() && it->second == document.text;
    });
  }

  // Opens what the kill left, and finds out which state it is.
  void CheckRecovered(const Outcome& outcome, bool verify) {
    auto db = Database::Open(folder_ / "db", CrashOptions());
    ASSERT_OK(db);
    auto notes = (*db)->GetOrCreateCollection("notes");
    ASSERT_OK(notes);
    ListOptions all;
    all.limit = 1000;
    ASSERT_OK_AND(const DocumentPage page, (*notes)->List(all));
    while (last_ < outcome.acknowledged) Apply(seed_, ++last_, &state_);
    if (!Holds(page.documents, state_)) {
      Apply(seed_, ++last_, &state_);
      ASSERT_TRUE(Holds(page.documents, state_))
          << page.documents.size() << " documents are neither the state after transaction "
          << last_ - 1 << " nor after the next";
    }
    // All of them, and nothing else, is in the index; each is found by words of its own, with its
    // content whole (the fake model compares).
    ASSERT_OK_AND(const auto hits,
                  (*notes)->Search("marker", {.top_k = 1000, .include_text = false}));
    ASSERT_EQ(hits.size(), state_.size());
    size_t asked = 0;
    for (const Document& document : page.documents) {
      if (asked++ % 8 != last_ % 8) continue;
      ASSERT_OK_AND(const Answer answer, (*notes)->Ask(FirstChunk(document.text)));
      ASSERT_EQ(answer.citations.size(), 1u);
      ASSERT_EQ(answer.citations[0].id, document.id) << document.text;
    }
    if (verify) {
      ASSERT_OK_AND(const VerifyReport report, (*db)->Verify());
      ASSERT_TRUE(report.ok()) << report.problems[0];
    }
  }

  TempFolder folder_;
  uint64_t seed_ = 0;
  uint64_t last_ = 0;  // transactions applied to state_
  State state_;
};

TEST_F(CrashTest, NoAcknowledgedTransactionIsLostAndNoneIsTorn) {
  const char* kills_text = std::getenv("MSADB_CRASH_KILLS");
  const int kills = kills_text != nullptr ? std::atoi(kills_text) : 200;
  const char* seed_text = std::getenv("MSADB_TEST_SEED");
  seed_ = seed_text != nullptr ? std::strtoull(seed_text, nullptr, 10) : std::random_device()();
  SCOPED_TRACE("MSADB_TEST_SEED=" + std::to_string(seed_));
  std::mt19937_64 random(seed_);
  int kills_during_open = 0;
  std::chrono::microseconds open_time{30'000};  // the newest measured
  for (int i = 0; i < kills; ++i) {
    SCOPED_TRACE("kill " + std::to_string(i));
    const bool during_open = kills_during_open * 3 < i;
    const std::chrono::microseconds delay(during_open
                                              ? random() % static_cast<uint64_t>(open_time.count())
                                              : 5000 + random() % 85'000);
    const Outcome outcome = RunAndKill(last_ + 1, delay, during_open);
    ASSERT_TRUE(outcome.killed) << "the child failed by itself";
    if (outcome.opened) open_time = outcome.open_time;
    kills_during_open += !outcome.opened;
    CheckRecovered(outcome, i % 10 == 0 || i + 1 == kills);
    if (HasFatalFailure()) return;
  }
  std::printf("%d kills, %d of them during open; %llu transactions; seed %llu\n", kills,
              kills_during_open, static_cast<unsigned long long>(last_),
              static_cast<unsigned long long>(seed_));
  EXPECT_GE(kills_during_open * 5, kills);
  EXPECT_GT(last_, static_cast<uint64_t>(kills));
}

}  // namespace
}  // namespace msadb::db

int main(int argc, char** argv) {
  if (argc == 6 && std::string(argv[1]) == "--child") return msadb::db::ChildMain(argv);
  ::testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
