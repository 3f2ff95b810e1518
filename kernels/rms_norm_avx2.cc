#include "kernels/rms_norm.h"
#include "kernels/simd_avx2.h"

namespace msadb::kernels {

void RmsNormAvx2(const RmsNormParams& p) {
  const size_t vectors_end = p.width / 8 * 8;
  for (size_t i = 0; i < p.tokens; ++i) {
    for (size_t h = 0; h < p.heads; ++h) {
      const float* x = p.x + i * p.x_stride + h * p.width;
      float* y = p.y + i * p.y_stride + h * p.width;
      __m256 squares0 = _mm256_setzero_ps();
      __m256 squares1 = _mm256_setzero_ps();
      size_t j = 0;
      for (; j + 16 <= p.width; j += 16) {
        const __m256 a = _mm256_loadu_ps(x + j);
        const __m256 b = _mm256_loadu_ps(x + j + 8);
        squares0 = _mm256_fmadd_ps(a, a, squares0);
        squares1 = _mm256_fmadd_ps(b, b, squares1);
      }
      float squares = Sum(_mm256_add_ps(squares0, squares1));
      for (; j < p.width; ++j) squares += x[j] * x[j];
      const float mean = squares / static_cast<float>(p.width);
      const float scale = 1.0f / _mm_cvtss_f32(_mm_sqrt_ss(_mm_set_ss(mean + p.epsilon)));
      const __m256 scale8 = _mm256_set1_ps(scale);
      for (j = 0; j < vectors_end; j += 8) {
        const __m256 scaled = _mm256_mul_ps(_mm256_loadu_ps(x + j), scale8);
        _mm256_storeu_ps(y + j, _mm256_mul_ps(scaled, _mm256_loadu_ps(p.weight + j)));
      }
      for (; j < p.width; ++j) y[j] = x[j] * scale * p.weight[j];
    }
  }
}

}  // namespace msadb::kernels
