#include "kernels/dtype.h"

#include <bit>

#include "kernels/cpu_features.h"

namespace msadb::kernels {

float F16ToF32(uint16_t bits) {
  const uint32_t sign = uint32_t{bits & 0x8000u} << 16;
  const uint32_t exponent = (bits >> 10) & 0x1f;
  const uint32_t mantissa = bits & 0x3ff;
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7f800000u | (mantissa << 13));
  if (exponent == 0) {
    const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
    return sign != 0 ? -magnitude : magnitude;
  }
  return std::bit_cast<float>(sign | ((exponent + 112) << 23) | (mantissa << 13));
}

uint16_t F32ToF16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint16_t sign = static_cast<uint16_t>((bits >> 16) & 0x8000u);
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) {  // NaN: keep the top of its payload, stay quiet
    return static_cast<uint16_t>(sign | 0x7e00u | ((magnitude >> 13) & 0x3ff));
  }
  if (magnitude >= 0x477ff000u) return sign | 0x7c00u;  // 65520 and above round to infinity
  if (magnitude < 0x38800000u) {                        // below 2^-14: subnormal
    // Adding 0.5 leaves the subnormal's ten bits, correctly rounded, at the bottom of the sum.
    const float shifted = std::bit_cast<float>(magnitude) + 0.5f;
    return static_cast<uint16_t>(sign | (std::bit_cast<uint32_t>(shifted) - 0x3f000000u));
  }
  const uint32_t odd = (magnitude >> 13) & 1;
  return static_cast<uint16_t>(sign | ((magnitude - 0x38000000u + 0xfffu + odd) >> 13));
}

float Bf16ToF32(uint16_t bits) { return std::bit_cast<float>(uint32_t{bits} << 16); }

uint16_t F32ToBf16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40);
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1)) >> 16);
}

void ConvertF16ToF32(const uint16_t* in, float* out, size_t count) {
#if MSADB_KERNELS_AVX2
  if (CpuHasAvx2()) return ConvertF16ToF32Avx2(in, out, count);
#endif
  for (size_t i = 0; i < count; ++i) out[i] = F16ToF32(in[i]);
}

void ConvertF32ToF16(const float* in, uint16_t* out, size_t count) {
#if MSADB_KERNELS_AVX2
  if (CpuHasAvx2()) return ConvertF32ToF16Avx2(in, out, count);
#endif
  for (size_t i = 0; i < count; ++i) out[i] = F32ToF16(in[i]);
}

void ConvertBf16ToF32(const uint16_t* in, float* out, size_t count) {
#if MSADB_KERNELS_AVX2
  if (CpuHasAvx2()) return ConvertBf16ToF32Avx2(in, out, count);
#endif
  for (size_t i = 0; i < count; ++i) out[i] = Bf16ToF32(in[i]);
}

void ConvertF32ToBf16(const float* in, uint16_t* out, size_t count) {
#if MSADB_KERNELS_AVX2
  if (CpuHasAvx2()) return ConvertF32ToBf16Avx2(in, out, count);
#endif
  for (size_t i = 0; i < count; ++i) out[i] = F32ToBf16(in[i]);
}

}  // namespace msadb::kernels
