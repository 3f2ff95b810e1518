// What every implementation of msadb::Database must do, run against each of them.
#include <algorithm>
#include <atomic>
#include <span>
#include <sstream>
#include <thread>

#include "tests/api/backend.h"

namespace msadb::api {
namespace {

using db::Doc;
using db::ToStatus;
using db::Words;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

struct Param {
  const char* name;
  BackendFactory make;
};

class Behaviour : public ::testing::TestWithParam<Param> {
 protected:
  void SetUp() override {
    backend_ = GetParam().make(folder_ / "db");
    Open(db::TestOptions());
  }

  void Open(const Options& options) {
    notes_.reset();
    backend_->Open(options);
    ASSERT_NE(backend_->database(), nullptr);
    ASSERT_OK_AND(notes_, database().GetOrCreateCollection("notes"));
  }

  Database& database() { return *backend_->database(); }

  DocumentId Insert(const NewDocument& document) {
    auto id = notes_->Insert(document);
    EXPECT_TRUE(id.ok()) << id.status().ToString();
    return id.ok() ? *id : 0;
  }

  std::vector<DocumentId> Ids(CollectionReader& reader, const ListOptions& options = {}) {
    auto page = reader.List(options);
    EXPECT_TRUE(page.ok()) << page.status().ToString();
    std::vector<DocumentId> ids;
    if (page.ok()) {
      for (const Document& document : page->documents) ids.push_back(document.id);
    }
    return ids;
  }

  static Filter Where(const char* json) {
    auto filter = Filter::Parse(json);
    EXPECT_TRUE(filter.ok()) << filter.status().ToString();
    return filter.ok() ? *filter : Filter();
  }

  db::TempFolder folder_;
  std::unique_ptr<Backend> backend_;
  std::shared_ptr<Collection> notes_;
};

TEST_P(Behaviour, CollectionsComeAndGo) {
  EXPECT_EQ(notes_->name(), "notes");
  EXPECT_CODE(database().CreateCollection("notes"), StatusCode::kAlreadyExists);
  EXPECT_CODE(database().OpenCollection("others"), StatusCode::kNotFound);
  ASSERT_OK(database().CreateCollection("others"));
  ASSERT_OK(database().OpenCollection("others"));
  ASSERT_OK_AND(auto names, database().ListCollections());
  std::sort(names.begin(), names.end());
  EXPECT_THAT(names, ElementsAre("notes", "others"));
  for (const std::string& name : {std::string(), std::string("a/b"), std::string("a\nb"),
                                  std::string(129, 'x'), std::string("\xff"), std::string("."),
                                  std::string(".."), std::string("*")}) {
    EXPECT_CODE(database().CreateCollection(name), StatusCode::kInvalidArgument);
    EXPECT_CODE(database().OpenCollection(name), StatusCode::kInvalidArgument);
    EXPECT_CODE(database().GetOrCreateCollection(name), StatusCode::kInvalidArgument);
    EXPECT_CODE(database().DropCollection(name), StatusCode::kInvalidArgument);
  }
  ASSERT_OK_AND(auto others, database().OpenCollection("others"));
  ASSERT_OK(others->Insert(Doc("something")));
  ASSERT_OK(database().DropCollection("others"));
  EXPECT_CODE(database().DropCollection("others"), StatusCode::kNotFound);
  EXPECT_CODE(others->Count(), StatusCode::kNotFound);
  EXPECT_CODE(others->Insert(Doc("late")), StatusCode::kNotFound);
  EXPECT_CODE(others->Search("late"), StatusCode::kNotFound);
}

TEST_P(Behaviour, GivesBackEverythingThatWasInserted) {
  NewDocument in = Doc("The spare key is under the blue flowerpot.\n\xf0\x9f\x8c\xb1", "key 1");
  in.metadata = {{"s", std::string("text")},
                 {"empty", std::string()},
                 {"i", int64_t{INT64_MIN}},
                 {"d", 0.1},
                 {"whole", 1.0},
                 {"b", true},
                 {"l", std::vector<std::string>{"x", "", "y"}},
                 {"none", std::vector<std::string>{}}};
  in.source = "a test";
  in.expires_at = TimePoint(std::chrono::microseconds(4'102'444'800'000'001));
  in.created_at = TimePoint(std::chrono::microseconds(3));
  ASSERT_OK_AND(const DocumentId id, notes_->Upsert(in));
  for (int reopen = 0; reopen < 2; ++reopen) {
    for (const bool by_key : {false, true}) {
      ASSERT_OK_AND(const Document out, by_key ? notes_->GetByKey("key 1") : notes_->Get(id));
      EXPECT_EQ(out.id, id);
      EXPECT_EQ(out.text, in.text);
      EXPECT_EQ(out.key, in.key);
      EXPECT_EQ(out.metadata, in.metadata);
      EXPECT_EQ(out.source, in.source);
      EXPECT_EQ(out.expires_at, in.expires_at);
      EXPECT_EQ(out.created_at, *in.created_at);
      ASSERT_EQ(out.parts.size(), 1u);
      EXPECT_EQ(out.parts[0].number, id);
      EXPECT_EQ(out.parts[0].text_size, in.text.size());
      EXPECT_GT(out.parts[0].token_count, 0u);
      EXPECT_GT(out.parts[0].chunk_count, 0u);
    }
    Open(db::TestOptions());
  }
  // No key and an empty key are not the same.
  EXPECT_CODE(notes_->Insert(Doc("text", "")), StatusCode::kInvalidArgument);
  const DocumentId plain = Insert(Doc("text"));
  ASSERT_OK_AND(const Document out, notes_->Get(plain));
  EXPECT_FALSE(out.key);
  EXPECT_FALSE(out.expires_at);
  EXPECT_TRUE(out.metadata.empty());
}

TEST_P(Behaviour, BadInputHasItsCodeAndChangesNothing) {
  const auto refuses = [&](const NewDocument& document) {
    EXPECT_CODE(notes_->Insert(document), StatusCode::kInvalidArgument);
    EXPECT_CODE(notes_->InsertMany({&document, 1}), StatusCode::kInvalidArgument);
    ASSERT_OK_AND(auto transaction, notes_->Begin());
    EXPECT_CODE(transaction->Insert(document), StatusCode::kInvalidArgument);
  };
  refuses(Doc(""));
  refuses(Doc("  \n"));
  refuses(Doc("bad \xff utf-8"));
  refuses(Doc("text", "bad \xc3 key"));
  refuses(Doc("text", std::string(1025, 'k')));
  refuses(Doc("text", {}, {{"$where", std::string("x")}}));
  refuses(Doc("text", {}, {{"", std::string("x")}}));
  refuses(Doc("text", {}, {{"x", std::numeric_limits<double>::quiet_NaN()}}));
  refuses(Doc("text", {}, {{"x", std::string("\xff")}}));
  for (const int64_t time : {INT64_MIN, int64_t{-1}, int64_t{253'402'300'800'000'000}, INT64_MAX}) {
    NewDocument unwritable = Doc("text");
    unwritable.created_at = TimePoint(std::chrono::microseconds(time));
    refuses(unwritable);
    unwritable = Doc("text");
    unwritable.expires_at = TimePoint(std::chrono::microseconds(time));
    refuses(unwritable);
  }
  NewDocument expired = Doc("text");
  expired.expires_at = TimePoint(std::chrono::microseconds(1));
  refuses(expired);
  EXPECT_CODE(notes_->Upsert(Doc("no key")), StatusCode::kInvalidArgument);
  EXPECT_CODE(notes_->Get(1), StatusCode::kNotFound);
  EXPECT_CODE(notes_->Get(0), StatusCode::kInvalidArgument);
  EXPECT_CODE(notes_->GetByKey("none"), StatusCode::kNotFound);
  EXPECT_CODE(notes_->GetByKey(""), StatusCode::kInvalidArgument);
  EXPECT_CODE(notes_->Delete(7), StatusCode::kNotFound);
  EXPECT_CODE(notes_->DeleteByKey("none"), StatusCode::kNotFound);
  for (const size_t limit : {size_t{0}, size_t{10'001}, SIZE_MAX}) {
    EXPECT_CODE(notes_->List({.limit = limit}), StatusCode::kInvalidArgument);
  }
  for (const size_t top_k : {size_t{0}, size_t{1001}, SIZE_MAX}) {
    EXPECT_CODE(notes_->Search("x", {.top_k = top_k}), StatusCode::kInvalidArgument);
  }
  EXPECT_CODE(notes_->Search(""), StatusCode::kInvalidArgument);
  EXPECT_CODE(notes_->Search("\xff"), StatusCode::kInvalidArgument);
  EXPECT_CODE(notes_->Ask(""), StatusCode::kInvalidArgument);
  EXPECT_CODE(notes_->Ask("x", {.rounds_max = -1}), StatusCode::kInvalidArgument);
  EXPECT_CODE(notes_->Ask("x", {.answer_tokens_max = -1}), StatusCode::kInvalidArgument);
  EXPECT_CODE(notes_->Ask("x", {.temperature = -1.0f}), StatusCode::kInvalidArgument);
  EXPECT_CODE(notes_->Ask("x", {.top_p = 2.0f}), StatusCode::kInvalidArgument);
  ASSERT_OK_AND(const uint64_t count, notes_->Count());
  EXPECT_EQ(count, 0u);
}

TEST_P(Behaviour, LimitsAreThoseOfTheDatabase) {
  Options options = db::TestOptions();
  options.limits.text_bytes_max = 100;
  options.limits.question_bytes_max = 50;
  Open(options);
  ASSERT_OK(notes_->Insert(Doc(std::string(100, 'a'))));
  EXPECT_CODE(notes_->Insert(Doc(std::string(101, 'a'))), StatusCode::kInvalidArgument);
  const std::vector<NewDocument> many = {Doc("good"), Doc(std::string(101, 'a'))};
  const auto refused = notes_->InsertMany(many);
  EXPECT_CODE(refused, StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(refused.status().message()), HasSubstr("document 1"));
  EXPECT_CODE(notes_->Search(std::string(51, 'a')), StatusCode::kInvalidArgument);
  ASSERT_OK_AND(const uint64_t count, notes_->Count());
  EXPECT_EQ(count, 1u);
  // Far more than any message: refused as well, not lost on the way.
  EXPECT_CODE(notes_->Insert(Doc(std::string(40u << 20, 'a'))), StatusCode::kInvalidArgument);
  ASSERT_OK(notes_->Count());
}

TEST_P(Behaviour, UpsertReplacesAndDeleteRemoves) {
  ASSERT_OK_AND(const DocumentId first, notes_->Upsert(Doc("version one", "k")));
  EXPECT_CODE(notes_->Insert(Doc("version two", "k")), StatusCode::kAlreadyExists);
  ASSERT_OK_AND(const DocumentId second, notes_->Upsert(Doc("version two", "k")));
  EXPECT_GT(second, first);
  EXPECT_CODE(notes_->Get(first), StatusCode::kNotFound);
  ASSERT_OK_AND(const Document document, notes_->GetByKey("k"));
  EXPECT_EQ(document.text, "version two");
  const DocumentId third = Insert(Doc("another"));
  ASSERT_OK(notes_->DeleteByKey("k"));
  EXPECT_CODE(notes_->GetByKey("k"), StatusCode::kNotFound);
  EXPECT_THAT(Ids(*notes_), ElementsAre(third));
  ASSERT_OK(notes_->Delete(third));
  EXPECT_CODE(notes_->Delete(third), StatusCode::kNotFound);
  EXPECT_TRUE(Ids(*notes_).empty());
}

TEST_P(Behaviour, ListsInPages) {
  std::vector<DocumentId> all;
  std::vector<NewDocument> documents;
  for (int i = 0; i < 60; ++i) {
    documents.push_back(Doc(Words("p" + std::to_string(i) + "x", i % 9 == 3 ? 150 : 3), {},
                            {{"third", i % 3 == 0}, {"n", int64_t{i}}}));
  }
  ASSERT_OK_AND(const size_t inserted, notes_->InsertMany(documents));
  EXPECT_EQ(inserted, 60u);
  all = Ids(*notes_, {.limit = 1000});
  ASSERT_EQ(all.size(), 60u);
  EXPECT_TRUE(std::is_sorted(all.begin(), all.end()));
  for (const size_t limit :
       {size_t{1}, size_t{7}, size_t{16}, size_t{17}, size_t{59}, size_t{60}, size_t{10'000}}) {
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
  options.where = Where(R"({"third": true})");
  options.include_text = false;
  options.limit = 25;
  ASSERT_OK_AND(const DocumentPage page, notes_->List(options));
  EXPECT_EQ(page.documents.size(), 20u);
  for (const Document& document : page.documents) {
    EXPECT_TRUE(document.text.empty());
    EXPECT_EQ(document.metadata.at("third"), MetadataValue(true));
  }
}

TEST_P(Behaviour, EveryWayToADocumentTellsItsProvenance) {
  const auto document = [](int i, const char* written_by, const char* source) {
    NewDocument out = Doc("red box number" + std::to_string(i), "k" + std::to_string(i));
    out.written_by = written_by;
    out.source = source;
    out.created_at = TimePoint(std::chrono::hours(i));
    return out;
  };
  const std::vector<NewDocument> in = {document(0, "ada", "chat"),  document(1, "", "chat"),
                                       document(2, "bob", "diary"), document(3, "ada", "diary"),
                                       document(4, "bob", "list"),  document(5, "ada", "list")};
  const auto same = [&](const auto& out, size_t i) {
    EXPECT_EQ(out.written_by, backend_->StoredWriter(in[i].written_by)) << i;
    EXPECT_EQ(out.source, in[i].source) << i;
    EXPECT_EQ(out.created_at, *in[i].created_at) << i;
  };
  ASSERT_OK_AND(auto transaction, notes_->Begin());
  ASSERT_OK_AND(const DocumentId first, transaction->Insert(in[0]));
  ASSERT_OK(transaction->Upsert(in[1]));
  ASSERT_OK_AND(const Document uncommitted, transaction->Get(first));
  same(uncommitted, 0);
  ASSERT_OK(transaction->Commit());
  transaction.reset();
  Insert(in[2]);
  ASSERT_OK(notes_->Upsert(in[3]));
  ASSERT_OK(notes_->InsertMany(std::span(in).subspan(4)));

  const std::vector<DocumentId> ids = Ids(*notes_);
  ASSERT_EQ(ids.size(), in.size());
  ASSERT_OK_AND(const auto snapshot, notes_->TakeSnapshot());
  ASSERT_OK_AND(const DocumentPage page, snapshot->List());
  ASSERT_OK_AND(const auto hits, notes_->Search("red box", {.top_k = 10}));
  ASSERT_EQ(hits.size(), in.size());
  for (size_t i = 0; i < in.size(); ++i) {
    ASSERT_OK_AND(const Document by_id, notes_->Get(ids[i]));
    same(by_id, i);
    ASSERT_OK_AND(const Document by_key, notes_->GetByKey(*in[i].key));
    same(by_key, i);
    same(page.documents[i], i);
    const auto hit =
        std::find_if(hits.begin(), hits.end(), [&](const SearchHit& h) { return h.id == ids[i]; });
    ASSERT_NE(hit, hits.end());
    same(*hit, i);
  }
  AskOptions ask;
  ask.where = Where(R"({"$created_at": {"$gte": "1970-01-01T03:00:00Z"}, "$source": "diary"})");
  ASSERT_OK_AND(const Answer answer, notes_->Ask("which red box", ask));
  ASSERT_EQ(answer.citations.size(), 1u);
  EXPECT_EQ(answer.citations[0].id, ids[3]);
  same(answer.citations[0], 3);

  ListOptions options;
  options.where = Where(R"({"$source": {"$in": ["chat", "list"]}})");
  EXPECT_THAT(Ids(*notes_, options), ElementsAre(ids[0], ids[1], ids[4], ids[5]));
  options.where = Where(("{\"$written_by\": \"" + backend_->StoredWriter("bob") + "\"}").c_str());
  std::vector<DocumentId> expected;
  for (size_t i = 0; i < in.size(); ++i) {
    if (backend_->StoredWriter(in[i].written_by) == backend_->StoredWriter("bob")) {
      expected.push_back(ids[i]);
    }
  }
  EXPECT_EQ(Ids(*notes_, options), expected);
  ASSERT_OK_AND(const uint64_t deleted, notes_->DeleteWhere(*options.where));
  EXPECT_EQ(deleted, expected.size());
  EXPECT_TRUE(Ids(*notes_, options).empty());
  EXPECT_EQ(Ids(*notes_).size(), in.size() - expected.size());
  EXPECT_EQ(Ids(*snapshot, options), expected);
}

TEST_P(Behaviour, LargeDocumentsTravel) {
  std::string text;
  while (text.size() < (3u << 20)) text += "word" + std::to_string(text.size() % 97) + ". ";
  NewDocument in = Doc(text, "large");
  for (int i = 0; i < 250; ++i) in.metadata["name" + std::to_string(i)] = std::string(100, 'v');
  const DocumentId id = Insert(in);
  ASSERT_OK_AND(const Document out, notes_->Get(id));
  EXPECT_EQ(out.text, text);
  EXPECT_EQ(out.metadata, in.metadata);
  EXPECT_GT(out.parts.size(), 1000u);
  ASSERT_OK_AND(const DocumentPage page, notes_->List());
  ASSERT_EQ(page.documents.size(), 1u);
  EXPECT_EQ(page.documents[0].text, text);
}

TEST_P(Behaviour, SearchesAndAsks) {
  const DocumentId pot = Insert(Doc("spare key under the flowerpot"));
  Insert(Doc("milk eggs bread"));
  const DocumentId train =
      Insert(Doc("train leaves at noon", "train", {{"kind", std::string("plan")}}));
  ASSERT_OK_AND(const auto hits, notes_->Search("when train leaves"));
  ASSERT_EQ(hits.size(), 3u);
  EXPECT_EQ(hits[0].id, train);
  EXPECT_EQ(hits[0].part, train);
  EXPECT_EQ(hits[0].text, "train leaves at noon");
  EXPECT_EQ(hits[0].key, "train");
  EXPECT_EQ(hits[0].metadata.at("kind"), MetadataValue(std::string("plan")));
  EXPECT_GE(hits[0].score, hits[1].score);
  ASSERT_OK_AND(const auto bare,
                notes_->Search("when train leaves", {.top_k = 1, .include_text = false}));
  ASSERT_EQ(bare.size(), 1u);
  EXPECT_TRUE(bare[0].text.empty());
  EXPECT_EQ(bare[0].score, hits[0].score);
  SearchOptions filtered;
  filtered.where = Where(R"({"kind": {"$ne": "plan"}})");
  ASSERT_OK_AND(const auto others, notes_->Search("when train leaves", filtered));
  EXPECT_EQ(others.size(), 2u);

  std::string streamed;
  const auto asking = std::this_thread::get_id();
  AskOptions options;
  options.trace = true;
  options.on_text = [&](std::string_view piece) {
    EXPECT_EQ(std::this_thread::get_id(), asking);
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
  EXPECT_GT(answer.generated_tokens, 0u);
  ASSERT_EQ(answer.trace.rounds.size(), 1u);
  ASSERT_EQ(answer.trace.rounds[0].layers.size(), 2u);
  EXPECT_EQ(answer.trace.rounds[0].layers[0].layer, 7);
  EXPECT_EQ(answer.trace.rounds[0].layers[0].documents[0].number, pot);
  EXPECT_EQ(answer.trace.rounds[0].generated.size(), 2u);

  AskOptions elsewhere;
  elsewhere.where = Where(R"({"kind": "plan"})");
  ASSERT_OK_AND(const Answer limited, notes_->Ask("where is the spare key", elsewhere));
  EXPECT_TRUE(limited.trace.rounds.empty());
  for (const Citation& citation : limited.citations) EXPECT_EQ(citation.id, train);
}

TEST_P(Behaviour, AnswersFromAnEmptyMemory) {
  ASSERT_OK_AND(const Answer answer, notes_->Ask("anything?"));
  EXPECT_EQ(answer.text, "I do not know.");
  EXPECT_TRUE(answer.citations.empty());
  ASSERT_OK_AND(const auto hits, notes_->Search("anything?"));
  EXPECT_TRUE(hits.empty());
}

TEST_P(Behaviour, AskStopsWhenAsked) {
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

TEST_P(Behaviour, InsertManyReportsAndSkips) {
  std::vector<NewDocument> documents;
  for (int i = 0; i < 40; ++i) documents.push_back(Doc(Words("w", 10), "k" + std::to_string(i)));
  InsertManyOptions options;
  std::vector<InsertProgress> reports;
  options.on_progress = [&](const InsertProgress& progress) {
    reports.push_back(progress);
    return true;
  };
  ASSERT_OK_AND(const size_t inserted, notes_->InsertMany(documents, options));
  EXPECT_EQ(inserted, 40u);
  ASSERT_GT(reports.size(), 1u);
  for (size_t i = 0; i < reports.size(); ++i) {
    EXPECT_EQ(reports[i].total, 40u);
    if (i > 0) {
      EXPECT_GT(reports[i].done, reports[i - 1].done);
      EXPECT_GT(reports[i].tokens, reports[i - 1].tokens);
    }
  }
  EXPECT_EQ(reports.back().done, 40u);
  ASSERT_OK_AND(const size_t again, notes_->InsertMany(documents));
  EXPECT_EQ(again, 0u);
  ASSERT_OK_AND(const size_t replaced, notes_->InsertMany(documents, {.replace_existing = true}));
  EXPECT_EQ(replaced, 40u);
  ASSERT_OK_AND(const uint64_t count, notes_->Count());
  EXPECT_EQ(count, 40u);
  ASSERT_OK_AND(const size_t none, notes_->InsertMany({}));
  EXPECT_EQ(none, 0u);

  ASSERT_OK_AND(auto others, database().CreateCollection("others"));
  options.on_progress = [](const InsertProgress&) { return false; };
  const auto stopped = others->InsertMany(documents, options);
  EXPECT_CODE(stopped, StatusCode::kCancelled);
  EXPECT_THAT(std::string(stopped.status().message()), HasSubstr("documents are committed"));
  ASSERT_OK_AND(const uint64_t committed, others->Count());
  EXPECT_GT(committed, 0u);
  EXPECT_THAT(std::string(stopped.status().message()),
              HasSubstr("(" + std::to_string(committed) + " of 40"));
}

TEST_P(Behaviour, InsertManySpansManyMessages) {
  std::vector<NewDocument> documents;
  for (int i = 0; i < 1200; ++i) {
    documents.push_back(Doc("document number " + std::to_string(i), {},
                            {{"n", int64_t{i}}, {"a", true}, {"b", true}}));
  }
  ASSERT_OK_AND(const size_t inserted, notes_->InsertMany(documents));
  EXPECT_EQ(inserted, documents.size());
  ListOptions options;
  options.limit = 10'000;
  ASSERT_OK_AND(const DocumentPage page, notes_->List(options));
  ASSERT_EQ(page.documents.size(), documents.size());
  for (size_t i = 0; i < documents.size(); ++i) {
    EXPECT_EQ(page.documents[i].text, documents[i].text);
  }
}

TEST_P(Behaviour, DeletesWhatAFilterMatches) {
  for (int i = 0; i < 10; ++i) Insert(Doc("text", {}, {{"n", int64_t{i}}}));
  ASSERT_OK_AND(const uint64_t deleted, notes_->DeleteWhere(Where(R"({"n": {"$gte": 4}})")));
  EXPECT_EQ(deleted, 6u);
  ASSERT_OK_AND(const uint64_t none, notes_->DeleteWhere(Where(R"({"n": {"$gte": 4}})")));
  EXPECT_EQ(none, 0u);
  ASSERT_OK_AND(const uint64_t rest, notes_->DeleteWhere(Filter()));
  EXPECT_EQ(rest, 4u);
}

TEST_P(Behaviour, ExpiredDocumentsAreGone) {
  NewDocument document = Doc("for a moment", "soon");
  const auto now =
      std::chrono::time_point_cast<std::chrono::microseconds>(std::chrono::system_clock::now());
  document.expires_at = now + std::chrono::milliseconds(400);
  const DocumentId id = Insert(document);
  while (notes_->Get(id).ok()) std::this_thread::sleep_for(std::chrono::milliseconds(5));
  EXPECT_GE(std::chrono::system_clock::now(), *document.expires_at);
  EXPECT_CODE(notes_->Get(id), StatusCode::kNotFound);
  EXPECT_CODE(notes_->GetByKey("soon"), StatusCode::kNotFound);
  EXPECT_TRUE(Ids(*notes_).empty());
  ASSERT_OK_AND(const auto hits, notes_->Search("for a moment"));
  EXPECT_TRUE(hits.empty());
  // The key is free again.
  EXPECT_OK(notes_->Insert(Doc("another", "soon")));
}

TEST_P(Behaviour, TransactionsAreWholeOrNothing) {
  const DocumentId old = Insert(Doc("old text", "k"));
  {
    ASSERT_OK_AND(auto transaction, notes_->Begin());
    ASSERT_OK_AND(const DocumentId added, transaction->Insert(Doc("added")));
    ASSERT_OK(transaction->Upsert(Doc("new text", "k")));
    EXPECT_CODE(transaction->Insert(Doc("again", "k")), StatusCode::kAlreadyExists);
    EXPECT_CODE(transaction->Delete(999), StatusCode::kNotFound);
    EXPECT_CODE(transaction->DeleteByKey("none"), StatusCode::kNotFound);
    ASSERT_OK_AND(const Document inside, transaction->GetByKey("k"));
    EXPECT_EQ(inside.text, "new text");
    ASSERT_OK(transaction->Get(added));
    EXPECT_CODE(notes_->Get(added), StatusCode::kNotFound);
    ASSERT_OK_AND(const Document outside, notes_->GetByKey("k"));
    EXPECT_EQ(outside.id, old);
    ASSERT_OK(transaction->Commit());
    ASSERT_OK(notes_->Get(added));
    ASSERT_OK_AND(const Document now, notes_->GetByKey("k"));
    EXPECT_EQ(now.text, "new text");
    EXPECT_CODE(transaction->Commit(), StatusCode::kFailedPrecondition);
    EXPECT_CODE(transaction->Insert(Doc("late")), StatusCode::kFailedPrecondition);
    EXPECT_CODE(transaction->Get(added), StatusCode::kFailedPrecondition);
    ASSERT_OK(notes_->Delete(added));
  }
  {
    ASSERT_OK_AND(auto transaction, notes_->Begin());
    ASSERT_OK(transaction->DeleteByKey("k"));
    EXPECT_CODE(transaction->GetByKey("k"), StatusCode::kNotFound);
    transaction->Rollback();
    EXPECT_CODE(transaction->DeleteByKey("k"), StatusCode::kFailedPrecondition);
    EXPECT_OK(notes_->GetByKey("k"));
  }
  {
    ASSERT_OK_AND(auto transaction, notes_->Begin());
    ASSERT_OK(transaction->DeleteByKey("k"));
  }
  EXPECT_OK(notes_->GetByKey("k"));
}

TEST_P(Behaviour, FirstCommitterWins) {
  Insert(Doc("text", "k"));
  ASSERT_OK_AND(auto one, notes_->Begin());
  ASSERT_OK_AND(auto two, notes_->Begin());
  ASSERT_OK(one->Upsert(Doc("one", "k")));
  ASSERT_OK(two->Upsert(Doc("two", "k")));
  ASSERT_OK(one->Commit());
  EXPECT_CODE(two->Commit(), StatusCode::kConflict);
  ASSERT_OK_AND(const Document document, notes_->GetByKey("k"));
  EXPECT_EQ(document.text, "one");
  EXPECT_CODE(two->Commit(), StatusCode::kFailedPrecondition);
}

TEST_P(Behaviour, SnapshotsDoNotMove) {
  const DocumentId first = Insert(Doc("first apple", "a"));
  const DocumentId second = Insert(Doc("second pear", "b"));
  ASSERT_OK_AND(auto snapshot, notes_->TakeSnapshot());
  EXPECT_EQ(snapshot->name(), "notes");
  ASSERT_OK(notes_->Delete(first));
  Insert(Doc("third plum"));
  EXPECT_THAT(Ids(*snapshot), ElementsAre(first, second));
  ASSERT_OK_AND(const uint64_t count, snapshot->Count());
  EXPECT_EQ(count, 2u);
  ASSERT_OK_AND(const Document document, snapshot->GetByKey("a"));
  EXPECT_EQ(document.id, first);
  ASSERT_OK_AND(const auto hits, snapshot->Search("first apple"));
  ASSERT_EQ(hits.size(), 2u);
  EXPECT_EQ(hits[0].id, first);
  ASSERT_OK_AND(const Answer answer, snapshot->Ask("first apple"));
  ASSERT_EQ(answer.citations.size(), 1u);
  EXPECT_EQ(answer.citations[0].id, first);
  EXPECT_CODE(database().Compact(), StatusCode::kFailedPrecondition);
  snapshot.reset();
  EXPECT_OK(database().Compact());
}

TEST_P(Behaviour, StatisticsAndVerify) {
  Insert(Doc("first apple"));
  Insert(Doc(Words("long", 200)));
  ASSERT_OK_AND(const CollectionStats stats, notes_->Stats());
  EXPECT_EQ(stats.name, "notes");
  EXPECT_EQ(stats.documents, 2u);
  EXPECT_GT(stats.parts, 2u);
  EXPECT_GT(stats.tokens, 200u);
  EXPECT_GT(stats.text_bytes, 0u);
  ASSERT_OK_AND(const DatabaseStats all, database().Stats());
  EXPECT_EQ(all.model_fingerprint, database().model()->fingerprint());
  ASSERT_EQ(all.collections.size(), 1u);
  EXPECT_EQ(all.collections[0].documents, 2u);
  EXPECT_EQ(all.collections[0].content_bytes, stats.content_bytes);
  EXPECT_GT(all.disk_bytes, 0u);
  ASSERT_OK_AND(const VerifyReport report, database().Verify());
  EXPECT_TRUE(report.ok());
  EXPECT_EQ(report.documents_checked, 2u);
  EXPECT_EQ(database().model()->document_tokens_max(), 64u);
  EXPECT_FALSE(database().model()->description().empty());
}

TEST_P(Behaviour, ReadOnlyRefusesChanges) {
  const DocumentId id = Insert(Doc("text"));
  Options options = db::TestOptions();
  options.read_only = true;
  Open(options);
  EXPECT_CODE(notes_->Insert(Doc("more")), StatusCode::kFailedPrecondition);
  EXPECT_CODE(notes_->Delete(id), StatusCode::kFailedPrecondition);
  EXPECT_CODE(notes_->Begin(), StatusCode::kFailedPrecondition);
  EXPECT_CODE(database().CreateCollection("other"), StatusCode::kFailedPrecondition);
  EXPECT_OK(notes_->Get(id));
}

TEST_P(Behaviour, ExportsAndImports) {
  for (int i = 0; i < 30; ++i) Insert(Doc("text " + std::to_string(i), "k" + std::to_string(i)));
  std::ostringstream out;
  ASSERT_OK_AND(const uint64_t exported, ExportJsonl(*notes_, out));
  EXPECT_EQ(exported, 30u);
  ASSERT_OK_AND(auto copy, database().CreateCollection("copy"));
  std::istringstream in(out.str());
  ASSERT_OK_AND(const ImportProgress imported, ImportJsonl(*copy, in));
  EXPECT_EQ(imported.inserted, 30u);
  ASSERT_OK_AND(const Document document, copy->GetByKey("k17"));
  EXPECT_EQ(document.text, "text 17");
}

TEST_P(Behaviour, ManyThreadsShareOneDatabase) {
  constexpr int kThreads = 8;
  constexpr int kEach = 20;
  std::atomic<int> failures{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < kEach; ++i) {
        const std::string key = std::to_string(t) + "-" + std::to_string(i);
        const auto id = notes_->Insert(Doc("thread " + key, key));
        if (!id.ok() || !notes_->Get(*id).ok() || !notes_->GetByKey(key).ok()) ++failures;
        const auto hits = notes_->Search("thread " + key, {.top_k = 1});
        if (!hits.ok() || hits->size() != 1) ++failures;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(failures.load(), 0);
  ASSERT_OK_AND(const uint64_t count, notes_->Count());
  EXPECT_EQ(count, static_cast<uint64_t>(kThreads * kEach));
}

INSTANTIATE_TEST_SUITE_P(Backends, Behaviour,
                         ::testing::Values(Param{"Embedded", MakeEmbedded},
                                           Param{"Client", MakeRemote}),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace msadb::api
