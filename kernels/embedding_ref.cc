#include "kernels/embedding.h"

namespace msadb::kernels {

void EmbeddingRef(const EmbeddingParams& p) {
  for (size_t i = 0; i < p.tokens; ++i) {
    p.weight->DequantizeRows(static_cast<size_t>(p.ids[i]), 1, p.out + i * p.out_stride);
  }
}

}  // namespace msadb::kernels
