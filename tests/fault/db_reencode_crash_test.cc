// Database::Reencode is killed with SIGKILL at random moments, again and again. After each kill the
// folder holds the database of the old model or that of the new one, whole.
//
// MSADB_CRASH_KILLS=n and MSADB_TEST_SEED=n change the default of 40 kills and the seed.
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <csignal>
#include <map>
#include <random>
#include <thread>

#include "tests/db/db_test_util.h"

extern char** environ;

namespace msadb::db {
namespace {

constexpr int kDocuments = 120;

// Two models that divide documents differently; options of model 0 or 1.
Options OptionsOf(int model) {
  Options options = TestOptions();
  options.storage_memory_bytes = 2 << 20;
  options.model = MakeFakeModel({.fingerprint = std::string(64, model == 0 ? 'a' : 'b'),
                                 .document_tokens_max = model == 0 ? 64u : 30u});
  return options;
}

// Run as "--child FOLDER MODEL".
int ChildMain(char** argv) {
  const Status status = Database::Reencode(argv[2], OptionsOf(std::atoi(argv[3])));
  if (status.ok()) return 0;
  std::fprintf(stderr, "child: %s\n", status.ToString().c_str());
  return 1;
}

class ReencodeCrashTest : public ::testing::Test {
 protected:
  // Starts the re-encoding for `model`, kills it after `delay` unless it ended before; its wait
  // status.
  int Run(int model, std::chrono::microseconds delay) {
    std::array<std::string, 4> arguments = {"db_reencode_crash_test", "--child", folder_ / "db",
                                            std::to_string(model)};
    std::vector<char*> argv;
    for (std::string& argument : arguments) argv.push_back(argument.data());
    argv.push_back(nullptr);
    pid_t child = 0;
    EXPECT_EQ(posix_spawn(&child, "/proc/self/exe", nullptr, nullptr, argv.data(), environ), 0);
    std::this_thread::sleep_for(delay);
    kill(child, SIGKILL);
    int status = 0;
    EXPECT_EQ(waitpid(child, &status, 0), child);
    return status;
  }

  // Which model the folder belongs to, after checking that everything is there.
  void Check(int* model) {
    auto db = Database::Open(folder_ / "db", OptionsOf(*model));
    if (!db.ok()) {
      ASSERT_EQ(db.status().code(), StatusCode::kFailedPrecondition) << db.status().ToString();
      *model = 1 - *model;
      db = Database::Open(folder_ / "db", OptionsOf(*model));
    }
    ASSERT_OK(db);
    ASSERT_OK_AND(const auto notes, (*db)->OpenCollection("notes"));
    ListOptions all;
    all.limit = 1000;
    ASSERT_OK_AND(const DocumentPage page, notes->List(all));
    std::map<std::string, std::string> found;
    for (const Document& document : page.documents) {
      found[document.key.value_or("")] = document.text;
    }
    ASSERT_EQ(found, texts_);
    ASSERT_OK_AND(const auto hits, notes->Search("marker", {.top_k = 1000, .include_text = false}));
    ASSERT_EQ(hits.size(), texts_.size());
    ASSERT_OK_AND(const VerifyReport report, (*db)->Verify());
    ASSERT_TRUE(report.ok()) << report.problems[0];
  }

  TempFolder folder_;
  std::map<std::string, std::string> texts_;
};

TEST_F(ReencodeCrashTest, TheOldOrTheNewDatabaseIsThereWhole) {
  const char* kills_text = std::getenv("MSADB_CRASH_KILLS");
  const int kills = kills_text != nullptr ? std::atoi(kills_text) : 40;
  const char* seed_text = std::getenv("MSADB_TEST_SEED");
  const uint64_t seed =
      seed_text != nullptr ? std::strtoull(seed_text, nullptr, 10) : std::random_device()();
  SCOPED_TRACE("MSADB_TEST_SEED=" + std::to_string(seed));
  std::mt19937_64 random(seed);
  {
    ASSERT_OK_AND(const auto db, Database::Open(folder_ / "db", OptionsOf(0)));
    ASSERT_OK_AND(const auto notes, db->CreateCollection("notes"));
    for (int i = 0; i < kDocuments; ++i) {
      const std::string key = "k" + std::to_string(i);
      texts_[key] = "marker " + Words("d" + std::to_string(i) + "x", i % 5 == 0 ? 90 : 12);
      ASSERT_OK(notes->Insert(Doc(texts_[key], key)));
    }
  }
  int model = 0;
  // Once undisturbed, to know how long it takes.
  const auto start = std::chrono::steady_clock::now();
  ASSERT_EQ(Run(1, std::chrono::minutes(0)), SIGKILL) << "killed at once";
  ASSERT_NO_FATAL_FAILURE(Check(&model));
  ASSERT_EQ(model, 0);
  ASSERT_OK(Database::Reencode(folder_ / "db", OptionsOf(1)));
  const auto whole = std::chrono::duration_cast<std::chrono::microseconds>(
      std::chrono::steady_clock::now() - start);
  ASSERT_NO_FATAL_FAILURE(Check(&model));
  ASSERT_EQ(model, 1);

  int old_left = 0, new_left = 0;
  for (int i = 0; i < kills; ++i) {
    SCOPED_TRACE("kill " + std::to_string(i));
    const int before = model;
    // Every fourth kill comes late, where the exchange and the clearing away happen.
    const auto span = static_cast<uint64_t>(whole.count());
    const std::chrono::microseconds delay(i % 4 == 0 ? span / 2 + random() % span
                                                     : random() % span);
    const int status = Run(1 - model, delay);
    ASSERT_TRUE(status == SIGKILL || status == 0) << "the child failed by itself: " << status;
    ASSERT_NO_FATAL_FAILURE(Check(&model));
    if (status == 0) {
      ASSERT_NE(model, before);
    }
    (model == before ? old_left : new_left) += 1;
  }
  std::printf("%d kills: %d left the old database, %d the new one; seed %llu\n", kills, old_left,
              new_left, static_cast<unsigned long long>(seed));
  EXPECT_GT(old_left, 0);
  // What the kills left beside the folder goes with the next run that ends.
  ASSERT_OK(Database::Reencode(folder_ / "db", OptionsOf(1 - model)));
  EXPECT_FALSE(std::filesystem::exists(folder_ / "db.reencode"));
  model = 1 - model;
  ASSERT_NO_FATAL_FAILURE(Check(&model));
}

}  // namespace
}  // namespace msadb::db

int main(int argc, char** argv) {
  if (argc == 4 && std::string(argv[1]) == "--child") return msadb::db::ChildMain(argv);
  ::testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
