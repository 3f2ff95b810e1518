#include "kernels/sample.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "kernels/cpu_features.h"

namespace msadb::kernels {

int32_t ArgMaxRef(const float* logits, size_t count) {
  int32_t best = -1;
  float best_logit = -std::numeric_limits<float>::infinity();
  for (size_t i = 0; i < count; ++i) {
    if (std::isnan(logits[i])) return -1;
    if (logits[i] > best_logit) {
      best_logit = logits[i];
      best = static_cast<int32_t>(i);
    }
  }
  return std::isinf(best_logit) ? -1 : best;
}

int32_t ArgMax(const float* logits, size_t count) {
#if MSADB_KERNELS_AVX2
  if (CpuHasAvx2()) return ArgMaxAvx2(logits, count);
#endif
  return ArgMaxRef(logits, count);
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
