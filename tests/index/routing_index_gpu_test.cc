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

class GpuIndexTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!HaveGpu()) GTEST_SKIP() << "no GPU";
  }
  void TearDown() override { internal::SetDeviceAllocationHook(nullptr); }
};

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

TEST_F(GpuIndexTest, RefusesWhatFloat16CannotHold) {
  IndexConfig config;
  config.n_layers = 1;
  config.dim = 2;
  config.devices = {0};
  auto index = Make(config);
  TestDocument document{1, {1, 70000}};
  EXPECT_EQ(Put(*index, {{1, document}}).code(), StatusCode::kInvalidArgument);
  config.dim = 1025;
  EXPECT_EQ(RoutingIndex::Create(config).status().code(), StatusCode::kInvalidArgument);
}

TEST_F(GpuIndexTest, AgreesWithTheCpuAtSize) {
  IndexConfig config;
  config.n_layers = 2;
  config.dim = 192;
  std::mt19937_64 rng(TestSeed(11));
  TestMemory memory;
  IndexConfig gpu_config = config;
  gpu_config.devices = {0};
  for (DocumentNumber number = 1; number <= 6000; ++number) {
    memory[number] = RandomDocument(rng, gpu_config, 6, Values::kGaussian);
  }
  auto cpu = Make(config);
  auto one = Make(gpu_config);
  gpu_config.devices = TwoShards();
  auto two = Make(gpu_config);
  for (RoutingIndex* index : {cpu.get(), one.get(), two.get()}) {
    ASSERT_TRUE(Put(*index, memory).ok());
  }
  for (const size_t n_tokens : {1, 8, 64, 100}) {
    for (const size_t k : {1, 16, 64, 200}) {
      const auto queries = RandomFloats(rng, n_tokens * config.dim, Values::kGaussian);
      const auto expected = Search(*cpu, 1, queries, k);
      ASSERT_EQ(expected.size(), k);
      EXPECT_EQ(Search(*one, 1, queries, k), expected) << n_tokens << " tokens, k " << k;
      EXPECT_EQ(Search(*two, 1, queries, k), expected) << n_tokens << " tokens, k " << k;
    }
  }
}

std::atomic<int> allocations_left{0};
bool Limited(size_t) { return allocations_left.fetch_sub(1) > 0; }

TEST_F(GpuIndexTest, RunningOutOfMemoryChangesNothing) {
  IndexConfig config;
  config.n_layers = 3;
  config.dim = 64;
  config.segment_rows_min = 64;
  config.devices = TwoShards();
  std::mt19937_64 rng(TestSeed(12));
  auto index = Make(config);
  TestMemory memory;
  for (DocumentNumber number = 1; number <= 30; ++number) {
    memory[number] = RandomDocument(rng, config, 4, Values::kGaussian);
  }
  ASSERT_TRUE(Put(*index, memory).ok());
  TestMemory more;
  for (DocumentNumber number = 31; number <= 40'000; ++number) {
    more[number] = RandomDocument(rng, config, 4, Values::kGaussian);
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

TEST_F(GpuIndexTest, ReadersSeeWholeVersionsWhileAWriterWrites) {
  IndexConfig config;
  config.n_layers = 1;
  config.dim = 32;
  config.segment_rows_min = 16;
  config.segment_rows_max = 256;
  config.devices = TwoShards();
  auto index = Make(config);
  // Document n scores n for the query: the best of a version are its newest.
  std::atomic<bool> done{false};
  std::atomic<int> searches{0};
  std::vector<std::jthread> readers;
  for (int r = 0; r < 3; ++r) {
    readers.emplace_back([&] {
      std::vector<float> query(32);
      query[0] = 1;
      while (!done) {
        const Snapshot snapshot = index->TakeSnapshot();
        const auto numbers = snapshot.Numbers();
        const auto found = snapshot.Search(0, query.data(), 1, 5);
        ASSERT_TRUE(found.ok()) << found.status().ToString();
        ASSERT_EQ(found->size(), std::min<size_t>(5, numbers->size()));
        for (size_t i = 0; i < found->size(); ++i) {
          ASSERT_EQ((*found)[i].number, (*numbers)[numbers->size() - 1 - i]);
          ASSERT_EQ((*found)[i].score, static_cast<float>((*found)[i].number));
        }
        ++searches;
      }
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
