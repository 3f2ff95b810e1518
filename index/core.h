// The writer's side of a RoutingIndex: the current version, and who may change it.
#ifndef MSADB_INDEX_CORE_H_
#define MSADB_INDEX_CORE_H_

#include <condition_variable>
#include <memory>
#include <mutex>
#include <span>
#include <utility>
#include <vector>

#include "index/routing_index.h"
#include "index/segment.h"
#include "index/version.h"

namespace msadb::index::internal {

class Core {
 public:
  explicit Core(const IndexConfig& config);

  const IndexConfig& config() const { return config_; }
  std::shared_ptr<const Version> current() const;
  size_t bytes_reserved() const { return reserved_->load(std::memory_order_relaxed); }

  // Throws std::bad_alloc, FaissException. The caller holds the WriterSlot.
  Result<std::shared_ptr<const Version>> MakeNext(std::span<const DocumentKeys> inserts,
                                                  std::span<const DocumentNumber> deletes);
  // Throws the same. The caller holds nothing.
  void Compact(bool everything);

  void Publish(std::shared_ptr<const Version> next) noexcept;

 private:
  friend class WriterSlot;

  Status Check(const Version& version, std::span<const DocumentKeys> inserts,
               std::span<const DocumentNumber> deletes) const;
  // A segment on the device that holds least of `segments`.
  std::shared_ptr<Segment> NewSegment(size_t capacity_rows,
                                      const std::vector<SegmentView>& segments) const;

  const IndexConfig config_;
  const std::shared_ptr<ByteCounter> reserved_ = std::make_shared<ByteCounter>(0);

  mutable std::mutex version_mutex_;  // only ever held to copy or swap the pointer
  std::shared_ptr<const Version> version_;

  // One writer at a time, from Prepare to Publish. Not a plain mutex because a Change may move to
  // another thread.
  std::mutex slot_mutex_;
  std::condition_variable slot_free_;
  bool slot_taken_ = false;

  std::mutex compact_mutex_;  // one compaction at a time; taken before the writer slot
};

// The right to make and publish the next version.
class WriterSlot {
 public:
  explicit WriterSlot(Core* core);
  ~WriterSlot();
  WriterSlot(const WriterSlot&) = delete;
  WriterSlot& operator=(const WriterSlot&) = delete;

 private:
  Core* core_;
};

struct Pending {
  explicit Pending(Core* c) : core(c), slot(c) {}
  Core* core;
  WriterSlot slot;
  std::shared_ptr<const Version> next;
};

}  // namespace msadb::index::internal

#endif  // MSADB_INDEX_CORE_H_
