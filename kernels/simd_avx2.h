// Small vector helpers for the *_avx2.cc files, which alone may include this. Everything here has
// internal linkage: a copy compiled for AVX2 must never be linked into generic code.
#ifndef MSADB_KERNELS_SIMD_AVX2_H_
#define MSADB_KERNELS_SIMD_AVX2_H_

#include <immintrin.h>

namespace msadb::kernels {
namespace {

[[maybe_unused]] inline float Sum(__m256 v) {
  __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  s = _mm_add_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}

[[maybe_unused]] inline float Max(__m256 v) {
  __m128 s = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  s = _mm_max_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
}

// e^x with a relative error below 2e-7: x = n ln 2 + r, e^r by a degree-6 polynomial, 2^n into the
// exponent. Below -87.3 the result is 0, above 88.3 it saturates near FLT_MAX. NaN is not kept.
[[maybe_unused]] inline __m256 Exp(__m256 x) {
  const __m256 underflow = _mm256_cmp_ps(x, _mm256_set1_ps(-87.3f), _CMP_LT_OQ);
  x = _mm256_min_ps(_mm256_max_ps(x, _mm256_set1_ps(-87.3f)), _mm256_set1_ps(88.3f));
  const __m256 n = _mm256_round_ps(_mm256_mul_ps(x, _mm256_set1_ps(1.44269504f)),
                                   _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  __m256 r = _mm256_fnmadd_ps(n, _mm256_set1_ps(0.693359375f), x);  // ln 2 in two parts
  r = _mm256_fnmadd_ps(n, _mm256_set1_ps(-2.12194440e-4f), r);
  __m256 e = _mm256_set1_ps(1.3888889e-3f);
  e = _mm256_fmadd_ps(e, r, _mm256_set1_ps(8.3333333e-3f));
  e = _mm256_fmadd_ps(e, r, _mm256_set1_ps(4.1666667e-2f));
  e = _mm256_fmadd_ps(e, r, _mm256_set1_ps(1.6666667e-1f));
  e = _mm256_fmadd_ps(e, r, _mm256_set1_ps(0.5f));
  e = _mm256_fmadd_ps(e, r, _mm256_set1_ps(1.0f));
  e = _mm256_fmadd_ps(e, r, _mm256_set1_ps(1.0f));
  const __m256i power =
      _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
  return _mm256_andnot_ps(underflow, _mm256_mul_ps(e, _mm256_castsi256_ps(power)));
}

}  // namespace
}  // namespace msadb::kernels

#endif  // MSADB_KERNELS_SIMD_AVX2_H_
