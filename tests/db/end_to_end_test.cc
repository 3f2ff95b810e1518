// The whole database with the real model code: the tiny random models of tests/data/msa, against
// what the PyTorch reference computed for the same documents (tests/data/msa/README.md).
//
// Stored memory is 16-bit, the reference float32, so scores differ in the fourth digit. The
// goldens' margins between the last selected and the first unselected document are larger than
// that.
#include <fstream>
#include <nlohmann/json.hpp>

#include "tests/db/db_test_util.h"

namespace msadb::db {
namespace {

using Json = nlohmann::json;

Json ReadJson(const std::string& path) {
  std::ifstream in(path);
  return Json::parse(in);
}

class EndToEndTest : public ::testing::TestWithParam<std::string> {
 protected:
  std::string ModelFolder() const { return std::string(MSADB_TEST_DATA) + "/msa/" + GetParam(); }

  Options ModelOptions() const {
    Options options = TestOptions();
    options.model = nullptr;
    options.model_path = ModelFolder();
    options.encode_batch_tokens = 512;
    options.threads = 1;
    options.durability = Durability::kBuffered;
    return options;
  }

  // Documents get the numbers of the golden file: the gaps were documents once.
  static void InsertNumbered(Collection& notes, const Json& documents) {
    DocumentId next = 1;
    for (const Json& document : documents) {
      const DocumentId number = document["number"];
      const std::vector<NewDocument> fillers(number - next, Doc("filler"));
      ASSERT_OK(notes.InsertMany(fillers));
      for (; next < number; ++next) ASSERT_OK(notes.Delete(next));
      ASSERT_OK_AND(const DocumentId id, notes.Insert(Doc(document["text"].get<std::string>())));
      ASSERT_EQ(id, number);
      ++next;
    }
  }

  static void ExpectSelected(const AnswerTrace& trace, const Json& selected) {
    ASSERT_FALSE(trace.rounds.empty());
    ASSERT_EQ(trace.rounds[0].layers.size(), selected.size());
    for (const AnswerTrace::Layer& layer : trace.rounds[0].layers) {
      std::vector<DocumentId> chosen;
      for (const auto& document : layer.documents) chosen.push_back(document.number);
      const auto expected = selected[std::to_string(layer.layer)].get<std::vector<DocumentId>>();
      EXPECT_THAT(chosen, ::testing::UnorderedElementsAreArray(expected))
          << "layer " << layer.layer;
    }
  }
};

TEST_P(EndToEndTest, AttendsToTheDocumentsThatTheReferenceChose) {
  const Json golden = ReadJson(ModelFolder() + "/golden.json");
  TempFolder folder;
  ASSERT_OK_AND(auto db, Database::Open(folder / "db", ModelOptions()));
  for (const Json& scenario : golden["scenarios"]) {
    const std::string name = scenario["name"];
    SCOPED_TRACE(name);
    ASSERT_OK_AND(const auto notes, db->CreateCollection(name));
    if (name == "many") {
      std::vector<NewDocument> documents;
      for (const Json& document : scenario["documents"]) {
        documents.push_back(Doc(document["text"].get<std::string>()));
      }
      ASSERT_OK(notes->InsertMany(documents));
    } else {
      InsertNumbered(*notes, scenario["documents"]);
    }
    AskOptions options;
    options.trace = true;
    options.answer_tokens_max = 8;
    std::string streamed;
    options.on_text = [&](std::string_view piece) {
      streamed += piece;
      return true;
    };
    const std::string question = scenario["question"];
    ASSERT_OK_AND(const Answer answer, notes->Ask(question, options));
    // With quantised weights the kernels round activations too (kernels/matmul.h), which the
    // margins do not allow for.
    if (GetParam().find("int") == std::string::npos) {
      ExpectSelected(answer.trace, scenario["selected"]);
    }
    EXPECT_EQ(streamed, answer.text);
    ASSERT_OK_AND(const auto hits, notes->Search(question, {.top_k = 3}));
    EXPECT_EQ(hits.size(), std::min<size_t>(3, scenario["documents"].size()));
    for (const SearchHit& hit : hits) {
      ASSERT_OK_AND(const Document document, notes->Get(hit.id));
      EXPECT_EQ(hit.text, document.text);
    }
  }
  // After a restart, finding the model by itself, everything is bit for bit the same.
  for (const Json& scenario : golden["scenarios"]) {
    const std::string question = scenario["question"];
    ASSERT_OK_AND(auto notes, db->OpenCollection(scenario["name"].get<std::string>()));
    ASSERT_OK_AND(const auto hits, notes->Search(question, {.top_k = 5}));
    ASSERT_OK_AND(const Answer answer, notes->Ask(question, {.answer_tokens_max = 8}));
    notes.reset();
    db.reset();
    Options again = ModelOptions();
    again.model_path.clear();
    ASSERT_OK_AND(db, Database::Open(folder / "db", again));
    ASSERT_OK_AND(notes, db->OpenCollection(scenario["name"].get<std::string>()));
    ASSERT_OK_AND(const auto same_hits, notes->Search(question, {.top_k = 5}));
    ASSERT_EQ(same_hits.size(), hits.size());
    for (size_t i = 0; i < hits.size(); ++i) {
      EXPECT_EQ(same_hits[i].id, hits[i].id);
      EXPECT_EQ(same_hits[i].score, hits[i].score);
    }
    ASSERT_OK_AND(const Answer same, notes->Ask(question, {.answer_tokens_max = 8}));
    EXPECT_EQ(same.text, answer.text);
  }
  ASSERT_OK_AND(const VerifyReport report, db->Verify());
  EXPECT_TRUE(report.ok()) << report.problems[0];
}

INSTANTIATE_TEST_SUITE_P(Models, EndToEndTest,
                         ::testing::Values("qwen3-decoupled-cosine", "qwen3-own-cosine",
                                           "qwen3-decoupled-dot", "llama-decoupled-cosine",
                                           "llama-own-dot", "llama-int8", "qwen3-int4"),
                         [](const auto& info) {
                           std::string name = info.param;
                           for (char& c : name) c = c == '-' ? '_' : c;
                           return name;
                         });

TEST(EndToEnd, LongTextIsDividedForTheRealTokenizer) {
  Options options = TestOptions();
  options.model = nullptr;
  options.threads = 1;
  options.model_path = std::string(MSADB_TEST_DATA) + "/msa/qwen3-decoupled-cosine";
  TempFolder folder;
  ASSERT_OK_AND(const auto db, Database::Open(folder / "db", options));
  ASSERT_OK_AND(const auto notes, db->CreateCollection("notes"));
  const size_t tokens_max = db->model()->document_tokens_max();
  std::string text;
  for (int i = 0; text.size() < tokens_max * 3; ++i) {
    text += "Sentence number " + std::to_string(i) + " tells a little more. ";
  }
  ASSERT_OK_AND(const DocumentId id, notes->Insert(Doc(text)));
  ASSERT_OK_AND(const Document document, notes->Get(id));
  EXPECT_EQ(document.text, text);
  EXPECT_GE(document.parts.size(), 2u);
  for (const DocumentPart& part : document.parts) EXPECT_LE(part.token_count, tokens_max);
  ASSERT_OK_AND(const auto hits, notes->Search("Sentence number 3"));
  ASSERT_EQ(hits.size(), 1u);
  EXPECT_EQ(hits[0].id, id);
}

TEST(EndToEnd, OneModelServesSeveralDatabases) {
  TempFolder folder;
  ASSERT_OK_AND(const auto model,
                LoadedModel::Load(std::string(MSADB_TEST_DATA) + "/msa/llama-int8", 1));
  EXPECT_EQ(model->fingerprint().size(), 64u);
  EXPECT_FALSE(model->description().empty());
  Options options = TestOptions();
  options.model = model;
  for (const char* name : {"a", "b"}) {
    ASSERT_OK_AND(const auto db, Database::Open(folder / name, options));
    EXPECT_EQ(db->model(), model);
    ASSERT_OK_AND(const auto notes, db->CreateCollection("notes"));
    EXPECT_OK(notes->Insert(Doc("text")));
  }
  options.model_path = std::string(MSADB_TEST_DATA) + "/msa/qwen3-int4";
  options.model = nullptr;
  EXPECT_CODE(Database::Open(folder / "a", options), StatusCode::kFailedPrecondition);
}

}  // namespace
}  // namespace msadb::db
