#include "kernels/sample.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

namespace msadb::kernels {

int32_t ArgMax(const float* logits, size_t count) {
  // By blocks, in lanes that the compiler keeps in vector registers; only a block that holds a new
  // best is searched for its place. A vocabulary of 150,000 would otherwise take a tenth of a
  // decoding step on a GPU.
  constexpr size_t kLanes = 16, kBlock = 1024;
  int32_t best = -1;
  float best_logit = -std::numeric_limits<float>::infinity();
  for (size_t begin = 0; begin < count; begin += kBlock) {
    const size_t end = std::min(begin + kBlock, count);
    float largest[kLanes];
    uint32_t is_nan[kLanes] = {};
    std::fill_n(largest, kLanes, -std::numeric_limits<float>::infinity());
    size_t i = begin;
    for (; i + kLanes <= end; i += kLanes) {
      const float* const x = logits + i;
      for (size_t j = 0; j < kLanes; ++j) largest[j] = x[j] > largest[j] ? x[j] : largest[j];
      for (size_t j = 0; j < kLanes; ++j) is_nan[j] |= x[j] != x[j] ? 1u : 0u;
    }
    for (; i < end; ++i) {
      largest[0] = std::max(largest[0], logits[i]);
      is_nan[0] |= static_cast<uint32_t>(logits[i] != logits[i]);
    }
    if (std::find(is_nan, is_nan + kLanes, 1u) != is_nan + kLanes) return -1;
    const float block_best = *std::max_element(largest, largest + kLanes);
    if (block_best > best_logit) {
      best_logit = block_best;
      best = static_cast<int32_t>(std::find(logits + begin, logits + end, block_best) - logits);
    }
  }
  return std::isinf(best_logit) ? -1 : best;
}

int32_t Sample(const SampleParams& p, std::mt19937_64& random,
               std::vector<std::pair<float, int32_t>>* scratch) {
  const int32_t best = ArgMax(p.logits, p.count);
  if (best < 0 || p.temperature <= 0) return best;

  // Tokens less probable than 1e-9 of the best cannot matter, and leaving them out keeps the sort
  // short.
  const float floor = p.logits[best] - 20.8f * p.temperature;
  std::vector<std::pair<float, int32_t>>& candidates = *scratch;  // (probability, token)
  candidates.clear();
  float total = 0;
  for (size_t i = 0; i < p.count; ++i) {
    if (p.logits[i] < floor) continue;
    const float weight = std::exp((p.logits[i] - p.logits[best]) / p.temperature);
    candidates.emplace_back(weight, static_cast<int32_t>(i));
    total += weight;
  }
  std::sort(candidates.begin(), candidates.end(), [](const auto& a, const auto& b) {
    return a.first != b.first ? a.first > b.first : a.second < b.second;
  });
  const float wanted = std::clamp(p.top_p, 0.0f, 1.0f) * total;
  float kept = 0;
  size_t n_kept = 0;
  while (n_kept < candidates.size() && (n_kept == 0 || kept < wanted)) {
    kept += candidates[n_kept++].first;
  }

  // 53 random bits, independent of the standard library's distributions.
  const double uniform = static_cast<double>(random() >> 11) * 0x1p-53;
  double left = uniform * kept;
  for (size_t i = 0; i < n_kept; ++i) {
    left -= candidates[i].first;
    if (left < 0) return candidates[i].second;
  }
  return candidates[n_kept - 1].second;
}

}  // namespace msadb::kernels
