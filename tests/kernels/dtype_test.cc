#include "kernels/dtype.h"

#include <bit>
#include <cmath>
#include <limits>

#include "kernels/cpu_features.h"
#include "tests/kernels/kernel_test_util.h"

namespace msadb::kernels {
namespace {

TEST(DTypeTest, EveryFloat16SurvivesARoundTrip) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const float value = F16ToF32(static_cast<uint16_t>(bits));
    if (std::isnan(value)) {
      EXPECT_TRUE(std::isnan(F16ToF32(F32ToF16(value)))) << bits;
    } else {
      EXPECT_EQ(F32ToF16(value), bits);
    }
  }
}

TEST(DTypeTest, KnownValues) {
  EXPECT_EQ(F16ToF32(0x3c00), 1.0f);
  EXPECT_EQ(F16ToF32(0xc000), -2.0f);
  EXPECT_EQ(F16ToF32(0x0001), 0x1p-24f);
  EXPECT_EQ(F32ToF16(65519.0f), 0x7bff);
  EXPECT_EQ(F32ToF16(65520.0f), 0x7c00);
  EXPECT_EQ(F32ToF16(std::numeric_limits<float>::infinity()), 0x7c00);
  EXPECT_EQ(F32ToF16(-0.0f), 0x8000);
  EXPECT_EQ(F32ToF16(0x1p-25f), 0x0000);  // a tie goes to even
  EXPECT_EQ(F32ToF16(std::nextafter(0x1p-25f, 1.0f)), 0x0001);
  EXPECT_EQ(F32ToF16(1.0f + 0x1p-11f), 0x3c00);  // a tie goes to even
  EXPECT_EQ(F32ToF16(1.0f + 3 * 0x1p-11f), 0x3c02);
  EXPECT_EQ(Bf16ToF32(0x3f80), 1.0f);
  EXPECT_EQ(F32ToBf16(1.0f + 0x1p-8f), 0x3f80);
  EXPECT_EQ(F32ToBf16(1.0f + 3 * 0x1p-8f), 0x3f82);
  EXPECT_EQ(F32ToBf16(std::numeric_limits<float>::max()), 0x7f80);
}

// The array forms (vectorised where the processor can) equal the single-value forms bit for bit.
TEST(DTypeTest, ArraysEqualSingleValues) {
  constexpr uint64_t kSeed = 7;
  SCOPED_TRACE(kSeed);
  std::mt19937_64 random(kSeed);
  for (size_t count : {0, 1, 7, 8, 9, 31, 4099}) {
    std::vector<float> values(count);
    for (size_t i = 0; i < count; ++i) {
      // Half of them any bit pattern, half of them in float16's range.
      values[i] =
          i % 2 == 0
              ? std::bit_cast<float>(static_cast<uint32_t>(random()))
              : std::bit_cast<float>(0x33000000u + static_cast<uint32_t>(random() % 0x16000000u));
    }
    std::vector<uint16_t> half(count + 1, 0xabcd);
    ConvertF32ToF16(values.data(), half.data(), count);
    for (size_t i = 0; i < count; ++i) {
      if (std::isnan(values[i])) {
        EXPECT_TRUE(std::isnan(F16ToF32(half[i])));
      } else {
        EXPECT_EQ(half[i], F32ToF16(values[i])) << values[i];
      }
    }
    EXPECT_EQ(half[count], 0xabcd);
    std::vector<uint16_t> brain(count + 1, 0xabcd);
    ConvertF32ToBf16(values.data(), brain.data(), count);
    for (size_t i = 0; i < count; ++i) EXPECT_EQ(brain[i], F32ToBf16(values[i])) << values[i];
    EXPECT_EQ(brain[count], 0xabcd);

    GuardedFloats back(count);
    ConvertF16ToF32(half.data(), back.data(), count);
    for (size_t i = 0; i < count; ++i) {
      EXPECT_TRUE(back.data()[i] == F16ToF32(half[i]) || std::isnan(values[i]));
    }
    ConvertBf16ToF32(brain.data(), back.data(), count);
    for (size_t i = 0; i < count; ++i) {
      EXPECT_TRUE(back.data()[i] == Bf16ToF32(brain[i]) || std::isnan(values[i]));
    }
    back.ExpectGuardsIntact();
  }
}

}  // namespace
}  // namespace msadb::kernels
