// kernels/cuda/primitives.cuh and the parts of CUDA C++ that the kernels use, on the emulation
// (emulation.h). The sources of kernels/cuda/ are compiled as C++ with this folder before the tree.
#ifndef MSADB_KERNELS_CUDA_PRIMITIVES_CUH_
#define MSADB_KERNELS_CUDA_PRIMITIVES_CUH_

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <tuple>
#include <type_traits>
#include <utility>

#include "emulation.h"

// --- CUDA C++ ---

#undef __global__
#undef __device__
#undef __host__
#undef __shared__
#undef __forceinline__
#undef __launch_bounds__
#undef __grid_constant__
#undef __align__
#undef __restrict__
#define __global__
#define __device__
#define __host__
#define __shared__ static thread_local
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(n) alignas(n)
#define __restrict__
#define threadIdx (::msadb::emulated::Thread())
#define blockIdx (::msadb::emulated::Block())
#define blockDim (::msadb::emulated::BlockSize())
#define gridDim (::msadb::emulated::GridSize())

namespace msadb::kernels {

inline void __syncthreads() { emulated::SyncThreads(); }
inline void __syncwarp() { emulated::SyncWarp(); }
inline void __threadfence() {}

template <typename T>
T __shfl_xor_sync(unsigned, T value, unsigned mask) {
  static_assert(sizeof(T) <= sizeof(uint64_t));
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  bits = emulated::Exchange(bits, emulated::Lane() ^ mask);
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

template <typename T>
T __shfl_sync(unsigned, T value, unsigned source) {
  static_assert(sizeof(T) <= sizeof(uint64_t));
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  bits = emulated::Exchange(bits, source % 32);
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// Of a whole warp.
inline unsigned __ballot_sync(unsigned, bool mine) {
  const uint32_t word = mine;
  const auto lanes = emulated::Gather(&word, 1);
  unsigned bits = 0;
  for (unsigned lane = 0; lane < 32; ++lane) bits |= lanes[lane][0] << lane;
  return bits;
}
inline bool __any_sync(unsigned mask, bool mine) { return __ballot_sync(mask, mine) != 0; }
inline int __ffs(unsigned bits) { return __builtin_ffs(static_cast<int>(bits)); }

// Bytes of low and high; a selector's highest bit, the sign's, is not used.
inline uint32_t __byte_perm(uint32_t low, uint32_t high, uint32_t selector) {
  const uint64_t bytes = uint64_t{high} << 32 | low;
  uint32_t result = 0;
  for (unsigned i = 0; i < 4; ++i) {
    result |= static_cast<uint32_t>(bytes >> (selector >> 4 * i & 7) * 8 & 0xff) << 8 * i;
  }
  return result;
}

// The blocks of a cluster run at once.
template <typename T>
T atomicAdd(T* at, T value) {
  return __atomic_fetch_add(at, value, __ATOMIC_SEQ_CST);
}

template <typename T>
T __ldg(const T* at) {
  return *at;
}
template <typename T>
T __ldcg(const T* at) {
  return *at;
}
template <typename T>
T __ldcs(const T* at) {
  return *at;
}

inline float __uint_as_float(uint32_t bits) { return std::bit_cast<float>(bits); }
inline uint32_t __float_as_uint(float value) { return std::bit_cast<uint32_t>(value); }
inline float __expf(float x) { return std::exp(x); }
inline float __double2float_rn(double x) { return static_cast<float>(x); }
inline float __double2float_rd(double x) {
  const auto near = static_cast<float>(x);
  return near > x ? std::nextafter(near, -INFINITY) : near;
}
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
using std::exp2f;

template <typename A, typename B>
auto min(A a, B b) -> std::common_type_t<A, B> {
  return b < a ? b : a;
}
template <typename A, typename B>
auto max(A a, B b) -> std::common_type_t<A, B> {
  return a < b ? b : a;
}

namespace cuda {

// --- Launches ---

inline void GridWait() {}
inline void GridRelease() {}

template <typename... Parameters, typename... Arguments>
cudaError_t LaunchClusters(void (*kernel)(Parameters...), dim3 grid, unsigned cluster,
                           unsigned threads, size_t shared, cudaStream_t,
                           Arguments&&... arguments) {
  const auto lost = static_cast<cudaError_t>(emulated::DeviceError());
  if (lost != cudaSuccess) return lost;
  const std::tuple<Parameters...> parameters(std::forward<Arguments>(arguments)...);
  const bool taken = emulated::Run({grid.x, grid.y, grid.z}, cluster, threads, shared,
                                   [&] { std::apply(kernel, parameters); });
  return taken ? cudaSuccess : cudaErrorInvalidConfiguration;
}

template <typename... Parameters, typename... Arguments>
cudaError_t Launch(void (*kernel)(Parameters...), dim3 grid, unsigned threads, size_t shared,
                   cudaStream_t stream, Arguments&&... arguments) {
  return LaunchClusters(kernel, grid, 1, threads, shared, stream,
                        std::forward<Arguments>(arguments)...);
}

template <typename... Parameters, typename... Arguments>
cudaError_t LaunchTogether(void (*kernel)(Parameters...), unsigned blocks, unsigned threads,
                           size_t shared, cudaStream_t, Arguments&&... arguments) {
  const auto lost = static_cast<cudaError_t>(emulated::DeviceError());
  if (lost != cudaSuccess) return lost;
  const std::tuple<Parameters...> parameters(std::forward<Arguments>(arguments)...);
  const bool taken = emulated::RunTogether(blocks, threads, shared,
                                           [&] { std::apply(kernel, parameters); });
  return taken ? cudaSuccess : cudaErrorCooperativeLaunchTooLarge;
}

template <typename... Parameters>
cudaError_t AllowShared(void (*)(Parameters...), size_t bytes) {
  return bytes <= 227 << 10 ? cudaSuccess : cudaErrorInvalidValue;
}

template <typename... Parameters>
cudaError_t FindCode(void (*)(Parameters...)) {
  return cudaSuccess;
}

// --- Memory ---

template <typename T>
T* DynamicShared() {
  return static_cast<T*>(emulated::SharedMemory());
}

inline void CheckAligned(const void* address, size_t bytes) {
  if (reinterpret_cast<uintptr_t>(address) % bytes != 0) {
    std::fprintf(stderr, "emulated kernel: %p is not aligned to %zu bytes\n", address, bytes);
    std::abort();
  }
}

inline uint4 LoadStreaming(const void* address) {
  CheckAligned(address, 16);
  return *static_cast<const uint4*>(address);
}

inline void StoreWord(uint64_t* at, uint64_t word) {
  __atomic_store_n(at, word, __ATOMIC_RELEASE);
}
inline ulonglong2 LoadWords(const uint64_t* at) {
  return {__atomic_load_n(at, __ATOMIC_ACQUIRE), __atomic_load_n(at + 1, __ATOMIC_ACQUIRE)};
}
inline void Pause() { emulated::Yield(); }

inline void PrefetchL2(const void*) {}

template <unsigned kBarrier>
void SyncSome(unsigned threads) {
  static_assert(kBarrier > 0 && kBarrier < 16);
  emulated::SyncSome(kBarrier, threads);
}

// --- Barriers of asynchronous copies ---

struct BarrierState {
  int32_t bytes;        // announced and not copied yet
  uint16_t arrivals : 12;
  uint16_t phase : 1;
  uint16_t pending;     // threads
};
static_assert(sizeof(BarrierState) == sizeof(uint64_t));

inline BarrierState* StateOf(uint64_t* barrier) { return reinterpret_cast<BarrierState*>(barrier); }

inline void EndPhase(BarrierState* state) {
  if (state->pending != 0 || state->bytes != 0) return;
  state->phase ^= 1;
  state->pending = state->arrivals;
}

inline void BarrierInit(uint64_t* barrier, uint32_t arrivals) {
  BarrierState* const state = StateOf(barrier);
  *state = {};
  state->arrivals = arrivals;
  state->pending = static_cast<uint16_t>(arrivals);
}

inline void BarrierInitFence() {}

inline void BarrierArrive(uint64_t* barrier) {
  BarrierState* const state = StateOf(barrier);
  --state->pending;
  EndPhase(state);
}

inline void BarrierExpect(uint64_t* barrier, uint32_t bytes) {
  StateOf(barrier)->bytes += static_cast<int32_t>(bytes);
  BarrierArrive(barrier);
}

inline void BarrierWait(uint64_t* barrier, uint32_t parity) {
  while (StateOf(barrier)->phase == (parity & 1)) emulated::Yield();
}

// --- Asynchronous copies to shared memory ---

inline void CopyBulk(void* to, const void* from, uint32_t bytes, uint64_t* barrier) {
  CheckAligned(to, 16);
  CheckAligned(from, 16);
  if (bytes % 16 != 0) std::abort();
  emulated::CopyLater(to, from, bytes, [=] {
    BarrierState* const state = StateOf(barrier);
    state->bytes -= static_cast<int32_t>(bytes);
    EndPhase(state);
  });
}

inline void CopyAsync(void* to, const void* from, bool valid) {
  CheckAligned(to, 16);
  CheckAligned(from, 16);
  emulated::CopyMine(to, valid ? from : nullptr, 16);
}

inline void CopyCommit() { emulated::CommitMine(); }

template <int kGroups>
void CopyWait() {
  emulated::WaitMine(kGroups);
}

// --- Arithmetic ---

inline float Exp2(float x) { return std::exp2(x); }

// --- Matrices ---

inline const uint16_t* RowOf(const uint32_t (*lanes)[16], unsigned lane) {
  uintptr_t address;
  std::memcpy(&address, lanes[lane], sizeof address);
  return reinterpret_cast<const uint16_t*>(address);
}

inline const uint32_t (*GatherRows(const void* row))[16] {
  CheckAligned(row, 16);
  uint32_t words[2];
  std::memcpy(words, &row, sizeof words);
  return emulated::Gather(words, 2);
}

inline void LoadMatrix(uint32_t (&r)[4], const void* row) {
  const auto rows = GatherRows(row);
  const unsigned lane = emulated::Lane();
  for (unsigned i = 0; i < 4; ++i) {
    std::memcpy(&r[i], RowOf(rows, 8 * i + lane / 4) + 2 * (lane % 4), sizeof r[i]);
  }
}

inline void LoadMatrixTransposed(uint32_t (&r)[4], const void* row) {
  const auto rows = GatherRows(row);
  const unsigned lane = emulated::Lane();
  for (unsigned i = 0; i < 4; ++i) {
    const uint32_t low = RowOf(rows, 8 * i + 2 * (lane % 4))[lane / 4];
    const uint32_t high = RowOf(rows, 8 * i + 2 * (lane % 4) + 1)[lane / 4];
    r[i] = low | high << 16;
  }
}

inline float Bf16At(uint32_t pair, unsigned i) {
  return std::bit_cast<float>(i == 0 ? pair << 16 : pair & 0xffff0000u);
}

inline void Multiply(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  const uint32_t mine[6] = {a[0], a[1], a[2], a[3], b0, b1};
  const auto lanes = emulated::Gather(mine, 6);
  const unsigned lane = emulated::Lane();
  for (unsigned i = 0; i < 4; ++i) {
    const unsigned row = lane / 4, column = 2 * (lane % 4) + i % 2;
    for (unsigned k = 0; k < 16; ++k) {
      // a[0..3]: rows g and g + 8 of columns 0..7, the same of columns 8..15.
      const uint32_t left = lanes[row * 4 + k % 8 / 2][i / 2 + (k / 8) * 2];
      const uint32_t right = lanes[column * 4 + k % 8 / 2][4 + k / 8];
      c[i] = std::fma(Bf16At(left, k % 2), Bf16At(right, k % 2), c[i]);
    }
  }
}

// --- Clusters ---

inline void ClusterSync() { emulated::SyncCluster(); }

template <typename T>
const T* ClusterAddress(const T* shared, unsigned rank) {
  return static_cast<const T*>(emulated::OfBlock(shared, rank));
}

}  // namespace cuda
}  // namespace msadb::kernels

#endif  // MSADB_KERNELS_CUDA_PRIMITIVES_CUH_
