// A model with the shapes of MSA-4B (Qwen3-4B) and random weights, built on the device: nothing is
// read from disk. For the GPU benches, which end the process on an error.
#ifndef MSADB_BENCH_KERNELS_RANDOM_MODEL_H_
#define MSADB_BENCH_KERNELS_RANDOM_MODEL_H_

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "kernels/backend.h"
#include "kernels/dtype.h"
#include "model/model_config.h"
#include "model/weights.h"
#include "msadb/status.h"

namespace msadb::model {

[[noreturn]] inline void Fail(const std::string& message) {
  std::fprintf(stderr, "%s\n", message.c_str());
  std::exit(1);
}

inline void Check(const Status& status) {
  if (!status.ok()) Fail(status.ToString());
}

template <typename T>
T Take(Result<T> result) {
  Check(result.status());
  return std::move(result).value();
}

inline ModelConfig Shapes(int layers) {
  ModelConfig c;
  c.model_type = "msa";
  c.n_layers = layers;
  c.hidden_size = 2560;
  c.intermediate_size = 9728;
  c.n_heads = 32;
  c.n_kv_heads = 8;
  c.head_dim = 128;
  c.vocab_size = 151936;
  c.rope_theta = 1e6;
  c.max_position_embeddings = 40960;
  c.tie_word_embeddings = true;
  for (int layer = layers / 2; layer < layers; ++layer) c.msa.routing_layers.push_back(layer);
  return c;
}

// Every matrix holds a stretch of the same random numbers.
class RandomWeights {
 public:
  RandomWeights(kernels::Backend* backend, size_t largest) : backend_(*backend), bits_(largest) {
    std::mt19937 random(1);
    std::normal_distribution<float> normal(0.0f, 0.02f);
    std::vector<uint16_t> pattern(1 << 20);
    for (uint16_t& value : pattern) value = kernels::F32ToBf16(normal(random));
    // Odd strides, so that rows differ.
    for (size_t i = 0; i < bits_.size(); i += 1048573) {
      std::copy_n(pattern.begin(), std::min<size_t>(1048573, bits_.size() - i), bits_.begin() + i);
    }
  }

  std::unique_ptr<kernels::Matrix> Matrix(size_t rows, size_t cols) {
    kernels::WeightSource source;
    source.type = kernels::WeightType::kBF16;
    source.data = bits_.data();
    source.rows = rows;
    source.cols = cols;
    return Take(backend_.LoadMatrix({&source, 1}));
  }
  std::unique_ptr<kernels::Vector> Ones(size_t size) {
    return Take(backend_.LoadVector(std::vector<float>(size, 1.0f)));
  }

 private:
  kernels::Backend& backend_;
  std::vector<uint16_t> bits_;
};

inline Weights MakeWeights(const ModelConfig& c, kernels::Backend* backend) {
  const auto hidden = static_cast<size_t>(c.hidden_size);
  const auto inner = static_cast<size_t>(c.intermediate_size);
  const auto q_dim = static_cast<size_t>(c.q_dim()), kv_dim = static_cast<size_t>(c.kv_dim());
  const auto vocab = static_cast<size_t>(c.vocab_size);
  RandomWeights random(backend, vocab * hidden);
  Weights weights;
  weights.embedding = random.Matrix(vocab, hidden);
  weights.final_norm = random.Ones(hidden);
  for (int layer = 0; layer < c.n_layers; ++layer) {
    LayerWeights w;
    w.input_norm = random.Ones(hidden);
    w.qkv = random.Matrix(q_dim + 2 * kv_dim, hidden);
    w.q_norm = random.Ones(static_cast<size_t>(c.head_dim));
    w.k_norm = random.Ones(static_cast<size_t>(c.head_dim));
    w.output = random.Matrix(hidden, q_dim);
    if (c.RoutingOrdinal(layer) >= 0) {
      w.router_q = random.Matrix(q_dim, hidden);
      w.router_k = random.Matrix(kv_dim, hidden);
    }
    w.post_attention_norm = random.Ones(hidden);
    w.gate_up = random.Matrix(2 * inner, hidden);
    w.down = random.Matrix(hidden, inner);
    weights.layers.push_back(std::move(w));
  }
  return weights;
}

inline std::vector<int32_t> RandomTokens(size_t count, const ModelConfig& config,
                                         std::mt19937& random) {
  std::vector<int32_t> tokens(count);
  for (int32_t& token : tokens) {
    token = static_cast<int32_t>(random() % static_cast<uint32_t>(config.vocab_size));
  }
  return tokens;
}

}  // namespace msadb::model

#endif  // MSADB_BENCH_KERNELS_RANDOM_MODEL_H_
