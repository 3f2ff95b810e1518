#include <cmath>

#include "kernels/rope.h"

namespace msadb::kernels {

void RopeAngles(const int32_t* positions, size_t tokens, size_t head_dim, double theta,
                float* cosines, float* sines) {
  const size_t half = head_dim / 2;
  for (size_t j = 0; j < half; ++j) {
    const float exponent = static_cast<float>(2 * j) / static_cast<float>(head_dim);
    const float frequency = 1.0f / std::pow(static_cast<float>(theta), exponent);
    for (size_t i = 0; i < tokens; ++i) {
      const float angle = static_cast<float>(positions[i]) * frequency;
      cosines[i * half + j] = std::cos(angle);
      sines[i * half + j] = std::sin(angle);
    }
  }
}

void RopeRef(const RopeParams& p) {
  const size_t half = p.head_dim / 2;
  for (size_t i = 0; i < p.tokens; ++i) {
    const float* cosine = p.cosines + i * half;
    const float* sine = p.sines + i * half;
    for (size_t h = 0; h < p.heads; ++h) {
      float* x = p.x + i * p.x_stride + h * p.head_dim;
      for (size_t j = 0; j < half; ++j) {
        const float low = x[j];
        const float high = x[j + half];
        x[j] = low * cosine[j] - high * sine[j];
        x[j + half] = high * cosine[j] + low * sine[j];
      }
    }
  }
}

}  // namespace msadb::kernels
