// Attention of one query a segment over many keys, split over the keys.
//
// A block takes one segment, one set of up to kGroup query heads that share a kv head, and one
// range of keys: every key and value is read once for all of them. Within a warp, DPAD / 8 lanes
// hold one key's dimensions, 8 each; keys are dealt out to these lane groups, each of which keeps
// its own running softmax. Lane groups, then warps, then blocks merge by (maximum, sum, weighted
// values). Up to kClusterMax blocks of a (segment, head set) are a cluster and read each other's
// shared memory to merge; with more, which only many keys are worth, the last of them to arrive
// merges what the others left in device memory. So one launch is enough.
//
// With kRotate the queries and the newest key come as they were projected: every block normalises and
// rotates its own (LaunchNormRope does the same in a launch of its own), and the block that has a kv
// head's last key also leaves key and value in the cache.
#include <algorithm>

#include "kernels/cuda/attention_query.cuh"
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/launch.h"

namespace msadb::kernels::cuda {
namespace {

constexpr unsigned kWarps = 8;
constexpr unsigned kThreads = 32 * kWarps;
constexpr int kGroupMax = 4;  // query heads of a block
constexpr size_t kKeysPerSplitMin = 32;
constexpr size_t kClusterMax = 8;        // what every device takes
constexpr size_t kClusterKeysMax = 1024;  // more keys are worth more blocks

struct Params {
  const bf16* q;
  bf16* out;
  size_t q_stride, out_stride;
  unsigned group;  // query heads of a kv head
  unsigned sets;   // of kGroupMax heads, of a kv head
  unsigned head_dim;
  float scale_log2;  // scale * log2(e)
  unsigned splits;
  RotateParams rotate;
  float* partial;      // [segment][kv head][set][split][kGroupMax][DPAD + 2]
  uint32_t* counters;  // [segment][kv head][set]
  DecodeSegment segments[kDecodeSegmentsMax];
};

template <unsigned kPad, bool kVector, bool kCluster, bool kRotate>
__global__ void __launch_bounds__(kThreads) DecodeKernel(const __grid_constant__ Params p) {
  constexpr unsigned kLanes = kPad / 8;           // of a key
  constexpr unsigned kKeysPerWarp = 32 / kLanes;  // at a time
  static_assert(kVector || !kRotate);
  GridRelease();
  const unsigned split = blockIdx.x;
  const unsigned kv_head = blockIdx.y / p.sets, set = blockIdx.y % p.sets;
  const DecodeSegment& segment = p.segments[blockIdx.z];
  const auto* const all_keys = static_cast<const bf16*>(segment.k);
  const auto* const all_values = static_cast<const bf16*>(segment.v);
  const unsigned warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const unsigned slot = lane / kLanes, begin = lane % kLanes * 8;
  const unsigned first_head = kv_head * p.group + set * kGroupMax;
  const unsigned n_heads = min(unsigned{kGroupMax}, p.group - set * kGroupMax);

  const unsigned keys = segment.keys;
  const unsigned share = (keys + p.splits - 1) / p.splits;
  const unsigned key_end = min(keys, (split + 1) * share);
  const unsigned stored = kRotate ? keys - 1 : keys;  // in the cache before this launch
  const size_t head_offset = kv_head * size_t{p.head_dim};
  constexpr unsigned kStep = kWarps * kKeysPerWarp;
  // Keys and values under way at once: all of a split that has kKeysPerSplitMin of them.
  constexpr int kUnroll = 4;
  uint4 key_words[kUnroll], value_words[kUnroll];
  const auto load = [&](unsigned base) {
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const unsigned at = base + u * kStep + warp * kKeysPerWarp + slot;
      if (at < stored) {
        key_words[u] =
            Load8<kVector>(all_keys + at * segment.k_stride + head_offset, begin, p.head_dim);
        value_words[u] =
            Load8<kVector>(all_values + at * segment.v_stride + head_offset, begin, p.head_dim);
      }
    }
  };
  // Most of the cache is older than the kernel before, but nobody promises that: only a hint here.
  for (unsigned at = split * share + warp * kKeysPerWarp + slot; at < min(key_end, stored);
       at += kStep) {
    PrefetchL2(all_keys + at * segment.k_stride + head_offset + begin);
    PrefetchL2(all_values + at * segment.v_stride + head_offset + begin);
  }
  GridWait();
  load(split * share);

  float q[kGroupMax][8];
  Softmax<kGroupMax, kLanes> softmax;
  softmax.Clear();
  uint4 q_words[kGroupMax];
#pragma unroll
  for (int h = 0; h < kGroupMax; ++h) {
    const unsigned head = first_head + min(unsigned(h), n_heads - 1);
    q_words[h] = Load8<kVector>(p.q + segment.query * p.q_stride + head * size_t{p.head_dim}, begin,
                                p.head_dim);
  }
  uint4 new_key = {}, new_value = {};
  if constexpr (kRotate) {
    // The projected key and value, and the angles of this lane's dimensions.
    const RotateParams& r = p.rotate;
    const size_t row = segment.query;
    const size_t angle = row * (kPad / 2) + begin % (kPad / 2);
    new_key = Load8<true>(static_cast<const bf16*>(r.k.data) + row * r.k.stride + head_offset,
                          begin, p.head_dim);
    new_value = Load8<true>(static_cast<const bf16*>(r.v.data) + row * r.v.stride + head_offset,
                            begin, p.head_dim);
    float cosine[8], sine[8], q_factors[8], k_factors[8];
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      cosine[i] = r.cosines[angle + i];
      sine[i] = r.sines[angle + i];
      q_factors[i] = r.q_norm != nullptr ? __ldg(r.q_norm + begin + i) : 1.0f;
      k_factors[i] = r.k_norm != nullptr ? __ldg(r.k_norm + begin + i) : 1.0f;
    }
#pragma unroll
    for (int h = 0; h < kGroupMax; ++h) {
      q_words[h] = Rotated<kLanes>(q_words[h], r.q_norm != nullptr, q_factors, begin, r.epsilon,
                                   cosine, sine);
    }
    new_key = Rotated<kLanes>(new_key, r.k_norm != nullptr, k_factors, begin, r.epsilon, cosine,
                              sine);
    if (key_end == keys && split * share < keys && set == 0 && warp == 0 && slot == 0) {
      const size_t last = keys - 1;
      auto* const to_k = const_cast<bf16*>(all_keys) + last * segment.k_stride + head_offset + begin;
      auto* const to_v =
          const_cast<bf16*>(all_values) + last * segment.v_stride + head_offset + begin;
      *reinterpret_cast<uint4*>(to_k) = new_key;
      *reinterpret_cast<uint4*>(to_v) = new_value;
    }
  }
#pragma unroll
  for (int h = 0; h < kGroupMax; ++h) {
    Unpack8(q_words[h], q[h]);
#pragma unroll
    for (int i = 0; i < 8; ++i) q[h][i] *= p.scale_log2;
  }

  for (unsigned base = split * share; base < key_end; base += kStep * kUnroll) {
    if (base > split * share) load(base);
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const unsigned first = base + u * kStep + warp * kKeysPerWarp;
      if (first >= key_end) break;
      const bool valid = first + slot < key_end;
      if (kRotate && first + slot == keys - 1) {
        key_words[u] = new_key;
        value_words[u] = new_value;
      }
      softmax.Add(q, key_words[u], value_words[u], valid);
    }
  }

  constexpr unsigned kRow = kPad + 2;
  __shared__ float merged[kWarps][kGroupMax][kRow];
  __shared__ bool is_last;
  softmax.Leave(merged[warp]);
  __syncthreads();
  const unsigned item = (blockIdx.z * gridDim.y + blockIdx.y);
  float* const partial = p.partial + size_t{item} * p.splits * kGroupMax * kRow;
  __shared__ float combined[kCluster ? kGroupMax : 1][kRow];  // this block's
  const auto store = [&](unsigned h, unsigned d, float value) {
    if (d < p.head_dim) {
      p.out[segment.query * p.out_stride + (first_head + h) * size_t{p.head_dim} + d] =
          FromFloat<bf16>(value);
    }
  };
  for (unsigned i = threadIdx.x; i < n_heads * kPad; i += kThreads) {
    const unsigned h = i / kPad, d = i % kPad;
    float top = -INFINITY, sum = 0, value = 0;
#pragma unroll
    for (unsigned w = 0; w < kWarps; ++w) top = fmaxf(top, merged[w][h][kPad]);
#pragma unroll
    for (unsigned w = 0; w < kWarps; ++w) {
      const float warp_m = merged[w][h][kPad];
      const float weight = warp_m == -INFINITY ? 0.0f : exp2f(warp_m - top);
      sum += weight * merged[w][h][kPad + 1];
      value += weight * merged[w][h][d];
    }
    if (p.splits == 1) {
      store(h, d, value / sum);
      continue;
    }
    float* const to = kCluster ? combined[h] : partial + (size_t{split} * kGroupMax + h) * kRow;
    to[d] = value;
    if (d == 0) {
      to[kPad] = top;
      to[kPad + 1] = sum;
    }
  }
  if (p.splits == 1) return;
  // Blocks.
  if constexpr (kCluster) {
    ClusterSync();
    const unsigned share_of_values = (n_heads * kPad + p.splits - 1) / p.splits;
    const unsigned values_end = min(n_heads * kPad, (split + 1) * share_of_values);
    for (unsigned i = split * share_of_values + threadIdx.x; i < values_end; i += kThreads) {
      const unsigned h = i / kPad, d = i % kPad;
      float block_m[kClusterMax], block_l[kClusterMax], block_value[kClusterMax];
      float top = -INFINITY, sum = 0, value = 0;
#pragma unroll
      for (unsigned s = 0; s < kClusterMax; ++s) {
        if (s >= p.splits) break;
        const float* const from = ClusterAddress(&combined[h][0], s);
        block_m[s] = from[kPad];
        block_l[s] = from[kPad + 1];
        block_value[s] = from[d];
        top = fmaxf(top, block_m[s]);
      }
#pragma unroll
      for (unsigned s = 0; s < kClusterMax; ++s) {
        if (s >= p.splits) break;
        const float weight = exp2f(block_m[s] - top);
        sum += weight * block_l[s];
        value += weight * block_value[s];
      }
      store(h, d, value / sum);
    }
    ClusterSync();  // nobody leaves while others read its memory
    return;
  }
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) is_last = atomicAdd(p.counters + item, 1u) == p.splits - 1;
  __syncthreads();
  if (!is_last) return;
  __threadfence();
  // One warp a head finds what each block's values weigh, so that no load waits for another.
  static_assert(kWarps >= kGroupMax && kDecodeSplitsMax <= 64);
  __shared__ float weights[kGroupMax][kDecodeSplitsMax];
  if (warp < n_heads) {
    float block_m[2], block_l[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const unsigned s = lane + 32 * i;
      const float* const from = partial + (size_t{s} * kGroupMax + warp) * kRow;
      block_m[i] = s < p.splits ? __ldcg(from + kPad) : -INFINITY;
      block_l[i] = s < p.splits ? __ldcg(from + kPad + 1) : 0.0f;
    }
    float top = fmaxf(block_m[0], block_m[1]);
#pragma unroll
    for (int step = 16; step > 0; step /= 2) top = fmaxf(top, __shfl_xor_sync(~0u, top, step));
    const float low = exp2f(block_m[0] - top), high = exp2f(block_m[1] - top);
    const float sum = WarpSum(low * block_l[0] + high * block_l[1]);
    weights[warp][lane] = low / sum;
    weights[warp][lane + 32] = high / sum;
  }
  __syncthreads();
  for (unsigned i = threadIdx.x; i < n_heads * kPad; i += kThreads) {
    const unsigned h = i / kPad, d = i % kPad;
    float value = 0;
#pragma unroll 8
    for (unsigned s = 0; s < p.splits; ++s) {
      value += weights[h][s] * __ldcg(partial + (size_t{s} * kGroupMax + h) * kRow + d);
    }
    store(h, d, value);
  }
  if (threadIdx.x == 0) p.counters[item] = 0;  // for the next launch
}

unsigned Pad(size_t head_dim) {
  return head_dim <= 32 ? 32 : head_dim <= 64 ? 64 : head_dim <= 128 ? 128 : 256;
}

bool Aligned(const void* data, size_t stride) {
  return reinterpret_cast<uintptr_t>(data) % 16 == 0 && stride % 8 == 0;
}

// Whether all rows can be read 8 dimensions at a time.
bool Vectors(const DecodeShape& shape, const DecodeSegment* segments, size_t segment_count) {
  return shape.head_dim % 8 == 0 && Aligned(shape.q.data, shape.q.stride) &&
         std::all_of(segments, segments + segment_count, [](const DecodeSegment& segment) {
           return Aligned(segment.k, segment.k_stride) && Aligned(segment.v, segment.v_stride);
         });
}

template <unsigned kPad, bool kCluster>
cudaError_t LaunchPadded(const Params& p, bool vector, bool rotates, dim3 grid,
                         cudaStream_t stream) {
  auto* const kernel = rotates  ? DecodeKernel<kPad, true, kCluster, true>
                       : vector ? DecodeKernel<kPad, true, kCluster, false>
                                : DecodeKernel<kPad, false, kCluster, false>;
  return LaunchClusters(kernel, grid, kCluster ? p.splits : 1, kThreads, 0, stream, p);
}

template <unsigned kPad>
cudaError_t LaunchPadded(const Params& p, bool vector, bool rotates, dim3 grid,
                         cudaStream_t stream) {
  return p.splits <= kClusterMax ? LaunchPadded<kPad, true>(p, vector, rotates, grid, stream)
                                 : LaunchPadded<kPad, false>(p, vector, rotates, grid, stream);
}

}  // namespace

size_t DecodePartialFloats(size_t multiprocessors) {
  return 2 * multiprocessors * kGroupMax * (256 + 2);
}

bool DecodeRotates(const DecodeShape& shape, const DecodeSegment* segments, size_t segment_count,
                   const RotateParams& rotate) {
  return shape.head_dim == Pad(shape.head_dim) && Vectors(shape, segments, segment_count) &&
         rotate.k.bytes == sizeof(bf16) && rotate.v.bytes == sizeof(bf16) &&
         Aligned(rotate.k.data, rotate.k.stride) && Aligned(rotate.v.data, rotate.v.stride);
}

cudaError_t LaunchAttentionDecode(const DecodeShape& shape, const DecodeSegment* segments,
                                  size_t segment_count, const RotateParams* rotate,
                                  size_t multiprocessors, const DecodeWorkspace& workspace,
                                  cudaStream_t stream) {
  if (segment_count == 0) return cudaSuccess;
  if (shape.head_dim > 256) return cudaErrorInvalidValue;
  if (rotate != nullptr && !DecodeRotates(shape, segments, segment_count, *rotate)) {
    return cudaErrorInvalidValue;
  }
  Params p = {};
  p.q = static_cast<const bf16*>(shape.q.data);
  p.out = static_cast<bf16*>(shape.out.data);
  p.q_stride = shape.q.stride;
  p.out_stride = shape.out.stride;
  p.group = static_cast<unsigned>(shape.heads / shape.kv_heads);
  p.sets = CeilDiv(p.group, kGroupMax);
  p.head_dim = static_cast<unsigned>(shape.head_dim);
  p.scale_log2 = shape.scale * 1.4426950408889634f;
  p.partial = workspace.partial;
  p.counters = workspace.counters;
  if (rotate != nullptr) p.rotate = *rotate;
  const bool vector = Vectors(shape, segments, segment_count);
  size_t keys = 0;
  for (size_t i = 0; i < segment_count; ++i) {
    p.segments[i] = segments[i];
    keys = std::max<size_t>(keys, segments[i].keys);
  }
  // Two blocks a multiprocessor, unless that leaves a block too few keys. More than one split
  // therefore means at most that many blocks, which bounds the workspace.
  const size_t items = segment_count * shape.kv_heads * p.sets;
  size_t splits = std::max<size_t>(1, 2 * multiprocessors / items);
  splits = std::min({splits, size_t{CeilDiv(keys, kKeysPerSplitMin)}, kDecodeSplitsMax});
  if (keys <= kClusterKeysMax) splits = std::min(splits, kClusterMax);
  // No empty split: a share of ceil(keys / splits) may cover the keys with fewer.
  p.splits = CeilDiv(keys, CeilDiv(keys, splits));
  const dim3 grid(p.splits, static_cast<unsigned>(shape.kv_heads) * p.sets,
                  static_cast<unsigned>(segment_count));
  switch (Pad(shape.head_dim)) {
    case 32:
      return LaunchPadded<32>(p, vector, rotate != nullptr, grid, stream);
    case 64:
      return LaunchPadded<64>(p, vector, rotate != nullptr, grid, stream);
    case 128:
      return LaunchPadded<128>(p, vector, rotate != nullptr, grid, stream);
    default:
      return LaunchPadded<256>(p, vector, rotate != nullptr, grid, stream);
  }
}

}  // namespace msadb::kernels::cuda
