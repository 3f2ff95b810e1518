#include "index/device_rows.h"

#include <algorithm>
#include <cassert>
#include <cstring>

#include "index/device_context.h"
#include "index/key_rounding.h"
#include "kernels/dtype.h"

namespace msadb::index::internal {
namespace {

size_t PlaneBytes(uint32_t rows, size_t row_bytes) { return (rows * row_bytes + 255) / 256 * 256; }

// Memory put behind each plane beyond what a write needs, so that a stream of small inserts does
// not call the driver for each: an eighth of what is there, at most this.
constexpr size_t kAheadBytesMax = size_t{32} << 20;

}  // namespace

DeviceRows::DeviceRows(int device, int n_layers, size_t dim, KeyType type, uint32_t capacity_rows)
    : device_(device),
      n_layers_(n_layers),
      dim_(dim),
      type_(type),
      padded_dim_(PaddedDim(dim, type)),
      row_bytes_(padded_dim_ * ValueBytes(type)),
      scale_bytes_(ScaleBytes(type)),
      capacity_rows_(capacity_rows),
      plane_bytes_(PlaneBytes(capacity_rows, row_bytes_)),
      scale_plane_bytes_(PlaneBytes(capacity_rows, scale_bytes_)),
      range_(device, TableAt() + (size_t{capacity_rows} + 1) * sizeof(uint32_t)) {}

DeviceRows::~DeviceRows() { Discard(); }

uint32_t DeviceRows::StagedRowsMax() const {
  const size_t bytes = n_layers_ * (row_bytes_ + scale_bytes_);
  assert(bytes <= DeviceStaging::kHalfBytes);
  return static_cast<uint32_t>(DeviceStaging::kHalfBytes / bytes);
}

void DeviceRows::Commit(uint32_t rows) {
  if (rows <= committed_rows_) return;
  const size_t ahead = std::min<size_t>(rows / 8, kAheadBytesMax / row_bytes_);
  const auto target =
      static_cast<uint32_t>(std::min<size_t>(capacity_rows_, std::max<size_t>(rows + ahead, rows)));
  for (int r = 0; r < n_layers_; ++r) {
    range_.Commit(r * plane_bytes_ + committed_rows_ * row_bytes_,
                  r * plane_bytes_ + target * row_bytes_);
    if (scale_bytes_ == 0) continue;
    range_.Commit(ScalesAt(r) + committed_rows_ * scale_bytes_,
                  ScalesAt(r) + target * scale_bytes_);
  }
  range_.Commit(TableAt(), TableAt() + (size_t{target} + 1) * sizeof(uint32_t));
  committed_rows_ = target;
}

void DeviceRows::Append(uint32_t row, uint32_t n_chunks, std::span<const float* const> layer_keys) {
  if (staging_ == nullptr) staging_ = DeviceContext::Get(device_).TakeStaging();
  DeviceStaging& staging = *staging_;
  const uint32_t rows_max = StagedRowsMax();
  for (uint32_t done = 0; done < n_chunks;) {
    if (staging.n_rows == rows_max) Submit();
    if (staging.n_rows == 0) staging.first_row = row + done;
    assert(staging.first_row + staging.n_rows == row + done);
    const uint32_t taken = std::min(n_chunks - done, rows_max - staging.n_rows);
    char* const half = staging.memory.as<char>() + staging.half * DeviceStaging::kHalfBytes;
    for (int r = 0; r < n_layers_; ++r) {
      const float* from = layer_keys[r] + done * dim_;
      const size_t first = size_t{rows_max} * r + staging.n_rows;
      char* to = half + first * row_bytes_;
      if (type_ == KeyType::kInt8) {
        auto* scales =
            reinterpret_cast<float*>(half + size_t{rows_max} * n_layers_ * row_bytes_) + first;
        for (uint32_t i = 0; i < taken; ++i, from += dim_, to += row_bytes_) {
          auto* values = reinterpret_cast<int8_t*>(to);
          scales[i] = RoundKey(from, dim_, values);
          std::fill(values + dim_, values + padded_dim_, int8_t{0});
        }
        continue;
      }
      if (padded_dim_ == dim_) {
        kernels::ConvertF32ToF16(from, reinterpret_cast<uint16_t*>(to), taken * dim_);
        continue;
      }
      for (uint32_t i = 0; i < taken; ++i, from += dim_, to += row_bytes_) {
        auto* values = reinterpret_cast<uint16_t*>(to);
        kernels::ConvertF32ToF16(from, values, dim_);
        std::fill(values + dim_, values + padded_dim_, uint16_t{0});
      }
    }
    staging.n_rows += taken;
    done += taken;
  }
}

void DeviceRows::Submit() {
  DeviceStaging& staging = *staging_;
  if (staging.n_rows == 0) return;
  Commit(staging.first_row + staging.n_rows);
  const DeviceScope scope(device_);
  const uint32_t rows_max = StagedRowsMax();
  const char* half = staging.memory.as<char>() + staging.half * DeviceStaging::kHalfBytes;
  const char* scales = half + size_t{rows_max} * n_layers_ * row_bytes_;
  const auto copy = [&](size_t to, const char* from, size_t bytes) {
    CheckCuda(
        cudaMemcpyAsync(range_.data() + to, from, bytes, cudaMemcpyHostToDevice, staging.stream),
        "copying routing keys to the GPU");
  };
  for (int r = 0; r < n_layers_; ++r) {
    const size_t first = size_t{rows_max} * r;
    copy(r * plane_bytes_ + staging.first_row * row_bytes_, half + first * row_bytes_,
         staging.n_rows * row_bytes_);
    if (scale_bytes_ == 0) continue;
    copy(ScalesAt(r) + staging.first_row * scale_bytes_, scales + first * scale_bytes_,
         staging.n_rows * scale_bytes_);
  }
  CheckCuda(cudaEventRecord(staging.copied[staging.half], staging.stream), "cudaEventRecord");
  staging.half ^= 1;
  staging.n_rows = 0;
  CheckCuda(cudaEventSynchronize(staging.copied[staging.half]), "cudaEventSynchronize");
}

void DeviceRows::CopyFrom(const DeviceRows& from, uint32_t from_row, uint32_t n_rows,
                          uint32_t row) {
  assert(from.device_ == device_ && from.row_bytes_ == row_bytes_ && from.type_ == type_);
  if (staging_ == nullptr) staging_ = DeviceContext::Get(device_).TakeStaging();
  Submit();
  Commit(row + n_rows);
  const DeviceScope scope(device_);
  const auto copy = [&](size_t to, const void* source, size_t bytes) {
    CheckCuda(cudaMemcpyAsync(range_.data() + to, source, bytes, cudaMemcpyDeviceToDevice,
                              staging_->stream),
              "copying routing keys on the GPU");
  };
  for (int r = 0; r < n_layers_; ++r) {
    copy(r * plane_bytes_ + row * row_bytes_,
         static_cast<const char*>(from.keys(r)) + from_row * row_bytes_, n_rows * row_bytes_);
    if (scale_bytes_ == 0) continue;
    copy(ScalesAt(r) + row * scale_bytes_, from.scales(r) + from_row, n_rows * scale_bytes_);
  }
}

void DeviceRows::Flush(const uint32_t* row_begin, uint32_t first, uint32_t n_documents) {
  if (staging_ == nullptr) return;
  Submit();
  {
    const DeviceScope scope(device_);
    // Entry `first` is in readers' use already, unless it is the very first.
    const uint32_t begin = first == 0 ? 0 : first + 1;
    CheckCuda(cudaMemcpyAsync(const_cast<uint32_t*>(this->row_begin()) + begin, row_begin + begin,
                              (size_t{n_documents} + 1 - begin) * sizeof(uint32_t),
                              cudaMemcpyHostToDevice, staging_->stream),
              "copying the document table to the GPU");
    CheckCuda(cudaStreamSynchronize(staging_->stream), "writing routing keys");
  }
  Discard();
}

void DeviceRows::Discard() {
  if (staging_ != nullptr) DeviceContext::Get(device_).Return(std::move(staging_));
}

void DeviceRows::Read(int layer, uint32_t row, uint32_t n_rows, float* out) const {
  const DeviceScope scope(device_);
  const auto fetch = [](void* to, const void* from, size_t bytes) {
    CheckCuda(cudaMemcpy(to, from, bytes, cudaMemcpyDeviceToHost),
              "reading routing keys from the GPU");
  };
  std::vector<char> rows(n_rows * row_bytes_);
  fetch(rows.data(), static_cast<const char*>(keys(layer)) + row * row_bytes_, rows.size());
  std::vector<float> row_scales(type_ == KeyType::kInt8 ? n_rows : 0);
  if (type_ == KeyType::kInt8) {
    fetch(row_scales.data(), scales(layer) + row, n_rows * scale_bytes_);
  }
  for (uint32_t i = 0; i < n_rows; ++i) {
    const char* from = rows.data() + i * row_bytes_;
    if (type_ == KeyType::kInt8) {
      ExpandKey(reinterpret_cast<const int8_t*>(from), row_scales[i], dim_, out + i * dim_);
    } else {
      kernels::ConvertF16ToF32(reinterpret_cast<const uint16_t*>(from), out + i * dim_, dim_);
    }
  }
}

}  // namespace msadb::index::internal
