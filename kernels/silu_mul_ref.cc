#include <cmath>

#include "kernels/silu_mul.h"

namespace msadb::kernels {

void SiluMulRef(const SiluMulParams& p) {
  for (size_t i = 0; i < p.tokens; ++i) {
    const float* gate = p.gate_up + i * 2 * p.width;
    const float* up = gate + p.width;
    float* out = p.out + i * p.width;
    for (size_t j = 0; j < p.width; ++j) out[j] = gate[j] / (1.0f + std::exp(-gate[j])) * up[j];
  }
}

}  // namespace msadb::kernels
