#include "kernels/rope.h"
#include "kernels/simd_avx2.h"

namespace msadb::kernels {

void RopeAvx2(const RopeParams& p) {
  const size_t half = p.head_dim / 2;
  for (size_t i = 0; i < p.tokens; ++i) {
    const float* cosine = p.cosines + i * half;
    const float* sine = p.sines + i * half;
    for (size_t h = 0; h < p.heads; ++h) {
      float* x = p.x + i * p.x_stride + h * p.head_dim;
      size_t j = 0;
      for (; j + 8 <= half; j += 8) {
        const __m256 low = _mm256_loadu_ps(x + j);
        const __m256 high = _mm256_loadu_ps(x + j + half);
        const __m256 c = _mm256_loadu_ps(cosine + j);
        const __m256 s = _mm256_loadu_ps(sine + j);
        _mm256_storeu_ps(x + j, _mm256_fmsub_ps(low, c, _mm256_mul_ps(high, s)));
        _mm256_storeu_ps(x + j + half, _mm256_fmadd_ps(high, c, _mm256_mul_ps(low, s)));
      }
      for (; j < half; ++j) {
        const float low = x[j];
        const float high = x[j + half];
        x[j] = low * cosine[j] - high * sine[j];
        x[j + half] = high * cosine[j] + low * sine[j];
      }
    }
  }
}

}  // namespace msadb::kernels
