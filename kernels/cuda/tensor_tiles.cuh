// Tiles of matrices in shared memory, filled by the tensor copy engine or by threads and multiplied
// by a warpgroup (wgmma): what primitives.cuh leaves to those who need it. Compute capability 9.0.
//
// A tile has rows of 128 bytes and is aligned to 1024 bytes. Its rows are swizzled: the 16 bytes c
// of row r lie at c ^ (r % 8).
#ifndef MSADB_KERNELS_CUDA_TENSOR_TILES_CUH_
#define MSADB_KERNELS_CUDA_TENSOR_TILES_CUH_

#include <cuda.h>

#include <cstdint>
#include <type_traits>

#include "kernels/cuda/primitives.cuh"

namespace msadb::kernels::cuda {

inline constexpr int kTileRowBytes = 128;

// --- Copies ---

// A matrix in device memory. As a kernel's parameter it is __grid_constant__.
using TileMap = CUtensorMap;

// Row-major [rows, columns] of 1 (integer) or 2 (float16) bytes an element, read in tiles of
// `tile_rows` rows; rows are a multiple of 16 bytes.
inline cudaError_t EncodeTileMap(TileMap* map, const void* data, uint64_t rows, int columns,
                                 int element_bytes, int tile_rows) {
  static const auto encode = [] {
    void* function = nullptr;
    cudaDriverEntryPointQueryResult found;
    if (cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000,
                                         cudaEnableDefault, &found) != cudaSuccess ||
        found != cudaDriverEntryPointSuccess) {
      function = nullptr;
    }
    return reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(function);
  }();
  if (encode == nullptr) return cudaErrorNotSupported;
  const cuuint64_t size[2] = {static_cast<cuuint64_t>(columns), rows};
  const cuuint64_t stride[1] = {static_cast<cuuint64_t>(columns) * element_bytes};
  const cuuint32_t box[2] = {static_cast<cuuint32_t>(kTileRowBytes / element_bytes),
                             static_cast<cuuint32_t>(tile_rows)};
  const cuuint32_t element[2] = {1, 1};
  const CUresult result = encode(
      map, element_bytes == 1 ? CU_TENSOR_MAP_DATA_TYPE_UINT8 : CU_TENSOR_MAP_DATA_TYPE_FLOAT16, 2,
      const_cast<void*>(data), size, stride, box, element, CU_TENSOR_MAP_INTERLEAVE_NONE,
      CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
      CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  return result == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
}

// The tile that begins at element (row, column). What is outside the matrix is 0, and counts for
// the barrier like the rest.
__device__ __forceinline__ void LoadTile(void* to, const TileMap* map, int column, int row,
                                         uint64_t* barrier) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes"
      " [%0], [%1, {%2, %3}], [%4];" ::"r"(SharedAddress(to)),
      "l"(map), "r"(column), "r"(row), "r"(SharedAddress(barrier))
      : "memory");
}

// --- Products of a warpgroup ---
//
// acc [64, 64] (+)= a [64, 16] b [64, 16]^T of float16 (or bfloat16) with float32 sums. Warp w of
// the warpgroup has rows 16 w to 16 w + 15: acc[4 j + {0, 1}] are columns 8 j + 2 (lane % 4) + {0,
// 1} of row lane / 4, acc[4 j + {2, 3}] the same of row lane / 4 + 8. Products run asynchronously:
// acc and fragments of a may be touched when TilesWait has said that their group is finished.

// 16 columns of a tile's rows: a's 64 or b's 64.
using TileOperand = uint64_t;

// Columns 16 step and following of the tile's first 64 rows.
__device__ __forceinline__ TileOperand OperandOf(const void* tile, int step) {
  // The descriptor of a K-major matrix with 128-byte swizzle: its address, 1024 bytes between
  // groups of 8 rows, all in units of 16 bytes. 16 float16 are 2 units.
  return (static_cast<uint64_t>((SharedAddress(tile) & 0x3FFFF) >> 4) | (uint64_t{1} << 16) |
          (uint64_t{1024 >> 4} << 32) | (uint64_t{1} << 62)) +
         2 * step;
}

#define MSADB_ACCUMULATORS                                                                      \
  "+f"(acc[0]), "+f"(acc[1]), "+f"(acc[2]), "+f"(acc[3]), "+f"(acc[4]), "+f"(acc[5]),           \
      "+f"(acc[6]), "+f"(acc[7]), "+f"(acc[8]), "+f"(acc[9]), "+f"(acc[10]), "+f"(acc[11]),     \
      "+f"(acc[12]), "+f"(acc[13]), "+f"(acc[14]), "+f"(acc[15]), "+f"(acc[16]), "+f"(acc[17]), \
      "+f"(acc[18]), "+f"(acc[19]), "+f"(acc[20]), "+f"(acc[21]), "+f"(acc[22]), "+f"(acc[23]), \
      "+f"(acc[24]), "+f"(acc[25]), "+f"(acc[26]), "+f"(acc[27]), "+f"(acc[28]), "+f"(acc[29]), \
      "+f"(acc[30]), "+f"(acc[31])

// With `accumulate` 0 acc is overwritten.
__device__ __forceinline__ void MultiplyTiles(float (&acc)[32], TileOperand a, TileOperand b,
                                              int accumulate) {
  asm volatile(
      "{\n"
      ".reg .pred p;\n"
      "setp.ne.b32 p, %34, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 "
      "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,"
      "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31},"
      " %32, %33, p, 1, 1, 0, 0;\n"
      "}\n"
      : MSADB_ACCUMULATORS
      : "l"(a), "l"(b), "r"(accumulate));
}

#define MSADB_MULTIPLY_FRAGMENT(type, transpose_b)                        \
  asm volatile(                                                           \
      "{\n"                                                               \
      ".reg .pred p;\n"                                                   \
      "setp.ne.b32 p, %37, 0;\n"                                          \
      "wgmma.mma_async.sync.aligned.m64n64k16.f32." type "." type         \
      " {%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,"          \
      "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31}," \
      " {%32,%33,%34,%35}, %36, p, 1, 1, " transpose_b                    \
      ";\n"                                                               \
      "}\n"                                                               \
      : MSADB_ACCUMULATORS                                                \
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(accumulate))

// With a in registers, as pairs: a[0] is columns 2 (lane % 4) + {0, 1} of the warp's row lane / 4,
// a[1] the same of row lane / 4 + 8, a[2] and a[3] those of columns 8 more. T: half or
// __nv_bfloat16, of a and b.
template <typename T = half>
__device__ __forceinline__ void MultiplyTiles(float (&acc)[32], const uint32_t (&a)[4],
                                              TileOperand b, int accumulate) {
  if constexpr (std::is_same_v<T, half>) {
    MSADB_MULTIPLY_FRAGMENT("f16", "0");
  } else {
    MSADB_MULTIPLY_FRAGMENT("bf16", "0");
  }
}

// acc [64, 64] (+)= a [64, 16] b [16, 64] of bfloat16, a as above. b: the 16 rows, a multiple of 8,
// of a tile at `rows`, as they lie there.
__device__ __forceinline__ void MultiplyTileRows(float (&acc)[32], const uint32_t (&a)[4],
                                                 const void* rows, int accumulate) {
  // 64 columns are one period of the swizzle; 8 rows are 1024 bytes, as in the other order.
  const TileOperand b = OperandOf(rows, 0);
  MSADB_MULTIPLY_FRAGMENT("bf16", "1");
}

#undef MSADB_MULTIPLY_FRAGMENT
#undef MSADB_ACCUMULATORS

// Makes what the thread wrote to shared memory, with CopyAsync too once CopyWait has returned,
// known to products; before others' products a barrier of the threads is needed as well.
__device__ __forceinline__ void TilesFence() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// Before the products of a group, when registers of theirs have been written.
__device__ __forceinline__ void TilesBegin(float (&acc)[32]) {
#pragma unroll
  for (int i = 0; i < 32; ++i) asm volatile("" : "+f"(acc[i])::"memory");
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

// Ends a group.
__device__ __forceinline__ void TilesCommit(float (&acc)[32]) {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#pragma unroll
  for (int i = 0; i < 32; ++i) asm volatile("" : "+f"(acc[i])::"memory");
}

// Returns when all but the last kGroups groups are finished.
template <int kGroups>
__device__ __forceinline__ void TilesWait(float (&acc)[32]) {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kGroups) : "memory");
  if constexpr (kGroups == 0) {
#pragma unroll
    for (int i = 0; i < 32; ++i) asm volatile("" : "+f"(acc[i])::"memory");
  }
}

}  // namespace msadb::kernels::cuda

#endif  // MSADB_KERNELS_CUDA_TENSOR_TILES_CUH_
