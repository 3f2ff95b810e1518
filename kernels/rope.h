// Rotary position embedding, Hugging Face's half-split form: with D = head_dim and angle a_j of
// pair (j, j + D/2) at a token's position,
//
//   y[j]       = x[j] cos(a_j) - x[j + D/2] sin(a_j)
//   y[j + D/2] = x[j + D/2] cos(a_j) + x[j] sin(a_j),   a_j = position * theta^(-2j/D)
//
// The angles of a batch are computed once and used by every layer.
#ifndef MSADB_KERNELS_ROPE_H_
#define MSADB_KERNELS_ROPE_H_

#include <cstddef>
#include <cstdint>

namespace msadb::kernels {

// cosines, sines: [tokens, head_dim / 2]. Computed in float32 steps as Hugging Face does, so that
// both agree to rounding also at large positions.
void RopeAngles(const int32_t* positions, size_t tokens, size_t head_dim, double theta,
                float* cosines, float* sines);

struct RopeParams {
  float* x = nullptr;              // [tokens, heads, head_dim], rotated in place
  size_t x_stride = 0;             // floats between tokens
  const float* cosines = nullptr;  // [tokens, head_dim / 2]
  const float* sines = nullptr;    // [tokens, head_dim / 2]
  size_t tokens = 0;
  size_t heads = 0;
  size_t head_dim = 0;  // even
};

void RopeRef(const RopeParams& p);
void RopeAvx2(const RopeParams& p);  // any even head_dim; only where CpuHasAvx2()

}  // namespace msadb::kernels

#endif  // MSADB_KERNELS_ROPE_H_
