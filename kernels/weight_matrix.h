// The weights of one linear map, W [rows = outputs, cols = inputs], in the layout that the CPU
// matrix products read.
//
// Float weights (F32, F16, BF16) stay row-major. Quantised weights (Hugging Face and GGUF row order
// in model/safetensors.h) are repacked without loss into blocks of 8 rows x 32 columns, so that one
// AVX2 register holds 4 consecutive inputs of 8 outputs and a dot product ends with 8 finished
// outputs instead of 8 horizontal sums:
//
//   int8  register j (0..7): byte 4 r + b is element (row r, column 4 j + b)            256 bytes
//   int4  register j (0..3): byte 4 r + b holds column 4 j + b in its low nibble and
//         column 16 + 4 j + b in its high nibble, both of row r                         128 bytes
//   then the block's scales, float16 [8 rows], and for int4 its mins, float16 [8 rows]
//
// Blocks of a row block follow each other, row blocks too, so that a product reads memory in order.
// Rows are padded to a multiple of 8 with zeros. Scale groups longer than 32 are repeated per 32.
#ifndef MSADB_KERNELS_WEIGHT_MATRIX_H_
#define MSADB_KERNELS_WEIGHT_MATRIX_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "kernels/aligned_buffer.h"
#include "kernels/matmul_slices.h"
#include "msadb/status.h"

namespace msadb::kernels {

// A matrix as a file holds it. Pointers need only live until Make returns.
struct WeightSource {
  WeightType type = WeightType::kF32;
  const void* data = nullptr;       // [rows, cols]; int4: [rows, cols / 2], nibbles as in GGUF Q4_1
  const uint16_t* scale = nullptr;  // float16 [rows, cols / group]; quantised types only
  const uint16_t* min = nullptr;    // float16 [rows, cols / group]; int4 only
  size_t rows = 0;
  size_t cols = 0;
  size_t group = 0;  // a multiple of 32 that divides cols; quantised types only
};

// Immutable after Make; any thread may read.
class WeightMatrix {
 public:
  // Rows of one type, in the layout above.
  struct Part {
    WeightType type = WeightType::kF32;
    size_t row_begin = 0;  // first row of the stacked matrix
    size_t rows = 0;
    const std::byte* data = nullptr;  // in the arena
  };

  WeightMatrix() = default;

  // Stacks the sources' rows into one matrix, so that projections of the same input (q, k, v; gate,
  // up) become one product. Neighbours of the same type merge into one part. InvalidArgument: cols
  // differ or a group does not fit. ResourceExhausted: no memory.
  // The result lives in `arena` and must not outlive it.
  static Result<WeightMatrix> Make(std::span<const WeightSource> stacked, WeightArena* arena);

  size_t rows() const { return rows_; }
  size_t cols() const { return cols_; }
  size_t bytes() const;  // memory, which is what a batch-1 product reads
  const std::vector<Part>& parts() const { return parts_; }

  // Rows [begin, begin + count) as float32, row-major [count, cols]. Exact.
  void DequantizeRows(size_t begin, size_t count, float* out) const;

 private:
  size_t rows_ = 0;
  size_t cols_ = 0;
  std::vector<Part> parts_;
};

// Rows [begin, begin + count) of one part as float32 [count, cols].
void DequantizePartRows(const WeightMatrix::Part& part, size_t cols, size_t begin, size_t count,
                        float* out);

}  // namespace msadb::kernels

#endif  // MSADB_KERNELS_WEIGHT_MATRIX_H_
