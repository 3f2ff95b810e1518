// The gate of the MLP: out = silu(gate) * up with silu(x) = x / (1 + e^-x). Gate and up come side
// by side from one fused projection.
#ifndef MSADB_KERNELS_SILU_MUL_H_
#define MSADB_KERNELS_SILU_MUL_H_

#include <cstddef>

namespace msadb::kernels {

struct SiluMulParams {
  const float* gate_up = nullptr;  // [tokens, 2 * width]: gate, then up
  float* out = nullptr;            // [tokens, width]; no overlap with gate_up
  size_t tokens = 0;
  size_t width = 0;
};

void SiluMulRef(const SiluMulParams& p);
void SiluMulAvx2(const SiluMulParams& p);  // any width; only where CpuHasAvx2()

}  // namespace msadb::kernels

#endif  // MSADB_KERNELS_SILU_MUL_H_
