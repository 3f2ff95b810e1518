#include "kernels/sample.h"

#include <cmath>
#include <map>

#include "kernels/cpu_features.h"
#include "tests/kernels/kernel_test_util.h"

namespace msadb::kernels {
namespace {

int32_t Draw(const std::vector<float>& logits, float temperature, float top_p,
             std::mt19937_64& random) {
  std::vector<std::pair<float, int32_t>> scratch;
  return Sample({logits.data(), logits.size(), temperature, top_p}, random, &scratch);
}

TEST(SampleTest, ArgMaxTakesTheFirstOfEquals) {
  const std::vector<float> logits = {-3, 5, 1, 5};
  EXPECT_EQ(ArgMax(logits.data(), logits.size()), 1);
  const std::vector<float> lowest = {-INFINITY, -1e30f};
  EXPECT_EQ(ArgMax(lowest.data(), 2), 1);
}

TEST(SampleTest, ArgMaxIsThatOfAPlainLoop) {
  if (!CpuHasAvx2()) GTEST_SKIP() << "one form only";
  std::mt19937_64 random(20);
  for (size_t count : {0, 1, 7, 8, 9, 31, 32, 33, 100, 1000, 4099}) {
    for (int i = 0; i < 200; ++i) {
      std::vector<float> logits(count);
      // Few values, so that equals are common.
      for (float& logit : logits) logit = static_cast<float>(random() % (i % 2 ? 5 : 1000)) - 700;
      if (count > 0 && i % 4 == 0) {
        const float broken[] = {std::nanf(""), INFINITY, -INFINITY, -0.0f};
        logits[random() % count] = broken[random() % 4];
      }
      ASSERT_EQ(ArgMaxAvx2(logits.data(), count), ArgMaxRef(logits.data(), count))
          << count << " logits, turn " << i;
    }
  }
}

TEST(SampleTest, BrokenLogitsAreReported) {
  std::mt19937_64 random(1);
  EXPECT_EQ(Draw({}, 0, 1, random), -1);
  EXPECT_EQ(Draw({1, std::nanf(""), 2}, 0, 1, random), -1);
  EXPECT_EQ(Draw({std::nanf(""), 2}, 1, 1, random), -1);
  EXPECT_EQ(Draw({1, INFINITY}, 1, 1, random), -1);
  EXPECT_EQ(Draw({-INFINITY, -INFINITY}, 1, 1, random), -1);
}

TEST(SampleTest, TemperatureZeroIsGreedy) {
  std::mt19937_64 random(1);
  for (int i = 0; i < 20; ++i) EXPECT_EQ(Draw({0, 3, 2.99f}, 0, 0.1f, random), 1);
}

TEST(SampleTest, DrawsFollowTheSoftmax) {
  std::mt19937_64 random(99);  // fixed: the counts below are a property of this stream
  const std::vector<float> logits = {std::log(1.0f), std::log(2.0f), std::log(5.0f), -INFINITY};
  std::map<int32_t, int> counts;
  constexpr int kDraws = 20000;
  for (int i = 0; i < kDraws; ++i) ++counts[Draw(logits, 1.0f, 1.0f, random)];
  EXPECT_NEAR(counts[0] / double{kDraws}, 0.125, 0.015);
  EXPECT_NEAR(counts[1] / double{kDraws}, 0.25, 0.015);
  EXPECT_NEAR(counts[2] / double{kDraws}, 0.625, 0.015);
  EXPECT_EQ(counts[3], 0);

  counts.clear();  // temperature 0.5 squares the odds: 1 : 4 : 25
  for (int i = 0; i < kDraws; ++i) ++counts[Draw(logits, 0.5f, 1.0f, random)];
  EXPECT_NEAR(counts[1] / double{kDraws}, 4.0 / 30, 0.015);
}

TEST(SampleTest, TopPKeepsTheFewestThatReachIt) {
  std::mt19937_64 random(99);
  const std::vector<float> logits = {std::log(1.0f), std::log(2.0f), std::log(5.0f)};
  std::map<int32_t, int> counts;
  for (int i = 0; i < 2000; ++i)
    ++counts[Draw(logits, 1.0f, 0.7f, random)];  // 0.625 < 0.7 <= 0.875
  EXPECT_EQ(counts[0], 0);
  EXPECT_GT(counts[1], 0);
  EXPECT_GT(counts[2], counts[1]);
  for (int i = 0; i < 200; ++i) EXPECT_EQ(Draw(logits, 1.0f, 0.0f, random), 2);
}

TEST(SampleTest, SameSeedSameTokens) {
  std::mt19937_64 a(5), b(5);
  const std::vector<float> logits = {1, 1.1f, 0.9f, 1.2f};
  for (int i = 0; i < 100; ++i)
    EXPECT_EQ(Draw(logits, 0.8f, 0.95f, a), Draw(logits, 0.8f, 0.95f, b));
}

}  // namespace
}  // namespace msadb::kernels
