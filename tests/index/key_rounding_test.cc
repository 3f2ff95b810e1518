#include "index/key_rounding.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "index/routing_index.h"
#include "tests/index/index_test_util.h"

namespace msadb::index {
namespace {

using internal::RoundedNormMax;
using internal::RoundKey;

double Norm(const std::vector<float>& row) {
  double square = 0;
  for (const float v : row) square += static_cast<double>(v) * v;
  return std::sqrt(square);
}

// What the header promises of one row, in float64.
void CheckRow(const std::vector<float>& row) {
  double largest = 0;
  for (const float v : row) largest = std::max(largest, std::fabs(static_cast<double>(v)));
  std::vector<int8_t> values(row.size());
  const float scale = RoundKey(row.data(), row.size(), values.data());
  ASSERT_NEAR(scale, largest / 127, largest / 127 * 0x1p-16 * 1.01);
  ASSERT_GE(scale, std::numeric_limits<float>::min());
  ASSERT_EQ(std::bit_cast<uint32_t>(scale) & 0xff, 0u);
  int largest_value = 0;
  std::vector<float> rounded = row;
  RoundKeysToInt8(rounded.data(), 1, row.size());
  for (size_t i = 0; i < row.size(); ++i) {
    ASSERT_GE(values[i], -127);
    largest_value = std::max(largest_value, std::abs(int{values[i]}));
    const double key = static_cast<double>(scale) * values[i];
    ASSERT_NEAR(key, row[i], 0.501 * scale);
    ASSERT_EQ(static_cast<double>(rounded[i]), key);  // the product is a float32
  }
  ASSERT_EQ(largest_value, 127);
  ASSERT_LE(Norm(rounded), RoundedNormMax(static_cast<float>(Norm(row)), row.size()));

  std::vector<int8_t> again(row.size());
  ASSERT_EQ(RoundKey(rounded.data(), row.size(), again.data()), scale);
  ASSERT_EQ(again, values);
}

TEST(KeyRoundingTest, RandomRowsOfAllSizes) {
  std::mt19937_64 rng(TestSeed(21));
  std::normal_distribution<float> normal;
  std::uniform_real_distribution<double> exponent(-35, 14);
  for (int i = 0; i < 20'000 && !HasFailure(); ++i) {
    const size_t dims[] = {1, 2, 7, 16, 67, 192, 1024};
    std::vector<float> row(dims[i % std::size(dims)]);
    const double size = std::pow(10.0, exponent(rng));
    for (float& v : row) v = static_cast<float>(normal(rng) * size);
    row[rng() % row.size()] = static_cast<float>((rng() % 2 ? 1 : -1) * size);
    CheckRow(row);
  }
}

// Rounding a rounded row may not move its scale: every mantissa that a scale can have.
TEST(KeyRoundingTest, EveryScaleIsKept) {
  for (uint32_t mantissa = 0; mantissa < 1u << 15 && !HasFailure(); ++mantissa) {
    const float scale = std::bit_cast<float>(0x3f800000u | mantissa << 8);
    const float row[] = {127 * scale, -3 * scale, 64 * scale};
    int8_t values[3];
    ASSERT_EQ(RoundKey(row, 3, values), scale);
    ASSERT_EQ(values[0], 127);
    ASSERT_EQ(values[1], -3);
    ASSERT_EQ(values[2], 64);
  }
}

TEST(KeyRoundingTest, RowsTooSmallForAScaleAreZero) {
  for (const float v : {0.0f, -0.0f, 1e-45f, -1e-38f, 1.4e-36f}) {
    const float row[] = {v, 0, -v};
    int8_t values[] = {1, 1, 1};
    EXPECT_EQ(RoundKey(row, 3, values), 1.0f) << v;
    for (const int8_t value : values) EXPECT_EQ(value, 0) << v;
  }
  CheckRow({1.6e-36f, 0, -1e-37f});
  CheckRow({std::numeric_limits<float>::max(), 1});
}

TEST(KeyRoundingTest, RowsDoNotMix) {
  std::vector<float> rows = {1, 0.5f, 1000, 0.5f, 0, 0};
  RoundKeysToInt8(rows.data(), 3, 2);
  EXPECT_NEAR(rows[1], 0.5f, 0.004f);
  EXPECT_EQ(rows[3], 0);
  EXPECT_EQ(rows[4], 0);
  RoundKeysToInt8(rows.data(), 0, 2);
}

}  // namespace
}  // namespace msadb::index
