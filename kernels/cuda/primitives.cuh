// What the kernels of this folder ask of the hardware beyond CUDA C++: launches that overlap,
// asynchronous copies into shared memory and their barriers, matrix instructions, clusters; what only
// routing and attention use is in tensor_tiles.cuh. Nothing else of the folder holds PTX, so that a
// second implementation of the two headers can run the kernels elsewhere: tests/kernels/cuda/emulated/
// does so on a CPU.
#ifndef MSADB_KERNELS_CUDA_PRIMITIVES_CUH_
#define MSADB_KERNELS_CUDA_PRIMITIVES_CUH_

#include <cooperative_groups.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <utility>

namespace msadb::kernels::cuda {

// --- Launches ---
//
// Every kernel is launched with programmatic serialisation: its blocks may start while the kernel
// before it drains, and read what that kernel wrote only after GridWait(). Every kernel therefore
// calls GridWait() before it touches activations (weights it may read earlier) and GridRelease() to
// let the next one start. A decoding step is some 180 short kernels; this hides most of the gaps
// between them. All ask for the same division of a multiprocessor's memory, the largest part shared:
// kernels that want different ones cannot be on it at the same time.

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

// `cluster` blocks along the grid's first dimension, which it divides, can read each other's shared
// memory.
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

// All blocks are on the device at the same time, or the launch fails: they may wait for each other.
// They come after all earlier work.
template <typename... Parameters, typename... Arguments>
cudaError_t LaunchTogether(void (*kernel)(Parameters...), unsigned blocks, unsigned threads,
                           size_t shared, cudaStream_t stream, Arguments&&... arguments) {
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(blocks);
  config.blockDim = dim3(threads);
  config.dynamicSmemBytes = shared;
  config.stream = stream;
  cudaLaunchAttribute attribute = {};
  attribute.id = cudaLaunchAttributeCooperative;
  attribute.val.cooperative = 1;
  config.attrs = &attribute;
  config.numAttrs = 1;
  return cudaLaunchKernelEx(&config, kernel, Parameters(std::forward<Arguments>(arguments))...);
}

// Lets launches of `kernel` have more shared memory than the 48 KB that all have.
template <typename... Parameters>
cudaError_t AllowShared(void (*kernel)(Parameters...), size_t bytes) {
  return cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                              static_cast<int>(bytes));
}

// Whether this build has code of `kernel` for the current device.
template <typename... Parameters>
cudaError_t FindCode(void (*kernel)(Parameters...)) {
  cudaFuncAttributes attributes;
  return cudaFuncGetAttributes(&attributes, kernel);
}

// --- Memory ---

// The launch's `shared` bytes, aligned to 128.
template <typename T>
__device__ __forceinline__ T* DynamicShared() {
  extern __shared__ __align__(128) uint8_t dynamic_shared[];
  return reinterpret_cast<T*>(dynamic_shared);
}

__device__ __forceinline__ uint32_t SharedAddress(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

// 16 bytes that are read once.
__device__ __forceinline__ uint4 LoadStreaming(const void* address) {
  uint4 words;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];"
               : "=r"(words.x), "=r"(words.y), "=r"(words.z), "=r"(words.w)
               : "l"(address));
  return words;
}

// A word that other blocks wait for or write, whole.
__device__ __forceinline__ void StoreWord(uint64_t* at, uint64_t word) {
  asm volatile("st.relaxed.gpu.global.u64 [%0], %1;" ::"l"(at), "l"(word) : "memory");
}
// Two that follow each other, each whole; `at` is a multiple of 16 bytes.
__device__ __forceinline__ ulonglong2 LoadWords(const uint64_t* at) {
  ulonglong2 words;
  asm volatile("ld.relaxed.gpu.global.v2.u64 {%0,%1}, [%2];"
               : "=l"(words.x), "=l"(words.y)
               : "l"(at)
               : "memory");
  return words;
}
// In a loop that reads such words until they are there.
__device__ __forceinline__ void Pause() {}

__device__ __forceinline__ void PrefetchL2(const void* address) {
  asm volatile("prefetch.global.L2 [%0];" ::"l"(address));
}

// A barrier of `threads` threads of the block, whole warps. kBarrier: 1 to 15; 0 is __syncthreads().
template <unsigned kBarrier>
__device__ __forceinline__ void SyncSome(unsigned threads) {
  asm volatile("bar.sync %0, %1;" ::"n"(kBarrier), "r"(threads) : "memory");
}

// --- Barriers of asynchronous copies ---
//
// A phase of a barrier ends when `arrivals` threads have arrived and as many bytes as they announced
// have been copied. Phases count 0, 1, 0, ...; waiting for the parity of the phase before a fresh
// barrier's first returns at once.

__device__ __forceinline__ void BarrierInit(uint64_t* barrier, uint32_t arrivals) {
  asm volatile(
      "mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(SharedAddress(barrier)), "r"(arrivals));
}

// Makes initialised barriers known to the copy engine; before others use them a barrier of the
// threads is needed too.
__device__ __forceinline__ void BarrierInitFence() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

// Arrives, and announces copies of `bytes`.
__device__ __forceinline__ void BarrierExpect(uint64_t* barrier, uint32_t bytes) {
  asm volatile(
      "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(SharedAddress(barrier)),
      "r"(bytes)
      : "memory");
}

__device__ __forceinline__ void BarrierArrive(uint64_t* barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(SharedAddress(barrier)) : "memory");
}

__device__ __forceinline__ void BarrierWait(uint64_t* barrier, uint32_t parity) {
  uint32_t done;
  do {
    asm volatile(
        "{\n"
        ".reg .pred done;\n"
        "mbarrier.try_wait.parity.shared::cta.b64 done, [%1], %2;\n"
        "selp.u32 %0, 1, 0, done;\n"
        "}\n"
        : "=r"(done)
        : "r"(SharedAddress(barrier)), "r"(parity)
        : "memory");
  } while (done == 0);
}

// --- Asynchronous copies to shared memory ---

// Both addresses and the size are multiples of 16.
__device__ __forceinline__ void CopyBulk(void* to, const void* from, uint32_t bytes,
                                         uint64_t* barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::
          "r"(SharedAddress(to)),
      "l"(from), "r"(bytes), "r"(SharedAddress(barrier))
      : "memory");
}

// 16 bytes, or zeros. A thread's copies are grouped by CopyCommit; CopyWait<n> returns when all but
// its last n groups are there.
__device__ __forceinline__ void CopyAsync(void* to, const void* from, bool valid) {
  const int bytes = valid ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(SharedAddress(to)), "l"(from),
               "r"(bytes)
               : "memory");
}

__device__ __forceinline__ void CopyCommit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

template <int kGroups>
__device__ __forceinline__ void CopyWait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kGroups) : "memory");
}

// --- Arithmetic ---

// 2^x within 2 units in the last place; 0 where that is not a normal number.
__device__ __forceinline__ float Exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// --- Matrices ---

// Four 8 x 8 matrices of 16-bit elements; lane l gives the address of row l % 8 of matrix l / 8, and
// r[i] becomes the elements (l / 4, 2 (l % 4)) and the next of matrix i.
__device__ __forceinline__ void LoadMatrix(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(SharedAddress(row))
               : "memory");
}

// The same of the transposed matrices.
__device__ __forceinline__ void LoadMatrixTransposed(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(SharedAddress(row))
               : "memory");
}

// c [16, 8] += a [16, 16] b [16, 8] of bfloat16, in the layouts of mma.m16n8k16.
__device__ __forceinline__ void Multiply(float (&c)[4], const uint32_t (&a)[4], uint32_t b0,
                                         uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
      "{%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// --- Clusters ---

// A barrier of all threads of the cluster; shared memory written before it can be read after it.
__device__ __forceinline__ void ClusterSync() { cooperative_groups::this_cluster().sync(); }

// The address of block `rank`'s copy of a shared variable.
template <typename T>
__device__ __forceinline__ const T* ClusterAddress(const T* shared, unsigned rank) {
  return cooperative_groups::this_cluster().map_shared_rank(shared, rank);
}

}  // namespace msadb::kernels::cuda

#endif  // MSADB_KERNELS_CUDA_PRIMITIVES_CUH_
