// What an index on GPUs does beyond the common contract: memory that runs out, agreement with the
// CPU at size, several shards, concurrent readers and writers. Skipped where there is no GPU.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "index/device_memory.h"
#include "index/routing_index.h"
#include "tests/index/index_test_util.h"

namespace msadb::index {
namespace {

class GpuIndexTest : public ::testing::TestWithParam<KeyType> {
 protected:
  void SetUp() override {
    if (!HaveGpu()) GTEST_SKIP() << "no GPU";
    const Status can = RoutingIndex::Create(Config(1, 16, {0})).status();
    if (can.code() == StatusCode::kUnsupported) GTEST_SKIP() << can.ToString();
  }
  IndexConfig Config(int n_layers, size_t dim, std::vector<int> devices) const {
    IndexConfig config;
    config.n_layers = n_layers;
    config.dim = dim;
    config.key_type = GetParam();
    config.devices = std::move(devices);
    return config;
  }
  void TearDown() override { internal::SetDeviceAllocationHook(nullptr); }
};

INSTANTIATE_TEST_SUITE_P(KeyTypes, GpuIndexTest, ::testing::Values(KeyType::kFloat, KeyType::kInt8),
                         [](const auto& info) { return NameOf(info.param); });

std::unique_ptr<RoutingIndex> Make(const IndexConfig& config) {
  auto index = RoutingIndex::Create(config);
  EXPECT_TRUE(index.ok()) << index.status().ToString();
  return std::move(index).value();
}

Status Put(RoutingIndex& index, const TestMemory& documents) {
  std::vector<DocumentKeys> keys;
  for (const auto& [number, document] : documents) keys.push_back(KeysOf(number, document));
  auto change = index.Prepare(keys, {});
  if (!change.ok()) return change.status();
  change->Publish();
  return Status::Ok();
}

std::vector<RoutedDocument> Search(const RoutingIndex& index, int layer,
                                   const std::vector<float>& queries, size_t k) {
  auto found =
      index.TakeSnapshot().Search(layer, queries.data(), queries.size() / index.config().dim, k);
  EXPECT_TRUE(found.ok()) << found.status().ToString();
  return found.ok() ? *found : std::vector<RoutedDocument>();
}

TEST(GpuIndexSettingsTest, RefusesAGpuThatIsNotThere) {
  IndexConfig config;
  config.n_layers = 1;
  config.dim = 16;
  config.devices = {4096};
  EXPECT_EQ(RoutingIndex::Create(config).status().code(), StatusCode::kUnsupported);
}

TEST_P(GpuIndexTest, RefusesWhatFloat16CannotHold) {
  auto index = Make(Config(1, 2, {0}));
  TestDocument document{1, {1, 70000}};
  // A row of int8 has a scale for it.
  EXPECT_EQ(Put(*index, {{1, document}}).code(),
            GetParam() == KeyType::kFloat ? StatusCode::kInvalidArgument : StatusCode::kOk);
  EXPECT_EQ(RoutingIndex::Create(Config(1, 1025, {0})).status().code(),
            StatusCode::kInvalidArgument);
}

TEST_P(GpuIndexTest, AgreesWithTheCpuAtSize) {
  const IndexConfig config = Config(2, 192, {});
  std::mt19937_64 rng(TestSeed(11));
  TestMemory memory;
  IndexConfig gpu_config = Config(2, 192, {0});
  for (DocumentNumber number = 1; number <= 6000; ++number) {
    memory[number] = RandomDocument(rng, gpu_config, 6, Values::kGaussian);
    // The CPU rounds to int8 by itself, to float16 never.
    if (GetParam() == KeyType::kFloat) RoundAsIndex(gpu_config, &memory[number]);
  }
  auto cpu = Make(config);
  auto one = Make(gpu_config);
  gpu_config.devices = TwoShards();
  auto two = Make(gpu_config);
  for (RoutingIndex* index : {cpu.get(), one.get(), two.get()}) {
    ASSERT_TRUE(Put(*index, memory).ok());
  }
  // One pass over the keys and two; best documents that the kernel selects and more than those.
  const std::pair<size_t, size_t> searches[] = {{1, 16},   {8, 1},     {64, 64}, {64, 16},
                                                {100, 16}, {100, 200}, {1, 200}};
  for (const auto& [n_tokens, k] : searches) {
    const auto queries = RandomFloats(rng, n_tokens * config.dim, Values::kGaussian);
    const auto expected = Search(*cpu, 1, queries, k);
    ASSERT_EQ(expected.size(), k);
    EXPECT_EQ(Search(*one, 1, queries, k), expected) << n_tokens << " tokens, k " << k;
    EXPECT_EQ(Search(*two, 1, queries, k), expected) << n_tokens << " tokens, k " << k;
  }
  for (const DocumentNumber number : {1, 2, 3000, 6000}) {
    const auto keys = cpu->TakeSnapshot().Keys(number);
    EXPECT_EQ(*one->TakeSnapshot().Keys(number), *keys) << number;
    EXPECT_EQ(*two->TakeSnapshot().Keys(number), *keys) << number;
  }
}

// Rows that int8 rounds in ways of their own: zeros, one large value, numbers far beyond float16's
// and far below, in rows that do not fill what the kernel copies at a time.
TEST_P(GpuIndexTest, OddRowsAgreeWithTheCpu) {
  for (const size_t dim : {1, 15, 17, 100, 130, 1024}) {
    const IndexConfig gpu_config = Config(1, dim, {0});
    std::mt19937_64 rng(TestSeed(13));
    TestMemory memory;
    for (DocumentNumber number = 1; number <= 300; ++number) {
      TestDocument document = RandomDocument(rng, gpu_config, 4, Values::kGaussian);
      for (uint32_t c = 0; c < document.n_chunks; ++c) {
        float* row = document.keys.data() + c * dim;
        switch (rng() % 5) {
          case 0:
            std::fill_n(row, dim, 0.0f);
            break;
          case 1:
            row[rng() % dim] = 1000;
            break;
          case 2:
            for (size_t i = 0; i < dim; ++i) row[i] *= GetParam() == KeyType::kInt8 ? 1e6f : 10.0f;
            break;
          case 3:
            for (size_t i = 0; i < dim; ++i) row[i] *= 1e-6f;
            break;
          default:
            break;
        }
      }
      if (GetParam() == KeyType::kFloat) RoundAsIndex(gpu_config, &document);
      memory[number] = std::move(document);
    }
    auto cpu = Make(Config(1, dim, {}));
    auto gpu = Make(gpu_config);
    ASSERT_TRUE(Put(*cpu, memory).ok());
    ASSERT_TRUE(Put(*gpu, memory).ok());
    for (const size_t n_tokens : {1, 7, 70}) {
      const auto queries = RandomFloats(rng, n_tokens * dim, Values::kGaussian);
      for (const size_t k : {1, 16, 300}) {
        EXPECT_EQ(Search(*gpu, 0, queries, k), Search(*cpu, 0, queries, k))
            << "dim " << dim << ", " << n_tokens << " tokens, k " << k;
      }
    }
  }
}

TEST_P(GpuIndexTest, StatsCountWhatARowTakes) {
  auto index = Make(Config(3, 100, {0}));
  std::mt19937_64 rng(TestSeed(14));
  TestMemory memory;
  for (DocumentNumber number = 1; number <= 10; ++number) {
    memory[number] = RandomDocument(rng, index->config(), 1, Values::kGaussian);
  }
  ASSERT_TRUE(Put(*index, memory).ok());
  // float16 rows are padded to 104 values, int8 rows to 112 and have a scale; 12 bytes a document.
  const size_t row = GetParam() == KeyType::kInt8 ? 112 + 4 : 2 * 104;
  EXPECT_EQ(index->Stats().bytes_used, 10 * (3 * row + 12));
}

std::atomic<int> allocations_left{0};
bool Limited(size_t) { return allocations_left.fetch_sub(1) > 0; }

TEST_P(GpuIndexTest, RunningOutOfMemoryChangesNothing) {
  IndexConfig config = Config(3, 64, TwoShards());
  config.segment_rows_min = 64;
  std::mt19937_64 rng(TestSeed(12));
  auto index = Make(config);
  TestMemory memory;
  for (DocumentNumber number = 1; number <= 30; ++number) {
    memory[number] = RandomDocument(rng, config, 4, Values::kGaussian);
    RoundAsIndex(config, &memory[number]);
  }
  ASSERT_TRUE(Put(*index, memory).ok());
  TestMemory more;
  for (DocumentNumber number = 31; number <= 40'000; ++number) {
    more[number] = RandomDocument(rng, config, 4, Values::kGaussian);
    RoundAsIndex(config, &more[number]);
  }
  const auto queries = RandomFloats(rng, 5 * config.dim, Values::kGaussian);
  const auto before = BruteForce(memory, config, 2, queries, 7, nullptr);
  ASSERT_EQ(Search(*index, 2, queries, 7), before);
  int refusals = 0;
  for (int allowed = 0;; ++allowed) {
    allocations_left = allowed;
    internal::SetDeviceAllocationHook(&Limited);
    const Status status = Put(*index, more);
    internal::SetDeviceAllocationHook(nullptr);
    if (status.ok()) break;
    ++refusals;
    ASSERT_EQ(status.code(), StatusCode::kResourceExhausted) << status.ToString();
    ASSERT_EQ(Search(*index, 2, queries, 7), before) << "after " << allowed << " allocations";
    ASSERT_EQ(index->Stats().documents, 30u);
  }
  EXPECT_GT(refusals, 2);
  memory.merge(more);
  EXPECT_EQ(Search(*index, 2, queries, 7), BruteForce(memory, config, 2, queries, 7, nullptr));

  const std::vector<DocumentNumber> doomed = {1, 2, 3};
  auto change = index->Prepare({}, doomed);
  ASSERT_TRUE(change.ok());
  change->Publish();
  for (const DocumentNumber number : doomed) memory.erase(number);
  const auto after = BruteForce(memory, config, 0, queries, 9, nullptr);
  allocations_left = 1;
  internal::SetDeviceAllocationHook(&Limited);
  EXPECT_EQ(index->Compact().code(), StatusCode::kResourceExhausted);
  internal::SetDeviceAllocationHook(nullptr);
  EXPECT_EQ(Search(*index, 0, queries, 9), after);
  EXPECT_TRUE(index->Compact().ok());
  EXPECT_EQ(Search(*index, 0, queries, 9), after);
}

TEST_P(GpuIndexTest, ReadersSeeWholeVersionsWhileAWriterWrites) {
  IndexConfig config = Config(1, 32, TwoShards());
  config.segment_rows_min = 16;
  config.segment_rows_max = 256;
  auto index = Make(config);
  // Document n scores n for the query, or the number that its int8 key is: the best of a version
  // are its newest.
  const float tolerance = GetParam() == KeyType::kInt8 ? 1e-4f : 0;
  std::atomic<bool> done{false};
  std::atomic<int> searches{0};
  std::vector<std::jthread> readers;
  for (int r = 0; r < 3; ++r) {
    readers.emplace_back([&] {
      std::vector<float> query(32);
      query[0] = 1;
      do {
        const Snapshot snapshot = index->TakeSnapshot();
        const auto numbers = snapshot.Numbers();
        const auto found = snapshot.Search(0, query.data(), 1, 5);
        ASSERT_TRUE(found.ok()) << found.status().ToString();
        ASSERT_EQ(found->size(), std::min<size_t>(5, numbers->size()));
        for (size_t i = 0; i < found->size(); ++i) {
          ASSERT_EQ((*found)[i].number, (*numbers)[numbers->size() - 1 - i]);
          const auto number = static_cast<float>((*found)[i].number);
          ASSERT_NEAR((*found)[i].score, number, number * tolerance);
        }
        ++searches;
      } while (!done);
    });
  }
  for (DocumentNumber number = 1; number <= 1500; ++number) {
    TestDocument document{1, std::vector<float>(32)};
    document.keys[0] = static_cast<float>(number);
    ASSERT_TRUE(Put(*index, {{number, document}}).ok());
    if (number % 4 == 0) {
      const DocumentNumber doomed = number - 2;
      auto change = index->Prepare({}, {&doomed, 1});
      ASSERT_TRUE(change.ok());
      change->Publish();
    }
    if (number % 250 == 0) {
      ASSERT_TRUE(index->Compact().ok());
    }
  }
  done = true;
  readers.clear();
  EXPECT_GT(searches, 0);
}

}  // namespace
}  // namespace msadb::index
