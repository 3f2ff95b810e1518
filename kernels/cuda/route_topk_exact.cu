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
// converted to float64 once, each warp has the next dimensions of its 32 tokens copied to shared
// memory while it multiplies, and the next few values are read and converted while these are added.

constexpr int kTokens = 32;
constexpr int kSlabDims = 64;  // of the queries, in one buffer
constexpr int kBuffers = 3;
constexpr int kSlabStride =
    kSlabDims + 4;  // 16 bytes more: rows of 8 lanes begin in different banks
constexpr int kBufferFloats = kTokens * kSlabStride;
constexpr int kRescoreWarpsMax = 8;
constexpr int kAhead = 8;  // values read at a time

// The values of the row as float64; those past dim, up to a multiple of kSlabDims, are 0. All loads
// are under way before the first is used.
template <RouteKeyType kType>
__device__ __forceinline__ void UnpackKey(const RouteSegment& segment, uint32_t row, int dim,
                                          double* key) {
  constexpr int kValues = kType == RouteKeyType::kInt8 ? 16 : 8;  // in 16 bytes
  constexpr int kLoads = kDimMax / (32 * kValues);  // of a thread, when there is but one warp
  const auto* const stored =
      static_cast<const uint4*>(segment.keys) + static_cast<size_t>(row) * (dim / kValues);
  [[maybe_unused]] float scale = 1;
  if constexpr (kType == RouteKeyType::kInt8) scale = segment.scales[row];
  uint4 words[kLoads];
#pragma unroll
  for (int j = 0; j < kLoads; ++j) {
    const int at = j * static_cast<int>(blockDim.x) + static_cast<int>(threadIdx.x);
    words[j] = at * kValues < dim ? stored[at] : uint4{0, 0, 0, 0};
  }
  const int padded = static_cast<int>(CeilDiv(dim, kSlabDims)) * kSlabDims;
#pragma unroll
  for (int j = 0; j < kLoads; ++j) {
    const int at = j * static_cast<int>(blockDim.x) + static_cast<int>(threadIdx.x);
    if (at * kValues >= padded) break;
    const uint32_t parts[4] = {words[j].x, words[j].y, words[j].z, words[j].w};
    double* const to = key + at * kValues;
#pragma unroll
    for (int i = 0; i < kValues; ++i) {
      if constexpr (kType == RouteKeyType::kInt8) {
        const auto value = static_cast<int8_t>(parts[i / 4] >> i % 4 * 8);
        to[i] = scale * static_cast<float>(value);
      } else {
        to[i] =
            __half2float(__ushort_as_half(static_cast<unsigned short>(parts[i / 2] >> i % 2 * 16)));
      }
    }
  }
}

// kAhead values of a query and of the key.
struct Factors {
  double query[kAhead];
  double key[kAhead];

  __device__ __forceinline__ void Read(const float* queries, const double2* keys) {
#pragma unroll
    for (int i = 0; i < kAhead; i += 4) {
      const float4 four = *reinterpret_cast<const float4*>(queries + i);
      query[i] = four.x;
      query[i + 1] = four.y;
      query[i + 2] = four.z;
      query[i + 3] = four.w;
    }
#pragma unroll
    for (int i = 0; i < kAhead; i += 2) {
      const double2 two = keys[i / 2];
      key[i] = two.x;
      key[i + 1] = two.y;
    }
  }
  // A product of two float32 is exact in float64: fused or not, one rounding a term.
  __device__ __forceinline__ void AddTo(double& sum) const {
#pragma unroll
    for (int i = 0; i < kAhead; ++i) sum += query[i] * key[i];
  }
};

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
  // Copies a slab of the tokens from `first`; every call is a group of copies.
  const auto copy_slab = [&](int first, int slab) {
    if (slab < n_slabs) {
      const int tokens = min(kTokens, n_tokens - first);
      float* const to = staged + slab % kBuffers * kBufferFloats;
      for (int i = lane; i < tokens * (kSlabDims / 4); i += 32) {
        const int token = i / (kSlabDims / 4), at = i % (kSlabDims / 4) * 4;
        const int d = slab * kSlabDims + at;
        const bool valid = d < p.dim;
        CopyAsync(to + token * kSlabStride + at,
                  p.queries + static_cast<size_t>(first + token) * p.dim + (valid ? d : 0), valid);
      }
    }
    CopyCommit();
  };
  const uint32_t count = *p.count;
  if (blockIdx.x == 0 && threadIdx.x == 0) *p.result_count = count;
  const uint32_t n = min(count, p.capacity);
  for (uint32_t r = blockIdx.x; r < n; r += gridDim.x) {
    int first = warp * kTokens;
    for (int slab = 0; slab < kBuffers - 1; ++slab) copy_slab(first, slab);
    const RouteRow row = p.rows[r];
    UnpackKey<kType>(p.segments[row.segment], row.row, p.dim, reinterpret_cast<double*>(key_pairs));
    __syncthreads();
    double best = -INFINITY;
    while (first < n_tokens) {
      const bool has_token = first + lane < n_tokens;
      double sum = 0;
      for (int slab = 0; slab < n_slabs; ++slab) {
        CopyWait<kBuffers - 2>();
        __syncwarp();  // everybody's copies are there, and everybody has read the slab before
        copy_slab(first, slab + kBuffers - 1);
        if (!has_token) continue;
        const float* const query = staged + slab % kBuffers * kBufferFloats + lane * kSlabStride;
        const double2* const keys = key_pairs + slab * (kSlabDims / 2);
        Factors now;
        now.Read(query, keys);
        // Not unrolled, or the compiler converts each value right before it is needed.
#pragma unroll 1
        for (int i = kAhead; i < kSlabDims; i += kAhead) {
          Factors next;
          next.Read(query + i, keys + i / 2);
          now.AddTo(sum);
          now = next;
        }
        now.AddTo(sum);
      }
      if (has_token) best = fmax(best, sum);
      first += n_warps * kTokens;
      if (first >= n_tokens) break;
      __syncwarp();  // the next tokens go to the same memory
      for (int slab = 0; slab < kBuffers - 1; ++slab) copy_slab(first, slab);
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
    __syncthreads();  // the next row is written to the same memory
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
