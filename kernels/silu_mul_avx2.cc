#include "kernels/silu_mul.h"
#include "kernels/simd_avx2.h"

namespace msadb::kernels {
namespace {

__m256 SiluMul(__m256 gate, __m256 up) {
  const __m256 one = _mm256_set1_ps(1.0f);
  const __m256 denominator = _mm256_add_ps(one, Exp(_mm256_sub_ps(_mm256_setzero_ps(), gate)));
  return _mm256_mul_ps(_mm256_div_ps(gate, denominator), up);
}

}  // namespace

void SiluMulAvx2(const SiluMulParams& p) {
  for (size_t i = 0; i < p.tokens; ++i) {
    const float* gate = p.gate_up + i * 2 * p.width;
    const float* up = gate + p.width;
    float* out = p.out + i * p.width;
    size_t j = 0;
    for (; j + 8 <= p.width; j += 8) {
      _mm256_storeu_ps(out + j, SiluMul(_mm256_loadu_ps(gate + j), _mm256_loadu_ps(up + j)));
    }
    for (; j < p.width; ++j) {
      out[j] = _mm256_cvtss_f32(SiluMul(_mm256_set1_ps(gate[j]), _mm256_set1_ps(up[j])));
    }
  }
}

}  // namespace msadb::kernels
