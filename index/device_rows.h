// The routing keys of one segment in the memory of one GPU, as float16, or as int8 with one float32
// scale a row (key_rounding.h).
//
// One range of addresses holds the planes of all layers, each [capacity_rows, padded_dim], with
// int8 the scales of all layers, each [capacity_rows], and the document table; memory is put behind
// a plane as its rows are written (device_memory.h). So nothing moves, and an append never disturbs
// who reads the rows before it. Our kernel and, of float16, FAISS's brute-force search
// (faiss::gpu::bfKnn) read the same plane.
#ifndef MSADB_INDEX_DEVICE_ROWS_H_
#define MSADB_INDEX_DEVICE_ROWS_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "index/device_memory.h"
#include "index/routing_index.h"

namespace msadb::index::internal {

struct DeviceStaging;

class DeviceRows {
 public:
  // The kernel's copies need rows of a multiple of 16 bytes; columns past dim are 0.
  static constexpr size_t PaddedDim(size_t dim, KeyType type) {
    const size_t multiple = 16 / ValueBytes(type);
    return (dim + multiple - 1) / multiple * multiple;
  }
  // Of one row of one layer, its scale included.
  static constexpr size_t RowBytes(size_t dim, KeyType type) {
    return PaddedDim(dim, type) * ValueBytes(type) + ScaleBytes(type);
  }

  // Reserves addresses. All methods throw DeviceFailure.
  DeviceRows(int device, int n_layers, size_t dim, KeyType type, uint32_t capacity_rows);
  ~DeviceRows();

  int device() const { return device_; }
  size_t bytes_committed() const { return range_.bytes_committed(); }
  // Device addresses.
  const void* keys(int layer) const { return range_.data() + layer * plane_bytes_; }
  // [capacity_rows]; null for float16.
  const float* scales(int layer) const {
    if (type_ != KeyType::kInt8) return nullptr;
    return reinterpret_cast<const float*>(range_.data() + ScalesAt(layer));
  }
  const uint32_t* row_begin() const {
    return reinterpret_cast<const uint32_t*>(range_.data() + TableAt());
  }

  // Writer only. Appended rows are on the device after Flush; layer_keys[r] is [n_chunks, dim]
  // float32 host memory, which may be reused when Append returns.
  void Append(uint32_t row, uint32_t n_chunks, std::span<const float* const> layer_keys);
  // Copies rows of a segment on the same device.
  void CopyFrom(const DeviceRows& from, uint32_t from_row, uint32_t n_rows, uint32_t row);
  // Waits until all rows are there, and writes entries [first, n_documents] of the document table.
  void Flush(const uint32_t* row_begin, uint32_t first, uint32_t n_documents);
  // Forgets what was appended since the last Flush.
  void Discard();

  // Rows [row, row + n_rows) of a layer as float32, exactly, to host memory. Any thread.
  void Read(int layer, uint32_t row, uint32_t n_rows, float* out) const;

 private:
  static constexpr size_t ValueBytes(KeyType type) { return type == KeyType::kInt8 ? 1 : 2; }
  static constexpr size_t ScaleBytes(KeyType type) {
    return type == KeyType::kInt8 ? sizeof(float) : 0;
  }
  // Offsets in the range.
  size_t ScalesAt(int layer) const { return n_layers_ * plane_bytes_ + layer * scale_plane_bytes_; }
  size_t TableAt() const { return ScalesAt(n_layers_); }

  // Rows of all layers that one half of the staging memory takes. There the keys of a layer follow
  // those of the layer before, and then the scales likewise.
  uint32_t StagedRowsMax() const;
  void Commit(uint32_t rows);
  void Submit();

  const int device_;
  const int n_layers_;
  const size_t dim_;
  const KeyType type_;
  const size_t padded_dim_;
  const size_t row_bytes_;    // without the scale
  const size_t scale_bytes_;  // of a row; 0 for float16
  const uint32_t capacity_rows_;
  const size_t plane_bytes_;
  const size_t scale_plane_bytes_;
  DeviceRange range_;
  uint32_t committed_rows_ = 0;
  std::unique_ptr<DeviceStaging> staging_;  // while something is not flushed
};

}  // namespace msadb::index::internal

#endif  // MSADB_INDEX_DEVICE_ROWS_H_
