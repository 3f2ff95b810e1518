// The model on the GPU: against the PyTorch reference (tests/data/msa) and, for the default model,
// against the CPU.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "kernels/cuda_backend.h"
#include "kernels/dtype.h"
#include "model/encoder.h"
#include "model/engine.h"
#include "model/safetensors.h"
#include "tests/model/vector_bank.h"

namespace msadb::model {
namespace {

using kernels::Tensor;
using nlohmann::json;

template <typename T>
T Take(Result<T> result) {
  if (!result.ok()) throw std::runtime_error(result.status().ToString());
  return std::move(result).value();
}

double RelativeError(std::span<const float> got, std::span<const float> expected) {
  double error = 0, squares = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    if (!std::isfinite(got[i])) return INFINITY;
    error += std::pow(static_cast<double>(got[i]) - expected[i], 2);
    squares += std::pow(static_cast<double>(expected[i]), 2);
  }
  return std::sqrt(error / squares);
}

// The CPU's operations with the GPU's roundings: weights and activations to bfloat16, sums not. It
// tells how far these roundings alone take a model from its reference; the tiny models of random
// weights amplify them more than trained ones do, each in its own measure.
class RoundedBackend : public kernels::Backend {
 public:
  std::string description() const override { return "CPU, rounded to bfloat16"; }
  Result<std::unique_ptr<kernels::Activations>> Allocate(size_t rows, size_t width) override {
    return cpu_->Allocate(rows, width);
  }
  Result<std::unique_ptr<kernels::Activations>> AllocateSums(size_t rows, size_t width) override {
    MSADB_ASSIGN_OR_RETURN(auto sums, cpu_->Allocate(rows, width));
    const auto* const begin = static_cast<const float*>(sums->tensor().data);
    sums_.emplace_back(begin, begin + rows * width);
    return sums;
  }
  Result<std::unique_ptr<kernels::Matrix>> LoadMatrix(
      std::span<const kernels::WeightSource> stacked) override {
    std::vector<kernels::WeightSource> sources(stacked.begin(), stacked.end());
    std::vector<std::vector<uint16_t>> rounded;
    for (kernels::WeightSource& source : sources) {
      if (source.type != kernels::WeightType::kF32) continue;
      const size_t count = source.rows * source.cols;
      rounded.emplace_back(count);
      kernels::ConvertF32ToBf16(static_cast<const float*>(source.data), rounded.back().data(),
                                count);
      source.type = kernels::WeightType::kBF16;
      source.data = rounded.back().data();
    }
    return cpu_->LoadMatrix(sources);
  }
  Result<std::unique_ptr<kernels::Vector>> LoadVector(std::span<const float> values) override {
    return cpu_->LoadVector(values);
  }
  Result<std::unique_ptr<kernels::Angles>> LoadAngles(std::span<const int32_t> positions,
                                                      size_t head_dim, double theta) override {
    return cpu_->LoadAngles(positions, head_dim, theta);
  }
  Status CopyRows(Tensor from, Tensor to, size_t rows, size_t width) override {
    return Round(cpu_->CopyRows(from, to, rows, width), to, rows, width);
  }
  Status Upload(const float* from, Tensor to, size_t rows, size_t width) override {
    return Round(cpu_->Upload(from, to, rows, width), to, rows, width);
  }
  Status UploadRows(std::span<const uint16_t* const> a, Tensor to_a,
                    std::span<const uint16_t* const> b, Tensor to_b, size_t width) override {
    return cpu_->UploadRows(a, to_a, b, to_b, width);
  }
  Status Download(Tensor from, float* to, size_t rows, size_t width) override {
    return cpu_->Download(from, to, rows, width);
  }
  Status Synchronize() override { return cpu_->Synchronize(); }
  Status Embed(const kernels::Matrix& embedding, std::span<const int32_t> ids,
               Tensor out) override {
    return Round(cpu_->Embed(embedding, ids, out), out, ids.size(), embedding.cols());
  }
  Status RmsNorm(Tensor x, size_t tokens, size_t heads, size_t width, const kernels::Vector& weight,
                 float epsilon, Tensor y) override {
    return Round(cpu_->RmsNorm(x, tokens, heads, width, weight, epsilon, y), y, tokens,
                 heads * width);
  }
  Status Matmul(Tensor x, size_t tokens, const kernels::Matrix& weight, Tensor y,
                bool accumulate) override {
    return Round(cpu_->Matmul(x, tokens, weight, y, accumulate), y, tokens, weight.rows());
  }
  Status Rope(Tensor x, size_t tokens, size_t heads, size_t head_dim,
              const kernels::Angles& angles) override {
    return Round(cpu_->Rope(x, tokens, heads, head_dim, angles), x, tokens, heads * head_dim);
  }
  Status Attention(Tensor q, Tensor k, Tensor v, Tensor out,
                   std::span<const kernels::AttentionSegment> segments, size_t heads,
                   size_t kv_heads, size_t head_dim) override {
    MSADB_RETURN_IF_ERROR(cpu_->Attention(q, k, v, out, segments, heads, kv_heads, head_dim));
    for (const kernels::AttentionSegment& segment : segments) {
      MSADB_RETURN_IF_ERROR(
          Round(Status::Ok(), out.At(segment.query_begin), segment.query_count, heads * head_dim));
    }
    return Status::Ok();
  }
  Status SiluMul(Tensor gate_up, size_t tokens, size_t width, Tensor out) override {
    return Round(cpu_->SiluMul(gate_up, tokens, width, out), out, tokens, width);
  }
  Status ChunkPool(Tensor x, std::span<const size_t> lengths, size_t chunk, size_t width,
                   float* out) override {
    return cpu_->ChunkPool(x, lengths, chunk, width, out);
  }
  Status RouterFold(Tensor q, size_t tokens, size_t heads, size_t kv_heads, size_t head_dim,
                    bool cosine, float* out) override {
    return cpu_->RouterFold(q, tokens, heads, kv_heads, head_dim, cosine, out);
  }

 private:
  // Rounds what `status` says was written, unless it lies in sums.
  Status Round(Status status, Tensor x, size_t rows, size_t width) {
    MSADB_RETURN_IF_ERROR(status);
    const auto* const at = static_cast<const float*>(x.data);
    for (const auto& [begin, end] : sums_) {
      if (at >= begin && at < end) return status;
    }
    for (size_t i = 0; i < rows; ++i) {
      auto* const row = static_cast<float*>(x.At(i).data);
      for (size_t j = 0; j < width; ++j) {
        row[j] = kernels::Bf16ToF32(kernels::F32ToBf16(row[j]));
      }
    }
    return status;
  }

  std::unique_ptr<kernels::Backend> cpu_ =
      kernels::MakeCpuBackend({.threads = 2, .precision = kernels::Precision::kExact});
  std::vector<std::pair<const float*, const float*>> sums_;
};

// A model folder on that backend.
std::unique_ptr<Engine> LoadRounded(const std::string& folder) {
  auto engine = Take(Engine::Load(folder, {.threads = 2, .device = "cpu"}));
  engine->generator.reset();
  engine->states.reset();
  engine->prefix = {};
  engine->weights = {};
  engine->backend = std::make_unique<RoundedBackend>();
  const auto files = Take(WeightFiles::Open(folder));
  engine->weights = Take(LoadWeights(*files, engine->config, engine->backend.get()));
  engine->states.emplace(&engine->config, &engine->weights, engine->backend.get());
  engine->prefix = Take(EncodePrefix(engine->templates->head(), engine->config, &*engine->states,
                                     engine->backend.get()));
  engine->generator.emplace(&engine->config, &engine->weights, &engine->prefix, &*engine->states,
                            engine->backend.get());
  return engine;
}

class CudaModelTest : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    const char* const data = std::getenv("MSADB_TEST_DATA_DIR");
    folder_ = (data ? std::string(data) : std::string(MSADB_TEST_DATA)) + "/msa/" + GetParam();
    std::ifstream in(folder_ + "/golden.json");
    golden_ = json::parse(in);
    tensors_ = Take(WeightFiles::OpenFile(folder_ + "/golden.safetensors"));
  }

  std::vector<float> Golden(const std::string& name) const {
    const TensorView* view = tensors_->Find(name);
    if (view == nullptr) throw std::runtime_error("no golden tensor " + name);
    const auto* data = reinterpret_cast<const float*>(view->data.data());
    return {data, data + view->element_count()};
  }

  static VectorBank MakeBank(const json& scenario, Engine& engine) {
    std::vector<DocumentTokens> tokens;
    for (const json& document : scenario["documents"]) tokens.push_back(document["tokens"]);
    VectorBank bank(static_cast<size_t>(engine.config.kv_dim()));
    if (tokens.empty()) return bank;
    std::vector<EncodedDocument> encoded = Take(EncodeBatch(
        tokens, engine.config, engine.weights, {}, &*engine.states, engine.backend.get()));
    for (size_t i = 0; i < encoded.size(); ++i) {
      const json& document = scenario["documents"][i];
      bank.Add(document["number"], std::move(encoded[i]), document["text"]);
    }
    return bank;
  }

  // How far a device is from the reference, by what is compared.
  std::map<std::string, double> Errors(Engine& engine) {
    std::map<std::string, double> errors;
    for (const json& scenario : golden_["scenarios"]) {
      const std::string name = scenario["name"];
      VectorBank bank = MakeBank(scenario, engine);
      if (name == "mixed") {
        for (const json& document : scenario["documents"]) {
          const DocumentNumber number = document["number"];
          const std::string prefix = "doc." + std::to_string(number) + ".";
          const EncodedDocument& memory = bank.memory(number);
          errors[prefix + "keys"] = RelativeError(memory.keys, Golden(prefix + "keys"));
          errors[prefix + "values"] = RelativeError(memory.values, Golden(prefix + "values"));
          errors[prefix + "routing_keys"] =
              RelativeError(memory.routing_keys, Golden(prefix + "routing_keys"));
        }
      }
      std::vector<PromptPart> parts;
      for (const json& part : scenario["prompt"]) {
        parts.push_back({static_cast<TokenRole>(part["role"].get<int>()), part["tokens"]});
      }
      PrefillTrace trace;
      Context context = Take(engine.generator->Prefill(parts, bank, {}, {}, &trace));
      for (const LayerTrace& layer : trace.layers) {
        std::vector<DocumentNumber> got;
        for (const RoutedDocument& document : layer.documents) got.push_back(document.number);
        auto selected =
            scenario["selected"][std::to_string(layer.layer)].get<std::vector<DocumentNumber>>();
        // The order of near-equal scores may change, the set should not.
        std::sort(got.begin(), got.end());
        std::sort(selected.begin(), selected.end());
        EXPECT_EQ(got, selected) << name << ", layer " << layer.layer;
      }
      errors[name + ".logits"] = RelativeError(context.logits, Golden(name + ".logits"));
      // Tokens appended one by one and together give the same.
      const std::vector<int32_t> tokens = scenario["greedy"];
      Context together = Take(engine.generator->Prefill(parts, bank, {}, {}, &trace));
      Check(engine.generator->Append(tokens, {}, &together));
      for (int32_t token : tokens) Check(engine.generator->Append({&token, 1}, {}, &context));
      errors[name + ".appended"] = RelativeError(together.logits, context.logits);
    }
    return errors;
  }

  static void Check(const Status& status) {
    if (!status.ok()) throw std::runtime_error(status.ToString());
  }

  std::string folder_;
  json golden_;
  std::unique_ptr<WeightFiles> tensors_;
};

TEST_P(CudaModelTest, RoundingsAloneKeepTheChoices) {
  for (const auto& [what, error] : Errors(*LoadRounded(folder_))) {
    std::printf("%s %s: error of the roundings %.4f\n", GetParam(), what.c_str(), error);
    EXPECT_LT(error, 0.3) << what;
  }
}

TEST_P(CudaModelTest, IsAsNearTheReferenceAsItsRoundingsAllow) {
  if (kernels::CudaDeviceCount() == 0) GTEST_SKIP() << "no GPU here";
  const auto got = Errors(*Take(Engine::Load(folder_, {.device = "cuda:0"})));
  const auto rounded = Errors(*LoadRounded(folder_));
  for (const auto& [what, error] : got) {
    // On the CPU tokens appended together or singly are the same to the bit; the GPU sums in
    // another order, and one rounding that falls the other way counts like any rounding.
    const size_t appended = what.find(".appended");
    const double from_rounding =
        rounded.at(appended == std::string::npos ? what : what.substr(0, appended) + ".logits");
    std::printf("%s %s: error %.4f, of the roundings alone %.4f\n", GetParam(), what.c_str(), error,
                from_rounding);
    // Rounding errors of different order have equal size only on average; one token's logits are a
    // small sample.
    EXPECT_LT(error, 3 * from_rounding + 0.01) << what;
    EXPECT_LT(error, 0.3) << what;
  }
}

INSTANTIATE_TEST_SUITE_P(Models, CudaModelTest,
                         testing::Values("qwen3-decoupled-cosine", "qwen3-decoupled-dot",
                                         "qwen3-own-cosine", "llama-decoupled-cosine",
                                         "llama-own-dot", "llama-int8", "qwen3-int4"),
                         [](const auto& info) {
                           std::string name = info.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

TEST(CudaDeviceChoiceTest, NamesAreCheckedAndAutoAlwaysWorks) {
  const std::string folder =
      (std::getenv("MSADB_TEST_DATA_DIR") ? std::string(std::getenv("MSADB_TEST_DATA_DIR"))
                                          : std::string(MSADB_TEST_DATA)) +
      "/msa/llama-own-dot";
  EXPECT_TRUE(Engine::Load(folder, {.device = "auto"}).ok());
  for (const char* device : {"gpu", "cuda:", "cuda:x", "cuda:0x", "cudax"}) {
    EXPECT_EQ(Engine::Load(folder, {.device = device}).status().code(),
              StatusCode::kInvalidArgument)
        << device;
  }
  const auto absent = Engine::Load(folder, {.device = "cuda:977"});
  EXPECT_EQ(absent.status().code(), StatusCode::kUnsupported);
  EXPECT_NE(absent.status().message().find("cpu"), std::string::npos);
}

// The default model, when its folder is there, answers the same on both devices.
TEST(CudaDefaultModelTest, AnswersAsOnTheCpu) {
  if (kernels::CudaDeviceCount() == 0) GTEST_SKIP() << "no GPU here";
  const char* const given = std::getenv("MSADB_TEST_MODEL");
  const std::string folder = given ? given : std::string(MSADB_SOURCE_DIR) + "/models/default";
  if (!std::filesystem::exists(folder + "/model.safetensors.index.json") ||
      !WeightFiles::Open(folder).ok()) {
    GTEST_SKIP() << "no default model in " << folder;
  }
  const std::vector<std::pair<DocumentNumber, const char*>> texts = {
      {1, "The spare key is under the blue flowerpot next to the garage door."},
      {2, "Maria's birthday is on the 14th of March. She likes lemon cake."},
      {3, "The backup server's address is 10.20.0.7 and it reboots every Sunday at 4 am."},
      {4, "Train 4711 to Vienna leaves from platform 9 at 17:42 on weekdays."},
      {5, "The coffee machine in the kitchen needs descaling once a month."},
      {6, "Our landlord is Mr. Okafor; his phone number is 555 0199."},
      {7, "The cat is allergic to chicken and must only eat the salmon food."},
      {8, "The Q3 budget for the Lisbon office is 48,000 euros."},
  };
  const char* const questions[] = {"Where is the spare key?",
                                   "When is Maria's birthday?",
                                   "What is the address of the backup server?",
                                   "From which platform does the train to Vienna leave?",
                                   "What may the cat eat?",
                                   "How large is the Q3 budget of the Lisbon office?"};
  std::vector<std::vector<std::string>> answers;
  std::vector<std::vector<DocumentNumber>> first_documents;
  std::vector<std::vector<EncodedDocument>> memories;
  for (const char* device : {"cpu", "cuda:0"}) {
    const auto model = Take(Model::Load(folder, {.device = device}));
    std::vector<DocumentInput> documents;
    for (const auto& [number, text] : texts) documents.push_back({number, text});
    std::vector<EncodedDocument> encoded = Take(model->EncodeDocuments(documents));
    memories.push_back(encoded);
    VectorBank bank(model->kv_dim());
    for (size_t i = 0; i < encoded.size(); ++i) {
      bank.Add(texts[i].first, std::move(encoded[i]), texts[i].second);
    }
    answers.emplace_back();
    first_documents.emplace_back();
    for (const char* question : questions) {
      const AnswerResult answer = Take(model->Answer(question, bank, {.answer_tokens_max = 48}));
      answers.back().push_back(answer.text);
      const auto ranked = Take(model->Search(question, bank, 3));
      first_documents.back().push_back(ranked.empty() ? 0 : ranked[0].number);
      std::printf("%s: %s -> %s\n", device, question, answer.text.c_str());
    }
  }
  for (size_t d = 0; d < texts.size(); ++d) {
    const double error = RelativeError(memories[1][d].keys, memories[0][d].keys);
    std::printf("document %zu: keys differ by %.4f, values by %.4f, routing keys by %.4f\n", d + 1,
                error, RelativeError(memories[1][d].values, memories[0][d].values),
                RelativeError(memories[1][d].routing_keys, memories[0][d].routing_keys));
    EXPECT_LT(error, 0.02);
  }
  EXPECT_EQ(answers[1], answers[0]);
  EXPECT_EQ(first_documents[1], first_documents[0]);
}

}  // namespace
}  // namespace msadb::model
