#include "kernels/attention.h"

#include <cmath>

#include "tests/kernels/kernel_test_util.h"

namespace msadb::kernels {
namespace {

struct Heads {
  size_t heads, kv_heads, head_dim;
};

// Runs one shape through the plain loops and through `fast`.
template <typename Fast>
void Compare(const Heads& shape, const std::vector<AttentionSegment>& segments,
             std::mt19937_64& random, const Fast& fast, float spread = 1.0f) {
  size_t queries = 0, keys = 0;
  for (const AttentionSegment& s : segments) {
    queries = std::max(queries, s.query_begin + s.query_count);
    keys = std::max(keys, s.key_begin + s.visible_before + s.query_count);
  }
  const size_t q_stride = shape.heads * shape.head_dim + 8;
  const size_t kv_stride = shape.kv_heads * shape.head_dim + 4;
  const size_t out_stride = shape.heads * shape.head_dim + 1;
  const std::vector<float> q = RandomFloats(queries * q_stride, random, spread);
  const std::vector<float> k = RandomFloats(keys * kv_stride, random);
  const std::vector<float> v = RandomFloats(keys * kv_stride, random);
  const std::vector<float> before = RandomFloats(queries * out_stride, random);
  GuardedFloats expected(before), got(before);
  AttentionParams p;
  p.q = q.data();
  p.q_stride = q_stride;
  p.k = k.data();
  p.v = v.data();
  p.kv_stride = kv_stride;
  p.out = expected.data();
  p.out_stride = out_stride;
  p.segments = segments.data();
  p.segment_count = segments.size();
  p.heads = shape.heads;
  p.kv_heads = shape.kv_heads;
  p.head_dim = shape.head_dim;
  p.scale = 1.0f / std::sqrt(static_cast<float>(shape.head_dim));
  AttentionRef(p);
  p.out = got.data();
  AttentionWorkspace workspace;
  fast(p, &workspace);
  // A score's rounding, relative to its magnitude of about `spread`, is what the softmax amplifies.
  const float tolerance = 3e-6f * spread;
  ExpectClose(got.data(), expected.data(), got.size(), tolerance);  // gaps between rows included
  got.ExpectGuardsIntact();
}

const std::vector<Heads>& HeadShapes() {
  static const std::vector<Heads> shapes = {{1, 1, 8},  {4, 2, 16},  {9, 3, 64}, {5, 1, 24},
                                            {2, 2, 40}, {8, 1, 128}, {3, 3, 6}};
  return shapes;
}

TEST(AttentionTest, PrefillMatchesReference) {
  constexpr uint64_t kSeed = 11;
  SCOPED_TRACE(kSeed);
  std::mt19937_64 random(kSeed);
  for (const Heads& shape : HeadShapes()) {
    // Around the tiles: 6 query rows, 16 keys, 128 keys; with and without a context before.
    for (size_t queries : {1, 2, 5, 6, 7, 16, 17, 130}) {
      for (size_t before : {0, 1, 15, 16, 127, 128, 300}) {
        if (queries * before > 5000) continue;
        SCOPED_TRACE(testing::Message()
                     << shape.heads << "/" << shape.kv_heads << " heads of " << shape.head_dim
                     << ", " << queries << " queries after " << before);
        Compare(shape, {{0, queries, 0, before}}, random,
                [](const AttentionParams& p, AttentionWorkspace* w) { AttentionPrefill(p, 2, w); });
        if (testing::Test::HasFatalFailure()) return;
      }
    }
  }
}

TEST(AttentionTest, PackedDocumentsSeeOnlyThemselves) {
  constexpr uint64_t kSeed = 12;
  SCOPED_TRACE(kSeed);
  std::mt19937_64 random(kSeed);
  for (const Heads& shape : HeadShapes()) {
    std::vector<AttentionSegment> segments;
    size_t begin = 0;
    for (size_t length : {1, 0, 17, 129, 2, 64}) {
      segments.push_back({begin, length, begin, 0});
      begin += length;
    }
    Compare(shape, segments, random,
            [](const AttentionParams& p, AttentionWorkspace* w) { AttentionPrefill(p, 2, w); });
    // No segment at all is no work.
    Compare(shape, {}, random,
            [](const AttentionParams& p, AttentionWorkspace* w) { AttentionPrefill(p, 2, w); });
  }
}

TEST(AttentionTest, LargeScoresDoNotOverflow) {
  constexpr uint64_t kSeed = 13;
  SCOPED_TRACE(kSeed);
  std::mt19937_64 random(kSeed);
  const auto prefill = [](const AttentionParams& p, AttentionWorkspace* w) {
    AttentionPrefill(p, 1, w);
  };
  const auto decode = [](const AttentionParams& p, AttentionWorkspace* w) {
    AttentionDecode({&p, 1}, 1, w);
  };
  Compare({4, 2, 32}, {{0, 40, 0, 150}}, random, prefill, 300.0f);
  Compare({4, 2, 32}, {{0, 1, 0, 150}}, random, decode, 300.0f);
}

TEST(AttentionTest, DecodeMatchesReference) {
  constexpr uint64_t kSeed = 14;
  SCOPED_TRACE(kSeed);
  std::mt19937_64 random(kSeed);
  for (const Heads& shape : HeadShapes()) {
    for (size_t before : {0, 1, 6, 7, 8, 63, 500}) {
      SCOPED_TRACE(testing::Message() << shape.heads << "/" << shape.kv_heads << " heads of "
                                      << shape.head_dim << ", context " << before);
      // Two sequences in one call, the second with its own keys and an empty one between.
      Compare(shape, {{0, 1, 0, before}, {1, 0, 0, 0}, {1, 1, before + 1, before / 2}}, random,
              [](const AttentionParams& p, AttentionWorkspace* w) { AttentionDecode({&p, 1}, 2, w); });
      if (testing::Test::HasFatalFailure()) return;
    }
  }
}

TEST(AttentionTest, RandomShapesMatchReference) {
  const uint64_t seed = std::random_device{}();
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937_64 random(seed);
  for (int i = 0; i < 40; ++i) {
    const size_t kv_heads = 1 + random() % 4;
    const Heads shape{kv_heads * (1 + random() % 4), kv_heads, 2 * (1 + random() % 40)};
    std::vector<AttentionSegment> segments;
    size_t query = 0, key = 0;
    const size_t count = random() % 4;
    for (size_t s = 0; s < count; ++s) {
      const AttentionSegment segment{query, random() % 70, key, random() % 200};
      query += segment.query_count;
      key += segment.visible_before + segment.query_count;
      segments.push_back(segment);
    }
    Compare(shape, segments, random,
            [](const AttentionParams& p, AttentionWorkspace* w) { AttentionPrefill(p, 2, w); });
    if (testing::Test::HasFatalFailure()) return;
  }
}

}  // namespace
}  // namespace msadb::kernels
