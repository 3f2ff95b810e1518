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

}  // namespace msadb::kernels::cuda

#endif  // MSADB_KERNELS_CUDA_ATTENTION_QUERY_CUH_
