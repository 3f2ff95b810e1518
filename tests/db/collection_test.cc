// The public API on one collection: documents in, documents out.
#include <algorithm>
#include <thread>

#include "tests/db/db_test_util.h"

namespace msadb::db {
namespace {

using ::testing::HasSubstr;

class CollectionTest : public ::testing::Test {
 protected:
  void SetUp() override { Open(TestOptions()); }

  void Open(const Options& options) {
    notes_.reset();
    db_.reset();
    ASSERT_OK_AND(db_, Database::Open(folder_ / "db", options));
    ASSERT_OK_AND(notes_, db_->GetOrCreateCollection("notes"));
  }

  DocumentId Insert(const NewDocument& document) {
    auto id = notes_->Insert(document);
    EXPECT_TRUE(id.ok()) << id.status().ToString();
    return id.ok() ? *id : 0;
  }

  std::vector<DocumentId> ListIds(const ListOptions& options = {}) {
    auto page = notes_->List(options);
    EXPECT_TRUE(page.ok()) << page.status().ToString();
    std::vector<DocumentId> ids;
    if (page.ok()) {
      for (const Document& document : page->documents) ids.push_back(document.id);
    }
    return ids;
  }

  TempFolder folder_;
  std::shared_ptr<Database> db_;
  std::shared_ptr<Collection> notes_;
};

TEST_F(CollectionTest, GivesBackEverythingThatWasInserted) {
  NewDocument in = Doc("The spare key is under the blue flowerpot.", "key 1");
  in.metadata = {{"s", std::string("text")},
                 {"i", int64_t{-5}},
                 {"d", 0.25},
                 {"b", true},
                 {"l", std::vector<std::string>{"x", "y"}}};
  in.source = "a test";
  in.written_by = "ada";
  in.expires_at = TimePoint(std::chrono::microseconds(4'102'444'800'000'001));
  const DocumentId id = Insert(in);
  EXPECT_EQ(id, 1u);
  for (int reopen = 0; reopen < 2; ++reopen) {
    for (const bool by_key : {false, true}) {
      ASSERT_OK_AND(const Document out, by_key ? notes_->GetByKey("key 1") : notes_->Get(id));
      EXPECT_EQ(out.id, id);
      EXPECT_EQ(out.text, in.text);
      EXPECT_EQ(out.key, in.key);
      EXPECT_EQ(out.metadata, in.metadata);
      EXPECT_EQ(out.source, in.source);
      EXPECT_EQ(out.written_by, in.written_by);
      EXPECT_EQ(out.expires_at, in.expires_at);
      EXPECT_GT(out.created_at.time_since_epoch().count(), 1'700'000'000'000'000);
      ASSERT_EQ(out.parts.size(), 1u);
      EXPECT_EQ(out.parts[0].number, id);
      EXPECT_EQ(out.parts[0].text_size, in.text.size());
      EXPECT_EQ(out.parts[0].token_count, 9u);
      EXPECT_EQ(out.parts[0].chunk_count, 2u);
    }
    Open(TestOptions());
  }
}

TEST_F(CollectionTest, FindsAndAnswersFromWhatItHolds) {
  const DocumentId pot = Insert(Doc("spare key under the flowerpot"));
  Insert(Doc("milk eggs bread"));
  const DocumentId train =
      Insert(Doc("train leaves at noon", "train", {{"kind", std::string("plan")}}));
  for (int reopen = 0; reopen < 2; ++reopen) {
    ASSERT_OK_AND(const auto hits, notes_->Search("when train leaves"));
    ASSERT_EQ(hits.size(), 3u);
    EXPECT_EQ(hits[0].id, train);
    EXPECT_EQ(hits[0].part, train);
    EXPECT_EQ(hits[0].text, "train leaves at noon");
    EXPECT_EQ(hits[0].key, "train");
    EXPECT_EQ(hits[0].metadata.count("kind"), 1u);
    EXPECT_GE(hits[0].score, hits[1].score);
    EXPECT_GE(hits[1].score, hits[2].score);

    std::string streamed;
    AskOptions options;
    options.trace = true;
    options.on_text = [&](std::string_view piece) {
      streamed += piece;
      return true;
    };
    ASSERT_OK_AND(const Answer answer, notes_->Ask("where is the spare key", options));
    EXPECT_EQ(answer.text, "[" + std::to_string(pot) + "] spare key under the flowerpot");
    EXPECT_EQ(streamed, answer.text);
    ASSERT_EQ(answer.citations.size(), 1u);
    EXPECT_EQ(answer.citations[0].id, pot);
    EXPECT_EQ(answer.citations[0].text, "spare key under the flowerpot");
    EXPECT_TRUE(answer.citations[0].in_answer);
    ASSERT_EQ(answer.trace.rounds.size(), 1u);
    ASSERT_EQ(answer.trace.rounds[0].layers.size(), 2u);
    EXPECT_EQ(answer.trace.rounds[0].layers[0].layer, 7);
    EXPECT_EQ(answer.trace.rounds[0].layers[0].documents[0].number, pot);
    EXPECT_EQ(answer.trace.rounds[0].generated.size(), 2u);
    Open(TestOptions());
  }
}

TEST_F(CollectionTest, AnswersFromAnEmptyMemory) {
  ASSERT_OK_AND(const Answer answer, notes_->Ask("anything?"));
  EXPECT_EQ(answer.text, "I do not know.");
  EXPECT_TRUE(answer.citations.empty());
  ASSERT_OK_AND(const auto hits, notes_->Search("anything?"));
  EXPECT_TRUE(hits.empty());
  EXPECT_TRUE(ListIds().empty());
}

TEST_F(CollectionTest, AskStopsWhenAsked) {
  Insert(Doc("some text"));
  AskOptions options;
  options.deadline = std::chrono::steady_clock::now() - std::chrono::seconds(1);
  EXPECT_CODE(notes_->Ask("text", options), StatusCode::kDeadlineExceeded);
  options = {};
  std::stop_source stop;
  stop.request_stop();
  options.stop = stop.get_token();
  EXPECT_CODE(notes_->Ask("text", options), StatusCode::kCancelled);
  options = {};
  options.on_text = [](std::string_view) { return false; };
  EXPECT_CODE(notes_->Ask("text", options), StatusCode::kCancelled);
  options.on_text = [](std::string_view) -> bool { throw std::runtime_error("from the caller"); };
  EXPECT_CODE(notes_->Ask("text", options), StatusCode::kInternal);
  EXPECT_OK(notes_->Ask("text"));
}

TEST_F(CollectionTest, DeletedDocumentsAreGone) {
  const DocumentId one = Insert(Doc("first apple", "a"));
  const DocumentId two = Insert(Doc("second pear", "b"));
  ASSERT_OK(notes_->Search("apple"));  // with the index loaded
  ASSERT_OK(notes_->Delete(one));
  EXPECT_CODE(notes_->Delete(one), StatusCode::kNotFound);
  EXPECT_CODE(notes_->Get(one), StatusCode::kNotFound);
  EXPECT_CODE(notes_->GetByKey("a"), StatusCode::kNotFound);
  ASSERT_OK_AND(auto hits, notes_->Search("apple"));
  ASSERT_EQ(hits.size(), 1u);
  EXPECT_EQ(hits[0].id, two);
  ASSERT_OK(notes_->DeleteByKey("b"));
  EXPECT_CODE(notes_->DeleteByKey("b"), StatusCode::kNotFound);
  ASSERT_OK_AND(hits, notes_->Search("pear"));
  EXPECT_TRUE(hits.empty());
  ASSERT_OK_AND(const uint64_t count, notes_->Count());
  EXPECT_EQ(count, 0u);
  // Numbers are never used again, not even after a restart.
  Open(TestOptions());
  EXPECT_EQ(Insert(Doc("third", "a")), 3u);
}

TEST_F(CollectionTest, UpsertReplacesUnderANewNumber) {
  ASSERT_OK_AND(const DocumentId first, notes_->Upsert(Doc("version one", "k")));
  EXPECT_CODE(notes_->Insert(Doc("version two", "k")), StatusCode::kAlreadyExists);
  ASSERT_OK_AND(const DocumentId second, notes_->Upsert(Doc("version two", "k")));
  EXPECT_GT(second, first);
  EXPECT_CODE(notes_->Get(first), StatusCode::kNotFound);
  ASSERT_OK_AND(const Document document, notes_->GetByKey("k"));
  EXPECT_EQ(document.id, second);
  EXPECT_EQ(document.text, "version two");
  EXPECT_THAT(ListIds(), ::testing::ElementsAre(second));
  EXPECT_CODE(notes_->Upsert(Doc("no key")), StatusCode::kInvalidArgument);
}

TEST_F(CollectionTest, LongDocumentsLiveAndDieWithAllTheirParts) {
  // 300 words in sentences of ten; the fake model takes 64.
  std::string text;
  for (int i = 0; i < 30; ++i) text += Words("w" + std::to_string(i) + "x", 9) + " end. ";
  const DocumentId before = Insert(Doc("before"));
  const DocumentId id = Insert(Doc(text, "long", {{"n", int64_t{1}}}));
  const DocumentId after = Insert(Doc("after"));
  for (int reopen = 0; reopen < 2; ++reopen) {
    ASSERT_OK_AND(const Document document, notes_->GetByKey("long"));
    EXPECT_EQ(document.text, text);
    ASSERT_GT(document.parts.size(), 4u);
    EXPECT_EQ(after, id + document.parts.size());
    uint64_t offset = 0;
    for (size_t i = 0; i < document.parts.size(); ++i) {
      EXPECT_EQ(document.parts[i].number, id + i);
      EXPECT_EQ(document.parts[i].text_offset, offset);
      EXPECT_LE(document.parts[i].token_count, 64u);
      offset += document.parts[i].text_size;
    }
    EXPECT_EQ(offset, text.size());
    auto inside = notes_->Get(id + 1);
    EXPECT_CODE(inside, StatusCode::kNotFound);
    EXPECT_THAT(std::string(inside.status().message()), HasSubstr(std::to_string(id)));

    // The part that says it is found and cited; the document appears once.
    ASSERT_OK_AND(const auto hits, notes_->Search(Words("w20x", 9)));
    ASSERT_EQ(hits.size(), 3u);
    EXPECT_EQ(hits[0].id, id);
    EXPECT_GT(hits[0].part, id);
    EXPECT_EQ(hits[0].text, text.substr(hits[0].text_offset, hits[0].text.size()));
    EXPECT_THAT(hits[0].text, HasSubstr("w20x5"));
    EXPECT_EQ(hits[0].key, "long");
    ASSERT_OK_AND(const Answer answer, notes_->Ask(Words("w20x", 9)));
    ASSERT_EQ(answer.citations.size(), 1u);
    EXPECT_EQ(answer.citations[0].id, id);
    EXPECT_EQ(answer.citations[0].part, hits[0].part);
    EXPECT_EQ(answer.citations[0].text, hits[0].text);
    EXPECT_EQ(answer.citations[0].text_offset, hits[0].text_offset);
    EXPECT_EQ(answer.citations[0].key, "long");
    EXPECT_THAT(ListIds(), ::testing::ElementsAre(before, id, after));
    ASSERT_OK_AND(const uint64_t count, notes_->Count());
    EXPECT_EQ(count, 3u);
    Open(TestOptions());
  }
  ASSERT_OK(notes_->Search("load the index"));
  EXPECT_CODE(notes_->Delete(id + 1), StatusCode::kNotFound);
  ASSERT_OK(notes_->Delete(id));
  ASSERT_OK_AND(const CollectionStats stats, notes_->Stats());
  EXPECT_EQ(stats.documents, 2u);
  EXPECT_EQ(stats.parts, 2u);
  ASSERT_OK_AND(const auto hits, notes_->Search(Words("w20x", 9)));
  EXPECT_EQ(hits.size(), 2u);
  ASSERT_OK_AND(const VerifyReport report, db_->Verify());
  EXPECT_TRUE(report.ok()) << report.problems[0];
}

TEST_F(CollectionTest, ListsInPages) {
  std::vector<DocumentId> all;
  for (int i = 0; i < 25; ++i) {
    all.push_back(Insert(Doc("text " + Words("p", i % 5 == 3 ? 150 : 3))));
  }
  ASSERT_OK(notes_->Delete(all[7]));
  all.erase(all.begin() + 7);
  for (const size_t limit : {size_t{1}, size_t{3}, size_t{8}, size_t{24}, size_t{100}}) {
    std::vector<DocumentId> seen;
    ListOptions options;
    options.limit = limit;
    for (;;) {
      ASSERT_OK_AND(const DocumentPage page, notes_->List(options));
      EXPECT_LE(page.documents.size(), limit);
      for (const Document& document : page.documents) seen.push_back(document.id);
      if (!page.next) break;
      EXPECT_EQ(page.documents.size(), limit);
      options.start_after = *page.next;
    }
    EXPECT_EQ(seen, all) << "limit " << limit;
  }
  ListOptions options;
  options.include_text = false;
  ASSERT_OK_AND(const DocumentPage page, notes_->List(options));
  EXPECT_EQ(page.documents[3].text, "");
  EXPECT_GT(page.documents[3].parts.size(), 1u);
  EXPECT_GT(page.documents[3].parts[0].text_size, 0u);
  // A start inside a document goes on after it.
  options.start_after = all[3] + 1;
  options.limit = 1;
  EXPECT_THAT(ListIds(options), ::testing::ElementsAre(all[4]));
}

TEST_F(CollectionTest, FiltersByMetadata) {
  std::vector<DocumentId> even;
  for (int64_t i = 0; i < 20; ++i) {
    const DocumentId id =
        Insert(Doc("number " + std::to_string(i), "k" + std::to_string(i),
                   {{"even", i % 2 == 0}, {"i", i}, {"long", std::string(i % 3 ? "no" : "yes")}}));
    if (i % 2 == 0) even.push_back(id);
  }
  ASSERT_OK_AND(const Filter where, Filter::Parse(R"({"even": true})"));
  ListOptions list;
  list.where = where;
  EXPECT_EQ(ListIds(list), even);
  list.limit = 4;
  ASSERT_OK_AND(const DocumentPage page, notes_->List(list));
  EXPECT_EQ(page.documents.size(), 4u);
  EXPECT_EQ(page.next, even[3]);

  SearchOptions search;
  search.where = where;
  search.top_k = 100;
  ASSERT_OK_AND(auto hits, notes_->Search("number 7", search));
  EXPECT_EQ(hits.size(), 10u);
  for (const SearchHit& hit : hits) EXPECT_TRUE(std::get<bool>(hit.metadata.at("even")));

  AskOptions ask;
  ASSERT_OK_AND(ask.where, Filter::Parse(R"({"i": {"$gte": 15}})"));
  ASSERT_OK_AND(const Answer answer, notes_->Ask("number 3", ask));
  ASSERT_EQ(answer.citations.size(), 1u);
  EXPECT_GE(answer.citations[0].id, even[7]);
  ASSERT_OK_AND(ask.where, Filter::Parse(R"({"i": 1000})"));
  ASSERT_OK_AND(const Answer none, notes_->Ask("number 3", ask));
  EXPECT_TRUE(none.citations.empty());

  ASSERT_OK_AND(uint64_t deleted, notes_->DeleteWhere(where));
  EXPECT_EQ(deleted, 10u);
  ASSERT_OK_AND(deleted, notes_->DeleteWhere(where));
  EXPECT_EQ(deleted, 0u);
  ASSERT_OK_AND(hits, notes_->Search("number 4", {.top_k = 100}));
  EXPECT_EQ(hits.size(), 10u);
  // The same without an index in memory.
  Open(TestOptions());
  ASSERT_OK_AND(const Filter odd, Filter::Parse(R"({"i": {"$lt": 10}})"));
  ASSERT_OK_AND(deleted, notes_->DeleteWhere(odd));
  EXPECT_EQ(deleted, 5u);
  ASSERT_OK_AND(const uint64_t count, notes_->Count());
  EXPECT_EQ(count, 5u);
}

TEST_F(CollectionTest, FiltersByProvenance) {
  const auto at = [](int64_t i) { return TimePoint(std::chrono::microseconds(1'000'000 * i)); };
  for (int64_t i = 0; i < 12; ++i) {
    // Every fourth in several parts: provenance is the document's, wherever the hit is.
    NewDocument document = Doc("number " + std::to_string(i) + " " + Words("x", i % 4 ? 2 : 80));
    document.written_by = i % 3 == 0 ? "" : i % 3 == 1 ? "agent" : "ada";
    document.source = i < 6 ? "chat" : "diary";
    document.created_at = at(i);
    Insert(document);
  }
  const auto where = [](const char* json) {
    auto filter = Filter::Parse(json);
    EXPECT_TRUE(filter.ok()) << filter.status().ToString();
    return filter.ok() ? *filter : Filter();
  };
  const auto listed = [&](const char* json) {
    ListOptions options;
    options.where = where(json);
    return ListIds(options).size();
  };
  // With the index in memory, and then without.
  for (int reopen = 0; reopen < 2; ++reopen) {
    EXPECT_EQ(listed(R"({"$written_by": "agent"})"), 4u);
    EXPECT_EQ(listed(R"({"$written_by": ""})"), 4u);
    EXPECT_EQ(listed(R"({"$written_by": "agent", "$source": "diary"})"), 2u);
    EXPECT_EQ(listed(R"({"$created_at": {"$lt": "1970-01-01T00:00:03Z"}})"), 3u);
    Open(TestOptions());
  }
  SearchOptions search;
  search.top_k = 100;
  search.where = where(R"({"$written_by": "agent"})");
  for (int reopen = 0; reopen < 2; ++reopen) {
    ASSERT_OK_AND(const auto hits, notes_->Search("number 4", search));
    ASSERT_EQ(hits.size(), 4u);
    for (const SearchHit& hit : hits) {
      ASSERT_OK_AND(const Document document, notes_->Get(hit.id));
      EXPECT_EQ(hit.written_by, "agent");
      EXPECT_EQ(hit.source, document.source);
      EXPECT_EQ(hit.created_at, document.created_at);
      EXPECT_TRUE(hit.metadata.empty());
    }
    if (reopen == 0) Insert(Doc("one more, whose writer is not known"));  // into the loaded index
  }
  AskOptions ask;
  ask.where = where(R"({"$written_by": "ada", "$created_at": {"$gte": "1970-01-01T00:00:09Z"}})");
  ASSERT_OK_AND(const Answer answer, notes_->Ask("number 4", ask));
  ASSERT_EQ(answer.citations.size(), 1u);
  EXPECT_EQ(answer.citations[0].written_by, "ada");
  EXPECT_EQ(answer.citations[0].source, "diary");
  EXPECT_EQ(answer.citations[0].created_at, at(11));

  // All of one writer, with the index in memory and without.
  ASSERT_OK_AND(uint64_t deleted, notes_->DeleteWhere(where(R"({"$written_by": "agent"})")));
  EXPECT_EQ(deleted, 4u);
  Open(TestOptions());
  ASSERT_OK_AND(deleted, notes_->DeleteWhere(where(R"({"$written_by": "ada"})")));
  EXPECT_EQ(deleted, 4u);
  ASSERT_OK_AND(const uint64_t count, notes_->Count());
  EXPECT_EQ(count, 5u);
  EXPECT_EQ(listed(R"({"$written_by": {"$ne": ""}})"), 0u);
}

TEST_F(CollectionTest, AWriterIsAShortName) {
  NewDocument document = Doc("text");
  document.written_by = std::string(256, 'w');
  ASSERT_OK(notes_->Insert(document));
  for (const std::string& bad : {std::string(257, 'w'), std::string("a\nb"), std::string("\xff")}) {
    document.written_by = bad;
    EXPECT_CODE(notes_->Insert(document), StatusCode::kInvalidArgument);
  }
}

TEST_F(CollectionTest, ExpiredDocumentsAreInvisibleAtOnceAndThenDeleted) {
  NewDocument brief = Doc("brief secret", "brief");
  brief.expires_at =
      std::chrono::time_point_cast<std::chrono::microseconds>(std::chrono::system_clock::now()) +
      std::chrono::milliseconds(300);
  const DocumentId id = Insert(brief);
  const DocumentId other = Insert(Doc("lasting word"));
  ASSERT_OK(notes_->Search("load the index"));
  ASSERT_OK_AND(const auto snapshot, notes_->TakeSnapshot());
  std::this_thread::sleep_until(*brief.expires_at);
  EXPECT_CODE(notes_->Get(id), StatusCode::kNotFound);
  EXPECT_CODE(notes_->GetByKey("brief"), StatusCode::kNotFound);
  EXPECT_CODE(notes_->Delete(id), StatusCode::kNotFound);
  EXPECT_CODE(snapshot->Get(id), StatusCode::kNotFound);
  EXPECT_THAT(ListIds(), ::testing::ElementsAre(other));
  ASSERT_OK_AND(uint64_t count, notes_->Count());
  EXPECT_EQ(count, 1u);
  ASSERT_OK_AND(const auto hits, notes_->Search("brief secret"));
  ASSERT_EQ(hits.size(), 1u);
  EXPECT_EQ(hits[0].id, other);
  ASSERT_OK_AND(const Answer answer, notes_->Ask("brief secret"));
  EXPECT_EQ(answer.citations[0].id, other);
  // It is still on disk, for nothing runs in the background here.
  ASSERT_OK_AND(CollectionStats stats, notes_->Stats());
  EXPECT_EQ(stats.documents, 2u);
  // Its key is free.
  ASSERT_OK_AND(const DocumentId again, notes_->Insert(Doc("new brief", "brief")));
  ASSERT_OK_AND(const Document document, notes_->GetByKey("brief"));
  EXPECT_EQ(document.id, again);
  ASSERT_OK_AND(stats, notes_->Stats());
  EXPECT_EQ(stats.documents, 2u);
}

TEST_F(CollectionTest, ABackgroundThreadDeletesWhatExpired) {
  Options options = TestOptions();
  options.expiry_interval = std::chrono::milliseconds(5);
  Open(options);
  for (int i = 0; i < 30; ++i) {
    NewDocument brief = Doc("brief " + std::to_string(i) + Words(" x", 70));
    brief.expires_at =
        std::chrono::time_point_cast<std::chrono::microseconds>(std::chrono::system_clock::now()) +
        std::chrono::milliseconds(200);
    Insert(brief);
  }
  Insert(Doc("lasting"));
  // Ends when the thread did its work; the test's own time limit is the only clock.
  for (uint64_t documents = 31; documents != 1;) {
    ASSERT_OK_AND(const CollectionStats stats, notes_->Stats());
    documents = stats.documents;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  ASSERT_OK_AND(const auto hits, notes_->Search("brief"));
  EXPECT_EQ(hits.size(), 1u);
}

TEST_F(CollectionTest, SnapshotsDoNotChange) {
  const DocumentId one = Insert(Doc("apple one", "k"));
  ASSERT_OK_AND(auto snapshot, notes_->TakeSnapshot());
  ASSERT_OK(notes_->Upsert(Doc("apple two", "k")));
  Insert(Doc("apple three"));
  ASSERT_OK_AND(const Document document, snapshot->GetByKey("k"));
  EXPECT_EQ(document.text, "apple one");
  ASSERT_OK_AND(const auto hits, snapshot->Search("apple"));
  ASSERT_EQ(hits.size(), 1u);
  EXPECT_EQ(hits[0].id, one);
  ASSERT_OK_AND(const Answer answer, snapshot->Ask("apple two"));
  EXPECT_EQ(answer.citations[0].text, "apple one");
  ASSERT_OK_AND(const DocumentPage page, snapshot->List());
  EXPECT_EQ(page.documents.size(), 1u);
  ASSERT_OK_AND(const uint64_t count, snapshot->Count());
  EXPECT_EQ(count, 1u);
  ASSERT_OK_AND(const auto now, notes_->Search("apple"));
  EXPECT_EQ(now.size(), 2u);
  // Also one whose index was never in memory when it was taken.
  snapshot.reset();
  Open(TestOptions());
  ASSERT_OK_AND(const auto cold, notes_->TakeSnapshot());
  ASSERT_OK(notes_->DeleteByKey("k"));
  ASSERT_OK_AND(const auto old, cold->Search("apple two"));
  EXPECT_EQ(old.size(), 2u);
  ASSERT_OK_AND(const CollectionStats stats, notes_->Stats());
  EXPECT_FALSE(stats.index_loaded);
}

TEST_F(CollectionTest, ASnapshotsReaderBringsNoDeletedContentBack) {
  const DocumentId gone = Insert(Doc("apple one"));
  ASSERT_OK(notes_->Ask("apple one"));  // its content is in the cache
  ASSERT_OK_AND(auto snapshot, notes_->TakeSnapshot());
  ASSERT_OK(notes_->Delete(gone));
  ASSERT_OK_AND(const Answer answer, snapshot->Ask("apple one"));
  ASSERT_EQ(answer.citations.size(), 1u);
  EXPECT_EQ(answer.citations[0].id, gone);
  EXPECT_CODE(db_->Compact(), StatusCode::kFailedPrecondition);
  snapshot.reset();
  ASSERT_OK(db_->Compact());  // and no read ahead of a question is under way any more
  ASSERT_OK_AND(const DatabaseStats stats, db_->Stats());
  EXPECT_EQ(stats.block_cache_bytes, 0u);
}

TEST_F(CollectionTest, RefusesBadInputAndChangesNothing) {
  const uint64_t encoded = FakeDocumentsEncoded();
  Options small = TestOptions();
  small.limits.text_bytes_max = 1000;
  small.limits.key_bytes_max = 10;
  small.limits.source_bytes_max = 10;
  small.limits.metadata_entries_max = 2;
  small.limits.metadata_bytes_max = 100;
  small.limits.question_bytes_max = 50;
  Open(small);
  std::vector<NewDocument> bad = {
      Doc(""),
      Doc(" \n\t"),
      Doc("bad \xFF utf8"),
      Doc(std::string(1001, 'a')),
      Doc("text", ""),
      Doc("text", "01234567890"),
      Doc("text", "\xC3"),
      Doc("text", "k", {{"", true}}),
      Doc("text", "k", {{"$and", true}}),
      Doc("text", "k", {{"a\nb", true}}),
      Doc("text", "k", {{"a", std::string("\xFF")}}),
      Doc("text", "k", {{"a", std::nan("")}}),
      Doc("text", "k", {{"a", std::vector<std::string>{"\x80"}}}),
      Doc("text", "k", {{"a", true}, {"b", true}, {"c", true}}),
      Doc("text", "k", {{"a", std::string(101, 'x')}}),
  };
  bad.push_back(Doc("text"));
  bad.back().source = std::string(11, 's');
  bad.push_back(Doc("text"));
  bad.back().expires_at = TimePoint(std::chrono::microseconds(1));
  for (size_t i = 0; i < bad.size(); ++i) {
    SCOPED_TRACE(i);
    EXPECT_CODE(notes_->Insert(bad[i]), StatusCode::kInvalidArgument);
    EXPECT_CODE(notes_->InsertMany({&bad[i], 1}), StatusCode::kInvalidArgument);
    ASSERT_OK_AND(auto transaction, notes_->Begin());
    EXPECT_CODE(transaction->Insert(bad[i]), StatusCode::kInvalidArgument);
    EXPECT_OK(transaction->Commit());
  }
  EXPECT_CODE(notes_->Search(""), StatusCode::kInvalidArgument);
  EXPECT_CODE(notes_->Search("\xFF"), StatusCode::kInvalidArgument);
  EXPECT_CODE(notes_->Search(std::string(51, 'q')), StatusCode::kInvalidArgument);
  EXPECT_CODE(notes_->Ask("  "), StatusCode::kInvalidArgument);
  EXPECT_CODE(notes_->Search("q", {.top_k = 0}), StatusCode::kInvalidArgument);
  EXPECT_CODE(notes_->Search("q", {.top_k = 1001}), StatusCode::kInvalidArgument);
  EXPECT_CODE(notes_->List({.limit = 0}), StatusCode::kInvalidArgument);
  EXPECT_CODE(notes_->List({.limit = 10'001}), StatusCode::kInvalidArgument);
  for (const auto& change : std::vector<std::function<void(AskOptions&)>>{
           [](AskOptions& o) { o.rounds_max = 0; }, [](AskOptions& o) { o.answer_tokens_max = 0; },
           [](AskOptions& o) { o.retrieved_text_tokens_max = -1; },
           [](AskOptions& o) { o.temperature = -1; },
           [](AskOptions& o) { o.temperature = std::nanf(""); }, [](AskOptions& o) { o.top_p = 0; },
           [](AskOptions& o) { o.top_p = 1.5f; }}) {
    AskOptions options;
    change(options);
    EXPECT_CODE(notes_->Ask("q", options), StatusCode::kInvalidArgument);
  }
  EXPECT_CODE(notes_->Get(0), StatusCode::kInvalidArgument);
  EXPECT_CODE(notes_->Get(77), StatusCode::kNotFound);
  EXPECT_CODE(notes_->GetByKey("none"), StatusCode::kNotFound);
  EXPECT_CODE(notes_->GetByKey(""), StatusCode::kInvalidArgument);
  EXPECT_EQ(FakeDocumentsEncoded(), encoded);
  ASSERT_OK_AND(const uint64_t count, notes_->Count());
  EXPECT_EQ(count, 0u);
  EXPECT_EQ(Insert(Doc(std::string(1000, 'a'))), 1u);  // exactly the limit
}

TEST_F(CollectionTest, RefusesMoreEncodedBytesThanATransactionMayHold) {
  Options small = TestOptions();
  small.limits.transaction_bytes_max = 20'000;
  Open(small);
  const uint64_t encoded = FakeDocumentsEncoded();
  EXPECT_CODE(notes_->Insert(Doc(Words("w", 1000))), StatusCode::kResourceExhausted);
  EXPECT_EQ(FakeDocumentsEncoded(), encoded);
  ASSERT_OK_AND(auto transaction, notes_->Begin());
  Status status;
  for (int i = 0; i < 1000 && status.ok(); ++i) {
    status = transaction->Insert(Doc("text " + std::to_string(i))).status();
  }
  EXPECT_EQ(status.code(), StatusCode::kResourceExhausted) << status.ToString();
  EXPECT_OK(transaction->Commit());
}

TEST_F(CollectionTest, InsertManyIsBatchedAndCanBeResumed) {
  std::vector<NewDocument> documents;
  for (int i = 0; i < 100; ++i) {
    documents.push_back(Doc("document " + std::to_string(i), "key" + std::to_string(i)));
  }
  documents.push_back(Doc("document 5 again", "key5"));  // in the same load
  std::vector<size_t> progress;
  InsertManyOptions stop;
  stop.on_progress = [&](const InsertProgress& p) {
    EXPECT_EQ(p.total, 101u);
    progress.push_back(p.done);
    return p.done < 40;
  };
  auto stopped = notes_->InsertMany(documents, stop);
  EXPECT_CODE(stopped, StatusCode::kCancelled);
  ASSERT_GE(progress.size(), 2u);
  ASSERT_OK_AND(uint64_t count, notes_->Count());
  EXPECT_EQ(count, progress.back());
  EXPECT_LT(count, 100u);
  EXPECT_THAT(std::string(stopped.status().message()),
              HasSubstr(std::to_string(count) + " of 101"));

  const uint64_t encoded = FakeDocumentsEncoded();
  ASSERT_OK_AND(const size_t inserted, notes_->InsertMany(documents));
  EXPECT_EQ(inserted, 100 - count);
  EXPECT_EQ(FakeDocumentsEncoded() - encoded, inserted);
  ASSERT_OK_AND(count, notes_->Count());
  EXPECT_EQ(count, 100u);
  ASSERT_OK_AND(Document document, notes_->GetByKey("key5"));
  EXPECT_EQ(document.text, "document 5");

  InsertManyOptions replace;
  replace.replace_existing = true;
  ASSERT_OK_AND(const size_t replaced, notes_->InsertMany(documents, replace));
  EXPECT_EQ(replaced, 101u);
  ASSERT_OK_AND(document, notes_->GetByKey("key5"));
  EXPECT_EQ(document.text, "document 5 again");
  ASSERT_OK_AND(count, notes_->Count());
  EXPECT_EQ(count, 100u);

  documents[50].text = "";
  auto bad = notes_->InsertMany(documents, replace);
  EXPECT_CODE(bad, StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(bad.status().message()), HasSubstr("document 50"));
  EXPECT_OK(notes_->InsertMany({}));
}

// The document before has the same key and is being written while this one is looked at.
TEST_F(CollectionTest, InsertManySeesKeysThatAreBeingWritten) {
  constexpr size_t kDocuments = 60, kKeys = 7;
  std::vector<NewDocument> documents;
  for (size_t i = 0; i < kDocuments; ++i) {
    documents.push_back(
        Doc("document " + std::to_string(i), "repeated" + std::to_string(i % kKeys)));
  }
  InsertManyOptions options;
  std::vector<size_t> done;
  options.on_progress = [&](const InsertProgress& p) {
    done.push_back(p.done);
    return true;
  };
  const uint64_t encoded = FakeDocumentsEncoded();
  ASSERT_OK_AND(const size_t inserted, notes_->InsertMany(documents, options));
  EXPECT_EQ(inserted, kKeys);
  EXPECT_EQ(FakeDocumentsEncoded() - encoded, kKeys);
  EXPECT_TRUE(std::is_sorted(done.begin(), done.end()));
  ASSERT_FALSE(done.empty());
  EXPECT_EQ(done.back(), kDocuments);

  options.replace_existing = true;
  ASSERT_OK_AND(const size_t replaced, notes_->InsertMany(documents, options));
  EXPECT_EQ(replaced, kDocuments);
  for (size_t key = 0; key < kKeys; ++key) {
    const size_t last = (kDocuments - 1 - key) / kKeys * kKeys + key;
    ASSERT_OK_AND(const Document document, notes_->GetByKey("repeated" + std::to_string(key)));
    EXPECT_EQ(document.text, "document " + std::to_string(last));
  }
}

TEST_F(CollectionTest, StatisticsCountWhatIsThere) {
  Insert(Doc("one two three"));
  Insert(Doc(Words("w", 100)));
  ASSERT_OK_AND(CollectionStats stats, notes_->Stats());
  EXPECT_EQ(stats.name, "notes");
  EXPECT_EQ(stats.documents, 2u);
  EXPECT_EQ(stats.parts, 3u);
  EXPECT_EQ(stats.tokens, 4u + 102u);
  EXPECT_EQ(stats.text_bytes, 13u + Words("w", 100).size());
  EXPECT_EQ(stats.routing_bytes, stats.chunks * 2 * 32 * 2);
  EXPECT_EQ(stats.content_bytes, stats.chunks * 2 * 2 * 32 * 2);
  EXPECT_FALSE(stats.index_loaded);
  ASSERT_OK(notes_->Ask("three"));
  ASSERT_OK_AND(stats, notes_->Stats());
  EXPECT_TRUE(stats.index_loaded);
  EXPECT_GT(stats.index_bytes, stats.chunks * 2 * 32 * 4);
  ASSERT_OK_AND(const DatabaseStats all, db_->Stats());
  EXPECT_EQ(all.collections.size(), 1u);
  EXPECT_GT(all.disk_bytes, 0u);
  EXPECT_GT(all.block_cache_misses, 0u);
  EXPECT_GT(all.block_cache_bytes, 0u);
  EXPECT_EQ(all.index_bytes, stats.index_bytes);
  EXPECT_EQ(all.model_fingerprint, std::string(64, 'f'));
}

}  // namespace
}  // namespace msadb::db
