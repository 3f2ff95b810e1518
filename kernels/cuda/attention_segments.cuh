// What the two kernels of attention of many queries share: their parameters, and which queries a
// block takes.
#ifndef MSADB_KERNELS_CUDA_ATTENTION_SEGMENTS_CUH_
#define MSADB_KERNELS_CUDA_ATTENTION_SEGMENTS_CUH_

#include "kernels/cuda/device.cuh"
#include "kernels/cuda/launch.h"

namespace msadb::kernels::cuda {

struct PrefillParams {
  const bf16* q;
  const bf16* k;
  const bf16* v;
  bf16* out;
  size_t q_stride, k_stride, v_stride, out_stride;
  unsigned group;
  unsigned head_dim;
  float scale_log2;
  bool vector;  // rows may be read 16 bytes at a time
  const PrefillSegment* segments;
  unsigned segment_count;
  unsigned tiles;
};

// Queries of one segment and head, and the keys and values that their segment has.
struct PrefillTile {
  int queries;  // at most kQueries
  int visible;  // keys that the first one sees, less one: query i sees keys 0 to visible + i
  int key_end;  // keys that the last one sees
  const bf16* q;
  const bf16* k;
  const bf16* v;
  bf16* out;
};

// Of block blockIdx.x, tiles of kQueries each, and head blockIdx.y.
template <int kQueries>
__device__ __forceinline__ PrefillTile FindTile(const PrefillParams& p) {
  // The last tile of a segment sees the most keys: start with it.
  const int tile = static_cast<int>(p.tiles - 1 - blockIdx.x);
  unsigned low = 0, high = p.segment_count - 1;
  while (low < high) {
    const unsigned middle = (low + high + 1) / 2;
    if (p.segments[middle].tile_begin <= tile) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  const PrefillSegment segment = p.segments[low];
  const unsigned head = blockIdx.y;
  const size_t kv_offset = head / p.group * size_t{p.head_dim};
  const int first = (tile - segment.tile_begin) * kQueries;  // query of the segment
  PrefillTile t;
  t.queries = min(kQueries, segment.query_count - first);
  t.visible = segment.visible_before + first;
  t.key_end = t.visible + t.queries;
  const auto row = static_cast<size_t>(segment.query_begin + first);
  t.q = p.q + row * p.q_stride + head * size_t{p.head_dim};
  t.k = p.k + static_cast<size_t>(segment.key_begin) * p.k_stride + kv_offset;
  t.v = p.v + static_cast<size_t>(segment.key_begin) * p.v_stride + kv_offset;
  t.out = p.out + row * p.out_stride + head * size_t{p.head_dim};
  return t;
}

// attention_tiles.cu: heads of up to 128 dimensions, p.vector, and `out` in pairs that are aligned.
inline constexpr int kAttentionTileQueries = 128;
cudaError_t LaunchAttentionTiles(const PrefillParams& p, size_t heads, cudaStream_t stream);

}  // namespace msadb::kernels::cuda

#endif  // MSADB_KERNELS_CUDA_ATTENTION_SEGMENTS_CUH_
