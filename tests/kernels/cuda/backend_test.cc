// Every operation of the op table on the GPU against the plain CPU loops. Inputs are rounded to
// bfloat16 first, so what is compared is the arithmetic; outputs may differ by their own rounding
// to bfloat16 and by the order of float32 sums.
#include "kernels/backend.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <random>
#include <vector>

#include "kernels/attention.h"
#include "kernels/chunk_pool.h"
#include "kernels/cuda_backend.h"
#include "kernels/dtype.h"
#include "kernels/matmul.h"
#include "kernels/rms_norm.h"
#include "kernels/rope.h"
#include "kernels/router_fold.h"
#include "kernels/silu_mul.h"
#include "tests/kernels/kernel_test_util.h"

namespace msadb::kernels {
namespace {

constexpr float kBf16 = 1.0f / 128;  // two roundings to bfloat16, relative to the largest value
constexpr float kFloat = 2e-5f;      // float32 results of bfloat16 inputs
constexpr float kMark = -12352.0f;   // bfloat16 holds it exactly

#define ASSERT_OK(expression)                                               \
  do {                                                                      \
    const Status status_ = (expression);                                    \
    ASSERT_TRUE(status_.ok()) << #expression << ": " << status_.ToString(); \
  } while (false)

float Rounded(float value) { return Bf16ToF32(F32ToBf16(value)); }

std::vector<float> RandomRounded(size_t count, std::mt19937_64& random, float spread = 1.0f) {
  std::vector<float> values = RandomFloats(count, random, spread);
  for (float& value : values) value = Rounded(value);
  return values;
}

class CudaBackendTest : public testing::Test {
 protected:
  void SetUp() override {
    if (CudaDeviceCount() == 0) GTEST_SKIP() << "no GPU here";
    auto made = MakeCudaBackend(0);
    ASSERT_TRUE(made.ok()) << made.status().ToString();
    backend_ = std::move(*made);
  }

  template <typename T>
  static T Take(Result<T> result) {
    if (!result.ok()) throw std::runtime_error(result.status().ToString());
    return std::move(result).value();
  }

  // Device rows holding `values` [rows, width], inside a wider and longer allocation of marks.
  struct Framed {
    std::unique_ptr<Activations> memory;
    Tensor tensor;
    size_t rows = 0, width = 0, total_rows = 0, total_width = 0, column = 0;
  };
  static constexpr size_t kFrameRows = 2;

  Framed MakeFramed(const std::vector<float>& values, size_t rows, size_t width, size_t column,
                    bool sums) {
    Framed framed;
    framed.rows = rows;
    framed.width = width;
    framed.column = column;
    framed.total_rows = rows + kFrameRows;
    framed.total_width = width + 2 * column;
    framed.memory = Take(sums ? backend_->AllocateSums(framed.total_rows, framed.total_width)
                              : backend_->Allocate(framed.total_rows, framed.total_width));
    std::vector<float> all(framed.total_rows * framed.total_width, kMark);
    for (size_t i = 0; i < rows; ++i) {
      std::copy_n(values.data() + i * width, width, all.data() + i * framed.total_width + column);
    }
    Check(backend_->Upload(all.data(), framed.memory->tensor(), framed.total_rows,
                           framed.total_width));
    framed.tensor = framed.memory->tensor().At(0, column);
    return framed;
  }
  Framed MakeOutput(size_t rows, size_t width, size_t column = 8, bool sums = false) {
    return MakeFramed(std::vector<float>(rows * width, kMark), rows, width, column, sums);
  }

  // The rows, after checking that what surrounds them is as it was.
  std::vector<float> Read(const Framed& framed) {
    std::vector<float> all(framed.total_rows * framed.total_width);
    Check(backend_->Download(framed.memory->tensor(), all.data(), framed.total_rows,
                             framed.total_width));
    Check(backend_->Synchronize());
    std::vector<float> values;
    for (size_t i = 0; i < framed.total_rows; ++i) {
      for (size_t j = 0; j < framed.total_width; ++j) {
        const float value = all[i * framed.total_width + j];
        if (i < framed.rows && j >= framed.column && j < framed.column + framed.width) {
          values.push_back(value);
        } else {
          EXPECT_EQ(value, kMark) << "written outside the output, at row " << i << " of "
                                  << framed.rows << ", column " << j << " of "
                                  << framed.column + framed.width;
        }
      }
    }
    return values;
  }

  static void Check(const Status& status) {
    if (!status.ok()) throw std::runtime_error(status.ToString());
  }

  static void Compare(const std::vector<float>& got, const std::vector<float>& expected,
                      float tolerance) {
    ASSERT_EQ(got.size(), expected.size());
    ExpectClose(got.data(), expected.data(), got.size(), tolerance);
  }

  std::unique_ptr<Backend> backend_;
};

// Weights of one of the forms a file may hold.
struct RandomWeight {
  WeightSource source;
  std::vector<float> f32;
  std::vector<uint16_t> f16, scale, min;
  std::vector<uint8_t> bytes;

  RandomWeight(WeightType type, size_t rows, size_t cols, size_t group, std::mt19937_64& random) {
    source.type = type;
    source.rows = rows;
    source.cols = cols;
    switch (type) {
      case WeightType::kF32:
        f32 = RandomRounded(rows * cols, random);  // what the GPU rounds them to
        source.data = f32.data();
        return;
      case WeightType::kF16:
      case WeightType::kBF16:
        for (float value : RandomRounded(rows * cols, random)) {
          f16.push_back(type == WeightType::kF16 ? F32ToF16(value) : F32ToBf16(value));
        }
        source.data = f16.data();
        return;
      default:
        bytes.resize(rows * cols / (type == WeightType::kInt4 ? 2 : 1));
        for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random());
        source.data = bytes.data();
        source.group = group;
        const float spread = type == WeightType::kInt4 ? 0.2f : 0.015f;
        for (size_t i = 0; i < rows * cols / group; ++i) {
          scale.push_back(F32ToF16(RandomFloats(1, random, spread)[0]));
          min.push_back(F32ToF16(RandomFloats(1, random)[0]));
        }
        source.scale = scale.data();
        source.min = type == WeightType::kInt4 ? min.data() : nullptr;
    }
  }
};

std::vector<float> ReferenceProduct(const std::vector<WeightSource>& sources,
                                    const std::vector<float>& x, size_t tokens, size_t* rows,
                                    const std::vector<float>* before = nullptr) {
  WeightArena arena;
  WeightMatrix weight = std::move(*WeightMatrix::Make(sources, &arena));
  *rows = weight.rows();
  std::vector<float> y = before ? *before : std::vector<float>(tokens * weight.rows());
  MatmulParams p;
  p.weight = &weight;
  p.x = x.data();
  p.x_stride = weight.cols();
  p.y = y.data();
  p.y_stride = weight.rows();
  p.tokens = tokens;
  p.accumulate = before != nullptr;
  MatmulRef(p);
  return y;
}

TEST_F(CudaBackendTest, CopiesConvertAndKeepTheirBounds) {
  std::mt19937_64 random(1);
  for (size_t width : {1, 7, 8, 64, 1000}) {
    for (size_t rows : {1, 3, 130}) {
      for (size_t column : {0, 3, 8}) {
        SCOPED_TRACE(testing::Message() << rows << " x " << width << " at " << column);
        const std::vector<float> values = RandomRounded(rows * width, random);
        for (bool from_sums : {false, true}) {
          for (bool to_sums : {false, true}) {
            const Framed from = MakeFramed(values, rows, width, column, from_sums);
            const Framed to = MakeOutput(rows, width, 8, to_sums);
            const Framed to_b = MakeOutput(rows, width, column, to_sums);
            ASSERT_OK(backend_->CopyRows(from.tensor, to.tensor, rows, width));
            EXPECT_EQ(Read(to), values);
            ASSERT_OK(
                backend_->CopyPair(from.tensor, to.tensor, from.tensor, to_b.tensor, rows, width));
            EXPECT_EQ(Read(to), values);
            EXPECT_EQ(Read(to_b), values);
          }
        }
      }
    }
  }
}

TEST_F(CudaBackendTest, RowsComeFromPinnedAndOtherMemory) {
  std::mt19937_64 random(2);
  for (size_t width : {8, 12, 64, 1024}) {
    for (size_t rows : {1, 5, 600}) {
      SCOPED_TRACE(testing::Message() << rows << " x " << width);
      const size_t count = 2 * rows * width;
      const std::vector<float> values = RandomRounded(count, random);
      auto* const pinned = static_cast<uint16_t*>(AllocatePinned(count * sizeof(uint16_t)));
      ASSERT_NE(pinned, nullptr);
      ConvertF32ToBf16(values.data(), pinned, count);
      const std::vector<uint16_t> other(pinned, pinned + count);
      for (int kind = 0; kind < 3; ++kind) {  // all pinned, none, mixed
        std::vector<const uint16_t*> a, b;
        for (size_t i = 0; i < rows; ++i) {
          const uint16_t* base = kind == 0 || (kind == 2 && i % 2) ? pinned : other.data();
          a.push_back(base + 2 * i * width);
          b.push_back(base + (2 * i + 1) * width);
        }
        const Framed to_a = MakeOutput(rows, width), to_b = MakeOutput(rows, width, 16);
        ASSERT_OK(backend_->UploadRows(a, to_a.tensor, b, to_b.tensor, width));
        const std::vector<float> got_a = Read(to_a), got_b = Read(to_b);
        for (size_t i = 0; i < rows * width; ++i) {
          const size_t row = i / width, column = i % width;
          ASSERT_EQ(got_a[i], values[2 * row * width + column]);
          ASSERT_EQ(got_b[i], values[(2 * row + 1) * width + column]);
        }
      }
      FreePinned(pinned);
    }
  }
}

TEST_F(CudaBackendTest, RmsNorm) {
  std::mt19937_64 random(3);
  for (size_t heads : {1, 3, 8}) {
    for (size_t width : {6, 16, 64, 128, 576, 2560}) {
      for (size_t tokens : {1, 5, 77}) {
        SCOPED_TRACE(testing::Message() << tokens << " x " << heads << " x " << width);
        const std::vector<float> x = RandomRounded(tokens * heads * width, random);
        const std::vector<float> w = RandomRounded(width, random);
        std::vector<float> expected(x.size());
        RmsNormRef({x.data(), heads * width, w.data(), expected.data(), heads * width, tokens,
                    heads, width, 1e-5f});
        const auto weight = Take(backend_->LoadVector(w));
        for (bool sums : {false, true}) {
          const Framed from = MakeFramed(x, tokens, heads * width, 4, sums);
          const Framed to = MakeOutput(tokens, heads * width);
          ASSERT_OK(
              backend_->RmsNorm(from.tensor, tokens, heads, width, *weight, 1e-5f, to.tensor));
          Compare(Read(to), expected, kBf16);
          ASSERT_OK(
              backend_->RmsNorm(from.tensor, tokens, heads, width, *weight, 1e-5f, from.tensor));
          Compare(Read(from), expected, kBf16);  // in place
        }
      }
    }
  }
}

TEST_F(CudaBackendTest, RotationWithAndWithoutNorms) {
  std::mt19937_64 random(4);
  struct Shape {
    size_t heads, kv_heads, head_dim;
  };
  for (const Shape& s :
       {Shape{4, 2, 16}, Shape{9, 3, 64}, Shape{32, 8, 128}, Shape{2, 1, 6}, Shape{1, 1, 256}}) {
    for (size_t tokens : {1, 3, 50}) {
      SCOPED_TRACE(testing::Message() << tokens << " tokens, " << s.heads << "/" << s.kv_heads
                                      << " heads of " << s.head_dim);
      std::vector<int32_t> positions(tokens);
      for (int32_t& position : positions) position = static_cast<int32_t>(random() % 40000);
      const size_t half = s.head_dim / 2;
      std::vector<float> cosines(tokens * half), sines(tokens * half);
      RopeAngles(positions.data(), tokens, s.head_dim, 1e6, cosines.data(), sines.data());
      const size_t q_dim = s.heads * s.head_dim, kv_dim = s.kv_heads * s.head_dim;
      const size_t width = q_dim + kv_dim;
      const std::vector<float> qk = RandomRounded(tokens * width, random);
      const std::vector<float> q_norm = RandomRounded(s.head_dim, random);
      const std::vector<float> k_norm = RandomRounded(s.head_dim, random);
      const auto q_weight = Take(backend_->LoadVector(q_norm));
      const auto k_weight = Take(backend_->LoadVector(k_norm));
      for (bool norms : {false, true}) {
        std::vector<float> expected = qk;
        if (norms) {
          RmsNormRef({expected.data(), width, q_norm.data(), expected.data(), width, tokens,
                      s.heads, s.head_dim, 1e-6f});
          RmsNormRef({expected.data() + q_dim, width, k_norm.data(), expected.data() + q_dim, width,
                      tokens, s.kv_heads, s.head_dim, 1e-6f});
        }
        RopeRef({expected.data(), width, cosines.data(), sines.data(), tokens, s.heads + s.kv_heads,
                 s.head_dim});
        const auto angles = Take(backend_->LoadAngles(positions, s.head_dim, 1e6));
        const Framed x = MakeFramed(qk, tokens, width, 8, false);
        ASSERT_OK(backend_->NormRope(x.tensor, x.tensor.At(0, q_dim), tokens, s.heads, s.kv_heads,
                                     s.head_dim, norms ? q_weight.get() : nullptr,
                                     norms ? k_weight.get() : nullptr, 1e-6f, *angles));
        // Angles of large positions differ by float32 rounding of the angle itself.
        Compare(Read(x), expected, 2 * kBf16);
        if (!norms) {
          const Framed y = MakeFramed(qk, tokens, width, 8, false);
          ASSERT_OK(backend_->Rope(y.tensor, tokens, s.heads + s.kv_heads, s.head_dim, *angles));
          Compare(Read(y), expected, 2 * kBf16);
        }
      }
    }
  }
}

// Against NormRope, which is held against its reference above, and copies.
TEST_F(CudaBackendTest, RotationThatAppends) {
  std::mt19937_64 random(19);
  struct Shape {
    size_t heads, kv_heads, head_dim;
  };
  for (const Shape& s :
       {Shape{4, 2, 16}, Shape{9, 3, 64}, Shape{32, 8, 128}, Shape{2, 1, 6}, Shape{1, 1, 256}}) {
    for (size_t sequences : {1, 3, 32, 33}) {
      SCOPED_TRACE(testing::Message() << sequences << " sequences, " << s.heads << "/"
                                      << s.kv_heads << " heads of " << s.head_dim);
      std::vector<int32_t> positions(sequences);
      for (int32_t& position : positions) position = static_cast<int32_t>(random() % 40000);
      const auto angles = Take(backend_->LoadAngles(positions, s.head_dim, 1e6));
      const size_t q_dim = s.heads * s.head_dim, kv_dim = s.kv_heads * s.head_dim;
      const size_t width = q_dim + 2 * kv_dim;
      const std::vector<float> qkv = RandomRounded(sequences * width, random);
      const auto q_norm = Take(backend_->LoadVector(RandomRounded(s.head_dim, random)));
      const auto k_norm = Take(backend_->LoadVector(RandomRounded(s.head_dim, random)));
      for (bool norms : {false, true}) {
        const Vector* const q_weight = norms ? q_norm.get() : nullptr;
        const Vector* const k_weight = norms ? k_norm.get() : nullptr;
        const Framed expected = MakeFramed(qkv, sequences, width, 8, false);
        ASSERT_OK(backend_->NormRope(expected.tensor, expected.tensor.At(0, q_dim), sequences,
                                     s.heads, s.kv_heads, s.head_dim, q_weight, k_weight, 1e-6f,
                                     *angles));
        const Framed x = MakeFramed(qkv, sequences, width, 8, false);
        std::vector<Framed> memory;
        std::vector<OwnKeys> own;
        for (size_t i = 0; i < sequences; ++i) {
          const size_t rows = 1 + i % 4;
          memory.push_back(MakeOutput(rows, kv_dim));
          memory.push_back(MakeOutput(rows, kv_dim));
          own.push_back({memory[2 * i].tensor, memory[2 * i + 1].tensor, rows});
        }
        ASSERT_OK(backend_->NormRopeAppend(x.tensor, x.tensor.At(0, q_dim),
                                           x.tensor.At(0, q_dim + kv_dim), own, s.heads,
                                           s.kv_heads, s.head_dim, q_weight, k_weight, 1e-6f,
                                           *angles));
        const std::vector<float> want = Read(expected);
        EXPECT_EQ(Read(x), want);
        for (size_t i = 0; i < sequences; ++i) {
          for (size_t part = 0; part < 2; ++part) {
            const std::vector<float> got = Read(memory[2 * i + part]);
            const size_t last = (own[i].rows - 1) * kv_dim;
            const size_t from = i * width + q_dim + part * kv_dim;
            for (size_t j = 0; j < got.size(); ++j) {
              ASSERT_EQ(got[j], j < last ? kMark : want[from + j - last]) << i << " " << j;
            }
          }
        }
        if (testing::Test::HasFatalFailure()) return;
      }
    }
  }
}

TEST_F(CudaBackendTest, SiluMul) {
  std::mt19937_64 random(5);
  for (size_t width : {1, 8, 96, 1000, 9728}) {
    for (size_t tokens : {1, 9, 64}) {
      SCOPED_TRACE(testing::Message() << tokens << " x " << width);
      const std::vector<float> x = RandomRounded(tokens * 2 * width, random, 3.0f);
      std::vector<float> expected(tokens * width);
      SiluMulRef({x.data(), expected.data(), tokens, width});
      const Framed from = MakeFramed(x, tokens, 2 * width, 0, false);
      const Framed to = MakeOutput(tokens, width);
      ASSERT_OK(backend_->SiluMul(from.tensor, tokens, width, to.tensor));
      Compare(Read(to), expected, kBf16);
    }
  }
}

class CudaProductTest : public CudaBackendTest,
                        public testing::WithParamInterface<std::pair<WeightType, size_t>> {};

TEST_P(CudaProductTest, MatchesReference) {
  const auto [type, group] = GetParam();
  std::mt19937_64 random(6);
  struct Shape {
    size_t rows, cols;
  };
  for (const Shape& s :
       {Shape{1, 128}, Shape{70, 128}, Shape{64, 640}, Shape{96, 2560}, Shape{17000, 128}}) {
    const RandomWeight weight(type, s.rows, s.cols, group, random);
    const auto matrix = Take(backend_->LoadMatrix({&weight.source, 1}));
    ASSERT_EQ(matrix->rows(), s.rows);
    ASSERT_EQ(matrix->cols(), s.cols);
    for (size_t tokens : {1, 2, 4, 5, 8, 9, 33}) {
      SCOPED_TRACE(testing::Message() << tokens << " tokens, " << s.rows << " x " << s.cols);
      const std::vector<float> x = RandomRounded(tokens * s.cols, random);
      const std::vector<float> before = RandomRounded(tokens * s.rows, random);
      size_t rows = 0;
      const auto expected = ReferenceProduct({weight.source}, x, tokens, &rows);
      const auto added = ReferenceProduct({weight.source}, x, tokens, &rows, &before);
      // Many tokens round quantised weights to bfloat16.
      const bool expanded = tokens > 8 && (type == WeightType::kInt8 || type == WeightType::kInt4);
      const float tolerance = expanded ? kBf16 : 1e-4f;
      const Framed from = MakeFramed(x, tokens, s.cols, 8, false);
      const Framed narrow = MakeOutput(tokens, s.rows);
      ASSERT_OK(backend_->Matmul(from.tensor, tokens, *matrix, narrow.tensor, false));
      Compare(Read(narrow), expected, kBf16);
      const Framed wide = MakeOutput(tokens, s.rows, 8, true);
      ASSERT_OK(backend_->Matmul(from.tensor, tokens, *matrix, wide.tensor, false));
      Compare(Read(wide), expected, tolerance);
      const Framed sum = MakeFramed(before, tokens, s.rows, 8, true);
      ASSERT_OK(backend_->Matmul(from.tensor, tokens, *matrix, sum.tensor, true));
      Compare(Read(sum), added, tolerance);
      if (testing::Test::HasFatalFailure()) return;
    }
  }
}

TEST_P(CudaProductTest, FusedStepsMatchPlainOnes) {
  const auto [type, group] = GetParam();
  std::mt19937_64 random(7);
  for (size_t cols : {128, 640, 4352}) {
    const size_t inner = 72;
    const RandomWeight gate(type, inner, cols, group, random), up(type, inner, cols, group, random);
    const std::vector<WeightSource> sources = {gate.source, up.source};
    const auto matrix = Take(backend_->LoadMatrix(sources));
    const std::vector<float> norm = RandomRounded(cols, random, 0.1f);
    const auto weight = Take(backend_->LoadVector(norm));
    for (size_t tokens : {1, 3, 8, 20}) {
      SCOPED_TRACE(testing::Message() << tokens << " tokens, " << cols << " columns");
      const std::vector<float> x = RandomRounded(tokens * cols, random);
      std::vector<float> normed(x.size());
      RmsNormRef({x.data(), cols, norm.data(), normed.data(), cols, tokens, 1, cols, 1e-6f});
      for (float& value : normed) value = Rounded(value);
      size_t rows = 0;
      const auto product = ReferenceProduct(sources, normed, tokens, &rows);
      std::vector<float> gated(tokens * inner);
      SiluMulRef({product.data(), gated.data(), tokens, inner});
      for (bool sums : {false, true}) {
        const Framed from = MakeFramed(x, tokens, cols, 8, sums);
        const Framed got_normed = MakeOutput(tokens, cols), got = MakeOutput(tokens, 2 * inner);
        ASSERT_OK(backend_->NormMatmul(from.tensor, tokens, *weight, 1e-6f, *matrix,
                                       got_normed.tensor, got.tensor));
        Compare(Read(got_normed), normed, kBf16);
        Compare(Read(got), product, kBf16);
        const auto scratch = Take(backend_->Allocate(tokens, 2 * inner));
        const Framed got_gated = MakeOutput(tokens, inner);
        ASSERT_OK(backend_->NormMatmulSiluMul(from.tensor, tokens, *weight, 1e-6f, *matrix,
                                              got_normed.tensor, scratch->tensor(),
                                              got_gated.tensor));
        Compare(Read(got_gated), gated, 2 * kBf16);
      }
    }
  }
}

// One token with bfloat16 weights: rows and columns around the sizes of pieces, rings and blocks.
TEST_F(CudaBackendTest, StreamedProducts) {
  const uint64_t seed = std::random_device{}();
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937_64 random(seed);
  struct Shape {
    size_t rows, cols;
  };
  for (const Shape& s :
       {Shape{1, 8}, Shape{7, 24}, Shape{131, 1016}, Shape{132, 1024}, Shape{133, 1032},
        Shape{1056, 2048}, Shape{1500, 2560}, Shape{4000, 2568}, Shape{700, 9728},
        Shape{40000, 64}, Shape{60, 30000}, Shape{1 + random() % 3000, 8 * (1 + random() % 700)}}) {
    SCOPED_TRACE(testing::Message() << s.rows << " x " << s.cols);
    const RandomWeight first(WeightType::kBF16, s.rows, s.cols, 0, random);
    const RandomWeight second(WeightType::kBF16, s.rows, s.cols, 0, random);
    const std::vector<WeightSource> both = {first.source, second.source};
    const auto matrix = Take(backend_->LoadMatrix({&first.source, 1}));
    const auto gate_up = Take(backend_->LoadMatrix(both));
    const std::vector<float> x = RandomRounded(s.cols, random);
    const std::vector<float> before = RandomRounded(s.rows, random);
    const std::vector<float> norm = RandomRounded(s.cols, random, 0.1f);
    const auto weight = Take(backend_->LoadVector(norm));
    size_t rows = 0;
    for (size_t column : {8, 3}) {  // the second is not aligned to 16 bytes
      const Framed from = MakeFramed(x, 1, s.cols, column, false);
      const Framed narrow = MakeOutput(1, s.rows);
      ASSERT_OK(backend_->Matmul(from.tensor, 1, *matrix, narrow.tensor, false));
      Compare(Read(narrow), ReferenceProduct({first.source}, x, 1, &rows), kBf16);
      const Framed sum = MakeFramed(before, 1, s.rows, 8, true);
      ASSERT_OK(backend_->Matmul(from.tensor, 1, *matrix, sum.tensor, true));
      Compare(Read(sum), ReferenceProduct({first.source}, x, 1, &rows, &before), 1e-4f);
      if (testing::Test::HasFatalFailure()) return;
    }
    std::vector<float> normed(s.cols);
    RmsNormRef({x.data(), s.cols, norm.data(), normed.data(), s.cols, 1, 1, s.cols, 1e-6f});
    for (float& value : normed) value = Rounded(value);
    const auto product = ReferenceProduct(both, normed, 1, &rows);
    std::vector<float> gated(s.rows);
    SiluMulRef({product.data(), gated.data(), 1, s.rows});
    const Framed states = MakeFramed(x, 1, s.cols, 8, true);
    const Framed got_normed = MakeOutput(1, s.cols), got = MakeOutput(1, 2 * s.rows);
    ASSERT_OK(backend_->NormMatmul(states.tensor, 1, *weight, 1e-6f, *gate_up, got_normed.tensor,
                                   got.tensor));
    Compare(Read(got_normed), normed, kBf16);
    Compare(Read(got), product, kBf16);
    const auto scratch = Take(backend_->Allocate(1, 2 * s.rows));
    const Framed got_gated = MakeOutput(1, s.rows);
    ASSERT_OK(backend_->NormMatmulSiluMul(states.tensor, 1, *weight, 1e-6f, *gate_up,
                                          got_normed.tensor, scratch->tensor(), got_gated.tensor));
    Compare(Read(got_gated), gated, 2 * kBf16);
    if (testing::Test::HasFatalFailure()) return;
  }
}

std::string FormName(WeightType type, size_t group) {
  static const char* const names[] = {"F32", "F16", "BF16", "Int8", "Int4"};
  return names[static_cast<int>(type)] + (group ? "Group" + std::to_string(group) : "");
}

INSTANTIATE_TEST_SUITE_P(Types, CudaProductTest,
                         testing::Values(std::pair{WeightType::kF32, size_t{0}},
                                         std::pair{WeightType::kF16, size_t{0}},
                                         std::pair{WeightType::kBF16, size_t{0}},
                                         std::pair{WeightType::kInt8, size_t{128}},
                                         std::pair{WeightType::kInt8, size_t{32}},
                                         std::pair{WeightType::kInt4, size_t{32}},
                                         std::pair{WeightType::kInt4, size_t{64}}),
                         [](const auto& info) {
                           return FormName(info.param.first, info.param.second);
                         });

TEST_F(CudaBackendTest, StackedMatricesOfDifferentTypes) {
  std::mt19937_64 random(8);
  const size_t cols = 256;
  const RandomWeight a(WeightType::kInt8, 40, cols, 64, random),
      b(WeightType::kBF16, 24, cols, 0, random), c(WeightType::kInt4, 8, cols, 32, random);
  const std::vector<WeightSource> sources = {a.source, b.source, c.source};
  const auto matrix = Take(backend_->LoadMatrix(sources));
  for (size_t tokens : {1, 12}) {
    const std::vector<float> x = RandomRounded(tokens * cols, random);
    size_t rows = 0;
    const auto expected = ReferenceProduct(sources, x, tokens, &rows);
    const Framed from = MakeFramed(x, tokens, cols, 0, false), to = MakeOutput(tokens, rows);
    ASSERT_OK(backend_->Matmul(from.tensor, tokens, *matrix, to.tensor, false));
    Compare(Read(to), expected, kBf16);
  }
  WeightSource narrower = b.source;
  narrower.cols = 128;
  const std::vector<WeightSource> unequal = {b.source, narrower};
  EXPECT_EQ(backend_->LoadMatrix(unequal).status().code(), StatusCode::kInvalidArgument);
}

TEST_F(CudaBackendTest, EmbeddingRowsOfEveryType) {
  std::mt19937_64 random(9);
  for (const auto& [type, group] :
       {std::pair{WeightType::kF32, size_t{0}}, std::pair{WeightType::kBF16, size_t{0}},
        std::pair{WeightType::kInt8, size_t{64}}, std::pair{WeightType::kInt4, size_t{32}}}) {
    const size_t rows = 300, cols = 192;
    const RandomWeight weight(type, rows, cols, group, random);
    const auto matrix = Take(backend_->LoadMatrix({&weight.source, 1}));
    WeightArena arena;
    const WeightMatrix reference = std::move(*WeightMatrix::Make({&weight.source, 1}, &arena));
    std::vector<int32_t> ids = {0, 299, 17, 17};
    for (int i = 0; i < 60; ++i) ids.push_back(static_cast<int32_t>(random() % rows));
    std::vector<float> expected(ids.size() * cols);
    for (size_t i = 0; i < ids.size(); ++i) {
      reference.DequantizeRows(static_cast<size_t>(ids[i]), 1, expected.data() + i * cols);
    }
    for (bool sums : {false, true}) {
      const Framed to = MakeOutput(ids.size(), cols, 8, sums);
      ASSERT_OK(backend_->Embed(*matrix, ids, to.tensor));
      Compare(Read(to), expected, sums ? kFloat : kBf16);
    }
  }
}

class CudaAttentionTest : public CudaBackendTest {
 protected:
  struct Heads {
    size_t heads, kv_heads, head_dim;
  };
  static const std::vector<Heads>& Shapes() {
    static const std::vector<Heads> shapes = {{1, 1, 8},    {4, 2, 16}, {9, 3, 64},
                                              {5, 1, 24},   {2, 2, 40}, {8, 1, 128},
                                              {32, 8, 128}, {4, 2, 96}, {3, 3, 6}, {2, 1, 256}};
    return shapes;
  }

  void CompareAttention(const Heads& s, const std::vector<AttentionSegment>& segments,
                        std::mt19937_64& random, float spread = 1.0f, bool aligned = true) {
    size_t queries = 0, keys = 0;
    for (const AttentionSegment& segment : segments) {
      queries = std::max(queries, segment.query_begin + segment.query_count);
      keys = std::max(keys, segment.key_begin + segment.visible_before + segment.query_count);
    }
    const size_t q_dim = s.heads * s.head_dim, kv_dim = s.kv_heads * s.head_dim;
    const std::vector<float> q = RandomRounded(queries * q_dim, random, spread);
    const std::vector<float> k = RandomRounded(keys * kv_dim, random);
    const std::vector<float> v = RandomRounded(keys * kv_dim, random);
    std::vector<float> expected(queries * q_dim, kMark);
    AttentionParams p;
    p.q = q.data();
    p.q_stride = q_dim;
    p.k = k.data();
    p.v = v.data();
    p.kv_stride = kv_dim;
    p.out = expected.data();
    p.out_stride = q_dim;
    p.segments = segments.data();
    p.segment_count = segments.size();
    p.heads = s.heads;
    p.kv_heads = s.kv_heads;
    p.head_dim = s.head_dim;
    p.scale = 1.0f / std::sqrt(static_cast<float>(s.head_dim));
    AttentionRef(p);
    const size_t column = aligned ? 8 : 3;
    const Framed from = MakeFramed(q, queries, q_dim, column, false);
    const Framed key = MakeFramed(k, keys, kv_dim, column, false);
    const Framed value = MakeFramed(v, keys, kv_dim, column, false);
    const Framed to = MakeOutput(queries, q_dim, 8);
    ASSERT_OK(backend_->Attention(from.tensor, key.tensor, value.tensor, to.tensor, segments,
                                  s.heads, s.kv_heads, s.head_dim));
    std::vector<float> got = Read(to);
    // Rows of no segment stay as they were; ExpectClose measures against the largest magnitude.
    for (size_t i = 0; i < got.size(); ++i) {
      if (expected[i] == kMark) {
        ASSERT_EQ(got[i], kMark);
        got[i] = expected[i] = 0;
      }
    }
    Compare(got, expected, 2 * kBf16);
  }
};

TEST_F(CudaAttentionTest, Prefill) {
  std::mt19937_64 random(10);
  for (const Heads& s : Shapes()) {
    for (size_t queries : {2, 16, 63, 64, 65, 130}) {
      for (size_t before : {0, 1, 63, 64, 200}) {
        SCOPED_TRACE(testing::Message() << s.heads << "/" << s.kv_heads << " heads of "
                                        << s.head_dim << ", " << queries << " after " << before);
        CompareAttention(s, {{0, queries, 0, before}}, random);
        if (testing::Test::HasFatalFailure()) return;
      }
    }
    CompareAttention(s, {{0, 70, 0, 30}}, random, 1.0f, false);
  }
}

TEST_F(CudaAttentionTest, PackedDocumentsSeeOnlyThemselves) {
  std::mt19937_64 random(11);
  for (const Heads& s : Shapes()) {
    std::vector<AttentionSegment> segments;
    size_t begin = 0;
    for (size_t length : {1, 0, 17, 129, 2, 64, 300}) {
      segments.push_back({begin, length, begin, 0});
      begin += length;
    }
    CompareAttention(s, segments, random);
    if (testing::Test::HasFatalFailure()) return;
  }
  CompareAttention({4, 2, 16}, {}, random);
}

TEST_F(CudaAttentionTest, Decode) {
  std::mt19937_64 random(12);
  for (const Heads& s : Shapes()) {
    for (size_t before : {0, 1, 31, 32, 63, 500, 3000}) {
      SCOPED_TRACE(testing::Message() << s.heads << "/" << s.kv_heads << " heads of " << s.head_dim
                                      << ", context " << before);
      CompareAttention(s, {{0, 1, 0, before}}, random);
      // Several sequences in one call, with an empty one between.
      CompareAttention(s, {{0, 1, 0, before}, {1, 0, 0, 0}, {1, 1, before + 1, before / 2}},
                       random);
      CompareAttention(s, {{0, 1, 0, before}}, random, 1.0f, false);
      if (testing::Test::HasFatalFailure()) return;
    }
  }
  // More sequences than one launch takes.
  std::vector<AttentionSegment> many;
  size_t key = 0;
  for (size_t i = 0; i < 75; ++i) {
    const size_t before = random() % 200;
    many.push_back({i, 1, key, before});
    key += before + 1;
  }
  CompareAttention({32, 8, 128}, many, random);
  CompareAttention({9, 3, 64}, many, random);
}

// Sequences with keys in different places, one row of queries each.
TEST_F(CudaAttentionTest, EachQueryOverItsOwnKeys) {
  std::mt19937_64 random(18);
  for (const Heads& s : Shapes()) {
    const size_t q_dim = s.heads * s.head_dim, kv_dim = s.kv_heads * s.head_dim;
    const std::vector<size_t> lengths = {1, 40, 700, 33};
    const std::vector<float> q = RandomRounded(lengths.size() * q_dim, random);
    std::vector<float> expected(lengths.size() * q_dim);
    std::vector<Framed> memory;
    std::vector<OwnKeys> own;
    for (size_t i = 0; i < lengths.size(); ++i) {
      const std::vector<float> k = RandomRounded(lengths[i] * kv_dim, random);
      const std::vector<float> v = RandomRounded(lengths[i] * kv_dim, random);
      const AttentionSegment segment{0, 1, 0, lengths[i] - 1};
      AttentionParams p;
      p.q = q.data() + i * q_dim;
      p.q_stride = q_dim;
      p.k = k.data();
      p.v = v.data();
      p.kv_stride = kv_dim;
      p.out = expected.data() + i * q_dim;
      p.out_stride = q_dim;
      p.segments = &segment;
      p.segment_count = 1;
      p.heads = s.heads;
      p.kv_heads = s.kv_heads;
      p.head_dim = s.head_dim;
      p.scale = 1.0f / std::sqrt(static_cast<float>(s.head_dim));
      AttentionRef(p);
      const size_t column = i == 3 ? 0 : 8;
      memory.push_back(MakeFramed(k, lengths[i], kv_dim, column, false));
      memory.push_back(MakeFramed(v, lengths[i], kv_dim, column, false));
      own.push_back({memory[2 * i].tensor, memory[2 * i + 1].tensor, lengths[i]});
    }
    const Framed from = MakeFramed(q, lengths.size(), q_dim, 8, false);
    const Framed to = MakeOutput(lengths.size(), q_dim);
    ASSERT_OK(
        backend_->AttentionEach(from.tensor, own, to.tensor, s.heads, s.kv_heads, s.head_dim));
    Compare(Read(to), expected, 2 * kBf16);
  }
}

// Against its two steps, which are held against their references above.
TEST_F(CudaAttentionTest, RotationThatAppendsAndAttends) {
  std::mt19937_64 random(20);
  const std::vector<Heads> shapes = {{4, 2, 16}, {9, 3, 64},  {32, 8, 128}, {2, 1, 6},
                                     {3, 1, 32}, {14, 2, 128}, {1, 1, 256},  {6, 2, 80}};
  for (const Heads& s : shapes) {
    for (size_t sequences : {1, 5, 33}) {
      SCOPED_TRACE(testing::Message() << sequences << " sequences, " << s.heads << "/"
                                      << s.kv_heads << " heads of " << s.head_dim);
      const size_t q_dim = s.heads * s.head_dim, kv_dim = s.kv_heads * s.head_dim;
      const size_t width = q_dim + 2 * kv_dim;
      std::vector<int32_t> positions(sequences);
      for (int32_t& position : positions) position = static_cast<int32_t>(random() % 40000);
      const auto angles = Take(backend_->LoadAngles(positions, s.head_dim, 1e6));
      const std::vector<float> qkv = RandomRounded(sequences * width, random);
      const auto q_norm = Take(backend_->LoadVector(RandomRounded(s.head_dim, random)));
      const auto k_norm = Take(backend_->LoadVector(RandomRounded(s.head_dim, random)));
      std::vector<size_t> lengths(sequences);
      for (size_t& length : lengths) length = 1 + random() % (sequences < 32 ? 300 : 70);
      lengths[0] = sequences == 1 ? 2500 : 1;
      for (bool norms : {false, true}) {
        const Vector* const q_weight = norms ? q_norm.get() : nullptr;
        const Vector* const k_weight = norms ? k_norm.get() : nullptr;
        std::vector<Framed> memory[2];
        std::vector<OwnKeys> own[2];
        std::vector<float> out[2];
        for (size_t i = 0; i < sequences; ++i) {
          const std::vector<float> k = RandomRounded(lengths[i] * kv_dim, random);
          const std::vector<float> v = RandomRounded(lengths[i] * kv_dim, random);
          for (int way : {0, 1}) {
            memory[way].push_back(MakeFramed(k, lengths[i], kv_dim, 8, false));
            memory[way].push_back(MakeFramed(v, lengths[i], kv_dim, 8, false));
            own[way].push_back({memory[way][2 * i].tensor, memory[way][2 * i + 1].tensor,
                                lengths[i]});
          }
        }
        for (int way : {0, 1}) {
          const Framed x = MakeFramed(qkv, sequences, width, 8, false);
          const Framed to = MakeOutput(sequences, q_dim);
          const Tensor q = x.tensor, k = x.tensor.At(0, q_dim), v = x.tensor.At(0, q_dim + kv_dim);
          if (way == 0) {
            ASSERT_OK(backend_->NormRopeAppend(q, k, v, own[0], s.heads, s.kv_heads, s.head_dim,
                                               q_weight, k_weight, 1e-6f, *angles));
            ASSERT_OK(backend_->AttentionEach(q, own[0], to.tensor, s.heads, s.kv_heads,
                                              s.head_dim));
          } else {
            ASSERT_OK(backend_->RotateAttentionEach(q, k, v, own[1], to.tensor, s.heads,
                                                    s.kv_heads, s.head_dim, q_weight, k_weight,
                                                    1e-6f, *angles));
          }
          out[way] = Read(to);
        }
        Compare(out[1], out[0], 2 * kBf16);
        for (size_t i = 0; i < memory[0].size(); ++i) {
          Compare(Read(memory[1][i]), Read(memory[0][i]), kBf16);
        }
        if (testing::Test::HasFatalFailure()) return;
      }
    }
  }
}

TEST_F(CudaAttentionTest, LargeScoresDoNotOverflow) {
  std::mt19937_64 random(13);
  CompareAttention({4, 2, 32}, {{0, 40, 0, 150}}, random, 100.0f);
  CompareAttention({4, 2, 32}, {{0, 1, 0, 150}}, random, 100.0f);
}

TEST_F(CudaAttentionTest, RandomShapes) {
  const uint64_t seed = std::random_device{}();
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937_64 random(seed);
  for (int i = 0; i < 40; ++i) {
    const size_t kv_heads = 1 + random() % 4;
    const Heads s{kv_heads * (1 + random() % 6), kv_heads, 2 * (1 + random() % 80)};
    std::vector<AttentionSegment> segments;
    size_t query = 0, key = 0;
    for (size_t n = random() % 5; n > 0; --n) {
      const AttentionSegment segment{query, random() % 150, key, random() % 200};
      query += segment.query_count;
      key += segment.visible_before + segment.query_count;
      segments.push_back(segment);
    }
    CompareAttention(s, segments, random);
    if (testing::Test::HasFatalFailure()) return;
  }
}

TEST_F(CudaBackendTest, ChunkPool) {
  std::mt19937_64 random(14);
  for (size_t width : {3, 64, 1024}) {
    for (size_t chunk : {1, 16, 64}) {
      const std::vector<size_t> lengths = {1, 0, 64, 65, 200, 15};
      size_t tokens = 0, chunks = 0;
      for (size_t length : lengths) {
        tokens += length;
        chunks += (length + chunk - 1) / chunk;
      }
      const std::vector<float> x = RandomRounded(tokens * width, random);
      std::vector<float> expected(chunks * width), got(chunks * width);
      ChunkPoolParams p;
      p.x = x.data();
      p.x_stride = width;
      p.lengths = lengths.data();
      p.documents = lengths.size();
      p.chunk = chunk;
      p.width = width;
      p.out = expected.data();
      ChunkPoolRef(p);
      const Framed from = MakeFramed(x, tokens, width, 8, false);
      ASSERT_OK(backend_->ChunkPool(from.tensor, lengths, chunk, width, got.data()));
      ASSERT_OK(backend_->Synchronize());
      Compare(got, expected, kFloat);
    }
  }
}

TEST_F(CudaBackendTest, RouterFold) {
  std::mt19937_64 random(15);
  struct Shape {
    size_t heads, kv_heads, head_dim;
  };
  for (const Shape& s :
       {Shape{4, 2, 16}, Shape{9, 3, 64}, Shape{32, 8, 128}, Shape{5, 1, 24}, Shape{2, 2, 6}}) {
    for (bool cosine : {false, true}) {
      const size_t tokens = 37, q_dim = s.heads * s.head_dim, kv_dim = s.kv_heads * s.head_dim;
      std::vector<float> q = RandomRounded(tokens * q_dim, random);
      std::fill_n(q.begin(), s.head_dim, 0.0f);  // a head of zeros
      std::vector<float> expected(tokens * kv_dim), got(tokens * kv_dim);
      RouterFoldParams p;
      p.q = q.data();
      p.q_stride = q_dim;
      p.out = expected.data();
      p.tokens = tokens;
      p.heads = s.heads;
      p.kv_heads = s.kv_heads;
      p.head_dim = s.head_dim;
      p.cosine = cosine;
      RouterFoldRef(p);
      const Framed from = MakeFramed(q, tokens, q_dim, 8, false);
      ASSERT_OK(backend_->RouterFold(from.tensor, tokens, s.heads, s.kv_heads, s.head_dim, cosine,
                                     got.data()));
      ASSERT_OK(backend_->Synchronize());
      Compare(got, expected, kFloat);
    }
  }
}

// A whole decoding step in one launch against its parts, which are held against their references above:
// several steps in a row, so that words of former ones are about, over memories of different lengths.
TEST_F(CudaBackendTest, DecodeStepMatchesItsParts) {
  struct Model {
    size_t hidden, heads, kv_heads, head_dim, inner, vocab, layers;
    bool norms;
    size_t keys;
  };
  const std::vector<Model> models = {{256, 4, 2, 64, 512, 700, 2, true, 1},
                                     {512, 6, 1, 128, 768, 37, 3, false, 130},
                                     {256, 12, 2, 64, 768, 1201, 2, true, 333},
                                     {768, 8, 4, 128, 1280, 999, 1, true, 2040},
                                     {576, 9, 3, 64, 1536, 1100, 2, false, 200},
                                     {1312, 5, 5, 64, 2720, 50, 2, false, 70},
                                     {288, 4, 2, 64, 5440, 300, 1, true, 20},
                                     {256, 81, 1, 128, 512, 60, 1, false, 9}};
  std::mt19937_64 random(21);
  for (const Model& m : models) {
    SCOPED_TRACE(testing::Message() << m.hidden << " wide, " << m.heads << "/" << m.kv_heads
                                    << " heads of " << m.head_dim << ", " << m.keys << " keys");
    const size_t q_dim = m.heads * m.head_dim, kv_dim = m.kv_heads * m.head_dim;
    std::vector<std::unique_ptr<Matrix>> matrices;
    std::vector<std::unique_ptr<Vector>> vectors;
    const auto matrix = [&](size_t rows, size_t cols) {
      RandomWeight weight(WeightType::kBF16, 0, cols, 0, random);
      const float spread = 1.0f / std::sqrt(static_cast<float>(cols));
      for (float value : RandomFloats(rows * cols, random, spread)) {
        weight.f16.push_back(F32ToBf16(value));
      }
      weight.source.data = weight.f16.data();
      weight.source.rows = rows;
      matrices.push_back(Take(backend_->LoadMatrix({&weight.source, 1})));
      return matrices.back().get();
    };
    const auto vector = [&](size_t width) {
      std::vector<float> values = RandomRounded(width, random);
      for (float& value : values) value = 1.0f + value / 4;
      vectors.push_back(Take(backend_->LoadVector(values)));
      return vectors.back().get();
    };
    const Matrix* const embedding = matrix(m.vocab, m.hidden);
    const Matrix* const head = m.norms ? embedding : matrix(m.vocab, m.hidden);
    const Vector* const final_norm = vector(m.hidden);
    constexpr size_t kSteps = 3;
    std::vector<DecodeLayer> layers[2];
    std::vector<Framed> memory[2];
    for (size_t l = 0; l < m.layers; ++l) {
      DecodeLayer layer;
      layer.input_norm = vector(m.hidden);
      layer.qkv = matrix(q_dim + 2 * kv_dim, m.hidden);
      if (m.norms) layer.q_norm = vector(m.head_dim), layer.k_norm = vector(m.head_dim);
      layer.output = matrix(m.hidden, q_dim);
      layer.post_attention_norm = vector(m.hidden);
      layer.gate_up = matrix(2 * m.inner, m.hidden);
      layer.down = matrix(m.hidden, m.inner);
      const size_t rows = m.keys + l * 5 + kSteps;  // layers have memories of their own
      const std::vector<float> k = RandomRounded(rows * kv_dim, random);
      const std::vector<float> v = RandomRounded(rows * kv_dim, random);
      for (int way : {0, 1}) {
        memory[way].push_back(MakeFramed(k, rows, kv_dim, 8, false));
        layer.keys.k = memory[way].back().tensor;
        memory[way].push_back(MakeFramed(v, rows, kv_dim, 8, false));
        layer.keys.v = memory[way].back().tensor;
        layer.keys.rows = m.keys + l * 5 - 1;
        layers[way].push_back(layer);
      }
    }
    constexpr float kEpsilon = 1e-6f;
    std::vector<float> logits[2];
    for (size_t step = 0; step < kSteps; ++step) {
      const auto token = static_cast<int32_t>(random() % m.vocab);
      const std::vector<int32_t> position = {static_cast<int32_t>(m.keys + step)};
      const auto angles = Take(backend_->LoadAngles(position, m.head_dim, 1e6));
      for (auto& way : layers) {
        for (DecodeLayer& layer : way) ++layer.keys.rows;
      }
      logits[0].assign(m.vocab, 0);
      logits[1].assign(m.vocab, 0);
      const auto state = Take(backend_->AllocateSums(1, m.hidden));
      const auto normed = Take(backend_->Allocate(1, m.hidden));
      const auto qkv = Take(backend_->Allocate(1, q_dim + 2 * kv_dim));
      const auto attended = Take(backend_->Allocate(1, q_dim));
      const auto gate_up = Take(backend_->Allocate(1, 2 * m.inner));
      const auto gated = Take(backend_->Allocate(1, m.inner));
      const auto out = Take(backend_->AllocateSums(1, m.vocab));
      ASSERT_OK(backend_->Embed(*embedding, {&token, 1}, state->tensor()));
      for (const DecodeLayer& layer : layers[0]) {
        ASSERT_OK(backend_->NormMatmul(state->tensor(), 1, *layer.input_norm, kEpsilon, *layer.qkv,
                                       normed->tensor(), qkv->tensor()));
        const Tensor x = qkv->tensor();
        ASSERT_OK(backend_->RotateAttentionEach(x, x.At(0, q_dim), x.At(0, q_dim + kv_dim),
                                                {&layer.keys, 1}, attended->tensor(), m.heads,
                                                m.kv_heads, m.head_dim, layer.q_norm, layer.k_norm,
                                                kEpsilon, *angles));
        ASSERT_OK(backend_->Matmul(attended->tensor(), 1, *layer.output, state->tensor(), true));
        ASSERT_OK(backend_->NormMatmulSiluMul(state->tensor(), 1, *layer.post_attention_norm,
                                              kEpsilon, *layer.gate_up, normed->tensor(),
                                              gate_up->tensor(), gated->tensor()));
        ASSERT_OK(backend_->Matmul(gated->tensor(), 1, *layer.down, state->tensor(), true));
      }
      ASSERT_OK(backend_->NormMatmul(state->tensor(), 1, *final_norm, kEpsilon, *head,
                                     normed->tensor(), out->tensor()));
      ASSERT_OK(backend_->Download(out->tensor(), logits[0].data(), 1, m.vocab));
      DecodeInput input = {embedding, token,    angles.get(), layers[1],  final_norm, head,
                           m.heads,   m.kv_heads, m.head_dim, kEpsilon};
      const bool done = Take(backend_->DecodeStep(input, logits[1].data()));
      ASSERT_OK(backend_->Synchronize());
      if (!done) GTEST_SKIP() << "this device takes no whole steps of these shapes";
      Compare(logits[1], logits[0], 4 * kBf16);
      for (size_t i = 0; i < memory[0].size(); ++i) {
        Compare(Read(memory[1][i]), Read(memory[0][i]), 2 * kBf16);
      }
      // The same again: the same bits.
      std::vector<float> again(m.vocab);
      ASSERT_TRUE(Take(backend_->DecodeStep(input, again.data())));
      ASSERT_OK(backend_->Synchronize());
      ASSERT_EQ(again, logits[1]);
      if (testing::Test::HasFatalFailure()) return;
    }
  }
}

// A hundred passes of a small chain end where one does: nothing is overwritten too early, although
// kernels overlap and memory is reused.
TEST_F(CudaBackendTest, RepeatedChainsAgree) {
  std::mt19937_64 random(16);
  const size_t cols = 512, rows = 512;
  const RandomWeight weight(WeightType::kBF16, rows, cols, 0, random);
  const auto matrix = Take(backend_->LoadMatrix({&weight.source, 1}));
  const std::vector<float> norm(cols, 0.05f);
  const auto norm_weight = Take(backend_->LoadVector(norm));
  for (size_t tokens : {1, 4, 40}) {
    const std::vector<float> x = RandomRounded(tokens * cols, random);
    std::vector<float> first;
    for (int pass = 0; pass < 100; ++pass) {
      const auto state = Take(backend_->AllocateSums(tokens, cols));
      ASSERT_OK(backend_->Upload(x.data(), state->tensor(), tokens, cols));
      for (int layer = 0; layer < 8; ++layer) {
        const auto normed = Take(backend_->Allocate(tokens, cols));
        const auto y = Take(backend_->Allocate(tokens, rows));
        ASSERT_OK(backend_->NormMatmul(state->tensor(), tokens, *norm_weight, 1e-6f, *matrix,
                                       normed->tensor(), y->tensor()));
        ASSERT_OK(backend_->Matmul(y->tensor(), tokens, *matrix, state->tensor(), true));
      }
      std::vector<float> got(tokens * cols);
      ASSERT_OK(backend_->Download(state->tensor(), got.data(), tokens, cols));
      ASSERT_OK(backend_->Synchronize());
      if (pass == 0) {
        first = got;
        for (float value : first) ASSERT_TRUE(std::isfinite(value));
      }
      ASSERT_EQ(got, first) << "pass " << pass;
    }
  }
}

TEST_F(CudaBackendTest, NoMemoryIsAnErrorAndLeavesTheBackendUsable) {
  auto huge = backend_->Allocate(size_t{1} << 40, 4096);
  EXPECT_EQ(huge.status().code(), StatusCode::kResourceExhausted) << huge.status().ToString();
  huge = backend_->Allocate(size_t{1} << 50, size_t{1} << 50);
  EXPECT_EQ(huge.status().code(), StatusCode::kResourceExhausted);
  std::mt19937_64 random(17);
  const std::vector<float> values = RandomRounded(100, random);
  const Framed from = MakeFramed(values, 10, 10, 8, false), to = MakeOutput(10, 10);
  ASSERT_OK(backend_->CopyRows(from.tensor, to.tensor, 10, 10));
  EXPECT_EQ(Read(to), values);
}

TEST(CudaDeviceTest, AnAbsentDeviceIsAClearError) {
  const auto none = MakeCudaBackend(1000);
  EXPECT_EQ(none.status().code(), StatusCode::kUnsupported);
  EXPECT_NE(none.status().message().find("device \"cpu\""), std::string::npos);
  EXPECT_EQ(MakeCudaBackend(-1).status().code(), StatusCode::kUnsupported);
  if (CudaDeviceCount() == 0) {
    EXPECT_EQ(MakeCudaBackend(0).status().code(), StatusCode::kUnsupported);
    EXPECT_EQ(AllocatePinned(4096), nullptr);
  }
  FreePinned(nullptr);
}

}  // namespace
}  // namespace msadb::kernels
