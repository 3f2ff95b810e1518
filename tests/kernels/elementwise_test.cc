// rms_norm, rope, silu_mul, chunk_pool, l2_normalize, router_fold: vectorised forms against the
// plain loops, and the plain loops against the formula.
#include <cmath>

#include "kernels/chunk_pool.h"
#include "kernels/cpu_features.h"
#include "kernels/l2_normalize.h"
#include "kernels/rms_norm.h"
#include "kernels/rope.h"
#include "kernels/router_fold.h"
#include "kernels/silu_mul.h"
#include "tests/kernels/kernel_test_util.h"

namespace msadb::kernels {
namespace {

constexpr uint64_t kSeed = 20261122;

struct Shape {
  size_t tokens, heads, width;
};

std::vector<Shape> Shapes(size_t width_multiple) {
  std::vector<Shape> shapes;
  for (size_t tokens : {0, 1, 3}) {
    for (size_t heads : {1, 2, 5}) {
      for (size_t width : {2, 6, 8, 10, 14, 16, 18, 30, 32, 34, 64, 128, 576}) {
        shapes.push_back({tokens, heads, width / width_multiple * width_multiple});
      }
    }
  }
  return shapes;
}

#if defined(__x86_64__)

TEST(ElementwiseTest, RmsNormMatchesReference) {
  if (!CpuHasAvx2()) GTEST_SKIP() << "this processor has no AVX2";
  std::mt19937_64 random(kSeed);
  for (const Shape& s : Shapes(1)) {
    SCOPED_TRACE(testing::Message() << s.tokens << " x " << s.heads << " x " << s.width);
    const size_t stride = s.heads * s.width + 3;
    const std::vector<float> x = RandomFloats(s.tokens * stride, random, 4.0f);
    const std::vector<float> weight = RandomFloats(s.width, random);
    GuardedFloats expected(x), got(x);  // in place, which also shows that gaps stay as they are
    RmsNormParams p{expected.data(), stride,  weight.data(), expected.data(), stride, s.tokens,
                    s.heads,         s.width, 1e-6f};
    RmsNormRef(p);
    p.x = got.data();
    p.y = got.data();
    RmsNormAvx2(p);
    ExpectClose(got.data(), expected.data(), got.size(), 2e-6f);
    got.ExpectGuardsIntact();
  }
}

TEST(ElementwiseTest, RopeMatchesReference) {
  if (!CpuHasAvx2()) GTEST_SKIP() << "this processor has no AVX2";
  std::mt19937_64 random(kSeed);
  for (const Shape& s : Shapes(2)) {
    SCOPED_TRACE(testing::Message() << s.tokens << " x " << s.heads << " x " << s.width);
    const size_t stride = s.heads * s.width + 5;
    std::vector<int32_t> positions;
    for (size_t i = 0; i < s.tokens; ++i) positions.push_back(static_cast<int32_t>(i * 1000 + 1));
    std::vector<float> cosines(s.tokens * s.width / 2), sines(s.tokens * s.width / 2);
    RopeAngles(positions.data(), s.tokens, s.width, 10000.0, cosines.data(), sines.data());
    const std::vector<float> x = RandomFloats(s.tokens * stride, random);
    GuardedFloats expected(x), got(x);
    RopeParams p{expected.data(), stride, cosines.data(), sines.data(), s.tokens, s.heads, s.width};
    RopeRef(p);
    p.x = got.data();
    RopeAvx2(p);
    ExpectClose(got.data(), expected.data(), got.size(), 1e-6f);
    got.ExpectGuardsIntact();
  }
}

TEST(ElementwiseTest, SiluMulMatchesReference) {
  if (!CpuHasAvx2()) GTEST_SKIP() << "this processor has no AVX2";
  std::mt19937_64 random(kSeed);
  for (const Shape& s : Shapes(1)) {
    SCOPED_TRACE(testing::Message() << s.tokens << " x " << s.width);
    std::vector<float> x = RandomFloats(s.tokens * 2 * s.width, random, 30.0f);
    if (!x.empty()) x[0] = -500.0f;  // e^500 overflows: silu must become 0
    GuardedFloats expected(s.tokens * s.width), got(s.tokens * s.width);
    SiluMulRef({x.data(), expected.data(), s.tokens, s.width});
    SiluMulAvx2({x.data(), got.data(), s.tokens, s.width});
    ExpectClose(got.data(), expected.data(), got.size(), 1e-6f);
    got.ExpectGuardsIntact();
  }
}

#endif  // __x86_64__

TEST(ElementwiseTest, RmsNormFormula) {
  const std::vector<float> x = {3, 4}, weight = {2, 10};
  float y[2];
  RmsNormRef({x.data(), 2, weight.data(), y, 2, 1, 1, 2, 0.0f});
  EXPECT_FLOAT_EQ(y[0], 3 / std::sqrt(12.5f) * 2);
  EXPECT_FLOAT_EQ(y[1], 4 / std::sqrt(12.5f) * 10);
}

TEST(ElementwiseTest, RopeTurnsPairsByTheirAngle) {
  const int32_t position = 3;
  float cosines[2], sines[2];
  RopeAngles(&position, 1, 4, 100.0, cosines, sines);
  std::vector<float> x = {1, 2, 0, 0};
  RopeRef({x.data(), 4, cosines, sines, 1, 1, 4});
  EXPECT_NEAR(x[0], std::cos(3.0), 1e-6);
  EXPECT_NEAR(x[2], std::sin(3.0), 1e-6);
  EXPECT_NEAR(x[1], 2 * std::cos(0.3), 1e-6);  // 100^(-2/4) = 0.1
  EXPECT_NEAR(x[3], 2 * std::sin(0.3), 1e-6);
}

TEST(ElementwiseTest, ChunkPoolAveragesWithinDocuments) {
  // Lengths around the chunk size of 4, an empty document among them.
  const std::vector<size_t> lengths = {3, 4, 0, 5, 9};
  std::vector<float> x;  // [tokens, 2 of stride 3]: token t holds (t, -t)
  for (size_t t = 0; t < 21; ++t) {
    x.insert(x.end(), {static_cast<float>(t), -static_cast<float>(t), 1e9f});
  }
  const std::vector<float> means = {1, 4.5, 8.5, 11, 13.5, 17.5, 20};
  GuardedFloats out(means.size() * 2);
  ChunkPoolRef({x.data(), 3, lengths.data(), lengths.size(), 4, 2, out.data()});
  for (size_t c = 0; c < means.size(); ++c) {
    EXPECT_FLOAT_EQ(out.data()[2 * c], means[c]);
    EXPECT_FLOAT_EQ(out.data()[2 * c + 1], -means[c]);
  }
  out.ExpectGuardsIntact();
}

TEST(ElementwiseTest, L2NormalizeMakesUnitHeadsAndKeepsZero) {
  std::vector<float> x = {3, 4, 0, 0, -5, 12};
  L2NormalizeRef({x.data(), 1, 3, 2});
  const std::vector<float> expected = {0.6f, 0.8f, 0, 0, -5.0f / 13, 12.0f / 13};
  ExpectClose(x.data(), expected.data(), x.size(), 1e-7f);
}

// dot(fold(q), key) must be the mean over heads of the per-head score (spec section 3).
TEST(ElementwiseTest, RouterFoldIsTheMeanOverHeads) {
  SCOPED_TRACE(kSeed);
  std::mt19937_64 random(kSeed);
  for (const auto& [heads, kv_heads, width] :
       {Shape{1, 1, 4}, Shape{4, 2, 16}, Shape{9, 3, 64}, Shape{6, 6, 8}}) {
    for (bool cosine : {true, false}) {
      const size_t kv_dim = kv_heads * width;
      const std::vector<float> q = RandomFloats(3 * heads * width, random);
      std::vector<float> key = RandomFloats(kv_dim, random);
      if (cosine) L2NormalizeRef({key.data(), 1, kv_heads, width});
      GuardedFloats folded(3 * kv_dim);
      RouterFoldRef({q.data(), heads * width, folded.data(), 3, heads, kv_heads, width, cosine});
      for (size_t t = 0; t < 3; ++t) {
        double expected = 0, got = 0;
        for (size_t h = 0; h < heads; ++h) {
          double dot = 0, length = 0;
          for (size_t d = 0; d < width; ++d) {
            const double x = q[(t * heads + h) * width + d];
            dot += x * key[h / (heads / kv_heads) * width + d];
            length += x * x;
          }
          expected += dot / std::sqrt(cosine ? length : static_cast<double>(width));
        }
        for (size_t d = 0; d < kv_dim; ++d) got += folded.data()[t * kv_dim + d] * key[d];
        EXPECT_NEAR(got, expected / static_cast<double>(heads), 1e-6);
      }
      folded.ExpectGuardsIntact();
    }
  }
}

}  // namespace
}  // namespace msadb::kernels
