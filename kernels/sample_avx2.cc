#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "kernels/sample.h"
#include "kernels/simd_avx2.h"

namespace msadb::kernels {

int32_t ArgMaxAvx2(const float* logits, size_t count) {
  // The largest first, then its place: one pass that only compares is as fast as memory, and the
  // second ends where it finds what it looks for.
  constexpr size_t kWidth = 8, kTurn = 4 * kWidth;
  const __m256 lowest = _mm256_set1_ps(-std::numeric_limits<float>::infinity());
  __m256 largest[4] = {lowest, lowest, lowest, lowest};
  __m256 unordered[4] = {};
  size_t i = 0;
  for (; i + kTurn <= count; i += kTurn) {
    for (size_t j = 0; j < 4; ++j) {
      const __m256 x = _mm256_loadu_ps(logits + i + j * kWidth);
      largest[j] = _mm256_max_ps(largest[j], x);
      unordered[j] = _mm256_or_ps(unordered[j], _mm256_cmp_ps(x, x, _CMP_UNORD_Q));
    }
  }
  alignas(32) float lanes[kWidth];
  _mm256_store_ps(lanes, _mm256_max_ps(_mm256_max_ps(largest[0], largest[1]),
                                       _mm256_max_ps(largest[2], largest[3])));
  const __m256 any = _mm256_or_ps(_mm256_or_ps(unordered[0], unordered[1]),
                                  _mm256_or_ps(unordered[2], unordered[3]));
  if (_mm256_movemask_ps(any) != 0) return -1;
  float best = *std::max_element(lanes, lanes + kWidth);
  for (; i < count; ++i) {
    if (std::isnan(logits[i])) return -1;
    best = std::max(best, logits[i]);
  }
  if (std::isinf(best)) return -1;
  const __m256 wanted = _mm256_set1_ps(best);
  for (i = 0; i + kWidth <= count; i += kWidth) {
    const int found =
        _mm256_movemask_ps(_mm256_cmp_ps(_mm256_loadu_ps(logits + i), wanted, _CMP_EQ_OQ));
    if (found != 0) {
      return static_cast<int32_t>(i) + std::countr_zero(static_cast<unsigned>(found));
    }
  }
  return static_cast<int32_t>(std::find(logits + i, logits + count, best) - logits);
}

}  // namespace msadb::kernels
