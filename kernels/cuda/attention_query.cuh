// What the kernels share that attend with one query: 8 dimensions of a head in each lane.
#ifndef MSADB_KERNELS_CUDA_ATTENTION_QUERY_CUH_
#define MSADB_KERNELS_CUDA_ATTENTION_QUERY_CUH_

#include "kernels/cuda/device.cuh"

namespace msadb::kernels::cuda {

// Dimensions begin .. begin + 7 of a row, as four pairs; zero past the head's end.
template <bool kVector>
__device__ __forceinline__ uint4 Load8(const bf16* row, unsigned begin, unsigned head_dim) {
  uint4 words = {};
  if (kVector) {
    if (begin < head_dim) words = *reinterpret_cast<const uint4*>(row + begin);
  } else {
    float x[8];
#pragma unroll
    for (int i = 0; i < 8; ++i) x[i] = begin + i < head_dim ? ToFloat(row[begin + i]) : 0.0f;
    words = {Pack(x[0], x[1]), Pack(x[2], x[3]), Pack(x[4], x[5]), Pack(x[6], x[7])};
  }
  return words;
}

__device__ __forceinline__ void Unpack8(const uint4& words, float (&x)[8]) {
  x[0] = Low(words.x), x[1] = High(words.x), x[2] = Low(words.y), x[3] = High(words.y);
  x[4] = Low(words.z), x[5] = High(words.z), x[6] = Low(words.w), x[7] = High(words.w);
}

// (m, l, acc) of two disjoint key sets become those of their union.
__device__ __forceinline__ void MergeWeights(float& m, float other_m, float& mine, float& other) {
  const float top = fmaxf(m, other_m);
  mine = m == -INFINITY ? 0.0f : exp2f(m - top);
  other = other_m == -INFINITY ? 0.0f : exp2f(other_m - top);
  m = top;
}

// Normalises (if `normalise`, with these factors) and rotates one head, of which each of kLanes
// lanes has 8 dimensions.
template <unsigned kLanes>
__device__ __forceinline__ uint4 Rotated(const uint4& words, bool normalise,
                                         const float (&factors)[8], unsigned begin, float epsilon,
                                         const float (&cosine)[8], const float (&sine)[8]) {
  float x[8];
  Unpack8(words, x);
  if (normalise) {
    float squares = 0;
#pragma unroll
    for (int i = 0; i < 8; ++i) squares = fmaf(x[i], x[i], squares);
#pragma unroll
    for (unsigned step = kLanes / 2; step > 0; step /= 2) {
      squares += __shfl_xor_sync(~0u, squares, step);
    }
    const float scale = rsqrtf(squares / (8.0f * kLanes) + epsilon);
#pragma unroll
    for (int i = 0; i < 8; ++i) x[i] *= scale * factors[i];
  }
  const float sign = begin < 4 * kLanes ? -1.0f : 1.0f;
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const float other = __shfl_xor_sync(~0u, x[i], kLanes / 2);  // half a head away
    x[i] = fmaf(x[i], cosine[i], sign * other * sine[i]);
  }
  return {Pack(x[0], x[1]), Pack(x[2], x[3]), Pack(x[4], x[5]), Pack(x[6], x[7])};
}

// The running softmax of kHeads queries over the keys of a lane group: maximum, sum and weighted
// values, of which each of kLanes lanes has 8 dimensions.
template <int kHeads, unsigned kLanes>
struct Softmax {
  float m[kHeads], l[kHeads], acc[kHeads][8];

  __device__ __forceinline__ void Clear() {
#pragma unroll
    for (int h = 0; h < kHeads; ++h) {
      m[h] = -INFINITY;
      l[h] = 0;
#pragma unroll
      for (int i = 0; i < 8; ++i) acc[h][i] = 0;
    }
  }

  // One key and its value; q is scaled by log2(e) too. All lanes of the warp come, also those
  // without a `valid` key.
  __device__ __forceinline__ void Add(const float (&q)[kHeads][8], const uint4& key_words,
                                      const uint4& value_words, bool valid) {
    float key[8], value[8];
    Unpack8(key_words, key);
    Unpack8(value_words, value);
#pragma unroll
    for (int h = 0; h < kHeads; ++h) {
      float score = 0;
#pragma unroll
      for (int i = 0; i < 8; ++i) score = fmaf(q[h][i], key[i], score);
#pragma unroll
      for (unsigned step = kLanes / 2; step > 0; step /= 2) {
        score += __shfl_xor_sync(~0u, score, step);
      }
      if (!valid) continue;
      const float top = fmaxf(m[h], score);
      const float keep = exp2f(m[h] - top);  // 0 for the first key
      const float weight = exp2f(score - top);
      m[h] = top;
      l[h] = l[h] * keep + weight;
#pragma unroll
      for (int i = 0; i < 8; ++i) acc[h][i] = fmaf(weight, value[i], acc[h][i] * keep);
    }
  }

  // Merges the lane groups of the warp and leaves (values, maximum, sum) of each head in a row of
  // `to`.
  __device__ __forceinline__ void Leave(float (&to)[kHeads][8 * kLanes + 2]) {
    const unsigned lane = threadIdx.x % 32, begin = lane % kLanes * 8;
#pragma unroll
    for (unsigned step = kLanes; step < 32; step *= 2) {
#pragma unroll
      for (int h = 0; h < kHeads; ++h) {
        float mine, other;
        const float other_l = __shfl_xor_sync(~0u, l[h], step);
        MergeWeights(m[h], __shfl_xor_sync(~0u, m[h], step), mine, other);
        l[h] = l[h] * mine + other_l * other;
#pragma unroll
        for (int i = 0; i < 8; ++i) {
          acc[h][i] = acc[h][i] * mine + __shfl_xor_sync(~0u, acc[h][i], step) * other;
        }
      }
    }
    if (lane >= kLanes) return;
#pragma unroll
    for (int h = 0; h < kHeads; ++h) {
#pragma unroll
      for (int i = 0; i < 8; ++i) to[h][begin + i] = acc[h][i];
      if (begin == 0) {
        to[h][8 * kLanes] = m[h];
        to[h][8 * kLanes + 1] = l[h];
      }
    }
  }
};

}  // namespace msadb::kernels::cuda

#endif  // MSADB_KERNELS_CUDA_ATTENTION_QUERY_CUH_
