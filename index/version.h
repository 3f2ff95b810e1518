// What a reader holds: an immutable list of segments with visible documents and tombstones.
#ifndef MSADB_INDEX_VERSION_H_
#define MSADB_INDEX_VERSION_H_

#include <algorithm>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "index/routing_index.h"
#include "index/segment.h"

namespace msadb::index::internal {

// Bit i is document ordinal i. Bits past the end are 0.
using Bits = std::vector<uint64_t>;

inline bool TestBit(const Bits& bits, uint32_t i) {
  return i / 64 < bits.size() && (bits[i / 64] >> (i % 64) & 1) != 0;
}
inline void SetBit(Bits& bits, uint32_t i) { bits[i / 64] |= uint64_t{1} << (i % 64); }

// The part of a segment that one version shows.
struct SegmentView {
  std::shared_ptr<Segment> segment;
  uint32_t n_documents = 0;  // visible, dead ones included
  uint32_t n_rows = 0;
  std::shared_ptr<const Bits> dead;  // tombstones; null when there are none
  uint32_t dead_documents = 0;
  uint32_t dead_rows = 0;
  bool ascending = true;  // numbers()[0 .. n_documents) ascend strictly: binary search works
  DocumentNumber number_min = UINT64_MAX;
  DocumentNumber number_max = 0;

  bool IsDead(uint32_t ordinal) const { return dead != nullptr && TestBit(*dead, ordinal); }
  uint32_t live_documents() const { return n_documents - dead_documents; }
  uint32_t live_rows() const { return n_rows - dead_rows; }
  DocumentNumber number(uint32_t ordinal) const { return segment->numbers()[ordinal]; }
  uint32_t row_begin(uint32_t ordinal) const { return segment->row_begin()[ordinal]; }
  uint32_t n_chunks(uint32_t ordinal) const { return row_begin(ordinal + 1) - row_begin(ordinal); }

  // Takes the document just appended to `segment` into view.
  void Show(DocumentNumber number, uint32_t n_chunks) {
    ascending = ascending && (n_documents == 0 || number > number_max);
    number_min = std::min(number_min, number);
    number_max = std::max(number_max, number);
    ++n_documents;
    n_rows += n_chunks;
  }

  // The live document `number`, if it is here.
  std::optional<uint32_t> Find(DocumentNumber number) const {
    if (number < number_min || number > number_max) return std::nullopt;
    const DocumentNumber* begin = segment->numbers();
    const DocumentNumber* end = begin + n_documents;
    const DocumentNumber* at =
        ascending ? std::lower_bound(begin, end, number) : std::find(begin, end, number);
    while (at != end && (*at != number || IsDead(static_cast<uint32_t>(at - begin)))) {
      if (ascending) return std::nullopt;
      at = std::find(at + 1, end, number);
    }
    if (at == end) return std::nullopt;
    return static_cast<uint32_t>(at - begin);
  }
};

struct Location {
  uint32_t segment = 0;  // index into Version::segments
  uint32_t ordinal = 0;
};

struct Version {
  IndexConfig config;
  std::vector<SegmentView> segments;  // appends go to the last one
  bool last_is_sealed = false;        // compaction is copying the last segment: append to a new one
  std::vector<float> key_norm_max;    // per layer; at least the 2-norm of every visible row
  uint64_t live_documents = 0;
  uint64_t live_rows = 0;

  std::optional<Location> Find(DocumentNumber number) const {
    for (uint32_t s = 0; s < segments.size(); ++s) {
      if (const auto ordinal = segments[s].Find(number)) return Location{s, *ordinal};
    }
    return std::nullopt;
  }

  size_t BytesUsed() const {
    const size_t row_bytes = Segment::RowBytes(config);
    size_t bytes = 0;
    for (const SegmentView& view : segments) {
      bytes += view.n_rows * row_bytes + view.n_documents * Segment::kDocumentBytes;
    }
    return bytes;
  }

  // Sets the totals from `segments`.
  void Count() {
    live_documents = live_rows = 0;
    for (const SegmentView& view : segments) {
      live_documents += view.live_documents();
      live_rows += view.live_rows();
    }
  }
};

// A resolved set of allowed documents: per segment of `version` the live, allowed ordinals.
struct SelectionBits {
  std::shared_ptr<const Version> version;
  std::vector<Bits> allowed;
  size_t n_documents = 0;
};

}  // namespace msadb::index::internal

#endif  // MSADB_INDEX_VERSION_H_
