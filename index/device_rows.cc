#include "index/device_rows.h"

#include <algorithm>
#include <cassert>
#include <cstring>

#include "index/device_context.h"
#include "kernels/dtype.h"

namespace msadb::index::internal {
namespace {

size_t PlaneBytes(uint32_t rows, size_t row_bytes) { return (rows * row_bytes + 255) / 256 * 256; }

// Memory put behind each plane beyond what a write needs, so that a stream of small inserts does
// not call the driver for each: an eighth of what is there, at most this.
constexpr size_t kAheadBytesMax = size_t{32} << 20;

}  // namespace

DeviceRows::DeviceRows(int device, int n_layers, size_t dim, uint32_t capacity_rows)
    : device_(device),
      n_layers_(n_layers),
      dim_(dim),
      row_bytes_(PaddedDim(dim) * sizeof(uint16_t)),
      capacity_rows_(capacity_rows),
      plane_bytes_(PlaneBytes(capacity_rows, row_bytes_)),
      range_(device, n_layers * plane_bytes_ + (size_t{capacity_rows} + 1) * sizeof(uint32_t)) {}

DeviceRows::~DeviceRows() { Discard(); }

void DeviceRows::Commit(uint32_t rows) {
  if (rows <= committed_rows_) return;
  const size_t ahead = std::min<size_t>(rows / 8, kAheadBytesMax / row_bytes_);
  const auto target =
      static_cast<uint32_t>(std::min<size_t>(capacity_rows_, std::max<size_t>(rows + ahead, rows)));
  for (int r = 0; r < n_layers_; ++r) {
    range_.Commit(r * plane_bytes_ + committed_rows_ * row_bytes_,
                  r * plane_bytes_ + target * row_bytes_);
  }
  const size_t table = n_layers_ * plane_bytes_;
  range_.Commit(table, table + (size_t{target} + 1) * sizeof(uint32_t));
  committed_rows_ = target;
}

void DeviceRows::Append(uint32_t row, uint32_t n_chunks, std::span<const float* const> layer_keys) {
  if (staging_ == nullptr) staging_ = DeviceContext::Get(device_).TakeStaging();
  DeviceStaging& staging = *staging_;
  const auto rows_max = static_cast<uint32_t>(
      std::max<size_t>(1, DeviceStaging::kHalfBytes / (n_layers_ * row_bytes_)));
  assert(rows_max * n_layers_ * row_bytes_ <= DeviceStaging::kHalfBytes);
  const size_t padded = PaddedDim(dim_);
  for (uint32_t done = 0; done < n_chunks;) {
    if (staging.n_rows == rows_max) Submit();
    if (staging.n_rows == 0) staging.first_row = row + done;
    assert(staging.first_row + staging.n_rows == row + done);
    const uint32_t taken = std::min(n_chunks - done, rows_max - staging.n_rows);
    for (int r = 0; r < n_layers_; ++r) {
      const float* from = layer_keys[r] + done * dim_;
      auto* to = reinterpret_cast<uint16_t*>(staging.memory.as<char>() +
                                             staging.half * DeviceStaging::kHalfBytes) +
                 (size_t{rows_max} * r + staging.n_rows) * padded;
      if (padded == dim_) {
        kernels::ConvertF32ToF16(from, to, taken * dim_);
        continue;
      }
      for (uint32_t i = 0; i < taken; ++i, from += dim_, to += padded) {
        kernels::ConvertF32ToF16(from, to, dim_);
        std::fill(to + dim_, to + padded, uint16_t{0});
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
  const size_t rows_max = std::max<size_t>(1, DeviceStaging::kHalfBytes / (n_layers_ * row_bytes_));
  const char* from = staging.memory.as<char>() + staging.half * DeviceStaging::kHalfBytes;
  for (int r = 0; r < n_layers_; ++r) {
    CheckCuda(cudaMemcpyAsync(range_.data() + r * plane_bytes_ + staging.first_row * row_bytes_,
                              from + r * rows_max * row_bytes_, staging.n_rows * row_bytes_,
                              cudaMemcpyHostToDevice, staging.stream),
              "copying routing keys to the GPU");
  }
  CheckCuda(cudaEventRecord(staging.copied[staging.half], staging.stream), "cudaEventRecord");
  staging.half ^= 1;
  staging.n_rows = 0;
  CheckCuda(cudaEventSynchronize(staging.copied[staging.half]), "cudaEventSynchronize");
}

void DeviceRows::CopyFrom(const DeviceRows& from, uint32_t from_row, uint32_t n_rows,
                          uint32_t row) {
  assert(from.device_ == device_ && from.row_bytes_ == row_bytes_);
  if (staging_ == nullptr) staging_ = DeviceContext::Get(device_).TakeStaging();
  Submit();
  Commit(row + n_rows);
  const DeviceScope scope(device_);
  for (int r = 0; r < n_layers_; ++r) {
    CheckCuda(cudaMemcpyAsync(range_.data() + r * plane_bytes_ + row * row_bytes_,
                              static_cast<const char*>(from.keys(r)) + from_row * row_bytes_,
                              n_rows * row_bytes_, cudaMemcpyDeviceToDevice, staging_->stream),
              "copying routing keys on the GPU");
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
  std::vector<uint16_t> bits(n_rows * PaddedDim(dim_));
  CheckCuda(cudaMemcpy(bits.data(), static_cast<const char*>(keys(layer)) + row * row_bytes_,
                       n_rows * row_bytes_, cudaMemcpyDeviceToHost),
            "reading routing keys from the GPU");
  for (uint32_t i = 0; i < n_rows; ++i) {
    kernels::ConvertF16ToF32(bits.data() + i * PaddedDim(dim_), out + i * dim_, dim_);
  }
}

}  // namespace msadb::index::internal
