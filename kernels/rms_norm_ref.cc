#include <cmath>

#include "kernels/rms_norm.h"

namespace msadb::kernels {

void RmsNormRef(const RmsNormParams& p) {
  for (size_t i = 0; i < p.tokens; ++i) {
    for (size_t h = 0; h < p.heads; ++h) {
      const float* x = p.x + i * p.x_stride + h * p.width;
      float* y = p.y + i * p.y_stride + h * p.width;
      float squares = 0;
      for (size_t j = 0; j < p.width; ++j) squares += x[j] * x[j];
      const float scale = 1.0f / std::sqrt(squares / static_cast<float>(p.width) + p.epsilon);
      for (size_t j = 0; j < p.width; ++j) y[j] = x[j] * scale * p.weight[j];
    }
  }
}

}  // namespace msadb::kernels
