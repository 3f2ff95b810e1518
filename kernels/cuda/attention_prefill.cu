// Attention of many queries on the tensor cores, over segments of different lengths in one launch:
// the blocked softmax of FlashAttention-2 (arXiv 2307.08691). For heads of more than 128 dimensions
// and rows at any address; attention_tiles.cu is faster at all others.
//
// A block takes 64 queries of one segment and one head; each of its 4 warps owns 16 of them with
// scores, running softmax and output in registers. Keys and values pass through shared memory in
// tiles of kKeyTile, the next one copied asynchronously while this one is multiplied
// (mma.m16n8k16, bfloat16 in, float32 sums). Rows in shared memory are padded by 16 bytes, which
// makes every ldmatrix free of bank conflicts. head_dim is rounded up to kPad with zeros.
#include <algorithm>

#include "kernels/cuda/attention_segments.cuh"

namespace msadb::kernels::cuda {
namespace {

constexpr unsigned kWarps = 4;
constexpr unsigned kThreads = 32 * kWarps;
constexpr int kQueries = 64;
constexpr int kPad = 256;
constexpr int kKeyTile = 32;

// Rows [0, valid) of a tile of kRows, the rest and the columns past head_dim as zeros.
template <int kRows>
__device__ __forceinline__ void LoadTile(bf16* tile, const bf16* from, size_t stride, int valid,
                                         unsigned head_dim, bool vector) {
  constexpr int kStride = kPad + 8;
  constexpr int kPieces = kPad / 8;
  for (int i = threadIdx.x; i < kRows * kPieces; i += kThreads) {
    const int row = i / kPieces, column = i % kPieces * 8;
    bf16* const to = tile + row * kStride + column;
    const bf16* const source = from + row * stride + column;
    if (vector) {
      const bool inside = row < valid && column < static_cast<int>(head_dim);
      CopyAsync(to, inside ? source : from, inside);
    } else {
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        const bool inside = row < valid && column + j < static_cast<int>(head_dim);
        to[j] = inside ? source[j] : FromFloat<bf16>(0);
      }
    }
  }
}

__global__ void __launch_bounds__(kThreads) PrefillKernel(const __grid_constant__ PrefillParams p) {
  constexpr int kStride = kPad + 8;
  constexpr int kTileSize = kKeyTile * kStride;
  constexpr int kDepth = kPad / 16;       // 16-wide steps over dimensions
  constexpr int kColumns = kKeyTile / 8;  // 8-wide tiles of scores
  auto* const shared = DynamicShared<bf16>();
  bf16* const keys = shared;                    // [2][kKeyTile][kStride]
  bf16* const values = shared + 2 * kTileSize;  // [2][kKeyTile][kStride]
  GridRelease();
  GridWait();

  const PrefillTile t = FindTile<kQueries>(p);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;

  // Queries go through the keys' memory into registers: 2 tiles of keys hold at least 64 rows.
  static_assert(2 * kKeyTile >= kQueries);
  LoadTile<kQueries>(keys, t.q, p.q_stride, t.queries, p.head_dim, p.vector);
  CopyCommit();
  CopyWait<0>();
  __syncthreads();
  uint32_t q_fragments[kDepth][4];
#pragma unroll
  for (int d = 0; d < kDepth; ++d) {
    LoadMatrix(q_fragments[d], keys + (warp * 16 + lane % 16) * kStride + d * 16 + lane / 16 * 8);
  }
  __syncthreads();

  const auto load = [&](int key, int buffer) {
    const int valid = t.key_end - key;
    LoadTile<kKeyTile>(keys + buffer * kTileSize, t.k + key * p.k_stride, p.k_stride, valid,
                       p.head_dim, p.vector);
    LoadTile<kKeyTile>(values + buffer * kTileSize, t.v + key * p.v_stride, p.v_stride, valid,
                       p.head_dim, p.vector);
    CopyCommit();
  };

  float out[kPad / 8][4] = {};
  float m[2] = {-INFINITY, -INFINITY}, l[2] = {0, 0};  // of rows lane / 4 and lane / 4 + 8
  load(0, 0);
  int buffer = 0;
  for (int key = 0; key < t.key_end; key += kKeyTile, buffer ^= 1) {
    if (key + kKeyTile < t.key_end) {
      load(key + kKeyTile, buffer ^ 1);
      CopyWait<1>();
    } else {
      CopyWait<0>();
    }
    __syncthreads();
    const bf16* const key_tile = keys + buffer * kTileSize;
    const bf16* const value_tile = values + buffer * kTileSize;

    float score[kColumns][4] = {};
#pragma unroll
    for (int d = 0; d < kDepth; ++d) {
#pragma unroll
      for (int c = 0; c < kColumns; c += 2) {
        uint32_t b[4];  // keys c*8 .. c*8+15: {first 8, low d}, {first 8, high d}, {next 8, ...}
        LoadMatrix(
            b, key_tile + (c * 8 + lane / 16 * 8 + lane % 8) * kStride + d * 16 + lane / 8 % 2 * 8);
        Multiply(score[c], q_fragments[d], b[0], b[1]);
        Multiply(score[c + 1], q_fragments[d], b[2], b[3]);
      }
    }
    // Row r of the warp sees the keys up to its own.
    const int row_first = warp * 16 + lane / 4;
    const int seen = t.visible + row_first - key;  // last key seen, here
    if (key + kKeyTile > t.visible + warp * 16) {
#pragma unroll
      for (int c = 0; c < kColumns; ++c) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int column = c * 8 + lane % 4 * 2 + i % 2;
          if (column > seen + i / 2 * 8) score[c][i] = -INFINITY;
        }
      }
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float top = m[half];
#pragma unroll
      for (int c = 0; c < kColumns; ++c) {
        top = fmaxf(top, fmaxf(score[c][2 * half], score[c][2 * half + 1]) * p.scale_log2);
      }
      top = fmaxf(top, __shfl_xor_sync(~0u, top, 1));
      top = fmaxf(top, __shfl_xor_sync(~0u, top, 2));
      // Key 0 is seen by every query, so `top` is finite after the first tile.
      const float keep = exp2f(m[half] - top);
      m[half] = top;
      float sum = 0;
#pragma unroll
      for (int c = 0; c < kColumns; ++c) {
#pragma unroll
        for (int i = 2 * half; i < 2 * half + 2; ++i) {
          score[c][i] = exp2f(fmaf(score[c][i], p.scale_log2, -top));
          sum += score[c][i];
        }
      }
      l[half] = l[half] * keep + sum;
#pragma unroll
      for (int d = 0; d < kPad / 8; ++d) {
        out[d][2 * half] *= keep;
        out[d][2 * half + 1] *= keep;
      }
    }
#pragma unroll
    for (int c = 0; c < kColumns; c += 2) {
      const uint32_t weights[4] = {Pack(score[c][0], score[c][1]), Pack(score[c][2], score[c][3]),
                                   Pack(score[c + 1][0], score[c + 1][1]),
                                   Pack(score[c + 1][2], score[c + 1][3])};
#pragma unroll
      for (int d = 0; d < kPad / 8; d += 2) {
        uint32_t b[4];  // dimensions d*8 ..: {first 8 keys, low d}, {next 8 keys, low d}, {high d}
        LoadMatrixTransposed(b, value_tile + (c * 8 + lane % 16) * kStride + d * 8 + lane / 16 * 8);
        Multiply(out[d], weights, b[0], b[1]);
        Multiply(out[d + 1], weights, b[2], b[3]);
      }
    }
    __syncthreads();  // before the buffer is filled again
  }

#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float sum = l[half];
    sum += __shfl_xor_sync(~0u, sum, 1);
    sum += __shfl_xor_sync(~0u, sum, 2);
    const int row = warp * 16 + lane / 4 + 8 * half;
    if (row >= t.queries) continue;
    bf16* const to = t.out + row * p.out_stride;
#pragma unroll
    for (int d = 0; d < kPad / 8; ++d) {
      const unsigned column = d * 8 + lane % 4 * 2;
      if (column < p.head_dim) to[column] = FromFloat<bf16>(out[d][2 * half] / sum);
      if (column + 1 < p.head_dim) to[column + 1] = FromFloat<bf16>(out[d][2 * half + 1] / sum);
    }
  }
}

cudaError_t Run(const PrefillParams& p, size_t heads, cudaStream_t stream) {
  constexpr size_t kShared = 4 * kKeyTile * (kPad + 8) * sizeof(bf16);
  const cudaError_t error = AllowShared(PrefillKernel, kShared);
  if (error != cudaSuccess) return error;
  return Launch(PrefillKernel, dim3(p.tiles, static_cast<unsigned>(heads)), kThreads, kShared,
                stream, p);
}

bool RowsAligned(const Rows& r) {
  return reinterpret_cast<uintptr_t>(r.data) % 16 == 0 && r.stride % 8 == 0;
}

bool Vector(const AttentionShape& s) {
  return s.head_dim % 8 == 0 && RowsAligned(s.q) && RowsAligned(s.k) && RowsAligned(s.v);
}

bool TilesFit(const AttentionShape& s) {
  return s.head_dim <= 128 && Vector(s) && RowsAligned(s.out);
}

}  // namespace

size_t PrefillTileQueries(const AttentionShape& shape) {
  return TilesFit(shape) ? kAttentionTileQueries : kQueries;
}

cudaError_t LaunchAttentionPrefill(const AttentionShape& shape, const PrefillSegment* segments,
                                   size_t segment_count, size_t tiles, cudaStream_t stream) {
  if (tiles == 0) return cudaSuccess;
  if (shape.head_dim > 256) return cudaErrorInvalidValue;
  PrefillParams p = {};
  p.q = static_cast<const bf16*>(shape.q.data);
  p.k = static_cast<const bf16*>(shape.k.data);
  p.v = static_cast<const bf16*>(shape.v.data);
  p.out = static_cast<bf16*>(shape.out.data);
  p.q_stride = shape.q.stride;
  p.k_stride = shape.k.stride;
  p.v_stride = shape.v.stride;
  p.out_stride = shape.out.stride;
  p.group = static_cast<unsigned>(shape.heads / shape.kv_heads);
  p.head_dim = static_cast<unsigned>(shape.head_dim);
  p.scale_log2 = shape.scale * 1.4426950408889634f;
  p.vector = Vector(shape);
  p.segments = segments;
  p.segment_count = static_cast<unsigned>(segment_count);
  p.tiles = static_cast<unsigned>(tiles);
  return TilesFit(shape) ? LaunchAttentionTiles(p, shape.heads, stream)
                         : Run(p, shape.heads, stream);
}

}  // namespace msadb::kernels::cuda
