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
// The block's integer sum times both scales goes to a float32 accumulator per token. Tokens
// share the unpacking of a register, row blocks the broadcast of activations.
#include "kernels/matmul_slices.h"
#include "kernels/simd_avx2.h"

namespace msadb::kernels {
namespace {

// Arrays of registers stay registers only in code that is inlined early.
#define MSADB_INLINE [[gnu::always_inline]] inline

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

constexpr size_t kPlaneBytes = kTokenTile * kColBlock;

// The integer dot products of one block of R row blocks, `stride` bytes apart, with N rows of
// activations, the first T tokens of one or more planes: dots[i][plane * T + t] holds rows 0..7 of
// block i.
template <int T, int N, int R>
MSADB_INLINE void Int4Dots(const uint8_t* block, size_t stride, const int8_t* q,
                           __m256i dots[R][N]) {
  const __m256i low_nibbles = _mm256_set1_epi8(15);
#pragma GCC unroll 8
  for (int j = 0; j < 4; ++j) {
    __m256i low[R], high[R];
#pragma GCC unroll 8
    for (int i = 0; i < R; ++i) {
      const auto* packed = reinterpret_cast<const __m256i*>(block + i * stride + j * 32);
      low[i] = _mm256_and_si256(_mm256_load_si256(packed), low_nibbles);
      high[i] = _mm256_and_si256(_mm256_srli_epi16(_mm256_load_si256(packed), 4), low_nibbles);
    }
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) {
      const int8_t* x = q + n / T * kPlaneBytes + n % T * kColBlock + j * 4;
      const __m256i x_low = Broadcast4(x);
#pragma GCC unroll 8
      for (int i = 0; i < R; ++i) {
        const __m256i products = _mm256_maddubs_epi16(low[i], x_low);
        dots[i][n] = j == 0 ? products : _mm256_add_epi16(dots[i][n], products);
        InOrder(dots[i][n]);
      }
      const __m256i x_high = Broadcast4(x + 16);
#pragma GCC unroll 8
      for (int i = 0; i < R; ++i) {
        dots[i][n] = _mm256_add_epi16(dots[i][n], _mm256_maddubs_epi16(high[i], x_high));
        InOrder(dots[i][n]);
      }
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < R; ++i) {
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) {
      dots[i][n] = _mm256_madd_epi16(dots[i][n], _mm256_set1_epi16(1));
    }
  }
}

template <int T, int N, int R>
MSADB_INLINE void Int8Dots(const uint8_t* block, size_t stride, const int8_t* q,
                           __m256i dots[R][N]) {
#pragma GCC unroll 8
  for (int j = 0; j < 8; ++j) {
    __m256i weight[R], magnitude[R];
#pragma GCC unroll 8
    for (int i = 0; i < R; ++i) {
      weight[i] = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(block + i * stride + j * 32));
      magnitude[i] = _mm256_abs_epi8(weight[i]);
    }
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) {
      const __m256i x = Broadcast4(q + n / T * kPlaneBytes + n % T * kColBlock + j * 4);
#pragma GCC unroll 8
      for (int i = 0; i < R; ++i) {
        const __m256i products = _mm256_maddubs_epi16(magnitude[i], _mm256_sign_epi8(x, weight[i]));
        const __m256i words = _mm256_madd_epi16(products, _mm256_set1_epi16(1));
        dots[i][n] = j == 0 ? words : _mm256_add_epi32(dots[i][n], words);
        InOrder(dots[i][n]);
      }
    }
  }
}

// The dot products of one block with T tokens in P planes, as floats.
template <WeightType W, int P, int T, int R>
MSADB_INLINE void BlockDots(const uint8_t* block, size_t stride, const int8_t* q,
                            __m256 out[R][T]) {
  // Planes together share the unpacking of weights, as long as the registers hold them.
  constexpr int kTogether = P * T <= 4 ? P : 1;
#pragma GCC unroll 2
  for (int plane = 0; plane < P; plane += kTogether) {
    __m256i dots[R][kTogether * T];
    if constexpr (W == WeightType::kInt4) {
      Int4Dots<T, kTogether * T, R>(block, stride, q + plane * kPlaneBytes, dots);
    } else {
      Int8Dots<T, kTogether * T, R>(block, stride, q + plane * kPlaneBytes, dots);
    }
#pragma GCC unroll 8
    for (int n = 0; n < kTogether * T; ++n) {
#pragma GCC unroll 8
      for (int i = 0; i < R; ++i) {
        const __m256 dot = _mm256_cvtepi32_ps(dots[i][n]);
        const __m256 ratio = _mm256_set1_ps(1 / kPlaneRatio);
        out[i][n % T] = plane + n / T == 0 ? dot : _mm256_fmadd_ps(dot, ratio, out[i][n % T]);
      }
    }
  }
}

// The dot products of R row blocks, `stride` bytes apart, with the first T tokens of a tile in P
// planes: out[i][t] holds the 8 rows of block i.
template <WeightType W, int P, int T, int R>
MSADB_INLINE void DotRows(const uint8_t* block, size_t stride, size_t blocks, const int8_t* q,
                          const float* scale, const float* sum, __m256 out[R][T]) {
  constexpr bool kInt4 = W == WeightType::kInt4;
  __m256 total[R][T];
#pragma GCC unroll 8
  for (int i = 0; i < R; ++i) {
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) total[i][t] = _mm256_setzero_ps();
  }
  for (size_t b = 0; b < blocks; ++b) {
    __m256 dots[R][T];
    BlockDots<W, P, T, R>(block, stride, q, dots);
#pragma GCC unroll 8
    for (int i = 0; i < R; ++i) {
      const uint8_t* const factors =
          block + i * stride + (kInt4 ? kInt4ElementBytes : kInt8ElementBytes);
      const __m256 weight_scale = LoadHalf8(factors);
#pragma GCC unroll 8
      for (int t = 0; t < T; ++t) {
        const __m256 both = _mm256_mul_ps(weight_scale, _mm256_broadcast_ss(scale + t));
        total[i][t] = _mm256_fmadd_ps(dots[i][t], both, total[i][t]);
        if constexpr (kInt4) {
          const __m256 weight_min = LoadHalf8(factors + kFactorBytes);
          total[i][t] = _mm256_fmadd_ps(weight_min, _mm256_broadcast_ss(sum + t), total[i][t]);
        }
      }
    }
    block += kInt4 ? kInt4BlockBytes : kInt8BlockBytes;
    q += P * kPlaneBytes;
    scale += kTokenTile;
    sum += kTokenTile;
  }
#pragma GCC unroll 8
  for (int i = 0; i < R; ++i) {
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) out[i][t] = total[i][t];
  }
}

// 32 int32 values as bytes, in order; saturating.
void StoreBytes(const __m256i words[4], int8_t* out) {
  const __m256i bytes = _mm256_packs_epi16(_mm256_packs_epi32(words[0], words[1]),
                                           _mm256_packs_epi32(words[2], words[3]));
  // packs interleaves 128-bit halves; this order undoes it.
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), _mm256_permutevar8x32_epi32(bytes, order));
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
template <WeightType W, int P, int T, int R>
void QuantizedTile(const QuantizedSlice& p, size_t row, size_t distance, size_t token) {
  const size_t blocks = p.cols / kColBlock;
  const size_t row_block_bytes =
      blocks * (W == WeightType::kInt4 ? kInt4BlockBytes : kInt8BlockBytes);
  __m256 out[R][T];
  DotRows<W, P, T, R>(p.row_blocks + row / kRowBlock * row_block_bytes,
                      distance / kRowBlock * row_block_bytes, blocks, p.q + token * p.cols * P,
                      p.scale + token * blocks, p.sum + token * blocks, out);
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
template <WeightType W, int P>
void OneToken(const QuantizedSlice& p, size_t token) {
  constexpr int kStreams = 4;
  const size_t quarter = p.rows / kRowBlock / kStreams * kRowBlock;
  for (size_t row = 0; row < quarter; row += kRowBlock) {
    QuantizedTile<W, P, 1, kStreams>(p, row, quarter, token);
  }
  for (size_t row = kStreams * quarter; row < p.rows; row += kRowBlock) {
    QuantizedTile<W, P, 1, 1>(p, row, 0, token);
  }
}

template <WeightType W, int P, int T>
void FewTokens(const QuantizedSlice& p, size_t token) {
  for (size_t row = 0; row < p.rows; row += kRowBlock) QuantizedTile<W, P, T, 1>(p, row, 0, token);
}

template <WeightType W, int P>
void QuantizedMatmul(const QuantizedSlice& p) {
  const size_t tiles_end = p.tokens / kTokenTile * kTokenTile;
  const size_t pairs_end = p.rows / (2 * kRowBlock) * (2 * kRowBlock);
  for (size_t row = 0; row < pairs_end; row += 2 * kRowBlock) {
    for (size_t token = 0; token < tiles_end; token += kTokenTile) {
      QuantizedTile<W, P, kTokenTile, 2>(p, row, kRowBlock, token);
    }
  }
  for (size_t row = pairs_end; row < p.rows; row += kRowBlock) {
    for (size_t token = 0; token < tiles_end; token += kTokenTile) {
      QuantizedTile<W, P, kTokenTile, 1>(p, row, 0, token);
    }
  }
  switch (p.tokens - tiles_end) {
    case 3:
      FewTokens<W, P, 3>(p, tiles_end);
      break;
    case 2:
      FewTokens<W, P, 2>(p, tiles_end);
      break;
    case 1:
      OneToken<W, P>(p, tiles_end);
      break;
    default:
      break;
  }
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
  const size_t block_bytes = kPlaneBytes * static_cast<size_t>(p.planes);
  for (size_t t = 0; t < p.tokens; ++t) {
    const float* x = p.x + t * p.x_stride;
    int8_t* q = p.q + t * kColBlock;
    for (size_t b = 0; b < blocks; ++b, x += kColBlock, q += block_bytes) {
      __m256 v[4];
      for (int i = 0; i < 4; ++i) v[i] = _mm256_loadu_ps(x + 8 * i);
      __m256 largest = _mm256_andnot_ps(sign, v[0]);
      for (int i = 1; i < 4; ++i) largest = _mm256_max_ps(largest, _mm256_andnot_ps(sign, v[i]));
      const float magnitude = Max(largest);
      const bool zero = magnitude < 1e-30f;
      const float sum = Sum(_mm256_add_ps(_mm256_add_ps(v[0], v[1]), _mm256_add_ps(v[2], v[3])));
      p.sum[b * kTokenTile + t] = sum;
      p.scale[b * kTokenTile + t] = (zero ? 0.0f : magnitude / 127.0f) + 0.0f * sum;

      const __m256 inverse = _mm256_set1_ps(zero ? 0.0f : 127.0f / magnitude);
      __m256i words[4];
      for (int i = 0; i < 4; ++i) {
        v[i] = _mm256_mul_ps(v[i], inverse);
        words[i] = _mm256_cvtps_epi32(v[i]);
      }
      StoreBytes(words, q);
      if (p.planes == 1) continue;
      for (int i = 0; i < 4; ++i) {
        const __m256 rest = _mm256_sub_ps(v[i], _mm256_cvtepi32_ps(words[i]));
        words[i] = _mm256_cvtps_epi32(_mm256_mul_ps(rest, _mm256_set1_ps(kPlaneRatio)));
      }
      StoreBytes(words, q + kPlaneBytes);
    }
  }
}

void QuantizedMatmulAvx2(const QuantizedSlice& p) {
  if (p.type == WeightType::kInt4) {
    p.planes == 1 ? QuantizedMatmul<WeightType::kInt4, 1>(p)
                  : QuantizedMatmul<WeightType::kInt4, 2>(p);
  } else {
    p.planes == 1 ? QuantizedMatmul<WeightType::kInt8, 1>(p)
                  : QuantizedMatmul<WeightType::kInt8, 2>(p);
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
