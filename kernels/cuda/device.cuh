// What all kernels of this folder share: conversions and reductions, and through primitives.cuh what
// they ask of the hardware.
#ifndef MSADB_KERNELS_CUDA_DEVICE_CUH_
#define MSADB_KERNELS_CUDA_DEVICE_CUH_

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "kernels/cuda/primitives.cuh"

namespace msadb::kernels::cuda {

using bf16 = __nv_bfloat16;

__device__ __forceinline__ float ToFloat(float x) { return x; }
__device__ __forceinline__ float ToFloat(bf16 x) { return __bfloat162float(x); }
template <typename T>
__device__ __forceinline__ T FromFloat(float x);
template <>
__device__ __forceinline__ float FromFloat<float>(float x) {
  return x;
}
template <>
__device__ __forceinline__ bf16 FromFloat<bf16>(float x) {
  return __float2bfloat16_rn(x);
}

// The two bfloat16 of a word.
__device__ __forceinline__ float Low(uint32_t pair) { return __uint_as_float(pair << 16); }
__device__ __forceinline__ float High(uint32_t pair) { return __uint_as_float(pair & 0xffff0000u); }
__device__ __forceinline__ uint32_t Pack(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&pair);
}

__device__ __forceinline__ float WarpSum(float x) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(~0u, x, step);
  return x;
}

// The sum over a block of up to 1024 threads, for all of them. `shared` holds 33 floats and may be
// reused after the next barrier.
__device__ __forceinline__ float BlockSum(float x, float* shared) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  x = WarpSum(x);
  if (lane == 0) shared[warp] = x;
  __syncthreads();
  const int warps = blockDim.x / 32;
  x = WarpSum(lane < warps ? shared[lane] : 0.0f);
  return x;
}

__host__ __device__ constexpr unsigned CeilDiv(size_t a, size_t b) {
  return static_cast<unsigned>((a + b - 1) / b);
}

}  // namespace msadb::kernels::cuda

#endif  // MSADB_KERNELS_CUDA_DEVICE_CUH_
