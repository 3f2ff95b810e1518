#include "index/key_rounding.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "index/routing_index.h"

namespace msadb::index {
namespace internal {

float RoundKey(const float* row, size_t dim, int8_t* values) {
  float largest = 0;
#pragma omp simd reduction(max : largest)
  for (size_t i = 0; i < dim; ++i) largest = std::max(largest, std::fabs(row[i]));
  // The nearest float32 whose last 8 bits are 0.
  const auto bits = std::bit_cast<uint32_t>(largest / 127.0f);
  const auto scale = std::bit_cast<float>((bits + 0x80) & ~uint32_t{0xff});
  if (scale < std::numeric_limits<float>::min()) {
    std::fill_n(values, dim, int8_t{0});
    return 1.0f;
  }
  // Adding and subtracting 1.5 * 2^23 rounds to an integer, four and more at a time.
  constexpr float kRounder = 12582912.0f;
  const float inverse = 1.0f / scale;
#pragma omp simd
  for (size_t i = 0; i < dim; ++i) {
    const float rounded = (row[i] * inverse + kRounder) - kRounder;
    values[i] = static_cast<int8_t>(static_cast<int32_t>(rounded));
  }
  return scale;
}

void ExpandKey(const int8_t* values, float scale, size_t dim, float* out) {
#pragma omp simd
  for (size_t i = 0; i < dim; ++i) out[i] = scale * static_cast<float>(values[i]);
}

float RoundedNormMax(float norm, size_t dim) {
  // Each value moves by at most 0.501 scale, and scale is at most 1.0001 m / 127, m at most norm.
  return norm * (1 + std::sqrt(static_cast<float>(dim)) / 253);
}

}  // namespace internal

void RoundKeysToInt8(float* rows, size_t n_rows, size_t dim) {
  std::vector<int8_t> values(dim);
  for (float* row = rows; row != rows + n_rows * dim; row += dim) {
    const float scale = internal::RoundKey(row, dim, values.data());
    internal::ExpandKey(values.data(), scale, dim, row);
  }
}

}  // namespace msadb::index
