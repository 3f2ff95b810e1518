// Shared by the kernel tests: seeded inputs, outputs between guard regions, comparison that looks
// for NaN first.
#ifndef MSADB_TESTS_KERNELS_KERNEL_TEST_UTIL_H_
#define MSADB_TESTS_KERNELS_KERNEL_TEST_UTIL_H_

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

namespace msadb::kernels {

inline std::vector<float> RandomFloats(size_t count, std::mt19937_64& random, float spread = 1.0f) {
  std::normal_distribution<float> normal(0.0f, spread);
  std::vector<float> values(count);
  for (float& value : values) value = normal(random);
  return values;
}

// `count` floats with a guard region on either side; starts out as NaN, so that an element nobody
// wrote shows.
class GuardedFloats {
 public:
  explicit GuardedFloats(size_t count) : values_(count + 2 * kGuard, kMark), count_(count) {
    std::fill_n(data(), count, std::nanf(""));
  }
  explicit GuardedFloats(const std::vector<float>& contents) : GuardedFloats(contents.size()) {
    std::copy(contents.begin(), contents.end(), data());
  }
  float* data() { return values_.data() + kGuard; }
  size_t size() const { return count_; }

  void ExpectGuardsIntact() const {
    for (size_t i = 0; i < kGuard; ++i) {
      ASSERT_EQ(values_[i], kMark) << "written " << kGuard - i << " floats before the output";
      ASSERT_EQ(values_[kGuard + count_ + i], kMark)
          << "written " << i + 1 << " floats past the end";
    }
  }

 private:
  static constexpr size_t kGuard = 32;
  static constexpr float kMark = -12345.5f;
  std::vector<float> values_;
  size_t count_;
};

// Every element finite and within tolerance * max(1, largest expected magnitude).
inline void ExpectClose(const float* got, const float* expected, size_t count, float tolerance) {
  float largest = 1.0f;
  for (size_t i = 0; i < count; ++i) {
    ASSERT_TRUE(std::isfinite(got[i])) << "element " << i << " of " << count << " is " << got[i];
    largest = std::max(largest, std::fabs(expected[i]));
  }
  for (size_t i = 0; i < count; ++i) {
    ASSERT_NEAR(got[i], expected[i], tolerance * largest) << "element " << i << " of " << count;
  }
}

}  // namespace msadb::kernels

#endif  // MSADB_TESTS_KERNELS_KERNEL_TEST_UTIL_H_
