#include "index/routing_index.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "tests/index/index_test_util.h"

namespace msadb::index {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

// One layer of 2 floats: keys are easy to write down.
IndexConfig Tiny() {
  IndexConfig config;
  config.n_layers = 1;
  config.dim = 2;
  config.segment_rows_min = 4;
  config.segment_rows_max = 8;
  return config;
}

std::unique_ptr<RoutingIndex> Make(const IndexConfig& config) {
  auto index = RoutingIndex::Create(config);
  EXPECT_TRUE(index.ok()) << index.status().ToString();
  return std::move(index).value();
}

Status Put(RoutingIndex& index, DocumentNumber number, std::vector<float> keys) {
  const size_t row = index.config().n_layers * index.config().dim;
  const DocumentKeys insert{number, static_cast<uint32_t>(keys.size() / row), keys.data()};
  auto change = index.Prepare({&insert, 1}, {});
  if (!change.ok()) return change.status();
  change->Publish();
  return Status::Ok();
}

Status Remove(RoutingIndex& index, DocumentNumber number) {
  auto change = index.Prepare({}, {&number, 1});
  if (!change.ok()) return change.status();
  change->Publish();
  return Status::Ok();
}

std::vector<DocumentNumber> Found(const Snapshot& snapshot, std::vector<float> queries, size_t k,
                                  const Selection* selection = nullptr) {
  auto result = snapshot.Search(0, queries.data(), queries.size() / 2, k, selection);
  EXPECT_TRUE(result.ok()) << result.status().ToString();
  std::vector<DocumentNumber> numbers;
  for (const RoutedDocument& document : *result) numbers.push_back(document.number);
  return numbers;
}

class BothEngines : public ::testing::TestWithParam<Engine> {
 protected:
  IndexConfig TinyConfig() const {
    IndexConfig config = Tiny();
    config.engine = GetParam();
    return config;
  }
};
INSTANTIATE_TEST_SUITE_P(Engines, BothEngines, ::testing::Values(Engine::kFused, Engine::kFaiss),
                         [](const auto& info) {
                           return info.param == Engine::kFused ? "Fused" : "Faiss";
                         });

TEST_P(BothEngines, EmptyIndexFindsNothing) {
  auto index = Make(TinyConfig());
  EXPECT_THAT(Found(index->TakeSnapshot(), {1, 0}, 3), IsEmpty());
  EXPECT_THAT(Found(Snapshot(), {1, 0}, 3), IsEmpty());
  EXPECT_EQ(index->TakeSnapshot().document_count(), 0u);
  EXPECT_TRUE(index->Compact().ok());
}

TEST_P(BothEngines, RanksByTheBestTokenAndChunk) {
  auto index = Make(TinyConfig());
  ASSERT_TRUE(Put(*index, 1, {1, 0, 0, 3}).ok());  // second chunk answers the second token
  ASSERT_TRUE(Put(*index, 2, {2, 0}).ok());
  ASSERT_TRUE(Put(*index, 3, {-1, -1}).ok());
  const Snapshot snapshot = index->TakeSnapshot();
  const std::vector<float> queries = {1, 0, 0, 1};
  const auto result = snapshot.Search(0, queries.data(), 2, 10);
  ASSERT_TRUE(result.ok());
  EXPECT_THAT(*result, ElementsAre(RoutedDocument{1, 3.0f}, RoutedDocument{2, 2.0f},
                                   RoutedDocument{3, -1.0f}));
  EXPECT_THAT(Found(snapshot, queries, 1), ElementsAre(1));
  EXPECT_THAT(Found(snapshot, queries, 0), IsEmpty());
  EXPECT_THAT(Found(snapshot, {}, 3), IsEmpty());
}

TEST_P(BothEngines, EqualScoresGoByAscendingNumber) {
  auto index = Make(TinyConfig());
  for (const DocumentNumber number : {9, 3, 7, 1, 5, 8, 2}) {
    ASSERT_TRUE(Put(*index, number, {1, 1}).ok());
  }
  EXPECT_THAT(Found(index->TakeSnapshot(), {1, 2}, 4), ElementsAre(1, 2, 3, 5));
}

TEST_P(BothEngines, ScoresDoNotDependOnPlacement) {
  // The same key in odd places of several segments: BLAS may round each place its own way.
  IndexConfig config = TinyConfig();
  config.dim = 67;
  config.segment_rows_min = 3;
  config.segment_rows_max = 301;
  auto index = Make(config);
  std::mt19937_64 rng(5);
  const std::vector<float> twin = RandomFloats(rng, config.dim, Values::kGaussian);
  const std::vector<float> queries = RandomFloats(rng, 9 * config.dim, Values::kGaussian);
  for (DocumentNumber number = 1; number <= 700; ++number) {
    ASSERT_TRUE(Put(*index, number,
                    number % 9 == 0 ? twin : RandomFloats(rng, config.dim, Values::kGaussian))
                    .ok());
  }
  const auto result = index->TakeSnapshot().Search(0, queries.data(), 9, 700);
  ASSERT_TRUE(result.ok());
  ASSERT_EQ(result->size(), 700u);
  std::set<float> twin_scores;
  for (const RoutedDocument& document : *result) {
    if (document.number % 9 == 0) twin_scores.insert(document.score);
  }
  EXPECT_EQ(twin_scores.size(), 1u);
}

TEST_P(BothEngines, SelectionLimitsTheSearch) {
  auto index = Make(TinyConfig());
  for (DocumentNumber number = 1; number <= 20; ++number) {
    ASSERT_TRUE(Put(*index, number, {static_cast<float>(number), 0}).ok());
  }
  ASSERT_TRUE(Remove(*index, 12).ok());
  const Snapshot snapshot = index->TakeSnapshot();
  const std::vector<DocumentNumber> allowed = {12, 4, 15, 4, 999, 0};
  auto selection = snapshot.Select(allowed);
  ASSERT_TRUE(selection.ok());
  EXPECT_EQ(selection->document_count(), 2u);
  EXPECT_THAT(Found(snapshot, {1, 0}, 10, &*selection), ElementsAre(15, 4));
  auto none = snapshot.Select({});
  ASSERT_TRUE(none.ok());
  EXPECT_THAT(Found(snapshot, {1, 0}, 10, &*none), IsEmpty());
}

TEST(RoutingIndexTest, RefusesASelectionOfAnotherSnapshot) {
  auto index = Make(Tiny());
  ASSERT_TRUE(Put(*index, 1, {1, 0}).ok());
  const std::vector<DocumentNumber> allowed = {1};
  auto selection = index->TakeSnapshot().Select(allowed);
  ASSERT_TRUE(selection.ok());
  ASSERT_TRUE(Put(*index, 2, {1, 0}).ok());
  const std::vector<float> query = {1, 0};
  const auto result = index->TakeSnapshot().Search(0, query.data(), 1, 1, &*selection);
  EXPECT_EQ(result.status().code(), StatusCode::kInvalidArgument);
  const Selection unset;
  EXPECT_FALSE(index->TakeSnapshot().Search(0, query.data(), 1, 1, &unset).ok());
}

TEST(RoutingIndexTest, RefusesBadQueries) {
  auto index = Make(Tiny());
  ASSERT_TRUE(Put(*index, 1, {1, 0}).ok());
  const Snapshot snapshot = index->TakeSnapshot();
  std::vector<float> query = {1, 0};
  EXPECT_EQ(snapshot.Search(1, query.data(), 1, 1).status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(snapshot.Search(-1, query.data(), 1, 1).status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(snapshot.Search(0, nullptr, 1, 1).status().code(), StatusCode::kInvalidArgument);
  for (const float bad : {std::nanf(""), std::numeric_limits<float>::infinity(), 1e30f}) {
    query[1] = bad;
    EXPECT_EQ(snapshot.Search(0, query.data(), 1, 1).status().code(), StatusCode::kInvalidArgument)
        << bad;
  }
}

TEST(RoutingIndexTest, RefusesBadSettings) {
  const auto refused = [](auto change) {
    IndexConfig config = Tiny();
    change(config);
    return RoutingIndex::Create(config).status().code() == StatusCode::kInvalidArgument;
  };
  EXPECT_TRUE(refused([](IndexConfig& c) { c.n_layers = 0; }));
  EXPECT_TRUE(refused([](IndexConfig& c) { c.n_layers = 1025; }));
  EXPECT_TRUE(refused([](IndexConfig& c) { c.dim = 0; }));
  EXPECT_TRUE(refused([](IndexConfig& c) { c.segment_rows_min = 0; }));
  EXPECT_TRUE(refused([](IndexConfig& c) { c.segment_rows_max = 3; }));
  EXPECT_TRUE(refused([](IndexConfig& c) { c.segment_rows_max = size_t{1} << 40; }));
  EXPECT_TRUE(refused([](IndexConfig& c) { c.key_type = static_cast<KeyType>(2); }));
  EXPECT_TRUE(refused([](IndexConfig& c) { c.compact_dead_fraction = 0; }));
  EXPECT_TRUE(refused([](IndexConfig& c) { c.compact_dead_fraction = std::nan(""); }));
}

TEST(RoutingIndexTest, FaissOnAGpuHasNoInt8Keys) {
  IndexConfig config = Tiny();
  config.engine = Engine::kFaiss;
  config.key_type = KeyType::kInt8;
  EXPECT_TRUE(RoutingIndex::Create(config).ok());
  config.devices = {0};
  const Status refused = RoutingIndex::Create(config).status();
  EXPECT_EQ(refused.code(), StatusCode::kUnsupported);
  EXPECT_THAT(std::string(refused.message()), HasSubstr("kInt8; use Engine::kFused"));
}

TEST_P(BothEngines, Int8KeysAreSearchedAsTheyWereRounded) {
  IndexConfig config = TinyConfig();
  auto exact = Make(config);
  config.key_type = KeyType::kInt8;
  auto rounded = Make(config);
  for (RoutingIndex* index : {exact.get(), rounded.get()}) {
    // 0.1 and 0.2 are less than half of a step of the row of 127, and 0.6 more.
    ASSERT_TRUE(Put(*index, 1, {127, 0.1f}).ok());
    ASSERT_TRUE(Put(*index, 2, {127, 0.2f, -127, 0.6f}).ok());
    ASSERT_TRUE(Put(*index, 3, {0, 0}).ok());
  }
  const std::vector<float> query = {0, 1};
  const auto found = [&](const RoutingIndex& index) {
    return *index.TakeSnapshot().Search(0, query.data(), 1, 3);
  };
  EXPECT_THAT(found(*exact),
              ElementsAre(RoutedDocument{2, 0.6f}, RoutedDocument{1, 0.1f}, RoutedDocument{3, 0}));
  EXPECT_THAT(found(*rounded),
              ElementsAre(RoutedDocument{2, 1}, RoutedDocument{1, 0}, RoutedDocument{3, 0}));
  EXPECT_THAT(*rounded->TakeSnapshot().Keys(2), ElementsAre(127, 0, -127, 1));
  // Host memory holds float32 either way, and what was rounded stays when it is copied.
  EXPECT_EQ(rounded->Stats().bytes_used, exact->Stats().bytes_used);
  ASSERT_TRUE(Remove(*rounded, 1).ok());
  ASSERT_TRUE(rounded->Compact().ok());
  EXPECT_THAT(*rounded->TakeSnapshot().Keys(2), ElementsAre(127, 0, -127, 1));
}

TEST(RoutingIndexTest, AFailedPrepareChangesNothing) {
  auto index = Make(Tiny());
  ASSERT_TRUE(Put(*index, 1, {1, 0}).ok());
  ASSERT_TRUE(Put(*index, 2, {2, 0}).ok());
  const std::vector<float> good = {3, 0};
  const std::vector<float> nan = {3, std::nanf("")};
  const std::vector<float> huge = {3, 1e30f};

  const auto code = [&](std::vector<DocumentKeys> inserts, std::vector<DocumentNumber> deletes) {
    return index->Prepare(inserts, deletes).status().code();
  };
  EXPECT_EQ(code({{3, 1, good.data()}, {1, 1, good.data()}}, {}), StatusCode::kAlreadyExists);
  EXPECT_EQ(code({{3, 1, good.data()}}, {2, 7}), StatusCode::kNotFound);
  EXPECT_EQ(code({{3, 1, good.data()}, {3, 1, good.data()}}, {}), StatusCode::kInvalidArgument);
  EXPECT_EQ(code({{3, 1, good.data()}}, {3}), StatusCode::kInvalidArgument);
  EXPECT_EQ(code({}, {2, 2}), StatusCode::kInvalidArgument);
  EXPECT_EQ(code({{3, 0, good.data()}}, {2}), StatusCode::kInvalidArgument);
  EXPECT_EQ(code({{3, UINT32_MAX, good.data()}}, {}), StatusCode::kInvalidArgument);
  EXPECT_EQ(code({{3, 1, nullptr}}, {}), StatusCode::kInvalidArgument);
  EXPECT_EQ(code({{3, 1, nan.data()}}, {2}), StatusCode::kInvalidArgument);
  EXPECT_EQ(code({{3, 1, huge.data()}}, {2}), StatusCode::kInvalidArgument);

  const Snapshot snapshot = index->TakeSnapshot();
  EXPECT_THAT(*snapshot.Numbers(), ElementsAre(1, 2));
  EXPECT_THAT(Found(snapshot, {1, 0}, 9), ElementsAre(2, 1));
  EXPECT_EQ(index->Stats().dead_documents, 0u);
}

TEST(RoutingIndexTest, NothingIsVisibleBeforePublishAndDroppingForgets) {
  auto index = Make(Tiny());
  ASSERT_TRUE(Put(*index, 1, {1, 0}).ok());
  const std::vector<float> keys = {5, 0};
  const DocumentKeys insert{2, 1, keys.data()};
  const DocumentNumber doomed = 1;
  {
    auto change = index->Prepare({&insert, 1}, {&doomed, 1});
    ASSERT_TRUE(change.ok());
    EXPECT_THAT(Found(index->TakeSnapshot(), {1, 0}, 9), ElementsAre(1));
  }
  EXPECT_THAT(Found(index->TakeSnapshot(), {1, 0}, 9), ElementsAre(1));
  auto change = index->Prepare({&insert, 1}, {&doomed, 1});
  ASSERT_TRUE(change.ok());
  const Snapshot before = index->TakeSnapshot();
  Change moved = std::move(change).value();
  moved.Publish();
  moved.Publish();
  EXPECT_THAT(Found(before, {1, 0}, 9), ElementsAre(1));
  EXPECT_THAT(Found(index->TakeSnapshot(), {1, 0}, 9), ElementsAre(2));
  EXPECT_EQ(*index->TakeSnapshot().Keys(2), keys);
}

TEST(RoutingIndexTest, TheMemoryLimitHolds) {
  IndexConfig config = Tiny();
  config.bytes_max = 100;  // 20 bytes a document of one chunk
  auto index = Make(config);
  for (DocumentNumber number = 1; number <= 5; ++number) {
    ASSERT_TRUE(Put(*index, number, {1, 0}).ok());
  }
  EXPECT_EQ(index->Stats().bytes_used, 100u);
  const Status refused = Put(*index, 6, {1, 0});
  EXPECT_EQ(refused.code(), StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(refused.message()), HasSubstr("compact"));
  ASSERT_TRUE(Remove(*index, 3).ok());
  EXPECT_EQ(Put(*index, 6, {1, 0}).code(), StatusCode::kResourceExhausted);
  ASSERT_TRUE(index->Compact().ok());
  EXPECT_TRUE(Put(*index, 6, {1, 0}).ok());
}

TEST(RoutingIndexTest, ADocumentLargerThanASegmentFits) {
  auto index = Make(Tiny());
  std::vector<float> keys(2 * 1000, 0.5f);
  ASSERT_TRUE(Put(*index, 1, {1, 0}).ok());
  ASSERT_TRUE(Put(*index, 2, keys).ok());
  ASSERT_TRUE(Put(*index, 3, {0, 1}).ok());
  EXPECT_EQ(*index->TakeSnapshot().Keys(2), keys);
  EXPECT_THAT(Found(index->TakeSnapshot(), {1, 1}, 3), ElementsAre(1, 2, 3));
  EXPECT_EQ(index->TakeSnapshot().chunk_count(), 1002u);
}

TEST(RoutingIndexTest, CompactionFreesDeletedKeysOnceNoSnapshotHoldsThem) {
  IndexConfig config = Tiny();
  config.segment_rows_max = 4;
  auto index = Make(config);
  for (DocumentNumber number = 1; number <= 40; ++number) {
    ASSERT_TRUE(Put(*index, number, {static_cast<float>(number), 1}).ok());
  }
  const size_t reserved = index->Stats().bytes_reserved;
  Snapshot old = index->TakeSnapshot();
  for (DocumentNumber number = 1; number <= 36; ++number) {
    ASSERT_TRUE(Remove(*index, number).ok());
  }
  ASSERT_TRUE(index->Compact().ok());
  IndexStats stats = index->Stats();
  EXPECT_EQ(stats.documents, 4u);
  EXPECT_EQ(stats.dead_documents, 0u);
  EXPECT_EQ(stats.dead_chunks, 0u);
  EXPECT_EQ(stats.segments, 1u);
  EXPECT_GE(stats.bytes_reserved, reserved);
  EXPECT_THAT(Found(old, {-1, 0}, 3), ElementsAre(1, 2, 3));
  EXPECT_EQ(*old.Keys(7), (std::vector<float>{7, 1}));
  old = Snapshot();
  EXPECT_LT(index->Stats().bytes_reserved, reserved / 5);
  EXPECT_THAT(Found(index->TakeSnapshot(), {1, 0}, 9), ElementsAre(40, 39, 38, 37));
}

TEST(RoutingIndexTest, CompactIfNeededWaitsForTheThreshold) {
  IndexConfig config = Tiny();
  config.segment_rows_min = config.segment_rows_max = 10;
  auto index = Make(config);
  for (DocumentNumber number = 1; number <= 20; ++number) {
    ASSERT_TRUE(Put(*index, number, {1, 0}).ok());
  }
  for (DocumentNumber number = 1; number <= 4; ++number) {
    ASSERT_TRUE(Remove(*index, number).ok());
  }
  ASSERT_TRUE(index->CompactIfNeeded().ok());
  EXPECT_EQ(index->Stats().dead_documents, 4u);
  ASSERT_TRUE(Remove(*index, 5).ok());
  ASSERT_TRUE(index->CompactIfNeeded().ok());
  EXPECT_EQ(index->Stats().dead_documents, 0u);
  EXPECT_EQ(index->Stats().documents, 15u);
}

TEST(RoutingIndexTest, DeletingEverythingLeavesNothing) {
  auto index = Make(Tiny());
  for (DocumentNumber number = 1; number <= 30; ++number) {
    ASSERT_TRUE(Put(*index, number, {1, 0}).ok());
  }
  for (DocumentNumber number = 1; number <= 30; ++number) {
    ASSERT_TRUE(Remove(*index, number).ok());
  }
  ASSERT_TRUE(index->Compact().ok());
  const IndexStats stats = index->Stats();
  EXPECT_EQ(stats.segments, 0u);
  EXPECT_EQ(stats.bytes_used, 0u);
  EXPECT_EQ(stats.bytes_reserved, 0u);
  ASSERT_TRUE(Put(*index, 31, {1, 0}).ok());
  EXPECT_THAT(Found(index->TakeSnapshot(), {1, 0}, 9), ElementsAre(31));
}

TEST(RoutingIndexTest, ReservedMemoryStaysProportional) {
  IndexConfig config = Tiny();
  config.segment_rows_min = 16;
  config.segment_rows_max = 4096;
  auto index = Make(config);
  for (DocumentNumber number = 1; number <= 3000; ++number) {
    ASSERT_TRUE(Put(*index, number, {1, 0}).ok());
    const IndexStats stats = index->Stats();
    EXPECT_LE(stats.bytes_reserved, std::max<size_t>(16 * 20, 2 * stats.bytes_used + 20)) << number;
  }
  EXPECT_LE(index->Stats().segments, 10u);
}

TEST(RoutingIndexTest, ASnapshotOutlivesTheIndex) {
  auto index = Make(Tiny());
  ASSERT_TRUE(Put(*index, 1, {1, 0}).ok());
  const Snapshot snapshot = index->TakeSnapshot();
  index.reset();
  EXPECT_THAT(Found(snapshot, {1, 0}, 9), ElementsAre(1));
}

}  // namespace
}  // namespace msadb::index
