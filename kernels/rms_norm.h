// Root-mean-square normalisation over the last dimension (Qwen3 / Llama RMSNorm):
//
//   y[i, h, :] = x[i, h, :] / sqrt(mean(x[i, h, :]^2) + epsilon) * weight
//
// One form serves the layer norms (heads = 1) and Qwen3's q_norm and k_norm (one row per head, the
// weight shared by all heads), which are views into a fused projection's output: hence the strides.
#ifndef MSADB_KERNELS_RMS_NORM_H_
#define MSADB_KERNELS_RMS_NORM_H_

#include <cstddef>

namespace msadb::kernels {

struct RmsNormParams {
  const float* x = nullptr;       // [tokens, heads, width], rows of a token contiguous
  size_t x_stride = 0;            // floats between tokens
  const float* weight = nullptr;  // [width]
  float* y = nullptr;             // like x; may be x itself (with equal strides), else no overlap
  size_t y_stride = 0;
  size_t tokens = 0;
  size_t heads = 1;
  size_t width = 0;
  float epsilon = 0;
};

void RmsNormRef(const RmsNormParams& p);
void RmsNormAvx2(const RmsNormParams& p);  // any width; only where CpuHasAvx2()

}  // namespace msadb::kernels

#endif  // MSADB_KERNELS_RMS_NORM_H_
