#include "index/core.h"

#include <algorithm>
#include <bit>
#include <cassert>
#include <cmath>
#include <string>
#include <unordered_map>

#include "index/key_rounding.h"
#include "index/search.h"

namespace msadb::index::internal {
namespace {

// More chunks than any model's context; keeps row numbers of a segment within 32 bits.
constexpr uint32_t kChunksMax = 1u << 24;

// Small segments that CompactIfNeeded tolerates: growth by doubling makes about this many.
constexpr size_t kSmallSegmentsMax = 12;

std::string Named(DocumentNumber number) { return "document " + std::to_string(number); }

// Marks `ordinal` dead in a view whose bitmap this version owns alone.
void Bury(SegmentView* view, Bits* dead, uint32_t ordinal) {
  SetBit(*dead, ordinal);
  ++view->dead_documents;
  view->dead_rows += view->n_chunks(ordinal);
}

// A writable copy of the view's tombstones, large enough for all its documents.
std::shared_ptr<Bits> CopyDead(const SegmentView& view) {
  auto bits = view.dead ? std::make_shared<Bits>(*view.dead) : std::make_shared<Bits>();
  bits->resize((view.n_documents + 63) / 64);
  return bits;
}

bool FitsFloat16(const float* values, size_t n) {
  float largest = 0;
#pragma omp simd reduction(max : largest)
  for (size_t i = 0; i < n; ++i) largest = std::max(largest, std::fabs(values[i]));
  return largest < 65520.0f;  // from here on rounding gives infinity
}

// At least the 2-norm, as the index holds it, of a row that had at most `norm` before.
float RoundedNorm(const IndexConfig& config, float norm) {
  if (config.key_type == KeyType::kInt8) return RoundedNormMax(norm, config.dim);
  if (config.devices.empty()) return norm;
  return norm * (1 + 0x1p-10f) + std::sqrt(static_cast<float>(config.dim)) * 0x1p-24f;
}

// Segments worth rewriting, as indices.
std::vector<uint32_t> PickForCompaction(const Version& version, bool everything) {
  const double fraction = version.config.compact_dead_fraction;
  std::vector<uint32_t> dead, small;
  for (uint32_t s = 0; s < version.segments.size(); ++s) {
    const SegmentView& view = version.segments[s];
    const bool is_dead =
        view.dead_documents > 0 && (everything || view.dead_rows >= fraction * view.n_rows);
    if (is_dead) {
      dead.push_back(s);
    } else if (view.live_rows() < version.config.segment_rows_max / 2) {
      small.push_back(s);
    }
  }
  const bool merge = everything ? small.size() + dead.size() > 1 : small.size() > kSmallSegmentsMax;
  if (merge) dead.insert(dead.end(), small.begin(), small.end());
  std::sort(dead.begin(), dead.end());
  return dead;
}

}  // namespace

WriterSlot::WriterSlot(Core* core) : core_(core) {
  std::unique_lock lock(core_->slot_mutex_);
  core_->slot_free_.wait(lock, [this] { return !core_->slot_taken_; });
  core_->slot_taken_ = true;
}

WriterSlot::~WriterSlot() {
  {
    std::lock_guard lock(core_->slot_mutex_);
    core_->slot_taken_ = false;
    // Under the lock: once it is free, the index and this condition may be destroyed.
    core_->slot_free_.notify_one();
  }
}

Core::Core(const IndexConfig& config) : config_(config) {
  auto empty = std::make_shared<Version>();
  empty->config = config;
  empty->key_norm_max.assign(config_.n_layers, 0.0f);
  version_ = std::move(empty);
}

std::shared_ptr<const Version> Core::current() const {
  std::lock_guard lock(version_mutex_);
  return version_;
}

void Core::Publish(std::shared_ptr<const Version> next) noexcept {
  {
    std::lock_guard lock(version_mutex_);
    version_.swap(next);
  }
  // The old version, maybe the last owner of its segments, is freed outside the lock.
}

std::shared_ptr<Segment> Core::NewSegment(size_t capacity_rows,
                                          const std::vector<SegmentView>& segments) const {
  std::vector<size_t> rows(std::max<size_t>(1, config_.devices.size()));
  for (const SegmentView& view : segments) rows[view.segment->shard()] += view.n_rows;
  const auto least = std::min_element(rows.begin(), rows.end()) - rows.begin();
  return std::make_shared<Segment>(config_, static_cast<uint32_t>(least),
                                   static_cast<uint32_t>(capacity_rows), reserved_);
}

Status Core::Check(const Version& version, std::span<const DocumentKeys> inserts,
                   std::span<const DocumentNumber> deletes) const {
  const size_t row_bytes = Segment::RowBytes(config_);
  size_t bytes = version.BytesUsed();
  std::vector<DocumentNumber> numbers;
  numbers.reserve(inserts.size() + deletes.size());
  for (const DocumentKeys& document : inserts) {
    if (document.n_chunks == 0 || document.n_chunks > kChunksMax || document.keys == nullptr) {
      return Status::InvalidArgument(Named(document.number) + " has " +
                                     std::to_string(document.n_chunks) +
                                     " chunks of routing keys; give 1 to " +
                                     std::to_string(kChunksMax) + " and a pointer to them");
    }
    bytes += document.n_chunks * row_bytes + Segment::kDocumentBytes;
    numbers.push_back(document.number);
  }
  if (bytes > config_.bytes_max) {
    return Status::ResourceExhausted(
        "the routing index would need " + std::to_string(bytes) +
        " bytes of memory, its limit is " + std::to_string(config_.bytes_max) +
        "; raise the limit, or delete documents and compact the database");
  }
  numbers.insert(numbers.end(), deletes.begin(), deletes.end());
  std::sort(numbers.begin(), numbers.end());
  const auto twice = std::adjacent_find(numbers.begin(), numbers.end());
  if (twice != numbers.end()) {
    return Status::InvalidArgument(Named(*twice) +
                                   " appears twice in one change; leave out what cancels out");
  }
  for (const DocumentKeys& document : inserts) {
    if (version.Find(document.number)) {
      return Status::AlreadyExists(Named(document.number) +
                                   " is in the index; numbers are never reused");
    }
  }
  return Status::Ok();
}

Result<std::shared_ptr<const Version>> Core::MakeNext(std::span<const DocumentKeys> inserts,
                                                      std::span<const DocumentNumber> deletes) {
  const std::shared_ptr<const Version> now = current();
  MSADB_RETURN_IF_ERROR(Check(*now, inserts, deletes));
  auto next = std::make_shared<Version>(*now);

  std::unordered_map<uint32_t, std::shared_ptr<Bits>> dead;  // by segment
  for (const DocumentNumber number : deletes) {
    const auto at = now->Find(number);
    if (!at) return Status::NotFound(Named(number) + " is not in the index");
    SegmentView& view = next->segments[at->segment];
    auto& bits = dead[at->segment];
    if (bits == nullptr) view.dead = bits = CopyDead(view);
    Bury(&view, bits.get(), at->ordinal);
  }

  const bool as_float16 = !config_.devices.empty() && config_.key_type == KeyType::kFloat;
  // With several GPUs a segment is as large as a share of what is there, so that all fill alike.
  const size_t shares = config_.devices.size() > 1 ? 2 * config_.devices.size() : 1;
  size_t rows_left = 0;
  for (const DocumentKeys& document : inserts) {
    rows_left += document.n_chunks;
    const size_t layer_floats = document.n_chunks * config_.dim;
    for (int r = 0; r < config_.n_layers; ++r) {
      const float norm =
          MaxRowNorm(document.keys + r * layer_floats, document.n_chunks, config_.dim);
      if (!std::isfinite(norm)) {
        return Status::InvalidArgument("the routing keys of " + Named(document.number) +
                                       " in routing layer " + std::to_string(r) +
                                       " are not finite or far too large: encode it again");
      }
      if (as_float16 && !FitsFloat16(document.keys + r * layer_floats, layer_floats)) {
        return Status::InvalidArgument("the routing keys of " + Named(document.number) +
                                       " in routing layer " + std::to_string(r) +
                                       " are too large for float16, which GPUs keep");
      }
      next->key_norm_max[r] = std::max(next->key_norm_max[r], RoundedNorm(config_, norm));
    }
  }

  // What an earlier, dropped change left behind the published rows.
  if (!next->segments.empty()) {
    next->segments.back().segment->Truncate(next->segments.back().n_documents);
  }
  std::vector<const float*> layer_keys(config_.n_layers);
  size_t rows_total = 0;
  for (const SegmentView& view : next->segments) rows_total += view.n_rows;
  for (const DocumentKeys& document : inserts) {
    const bool fits = !next->segments.empty() && !next->last_is_sealed &&
                      document.n_chunks <= next->segments.back().segment->capacity_rows() -
                                               next->segments.back().n_rows;
    if (!fits) {
      if (!next->segments.empty()) next->segments.back().segment->Finish();
      const size_t capacity = std::clamp(std::max(rows_total, rows_left) / shares,
                                         config_.segment_rows_min, config_.segment_rows_max);
      SegmentView view;
      view.segment = NewSegment(std::max<size_t>(capacity, document.n_chunks), next->segments);
      next->segments.push_back(std::move(view));
      next->last_is_sealed = false;
    }
    SegmentView& view = next->segments.back();
    for (int r = 0; r < config_.n_layers; ++r) {
      layer_keys[r] = document.keys + r * (document.n_chunks * config_.dim);
    }
    view.segment->Append(document.number, document.n_chunks, layer_keys);
    view.Show(document.number, document.n_chunks);
    rows_total += document.n_chunks;
    rows_left -= document.n_chunks;
  }
  if (!inserts.empty()) next->segments.back().segment->Finish();
  next->Count();
  return std::shared_ptr<const Version>(std::move(next));
}

void Core::Compact(bool everything) {
  std::lock_guard one_at_a_time(compact_mutex_);

  // 1. Choose. A chosen last segment is sealed, so that only tombstones can change what is copied.
  std::shared_ptr<const Version> start;
  std::vector<uint32_t> picked;
  {
    WriterSlot slot(this);
    start = current();
    picked = PickForCompaction(*start, everything);
    if (picked.empty()) return;
    if (picked.back() + 1 == start->segments.size() && !start->last_is_sealed) {
      auto sealed = std::make_shared<Version>(*start);
      sealed->last_is_sealed = true;
      Publish(sealed);
      start = std::move(sealed);
    }
  }

  // 2. Copy the live documents in the order of their numbers, while writers go on.
  std::vector<Location> sources;
  size_t rows_left = 0;
  for (const uint32_t s : picked) {
    const SegmentView& view = start->segments[s];
    rows_left += view.live_rows();
    for (uint32_t i = 0; i < view.n_documents; ++i) {
      if (!view.IsDead(i)) sources.push_back({s, i});
    }
  }
  std::sort(sources.begin(), sources.end(), [&](const Location& a, const Location& b) {
    return start->segments[a.segment].number(a.ordinal) <
           start->segments[b.segment].number(b.ordinal);
  });
  std::vector<SegmentView> rewritten;
  const size_t share = rows_left / std::max<size_t>(1, config_.devices.size()) + 1;
  for (const Location& source : sources) {
    const SegmentView& from = start->segments[source.segment];
    const uint32_t n_chunks = from.n_chunks(source.ordinal);
    if (rewritten.empty() ||
        n_chunks > rewritten.back().segment->capacity_rows() - rewritten.back().n_rows) {
      if (!rewritten.empty()) rewritten.back().segment->Finish();
      const size_t capacity = std::clamp(std::min(rows_left, share), config_.segment_rows_min,
                                         config_.segment_rows_max);
      SegmentView view;
      view.segment = NewSegment(std::max<size_t>(capacity, n_chunks), rewritten);
      rewritten.push_back(std::move(view));
    }
    SegmentView& to = rewritten.back();
    to.segment->AppendFrom(*from.segment, source.ordinal);
    to.Show(from.number(source.ordinal), n_chunks);
    rows_left -= n_chunks;
  }

  if (!rewritten.empty()) rewritten.back().segment->Finish();

  // 3. Take over what was deleted meanwhile, and publish. Appended segments stay behind the others,
  // so the one that takes appends stays last.
  WriterSlot slot(this);
  const std::shared_ptr<const Version> now = current();
  auto next = std::make_shared<Version>();
  next->config = now->config;
  next->key_norm_max = now->key_norm_max;
  for (const uint32_t s : picked) {
    const SegmentView& then = start->segments[s];
    const SegmentView& view = now->segments[s];
    assert(view.segment == then.segment && view.n_documents == then.n_documents);
    if (view.dead == then.dead) continue;
    for (uint32_t i = 0; i < view.n_documents; ++i) {
      if (!view.IsDead(i) || then.IsDead(i)) continue;
      for (SegmentView& to : rewritten) {
        const auto ordinal = to.Find(view.number(i));
        if (!ordinal) continue;
        auto bits = CopyDead(to);
        Bury(&to, bits.get(), *ordinal);
        to.dead = std::move(bits);
      }
    }
  }
  std::erase_if(rewritten, [](const SegmentView& view) { return view.live_documents() == 0; });
  next->segments = std::move(rewritten);
  for (uint32_t s = 0; s < now->segments.size(); ++s) {
    if (!std::binary_search(picked.begin(), picked.end(), s)) {
      next->segments.push_back(now->segments[s]);
    }
  }
  next->Count();
  Publish(std::move(next));
}

}  // namespace msadb::index::internal
