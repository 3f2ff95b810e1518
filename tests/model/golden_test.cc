// The engine against the PyTorch reference: tests/data/msa (see the README there), made by
// train/make_goldens.py.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "kernels/sample.h"
#include "model/encoder.h"
#include "model/engine.h"
#include "model/safetensors.h"
#include "tests/model/vector_bank.h"

namespace msadb::model {
namespace {

using nlohmann::json;

constexpr float kTolerance = 1e-4f;  // of a tensor's largest magnitude, as the README says

class GoldenTest : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    folder_ = std::string(MSADB_TEST_DATA) + "/msa/" + GetParam();
    std::ifstream in(folder_ + "/golden.json");
    golden_ = json::parse(in);
    tensors_ = Take(WeightFiles::OpenFile(folder_ + "/golden.safetensors"));
    Start(Precision::kExact);
  }

  // Loads the model for computing with float32 activations, or the way users run it.
  void Start(Precision precision) {
    engine_ = Take(Engine::Load(folder_, {.threads = 2, .precision = precision}));
  }

  template <typename T>
  static T Take(Result<T> result) {
    if (!result.ok()) throw std::runtime_error(result.status().ToString());
    return std::move(result).value();
  }

  size_t kv_dim() const { return static_cast<size_t>(engine_->config.kv_dim()); }

  const json& Scenario(const std::string& name) const {
    for (const json& scenario : golden_["scenarios"]) {
      if (scenario["name"] == name) return scenario;
    }
    throw std::runtime_error("no scenario " + name);
  }

  std::vector<EncodedDocument> Encode(const std::vector<DocumentTokens>& documents) {
    return Take(EncodeBatch(documents, engine_->config, engine_->weights, {}, &*engine_->states,
                            engine_->backend.get()));
  }

  VectorBank MakeBank(const json& scenario) {
    std::vector<DocumentTokens> tokens;
    for (const json& document : scenario["documents"]) tokens.push_back(document["tokens"]);
    VectorBank bank(kv_dim());
    if (tokens.empty()) return bank;
    std::vector<EncodedDocument> encoded = Encode(tokens);
    for (size_t i = 0; i < encoded.size(); ++i) {
      const json& document = scenario["documents"][i];
      bank.Add(document["number"], std::move(encoded[i]), document["text"]);
    }
    return bank;
  }

  static std::vector<PromptPart> Prompt(const json& scenario) {
    std::vector<PromptPart> parts;
    for (const json& part : scenario["prompt"]) {
      parts.push_back({static_cast<TokenRole>(part["role"].get<int>()), part["tokens"]});
    }
    return parts;
  }

  std::vector<float> Golden(const std::string& name) const {
    const TensorView* view = tensors_->Find(name);
    if (view == nullptr) throw std::runtime_error("no golden tensor " + name);
    const auto* data = reinterpret_cast<const float*>(view->data.data());
    return {data, data + view->element_count()};
  }

  static void ExpectClose(std::span<const float> got, std::span<const float> expected,
                          const std::string& name, float tolerance = kTolerance) {
    ASSERT_EQ(got.size(), expected.size()) << name;
    float largest = 0;
    for (float value : expected) largest = std::max(largest, std::fabs(value));
    float worst = 0;
    for (size_t i = 0; i < got.size(); ++i) {
      ASSERT_TRUE(std::isfinite(got[i])) << name << " element " << i;
      worst = std::max(worst, std::fabs(got[i] - expected[i]));
    }
    EXPECT_LE(worst, tolerance * largest) << name << ", largest magnitude " << largest;
  }

  std::string folder_;
  json golden_;
  std::unique_ptr<WeightFiles> tensors_;
  std::unique_ptr<Engine> engine_;
};

TEST_P(GoldenTest, TemplatesGiveTheSameTokens) {
  for (const json& scenario : golden_["scenarios"]) {
    for (const json& document : scenario["documents"]) {
      const std::vector<int32_t> expected = document["tokens"];
      EXPECT_EQ(Take(engine_->templates->Document(document["number"],
                                                  document["text"].get<std::string>())),
                expected);
    }
    const std::vector<PromptPart> prompt = Prompt(scenario);
    ASSERT_EQ(prompt.size(), 3u);
    EXPECT_EQ(Take(engine_->templates->Question(scenario["question"].get<std::string>())),
              prompt[0].tokens);
    EXPECT_EQ(engine_->templates->tail(), prompt[1].tokens);
    EXPECT_EQ(engine_->templates->response_head(), prompt[2].tokens);
  }
}

TEST_P(GoldenTest, PrefixKeysAndValues) {
  const std::vector<float> keys = Golden("prefix.keys"), values = Golden("prefix.values");
  const size_t size = engine_->prefix.n_tokens * kv_dim();
  std::vector<float> got(size);
  for (size_t layer = 0; layer < engine_->prefix.keys.size(); ++layer) {
    const std::string where = " of layer " + std::to_string(layer);
    ASSERT_TRUE(engine_->backend
                    ->Download(engine_->prefix.keys[layer]->tensor(), got.data(),
                               engine_->prefix.n_tokens, kv_dim())
                    .ok());
    ExpectClose(got, std::span(keys).subspan(layer * size, size), "prefix keys" + where);
    ASSERT_TRUE(engine_->backend
                    ->Download(engine_->prefix.values[layer]->tensor(), got.data(),
                               engine_->prefix.n_tokens, kv_dim())
                    .ok());
    ExpectClose(got, std::span(values).subspan(layer * size, size), "prefix values" + where);
  }
}

TEST_P(GoldenTest, DocumentHiddenStatesLayerByLayer) {
  DocumentTokens tokens;
  for (const json& document : Scenario("mixed")["documents"]) {
    if (document["number"] == 9) tokens = document["tokens"].get<DocumentTokens>();
  }
  const std::vector<float> expected = Golden("doc.9.hidden");  // [L + 1, tokens, hidden]
  const size_t size = tokens.size() * static_cast<size_t>(engine_->config.hidden_size);
  int seen = 0;
  engine_->states->set_probe(
      [&](std::string_view name, int layer, std::span<const float> got, size_t) {
        if (name != "hidden") return;
        ++seen;
        ExpectClose(got, std::span(expected).subspan(static_cast<size_t>(layer + 1) * size, size),
                    "hidden state after layer " + std::to_string(layer));
      });
  Encode({tokens});
  // The last routing layer's output is in no memory and not computed.
  EXPECT_EQ(seen, engine_->config.msa.routing_layers.back() + 1);
}

TEST_P(GoldenTest, DocumentMemory) {
  const VectorBank bank = MakeBank(Scenario("mixed"));
  for (const json& document : Scenario("mixed")["documents"]) {
    const DocumentNumber number = document["number"];
    const std::string prefix = "doc." + std::to_string(number) + ".";
    const EncodedDocument& memory = bank.memory(number);
    EXPECT_EQ(memory.n_tokens, document["tokens"].size());
    ExpectClose(memory.keys, Golden(prefix + "keys"), prefix + "keys");
    ExpectClose(memory.values, Golden(prefix + "values"), prefix + "values");
    ExpectClose(memory.routing_keys, Golden(prefix + "routing_keys"), prefix + "routing_keys");
  }
}

// Packing must change nothing but speed.
TEST_P(GoldenTest, PackingDoesNotMatter) {
  std::vector<DocumentTokens> tokens;
  for (const json& document : Scenario("mixed")["documents"]) tokens.push_back(document["tokens"]);
  const std::vector<EncodedDocument> packed = Encode(tokens);
  for (size_t i = 0; i < tokens.size(); ++i) {
    const std::vector<EncodedDocument> alone = Encode({tokens[i]});
    ASSERT_EQ(alone.size(), 1u);
    EXPECT_EQ(alone[0].n_chunks, packed[i].n_chunks);
    ExpectClose(packed[i].keys, alone[0].keys, "keys", 1e-5f);
    ExpectClose(packed[i].values, alone[0].values, "values", 1e-5f);
    ExpectClose(packed[i].routing_keys, alone[0].routing_keys, "routing keys", 1e-5f);
  }
}

TEST_P(GoldenTest, QuestionsRouteAndGenerate) {
  for (const json& scenario : golden_["scenarios"]) {
    const std::string name = scenario["name"];
    SCOPED_TRACE(name);
    VectorBank bank = MakeBank(scenario);
    std::vector<float> expected;  // outlives the probe that compares with it
    if (name == "mixed") {
      constexpr size_t kKept = 16;  // last prompt tokens
      expected = Golden("mixed.query_hidden");
      const auto hidden = static_cast<size_t>(engine_->config.hidden_size);
      const int last = engine_->config.n_layers - 1;
      engine_->states->set_probe([&expected, last, hidden](std::string_view what, int layer,
                                                           std::span<const float> got, size_t) {
        if (what != "hidden") return;
        const size_t rows = layer == last ? 1 : kKept;  // the last layer computes one token
        const size_t end = static_cast<size_t>(layer + 2) * kKept * hidden;
        ExpectClose(got.last(rows * hidden),
                    std::span(expected).subspan(end - rows * hidden, rows * hidden),
                    "hidden state of the question after layer " + std::to_string(layer));
      });
    }
    PrefillTrace trace;
    Context context = Take(engine_->generator->Prefill(Prompt(scenario), bank, {}, {}, &trace));
    engine_->states->set_probe(nullptr);

    // Scores of all documents, and the documents chosen, in every routing layer.
    ASSERT_EQ(trace.layers.size(), engine_->config.msa.routing_layers.size());
    for (size_t r = 0; r < trace.layers.size(); ++r) {
      const std::string layer = std::to_string(engine_->config.msa.routing_layers[r]);
      EXPECT_EQ(std::to_string(trace.layers[r].layer), layer);
      const std::vector<DocumentNumber> selected = scenario["selected"][layer];
      std::vector<DocumentNumber> got;
      for (const RoutedDocument& document : trace.layers[r].documents) {
        got.push_back(document.number);
      }
      EXPECT_EQ(got, selected) << "layer " << layer;
    }
    if (!scenario["documents"].empty()) {
      const std::vector<float> scores = Golden(name + ".scores");
      const size_t n = bank.document_count();
      ASSERT_EQ(bank.routes().size() * n, scores.size());
      for (const VectorBank::Call& call : bank.routes()) {
        std::vector<float> got;
        for (const RoutedDocument& document :
             bank.Scores(call.r, {call.queries.data(), call.n_tokens, kv_dim(), n})) {
          got.push_back(document.score);
        }
        ExpectClose(got, std::span(scores).subspan(static_cast<size_t>(call.r) * n, n),
                    "scores of routing layer " + std::to_string(call.r));
      }
    }

    ExpectClose(context.logits, Golden(name + ".logits"), "logits");
    std::vector<int32_t> greedy;
    for (size_t i = 0; i < scenario["greedy"].size(); ++i) {
      greedy.push_back(kernels::ArgMax(context.logits.data(), context.logits.size()));
      ASSERT_TRUE(engine_->generator->Append({&greedy.back(), 1}, {}, &context).ok());
    }
    EXPECT_EQ(greedy, scenario["greedy"].get<std::vector<int32_t>>());
  }
}

// The precision users run makes the same choices.
TEST_P(GoldenTest, FinePrecisionMakesTheSameChoices) {
  Start(Precision::kFine);
  for (const json& scenario : golden_["scenarios"]) {
    const std::string name = scenario["name"];
    SCOPED_TRACE(name);
    VectorBank bank = MakeBank(scenario);
    PrefillTrace trace;
    Context context = Take(engine_->generator->Prefill(Prompt(scenario), bank, {}, {}, &trace));
    for (const LayerTrace& layer : trace.layers) {
      std::vector<DocumentNumber> got;
      for (const RoutedDocument& document : layer.documents) got.push_back(document.number);
      EXPECT_EQ(got, scenario["selected"][std::to_string(layer.layer)].get<decltype(got)>());
    }
    ExpectClose(context.logits, Golden(name + ".logits"), "logits", 2e-3f);
    std::vector<int32_t> greedy;
    for (size_t i = 0; i < scenario["greedy"].size(); ++i) {
      greedy.push_back(kernels::ArgMax(context.logits.data(), context.logits.size()));
      ASSERT_TRUE(engine_->generator->Append({&greedy.back(), 1}, {}, &context).ok());
    }
    EXPECT_EQ(greedy, scenario["greedy"].get<std::vector<int32_t>>());
  }
}

// Several tokens appended at once are the same as one at a time.
TEST_P(GoldenTest, AppendingTogetherOrOneByOne) {
  const json& scenario = Scenario("mixed");
  VectorBank bank = MakeBank(scenario);
  PrefillTrace trace;
  Context together = Take(engine_->generator->Prefill(Prompt(scenario), bank, {}, {}, &trace));
  Context single = Take(engine_->generator->Prefill(Prompt(scenario), bank, {}, {}, &trace));
  const std::vector<int32_t> tokens = scenario["greedy"];
  ASSERT_TRUE(engine_->generator->Append(tokens, {}, &together).ok());
  for (int32_t token : tokens)
    ASSERT_TRUE(engine_->generator->Append({&token, 1}, {}, &single).ok());
  EXPECT_EQ(together.position, single.position);
  ExpectClose(together.logits, single.logits, "logits", 1e-4f);

  // Tokens taken back leave no trace.
  const std::vector<int32_t> others = {5, 6, 7};
  ASSERT_TRUE(engine_->generator->Append(others, {}, &single).ok());
  Generator::TakeBack(others.size() + tokens.size(), &single);
  ASSERT_TRUE(engine_->generator->Append(tokens, {}, &single).ok());
  EXPECT_EQ(together.position, single.position);
  ExpectClose(together.logits, single.logits, "logits after taking back", 1e-4f);
}

// Rounding activations to int8 (kernels/matmul.h) moves results a little, not more. These random
// models amplify rounding more than trained ones do.
TEST_P(GoldenTest, RoundedActivationsStayClose) {
  Start(Precision::kFast);
  const json& scenario = Scenario("mixed");
  VectorBank bank = MakeBank(scenario);
  double error_squares = 0, squares = 0;
  const auto add = [&](const std::vector<float>& got, const std::vector<float>& expected) {
    ASSERT_EQ(got.size(), expected.size());
    for (size_t i = 0; i < got.size(); ++i) {
      error_squares += std::pow(got[i] - expected[i], 2);
      squares += std::pow(expected[i], 2);
    }
  };
  for (const json& document : scenario["documents"]) {
    const DocumentNumber number = document["number"];
    const std::string prefix = "doc." + std::to_string(number) + ".";
    add(bank.memory(number).keys, Golden(prefix + "keys"));
    add(bank.memory(number).values, Golden(prefix + "values"));
  }
  const double relative = std::sqrt(error_squares / squares);
  RecordProperty("relative_rms_error", std::to_string(relative));
  EXPECT_LT(relative, 0.08);
}

INSTANTIATE_TEST_SUITE_P(Models, GoldenTest,
                         testing::Values("qwen3-decoupled-cosine", "qwen3-decoupled-dot",
                                         "qwen3-own-cosine", "llama-decoupled-cosine",
                                         "llama-own-dot", "llama-int8", "qwen3-int4"),
                         [](const auto& info) {
                           std::string name = info.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

}  // namespace
}  // namespace msadb::model
