// A brute-force memory to hold the index against: documents in a std::map, scored one by one.
#ifndef MSADB_TESTS_INDEX_INDEX_TEST_UTIL_H_
#define MSADB_TESTS_INDEX_INDEX_TEST_UTIL_H_

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <map>
#include <random>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "index/routing_index.h"
#include "kernels/cuda_backend.h"
#include "kernels/dtype.h"

namespace msadb::index {

struct TestDocument {
  uint32_t n_chunks = 0;
  std::vector<float> keys;  // [n_layers, n_chunks, dim]
};

using TestMemory = std::map<DocumentNumber, TestDocument>;

enum class Values {
  kGaussian,
  kCoarse,    // -1, 0 or 1: exact ties between documents are frequent
  kNearTies,  // one vector, nudged in the last bits: float32 products cannot tell the documents
              // apart
};

inline std::string NameOf(KeyType type) { return type == KeyType::kInt8 ? "Int8" : "Float"; }

// Makes the keys of a document what an index of this configuration holds of them.
inline void RoundAsIndex(const IndexConfig& config, TestDocument* document) {
  if (config.key_type == KeyType::kInt8) {
    RoundKeysToInt8(document->keys.data(), document->keys.size() / config.dim, config.dim);
  } else if (!config.devices.empty()) {
    for (float& v : document->keys) v = kernels::F16ToF32(kernels::F32ToF16(v));
  }
}

// Two memories on the first GPU: with them everything that several GPUs do is done.
inline std::vector<int> TwoShards() { return {0, 0}; }

inline bool HaveGpu() { return kernels::CudaDeviceCount() > 0; }

inline std::vector<float> RandomFloats(std::mt19937_64& rng, size_t n, Values values) {
  std::vector<float> floats(n);
  std::normal_distribution<float> normal;
  std::uniform_int_distribution<int> grid(-1, 1);
  std::mt19937_64 same(42);
  for (float& v : floats) {
    if (values == Values::kNearTies) {
      v = normal(same) * (1 + 1e-7f * static_cast<float>(grid(rng)));
    } else {
      v = values == Values::kCoarse ? static_cast<float>(grid(rng)) : normal(rng);
    }
  }
  return floats;
}

// Its keys are not rounded yet.
inline TestDocument RandomDocument(std::mt19937_64& rng, const IndexConfig& config,
                                   uint32_t chunks_max, Values values) {
  TestDocument document;
  document.n_chunks = std::uniform_int_distribution<uint32_t>(1, chunks_max)(rng);
  document.keys = RandomFloats(rng, config.n_layers * document.n_chunks * config.dim, values);
  const bool rounds = config.key_type == KeyType::kInt8 || !config.devices.empty();
  if (values == Values::kNearTies && rounds) {  // the nudge of a float32 is lost: a larger one
    const float nudge = config.key_type == KeyType::kInt8 ? 1e-2f : 1e-3f;
    std::uniform_int_distribution<int> grid(-1, 1);
    for (float& v : document.keys) v *= 1 + nudge * static_cast<float>(grid(rng));
  }
  return document;
}

inline DocumentKeys KeysOf(DocumentNumber number, const TestDocument& document) {
  return {number, document.n_chunks, document.keys.data()};
}

// `memory` as the index holds it.
inline std::vector<RoutedDocument> BruteForce(const TestMemory& memory, const IndexConfig& config,
                                              int layer, const std::vector<float>& queries,
                                              size_t k, const std::set<DocumentNumber>* allowed) {
  const size_t n_tokens = queries.size() / config.dim;
  std::vector<RoutedDocument> all;
  if (n_tokens == 0) return all;
  for (const auto& [number, document] : memory) {
    if (allowed != nullptr && !allowed->contains(number)) continue;
    const float* keys = document.keys.data() + layer * document.n_chunks * config.dim;
    double best = -std::numeric_limits<double>::infinity();
    for (uint32_t c = 0; c < document.n_chunks; ++c) {
      for (size_t t = 0; t < n_tokens; ++t) {
        double sum = 0;
        for (size_t i = 0; i < config.dim; ++i) {
          sum += static_cast<double>(queries[t * config.dim + i]) * keys[c * config.dim + i];
        }
        best = std::max(best, sum);
      }
    }
    all.push_back({number, static_cast<float>(best)});
  }
  std::stable_sort(all.begin(), all.end(), [](const RoutedDocument& a, const RoutedDocument& b) {
    return a.score > b.score;
  });
  if (all.size() > k) all.resize(k);
  return all;
}

// The seed of a randomized test: fixed, or MSADB_TEST_SEED from the environment.
inline uint64_t TestSeed(uint64_t fixed) {
  const char* seed = std::getenv("MSADB_TEST_SEED");
  return seed ? std::strtoull(seed, nullptr, 10) : fixed;
}

}  // namespace msadb::index

#endif  // MSADB_TESTS_INDEX_INDEX_TEST_UTIL_H_
