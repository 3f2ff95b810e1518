// Fused routing for Hopper. Three launches:
//
// 1. route_scores: a persistent grid, one block per multiprocessor. The queries (64 columns) stay in
//    shared memory for the whole launch. One producer warp streams tiles of 128 keys x 64 dimensions
//    through a ring of stages with the bulk tensor copy engine; two consumer warpgroups multiply 64
//    keys each by all columns with wgmma, accumulate over dim in registers, reduce over columns by
//    quad shuffles, and write one float per (question, chunk). Every key byte is read once, and the
//    ring keeps about 100 KB per multiprocessor in flight, so the launch runs at memory bandwidth.
// 2. route_documents: each block takes a slice of documents, reduces chunks to documents and keeps
//    its best k in shared memory behind a rising threshold.
// 3. route_merge: one block per question merges the blocks' lists.
#include <algorithm>
#include <cstdint>

#include "kernels/cuda/primitives.cuh"
#include "kernels/route_topk.h"

namespace msadb::kernels {
namespace {

using namespace cuda;

constexpr int kTileRows = 128;     // keys per stage: 64 per consumer warpgroup
constexpr int kSlabColumns = 64;   // dimensions per stage: one 128-byte swizzled row
constexpr int kStages = 5;
constexpr int kStageBytes = kTileRows * kSlabColumns * 2;            // 16 KiB
constexpr int kQuerySlabBytes = kRouteColumns * kSlabColumns * 2;    // 8 KiB
constexpr int kConsumerThreads = 256;
constexpr int kThreads = kConsumerThreads + 128;  // the producer's warpgroup uses one thread
constexpr int kSelectThreads = 256;
constexpr int kSelectCapacity = 1024;
constexpr int kSelectBlocks = 256;

__global__ void __launch_bounds__(kThreads, 1)
    route_scores(const __grid_constant__ CUtensorMap key_map,
                 const __grid_constant__ CUtensorMap query_map,
                 const __grid_constant__ RouteColumns columns, int n_chunks, int n_slabs,
                 bool accumulate, float* __restrict__ chunk_scores) {
  GridRelease();
  // The swizzle pattern repeats every 1024 bytes and is applied to address bits.
  uint8_t* shared = reinterpret_cast<uint8_t*>(
      (reinterpret_cast<uintptr_t>(DynamicShared<uint8_t>()) + 1023) & ~uintptr_t{1023});
  uint8_t* queries = shared;
  uint8_t* stages = shared + n_slabs * kQuerySlabBytes;
  __shared__ uint64_t full[kStages];
  __shared__ uint64_t empty[kStages];
  __shared__ uint64_t queries_ready;

  if (threadIdx.x == 0) {
    for (int s = 0; s < kStages; ++s) {
      BarrierInit(&full[s], 1);
      BarrierInit(&empty[s], kConsumerThreads / 128);
    }
    BarrierInit(&queries_ready, 1);
    BarrierInitFence();
  }
  __syncthreads();
  GridWait();

  const int n_tiles = (n_chunks + kTileRows - 1) / kTileRows;
  const int warpgroup = threadIdx.x / 128;

  if (warpgroup == kConsumerThreads / 128) {
    if (threadIdx.x != kConsumerThreads) return;
    BarrierExpect(&queries_ready, n_slabs * kQuerySlabBytes);
    for (int slab = 0; slab < n_slabs; ++slab) {
      CopyTile(queries + slab * kQuerySlabBytes, &query_map, slab * kSlabColumns, 0, &queries_ready);
    }
    int stage = 0;
    uint32_t parity = 1;  // a fresh barrier counts as having completed the phase before
    for (int tile = blockIdx.x; tile < n_tiles; tile += gridDim.x) {
      for (int slab = 0; slab < n_slabs; ++slab) {
        BarrierWait(&empty[stage], parity);
        BarrierExpect(&full[stage], kStageBytes);
        CopyTile(stages + stage * kStageBytes, &key_map, slab * kSlabColumns, tile * kTileRows,
                 &full[stage]);
        if (++stage == kStages) {
          stage = 0;
          parity ^= 1;
        }
      }
    }
    return;
  }

  BarrierWait(&queries_ready, 0);
  const int lane = threadIdx.x % 32;
  const int row_in_tile = warpgroup * 64 + (threadIdx.x % 128) / 32 * 16 + lane / 4;
  int stage = 0;
  uint32_t parity = 0;
  for (int tile = blockIdx.x; tile < n_tiles; tile += gridDim.x) {
    float acc[32];
    int previous = -1;
    for (int slab = 0; slab < n_slabs; ++slab) {
      BarrierWait(&full[stage], parity);
      const uint64_t a =
          TileDescriptor(stages + stage * kStageBytes + warpgroup * (kStageBytes / 2));
      const uint64_t b = TileDescriptor(queries + slab * kQuerySlabBytes);
      MultiplyBegin(acc);
#pragma unroll
      for (int k = 0; k < kSlabColumns / 16; ++k) {
        MultiplyTiles(acc, a + 2 * k, b + 2 * k, slab > 0 || k > 0);
      }
      MultiplyCommit(acc);
      // The products of the stage before have been read: hand it back to the producer.
      MultiplyWait<1>(acc);
      if (previous >= 0 && threadIdx.x % 128 == 0) BarrierArrive(&empty[previous]);
      previous = stage;
      if (++stage == kStages) {
        stage = 0;
        parity ^= 1;
      }
    }
    MultiplyWait<0>(acc);
    if (threadIdx.x % 128 == 0) BarrierArrive(&empty[previous]);

    // acc[4 j + {0,1}] holds columns 8 j + 2 (lane % 4) + {0,1} of row lane / 4; acc[4 j + {2,3}]
    // the same columns of row lane / 4 + 8.
    const int row = tile * kTileRows + row_in_tile;
    float best_low = -INFINITY;
    float best_high = -INFINITY;
#pragma unroll
    for (int j = 0; j < kRouteColumns / 8; ++j) {
      float low = fmaxf(acc[4 * j], acc[4 * j + 1]);
      float high = fmaxf(acc[4 * j + 2], acc[4 * j + 3]);
#pragma unroll
      for (int offset = 1; offset <= 2; offset *= 2) {
        low = fmaxf(low, __shfl_xor_sync(0xFFFFFFFF, low, offset));
        high = fmaxf(high, __shfl_xor_sync(0xFFFFFFFF, high, offset));
      }
      const int question = columns.block_question[j];
      if (question < 0) break;
      best_low = fmaxf(best_low, low);
      best_high = fmaxf(best_high, high);
      const bool last = j + 1 == kRouteColumns / 8 || columns.block_question[j + 1] != question;
      if (last) {
        if (lane % 4 == 0) {
          float* out = chunk_scores + static_cast<size_t>(question) * n_chunks;
          if (row < n_chunks) out[row] = accumulate ? fmaxf(out[row], best_low) : best_low;
          if (row + 8 < n_chunks) {
            out[row + 8] = accumulate ? fmaxf(out[row + 8], best_high) : best_high;
          }
        }
        best_low = -INFINITY;
        best_high = -INFINITY;
      }
    }
  }
}

// Larger key = better: score first, then the smaller ordinal. 0 is below every real candidate.
__device__ __forceinline__ uint64_t CandidateKey(float score, uint32_t document) {
  const uint32_t bits = __float_as_uint(score);
  const uint32_t ordered = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
  return static_cast<uint64_t>(ordered) << 32 | static_cast<uint32_t>(~document);
}

// The best k of the keys offered so far, in shared memory. All threads of the block call together.
struct Selection {
  uint64_t keys[kSelectCapacity];
  uint64_t threshold;  // a key at or below it cannot be among the best k
  int count;

  __device__ void Reset() {
    if (threadIdx.x == 0) {
      threshold = 0;
      count = 0;
    }
    __syncthreads();
  }

  __device__ void Offer(uint64_t key, int k) {
    if (key > threshold) keys[atomicAdd(&count, 1)] = key;
    __syncthreads();
    const int filled = count;
    __syncthreads();  // nobody adds to count before everybody has read it
    if (filled > kSelectCapacity - kSelectThreads) Shrink(k);
  }

  // Sorts descending and keeps the best k. Bitonic, so that the cost does not depend on the data.
  __device__ void Shrink(int k) {
    const int filled = count;
    for (int i = filled + threadIdx.x; i < kSelectCapacity; i += kSelectThreads) keys[i] = 0;
    __syncthreads();
    for (int size = 2; size <= kSelectCapacity; size *= 2) {
      for (int stride = size / 2; stride > 0; stride /= 2) {
        for (int pair = threadIdx.x; pair < kSelectCapacity / 2; pair += kSelectThreads) {
          const int i = 2 * pair - (pair & (stride - 1));
          const int j = i + stride;
          const bool descending = (i & size) == 0;
          const uint64_t a = keys[i];
          const uint64_t b = keys[j];
          if ((a < b) == descending) {
            keys[i] = b;
            keys[j] = a;
          }
        }
        __syncthreads();
      }
    }
    if (threadIdx.x == 0) {
      count = min(filled, k);
      threshold = count == k ? keys[k - 1] : 0;
    }
    __syncthreads();
  }
};

__global__ void __launch_bounds__(kSelectThreads)
    route_documents(const float* __restrict__ chunk_scores, int n_chunks,
                    const uint32_t* __restrict__ document_begin, uint32_t n_documents,
                    const uint32_t* __restrict__ allowed, int k, uint64_t* __restrict__ candidates) {
  __shared__ Selection selection;
  GridRelease();
  selection.Reset();
  GridWait();
  const float* scores = chunk_scores + static_cast<size_t>(blockIdx.y) * n_chunks;
  const uint32_t step = gridDim.x * kSelectThreads;
  for (uint64_t base = blockIdx.x * kSelectThreads; base < n_documents; base += step) {
    const uint64_t document = base + threadIdx.x;
    uint64_t key = 0;
    if (document < n_documents &&
        (allowed == nullptr || (allowed[document / 32] >> (document % 32) & 1))) {
      const uint32_t end = document_begin[document + 1];
      float best = -INFINITY;
      for (uint32_t c = document_begin[document]; c < end; ++c) best = fmaxf(best, scores[c]);
      if (best > -INFINITY) key = CandidateKey(best, static_cast<uint32_t>(document));
    }
    selection.Offer(key, k);
  }
  __syncthreads();
  selection.Shrink(k);
  uint64_t* out = candidates + (static_cast<size_t>(blockIdx.y) * gridDim.x + blockIdx.x) * k;
  for (int i = threadIdx.x; i < k; i += kSelectThreads) {
    out[i] = i < selection.count ? selection.keys[i] : 0;
  }
}

__global__ void __launch_bounds__(kSelectThreads)
    route_merge(const uint64_t* __restrict__ candidates, int n_candidates, int k,
                RoutedOrdinal* __restrict__ results) {
  __shared__ Selection selection;
  GridRelease();
  selection.Reset();
  GridWait();
  const uint64_t* in = candidates + static_cast<size_t>(blockIdx.x) * n_candidates;
  for (int base = 0; base < n_candidates; base += kSelectThreads) {
    const int i = base + threadIdx.x;
    selection.Offer(i < n_candidates ? in[i] : 0, k);
  }
  __syncthreads();
  selection.Shrink(k);
  for (int i = threadIdx.x; i < k; i += kSelectThreads) {
    RoutedOrdinal result{-INFINITY, UINT32_MAX};
    if (i < selection.count) {
      const uint32_t ordered = static_cast<uint32_t>(selection.keys[i] >> 32);
      result.score = __uint_as_float(ordered & 0x80000000u ? ordered & 0x7FFFFFFFu : ~ordered);
      result.document = ~static_cast<uint32_t>(selection.keys[i]);
    }
    results[static_cast<size_t>(blockIdx.x) * k + i] = result;
  }
}

// A row-major [rows, dim] float16 matrix, read in boxes of [box_rows, 64] with 128-byte swizzle;
// columns past dim and rows past the end read as zero.
cudaError_t EncodeMap(CUtensorMap* map, const void* data, uint64_t rows, int dim, int box_rows) {
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
  const cuuint64_t size[2] = {static_cast<cuuint64_t>(dim), rows};
  const cuuint64_t stride[1] = {static_cast<cuuint64_t>(dim) * 2};
  const cuuint32_t box[2] = {kSlabColumns, static_cast<cuuint32_t>(box_rows)};
  const cuuint32_t element[2] = {1, 1};
  const CUresult result =
      encode(map, CU_TENSOR_MAP_DATA_TYPE_FLOAT16, 2, const_cast<void*>(data), size, stride, box,
             element, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
             CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  return result == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
}

}  // namespace

size_t RouteCandidateBytes(int n_questions, int top_k) {
  return static_cast<size_t>(n_questions) * kSelectBlocks * top_k * sizeof(uint64_t);
}

int RouteTopKSupported() {
  return FindCode(route_scores);
}

int RouteTopKCuda(const RouteParams& p, cudaStream_t stream) {
  if (p.n_chunks == 0 || p.n_chunks >= (size_t{1} << 31) - kTileRows || p.dim < 8 || p.dim > 1024 ||
      p.dim % 8 != 0 || p.columns.n_questions < 1 || p.columns.n_questions > kRouteQuestionsMax ||
      p.top_k < 1 || p.top_k > kRouteTopKMax || p.n_documents == 0 ||
      p.n_documents >= UINT32_MAX) {
    return cudaErrorInvalidValue;
  }
  CUtensorMap key_map;
  CUtensorMap query_map;
  cudaError_t error = EncodeMap(&key_map, p.keys, p.n_chunks, p.dim, kTileRows);
  if (error != cudaSuccess) return error;
  error = EncodeMap(&query_map, p.queries, kRouteColumns, p.dim, kRouteColumns);
  if (error != cudaSuccess) return error;

  const int n_slabs = (p.dim + kSlabColumns - 1) / kSlabColumns;
  const int shared_bytes = n_slabs * kQuerySlabBytes + kStages * kStageBytes + 1024;
  int device = 0;
  int processors = 0;
  if ((error = cudaGetDevice(&device)) != cudaSuccess) return error;
  if ((error = cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device)) !=
      cudaSuccess) {
    return error;
  }
  error = AllowShared(route_scores, shared_bytes);
  if (error != cudaSuccess) return error;
  const int n_tiles = static_cast<int>((p.n_chunks + kTileRows - 1) / kTileRows);
  error = Launch(route_scores, n_tiles < processors ? n_tiles : processors, kThreads, shared_bytes,
                 stream, key_map, query_map, p.columns, static_cast<int>(p.n_chunks), n_slabs,
                 p.accumulate, p.chunk_scores);
  if (error != cudaSuccess || p.more_columns) return error;

  const size_t select_blocks =
      std::min<size_t>(kSelectBlocks, (p.n_documents + kSelectThreads - 1) / kSelectThreads);
  const dim3 grid(static_cast<unsigned>(select_blocks), p.columns.n_questions);
  error = Launch(route_documents, grid, kSelectThreads, 0, stream, p.chunk_scores,
                 static_cast<int>(p.n_chunks), p.document_begin,
                 static_cast<uint32_t>(p.n_documents), p.allowed, p.top_k,
                 static_cast<uint64_t*>(p.candidates));
  if (error != cudaSuccess) return error;
  return Launch(route_merge, p.columns.n_questions, kSelectThreads, 0, stream,
                static_cast<const uint64_t*>(p.candidates), static_cast<int>(select_blocks) * p.top_k, p.top_k,
                p.results);
}

}  // namespace msadb::kernels
