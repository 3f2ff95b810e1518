#include <algorithm>

#include "kernels/chunk_pool.h"

namespace msadb::kernels {

void ChunkPoolRef(const ChunkPoolParams& p) {
  const float* x = p.x;
  float* out = p.out;
  for (size_t d = 0; d < p.documents; ++d) {
    for (size_t begin = 0; begin < p.lengths[d]; begin += p.chunk) {
      const size_t count = std::min(p.chunk, p.lengths[d] - begin);
      std::fill_n(out, p.width, 0.0f);
      for (size_t i = 0; i < count; ++i, x += p.x_stride) {
        for (size_t j = 0; j < p.width; ++j) out[j] += x[j];
      }
      const float divisor = static_cast<float>(count);
      for (size_t j = 0; j < p.width; ++j) out[j] /= divisor;
      out += p.width;
    }
  }
}

}  // namespace msadb::kernels
