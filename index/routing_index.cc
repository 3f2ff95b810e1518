#include "index/routing_index.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "index/core.h"
#include "index/guard.h"
#include "index/search.h"
#include "index/version.h"

namespace msadb::index {

using internal::Bits;
using internal::SegmentView;
using internal::Version;

size_t Selection::document_count() const { return bits_ ? bits_->n_documents : 0; }

Snapshot::Snapshot(std::shared_ptr<const Version> version) : version_(std::move(version)) {}

uint64_t Snapshot::document_count() const { return version_ ? version_->live_documents : 0; }

uint64_t Snapshot::chunk_count() const { return version_ ? version_->live_rows : 0; }

bool Snapshot::Contains(DocumentNumber number) const {
  return version_ != nullptr && version_->Find(number).has_value();
}

Result<std::vector<DocumentNumber>> Snapshot::Numbers() const {
  return Guard("cannot list the index", [&]() -> Result<std::vector<DocumentNumber>> {
    std::vector<DocumentNumber> numbers;
    if (version_ == nullptr) return numbers;
    numbers.reserve(version_->live_documents);
    for (const SegmentView& view : version_->segments) {
      for (uint32_t i = 0; i < view.n_documents; ++i) {
        if (!view.IsDead(i)) numbers.push_back(view.number(i));
      }
    }
    std::sort(numbers.begin(), numbers.end());
    return numbers;
  });
}

Result<std::vector<float>> Snapshot::Keys(DocumentNumber number) const {
  return Guard("cannot read routing keys", [&]() -> Result<std::vector<float>> {
    const auto at = version_ ? version_->Find(number) : std::nullopt;
    if (!at) return Status::NotFound("document " + std::to_string(number) + " is not in the index");
    const SegmentView& view = version_->segments[at->segment];
    const size_t dim = version_->config.dim;
    const uint32_t n_chunks = view.n_chunks(at->ordinal);
    std::vector<float> keys(version_->config.n_layers * n_chunks * dim);
    for (int r = 0; r < version_->config.n_layers; ++r) {
      view.segment->Read(r, view.row_begin(at->ordinal), n_chunks,
                         keys.data() + r * n_chunks * dim);
    }
    return keys;
  });
}

Result<Selection> Snapshot::Select(std::span<const DocumentNumber> allowed) const {
  return Guard("cannot select documents", [&]() -> Result<Selection> {
    std::vector<DocumentNumber> sorted;
    if (!std::is_sorted(allowed.begin(), allowed.end())) {
      sorted.assign(allowed.begin(), allowed.end());
      std::sort(sorted.begin(), sorted.end());
      allowed = sorted;
    }
    auto bits = std::make_shared<internal::SelectionBits>();
    bits->version = version_;
    if (version_ != nullptr) {
      for (const SegmentView& view : version_->segments) {
        Bits& words = bits->allowed.emplace_back((view.n_documents + 63) / 64);
        // Numbers nearly always ascend within a segment, so the search goes on where it stood.
        auto from = allowed.begin();
        DocumentNumber previous = 0;
        for (uint32_t i = 0; i < view.n_documents; ++i) {
          const DocumentNumber number = view.number(i);
          if (number < previous) from = allowed.begin();
          previous = number;
          if (from != allowed.end() && *from < number) {
            from = std::lower_bound(from, allowed.end(), number);
          }
          if (from == allowed.end() || *from != number || view.IsDead(i)) continue;
          internal::SetBit(words, i);
          ++bits->n_documents;
        }
      }
    }
    Selection selection;
    selection.bits_ = std::move(bits);
    return selection;
  });
}

Result<std::vector<RoutedDocument>> Snapshot::Search(int layer, const float* queries,
                                                     size_t n_tokens, size_t k,
                                                     const Selection* selection) const {
  using Documents = std::vector<RoutedDocument>;
  return Guard("cannot search the index", [&]() -> Result<Documents> {
    if (selection != nullptr &&
        (selection->bits_ == nullptr || selection->bits_->version != version_)) {
      return Status::InvalidArgument(
          "the selection was made by another snapshot; select again from the one being searched");
    }
    if (version_ == nullptr) return Documents{};
    const IndexConfig& config = version_->config;
    if (layer < 0 || layer >= config.n_layers) {
      return Status::InvalidArgument("there is no routing layer " + std::to_string(layer) +
                                     "; this index has layers 0 to " +
                                     std::to_string(config.n_layers - 1));
    }
    if (n_tokens == 0) return Documents{};
    if (queries == nullptr) return Status::InvalidArgument("routing queries are missing");
    const float query_norm_max = internal::MaxRowNorm(queries, n_tokens, config.dim);
    if (!std::isfinite(query_norm_max)) {
      return Status::InvalidArgument("routing queries must be finite and of sane size");
    }
    internal::SearchRequest request;
    request.version = version_.get();
    request.layer = layer;
    request.queries = queries;
    request.n_tokens = n_tokens;
    request.k =
        std::min<uint64_t>(k, selection ? selection->bits_->n_documents : version_->live_documents);
    request.selection = selection ? selection->bits_.get() : nullptr;
    request.query_norm_max = query_norm_max;
    request.score_error_max =
        internal::ScoreErrorMax(config.dim, query_norm_max, version_->key_norm_max[layer]);
    if (request.k == 0) return Documents{};
    if (!config.devices.empty()) return internal::SearchDevices(request);
    return config.engine == Engine::kFaiss ? internal::SearchFaiss(request)
                                           : internal::SearchFused(request);
  });
}

Change::Change(std::unique_ptr<internal::Pending> pending) : pending_(std::move(pending)) {}
Change::Change(Change&&) noexcept = default;
Change& Change::operator=(Change&&) noexcept = default;
Change::~Change() = default;

void Change::Publish() noexcept {
  if (pending_ == nullptr) return;
  pending_->core->Publish(std::move(pending_->next));
  pending_.reset();
}

Result<std::unique_ptr<RoutingIndex>> RoutingIndex::Create(const IndexConfig& config) {
  return Guard("cannot create the index", [&]() -> Result<std::unique_ptr<RoutingIndex>> {
    constexpr size_t kSegmentRowsMax = 1u << 24;
    if (config.n_layers < 1 || config.n_layers > 1024) {
      return Status::InvalidArgument("IndexConfig::n_layers must be 1 to 1024, is " +
                                     std::to_string(config.n_layers));
    }
    if (config.dim < 1 || config.dim > 65536) {
      return Status::InvalidArgument("IndexConfig::dim must be 1 to 65536, is " +
                                     std::to_string(config.dim));
    }
    if (config.segment_rows_min < 1 || config.segment_rows_min > config.segment_rows_max ||
        config.segment_rows_max > kSegmentRowsMax) {
      return Status::InvalidArgument(
          "IndexConfig needs 1 <= segment_rows_min <= segment_rows_max <= 16777216");
    }
    if (config.key_type != KeyType::kFloat && config.key_type != KeyType::kInt8) {
      return Status::InvalidArgument("IndexConfig::key_type is none of KeyType's values");
    }
    if (config.key_type == KeyType::kInt8 && config.engine == Engine::kFaiss &&
        !config.devices.empty()) {
      return Status::Unsupported(
          "Engine::kFaiss reads float16 keys on a GPU, not KeyType::kInt8; use Engine::kFused");
    }
    MSADB_RETURN_IF_ERROR(internal::CheckDevices(config));
    if (!(config.compact_dead_fraction > 0 && config.compact_dead_fraction <= 1)) {
      return Status::InvalidArgument(
          "IndexConfig::compact_dead_fraction must be above 0, at most 1");
    }
    return std::unique_ptr<RoutingIndex>(
        new RoutingIndex(std::make_unique<internal::Core>(config)));
  });
}

RoutingIndex::RoutingIndex(std::unique_ptr<internal::Core> core) : core_(std::move(core)) {}
RoutingIndex::~RoutingIndex() = default;

Result<Change> RoutingIndex::Prepare(std::span<const DocumentKeys> inserts,
                                     std::span<const DocumentNumber> deletes) {
  return Guard("cannot make room in the index", [&]() -> Result<Change> {
    auto pending = std::make_unique<internal::Pending>(core_.get());
    MSADB_ASSIGN_OR_RETURN(pending->next, core_->MakeNext(inserts, deletes));
    return Change(std::move(pending));
  });
}

Snapshot RoutingIndex::TakeSnapshot() const { return Snapshot(core_->current()); }

Status RoutingIndex::Compact() {
  return Guard("cannot compact the index", [&] {
    core_->Compact(/*everything=*/true);
    return Status::Ok();
  });
}

Status RoutingIndex::CompactIfNeeded() {
  return Guard("cannot compact the index", [&] {
    core_->Compact(/*everything=*/false);
    return Status::Ok();
  });
}

IndexStats RoutingIndex::Stats() const {
  const auto version = core_->current();
  IndexStats stats;
  stats.documents = version->live_documents;
  stats.chunks = version->live_rows;
  stats.segments = version->segments.size();
  for (const SegmentView& view : version->segments) {
    stats.dead_documents += view.dead_documents;
    stats.dead_chunks += view.dead_rows;
  }
  stats.bytes_used = version->BytesUsed();
  stats.bytes_reserved = core_->bytes_reserved();
  return stats;
}

size_t RowBytes(const IndexConfig& config) { return internal::Segment::RowBytes(config); }

const IndexConfig& RoutingIndex::config() const { return core_->config(); }

}  // namespace msadb::index
