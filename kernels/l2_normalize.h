// Scales every head of every row to Euclidean length 1 (cosine routing, spec section 2):
//   x[i, h, :] /= max(|x[i, h, :]|, 1e-12)
// A zero head stays zero. Few rows (one per chunk): the plain loops are the CPU version.
#ifndef MSADB_KERNELS_L2_NORMALIZE_H_
#define MSADB_KERNELS_L2_NORMALIZE_H_

#include <cstddef>

namespace msadb::kernels {

struct L2NormalizeParams {
  float* x = nullptr;  // [rows, heads, head_dim], in place
  size_t rows = 0;
  size_t heads = 0;
  size_t head_dim = 0;
};

void L2NormalizeRef(const L2NormalizeParams& p);

}  // namespace msadb::kernels

#endif  // MSADB_KERNELS_L2_NORMALIZE_H_
