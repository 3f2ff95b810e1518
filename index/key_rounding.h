// KeyType::kInt8: routing keys as 8-bit numbers with one scale a row.
//
// Of a row x with m = max |x[d]|:
//   scale     m / 127, rounded to 16 significant bits
//   values    x[d] / scale rounded to the nearest integer, -127 to 127
//   key       scale * values[d]
// 16 bits times 7 are 23, so that every product is exactly a float32: it does not matter in which
// precision it is taken, and a rounded row rounds to itself. A row whose scale would not be a
// normal float32 (m is 0 or below 1.5e-36) becomes zeros with scale 1: scales are positive, and no
// product is subnormal.
#ifndef MSADB_INDEX_KEY_ROUNDING_H_
#define MSADB_INDEX_KEY_ROUNDING_H_

#include <cstddef>
#include <cstdint>

namespace msadb::index::internal {

// `row` [dim] is finite. Writes values [dim] and returns the scale.
float RoundKey(const float* row, size_t dim, int8_t* values);

// out[d] = scale * values[d].
void ExpandKey(const int8_t* values, float scale, size_t dim, float* out);

// The longest that a row of 2-norm `norm` and its rounded form can be.
float RoundedNormMax(float norm, size_t dim);

}  // namespace msadb::index::internal

#endif  // MSADB_INDEX_KEY_ROUNDING_H_
