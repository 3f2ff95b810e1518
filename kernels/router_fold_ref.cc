#include <algorithm>
#include <cmath>

#include "kernels/router_fold.h"

namespace msadb::kernels {

void RouterFoldRef(const RouterFoldParams& p) {
  const size_t group = p.heads / p.kv_heads;
  const size_t kv_dim = p.kv_heads * p.head_dim;
  for (size_t t = 0; t < p.tokens; ++t) {
    float* out = p.out + t * kv_dim;
    std::fill_n(out, kv_dim, 0.0f);
    for (size_t h = 0; h < p.heads; ++h) {
      const float* q = p.q + t * p.q_stride + h * p.head_dim;
      float divisor = std::sqrt(static_cast<float>(p.head_dim));
      if (p.cosine) {
        float squares = 0;
        for (size_t j = 0; j < p.head_dim; ++j) squares += q[j] * q[j];
        divisor = std::max(std::sqrt(squares), 1e-12f);
      }
      const float scale = 1.0f / (divisor * static_cast<float>(p.heads));
      float* group_out = out + h / group * p.head_dim;
      for (size_t j = 0; j < p.head_dim; ++j) group_out[j] += q[j] * scale;
    }
  }
}

}  // namespace msadb::kernels
