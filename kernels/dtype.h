// Conversions between float32 and the 16-bit float formats that weights and stored blocks use.
//
// Rounding is to nearest, ties to even. Infinities and signed zeros are kept; a NaN stays a NaN.
// float16 overflow gives infinity, float16 subnormals are exact in both directions.
#ifndef MSADB_KERNELS_DTYPE_H_
#define MSADB_KERNELS_DTYPE_H_

#include <cstddef>
#include <cstdint>

namespace msadb::kernels {

// One value each; the reference for the array forms.
float F16ToF32(uint16_t bits);
uint16_t F32ToF16(float value);
float Bf16ToF32(uint16_t bits);
uint16_t F32ToBf16(float value);

// Arrays of `count` values; input and output do not overlap. Any alignment.
void ConvertF16ToF32(const uint16_t* in, float* out, size_t count);
void ConvertF32ToF16(const float* in, uint16_t* out, size_t count);
void ConvertBf16ToF32(const uint16_t* in, float* out, size_t count);
void ConvertF32ToBf16(const float* in, uint16_t* out, size_t count);

// The vectorised forms; only where CpuHasAvx2().
void ConvertF16ToF32Avx2(const uint16_t* in, float* out, size_t count);
void ConvertF32ToF16Avx2(const float* in, uint16_t* out, size_t count);
void ConvertBf16ToF32Avx2(const uint16_t* in, float* out, size_t count);
void ConvertF32ToBf16Avx2(const float* in, uint16_t* out, size_t count);

}  // namespace msadb::kernels

#endif  // MSADB_KERNELS_DTYPE_H_
