// The single-threaded inner parts of kernels/matmul.h that have an AVX2 form. Plain structs only:
// files compiled for AVX2 must not instantiate inline code that generic files also use.
#ifndef MSADB_KERNELS_MATMUL_SLICES_H_
#define MSADB_KERNELS_MATMUL_SLICES_H_

#include <cstddef>
#include <cstdint>

namespace msadb::kernels {

enum class WeightType : uint8_t { kF32, kF16, kBF16, kInt8, kInt4 };

inline constexpr size_t kRowBlock = 8;   // rows of a packed block (kernels/weight_matrix.h)
inline constexpr size_t kColBlock = 32;  // columns of a packed block, and of an activation block

// Bytes of a packed block: elements, scales, mins (int4).
inline constexpr size_t kInt8ElementBytes = kRowBlock * kColBlock;
inline constexpr size_t kInt4ElementBytes = kRowBlock * kColBlock / 2;
inline constexpr size_t kFactorBytes = kRowBlock * sizeof(uint16_t);
inline constexpr size_t kInt8BlockBytes = kInt8ElementBytes + kFactorBytes;
inline constexpr size_t kInt4BlockBytes = kInt4ElementBytes + 2 * kFactorBytes;

// Activations as integers, per token and block of 32 inputs, in one or two planes of int8:
//   scale = max|x| / 127, q0 = round(x / scale), q1 = round(254 (x / scale - q0)),
//   x ~ scale (q0 + q1 / 254); with one plane, x ~ scale q0
//   sum = sum of x over the block (before rounding)
// A block of zeros (or of magnitudes below 1e-30) has scale 0. An infinity or a NaN makes the scale
// NaN, so that it reaches the result.
//
// Tokens are stored in tiles of kTokenTile, block by block, so that one pointer walks all of a
// tile:
//   q [tiles][cols / 32][planes][kTokenTile][32], scale and sum [tiles][cols / 32][kTokenTile]
// The last tile may be partly filled.
inline constexpr size_t kTokenTile = 4;
inline constexpr float kPlaneRatio = 254;

struct QuantizeSlice {
  const float* x = nullptr;  // [tokens, cols]
  size_t x_stride = 0;
  size_t tokens = 0;    // 1..kTokenTile
  size_t cols = 0;      // a multiple of 32
  int planes = 1;       // 1 or 2
  int8_t* q = nullptr;  // of this tile
  float* scale = nullptr;
  float* sum = nullptr;
};
void QuantizeTileAvx2(const QuantizeSlice& p);

// y[t, r] (+)= sum over blocks b of scale_x[t,b] * scale_w[r,b] * (q_x[t,b] . q_w[r,b])
//                               + min_w[r,b] * sum_x[t,b],   q_x = q0 + q1 / 254
struct QuantizedSlice {
  WeightType type = WeightType::kInt8;  // kInt8 or kInt4
  const uint8_t* row_blocks =
      nullptr;      // packed, from the slice's first row block; int4: 32-aligned
  size_t rows = 0;  // of this slice; only its last row block may be partly used
  size_t cols = 0;
  int planes = 1;
  const int8_t* q =
      nullptr;  // activations from the slice's first tile, as QuantizeTile leaves them
  const float* scale = nullptr;
  const float* sum = nullptr;
  size_t tokens = 0;
  float* y = nullptr;  // [tokens, rows]
  size_t y_stride = 0;
  bool accumulate = false;
};
void QuantizedMatmulAvx2(const QuantizedSlice& p);

// y[t, r] (+)= w[r, :] . x[t, :] for few tokens and row-major float weights.
struct FloatSlice {
  WeightType type = WeightType::kF32;  // kF32, kF16 or kBF16
  const void* weight = nullptr;        // [rows, cols]
  size_t rows = 0;
  size_t cols = 0;
  const float* x = nullptr;  // [tokens, cols]
  size_t x_stride = 0;
  size_t tokens = 0;
  float* y = nullptr;  // [tokens, rows]
  size_t y_stride = 0;
  bool accumulate = false;
};
void FloatMatmulAvx2(const FloatSlice& p);

}  // namespace msadb::kernels

#endif  // MSADB_KERNELS_MATMUL_SLICES_H_
