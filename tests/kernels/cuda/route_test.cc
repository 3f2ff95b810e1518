// The routing kernels against plain loops, on a GPU or on the emulated one.
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "kernels/route_topk_exact.h"
#include "tests/kernels/cuda/route_check.h"

namespace msadb::kernels {
namespace {

class RouteTest : public testing::TestWithParam<RouteKeyType> {
 protected:
  void SetUp() override {
    int devices = 0;
    if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
      (void)cudaGetLastError();
      GTEST_SKIP() << "no GPU here";
    }
    ASSERT_EQ(RouteTopKSupported(), 0);
  }

  RouteCase Case() const {
    RouteCase route;
    route.key_type = GetParam();
    return route;
  }
};

INSTANTIATE_TEST_SUITE_P(KeyTypes, RouteTest,
                         testing::Values(RouteKeyType::kFloat16, RouteKeyType::kInt8),
                         [](const auto& info) {
                           return info.param == RouteKeyType::kInt8 ? "Int8" : "Float16";
                         });

TEST_P(RouteTest, PackedColumnsAreAPermutation) {
  for (const int dim : {16, 128, 192, 1024}) {
    const int packed = RoutePackedDim(GetParam(), dim);
    ASSERT_GE(packed, dim);
    std::vector<int> columns;
    for (int i = 0; i < packed; ++i) columns.push_back(RoutePackedColumn(GetParam(), i));
    std::sort(columns.begin(), columns.end());
    std::vector<int> all(static_cast<size_t>(packed));
    std::iota(all.begin(), all.end(), 0);
    EXPECT_EQ(columns, all);
  }
}

TEST_P(RouteTest, ChunksAroundATile) {
  for (const size_t chunks : {1, 2, 63, 65, 127, 128, 129, 257}) {
    RouteCase route = Case();
    route.dim = 64;
    route.tokens = {9};
    route.top_k = 5;
    route.segments = {{chunks}};
    EXPECT_EQ(CheckRouting(route), "") << chunks << " chunks";
  }
}

TEST_P(RouteTest, Dimensions) {
  for (const int dim : {16, 48, 64, 80, 128, 144, 192, 400, 1008, 1024}) {
    RouteCase route = Case();
    route.dim = dim;
    route.tokens = {64};
    route.top_k = 16;
    route.segments = {{70, 3}};
    EXPECT_EQ(CheckRouting(route), "") << dim << " dimensions";
  }
}

TEST_P(RouteTest, TokensAndQuestions) {
  for (const std::vector<int>& tokens : {std::vector<int>{1},
                                         {7},
                                         {8},
                                         {33},
                                         {65},
                                         {200},
                                         {256},
                                         {9, 3},
                                         {20, 17, 8},
                                         {64},
                                         {1, 1, 1, 1, 1, 1, 1, 1},
                                         {1, 40}}) {
    RouteCase route = Case();
    route.dim = 192;
    route.tokens = tokens;
    route.top_k = 64;
    route.segments = {{50, 2}, {90, 2, RouteCase::Mask::kHalf}};
    EXPECT_EQ(CheckRouting(route), "") << testing::PrintToString(tokens) << " tokens";
  }
}

TEST_P(RouteTest, ManySegments) {
  RouteCase route = Case();
  route.dim = 32;
  route.top_k = 20;
  for (size_t s = 0; s < 2 * kRouteSegmentsMax + 3; ++s) {
    route.segments.push_back(
        {1 + s % 7, static_cast<uint32_t>(1 + s % 3), static_cast<RouteCase::Mask>(s % 5 % 3)});
  }
  EXPECT_EQ(CheckRouting(route), "");
}

TEST_P(RouteTest, NothingOrLittleIsAllowed) {
  RouteCase route = Case();
  route.top_k = 30;
  route.segments = {{100, 2, RouteCase::Mask::kNothingAllowed}};
  EXPECT_EQ(CheckRouting(route), "");
  route.segments.push_back({20, 2, RouteCase::Mask::kHalf});
  route.segments.push_back({300, 1, RouteCase::Mask::kNothingAllowed});
  EXPECT_EQ(CheckRouting(route), "");
}

TEST_P(RouteTest, LongDocuments) {
  RouteCase route = Case();
  route.dim = 16;
  route.top_k = 10;
  route.segments = {{9, 500}, {40, 100, RouteCase::Mask::kHalf}, {3, 2000}};
  EXPECT_EQ(CheckRouting(route), "");
}

TEST_P(RouteTest, MoreRowsThanThereIsRoomFor) {
  RouteCase route = Case();
  route.top_k = 64;
  route.segments = {{200, 2}};
  route.rows_capacity = 3;
  EXPECT_EQ(CheckRouting(route), "");
}

// Several lists for a warp of the merge.
TEST_P(RouteTest, ManyDocuments) {
  RouteCase route = Case();
  route.dim = 16;
  for (const int k : {1, 32, 64}) {
    route.top_k = k;
    route.segments = {{20'000}, {7'000, 1, RouteCase::Mask::kHalf}};
    EXPECT_EQ(CheckRouting(route), "") << "k " << k;
  }
}

// Several batches for a warp of the selection, the best ones for the same warp.
TEST_P(RouteTest, VeryManyDocuments) {
  RouteCase route = Case();
  route.dim = 16;
  route.top_k = 64;
  route.segments = {{250'000, 1, RouteCase::Mask::kNone, 192 * 16 * 64},
                    {7'000, 1, RouteCase::Mask::kHalf, 1000}};
  EXPECT_EQ(CheckRouting(route), "");
}

TEST_P(RouteTest, RandomShapes) {
  for (uint32_t seed = 1; seed <= 30; ++seed) {
    RouteCase route = RandomRouteCase(seed, /*small=*/true);
    if (route.key_type != GetParam()) continue;
    EXPECT_EQ(CheckRouting(route), "") << "seed " << seed;
  }
}

TEST_P(RouteTest, RefusesWhatItCannotDo) {
  RouteSegment segment;
  segment.n_chunks = segment.n_documents = 1;
  const float scale = 1;
  segment.scales = &scale;
  RouteParams p;
  p.key_type = GetParam();
  p.segments = &segment;
  p.n_segments = 1;
  p.dim = 64;
  p.columns.n_questions = 1;
  p.top_k = 1;
  p.n_scores = 1;
  const auto refused = [&](auto change) {
    RouteParams changed = p;
    change(changed);
    return RouteTopKCuda(changed, nullptr) == cudaErrorInvalidValue;
  };
  EXPECT_TRUE(refused([](RouteParams& c) { c.dim = 1032; }));
  EXPECT_TRUE(refused([](RouteParams& c) { c.dim = 0; }));
  EXPECT_TRUE(refused([](RouteParams& c) { c.dim = 12; }));
  EXPECT_TRUE(refused([](RouteParams& c) { c.top_k = kRouteTopKMax + 1; }));
  EXPECT_TRUE(refused([](RouteParams& c) { c.top_k = 0; }));
  EXPECT_TRUE(refused([](RouteParams& c) { c.n_segments = 0; }));
  EXPECT_TRUE(refused([](RouteParams& c) { c.n_scores = 0; }));
  EXPECT_TRUE(refused([](RouteParams& c) { c.columns.n_questions = kRouteQuestionsMax + 1; }));
  segment.first_document = 1;
  EXPECT_TRUE(refused([](RouteParams&) {}));
}

}  // namespace
}  // namespace msadb::kernels
