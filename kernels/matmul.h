// Linear maps: y[t, r] = sum over c of x[t, c] * W[r, c].
//
// Three ways to the same sum:
// - many tokens, float weights (or `exact`): panels of W as float32, OpenBLAS sgemm per thread;
// - few tokens, float weights: dot products that read each weight once (memory-bound);
// - int8 and int4 weights: activations are rounded to integers per token and block of 32 inputs,
// and
//   products run in integers. With m[t,b] = max|x| over block b, the rounding costs at most
//     |error of y[t, r]| <= sum over b of m[t,b] / L * sum over c in b of |W[r, c] - min[r, b]|
//   (min is 0 for int8; int4's min part uses the exact sum of the block), where L is 254 with one
//   plane of int8 (kFast, the rounding that GGUF engines use, about 0.5% of |y| in relative RMS for
//   normally distributed inputs) and 64,516 with two (kFine, near float32's own rounding). A
//   token's result does not depend on the other tokens of the call.
//
#ifndef MSADB_KERNELS_MATMUL_H_
#define MSADB_KERNELS_MATMUL_H_

#include <cstddef>
#include <cstdint>

#include "kernels/aligned_buffer.h"
#include "kernels/weight_matrix.h"

namespace msadb::kernels {

// Scratch memory of Matmul, reused between calls; one call at a time.
struct MatmulWorkspace {
  AlignedBuffer quantized;
  AlignedBuffer panels;
};

// How products with int8 and int4 weights are computed. Float weights are always computed in
// float32, and processors without AVX2 always compute kExact.
enum class Precision : uint8_t {
  kFine,   // activations in two int8 planes
  kFast,   // activations in one int8 plane: about half the time of kFine for many tokens
  kExact,  // float32 activations on dequantised weights: slow, for comparing with a reference
};

struct MatmulParams {
  const WeightMatrix* weight = nullptr;
  const float* x = nullptr;  // [tokens, cols]
  size_t x_stride = 0;       // floats between tokens, at least cols
  float* y = nullptr;        // [tokens, rows]; no overlap with x
  size_t y_stride = 0;       // floats between tokens, at least rows
  size_t tokens = 0;
  bool accumulate = false;  // y += instead of y =
  Precision precision = Precision::kFine;
};

// Plain loops over dequantised rows. Throws std::bad_alloc.
void MatmulRef(const MatmulParams& p);

// As described above, on up to `threads` threads. Throws std::bad_alloc.
void Matmul(const MatmulParams& p, int threads, MatmulWorkspace* workspace);

}  // namespace msadb::kernels

#endif  // MSADB_KERNELS_MATMUL_H_
