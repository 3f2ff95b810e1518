#include <cstdint>

#include "kernels/cuda/primitives.cuh"
#include "kernels/route_topk_exact.h"

namespace msadb::kernels {
namespace {

using namespace cuda;

constexpr int kThreads = 128;
constexpr int kRescoreBlocks = 528;  // 4 for each multiprocessor of an H200; any number is right
constexpr int kDimMax = 1024;

__global__ void pack_queries(const float* __restrict__ queries, int n_tokens, int dim, float scale,
                             __half* __restrict__ packed, int padded_dim) {
  GridRelease();
  GridWait();
  const int row = blockIdx.x;
  const int token = row < n_tokens ? row : n_tokens - 1;
  for (int i = threadIdx.x; i < padded_dim; i += blockDim.x) {
    const float value = i < dim ? queries[static_cast<size_t>(token) * dim + i] * scale : 0.0f;
    packed[static_cast<size_t>(row) * padded_dim + i] = __float2half_rn(value);
  }
}

__global__ void __launch_bounds__(kThreads)
    collect_rows(const float* __restrict__ chunk_scores,
                 const uint32_t* __restrict__ document_begin, uint32_t n_documents,
                 const uint32_t* __restrict__ allowed, float threshold, uint32_t segment,
                 RouteRow* __restrict__ rows, uint32_t capacity, uint32_t* __restrict__ count) {
  GridRelease();
  GridWait();
  const uint64_t step = static_cast<uint64_t>(gridDim.x) * blockDim.x;
  for (uint64_t d = static_cast<uint64_t>(blockIdx.x) * blockDim.x + threadIdx.x; d < n_documents;
       d += step) {
    if (allowed != nullptr && !(allowed[d / 32] >> (d % 32) & 1)) continue;
    const uint32_t end = document_begin[d + 1];
    for (uint32_t c = document_begin[d]; c < end; ++c) {
      if (!(chunk_scores[c] >= threshold)) continue;
      const uint32_t at = atomicAdd(count, 1u);
      if (at < capacity) rows[at] = RouteRow{segment, c, 0.0f};
    }
  }
}

// One block a row, one thread a token: each sum runs in the order of the dimensions.
__global__ void __launch_bounds__(kThreads)
    rescore_rows(const RouteRow* __restrict__ rows, const uint32_t* __restrict__ count,
                 uint32_t capacity, const void* const* __restrict__ keys,
                 const float* __restrict__ queries, int n_tokens, int dim, int padded_dim,
                 RouteRow* __restrict__ results, uint32_t* __restrict__ result_count) {
  __shared__ double key[kDimMax];
  __shared__ double warp_best[kThreads / 32];
  GridRelease();
  GridWait();
  const uint32_t n = min(*count, capacity);
  if (blockIdx.x == 0 && threadIdx.x == 0) *result_count = *count;
  for (uint32_t r = blockIdx.x; r < n; r += gridDim.x) {
    const RouteRow row = rows[r];
    const __half* stored =
        static_cast<const __half*>(keys[row.segment]) + static_cast<size_t>(row.row) * padded_dim;
    for (int i = threadIdx.x; i < dim; i += kThreads) {
      key[i] = static_cast<double>(__half2float(stored[i]));
    }
    __syncthreads();
    double best = -INFINITY;
    for (int t = threadIdx.x; t < n_tokens; t += kThreads) {
      const float* query = queries + static_cast<size_t>(t) * dim;
      double sum = 0;
      // A product of a float32 and a float16 is exact in double: fused or not, one rounding a term.
#pragma unroll 8
      for (int i = 0; i < dim; ++i) sum += static_cast<double>(query[i]) * key[i];
      best = fmax(best, sum);
    }
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) {
      best = fmax(best, __shfl_xor_sync(0xFFFFFFFF, best, offset));
    }
    if (threadIdx.x % 32 == 0) warp_best[threadIdx.x / 32] = best;
    __syncthreads();
    if (threadIdx.x == 0) {
      for (int w = 1; w < kThreads / 32; ++w) best = fmax(best, warp_best[w]);
      results[r] = RouteRow{row.segment, row.row, __double2float_rn(best)};
    }
    __syncthreads();  // key and warp_best are rewritten for the next row
  }
}

}  // namespace

int PackRouteQueriesCuda(const float* queries, size_t n_tokens, int dim, float scale, void* packed,
                         size_t n_packed, int padded_dim, cudaStream_t stream) {
  if (n_tokens == 0 || n_packed < n_tokens || n_packed > (size_t{1} << 30) || padded_dim < dim) {
    return cudaErrorInvalidValue;
  }
  return Launch(pack_queries, static_cast<unsigned>(n_packed), kThreads, 0, stream, queries,
                static_cast<int>(n_tokens), dim, scale, static_cast<__half*>(packed), padded_dim);
}

int CollectRowsCuda(const float* chunk_scores, const uint32_t* document_begin, size_t n_documents,
                    const uint32_t* allowed, float threshold, uint32_t segment, RouteRow* rows,
                    uint32_t capacity, uint32_t* count, cudaStream_t stream) {
  if (n_documents == 0 || n_documents >= UINT32_MAX) return cudaErrorInvalidValue;
  const size_t blocks = (n_documents + kThreads - 1) / kThreads;
  return Launch(collect_rows, static_cast<unsigned>(blocks < 1056 ? blocks : 1056), kThreads, 0,
                stream, chunk_scores, document_begin, static_cast<uint32_t>(n_documents), allowed,
                threshold, segment, rows, capacity, count);
}

int RescoreRowsCuda(const RouteRow* rows, const uint32_t* count, uint32_t capacity,
                    const void* const* keys, const float* queries, size_t n_tokens, int dim,
                    int padded_dim, RouteRow* results, uint32_t* result_count,
                    cudaStream_t stream) {
  if (dim < 1 || padded_dim < dim || padded_dim > kDimMax || n_tokens == 0 ||
      n_tokens > (size_t{1} << 30)) {
    return cudaErrorInvalidValue;
  }
  const unsigned blocks =
      capacity < kRescoreBlocks ? (capacity > 0 ? capacity : 1) : kRescoreBlocks;
  return Launch(rescore_rows, blocks, kThreads, 0, stream, rows, count, capacity, keys, queries,
                static_cast<int>(n_tokens), dim, padded_dim, results, result_count);
}

}  // namespace msadb::kernels
