// Random histories of inserts, deletes, dropped changes and compactions; every search, through the
// present and through snapshots of the past, equals brute force bit for bit.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <iterator>
#include <optional>

#include "index/routing_index.h"
#include "tests/index/index_test_util.h"

namespace msadb::index {
namespace {

class History {
 public:
  // Without devices: an index in host memory, of either engine.
  explicit History(uint64_t seed, KeyType key_type, std::vector<int> devices = {},
                   std::optional<Engine> engine = std::nullopt)
      : rng_(seed) {
    config_.key_type = key_type;
    config_.n_layers = Uniform(1, 3);
    config_.dim = Pick({1, 2, 7, 16, 67, 192});
    config_.engine = Uniform(0, 1) ? Engine::kFused : Engine::kFaiss;
    if (!devices.empty() && Uniform(0, 3) == 0) config_.dim = Pick({8, 256, 1024});
    config_.devices = std::move(devices);
    if (engine) config_.engine = *engine;
    config_.segment_rows_min = Uniform(1, 40);
    config_.segment_rows_max = config_.segment_rows_min + Uniform(0, 600);
    config_.compact_dead_fraction = Uniform(1, 10) / 10.0;
    values_ = static_cast<Values>(Uniform(0, 2));
    chunks_max_ = static_cast<uint32_t>(Pick({1, 3, 12}));
    batch_max_ = Pick({1, 8, 120});
    auto index = RoutingIndex::Create(config_);
    EXPECT_TRUE(index.ok()) << index.status().ToString();
    index_ = std::move(index).value();
  }

  void Run(int n_steps) {
    for (int step = 0; step < n_steps && !::testing::Test::HasFailure(); ++step) {
      SCOPED_TRACE("step " + std::to_string(step));
      switch (Uniform(0, 9)) {
        case 0:
          ASSERT_TRUE(index_->Compact().ok());
          ASSERT_EQ(index_->Stats().dead_documents, 0u);
          break;
        case 1:
          ASSERT_TRUE(index_->CompactIfNeeded().ok());
          break;
        case 2:
          held_.push_back({index_->TakeSnapshot(), memory_});
          if (held_.size() > 4) held_.erase(held_.begin() + Uniform(0, 4));
          break;
        default:
          Commit();
      }
      CheckSnapshot(index_->TakeSnapshot(), memory_);
      if (!held_.empty()) {
        const Held& past = held_[Uniform(0, held_.size() - 1)];
        CheckSnapshot(past.snapshot, past.memory);
      }
    }
  }

 private:
  struct Held {
    Snapshot snapshot;
    TestMemory memory;
  };

  size_t Uniform(size_t low, size_t high) {
    return std::uniform_int_distribution<size_t>(low, high)(rng_);
  }
  size_t Pick(std::vector<size_t> values) { return values[Uniform(0, values.size() - 1)]; }

  void Commit() {
    TestMemory inserts;
    for (size_t n = Uniform(0, batch_max_); n > 0; --n) {
      // Sometimes out of order, as when a later transaction commits first.
      const DocumentNumber number = Uniform(0, 9) ? next_ += 3 : next_ - Uniform(1, 2);
      if (memory_.contains(number) || dead_.contains(number) || number > next_) continue;
      TestDocument document = RandomDocument(rng_, config_, chunks_max_, values_);
      if (!memory_.empty() && Uniform(0, 4) == 0) document = memory_.begin()->second;  // a twin
      inserts.emplace(number, std::move(document));
    }
    std::vector<DocumentNumber> deletes;
    const size_t odds = Uniform(1, 30);
    for (const auto& [number, document] : memory_) {
      if (Uniform(0, odds) == 0) deletes.push_back(number);
    }
    std::vector<DocumentKeys> keys;
    for (const auto& [number, document] : inserts) keys.push_back(KeysOf(number, document));
    std::shuffle(keys.begin(), keys.end(), rng_);
    auto change = index_->Prepare(keys, deletes);
    ASSERT_TRUE(change.ok()) << change.status().ToString();
    if (Uniform(0, 5) == 0) return;  // dropped
    change->Publish();
    for (const DocumentNumber number : deletes) {
      memory_.erase(number);
      dead_.insert(number);
    }
    for (auto& [number, document] : inserts) RoundAsIndex(config_, &document);
    memory_.merge(inserts);
  }

  void CheckSnapshot(const Snapshot& snapshot, const TestMemory& memory) {
    std::vector<DocumentNumber> numbers;
    uint64_t chunks = 0;
    for (const auto& [number, document] : memory) {
      numbers.push_back(number);
      chunks += document.n_chunks;
    }
    ASSERT_EQ(*snapshot.Numbers(), numbers);
    ASSERT_EQ(snapshot.document_count(), numbers.size());
    ASSERT_EQ(snapshot.chunk_count(), chunks);
    const DocumentNumber probe = Uniform(0, next_);
    ASSERT_EQ(snapshot.Contains(probe), memory.contains(probe));
    if (!memory.empty()) {
      const auto& [number, document] = *std::next(memory.begin(), Uniform(0, memory.size() - 1));
      ASSERT_EQ(*snapshot.Keys(number), document.keys);
    }

    const size_t n_tokens = Pick({0, 1, 2, 4, 5, 19, 20, 40, 64, 65, 130, 300});
    const std::vector<float> queries = RandomFloats(rng_, n_tokens * config_.dim, values_);
    const size_t k = Pick({0, 1, 2, 7, 16, 100, 100000});
    const int layer = static_cast<int>(Uniform(0, config_.n_layers - 1));
    std::optional<std::set<DocumentNumber>> allowed;
    std::optional<Selection> selection;
    if (Uniform(0, 1)) {
      const size_t odds = Pick({0, 1, 50});
      allowed.emplace();
      for (const DocumentNumber number : numbers) {
        if (Uniform(0, odds) == 0) allowed->insert(number);
      }
      allowed->insert(Uniform(0, next_ + 5));
      std::vector<DocumentNumber> list(allowed->begin(), allowed->end());
      if (Uniform(0, 1)) std::shuffle(list.begin(), list.end(), rng_);
      auto selected = snapshot.Select(list);
      ASSERT_TRUE(selected.ok());
      selection = *selected;
    }
    const auto result =
        snapshot.Search(layer, queries.data(), n_tokens, k, selection ? &*selection : nullptr);
    ASSERT_TRUE(result.ok()) << result.status().ToString();
    const auto expected =
        BruteForce(memory, config_, layer, queries, k, allowed ? &*allowed : nullptr);
    ASSERT_EQ(result->size(), expected.size());
    for (size_t i = 0; i < expected.size(); ++i) {
      ASSERT_EQ((*result)[i], expected[i])
          << "rank " << i << ": " << (*result)[i].number << " " << (*result)[i].score
          << ", expected " << expected[i].number << " " << expected[i].score << "; dim "
          << config_.dim << ", " << n_tokens << " tokens, k " << k;
    }
  }

  std::mt19937_64 rng_;
  IndexConfig config_;
  Values values_ = Values::kGaussian;
  uint32_t chunks_max_ = 1;
  size_t batch_max_ = 1;
  std::unique_ptr<RoutingIndex> index_;
  TestMemory memory_;  // as the index holds it
  std::set<DocumentNumber> dead_;
  std::vector<Held> held_;
  DocumentNumber next_ = 3;
};

class RoutingIndexPropertyTest : public ::testing::TestWithParam<KeyType> {
 protected:
  void RunOnGpu(std::vector<int> devices, Engine engine, uint64_t fixed_seed, int n_histories) {
    if (!HaveGpu()) GTEST_SKIP() << "no GPU";
    IndexConfig config;
    config.n_layers = config.dim = 1;
    config.devices = devices;
    config.engine = engine;
    config.key_type = GetParam();
    const auto index = RoutingIndex::Create(config);
    if (index.status().code() == StatusCode::kUnsupported) {
      GTEST_SKIP() << index.status().ToString();
    }
    const uint64_t first = TestSeed(fixed_seed);
    for (uint64_t seed = first; seed < first + n_histories && !HasFailure(); ++seed) {
      SCOPED_TRACE("MSADB_TEST_SEED=" + std::to_string(seed));
      History(seed, GetParam(), devices, engine).Run(15);
    }
  }
};
INSTANTIATE_TEST_SUITE_P(KeyTypes, RoutingIndexPropertyTest,
                         ::testing::Values(KeyType::kFloat, KeyType::kInt8),
                         [](const auto& info) { return NameOf(info.param); });

TEST_P(RoutingIndexPropertyTest, EqualsBruteForceThroughRandomHistories) {
  const uint64_t first = TestSeed(20260701);
  for (uint64_t seed = first; seed < first + 40 && !HasFailure(); ++seed) {
    SCOPED_TRACE("MSADB_TEST_SEED=" + std::to_string(seed));
    History(seed, GetParam()).Run(15);
  }
}

TEST_P(RoutingIndexPropertyTest, OneGpuEqualsBruteForce) {
  RunOnGpu({0}, Engine::kFused, 20260801, 40);
}

TEST_P(RoutingIndexPropertyTest, TwoShardsEqualBruteForce) {
  RunOnGpu(TwoShards(), Engine::kFused, 20260901, 20);
}

TEST_P(RoutingIndexPropertyTest, FaissOnAGpuEqualsBruteForce) {
  RunOnGpu(TwoShards(), Engine::kFaiss, 20261001, 12);
}

}  // namespace
}  // namespace msadb::index
