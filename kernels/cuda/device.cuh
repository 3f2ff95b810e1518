// What all kernels of this folder share: launches that overlap, conversions, reductions.
//
// Every kernel is launched with programmatic serialisation: its blocks may start while the kernel
// before it drains, and read what that kernel wrote only after GridWait(). Every kernel therefore
// calls GridWait() before it touches activations (weights it may read earlier) and GridRelease() to
// let the next one start. A decoding step is some 220 short kernels; this hides most of the gaps
// between them. All ask for the same division of a multiprocessor's memory, the largest part shared:
// kernels that want different ones cannot be on it at the same time.
#ifndef MSADB_KERNELS_CUDA_DEVICE_CUH_
#define MSADB_KERNELS_CUDA_DEVICE_CUH_

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <type_traits>
#include <utility>

namespace msadb::kernels::cuda {

using bf16 = __nv_bfloat16;

__device__ __forceinline__ void GridWait() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

__device__ __forceinline__ void GridRelease() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;");
#endif
}

// `cluster` blocks along the grid's first dimension, which it divides, share their memory.
template <typename... Parameters, typename... Arguments>
cudaError_t LaunchClusters(void (*kernel)(Parameters...), dim3 grid, unsigned cluster,
                           unsigned threads, size_t shared, cudaStream_t stream,
                           Arguments&&... arguments) {
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = dim3(threads);
  config.dynamicSmemBytes = shared;
  config.stream = stream;
  cudaLaunchAttribute attributes[3] = {};
  attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[0].val.programmaticStreamSerializationAllowed = 1;
  attributes[1].id = cudaLaunchAttributePreferredSharedMemoryCarveout;
  attributes[1].val.sharedMemCarveout = cudaSharedmemCarveoutMaxShared;
  attributes[2].id = cudaLaunchAttributeClusterDimension;
  attributes[2].val.clusterDim.x = cluster;
  attributes[2].val.clusterDim.y = 1;
  attributes[2].val.clusterDim.z = 1;
  config.attrs = attributes;
  config.numAttrs = cluster > 1 ? 3 : 2;
  return cudaLaunchKernelEx(&config, kernel, Parameters(std::forward<Arguments>(arguments))...);
}

template <typename... Parameters, typename... Arguments>
cudaError_t Launch(void (*kernel)(Parameters...), dim3 grid, unsigned threads, size_t shared,
                   cudaStream_t stream, Arguments&&... arguments) {
  return LaunchClusters(kernel, grid, 1, threads, shared, stream,
                        std::forward<Arguments>(arguments)...);
}

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
