#include <cstdint>

#include "kernels/cuda/device.cuh"
#include "kernels/cuda/route_segments.cuh"
#include "kernels/route_topk_exact.h"

namespace msadb::kernels {
namespace {

using namespace cuda;

constexpr int kThreads = 128;
constexpr unsigned kCollectBlocks = 1056;  // these two are of an H200; any number is right
constexpr unsigned kRescoreBlocks = 528;
constexpr int kDimMax = 1024;

template <RouteKeyType kType>
__global__ void __launch_bounds__(kThreads)
    pack_queries(const float* queries, int n_tokens, int dim, float scale, __half* packed,
                 int packed_dim) {
  GridRelease();
  GridWait();
  const int row = blockIdx.x;
  const float* const query = queries + static_cast<size_t>(min(row, n_tokens - 1)) * dim;
  const int padded = static_cast<int>(CeilDiv(packed_dim, 128)) * 128;
  for (int i = threadIdx.x; i < padded; i += kThreads) {
    const int column = RoutePackedColumn(kType, i);
    if (column >= packed_dim) continue;
    packed[static_cast<size_t>(row) * packed_dim + column] =
        __float2half_rn(i < dim ? query[i] * scale : 0.0f);
  }
}

__global__ void __launch_bounds__(kThreads) collect_rows(const __grid_constant__ CollectParams p) {
  GridRelease();
  GridWait();
  float threshold = __double2float_rd(p.margin);
  if (p.kth != nullptr) {
    threshold =
        p.kth->document == UINT32_MAX ? -INFINITY : __double2float_rd(p.kth->score + p.margin);
  }
  DocumentCursor documents(p.segments, p.n_documents);
  const int lane = threadIdx.x % 32;
  const auto collect = [&](size_t begin, size_t end, size_t step, uint32_t segment,
                           size_t first_score) {
    for (size_t c = begin; c < end; c += step) {
      if (!(p.chunk_scores[c] >= threshold)) continue;
      const uint32_t at = atomicAdd(p.count, 1u);
      if (at < p.capacity) {
        p.rows[at] = RouteRow{segment, static_cast<uint32_t>(c - first_score), 0.0f};
      }
    }
  };
  const size_t step = size_t{gridDim.x} * kThreads;
  for (size_t base = blockIdx.x * size_t{kThreads}; base < p.n_documents; base += step) {
    const DocumentScores own = documents.Seek(base + threadIdx.x);
    const bool shares = own.end - own.begin > kOwnChunksMax;
    if (!shares) collect(own.begin, own.end, 1, documents.segment(), documents.first_score());
    for (unsigned shared = __ballot_sync(~0u, shares); shared != 0; shared &= shared - 1) {
      const int owner = __ffs(shared) - 1;
      collect(__shfl_sync(~0u, own.begin, owner) + lane, __shfl_sync(~0u, own.end, owner), 32,
              __shfl_sync(~0u, documents.segment(), owner),
              __shfl_sync(~0u, documents.first_score(), owner));
    }
  }
}

// --- Exact scores ---
//
// A block a row, a lane a token: each sum runs in the order of the dimensions, a chain of as many
// dependent additions, which is what this takes. Everything else is done beside it: the row is
// converted to float64 once, and each warp has the next dimensions of its 32 tokens copied to
// shared memory while it multiplies.

constexpr int kTokens = 32;
constexpr int kSlabDims = 32;  // of the queries, in one buffer
constexpr int kBuffers = 4;
constexpr int kSlabStride =
    kSlabDims + 4;  // 16 bytes more: rows of 8 lanes begin in different banks
constexpr int kBufferFloats = kTokens * kSlabStride;
constexpr int kRescoreWarpsMax = 8;

// The values of the row as float64; those past dim, up to a multiple of kSlabDims, are 0.
template <RouteKeyType kType>
__device__ __forceinline__ void UnpackKey(const RouteSegment& segment, uint32_t row, int dim,
                                          double* key) {
  const int padded = static_cast<int>(CeilDiv(dim, kSlabDims)) * kSlabDims;
  if constexpr (kType == RouteKeyType::kInt8) {
    const float scale = segment.scales[row];
    const auto* const stored =
        static_cast<const int8_t*>(segment.keys) + static_cast<size_t>(row) * dim;
    for (int i = threadIdx.x * 4; i < padded; i += blockDim.x * 4) {
      const char4 values = i < dim ? *reinterpret_cast<const char4*>(stored + i) : char4{};
      key[i] = scale * static_cast<float>(values.x);
      key[i + 1] = scale * static_cast<float>(values.y);
      key[i + 2] = scale * static_cast<float>(values.z);
      key[i + 3] = scale * static_cast<float>(values.w);
    }
  } else {
    const auto* const stored =
        static_cast<const __half*>(segment.keys) + static_cast<size_t>(row) * dim;
    for (int i = threadIdx.x * 2; i < padded; i += blockDim.x * 2) {
      const float2 values =
          i < dim ? __half22float2(*reinterpret_cast<const __half2*>(stored + i)) : float2{};
      key[i] = values.x;
      key[i + 1] = values.y;
    }
  }
}

template <RouteKeyType kType>
__global__ void __launch_bounds__(kRescoreWarpsMax * 32)
    rescore_rows(const __grid_constant__ RescoreParams p) {
  __shared__ double2 key_pairs[kDimMax / 2];
  __shared__ double warp_best[kRescoreWarpsMax];
  GridRelease();
  GridWait();
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int n_warps = static_cast<int>(blockDim.x) / 32;
  float* const staged = DynamicShared<float>() + warp * kBuffers * kBufferFloats;
  const int n_slabs = static_cast<int>(CeilDiv(p.dim, kSlabDims));
  const int n_tokens = static_cast<int>(p.n_tokens);
  auto* const key = reinterpret_cast<double*>(key_pairs);
  const uint32_t count = *p.count;
  if (blockIdx.x == 0 && threadIdx.x == 0) *p.result_count = count;
  const uint32_t n = min(count, p.capacity);
  for (uint32_t r = blockIdx.x; r < n; r += gridDim.x) {
    const RouteRow row = p.rows[r];
    UnpackKey<kType>(p.segments[row.segment], row.row, p.dim, key);
    __syncthreads();
    double best = -INFINITY;
    for (int first = warp * kTokens; first < n_tokens; first += n_warps * kTokens) {
      const int tokens = min(kTokens, n_tokens - first);
      const float* const queries = p.queries + static_cast<size_t>(first) * p.dim;
      const auto load = [&](int slab) {
        if (slab < n_slabs) {
          float* const to = staged + slab % kBuffers * kBufferFloats;
          for (int i = lane; i < tokens * (kSlabDims / 4); i += 32) {
            const int token = i / (kSlabDims / 4), at = i % (kSlabDims / 4) * 4;
            const int d = slab * kSlabDims + at;
            const bool valid = d < p.dim;
            CopyAsync(to + token * kSlabStride + at,
                      queries + static_cast<size_t>(token) * p.dim + (valid ? d : 0), valid);
          }
        }
        CopyCommit();
      };
      for (int slab = 0; slab < kBuffers - 1; ++slab) load(slab);
      double sum = 0;
      for (int slab = 0; slab < n_slabs; ++slab) {
        CopyWait<kBuffers - 2>();
        __syncwarp();  // everybody's copies are there, and everybody has read the slab before
        load(slab + kBuffers - 1);
        if (lane >= tokens) continue;
        const float* const query = staged + slab % kBuffers * kBufferFloats + lane * kSlabStride;
        const double2* const values = key_pairs + slab * (kSlabDims / 2);
        // A product of two float32 is exact in float64: fused or not, one rounding a term.
#pragma unroll
        for (int i = 0; i < kSlabDims; i += 4) {
          const float4 q = *reinterpret_cast<const float4*>(query + i);
          const double2 first_two = values[i / 2], last_two = values[i / 2 + 1];
          sum += static_cast<double>(q.x) * first_two.x;
          sum += static_cast<double>(q.y) * first_two.y;
          sum += static_cast<double>(q.z) * last_two.x;
          sum += static_cast<double>(q.w) * last_two.y;
        }
      }
      if (lane < tokens) best = fmax(best, sum);
      __syncwarp();  // the next tokens go to the same memory
    }
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) {
      best = fmax(best, __shfl_xor_sync(~0u, best, offset));
    }
    if (lane == 0) warp_best[warp] = best;
    __syncthreads();
    if (threadIdx.x == 0) {
      for (int w = 1; w < n_warps; ++w) best = fmax(best, warp_best[w]);
      p.results[r] = RouteRow{row.segment, row.row, __double2float_rn(best)};
    }
    __syncthreads();  // key and warp_best are rewritten for the next row
  }
}

bool IsValid(RouteKeyType type, int dim) {
  return (type == RouteKeyType::kFloat16 && dim >= 8 && dim <= kDimMax && dim % 8 == 0) ||
         (type == RouteKeyType::kInt8 && dim >= 16 && dim <= kDimMax && dim % 16 == 0);
}

template <RouteKeyType kType>
cudaError_t LaunchRescore(const RescoreParams& p, cudaStream_t stream) {
  const unsigned warps = std::min<unsigned>(kRescoreWarpsMax, CeilDiv(p.n_tokens, kTokens));
  const size_t shared = warps * kBuffers * kBufferFloats * sizeof(float);
  const cudaError_t error = AllowShared(rescore_rows<kType>, shared);
  if (error != cudaSuccess) return error;
  return Launch(rescore_rows<kType>, dim3(std::clamp(p.capacity, 1u, kRescoreBlocks)), warps * 32,
                shared, stream, p);
}

}  // namespace

int PackRouteQueriesCuda(RouteKeyType key_type, const float* queries, size_t n_tokens, int dim,
                         float scale, void* packed, size_t n_packed, cudaStream_t stream) {
  if (n_tokens == 0 || n_packed < n_tokens || n_packed > (size_t{1} << 30) ||
      !IsValid(key_type, dim)) {
    return cudaErrorInvalidValue;
  }
  const auto pack = key_type == RouteKeyType::kInt8 ? pack_queries<RouteKeyType::kInt8>
                                                    : pack_queries<RouteKeyType::kFloat16>;
  return Launch(pack, dim3(static_cast<unsigned>(n_packed)), kThreads, 0, stream, queries,
                static_cast<int>(n_tokens), dim, scale, static_cast<__half*>(packed),
                RoutePackedDim(key_type, dim));
}

int CollectRowsCuda(const CollectParams& p, cudaStream_t stream) {
  if (p.n_segments == 0 || p.n_documents == 0 || p.n_documents >= UINT32_MAX) {
    return cudaErrorInvalidValue;
  }
  return Launch(collect_rows, dim3(std::min(kCollectBlocks, CeilDiv(p.n_documents, kThreads))),
                kThreads, 0, stream, p);
}

int RescoreRowsCuda(const RescoreParams& p, cudaStream_t stream) {
  if (!IsValid(p.key_type, p.dim) || p.n_tokens == 0 || p.n_tokens > (size_t{1} << 30)) {
    return cudaErrorInvalidValue;
  }
  return p.key_type == RouteKeyType::kInt8 ? LaunchRescore<RouteKeyType::kInt8>(p, stream)
                                           : LaunchRescore<RouteKeyType::kFloat16>(p, stream);
}

}  // namespace msadb::kernels
