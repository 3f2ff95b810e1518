#include <vector>

#include "kernels/matmul.h"

namespace msadb::kernels {

void MatmulRef(const MatmulParams& p) {
  const size_t cols = p.weight->cols();
  std::vector<float> row(cols);
  for (size_t r = 0; r < p.weight->rows(); ++r) {
    p.weight->DequantizeRows(r, 1, row.data());
    for (size_t t = 0; t < p.tokens; ++t) {
      float sum = 0;
      for (size_t c = 0; c < cols; ++c) sum += p.x[t * p.x_stride + c] * row[c];
      float& y = p.y[t * p.y_stride + r];
      y = p.accumulate ? y + sum : sum;
    }
  }
}

}  // namespace msadb::kernels
