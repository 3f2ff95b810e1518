// Documents as JSON lines, times, export and import.
#include "msadb/transfer.h"

#include <random>
#include <sstream>

#include "tests/db/db_test_util.h"

namespace msadb::db {
namespace {

using ::testing::HasSubstr;

TEST(Time, RoundTripsAndRefusesEverythingElse) {
  std::mt19937_64 random(5);
  for (int i = 0; i < 2000; ++i) {
    const TimePoint time(std::chrono::microseconds(random() % 253'402'300'800'000'000));
    ASSERT_OK_AND(const TimePoint back, ParseTime(FormatTime(time)));
    ASSERT_EQ(back, time) << FormatTime(time);
  }
  EXPECT_EQ(FormatTime(TimePoint(std::chrono::microseconds(951'782'400'000'001))),
            "2000-02-29T00:00:00.000001Z");
  EXPECT_EQ(ParseTime("2000-02-29T00:00:00.5Z")->time_since_epoch().count(), 951'782'400'500'000);
  for (const char* bad :
       {"", "2000-02-29", "2001-02-29T00:00:00Z", "2000-13-01T00:00:00Z", "2000-02-29T24:00:00Z",
        "2000-02-29T00:60:00Z", "2000-02-29T00:00:60Z", "2000-02-29T00:00:00",
        "1969-12-31T23:59:59Z", "2000-02-29T00:00:00.1234567Z", "2000-02-29T00:00:00.Z",
        "2000-02-29T00:00:00Zx", "2000-02-29 00:00:00Z", "+000-02-29T00:00:00Z"}) {
    EXPECT_CODE(ParseTime(bad), StatusCode::kInvalidArgument);
  }
}

TEST(DocumentJson, RoundTrips) {
  Document document;
  document.id = 7;
  document.text = "quotes \" and\nlines, caf\xC3\xA9 \xF0\x9F\x94\x91, nul " + std::string(1, '\0');
  document.key = "k";
  document.metadata = {{"i", int64_t{-9'007'199'254'740'993}},
                       {"d", 3.0},
                       {"tiny", 1e-300},
                       {"b", false},
                       {"s", std::string("x")},
                       {"l", std::vector<std::string>{"a", ""}},
                       {"e", std::vector<std::string>{}}};
  document.source = "src";
  document.written_by = "ada";
  document.created_at = TimePoint(std::chrono::microseconds(1'700'000'000'000'001));
  document.expires_at = TimePoint(std::chrono::microseconds(1'800'000'000'000'002));
  const std::string json = DocumentToJson(document);
  EXPECT_EQ(json.find('\n'), std::string::npos);
  ASSERT_OK_AND(const NewDocument back, DocumentFromJson(json));
  EXPECT_EQ(back.text, document.text);
  EXPECT_EQ(back.key, document.key);
  EXPECT_EQ(back.metadata, document.metadata);
  EXPECT_EQ(back.source, document.source);
  EXPECT_EQ(back.written_by, document.written_by);
  EXPECT_EQ(back.created_at, document.created_at);
  EXPECT_EQ(back.expires_at, document.expires_at);
  ASSERT_OK_AND(const Metadata metadata, MetadataFromJson(MetadataToJson(document.metadata)));
  EXPECT_EQ(metadata, document.metadata);
}

TEST(DocumentJson, RefusesWhatItDoesNotKnow) {
  std::string deep(100'000, '[');
  for (const std::string& bad :
       {std::string(""), std::string("{"), std::string("[]"), std::string("{}"),
        std::string(R"({"text": 1})"), std::string(R"({"text": "a", "txet": "b"})"),
        std::string(R"({"text": "a", "key": 1})"), std::string(R"({"text": "a", "written_by": 1})"),
        std::string(R"({"text": "a", "metadata": []})"),
        std::string(R"({"text": "a", "metadata": {"n": null}})"),
        std::string(R"({"text": "a", "metadata": {"n": {"m": 1}}})"),
        std::string(R"({"text": "a", "metadata": {"n": [1]}})"),
        std::string(R"({"text": "a", "metadata": {"n": 9223372036854775808}})"),
        std::string(R"({"text": "a", "metadata": {"n": 1e999}})"),
        std::string(R"({"text": "a", "expires_at": 5})"),
        std::string(R"({"text": "a", "expires_at": "tomorrow"})"), "{\"text\": " + deep,
        std::string("{\"text\": \"\xFF\"}")}) {
    EXPECT_CODE(DocumentFromJson(bad), StatusCode::kInvalidArgument);
  }
  EXPECT_OK(DocumentFromJson(R"({"text": "[[[[[[[[[[[[", "key": null, "expires_at": null})"));
}

class TransferTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_OK_AND(db_, Database::Open(folder_ / "db", TestOptions()));
    ASSERT_OK_AND(from_, db_->CreateCollection("from"));
    ASSERT_OK_AND(to_, db_->CreateCollection("to"));
  }

  TempFolder folder_;
  std::shared_ptr<Database> db_;
  std::shared_ptr<Collection> from_, to_;
};

TEST_F(TransferTest, AnExportImportsAgain) {
  for (int i = 0; i < 250; ++i) {
    NewDocument document =
        Doc("text " + std::to_string(i) + " " + Words("w", i % 50 == 9 ? 90 : 2));
    if (i % 3) document.key = "k" + std::to_string(i);
    document.metadata["i"] = int64_t{i};
    document.source = "s" + std::to_string(i);
    if (i % 4) document.written_by = "w" + std::to_string(i % 4);
    if (i % 5 == 0)
      document.expires_at = TimePoint(std::chrono::microseconds(4'102'444'800'000'000 + i));
    ASSERT_OK(from_->Insert(document));
  }
  std::stringstream jsonl;
  ASSERT_OK_AND(const uint64_t exported, ExportJsonl(*from_, jsonl));
  EXPECT_EQ(exported, 250u);
  ImportOptions options;
  options.batch_documents = 17;
  ASSERT_OK_AND(const ImportProgress imported, ImportJsonl(*to_, jsonl, options));
  EXPECT_EQ(imported.inserted, 250u);
  EXPECT_EQ(imported.lines, 250u);
  ListOptions all;
  all.limit = 1000;
  ASSERT_OK_AND(const DocumentPage a, from_->List(all));
  ASSERT_OK_AND(const DocumentPage b, to_->List(all));
  ASSERT_EQ(a.documents.size(), b.documents.size());
  for (size_t i = 0; i < a.documents.size(); ++i) {
    EXPECT_EQ(DocumentToJson(a.documents[i]), DocumentToJson(b.documents[i]));
  }
  // Snapshots and filters export too.
  ASSERT_OK_AND(const auto snapshot, from_->TakeSnapshot());
  ASSERT_OK(from_->Delete(1));
  std::stringstream some;
  ExportOptions filtered;
  ASSERT_OK_AND(filtered.where, Filter::Parse(R"({"i": {"$lt": 10}})"));
  ASSERT_OK_AND(const uint64_t few, ExportJsonl(*snapshot, some, filtered));
  EXPECT_EQ(few, 10u);
}

TEST_F(TransferTest, AFileFromElsewhereDoesNotSayWhoWroteIt) {
  const char* lines = R"({"text": "one", "written_by": "the boss"})"
                      "\n"
                      R"({"text": "two"})"
                      "\n";
  std::stringstream trusted(lines), foreign(lines);
  ASSERT_OK(ImportJsonl(*from_, trusted));
  ImportOptions options;
  options.written_by = "import of May";
  ASSERT_OK(ImportJsonl(*to_, foreign, options));
  std::vector<std::string> kept, stamped;
  ASSERT_OK_AND(const DocumentPage a, from_->List());
  ASSERT_OK_AND(const DocumentPage b, to_->List());
  for (const Document& document : a.documents) kept.push_back(document.written_by);
  for (const Document& document : b.documents) stamped.push_back(document.written_by);
  EXPECT_THAT(kept, ::testing::ElementsAre("the boss", ""));
  EXPECT_THAT(stamped, ::testing::Each("import of May"));
}

TEST_F(TransferTest, AnInterruptedImportIsResumed) {
  std::string lines;
  for (int i = 0; i < 50; ++i) {
    lines += "{\"text\": \"t" + std::to_string(i) + "\"";
    if (i % 2) lines += ", \"key\": \"k" + std::to_string(i) + "\"";
    lines += "}\n";
    if (i == 20) lines += "\n  \n";
  }
  ImportProgress last;
  ImportOptions stop;
  stop.batch_documents = 8;
  stop.on_progress = [&](const ImportProgress& p) {
    last = p;
    return p.inserted < 24;
  };
  std::istringstream first(lines);
  EXPECT_CODE(ImportJsonl(*to_, first, stop), StatusCode::kCancelled);
  EXPECT_EQ(last.inserted, 24u);
  ImportOptions resume;
  resume.lines_skipped = last.lines;
  std::istringstream second(lines);
  ASSERT_OK_AND(ImportProgress progress, ImportJsonl(*to_, second, resume));
  EXPECT_EQ(progress.inserted, 26u);
  EXPECT_EQ(*to_->Count(), 50u);
  // Without lines_skipped, keys are recognised, documents without one are not.
  std::istringstream third(lines);
  ASSERT_OK_AND(progress, ImportJsonl(*to_, third));
  EXPECT_EQ(progress.skipped, 25u);
  EXPECT_EQ(progress.inserted, 25u);
}

TEST_F(TransferTest, ErrorsNameTheLine) {
  std::istringstream bad("{\"text\": \"fine\"}\n{\"text\": \"fine too\"}\nnot json\n");
  auto result = ImportJsonl(*to_, bad);
  EXPECT_CODE(result, StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(result.status().message()), HasSubstr("line 3"));
  std::istringstream long_line("{\"text\": \"" + std::string(5000, 'x') + "\"}\n");
  ImportOptions options;
  options.line_bytes_max = 1000;
  EXPECT_CODE(ImportJsonl(*to_, long_line, options), StatusCode::kInvalidArgument);
  std::istringstream not_utf8("{\"text\": \"\xFF\"}\n");
  EXPECT_CODE(ImportJsonl(*to_, not_utf8), StatusCode::kInvalidArgument);
  std::istringstream expired(R"({"text": "old", "expires_at": "2001-01-01T00:00:00Z"})");
  ASSERT_OK_AND(const ImportProgress progress, ImportJsonl(*to_, expired));
  EXPECT_EQ(progress.expired, 1u);
  EXPECT_EQ(progress.inserted, 0u);
  std::ostringstream broken;
  broken.setstate(std::ios::badbit);
  ASSERT_OK(from_->Insert(Doc("x")));
  EXPECT_CODE(ExportJsonl(*from_, broken), StatusCode::kIOError);
}

}  // namespace
}  // namespace msadb::db
