// A segment: an append-only run of routing keys of all layers, with the table of its documents.
#ifndef MSADB_INDEX_SEGMENT_H_
#define MSADB_INDEX_SEGMENT_H_

#include <faiss/IndexFlat.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "index/device_rows.h"
#include "index/routing_index.h"

namespace msadb::index::internal {

// Address space of all segments of one index; outlives the index because Snapshots may.
using ByteCounter = std::atomic<size_t>;

// Rows of one document are neighbours and never leave their segment, so a document is an ordinal
// with the row range [row_begin()[ordinal], row_begin()[ordinal + 1]).
//
// Nothing moves: all arrays have their full capacity from the start. A reader may read every row
// and document that a version shows, through the pointers below, while the one writer appends
// behind them. Readers must not touch the FAISS objects' own size fields, which the writer changes.
class Segment {
 public:
  // `shard` is an index into config.devices, whose memory holds the keys; without devices they are
  // in host memory. Throws std::bad_alloc, DeviceFailure.
  Segment(const IndexConfig& config, uint32_t shard, uint32_t capacity_rows,
          std::shared_ptr<ByteCounter> reserved);
  ~Segment();
  Segment(const Segment&) = delete;
  Segment& operator=(const Segment&) = delete;

  uint32_t capacity_rows() const { return capacity_rows_; }
  uint32_t shard() const { return shard_; }
  const DeviceRows* device_rows() const { return device_rows_.get(); }  // null: in host memory
  const float* keys(int layer) const { return keys_[layer]; }       // [rows, dim]; host memory only
  const DocumentNumber* numbers() const { return numbers_.get(); }  // [documents]
  const uint32_t* row_begin() const { return row_begin_.get(); }    // [documents + 1]

  // Writer only. Forgets everything after the first `n_documents`: what an unpublished change left.
  void Truncate(uint32_t n_documents);
  // Writer only. Appends a document; layer_keys[r] is [n_chunks, dim]. The caller checked that it
  // fits. Throws FaissException, DeviceFailure.
  void Append(DocumentNumber number, uint32_t n_chunks, std::span<const float* const> layer_keys);
  // Writer only. Appends document `ordinal` of another segment of the same index.
  void AppendFrom(const Segment& from, uint32_t ordinal);
  // Writer only. Call after the last Append, before a version shows what was appended.
  void Finish();

  // Copies the keys of rows [row, row + n_rows) of a layer to out [n_rows, dim].
  void Read(int layer, uint32_t row, uint32_t n_rows, float* out) const;

  // Memory that one row and one document take.
  static size_t RowBytes(const IndexConfig& config) {
    return config.n_layers * (config.devices.empty()
                                  ? config.dim * sizeof(float)
                                  : DeviceRows::RowBytes(config.dim, config.key_type));
  }
  static constexpr size_t kDocumentBytes = sizeof(DocumentNumber) + sizeof(uint32_t);

 private:
  const int n_layers_;
  const size_t dim_;
  const KeyType key_type_;
  const uint32_t shard_;
  const uint32_t capacity_rows_;
  const size_t bytes_reserved_;
  const std::shared_ptr<ByteCounter> reserved_;
  std::unique_ptr<DeviceRows> device_rows_;
  std::vector<std::unique_ptr<faiss::IndexFlatIP>> layers_;
  std::vector<const float*> keys_;  // get_xb() of each layer
  std::unique_ptr<DocumentNumber[]> numbers_;
  std::unique_ptr<uint32_t[]> row_begin_;
  uint32_t n_documents_ = 0;  // written so far, published or not
  uint32_t n_finished_ = 0;
};

}  // namespace msadb::index::internal

#endif  // MSADB_INDEX_SEGMENT_H_
