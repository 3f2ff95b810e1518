#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/attention.h"

namespace msadb::kernels {

void AttentionRef(const AttentionParams& p) {
  const size_t group = p.heads / p.kv_heads;
  std::vector<float> weights;
  for (size_t s = 0; s < p.segment_count; ++s) {
    const AttentionSegment& segment = p.segments[s];
    for (size_t i = 0; i < segment.query_count; ++i) {
      const size_t visible = segment.visible_before + i + 1;
      weights.resize(visible);
      for (size_t h = 0; h < p.heads; ++h) {
        const size_t row = segment.query_begin + i;
        const float* q = p.q + row * p.q_stride + h * p.head_dim;
        const float* k = p.k + segment.key_begin * p.kv_stride + h / group * p.head_dim;
        const float* v = p.v + segment.key_begin * p.kv_stride + h / group * p.head_dim;
        float* out = p.out + row * p.out_stride + h * p.head_dim;

        for (size_t j = 0; j < visible; ++j) {
          float dot = 0;
          for (size_t d = 0; d < p.head_dim; ++d) dot += q[d] * k[j * p.kv_stride + d];
          weights[j] = dot * p.scale;
        }
        const float largest = *std::max_element(weights.begin(), weights.end());
        float total = 0;
        for (float& weight : weights) total += weight = std::exp(weight - largest);
        std::fill_n(out, p.head_dim, 0.0f);
        for (size_t j = 0; j < visible; ++j) {
          const float weight = weights[j] / total;
          for (size_t d = 0; d < p.head_dim; ++d) out[d] += weight * v[j * p.kv_stride + d];
        }
      }
    }
  }
}

}  // namespace msadb::kernels
