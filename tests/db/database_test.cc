// Opening, locking, collections, the index budget, upkeep.
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>
#include <map>
#include <thread>

#include "tests/db/db_test_util.h"

namespace msadb::db {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class DatabaseTest : public ::testing::Test {
 protected:
  std::shared_ptr<Database> Open(const Options& options = TestOptions()) {
    auto db = Database::Open(folder_ / "db", options);
    EXPECT_TRUE(db.ok()) << db.status().ToString();
    return db.ok() ? *db : nullptr;
  }

  TempFolder folder_;
};

TEST_F(DatabaseTest, OpensAsTheOptionsSay) {
  Options options = TestOptions();
  options.create_if_missing = false;
  EXPECT_CODE(Database::Open(folder_ / "db", options), StatusCode::kNotFound);
  EXPECT_FALSE(std::filesystem::exists(folder_ / "db"));
  options.read_only = true;
  options.create_if_missing = true;
  EXPECT_CODE(Database::Open(folder_ / "db", options), StatusCode::kNotFound);
  EXPECT_CODE(Database::Open("", TestOptions()), StatusCode::kInvalidArgument);
  Open();
  options = TestOptions();
  options.error_if_exists = true;
  EXPECT_CODE(Database::Open(folder_ / "db", options), StatusCode::kAlreadyExists);
  struct stat info;
  ASSERT_EQ(stat((folder_ / "db").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0700u);
}

// Without a GPU, page-locked memory is refused; with one the same goes through it.
TEST_F(DatabaseTest, ContentGoesToPlainMemoryWherePageLockedIsRefused) {
  Options options = TestOptions();
  options.model = MakeFakeModel({.wants_pinned_content = true});
  for (const char* fact : {"the spare key is under the pot", "the train leaves at nine"}) {
    const auto db = Open(options);
    ASSERT_NE(db, nullptr);
    auto notes = db->OpenCollection("notes");
    if (!notes.ok()) notes = db->CreateCollection("notes");
    ASSERT_OK(notes);
    ASSERT_OK((*notes)->Insert(Doc(fact)));
    ASSERT_OK_AND(const Answer answer, (*notes)->Ask(fact));  // checks the blocks it gets
    EXPECT_FALSE(answer.text.empty());
  }
}

TEST_F(DatabaseTest, AWrongModelPathLeavesNoDatabaseBehind) {
  Options options = TestOptions();
  options.model = nullptr;
  unsetenv("MSADB_MODEL");
  auto none = Database::Open(folder_ / "db", options);
  EXPECT_CODE(none, StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(none.status().message()), HasSubstr("MSADB_MODEL"));
  options.model_path = folder_ / "no-model";
  auto missing = Database::Open(folder_ / "db", options);
  EXPECT_CODE(missing, StatusCode::kNotFound);
  EXPECT_THAT(std::string(missing.status().message()), HasSubstr("no-model"));
  EXPECT_FALSE(std::filesystem::exists(folder_ / "db"));
}

TEST_F(DatabaseTest, RefusesAnotherModelAndNamesBoth) {
  Open();
  Options options = TestOptions();
  options.model = MakeFakeModel({.fingerprint = std::string(64, 'a')});
  auto refused = Database::Open(folder_ / "db", options);
  EXPECT_CODE(refused, StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(refused.status().message()),
              ::testing::AllOf(HasSubstr("ffff"), HasSubstr("aaaa"), HasSubstr("Reencode")));
  EXPECT_NE(Open(), nullptr);
}

TEST_F(DatabaseTest, ModelsOfTheCallersOwnAreRefused) {
  class Own : public LoadedModel {
    std::string fingerprint() const override { return ""; }
    std::string description() const override { return ""; }
    size_t document_tokens_max() const override { return 1; }
  };
  Options options = TestOptions();
  options.model = std::make_shared<Own>();
  EXPECT_CODE(Database::Open(folder_ / "db", options), StatusCode::kInvalidArgument);
}

TEST_F(DatabaseTest, OnlyOneProcessAtATime) {
  auto db = Open();
  EXPECT_CODE(Database::Open(folder_ / "db", TestOptions()), StatusCode::kUnavailable);
  Options read_only = TestOptions();
  read_only.read_only = true;
  EXPECT_CODE(Database::Open(folder_ / "db", read_only), StatusCode::kUnavailable);
  EXPECT_CODE(Database::Reencode(folder_ / "db", TestOptions()), StatusCode::kUnavailable);
  // A second process, by exec of a fresh one: this test binary in a mode of its own.
  const std::string path = folder_ / "db";
  const pid_t child = fork();
  if (child == 0) {
    execl("/proc/self/exe", "db_database_test", "--gtest_filter=SecondProcess.IsLockedOut",
          "--gtest_also_run_disabled_tests", ("--folder=" + path).c_str(), nullptr);
    _exit(99);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
  db.reset();
  EXPECT_NE(Open(), nullptr);
}

// Run by the test above only.
TEST(SecondProcess, IsLockedOut) {
  std::string folder;
  for (const std::string& argument : ::testing::internal::GetArgvs()) {
    if (argument.starts_with("--folder=")) folder = argument.substr(9);
  }
  if (folder.empty()) GTEST_SKIP() << "only runs as the second process of OnlyOneProcessAtATime";
  auto db = Database::Open(folder, TestOptions());
  EXPECT_CODE(db, StatusCode::kUnavailable);
}

TEST_F(DatabaseTest, RefusesANewerFormatAndForeignFolders) {
  Open();
  {
    std::ifstream in(folder_ / "db/MSADB");
    std::string text((std::istreambuf_iterator<char>(in)), {});
    const size_t digit = text.find('1');
    ASSERT_NE(digit, std::string::npos) << text;
    text.replace(digit, 1, "999");
    std::ofstream(folder_ / "db/MSADB") << text;
  }
  EXPECT_CODE(Database::Open(folder_ / "db", TestOptions()), StatusCode::kUnsupported);
  std::filesystem::create_directory(folder_ / "other");
  std::ofstream(folder_ / "other/file") << "precious";
  EXPECT_CODE(Database::Open(folder_ / "other", TestOptions()), StatusCode::kFailedPrecondition);
  EXPECT_TRUE(std::filesystem::exists(folder_ / "other/file"));
}

TEST_F(DatabaseTest, ReadOnlyRefusesEveryChange) {
  {
    auto db = Open();
    auto notes = db->CreateCollection("notes");
    ASSERT_OK(notes);
    ASSERT_OK((*notes)->Insert(Doc("some text", "k")));
  }
  Options options = TestOptions();
  options.read_only = true;
  options.expiry_interval = std::chrono::milliseconds(1);
  auto db = Open(options);
  ASSERT_NE(db, nullptr);
  ASSERT_OK_AND(const auto notes, db->OpenCollection("notes"));
  const auto refused = StatusCode::kFailedPrecondition;
  EXPECT_CODE(notes->Insert(Doc("x")), refused);
  EXPECT_CODE(notes->Upsert(Doc("x", "k")), refused);
  const NewDocument one = Doc("x");
  EXPECT_CODE(notes->InsertMany({&one, 1}), refused);
  EXPECT_CODE(notes->Delete(1), refused);
  EXPECT_CODE(notes->DeleteByKey("k"), refused);
  EXPECT_CODE(notes->Begin(), refused);
  EXPECT_CODE(db->CreateCollection("more"), refused);
  EXPECT_CODE(db->GetOrCreateCollection("more"), refused);
  EXPECT_CODE(db->DropCollection("notes"), refused);
  EXPECT_CODE(db->Compact(), refused);
  ASSERT_OK_AND(const auto hits, notes->Search("text"));
  EXPECT_EQ(hits.size(), 1u);
  ASSERT_OK_AND(const VerifyReport report, db->Verify());
  EXPECT_TRUE(report.ok());
}

TEST_F(DatabaseTest, CollectionsAreSeparate) {
  auto db = Open();
  EXPECT_CODE(db->OpenCollection("a"), StatusCode::kNotFound);
  ASSERT_OK_AND(const auto a, db->CreateCollection("a"));
  EXPECT_CODE(db->CreateCollection("a"), StatusCode::kAlreadyExists);
  ASSERT_OK_AND(const auto b, db->GetOrCreateCollection("b"));
  ASSERT_OK_AND(const auto a2, db->GetOrCreateCollection("a"));
  ASSERT_OK(a->Insert(Doc("in a", "k")));
  ASSERT_OK_AND(const DocumentId in_b, b->Insert(Doc("in b", "k")));
  EXPECT_EQ(in_b, 1u);
  ASSERT_OK_AND(const Document document, a2->GetByKey("k"));
  EXPECT_EQ(document.text, "in a");
  ASSERT_OK_AND(const auto names, db->ListCollections());
  EXPECT_THAT(names, ElementsAre("a", "b"));

  ASSERT_OK(a->Search("load"));
  ASSERT_OK_AND(auto transaction, a2->Begin());
  ASSERT_OK(transaction->Insert(Doc("late")));
  ASSERT_OK_AND(const auto snapshot, a->TakeSnapshot());
  ASSERT_OK(db->DropCollection("a"));
  EXPECT_CODE(db->DropCollection("a"), StatusCode::kNotFound);
  EXPECT_CODE(a->Get(1), StatusCode::kNotFound);
  EXPECT_CODE(a->Search("in"), StatusCode::kNotFound);
  EXPECT_CODE(a2->Insert(Doc("x")), StatusCode::kNotFound);
  EXPECT_CODE(a2->Begin(), StatusCode::kNotFound);
  EXPECT_CODE(transaction->Commit(), StatusCode::kNotFound);
  // What began before goes on.
  ASSERT_OK_AND(const auto hits, snapshot->Search("in a"));
  EXPECT_EQ(hits.size(), 1u);
  // A new one of that name is empty.
  ASSERT_OK_AND(const auto again, db->CreateCollection("a"));
  ASSERT_OK_AND(const uint64_t count, again->Count());
  EXPECT_EQ(count, 0u);
  ASSERT_OK_AND(const auto in_b_hits, b->Search("in"));
  EXPECT_EQ(in_b_hits.size(), 1u);

  for (const std::string& bad : {std::string(), std::string(129, 'x'), std::string("a/b"),
                                 std::string("a\n"), std::string("\xFF")}) {
    EXPECT_CODE(db->CreateCollection(bad), StatusCode::kInvalidArgument);
    EXPECT_CODE(db->OpenCollection(bad), StatusCode::kInvalidArgument);
  }
  EXPECT_OK(db->CreateCollection(std::string(128, 'x')));
  EXPECT_OK(db->CreateCollection("caf\xC3\xA9 and more"));
}

TEST_F(DatabaseTest, HandlesKeepTheDatabaseOpen) {
  auto db = Open();
  ASSERT_OK_AND(auto notes, db->CreateCollection("notes"));
  ASSERT_OK_AND(auto snapshot, notes->TakeSnapshot());
  db.reset();
  ASSERT_OK(notes->Insert(Doc("still open")));
  notes.reset();
  EXPECT_OK(snapshot->Search("open"));
  EXPECT_CODE(Database::Open(folder_ / "db", TestOptions()), StatusCode::kUnavailable);
  snapshot.reset();
  EXPECT_NE(Open(), nullptr);
}

TEST_F(DatabaseTest, IdleIndexesMakeRoomForOthers) {
  Options options = TestOptions();
  options.index_bytes_max = 40'000;
  auto db = Open(options);
  std::vector<std::shared_ptr<Collection>> collections;
  for (int c = 0; c < 4; ++c) {
    ASSERT_OK_AND(collections.emplace_back(), db->CreateCollection("c" + std::to_string(c)));
    std::vector<NewDocument> documents;
    // About 40 chunks of 2 layers, 32 floats: 10 KiB, and the catalog.
    for (int i = 0; i < 40; ++i) documents.push_back(Doc("word" + std::to_string(i)));
    ASSERT_OK(collections[c]->InsertMany(documents));
  }
  for (int round = 0; round < 3; ++round) {
    for (auto& collection : collections) {
      ASSERT_OK_AND(const auto hits, collection->Search("word7"));
      EXPECT_EQ(hits[0].text, "word7");
      ASSERT_OK_AND(const DatabaseStats stats, db->Stats());
      EXPECT_LE(stats.index_bytes, 60'000u);
    }
  }
  size_t loaded = 0;
  for (auto& collection : collections) {
    ASSERT_OK_AND(const CollectionStats stats, collection->Stats());
    loaded += stats.index_loaded;
  }
  EXPECT_GE(loaded, 1u);
  EXPECT_LT(loaded, 4u);
  EXPECT_FALSE(collections[0]->Stats()->index_loaded);
  EXPECT_TRUE(collections[3]->Stats()->index_loaded);

  // One that is in use stays; when nothing is left to drop, a typed error names the option.
  ASSERT_OK_AND(const auto held, collections[0]->TakeSnapshot());
  ASSERT_OK(held->Search("word1"));
  std::vector<NewDocument> many;
  for (int i = 0; i < 400; ++i) many.push_back(Doc("more" + std::to_string(i)));
  ASSERT_OK(collections[2]->Count());
  auto result = collections[0]->InsertMany(many);
  EXPECT_CODE(result, StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(result.status().message()), HasSubstr("index_bytes_max"));
  // Reads and deletes go on.
  EXPECT_OK(collections[0]->Search("word3"));
  EXPECT_OK(collections[0]->Delete(1));
}

// Options::routing_keys is a choice of one opening: what is stored does not change, and an insert
// and a load round alike.
TEST_F(DatabaseTest, EachOpeningChoosesItsRoutingKeys) {
  Options floats = TestOptions();
  Options int8 = TestOptions();
  int8.routing_keys = RoutingKeys::kInt8;
  const auto search = [&](Database& db) {
    auto notes = db.OpenCollection("notes");
    EXPECT_OK(notes);
    auto hits = (*notes)->Search("v3 v4 v5", {.top_k = 60});
    EXPECT_OK(hits);
    auto report = db.Verify();  // also compares the loaded index with storage
    EXPECT_OK(report);
    EXPECT_TRUE(report->ok()) << report->problems[0];
    std::vector<std::pair<DocumentId, float>> found;
    for (const SearchHit& hit : *hits) found.emplace_back(hit.id, hit.score);
    return found;
  };
  std::vector<std::pair<DocumentId, float>> of_floats, of_int8;
  {
    auto db = Open(floats);
    ASSERT_OK_AND(auto notes, db->CreateCollection("notes"));
    for (int i = 0; i < 50; ++i) ASSERT_OK(notes->Insert(Doc(Words("v", 3 + i))));
    of_floats = search(*db);
    ASSERT_EQ(of_floats.size(), 50u);
  }
  {
    auto db = Open(int8);
    of_int8 = search(*db);
    ASSERT_EQ(of_int8.size(), 50u);
    const std::map<DocumentId, float> exact(of_floats.begin(), of_floats.end());
    bool differ = false;
    for (const auto& [id, score] : of_int8) {
      EXPECT_NEAR(score, exact.at(id), 0.02);
      differ = differ || score != exact.at(id);
    }
    EXPECT_TRUE(differ);
    ASSERT_OK_AND(auto notes, db->OpenCollection("notes"));
    ASSERT_OK(notes->Insert(Doc(Words("w", 40))));
    of_int8 = search(*db);
    ASSERT_OK(db->Compact());
    EXPECT_EQ(search(*db), of_int8);
  }
  EXPECT_EQ(search(*Open(int8)), of_int8);
  {
    auto db = Open(floats);
    ASSERT_OK_AND(auto notes, db->OpenCollection("notes"));
    ASSERT_OK(notes->Delete(of_int8.size()));
    EXPECT_EQ(search(*db), of_floats);
  }
}

TEST_F(DatabaseTest, VerifyReadsEverythingAndNamesDamage) {
  {
    auto db = Open();
    ASSERT_OK_AND(const auto notes, db->CreateCollection("notes"));
    for (int i = 0; i < 50; ++i) ASSERT_OK(notes->Insert(Doc(Words("v", 100))));
    ASSERT_OK(notes->Search("v1"));
    ASSERT_OK_AND(const VerifyReport report, db->Verify());
    EXPECT_TRUE(report.ok()) << report.problems[0];
    EXPECT_EQ(report.documents_checked, 50u);
    EXPECT_GT(report.bytes_checked, 50u * 100 * 3);
    ASSERT_OK(notes->Delete(1));
    ASSERT_OK(db->Compact());  // so that values are in files, not in the log
  }
  // Flip one byte in the middle of every large file in turn.
  size_t damaged = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder_ / "db/rocksdb")) {
    const std::string extension = entry.path().extension().string();
    if (extension != ".sst" && extension != ".blob") continue;
    const auto middle = static_cast<std::streamoff>(entry.file_size() / 2);
    const auto flip = [&] {
      std::fstream file(entry.path(), std::ios::in | std::ios::out | std::ios::binary);
      file.seekg(middle);
      const char byte = static_cast<char>(file.get() ^ 0x20);
      file.seekp(middle);
      file.put(byte);
    };
    flip();
    auto db = Database::Open(folder_ / "db", TestOptions());
    if (db.ok()) {
      ASSERT_OK_AND(const VerifyReport report, (*db)->Verify());
      EXPECT_FALSE(report.ok()) << entry.path();
      // Reading gives an error or the right text, never a wrong one.
      auto notes = (*db)->OpenCollection("notes");
      for (DocumentId id = 3; notes.ok() && id < 100; id += 2) {
        auto document = (*notes)->Get(id);
        if (document.ok()) {
          EXPECT_EQ(document->text, Words("v", 100));
        }
      }
    } else {
      EXPECT_EQ(db.status().code(), StatusCode::kCorruption) << db.status().ToString();
    }
    if (db.ok()) db->reset();
    flip();
    ++damaged;
  }
  EXPECT_GT(damaged, 0u);
  auto db = Open();
  ASSERT_OK_AND(const VerifyReport report, db->Verify());
  EXPECT_TRUE(report.ok());
}

std::string AllBytes(const std::string& folder) {
  std::string bytes;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder)) {
    if (!entry.is_regular_file()) continue;
    std::ifstream in(entry.path(), std::ios::binary);
    bytes.append(std::istreambuf_iterator<char>(in), {});
  }
  return bytes;
}

TEST_F(DatabaseTest, CompactLeavesNoByteOfWhatWasDeleted) {
  Options options = TestOptions();
  auto db = Open(options);
  ASSERT_OK_AND(const auto notes, db->CreateCollection("notes"));
  ASSERT_OK_AND(const auto doomed, db->CreateCollection("doomed-collection"));
  for (int i = 0; i < 30; ++i) {
    ASSERT_OK(
        notes->Insert(Doc("lasting text " + std::to_string(i), "lasting" + std::to_string(i))));
  }
  NewDocument secret = Doc("TEXTMARKER is secret", "KEYMARKER", {{"m", std::string("METAMARKER")}});
  secret.source = "SOURCEMARKER";
  ASSERT_OK_AND(const DocumentId id, notes->Insert(secret));
  NewDocument brief = Doc("EXPIREDMARKER", "EXPIREDKEYMARKER");
  brief.expires_at =
      std::chrono::time_point_cast<std::chrono::microseconds>(std::chrono::system_clock::now()) +
      std::chrono::milliseconds(150);
  ASSERT_OK(notes->Insert(brief));
  ASSERT_OK(notes->Upsert(Doc("REPLACEDMARKER", "lasting5")));
  ASSERT_OK(notes->Upsert(Doc("new text", "lasting5")));
  ASSERT_OK(doomed->Insert(Doc("DROPPEDMARKER")));
  {
    ASSERT_OK_AND(auto rolled_back, notes->Begin());
    ASSERT_OK(rolled_back->Insert(Doc("ROLLEDBACKMARKER")));
  }
  const std::vector<std::string> markers = {"TEXTMARKER",     "KEYMARKER",     "METAMARKER",
                                            "SOURCEMARKER",   "EXPIREDMARKER", "EXPIREDKEYMARKER",
                                            "REPLACEDMARKER", "DROPPEDMARKER", "ROLLEDBACKMARKER"};
  ASSERT_THAT(AllBytes(folder_ / "db"), HasSubstr("TEXTMARKER"));
  ASSERT_OK(notes->Search("load"));
  {
    ASSERT_OK_AND(const auto snapshot, notes->TakeSnapshot());
    ASSERT_OK(notes->Delete(id));
    ASSERT_OK(db->DropCollection("doomed-collection"));
    std::this_thread::sleep_until(*brief.expires_at);
    auto held = db->Compact();
    EXPECT_CODE(held, StatusCode::kFailedPrecondition);
    EXPECT_OK(snapshot->Get(id));
  }
  ASSERT_OK(db->Compact());
  for (const std::string& marker : markers) {
    EXPECT_EQ(AllBytes(folder_ / "db").find(marker), std::string::npos) << marker;
  }
  ASSERT_OK_AND(const uint64_t count, notes->Count());
  EXPECT_EQ(count, 30u);
  ASSERT_OK_AND(const auto hits, notes->Search("lasting text 7", {.top_k = 1}));
  EXPECT_EQ(hits[0].text, "lasting text 7");
  ASSERT_OK_AND(const VerifyReport report, db->Verify());
  EXPECT_TRUE(report.ok()) << report.problems[0];
  db.reset();
  for (const std::string& marker : markers) {
    EXPECT_EQ(AllBytes(folder_ / "db").find(marker), std::string::npos) << marker;
  }
}

// What a kill can leave beside the database: a copy that has just begun or is nearly gone.
TEST_F(DatabaseTest, ReencodeClearsWhatAKillLeftBeside) {
  { auto db = Open(); }
  const std::string beside = folder_ / "db.reencode";
  Options other = TestOptions();
  char fingerprint = 'b';
  const std::vector<std::vector<std::string>> leftovers = {
      {}, {"LOCK"}, {"COMMITS"}, {"LOCK", "COMMITS"}, {"LOCK", "rocksdb/CURRENT"}, {"MSADB"}};
  for (const auto& files : leftovers) {
    SCOPED_TRACE(files.empty() ? "an empty folder" : files.back());
    std::filesystem::create_directory(beside);
    for (const std::string& file : files) {
      std::filesystem::create_directories(std::filesystem::path(beside + "/" + file).parent_path());
      std::ofstream(beside + "/" + file) << "x";
    }
    other.model = MakeFakeModel({.fingerprint = std::string(64, fingerprint++)});
    ASSERT_OK(Database::Reencode(folder_ / "db", other));
    EXPECT_FALSE(std::filesystem::exists(beside));
  }
}

TEST_F(DatabaseTest, ReencodeAdoptsAnotherModel) {
  std::vector<Document> before;
  {
    auto db = Open();
    ASSERT_OK_AND(const auto notes, db->CreateCollection("notes"));
    ASSERT_OK_AND(const auto empty, db->CreateCollection("empty"));
    for (int i = 0; i < 40; ++i) {
      NewDocument document =
          Doc("text " + Words("r" + std::to_string(i) + "x", i % 7 == 3 ? 50 : 5),
              "k" + std::to_string(i), {{"i", int64_t{i}}});
      document.source = "here";
      document.written_by = "writer" + std::to_string(i % 2);
      ASSERT_OK(notes->Insert(document));
    }
    ASSERT_OK(notes->Delete(4));
    ASSERT_OK(notes->Delete(40));
    ASSERT_OK_AND(const DocumentPage page, notes->List());
    before = page.documents;
  }
  Options other = TestOptions();
  other.model = MakeFakeModel({.fingerprint = std::string(64, 'b'), .document_tokens_max = 30});
  EXPECT_CODE(Database::Reencode(folder_ / "none", other), StatusCode::kNotFound);
  // Stopped half way: the old database is as it was.
  EXPECT_CODE(Database::Reencode(folder_ / "db", other,
                                 [](const InsertProgress& p) { return p.done < 10; }),
              StatusCode::kCancelled);
  EXPECT_NE(Open(), nullptr);
  EXPECT_FALSE(std::filesystem::exists(folder_ / "db.reencode"));
  // A folder with anything of others, or open elsewhere, is not removed.
  const std::string beside = folder_ / "db.reencode";
  std::filesystem::create_directory(beside);
  std::ofstream(beside + "/letter.txt") << "mine";
  EXPECT_CODE(Database::Reencode(folder_ / "db", other), StatusCode::kAlreadyExists);
  EXPECT_TRUE(std::filesystem::exists(beside + "/letter.txt"));
  std::filesystem::remove_all(beside);
  {
    ASSERT_OK_AND(const auto open, Database::Open(beside, TestOptions()));
    EXPECT_CODE(Database::Reencode(folder_ / "db", other), StatusCode::kUnavailable);
    ASSERT_OK(open->CreateCollection("still there"));
  }
  std::filesystem::remove_all(beside);

  InsertProgress last;
  ASSERT_OK(Database::Reencode(folder_ / "db", other, [&](const InsertProgress& p) {
    last = p;
    return true;
  }));
  EXPECT_EQ(last.done, 38u);
  EXPECT_EQ(last.total, 38u);
  EXPECT_FALSE(std::filesystem::exists(folder_ / "db.reencode"));
  EXPECT_CODE(Database::Open(folder_ / "db", TestOptions()), StatusCode::kFailedPrecondition);
  auto db = Open(other);
  ASSERT_NE(db, nullptr);
  ASSERT_OK_AND(const auto names, db->ListCollections());
  EXPECT_THAT(names, ElementsAre("empty", "notes"));
  ASSERT_OK_AND(const auto notes, db->OpenCollection("notes"));
  ASSERT_OK_AND(const DocumentPage page, notes->List());
  ASSERT_EQ(page.documents.size(), before.size());
  for (size_t i = 0; i < before.size(); ++i) {
    const Document& was = before[i];
    const Document& is = page.documents[i];
    EXPECT_EQ(is.text, was.text);
    EXPECT_EQ(is.key, was.key);
    EXPECT_EQ(is.metadata, was.metadata);
    EXPECT_EQ(is.source, was.source);
    EXPECT_EQ(is.written_by, was.written_by);
    EXPECT_EQ(is.created_at, was.created_at);
    EXPECT_GE(is.id, was.id);
    if (i < 3) {
      EXPECT_EQ(is.id, was.id);
    }
    ASSERT_OK_AND(const Answer answer, notes->Ask(was.text));
    EXPECT_EQ(answer.citations[0].id, is.id);
  }
  ASSERT_OK_AND(const DocumentId next, notes->Insert(Doc("new")));
  EXPECT_GT(next, 40u);  // the deleted last one is not given out again
  ASSERT_OK_AND(const VerifyReport report, db->Verify());
  EXPECT_TRUE(report.ok()) << report.problems[0];
}

TEST_F(DatabaseTest, RefusesNonsenseOptions) {
  for (const auto& change : std::vector<std::function<void(Options&)>>{
           [](Options& o) { o.expiry_interval = std::chrono::milliseconds(-1); },
           [](Options& o) { o.threads = -1; },
           [](Options& o) { o.routing_keys = static_cast<RoutingKeys>(2); },
           [](Options& o) { o.encode_batch_tokens = 0; },
           [](Options& o) { o.limits.text_bytes_max = 0; },
           [](Options& o) { o.limits.key_bytes_max = 1 << 20; }}) {
    Options options = TestOptions();
    change(options);
    EXPECT_CODE(Database::Open(folder_ / "db", options), StatusCode::kInvalidArgument);
  }
}

}  // namespace
}  // namespace msadb::db
