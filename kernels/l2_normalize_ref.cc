#include <algorithm>
#include <cmath>

#include "kernels/l2_normalize.h"

namespace msadb::kernels {

void L2NormalizeRef(const L2NormalizeParams& p) {
  for (size_t i = 0; i < p.rows * p.heads; ++i) {
    float* x = p.x + i * p.head_dim;
    float squares = 0;
    for (size_t j = 0; j < p.head_dim; ++j) squares += x[j] * x[j];
    const float length = std::max(std::sqrt(squares), 1e-12f);
    for (size_t j = 0; j < p.head_dim; ++j) x[j] /= length;
  }
}

}  // namespace msadb::kernels
