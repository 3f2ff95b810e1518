// Attention of many queries with the products of warpgroups (wgmma), for heads of up to 128
// dimensions: the blocked softmax of FlashAttention-2 (arXiv 2307.08691) on the instructions that
// FlashAttention-3 (arXiv 2407.08608) uses.
//
// A block takes 128 queries of one segment and one head, each of its two warpgroups 64 of them,
// whose queries, scores, running softmax and output stay in registers: while one computes its
// softmax, the other one's products run. Keys and values pass through shared memory in tiles of 128
// rows, the next copied asynchronously while this one is multiplied. A tile is one or two matrices
// of 64 dimensions (tensor_tiles.cuh), head_dim rounded up to kPad with zeros.
#include "kernels/cuda/attention_segments.cuh"
#include "kernels/cuda/tensor_tiles.cuh"

namespace msadb::kernels::cuda {
namespace {

constexpr int kGroups = 2;  // warpgroups
constexpr int kThreads = 128 * kGroups;
constexpr int kQueries = 64 * kGroups;
constexpr int kKeys = 128;                             // of a tile
constexpr int kPartBytes = kKeys * kTileRowBytes;      // 64 dimensions of it
constexpr int kStepBytes = 16 * kTileRowBytes;         // 16 rows
constexpr int kHalfBytes = kKeys / 2 * kTileRowBytes;  // 64 rows
static_assert(kQueries == kKeys);

// Rows [0, valid) of a tile, the rest and the dimensions past head_dim as zeros.
template <int kPad>
__device__ __forceinline__ void CopyTile(uint8_t* tile, const bf16* from, size_t stride, int valid,
                                         unsigned head_dim) {
  constexpr int kPieces = kPad / 8;  // of 16 bytes in a row
  constexpr int kRowsAtOnce = kThreads / kPieces;
  static_assert(kRowsAtOnce % 8 == 0);
  const int piece = static_cast<int>(threadIdx.x) % kPieces;
  const int row = static_cast<int>(threadIdx.x) / kPieces;
  uint8_t* const to =
      tile + piece / 8 * kPartBytes + row * kTileRowBytes + (piece % 8 ^ row % 8) * 16;
  const bool inside = piece * 8 < static_cast<int>(head_dim);
  const bf16* source = from + row * stride + piece * 8;
#pragma unroll
  for (int i = 0; i < kKeys / kRowsAtOnce; ++i, source += kRowsAtOnce * stride) {
    const bool there = inside && row + i * kRowsAtOnce < valid;
    CopyAsync(to + i * kRowsAtOnce * kTileRowBytes, there ? source : from, there);
  }
}

template <int kPad>
__global__ void __launch_bounds__(kThreads, 1)
    TilesKernel(const __grid_constant__ PrefillParams p) {
  constexpr int kParts = kPad / 64;
  constexpr int kDepth = kPad / 16;  // 16-wide steps over dimensions
  constexpr int kTileBytes = kParts * kPartBytes;
  auto* shared = DynamicShared<uint8_t>();
  shared += -reinterpret_cast<uintptr_t>(shared) % 1024;
  uint8_t* const keys = shared;                     // [2] tiles
  uint8_t* const values = shared + 2 * kTileBytes;  // [2]
  GridRelease();
  GridWait();
  const PrefillTile t = FindTile<kQueries>(p);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int group_first = warp / 4 * 64;  // of the block's queries

  const auto copy = [&](int key, int buffer) {
    const int valid = t.key_end - key;
    CopyTile<kPad>(keys + buffer * kTileBytes, t.k + key * p.k_stride, p.k_stride, valid,
                   p.head_dim);
    CopyTile<kPad>(values + buffer * kTileBytes, t.v + key * p.v_stride, p.v_stride, valid,
                   p.head_dim);
    CopyCommit();
  };
  // Queries pass through the second tile of keys into registers.
  uint8_t* const query_tile = keys + kTileBytes;
  CopyTile<kPad>(query_tile, t.q, p.q_stride, t.queries, p.head_dim);
  CopyCommit();
  copy(0, 0);
  CopyWait<1>();
  __syncthreads();
  uint32_t q[kDepth][4];
#pragma unroll
  for (int d = 0; d < kDepth; ++d) {
    const int row = warp * 16 + lane % 16, piece = d % 4 * 2 + lane / 16;
    LoadMatrix(q[d],
               query_tile + d / 4 * kPartBytes + row * kTileRowBytes + (piece ^ row % 8) * 16);
  }
  __syncthreads();

  // Keys that the warpgroup's last query sees; none when it has no queries.
  const int key_end = group_first < t.queries ? min(t.key_end, t.visible + group_first + 64) : 0;
  const int row_first = warp * 16 + lane / 4;  // of the thread's two rows, the other is 8 further
  float out[kParts][32] = {};
  float m[2] = {-INFINITY, -INFINITY}, l[2] = {0, 0};
  int buffer = 0;
  for (int key = 0; key < t.key_end; key += kKeys, buffer ^= 1) {
    if (key + kKeys < t.key_end) {
      copy(key + kKeys, buffer ^ 1);
      CopyWait<1>();
    } else {
      CopyWait<0>();
    }
    TilesFence();
    __syncthreads();
    if (key < key_end) {
      const uint8_t* const key_tile = keys + buffer * kTileBytes;
      const uint8_t* const value_tile = values + buffer * kTileBytes;
      float score[2][32];  // of the tile's first and last 64 keys
      TilesBegin(score[0]);
      TilesBegin(score[1]);
#pragma unroll
      for (int d = 0; d < kDepth; ++d) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          MultiplyTiles<bf16>(score[half], q[d],
                              OperandOf(key_tile + d / 4 * kPartBytes + half * kHalfBytes, d % 4),
                              d > 0);
        }
      }
      TilesCommit(score[0]);
      TilesWait<0>(score[0]);
      TilesWait<0>(score[1]);
      // Row r of the block sees the keys up to t.visible + r.
      if (key + kKeys > t.visible + group_first) {
        const int seen = t.visible + row_first - key;  // the last one, in this tile
#pragma unroll
        for (int i = 0; i < 64; ++i) {
          const int column = i / 4 * 8 + lane % 4 * 2 + i % 2;
          if (column > seen + i / 2 % 2 * 8) score[i / 32][i % 32] = -INFINITY;
        }
      }
#pragma unroll
      for (int row = 0; row < 2; ++row) {
        float top = -INFINITY;
#pragma unroll
        for (int i = 0; i < 64; ++i) {
          if (i / 2 % 2 == row) top = fmaxf(top, score[i / 32][i % 32]);
        }
        top = fmaxf(m[row], top * p.scale_log2);
        top = fmaxf(top, __shfl_xor_sync(~0u, top, 1));
        top = fmaxf(top, __shfl_xor_sync(~0u, top, 2));
        // Key 0 is seen by every query, so `top` is finite after the first tile.
        const float keep = Exp2(m[row] - top);
        m[row] = top;
        float sum = 0;
#pragma unroll
        for (int i = 0; i < 64; ++i) {
          if (i / 2 % 2 != row) continue;
          float& x = score[i / 32][i % 32];
          x = Exp2(fmaf(x, p.scale_log2, -top));
          sum += x;
        }
        l[row] = l[row] * keep + sum;
#pragma unroll
        for (int i = 0; i < 32; ++i) {
          if (i / 2 % 2 != row) continue;
#pragma unroll
          for (int part = 0; part < kParts; ++part) out[part][i] *= keep;
        }
      }
      uint32_t weights[kKeys / 16][4];
#pragma unroll
      for (int step = 0; step < kKeys / 16; ++step) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const float* const pair = &score[step / 4][step % 4 * 8 + 2 * i];
          weights[step][i] = Pack(pair[0], pair[1]);
        }
      }
#pragma unroll
      for (int part = 0; part < kParts; ++part) TilesBegin(out[part]);
#pragma unroll
      for (int step = 0; step < kKeys / 16; ++step) {
#pragma unroll
        for (int part = 0; part < kParts; ++part) {
          MultiplyTileRows(out[part], weights[step],
                           value_tile + part * kPartBytes + step * kStepBytes, 1);
        }
      }
      TilesCommit(out[0]);
#pragma unroll
      for (int part = 0; part < kParts; ++part) TilesWait<0>(out[part]);
    }
    __syncthreads();  // before the buffer is filled again
  }

#pragma unroll
  for (int row = 0; row < 2; ++row) {
    float sum = l[row];
    sum += __shfl_xor_sync(~0u, sum, 1);
    sum += __shfl_xor_sync(~0u, sum, 2);
    const int query = row_first + 8 * row;
    if (query >= t.queries) continue;
    const float share = 1 / sum;
    bf16* const to = t.out + query * p.out_stride;
#pragma unroll
    for (int j = 0; j < kPad / 8; ++j) {
      const int column = j * 8 + lane % 4 * 2;
      const float* const pair = &out[j / 8][j % 8 * 4 + 2 * row];
      if (column < static_cast<int>(p.head_dim)) {
        *reinterpret_cast<uint32_t*>(to + column) = Pack(pair[0] * share, pair[1] * share);
      }
    }
  }
}

template <int kPad>
cudaError_t Run(const PrefillParams& p, size_t heads, cudaStream_t stream) {
  constexpr size_t kShared = 4 * (kPad / 64) * kPartBytes + 1024;
  auto* const kernel = TilesKernel<kPad>;
  const cudaError_t error = AllowShared(kernel, kShared);
  if (error != cudaSuccess) return error;
  return Launch(kernel, dim3(p.tiles, static_cast<unsigned>(heads)), kThreads, kShared, stream, p);
}

}  // namespace

cudaError_t LaunchAttentionTiles(const PrefillParams& p, size_t heads, cudaStream_t stream) {
  static_assert(kAttentionTileQueries == kQueries);
  return p.head_dim <= 64 ? Run<64>(p, heads, stream) : Run<128>(p, heads, stream);
}

}  // namespace msadb::kernels::cuda
