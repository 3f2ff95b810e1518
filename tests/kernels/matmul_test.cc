#include "kernels/matmul.h"

#include <cmath>
#include <string>

#include "kernels/cpu_features.h"
#include "kernels/dtype.h"
#include "kernels/embedding.h"
#include "tests/kernels/kernel_test_util.h"

namespace msadb::kernels {
namespace {

constexpr uint64_t kSeed = 41;

const char* Name(WeightType type) {
  switch (type) {
    case WeightType::kF32:
      return "F32";
    case WeightType::kF16:
      return "F16";
    case WeightType::kBF16:
      return "BF16";
    case WeightType::kInt8:
      return "int8";
    case WeightType::kInt4:
      return "int4";
  }
  return "?";
}

// A random matrix in its file form, with the floats it stands for.
struct Stored {
  WeightSource source;
  std::vector<uint8_t> bytes;
  std::vector<uint16_t> scale, min;
  std::vector<float> dense;  // [rows, cols]
};

Stored MakeStored(WeightType type, size_t rows, size_t cols, size_t group,
                  std::mt19937_64& random) {
  Stored s;
  s.dense.resize(rows * cols);
  if (type == WeightType::kInt8 || type == WeightType::kInt4) {
    const size_t groups = cols / group;
    for (size_t i = 0; i < rows * groups; ++i) {
      s.scale.push_back(F32ToF16(0.002f + 0.0001f * static_cast<float>(random() % 100)));
      s.min.push_back(F32ToF16(-0.05f + 0.001f * static_cast<float>(random() % 40)));
    }
    s.bytes.resize(type == WeightType::kInt8 ? rows * cols : rows * cols / 2);
    for (size_t r = 0; r < rows; ++r) {
      for (size_t c = 0; c < cols; ++c) {
        const float scale = F16ToF32(s.scale[r * groups + c / group]);
        if (type == WeightType::kInt8) {
          const auto q = static_cast<int8_t>(random());  // -128 included
          s.bytes[r * cols + c] = static_cast<uint8_t>(q);
          s.dense[r * cols + c] = scale * q;
        } else {
          const auto q = static_cast<uint8_t>(random() % 16);
          // Byte j of a 32-block: element j low, element j + 16 high.
          const size_t in_block = c % 32;
          uint8_t& byte = s.bytes[r * cols / 2 + c / 32 * 16 + in_block % 16];
          byte = static_cast<uint8_t>(byte | (in_block < 16 ? q : q << 4));
          s.dense[r * cols + c] = scale * q + F16ToF32(s.min[r * groups + c / group]);
        }
      }
    }
  } else {
    const std::vector<float> values = RandomFloats(rows * cols, random, 0.1f);
    s.bytes.resize(rows * cols * (type == WeightType::kF32 ? 4 : 2));
    for (size_t i = 0; i < values.size(); ++i) {
      s.dense[i] = values[i];
      if (type == WeightType::kF32) {
        std::memcpy(&s.bytes[4 * i], &values[i], 4);
      } else {
        const bool half = type == WeightType::kF16;
        const uint16_t bits = half ? F32ToF16(values[i]) : F32ToBf16(values[i]);
        s.dense[i] = half ? F16ToF32(bits) : Bf16ToF32(bits);
        std::memcpy(&s.bytes[2 * i], &bits, 2);
      }
    }
  }
  s.source = {type, s.bytes.data(), s.scale.data(), s.min.data(), rows, cols, group};
  return s;
}

struct Case {
  WeightType type;
  size_t rows, cols, group;
};

std::vector<Case> Cases() {
  std::vector<Case> cases;
  for (WeightType type : {WeightType::kF32, WeightType::kF16, WeightType::kBF16}) {
    for (size_t rows : {1, 7, 8, 9, 65}) {
      for (size_t cols : {1, 7, 8, 31, 33, 64, 100}) cases.push_back({type, rows, cols, 0});
    }
  }
  for (WeightType type : {WeightType::kInt8, WeightType::kInt4}) {
    for (size_t rows : {1, 7, 8, 9, 15, 64, 65, 130}) {
      for (size_t cols : {32, 64, 96, 192, 576}) {
        cases.push_back({type, rows, cols, 32});
        cases.push_back({type, rows, cols, cols});
      }
    }
  }
  return cases;
}

std::string Describe(const Case& c, size_t tokens) {
  return std::string(Name(c.type)) + " " + std::to_string(c.rows) + " x " + std::to_string(c.cols) +
         " group " + std::to_string(c.group) + ", " + std::to_string(tokens) + " tokens";
}

TEST(WeightMatrixTest, DequantizesToWhatTheFileMeans) {
  WeightArena arena;
  SCOPED_TRACE(kSeed);
  std::mt19937_64 random(kSeed);
  for (const Case& c : Cases()) {
    SCOPED_TRACE(Describe(c, 0));
    const Stored stored = MakeStored(c.type, c.rows, c.cols, c.group, random);
    auto matrix = WeightMatrix::Make({&stored.source, 1}, &arena);
    ASSERT_TRUE(matrix.ok()) << matrix.status().ToString();
    GuardedFloats rows(c.rows * c.cols);
    matrix->DequantizeRows(0, c.rows, rows.data());
    for (size_t i = 0; i < rows.size(); ++i) ASSERT_EQ(rows.data()[i], stored.dense[i]) << i;
    rows.ExpectGuardsIntact();
  }
}

TEST(WeightMatrixTest, StacksMatricesOfDifferentTypes) {
  WeightArena arena;
  std::mt19937_64 random(kSeed);
  const Stored a = MakeStored(WeightType::kInt4, 12, 64, 32, random);
  const Stored b = MakeStored(WeightType::kInt4, 5, 64, 64, random);
  const Stored c = MakeStored(WeightType::kF16, 3, 64, 0, random);
  const Stored d = MakeStored(WeightType::kInt8, 9, 64, 32, random);
  const std::vector<WeightSource> sources = {a.source, b.source, c.source, d.source};
  auto matrix = WeightMatrix::Make(sources, &arena);
  ASSERT_TRUE(matrix.ok());
  EXPECT_EQ(matrix->rows(), 29u);
  EXPECT_EQ(matrix->parts().size(), 3u);
  std::vector<float> expected;
  for (const Stored* s : {&a, &b, &c, &d}) {
    expected.insert(expected.end(), s->dense.begin(), s->dense.end());
  }
  GuardedFloats rows(20 * 64);  // a stretch that crosses all parts
  matrix->DequantizeRows(8, 20, rows.data());
  for (size_t i = 0; i < rows.size(); ++i) ASSERT_EQ(rows.data()[i], expected[8 * 64 + i]);
  rows.ExpectGuardsIntact();

  const std::vector<float> x = RandomFloats(3 * 64, random);
  GuardedFloats y(3 * 29), reference(3 * 29);
  MatmulWorkspace workspace;
  MatmulParams p{&*matrix, x.data(), 64, y.data(), 29, 3, false, Precision::kExact};
  Matmul(p, 2, &workspace);
  p.y = reference.data();
  MatmulRef(p);
  ExpectClose(y.data(), reference.data(), y.size(), 1e-5f);
}

TEST(WeightMatrixTest, RefusesWhatDoesNotFit) {
  WeightArena arena;
  std::mt19937_64 random(kSeed);
  Stored a = MakeStored(WeightType::kInt4, 8, 64, 32, random);
  const Stored b = MakeStored(WeightType::kInt4, 8, 96, 32, random);
  const std::vector<WeightSource> sources = {a.source, b.source};
  EXPECT_EQ(WeightMatrix::Make(sources, &arena).status().code(), StatusCode::kInvalidArgument);
  for (size_t group : {0, 16, 48, 128}) {
    a.source.group = group;
    EXPECT_EQ(WeightMatrix::Make({&a.source, 1}, &arena).status().code(),
              StatusCode::kInvalidArgument);
  }
}

TEST(MatmulTest, ExactMatchesReference) {
  WeightArena arena;
  SCOPED_TRACE(kSeed);
  std::mt19937_64 random(kSeed);
  MatmulWorkspace workspace;
  for (const Case& c : Cases()) {
    const Stored stored = MakeStored(c.type, c.rows, c.cols, c.group, random);
    auto matrix = WeightMatrix::Make({&stored.source, 1}, &arena);
    ASSERT_TRUE(matrix.ok());
    for (size_t tokens : {0, 1, 2, 3, 6, 7, 20}) {
      SCOPED_TRACE(Describe(c, tokens));
      const bool accumulate = tokens % 2 == 1;
      const size_t x_stride = c.cols + 3, y_stride = c.rows + 2;
      const std::vector<float> x = RandomFloats(tokens * x_stride, random);
      const std::vector<float> before = RandomFloats(tokens * y_stride, random);
      GuardedFloats expected(before), got(before);
      MatmulParams p{&*matrix, x.data(), x_stride,   expected.data(),
                     y_stride, tokens,   accumulate, Precision::kExact};
      MatmulRef(p);
      p.y = got.data();
      Matmul(p, 2, &workspace);
      ExpectClose(got.data(), expected.data(), got.size(), 1e-5f);  // gaps included: unchanged
      got.ExpectGuardsIntact();
    }
  }
}

// The bound that kernels/matmul.h promises, plus float32 rounding.
void ExpectWithinBound(Precision precision, float levels, double relative_max) {
  WeightArena arena;
  SCOPED_TRACE(kSeed);
  std::mt19937_64 random(kSeed);
  MatmulWorkspace workspace;
  double error_squares = 0, value_squares = 0;
  for (const Case& c : Cases()) {
    if (c.type != WeightType::kInt8 && c.type != WeightType::kInt4) continue;
    const Stored stored = MakeStored(c.type, c.rows, c.cols, c.group, random);
    auto matrix = WeightMatrix::Make({&stored.source, 1}, &arena);
    ASSERT_TRUE(matrix.ok());
    for (size_t tokens : {0, 1, 2, 3, 4, 5, 7, 133}) {
      if (tokens * c.rows * c.cols > 2'000'000) continue;
      SCOPED_TRACE(Describe(c, tokens));
      const bool accumulate = tokens % 2 == 1;
      const size_t x_stride = c.cols + 5, y_stride = c.rows + 3;
      std::vector<float> x = RandomFloats(tokens * x_stride, random, 2.0f);
      if (tokens == 2) std::fill_n(x.begin(), 32, 0.0f);  // a block of zeros
      const std::vector<float> before = RandomFloats(tokens * y_stride, random);
      GuardedFloats expected(before), got(before);
      MatmulParams p{&*matrix, x.data(), x_stride,   expected.data(),
                     y_stride, tokens,   accumulate, precision};
      MatmulRef(p);
      p.y = got.data();
      Matmul(p, 2, &workspace);
      got.ExpectGuardsIntact();
      for (size_t t = 0; t < tokens; ++t) {
        for (size_t r = 0; r < c.rows; ++r) {
          float bound = 0, sum = 0;
          for (size_t b = 0; b < c.cols; b += 32) {
            const bool has_min = c.type == WeightType::kInt4;
            const float min =
                has_min ? F16ToF32(stored.min[r * (c.cols / c.group) + b / c.group]) : 0.0f;
            float largest = 0, weights = 0;
            for (size_t i = b; i < b + 32; ++i) {
              largest = std::max(largest, std::fabs(x[t * x_stride + i]));
              weights += std::fabs(stored.dense[r * c.cols + i] - min);
            }
            bound += largest / levels * weights;
            sum += largest * (weights + 32 * std::fabs(min));
          }
          const float error = got.data()[t * y_stride + r] - expected.data()[t * y_stride + r];
          ASSERT_TRUE(std::isfinite(error));
          ASSERT_LE(std::fabs(error), bound + 1e-5f * sum) << "token " << t << " row " << r;
          error_squares += error * error;
          const float value =
              expected.data()[t * y_stride + r] - (accumulate ? before[t * y_stride + r] : 0.0f);
          value_squares += value * value;
        }
        for (size_t r = c.rows; r < y_stride; ++r) {
          ASSERT_EQ(got.data()[t * y_stride + r], before[t * y_stride + r]) << "gap written";
        }
      }
    }
  }
  EXPECT_LT(std::sqrt(error_squares / value_squares), relative_max);
}

TEST(MatmulTest, OnePlaneStaysWithinItsBound) { ExpectWithinBound(Precision::kFast, 254, 0.01); }
TEST(MatmulTest, TwoPlanesStayWithinTheirBound) {
  ExpectWithinBound(Precision::kFine, 64516, 0.00005);
}

// A token's result must not depend on how tokens are batched.
TEST(MatmulTest, TokensAreIndependent) {
  WeightArena arena;
  SCOPED_TRACE(kSeed);
  std::mt19937_64 random(kSeed);
  MatmulWorkspace workspace;
  for (WeightType type : {WeightType::kInt8, WeightType::kInt4}) {
    const Stored stored = MakeStored(type, 72, 192, 32, random);
    auto matrix = WeightMatrix::Make({&stored.source, 1}, &arena);
    ASSERT_TRUE(matrix.ok());
    for (Precision precision : {Precision::kFine, Precision::kFast}) {
      const std::vector<float> x = RandomFloats(11 * 192, random);
      std::vector<float> all(11 * 72), one(72);
      MatmulParams p{&*matrix, x.data(), 192, all.data(), 72, 11, false, precision};
      Matmul(p, 2, &workspace);
      for (size_t t = 0; t < 11; ++t) {
        p.x = x.data() + t * 192;
        p.y = one.data();
        p.tokens = 1;
        Matmul(p, 1, &workspace);
        for (size_t r = 0; r < 72; ++r) ASSERT_EQ(one[r], all[t * 72 + r]);
      }
    }
  }
}

TEST(MatmulTest, NanReachesTheResult) {
  WeightArena arena;
  std::mt19937_64 random(kSeed);
  MatmulWorkspace workspace;
  for (WeightType type : {WeightType::kF32, WeightType::kInt8, WeightType::kInt4}) {
    const Stored stored = MakeStored(type, 8, 64, 32, random);
    auto matrix = WeightMatrix::Make({&stored.source, 1}, &arena);
    ASSERT_TRUE(matrix.ok());
    for (float bad : {std::nanf(""), INFINITY, -INFINITY}) {
      std::vector<float> x = RandomFloats(64, random), y(8);
      x[40] = bad;
      Matmul({&*matrix, x.data(), 64, y.data(), 8, 1}, 1, &workspace);
      for (float value : y) EXPECT_FALSE(std::isfinite(value)) << Name(type);
    }
  }
}

TEST(EmbeddingTest, GathersRows) {
  WeightArena arena;
  std::mt19937_64 random(kSeed);
  for (WeightType type : {WeightType::kF32, WeightType::kBF16, WeightType::kInt8}) {
    const Stored stored = MakeStored(type, 21, 64, 32, random);
    auto matrix = WeightMatrix::Make({&stored.source, 1}, &arena);
    ASSERT_TRUE(matrix.ok());
    const std::vector<int32_t> ids = {20, 0, 7, 8, 7};
    GuardedFloats out(ids.size() * 64);
    EmbeddingRef({&*matrix, ids.data(), ids.size(), out.data(), 64});
    for (size_t i = 0; i < ids.size(); ++i) {
      for (size_t d = 0; d < 64; ++d) {
        ASSERT_EQ(out.data()[i * 64 + d], stored.dense[static_cast<size_t>(ids[i]) * 64 + d]);
      }
    }
    out.ExpectGuardsIntact();
  }
}

}  // namespace
}  // namespace msadb::kernels
