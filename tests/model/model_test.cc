// The facade: loading and its errors, documents and their errors, fingerprints, taking turns.
#include "model/model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <latch>
#include <thread>

#include "tests/model/markov_model.h"
#include "tests/model/vector_bank.h"

namespace msadb::model {
namespace {

const std::vector<std::pair<std::string, std::string>> kFollows = {
    {"<|im_start|>", "<End-of-Retrieve>"}, {"<answer>", "yes"}, {"yes", "<|im_end|>"}};

class ModelTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::temp_directory_path() /
              ("msadb_model_" + std::to_string(std::random_device{}()));
    markov_.follows = kFollows;
    markov_.templates = {{"restart", "<|im_start|>{question}<answer>"}};
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  std::unique_ptr<Model> Load(const ModelOptions& options = {.threads = 1}) {
    markov_.Write(folder_);
    auto model = Model::Load(folder_, options);
    EXPECT_TRUE(model.ok()) << model.status().ToString();
    return model.ok() ? std::move(*model) : nullptr;
  }
  Status LoadError(const ModelOptions& options = {.threads = 1}) {
    markov_.Write(folder_);
    return Model::Load(folder_, options).status();
  }

  std::filesystem::path folder_;
  MarkovModel markov_;
};

TEST_F(ModelTest, SaysWhatMemoryMustKnow) {
  const auto model = Load();
  EXPECT_EQ(model->kv_dim(), 32u);
  EXPECT_EQ(model->routing_layer_count(), 2u);
  EXPECT_EQ(model->chunk_tokens(), 8u);
  EXPECT_EQ(model->top_k(), 2u);
  EXPECT_EQ(model->routing_metric(), "cosine");
  EXPECT_EQ(model->document_tokens_max(), 2048u);
  EXPECT_EQ(model->fingerprint().size(), 64u);
  EXPECT_NE(model->description().find("3 layers"), std::string::npos);
}

TEST_F(ModelTest, TheLimitOnDocumentsComesFromOptionsFolderOrDefault) {
  EXPECT_EQ(Load({.threads = 1, .document_tokens_max = 77})->document_tokens_max(), 77u);
  markov_.msa_config = {{"document_tokens_max", 99}};
  EXPECT_EQ(Load()->document_tokens_max(), 99u);
  EXPECT_EQ(Load({.threads = 1, .document_tokens_max = 100000})->document_tokens_max(), 4096u);
}

// Whatever decides what a document's memory is; how it is asked for does not.
TEST_F(ModelTest, FingerprintFollowsContentsOnly) {
  const std::string first = Load()->fingerprint();
  const std::filesystem::path copy = folder_.string() + "_copy";
  std::filesystem::copy(folder_, copy);
  auto copied = Model::Load(copy, {.threads = 1});
  ASSERT_TRUE(copied.ok());
  EXPECT_EQ((*copied)->fingerprint(), first);
  std::filesystem::remove_all(copy);

  markov_.templates["tail"] = "<|im_end|>";
  markov_.templates["route_besides"] = 3;
  EXPECT_EQ(Load()->fingerprint(), first);
  std::filesystem::remove(folder_ / "templates.json");
  auto without = Model::Load(folder_, {.threads = 1});
  ASSERT_TRUE(without.ok()) << without.status().ToString();
  EXPECT_EQ((*without)->fingerprint(), first);

  markov_.templates["document"] = "{number}: {text}";
  const std::string other_document = Load()->fingerprint();
  EXPECT_NE(other_document, first);
  markov_.templates["head"] = "<|im_start|>";
  const std::string other_head = Load()->fingerprint();
  EXPECT_NE(other_head, other_document);
  markov_.msa_config = {{"pooling_kernel_size", 9}};
  EXPECT_NE(Load()->fingerprint(), other_head);
}

TEST_F(ModelTest, LoadErrorsNameTheTensor) {
  markov_.missing = "model.layers.1.mlp.up_proj.weight";
  Status status = LoadError();
  EXPECT_EQ(status.code(), StatusCode::kNotFound);
  EXPECT_NE(status.message().find("model.layers.1.mlp.up_proj"), std::string::npos)
      << status.ToString();

  markov_.missing.clear();
  markov_.misshapen = "model.layers.2.self_attn.k_proj.weight";
  status = LoadError();
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  for (const char* part : {"model.layers.2.self_attn.k_proj", "32", "33"}) {
    EXPECT_NE(status.message().find(part), std::string::npos) << status.ToString();
  }

  markov_.misshapen = "model.norm.weight";
  status = LoadError();
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_NE(status.message().find("model.norm.weight"), std::string::npos) << status.ToString();
}

TEST_F(ModelTest, OtherLoadErrors) {
  EXPECT_EQ(Model::Load(folder_.string() + "/nowhere").status().code(), StatusCode::kNotFound);
  EXPECT_EQ(LoadError({.device = "cuda:0"}).code(), StatusCode::kUnsupported);
  EXPECT_EQ(LoadError({.device = "tpu"}).code(), StatusCode::kInvalidArgument);
  markov_.config = {{"vocab_size", 100}};
  EXPECT_EQ(LoadError().code(), StatusCode::kInvalidArgument);
}

TEST_F(ModelTest, DocumentsAreCheckedBeforeAnythingRuns) {
  const auto model = Load({.threads = 1, .document_tokens_max = 60});
  const std::string fits(20, 'x');
  const size_t base = *model->CountDocumentTokens({17, fits}) - 20;
  const std::string longest(60 - base, 'x');
  const std::string too_long(61 - base, 'x');
  const auto error = [&](std::string_view text) {
    const std::vector<DocumentInput> documents = {{1, fits}, {17, text}};
    return model->EncodeDocuments(documents).status();
  };
  EXPECT_TRUE(error(longest).ok());
  for (std::string_view bad :
       {std::string_view(too_long), std::string_view(""), std::string_view("broken \xc3 utf-8")}) {
    const Status status = error(bad);
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
    EXPECT_NE(status.message().find("document 17"), std::string::npos) << status.ToString();
  }
  EXPECT_EQ(model->CountTokens("\xff").status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(*model->CountTokens(""), 0u);
  EXPECT_TRUE(model->EncodeDocuments({})->empty());
}

// Many batches of every size give what one document at a time gives, in order.
TEST_F(ModelTest, BatchesDoNotMatter) {
  const auto model = Load({.threads = 2, .encode_batch_tokens = 100});
  std::vector<std::string> texts;
  for (size_t i = 0; i < 30; ++i) texts.push_back(std::string(1 + i * 7 % 90, 'a' + i % 26));
  std::vector<DocumentInput> documents;
  for (size_t i = 0; i < texts.size(); ++i) documents.push_back({i + 1, texts[i]});
  const auto together = model->EncodeDocuments(documents);
  ASSERT_TRUE(together.ok());
  for (size_t i = 0; i < documents.size(); ++i) {
    const auto alone = model->EncodeDocuments({&documents[i], 1});
    ASSERT_TRUE(alone.ok());
    const EncodedDocument &a = (*alone)[0], &b = (*together)[i];
    EXPECT_EQ(a.n_tokens, *model->CountDocumentTokens(documents[i]));
    EXPECT_EQ(a.n_chunks, (a.n_tokens + 7) / 8);
    ASSERT_EQ(a.keys.size(), 2 * a.n_chunks * 32u);
    ASSERT_EQ(a.keys.size(), b.keys.size());
    for (size_t j = 0; j < a.keys.size(); ++j) {
      ASSERT_NEAR(a.keys[j], b.keys[j], 1e-5f);
      ASSERT_NEAR(a.values[j], b.values[j], 1e-5f);
      ASSERT_NEAR(a.routing_keys[j], b.routing_keys[j], 1e-5f);
    }
  }
}

TEST_F(ModelTest, BrokenWeightsGiveAnErrorNotNumbers) {
  markov_.broken = "model.layers.0.self_attn.v_proj.weight";
  const auto model = Load();
  const DocumentInput document{1, "text"};
  EXPECT_EQ(model->EncodeDocuments({&document, 1}).status().code(), StatusCode::kCorruption);
  VectorBank bank(model->kv_dim());
  EXPECT_EQ(model->Answer("Which?", bank).status().code(), StatusCode::kCorruption);
}

// Holds whoever routes until released.
class BlockingBank : public VectorBank {
 public:
  explicit BlockingBank(size_t kv_dim) : VectorBank(kv_dim) {}
  Result<std::vector<RoutedDocument>> Route(int r, const RouteQuery& query) override {
    entered.count_down();
    released.wait();
    return VectorBank::Route(r, query);
  }
  std::latch entered{1};
  std::latch released{1};
};

TEST_F(ModelTest, WaitingForATurnObeysLimits) {
  markov_.msa_config = {{"router_layer_idx", "2"}};
  const auto model = Load();
  const DocumentInput document{1, "text"};
  BlockingBank bank(model->kv_dim());
  bank.Add(1, (*model->EncodeDocuments({&document, 1}))[0], "text");
  std::jthread holder([&] { EXPECT_TRUE(model->Search("Which?", bank, 1).ok()); });
  bank.entered.wait();

  CallLimits deadline;
  deadline.deadline = std::chrono::steady_clock::now() + std::chrono::milliseconds(20);
  EXPECT_EQ(model->EncodeDocuments({&document, 1}, deadline).status().code(),
            StatusCode::kDeadlineExceeded);
  std::stop_source stop;
  std::atomic<bool> done = false;
  std::jthread waiter([&] {
    VectorBank empty(model->kv_dim());
    EXPECT_EQ(
        model->Answer("Which?", empty, {.limits = {.stop = stop.get_token()}}).status().code(),
        StatusCode::kCancelled);
    done = true;
  });
  EXPECT_FALSE(done);
  stop.request_stop();
  waiter.join();
  bank.released.count_down();
  holder.join();
  EXPECT_TRUE(model->EncodeDocuments({&document, 1}).ok());
}

TEST_F(ModelTest, ManyThreadsTakeTurns) {
  const auto model = Load();
  const DocumentInput document{1, "text"};
  VectorBank bank(model->kv_dim());
  bank.Add(1, (*model->EncodeDocuments({&document, 1}))[0], "text");
  const EncodedDocument expected = bank.memory(1);
  std::vector<std::jthread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&, i] {
      for (int n = 0; n < 5; ++n) {
        if (i % 2 == 0) {
          const auto encoded = model->EncodeDocuments({&document, 1});
          ASSERT_TRUE(encoded.ok());
          // Sharing a pass with others may change which kernel a product takes, so its last bits.
          EXPECT_THAT((*encoded)[0].keys, testing::Pointwise(testing::FloatNear(1e-4f), expected.keys));
        } else {
          VectorBank own(model->kv_dim());
          own.Add(1, expected, "text");
          const auto answer = model->Answer("Which?", own);
          ASSERT_TRUE(answer.ok()) << answer.status().ToString();
          EXPECT_EQ(answer->text, "yes");
        }
      }
    });
  }
}

TEST_F(ModelTest, SearchRanksAndCounts) {
  const auto model = Load();
  VectorBank bank(model->kv_dim());
  EXPECT_TRUE(model->Search("Which?", bank, 5)->empty());
  std::vector<std::string> texts;
  for (size_t i = 0; i < 100; ++i) texts.push_back("text " + std::to_string(i * 7919));
  for (size_t i = 0; i < texts.size(); ++i) {
    const DocumentInput document{i + 1, texts[i]};
    bank.Add(i + 1, (*model->EncodeDocuments({&document, 1}))[0], texts[i]);
  }
  EXPECT_TRUE(model->Search("Which?", bank, 0)->empty());
  const auto five = model->Search("Which?", bank, 5);
  const auto all = model->Search("Which?", bank, 1000);
  ASSERT_TRUE(five.ok() && all.ok());
  ASSERT_EQ(five->size(), 5u);
  ASSERT_EQ(all->size(), 100u);
  for (size_t i = 0; i + 1 < all->size(); ++i) EXPECT_GE((*all)[i].score, (*all)[i + 1].score);

  // With every document in every list, a score is the plain mean over layers.
  std::map<DocumentNumber, double> sums;
  const auto& calls = bank.routes();
  for (size_t i = calls.size() - 2; i < calls.size(); ++i) {
    for (const RoutedDocument& document : bank.Scores(
             calls[i].r, {calls[i].queries.data(), calls[i].n_tokens, model->kv_dim(), 100})) {
      sums[document.number] += document.score / 2.0;
    }
  }
  for (const RoutedDocument& document : *all) {
    EXPECT_NEAR(document.score, sums[document.number], 1e-5);
  }
}

TEST_F(ModelTest, SamplingIsReproducible) {
  markov_.follows.push_back({"no", "<|im_end|>"});
  const auto model = Load();
  VectorBank bank(model->kv_dim());
  AnswerOptions options{.answer_tokens_max = 12, .temperature = 30.0f, .seed = 4};
  const auto first = model->Answer("Which?", bank, options);
  const auto second = model->Answer("Which?", bank, options);
  ASSERT_TRUE(first.ok() && second.ok());
  EXPECT_EQ(first->text, second->text);
  EXPECT_EQ(first->generated_tokens, second->generated_tokens);
}

}  // namespace
}  // namespace msadb::model
