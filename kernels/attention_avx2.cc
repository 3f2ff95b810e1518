// Prefill: 6 query rows meet 16 keys at a time in 12 registers, first as scores (over head_dim),
// then as weights times values (over a block of 128 keys, 16 output columns at a time). The softmax
// is kept as a running maximum and sum per row and the output rescaled when the maximum grows.
// Decode: each key and value row is read once for all heads of its group.
#include "kernels/attention_slices.h"
#include "kernels/simd_avx2.h"

namespace msadb::kernels {
namespace {

constexpr float kLowest = -3.0e38f;

// scores[r][0..15] = q_packed[:, r] . tile[:, 0..15] for six rows. `q` is [head_dim, 6].
void ScoreTile(const float* q, const float* tile, size_t head_dim, float* scores) {
  __m256 s[kQueryTile][2];
  for (size_t r = 0; r < kQueryTile; ++r) s[r][0] = s[r][1] = _mm256_setzero_ps();
  for (size_t d = 0; d < head_dim; ++d, q += kQueryTile, tile += kKeyTile) {
    const __m256 k0 = _mm256_loadu_ps(tile);
    const __m256 k1 = _mm256_loadu_ps(tile + 8);
    for (size_t r = 0; r < kQueryTile; ++r) {
      const __m256 x = _mm256_broadcast_ss(q + r);
      s[r][0] = _mm256_fmadd_ps(x, k0, s[r][0]);
      s[r][1] = _mm256_fmadd_ps(x, k1, s[r][1]);
    }
  }
  for (size_t r = 0; r < kQueryTile; ++r) {
    _mm256_store_ps(scores + r * kKeyBlock, s[r][0]);
    _mm256_store_ps(scores + r * kKeyBlock + 8, s[r][1]);
  }
}

// out[r][0 .. 8 V) += sum over keys of weights[r][key] * v[key][0 .. 8 V) for six rows.
template <int V>
void AddValues(const float* weights, size_t keys, const float* v, size_t kv_stride, float* out,
               size_t head_dim) {
  __m256 o[kQueryTile][V];
  for (size_t r = 0; r < kQueryTile; ++r) {
    for (int c = 0; c < V; ++c) o[r][c] = _mm256_loadu_ps(out + r * head_dim + 8 * c);
  }
  for (size_t j = 0; j < keys; ++j, v += kv_stride) {
    __m256 x[V];
    for (int c = 0; c < V; ++c) x[c] = _mm256_loadu_ps(v + 8 * c);
    for (size_t r = 0; r < kQueryTile; ++r) {
      const __m256 w = _mm256_broadcast_ss(weights + r * kKeyBlock + j);
      for (int c = 0; c < V; ++c) o[r][c] = _mm256_fmadd_ps(w, x[c], o[r][c]);
    }
  }
  for (size_t r = 0; r < kQueryTile; ++r) {
    for (int c = 0; c < V; ++c) _mm256_storeu_ps(out + r * head_dim + 8 * c, o[r][c]);
  }
}

__m256i LaneNumbers() { return _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7); }

// Turns count (a multiple of 8) scores into e^(score - largest), 0 from `visible` on; returns the
// sum.
float SoftmaxWeights(float* scores, size_t count, size_t visible, float largest) {
  const __m256 shift = _mm256_set1_ps(largest);
  __m256 total = _mm256_setzero_ps();
  for (size_t j = 0; j < count; j += 8) {
    __m256 weight = Exp(_mm256_sub_ps(_mm256_load_ps(scores + j), shift));
    if (j + 8 > visible) {
      const int left = j < visible ? static_cast<int>(visible - j) : 0;
      const __m256i keep = _mm256_cmpgt_epi32(_mm256_set1_epi32(left), LaneNumbers());
      weight = _mm256_and_ps(weight, _mm256_castsi256_ps(keep));
    }
    _mm256_store_ps(scores + j, weight);
    total = _mm256_add_ps(total, weight);
  }
  return Sum(total);
}

// The largest of the first `visible` of count (a multiple of 8) scores; kLowest when visible is 0.
float LargestScore(const float* scores, size_t count, size_t visible) {
  __m256 largest = _mm256_set1_ps(kLowest);
  for (size_t j = 0; j < count; j += 8) {
    __m256 score = _mm256_load_ps(scores + j);
    if (j + 8 > visible) {
      const int left = j < visible ? static_cast<int>(visible - j) : 0;
      const __m256i keep = _mm256_cmpgt_epi32(_mm256_set1_epi32(left), LaneNumbers());
      score = _mm256_blendv_ps(_mm256_set1_ps(kLowest), score, _mm256_castsi256_ps(keep));
    }
    largest = _mm256_max_ps(largest, score);
  }
  return Max(largest);
}

void Scale(float* x, size_t count, float factor) {
  const __m256 f = _mm256_set1_ps(factor);
  for (size_t i = 0; i < count; i += 8) {
    _mm256_storeu_ps(x + i, _mm256_mul_ps(_mm256_loadu_ps(x + i), f));
  }
}

float ExpScalar(float x) { return _mm256_cvtss_f32(Exp(_mm256_set1_ps(x))); }

}  // namespace

void PackKeyTileAvx2(const float* k, size_t kv_stride, size_t keys, size_t head_dim, float* tile) {
  for (size_t j = 0; j < kKeyTile; ++j) {
    for (size_t d = 0; d < head_dim; ++d) {
      tile[d * kKeyTile + j] = j < keys ? k[j * kv_stride + d] : 0.0f;
    }
  }
}

void AttentionTileAvx2(const AttentionTileSlice& p) {
  float* const scores = p.scratch;                          // [6, kKeyBlock]
  float* const q_packed = scores + kQueryTile * kKeyBlock;  // [head_dim, 6]
  float* const out = q_packed + kQueryTile * p.head_dim;    // [6, head_dim]
  float largest[kQueryTile];
  float total[kQueryTile];
  size_t visible_max = 0;
  for (size_t r = 0; r < kQueryTile; ++r) {
    largest[r] = kLowest;
    total[r] = 0;
    if (r < p.rows && p.visible[r] > visible_max) visible_max = p.visible[r];
    for (size_t d = 0; d < p.head_dim; ++d) {
      q_packed[d * kQueryTile + r] = r < p.rows ? p.q[r][d] * p.scale : 0.0f;
      out[r * p.head_dim + d] = 0;
    }
  }

  for (size_t begin = 0; begin < visible_max; begin += kKeyBlock) {
    const size_t keys = visible_max - begin < kKeyBlock ? visible_max - begin : kKeyBlock;
    const size_t tiles = (keys + kKeyTile - 1) / kKeyTile;
    for (size_t tile = 0; tile < tiles; ++tile) {
      const float* packed = p.packed_keys + (begin + tile * kKeyTile) * p.head_dim;
      ScoreTile(q_packed, packed, p.head_dim, scores + tile * kKeyTile);
    }
    for (size_t r = 0; r < kQueryTile; ++r) {
      float* row = scores + r * kKeyBlock;
      const size_t seen = r < p.rows && p.visible[r] > begin ? p.visible[r] - begin : 0;
      const float block_largest = LargestScore(row, tiles * kKeyTile, seen);
      if (block_largest > largest[r]) {
        const float shrink = ExpScalar(largest[r] - block_largest);
        total[r] *= shrink;
        Scale(out + r * p.head_dim, p.head_dim, shrink);
        largest[r] = block_largest;
      }
      total[r] += SoftmaxWeights(row, tiles * kKeyTile, seen, largest[r]);
    }
    const float* v = p.v + begin * p.kv_stride;
    size_t d = 0;
    for (; d + 16 <= p.head_dim; d += 16) {
      AddValues<2>(scores, keys, v + d, p.kv_stride, out + d, p.head_dim);
    }
    if (d < p.head_dim) AddValues<1>(scores, keys, v + d, p.kv_stride, out + d, p.head_dim);
  }

  for (size_t r = 0; r < p.rows; ++r) {
    const __m256 share = _mm256_set1_ps(1.0f / total[r]);
    for (size_t d = 0; d < p.head_dim; d += 8) {
      const __m256 value = _mm256_loadu_ps(out + r * p.head_dim + d);
      _mm256_storeu_ps(p.out[r] + d, _mm256_mul_ps(value, share));
    }
  }
}

void AttentionRowAvx2(const AttentionRowSlice& p) {
  const size_t stride = (p.keys + 7) / 8 * 8;
  for (size_t j = 0; j < p.keys; ++j) {
    const float* k = p.k + j * p.kv_stride;
    for (size_t r = 0; r < p.rows; ++r) {
      const float* q = p.q + r * p.head_dim;
      __m256 dot0 = _mm256_setzero_ps();
      __m256 dot1 = _mm256_setzero_ps();
      size_t d = 0;
      for (; d + 16 <= p.head_dim; d += 16) {
        dot0 = _mm256_fmadd_ps(_mm256_loadu_ps(k + d), _mm256_loadu_ps(q + d), dot0);
        dot1 = _mm256_fmadd_ps(_mm256_loadu_ps(k + d + 8), _mm256_loadu_ps(q + d + 8), dot1);
      }
      if (d < p.head_dim) {
        dot0 = _mm256_fmadd_ps(_mm256_loadu_ps(k + d), _mm256_loadu_ps(q + d), dot0);
      }
      p.scratch[r * stride + j] = Sum(_mm256_add_ps(dot0, dot1)) * p.scale;
    }
  }
  for (size_t r = 0; r < p.rows; ++r) {
    float* weights = p.scratch + r * stride;
    for (size_t j = p.keys; j < stride; ++j) weights[j] = kLowest;
    const float largest = LargestScore(weights, stride, p.keys);
    const float total = SoftmaxWeights(weights, stride, p.keys, largest);
    Scale(weights, stride, 1.0f / total);
  }
  for (size_t r = 0; r < p.rows; ++r) {
    const float* weights = p.scratch + r * stride;
    float* out = p.out + r * p.head_dim;
    for (size_t d = 0; d < p.head_dim; d += 8) {
      __m256 sum0 = _mm256_setzero_ps();
      __m256 sum1 = _mm256_setzero_ps();
      const float* v = p.v + d;
      size_t j = 0;
      for (; j + 2 <= p.keys; j += 2, v += 2 * p.kv_stride) {
        sum0 = _mm256_fmadd_ps(_mm256_broadcast_ss(weights + j), _mm256_loadu_ps(v), sum0);
        sum1 = _mm256_fmadd_ps(_mm256_broadcast_ss(weights + j + 1),
                               _mm256_loadu_ps(v + p.kv_stride), sum1);
      }
      if (j < p.keys) {
        sum0 = _mm256_fmadd_ps(_mm256_broadcast_ss(weights + j), _mm256_loadu_ps(v), sum0);
      }
      _mm256_storeu_ps(out + d, _mm256_add_ps(sum0, sum1));
    }
  }
}

}  // namespace msadb::kernels
