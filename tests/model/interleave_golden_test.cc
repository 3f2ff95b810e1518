// Memory Interleave against the PyTorch reference (tests/data/msa/interleave, made by
// train/make_interleave_golden.py): a model that writes document numbers, ends retrieval and
// answers, over lists with unknown, repeated and cut-off numbers.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "kernels/sample.h"
#include "model/encoder.h"
#include "model/engine.h"
#include "model/interleave.h"
#include "model/safetensors.h"
#include "tests/model/vector_bank.h"

namespace msadb::model {
namespace {

using nlohmann::json;

template <typename T>
T Take(Result<T> result) {
  if (!result.ok()) throw std::runtime_error(result.status().ToString());
  return std::move(result).value();
}

class InterleaveGoldenTest : public testing::Test {
 protected:
  void SetUp() override {
    const std::string folder = std::string(MSADB_TEST_DATA) + "/msa/interleave";
    std::ifstream in(folder + "/golden.json");
    golden_ = json::parse(in);
    tensors_ = Take(WeightFiles::OpenFile(folder + "/golden.safetensors"));
    engine_ = Take(Engine::Load(folder, {.threads = 2}));
    std::vector<DocumentTokens> tokens;
    for (const json& document : golden_["documents"]) tokens.push_back(document["tokens"]);
    auto encoded = Take(EncodeBatch(tokens, engine_->config, engine_->weights, {},
                                    &*engine_->states, engine_->backend.get()));
    bank_.emplace(static_cast<size_t>(engine_->config.kv_dim()));
    for (size_t i = 0; i < encoded.size(); ++i) {
      const json& document = golden_["documents"][i];
      bank_->Add(document["number"], std::move(encoded[i]), document["text"]);
    }
  }

  // Row `row` of a golden tensor [rows, vocab].
  void ExpectLogits(const std::vector<float>& got, const std::string& name, size_t row) const {
    const TensorView* view = tensors_->Find(name);
    ASSERT_NE(view, nullptr) << name;
    const auto* expected =
        reinterpret_cast<const float*>(view->data.data()) + row * engine_->weights.head().rows();
    float largest = 0, worst = 0;
    for (size_t i = 0; i < got.size(); ++i) {
      ASSERT_TRUE(std::isfinite(got[i])) << name;
      largest = std::max(largest, std::fabs(expected[i]));
      worst = std::max(worst, std::fabs(got[i] - expected[i]));
    }
    EXPECT_LE(worst, 1e-4f * largest) << name << " " << row << ", largest magnitude " << largest;
  }

  AnswerOptions Options(const json& question) const {
    AnswerOptions options;
    options.rounds_max = question.value("rounds_max", options.rounds_max);
    options.retrieval_tokens_max =
        question.value("retrieval_tokens_max", options.retrieval_tokens_max);
    return options;
  }

  json golden_;
  std::unique_ptr<WeightFiles> tensors_;
  std::unique_ptr<Engine> engine_;
  std::optional<VectorBank> bank_;
};

// The whole of it, as users call it.
TEST_F(InterleaveGoldenTest, RoundsAndAnswers) {
  for (const json& question : golden_["questions"]) {
    SCOPED_TRACE(question["name"].get<std::string>());
    bank_->ClearCalls();
    Scheduler scheduler(&*engine_, 2048);
    const AnswerResult answer = Take(AnswerQuestion(question["question"].get<std::string>(), *bank_,
                                                    Options(question), *engine_, &scheduler));
    const json& rounds = question["rounds"];
    ASSERT_EQ(answer.rounds.size(), rounds.size());
    size_t generated = 0, prompt = 0;
    const size_t routing_layers = engine_->config.msa.routing_layers.size();
    ASSERT_EQ(bank_->routes().size(), rounds.size() * routing_layers);
    for (size_t i = 0; i < rounds.size(); ++i) {
      const RoundTrace& got = answer.rounds[i];
      EXPECT_EQ(got.generated, rounds[i]["numbers"].get<std::vector<DocumentNumber>>());
      EXPECT_EQ(got.appended, rounds[i]["read"].get<std::vector<DocumentNumber>>());
      for (const LayerTrace& layer : got.layers) {
        std::vector<DocumentNumber> selected;
        for (const RoutedDocument& document : layer.documents) selected.push_back(document.number);
        EXPECT_EQ(selected,
                  rounds[i]["selected"][std::to_string(layer.layer)].get<decltype(selected)>());
      }
      // What routed: the question, and in later rounds the newest texts too.
      size_t queries = 0;
      for (const json& part : rounds[i]["prompt"]) {
        prompt += part["tokens"].size();
        if (part["role"] == 0) queries += part["tokens"].size();
      }
      EXPECT_EQ(bank_->routes()[i * routing_layers].n_tokens, queries);
      generated += rounds[i]["written"].size();
    }
    EXPECT_EQ(answer.text, question["text"].get<std::string>());
    EXPECT_EQ(answer.finish_reason, FinishReason::kStop);
    EXPECT_EQ(answer.generated_tokens, generated + question["answer"].size());
    EXPECT_EQ(answer.prompt_tokens, prompt + question["restart"].size());
  }
}

// The numbers behind it: logits after every prompt and where the answer starts, every token greedy.
TEST_F(InterleaveGoldenTest, LogitsAndTokens) {
  for (const json& question : golden_["questions"]) {
    const std::string name = question["name"];
    SCOPED_TRACE(name);
    const auto write = [&](const std::vector<int32_t>& tokens, Context* context) {
      for (int32_t token : tokens) {
        EXPECT_EQ(kernels::ArgMax(context->logits.data(), context->logits.size()), token);
        ASSERT_TRUE(engine_->generator->Append({&token, 1}, {}, context).ok());
      }
    };
    for (size_t i = 0; i < question["rounds"].size(); ++i) {
      const json& round = question["rounds"][i];
      std::vector<PromptPart> prompt;
      for (const json& part : round["prompt"]) {
        prompt.push_back({static_cast<TokenRole>(part["role"].get<int>()), part["tokens"]});
      }
      PrefillTrace trace;
      Context context = Take(engine_->generator->Prefill(prompt, *bank_, {}, {}, &trace));
      ExpectLogits(context.logits, name + ".logits", i);
      const std::vector<int32_t> written = round["written"];
      write(written, &context);
      if (i + 1 < question["rounds"].size()) continue;
      if (written != engine_->templates->retrieval_end()) {
        Generator::TakeBack(written.size(), &context);
      }
      const std::vector<int32_t> restart = question["restart"];
      ASSERT_TRUE(engine_->generator->Append(restart, {}, &context).ok());
      ExpectLogits(context.logits, name + ".restart_logits", 0);
      write(question["answer"], &context);
      const int32_t end = kernels::ArgMax(context.logits.data(), context.logits.size());
      const auto& stops = engine_->templates->stop_tokens();
      EXPECT_TRUE(std::binary_search(stops.begin(), stops.end(), end));
    }
  }
}

}  // namespace
}  // namespace msadb::model
