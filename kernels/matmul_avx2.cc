// Integer products over packed int8 / int4 weights, and dot products over float weights.
//
// A packed register holds 4 consecutive inputs of 8 rows. The matching 4 activations are broadcast
// to all lanes, so vpmaddubsw yields partial sums already separated by row:
//
//   int4  weights are 0..15, unsigned as vpmaddubsw wants its first operand. A lane adds at most
//         8 pairs of products, 2 * 15 * 127 = 3,810 each, within one block: 30,480 < 32,767, so
//         the block is summed in int16 and widened once.
//   int8  |w| times a with w's sign: 2 * 128 * 127 = 32,512 < 32,767 fits, but only once; each
//         register is widened to int32.
//
// The block's integer sum times both scales goes to a float32 accumulator per token. Four tokens
// share the unpacking of a register.
#include "kernels/matmul_slices.h"
#include "kernels/simd_avx2.h"

namespace msadb::kernels {
namespace {

__m256i Broadcast4(const int8_t* p) {
  int32_t word;
  __builtin_memcpy(&word, p, sizeof(word));
  return _mm256_set1_epi32(word);
}

__m256 LoadHalf8(const uint8_t* p) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}

// Keeps the compiler from regrouping a chain of integer additions: it would form all products first
// and spill them.
void InOrder(__m256i& sum) { asm("" : "+x"(sum)); }

// The dot products of R row blocks, `stride` bytes apart, with the first T tokens of a tile:
// out[i][t] holds the 8 rows of block i.
template <int T, int R>
void Int4Blocks(const uint8_t* row_block, size_t stride, size_t blocks, const int8_t* q,
                const float* scale, const float* sum, __m256 out[R][T]) {
  __m256 total[R][T];
  const __m256i low_nibbles = _mm256_set1_epi8(15);
#pragma GCC unroll 8
  for (int i = 0; i < R; ++i) {
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) total[i][t] = _mm256_setzero_ps();
  }
  for (size_t b = 0; b < blocks; ++b) {
    __m256i pairs[R][T];
#pragma GCC unroll 8
    for (int j = 0; j < 4; ++j) {
      __m256i low[R], high[R];
#pragma GCC unroll 8
      for (int i = 0; i < R; ++i) {
        const auto* packed = reinterpret_cast<const __m256i*>(row_block + i * stride + j * 32);
        low[i] = _mm256_and_si256(_mm256_load_si256(packed), low_nibbles);
        high[i] = _mm256_and_si256(_mm256_srli_epi16(_mm256_load_si256(packed), 4), low_nibbles);
      }
#pragma GCC unroll 8
      for (int t = 0; t < T; ++t) {
        const int8_t* x = q + t * kColBlock + j * 4;
        const __m256i x_low = Broadcast4(x);
#pragma GCC unroll 8
        for (int i = 0; i < R; ++i) {
          const __m256i products = _mm256_maddubs_epi16(low[i], x_low);
          pairs[i][t] = j == 0 ? products : _mm256_add_epi16(pairs[i][t], products);
          InOrder(pairs[i][t]);
        }
        const __m256i x_high = Broadcast4(x + 16);
#pragma GCC unroll 8
        for (int i = 0; i < R; ++i) {
          pairs[i][t] = _mm256_add_epi16(pairs[i][t], _mm256_maddubs_epi16(high[i], x_high));
          InOrder(pairs[i][t]);
        }
      }
    }
#pragma GCC unroll 8
    for (int i = 0; i < R; ++i) {
      const uint8_t* const factors = row_block + i * stride + kInt4ElementBytes;
      const __m256 weight_scale = LoadHalf8(factors);
      const __m256 weight_min = LoadHalf8(factors + kFactorBytes);
#pragma GCC unroll 8
      for (int t = 0; t < T; ++t) {
        const __m256i words = _mm256_madd_epi16(pairs[i][t], _mm256_set1_epi16(1));
        const __m256 both = _mm256_mul_ps(weight_scale, _mm256_broadcast_ss(scale + t));
        total[i][t] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(words), both, total[i][t]);
        total[i][t] = _mm256_fmadd_ps(weight_min, _mm256_broadcast_ss(sum + t), total[i][t]);
      }
    }
    row_block += kInt4BlockBytes;
    q += kTokenTile * kColBlock;
    scale += kTokenTile;
    sum += kTokenTile;
  }
#pragma GCC unroll 8
  for (int i = 0; i < R; ++i) {
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) out[i][t] = total[i][t];
  }
}

template <int T, int R>
void Int8Blocks(const uint8_t* row_block, size_t stride, size_t blocks, const int8_t* q,
                const float* scale, __m256 out[R][T]) {
  __m256 total[R][T];
#pragma GCC unroll 8
  for (int i = 0; i < R; ++i) {
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) total[i][t] = _mm256_setzero_ps();
  }
  for (size_t b = 0; b < blocks; ++b) {
    __m256i dot[R][T];
#pragma GCC unroll 8
    for (int j = 0; j < 8; ++j) {
      __m256i weight[R], magnitude[R];
#pragma GCC unroll 8
      for (int i = 0; i < R; ++i) {
        weight[i] =
            _mm256_loadu_si256(reinterpret_cast<const __m256i*>(row_block + i * stride + j * 32));
        magnitude[i] = _mm256_abs_epi8(weight[i]);
      }
#pragma GCC unroll 8
      for (int t = 0; t < T; ++t) {
        const __m256i x = Broadcast4(q + t * kColBlock + j * 4);
#pragma GCC unroll 8
        for (int i = 0; i < R; ++i) {
          const __m256i products =
              _mm256_maddubs_epi16(magnitude[i], _mm256_sign_epi8(x, weight[i]));
          const __m256i words = _mm256_madd_epi16(products, _mm256_set1_epi16(1));
          dot[i][t] = j == 0 ? words : _mm256_add_epi32(dot[i][t], words);
          InOrder(dot[i][t]);
        }
      }
    }
#pragma GCC unroll 8
    for (int i = 0; i < R; ++i) {
      const __m256 weight_scale = LoadHalf8(row_block + i * stride + kInt8ElementBytes);
#pragma GCC unroll 8
      for (int t = 0; t < T; ++t) {
        const __m256 both = _mm256_mul_ps(weight_scale, _mm256_broadcast_ss(scale + t));
        total[i][t] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot[i][t]), both, total[i][t]);
      }
    }
    row_block += kInt8BlockBytes;
    q += kTokenTile * kColBlock;
    scale += kTokenTile;
  }
#pragma GCC unroll 8
  for (int i = 0; i < R; ++i) {
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) out[i][t] = total[i][t];
  }
}

void Store(__m256 value, size_t rows, bool accumulate, float* y) {
  if (rows >= kRowBlock) {
    if (accumulate) value = _mm256_add_ps(value, _mm256_loadu_ps(y));
    _mm256_storeu_ps(y, value);
    return;
  }
  alignas(32) float lanes[kRowBlock];
  _mm256_store_ps(lanes, value);
  for (size_t r = 0; r < rows; ++r) y[r] = accumulate ? y[r] + lanes[r] : lanes[r];
}

// The first T tokens of the tile at `token` against R row blocks, `distance` rows apart, from `row`
// on. Only the last row block of a slice may be partly used.
template <int T, int R>
void QuantizedTile(const QuantizedSlice& p, size_t row, size_t distance, size_t token) {
  const size_t blocks = p.cols / kColBlock;
  const size_t block_bytes = p.type == WeightType::kInt4 ? kInt4BlockBytes : kInt8BlockBytes;
  const size_t stride = distance / kRowBlock * blocks * block_bytes;
  const uint8_t* row_block = p.row_blocks + row / kRowBlock * blocks * block_bytes;
  const int8_t* q = p.q + token * p.cols;
  const float* scale = p.scale + token * blocks;
  __m256 out[R][T];
  if (p.type == WeightType::kInt4) {
    Int4Blocks<T, R>(row_block, stride, blocks, q, scale, p.sum + token * blocks, out);
  } else {
    Int8Blocks<T, R>(row_block, stride, blocks, q, scale, out);
  }
  for (int i = 0; i < R; ++i) {
    for (int t = 0; t < T; ++t) {
      const size_t r = row + i * distance;
      Store(out[i][t], p.rows - r, p.accumulate, p.y + (token + t) * p.y_stride + r);
    }
  }
}

// One token is bound by reading the weights. Four streams far apart keep more of them in flight
// than one: a prefetcher follows each page on its own (measured 14 to 17 GB/s with one, 20 to 22
// with four, on one core).
void OneToken(const QuantizedSlice& p, size_t token) {
  constexpr int kStreams = 4;
  const size_t quarter = p.rows / kRowBlock / kStreams * kRowBlock;
  for (size_t row = 0; row < quarter; row += kRowBlock) {
    QuantizedTile<1, kStreams>(p, row, quarter, token);
  }
  for (size_t row = kStreams * quarter; row < p.rows; row += kRowBlock) {
    QuantizedTile<1, 1>(p, row, 0, token);
  }
}

template <int T>
void FewTokens(const QuantizedSlice& p, size_t token) {
  for (size_t row = 0; row < p.rows; row += kRowBlock) QuantizedTile<T, 1>(p, row, 0, token);
}

struct F32Loader {
  using Type = float;
  static __m256 Load(const float* p) { return _mm256_loadu_ps(p); }
  static float Load1(float v) { return v; }
};

struct F16Loader {
  using Type = uint16_t;
  static __m256 Load(const uint16_t* p) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static float Load1(uint16_t v) { return _cvtsh_ss(v); }
};

struct Bf16Loader {
  using Type = uint16_t;
  static __m256 Load(const uint16_t* p) {
    const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
  }
  static float Load1(uint16_t v) {
    return _mm_cvtss_f32(_mm_castsi128_ps(_mm_cvtsi32_si128(static_cast<int32_t>(v) << 16)));
  }
};

// T tokens against one row at a time; four accumulators per token hide the latency of a single
// token, two are enough for more.
template <typename Loader, int T>
void FloatRows(const FloatSlice& p, size_t token) {
  constexpr int kLanes = T == 1 ? 4 : 2;
  const auto* weight = static_cast<const typename Loader::Type*>(p.weight);
  for (size_t r = 0; r < p.rows; ++r, weight += p.cols) {
    __m256 total[T][kLanes];
    for (int t = 0; t < T; ++t) {
      for (int l = 0; l < kLanes; ++l) total[t][l] = _mm256_setzero_ps();
    }
    size_t c = 0;
    for (; c + 8 * kLanes <= p.cols; c += 8 * kLanes) {
      for (int l = 0; l < kLanes; ++l) {
        const __m256 w = Loader::Load(weight + c + 8 * l);
        for (int t = 0; t < T; ++t) {
          const float* x = p.x + (token + t) * p.x_stride + c + 8 * l;
          total[t][l] = _mm256_fmadd_ps(w, _mm256_loadu_ps(x), total[t][l]);
        }
      }
    }
    for (int t = 0; t < T; ++t) {
      const float* x = p.x + (token + t) * p.x_stride;
      for (int l = 1; l < kLanes; ++l) total[t][0] = _mm256_add_ps(total[t][0], total[t][l]);
      float dot = Sum(total[t][0]);
      for (size_t i = c; i < p.cols; ++i) dot += Loader::Load1(weight[i]) * x[i];
      float* y = p.y + (token + t) * p.y_stride + r;
      *y = p.accumulate ? *y + dot : dot;
    }
  }
}

template <typename Loader>
void FloatMatmul(const FloatSlice& p) {
  size_t token = 0;
  for (; token + 3 <= p.tokens; token += 3) FloatRows<Loader, 3>(p, token);
  if (p.tokens - token == 2) FloatRows<Loader, 2>(p, token);
  if (p.tokens - token == 1) FloatRows<Loader, 1>(p, token);
}

}  // namespace

void QuantizeTileAvx2(const QuantizeSlice& p) {
  const size_t blocks = p.cols / kColBlock;
  const __m256 sign = _mm256_set1_ps(-0.0f);
  // packs interleaves 128-bit halves; this order undoes it.
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  for (size_t t = 0; t < p.tokens; ++t) {
    const float* x = p.x + t * p.x_stride;
    for (size_t b = 0; b < blocks; ++b, x += kColBlock) {
      __m256 v[4];
      for (int i = 0; i < 4; ++i) v[i] = _mm256_loadu_ps(x + 8 * i);
      __m256 largest = _mm256_andnot_ps(sign, v[0]);
      for (int i = 1; i < 4; ++i) largest = _mm256_max_ps(largest, _mm256_andnot_ps(sign, v[i]));
      const float magnitude = Max(largest);
      const bool zero = magnitude < 1e-30f;
      const __m256 inverse = _mm256_set1_ps(zero ? 0.0f : 127.0f / magnitude);
      __m256i words[4];
      for (int i = 0; i < 4; ++i) words[i] = _mm256_cvtps_epi32(_mm256_mul_ps(v[i], inverse));
      const __m256i bytes = _mm256_packs_epi16(_mm256_packs_epi32(words[0], words[1]),
                                               _mm256_packs_epi32(words[2], words[3]));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(p.q + (b * kTokenTile + t) * kColBlock),
                          _mm256_permutevar8x32_epi32(bytes, order));
      const float sum = Sum(_mm256_add_ps(_mm256_add_ps(v[0], v[1]), _mm256_add_ps(v[2], v[3])));
      p.sum[b * kTokenTile + t] = sum;
      p.scale[b * kTokenTile + t] = (zero ? 0.0f : magnitude / 127.0f) + 0.0f * sum;
    }
  }
}

void QuantizedMatmulAvx2(const QuantizedSlice& p) {
  const size_t tiles_end = p.tokens / kTokenTile * kTokenTile;
  for (size_t row = 0; row < p.rows; row += kRowBlock) {
    for (size_t token = 0; token < tiles_end; token += kTokenTile) {
      QuantizedTile<kTokenTile, 1>(p, row, 0, token);
    }
  }
  switch (p.tokens - tiles_end) {
    case 3:
      FewTokens<3>(p, tiles_end);
      break;
    case 2:
      FewTokens<2>(p, tiles_end);
      break;
    case 1:
      OneToken(p, tiles_end);
      break;
    default:
      break;
  }
}

void FloatMatmulAvx2(const FloatSlice& p) {
  switch (p.type) {
    case WeightType::kF32:
      return FloatMatmul<F32Loader>(p);
    case WeightType::kF16:
      return FloatMatmul<F16Loader>(p);
    case WeightType::kBF16:
      return FloatMatmul<Bf16Loader>(p);
    default:
      return;
  }
}

}  // namespace msadb::kernels
