#include "db/loader.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "db/device.h"
#include "db/encoder.h"
#include "db/guard.h"
#include "kernels/cuda_backend.h"
#include "kernels/dtype.h"

namespace msadb::db {
namespace {

// Keys handed to the index at once, so that its per-call costs vanish and memory stays bounded.
constexpr size_t kBatchBytes = 4u << 20;
// Below this a second thread costs more than it brings.
constexpr uint64_t kPartsPerThread = 4096;

// Collects the keys of one thread's range of numbers and feeds them to the index.
class RangeLoader {
 public:
  RangeLoader(const Engine& engine, index::RoutingIndex* index) : engine_(engine), index_(index) {}

  Status Load(storage::CollectionId collection, storage::Number first, storage::Number last,
              const storage::Snapshot& snapshot) {
    Status failed;
    const auto visit = [&](storage::Number number, const storage::TensorView& tensor) {
      failed = Add(number, tensor);
      return failed.ok();
    };
    MSADB_RETURN_IF_ERROR(engine_.store->ScanRouting(collection, first, last, visit, &snapshot));
    MSADB_RETURN_IF_ERROR(failed);
    return Flush();
  }

  uint64_t parts() const { return parts_; }

 private:
  Status Add(storage::Number number, const storage::TensorView& tensor) {
    if (tensor.shape != RoutingShape(engine_, tensor.shape.n_chunks)) {
      return Status::Corruption("the routing keys of part " + std::to_string(number) +
                                " have another shape than the model's; run Database::Reencode");
    }
    const size_t elements = tensor.bytes.size() / sizeof(uint16_t);
    scratch_.resize(elements);
    std::memcpy(scratch_.data(), tensor.bytes.data(), elements * sizeof(uint16_t));
    const size_t begin = keys_.size();
    keys_.resize(begin + elements);
    kernels::ConvertF16ToF32(scratch_.data(), keys_.data() + begin, elements);
    batch_.push_back({number, tensor.shape.n_chunks, nullptr});
    offsets_.push_back(begin);
    ++parts_;
    return keys_.size() * sizeof(float) >= kBatchBytes ? Flush() : Status::Ok();
  }

  Status Flush() {
    if (batch_.empty()) return Status::Ok();
    // Only now, because keys_ moves while it grows.
    for (size_t i = 0; i < batch_.size(); ++i) batch_[i].keys = keys_.data() + offsets_[i];
    MSADB_ASSIGN_OR_RETURN(index::Change change, index_->Prepare(batch_, {}));
    change.Publish();
    batch_.clear();
    offsets_.clear();
    keys_.clear();
    return Status::Ok();
  }

  const Engine& engine_;
  index::RoutingIndex* index_;
  std::vector<uint16_t> scratch_;
  std::vector<float> keys_;
  std::vector<index::DocumentKeys> batch_;
  std::vector<size_t> offsets_;
  uint64_t parts_ = 0;
};

Result<std::shared_ptr<const Catalog>> LoadCatalog(const Engine& engine,
                                                   const storage::CollectionInfo& collection,
                                                   const storage::Snapshot& snapshot) {
  std::vector<DocumentInfo> documents;
  documents.reserve(collection.stats.documents);
  MSADB_RETURN_IF_ERROR(engine.store->ScanParts(
      collection.id, 1, std::numeric_limits<storage::Number>::max(),
      [&](storage::Number, storage::PartRecord&& record) {
        if (record.part_index == 0) {
          documents.push_back(
              {record.first_number, record.part_count,
               record.expires_us ? FromMicroseconds(*record.expires_us) : kNeverExpires,
               std::move(record.metadata), std::move(record.source), std::move(record.written_by),
               FromMicroseconds(record.created_us)});
        }
        return true;
      },
      &snapshot, storage::PartFields::kNoText));
  return Catalog::Build(std::move(documents));
}

size_t ThreadsFor(const Engine& engine, uint64_t parts) {
  size_t threads = engine.options.threads > 0 ? static_cast<size_t>(engine.options.threads)
                                              : std::thread::hardware_concurrency();
  threads = std::clamp<size_t>(threads, 1, 8);
  return std::clamp<size_t>(parts / kPartsPerThread, 1, threads);
}

index::KeyType KeyTypeOf(const Engine& engine) {
  return engine.options.routing_keys == RoutingKeys::kInt8 ? index::KeyType::kInt8
                                                           : index::KeyType::kFloat;
}

// The GPUs that Options::device names for routing keys, if any. "auto": the first one, when there
// is one that can hold an index of this model.
std::vector<int> IndexDevices(const Engine& engine) {
  const auto device = ParseDevice(engine.options.device);
  if (!device.ok()) return {};  // checked when the database was opened
  if (!device->automatic) return device->gpus;
  if (kernels::CudaDeviceCount() == 0) return {};
  index::IndexConfig probe;
  probe.n_layers = 1;
  probe.dim = engine.model().kv_dim();
  probe.key_type = KeyTypeOf(engine);
  probe.devices = {0};
  return index::RoutingIndex::Create(probe).ok() ? probe.devices : std::vector<int>{};
}

// Every segment costs a few launches a search and, in GPU memory, at least 2 MiB a layer; a large
// one costs no more than its rows.
constexpr size_t kGpuSegmentRowsMin = size_t{1} << 16;
constexpr size_t kGpuSegmentRowsMax = size_t{1} << 22;

Result<std::shared_ptr<index::RoutingIndex>> CreateIndexOn(const Engine& engine,
                                                           std::vector<int> devices) {
  index::IndexConfig config;
  config.n_layers = static_cast<int>(engine.model().routing_layer_count());
  config.dim = engine.model().kv_dim();
  config.key_type = KeyTypeOf(engine);
  config.devices = std::move(devices);
  if (!config.devices.empty()) {
    config.segment_rows_min = kGpuSegmentRowsMin;
    config.segment_rows_max = kGpuSegmentRowsMax;
  }
  MSADB_ASSIGN_OR_RETURN(std::unique_ptr<index::RoutingIndex> index,
                         index::RoutingIndex::Create(config));
  return std::shared_ptr<index::RoutingIndex>(std::move(index));
}

Result<LoadedIndex> LoadIndexOn(const Engine& engine, const storage::CollectionInfo& collection,
                                const storage::Snapshot& snapshot, std::vector<int> devices) {
  LoadedIndex loaded;
  MSADB_ASSIGN_OR_RETURN(loaded.index, CreateIndexOn(engine, std::move(devices)));
  const size_t n_threads = ThreadsFor(engine, collection.stats.parts);
  const storage::Number end = std::max<storage::Number>(collection.next_number, 2);
  std::vector<Status> results(n_threads);
  std::vector<uint64_t> parts(n_threads, 0);
  const auto load_range = [&](size_t t) {
    results[t] = Guard([&] {
      RangeLoader loader(engine, loaded.index.get());
      const Status status = loader.Load(collection.id, 1 + (end - 1) * t / n_threads,
                                        (end - 1) * (t + 1) / n_threads, snapshot);
      parts[t] = loader.parts();
      return status;
    });
  };
  {
    std::vector<std::jthread> threads;
    threads.reserve(n_threads);
    for (size_t t = 1; t < n_threads; ++t) threads.emplace_back(load_range, t);
    load_range(0);
  }
  for (const Status& status : results) MSADB_RETURN_IF_ERROR(status);
  MSADB_ASSIGN_OR_RETURN(loaded.catalog, LoadCatalog(engine, collection, snapshot));
  uint64_t n_parts = 0;
  for (const uint64_t n : parts) n_parts += n;
  if (n_parts != loaded.catalog->part_count()) {
    return Status::Corruption("collection '" + collection.name + "' has " +
                              std::to_string(loaded.catalog->part_count()) + " parts but " +
                              std::to_string(n_parts) +
                              " routing keys; run Verify to see which documents are damaged");
  }
  return loaded;
}

}  // namespace

size_t EstimateIndexBytes(const Engine& engine, const storage::CollectionStats& stats) {
  const model::Model& model = engine.model();
  index::IndexConfig config;
  config.n_layers = static_cast<int>(model.routing_layer_count());
  config.dim = model.kv_dim();
  config.key_type = KeyTypeOf(engine);
  config.devices = IndexDevices(engine);
  return stats.chunks * index::RowBytes(config) + stats.parts * 64 +
         stats.documents * sizeof(DocumentInfo);
}

size_t EstimateIndexBytes(const Engine& engine, uint32_t n_chunks) {
  storage::CollectionStats one;
  one.documents = one.parts = 1;
  one.chunks = n_chunks;
  return EstimateIndexBytes(engine, one);
}

std::vector<float> ExpandRouting(std::span<const uint16_t> routing) {
  std::vector<float> keys(routing.size());
  kernels::ConvertF16ToF32(routing.data(), keys.data(), keys.size());
  return keys;
}

std::vector<float> RoutingAsIndexed(const Engine& engine, std::span<const uint16_t> routing) {
  std::vector<float> keys = ExpandRouting(routing);
  const size_t dim = engine.model().kv_dim();
  if (KeyTypeOf(engine) == index::KeyType::kInt8) {
    index::RoundKeysToInt8(keys.data(), keys.size() / dim, dim);
  }
  return keys;
}

Result<std::shared_ptr<index::RoutingIndex>> CreateIndex(const Engine& engine) {
  return CreateIndexOn(engine, IndexDevices(engine));
}

Result<LoadedIndex> LoadIndex(const Engine& engine, const storage::CollectionInfo& collection,
                              const storage::Snapshot& snapshot) {
  std::vector<int> devices = IndexDevices(engine);
  const bool may_leave_gpu = !devices.empty() && engine.options.device == "auto";
  auto loaded = LoadIndexOn(engine, collection, snapshot, std::move(devices));
  if (loaded.ok() || !may_leave_gpu) return loaded;
  // Too large for the GPU, or the GPU is gone: "auto" goes on with host memory.
  const StatusCode code = loaded.status().code();
  if (code != StatusCode::kResourceExhausted && code != StatusCode::kUnavailable) return loaded;
  return LoadIndexOn(engine, collection, snapshot, {});
}

}  // namespace msadb::db
