#include "index/segment.h"

#include <algorithm>
#include <cassert>
#include <cstring>

namespace msadb::index::internal {

Segment::Segment(const IndexConfig& config, uint32_t shard, uint32_t capacity_rows,
                 std::shared_ptr<ByteCounter> reserved)
    : n_layers_(config.n_layers),
      dim_(config.dim),
      key_type_(config.key_type),
      shard_(shard),
      capacity_rows_(capacity_rows),
      bytes_reserved_(capacity_rows * (RowBytes(config) + kDocumentBytes)),
      reserved_(std::move(reserved)) {
  if (!config.devices.empty()) {
    device_rows_ = std::make_unique<DeviceRows>(config.devices[shard], n_layers_, dim_, key_type_,
                                                capacity_rows);
  } else {
    layers_.reserve(n_layers_);
    keys_.reserve(n_layers_);
    for (int r = 0; r < n_layers_; ++r) {
      auto layer = std::make_unique<faiss::IndexFlatIP>(static_cast<faiss::Index::idx_t>(dim_));
      // Reserved, not resized: pages that no row was written to cost nothing, and data() is final.
      layer->codes.reserve(capacity_rows * layer->code_size);
      keys_.push_back(layer->get_xb());
      layers_.push_back(std::move(layer));
    }
  }
  numbers_ = std::make_unique_for_overwrite<DocumentNumber[]>(capacity_rows);
  row_begin_ = std::make_unique_for_overwrite<uint32_t[]>(size_t{capacity_rows} + 1);
  row_begin_[0] = 0;
  reserved_->fetch_add(bytes_reserved_, std::memory_order_relaxed);
}

Segment::~Segment() { reserved_->fetch_sub(bytes_reserved_, std::memory_order_relaxed); }

void Segment::Truncate(uint32_t n_documents) {
  assert(n_documents <= n_documents_);
  n_documents_ = n_documents;
  n_finished_ = std::min(n_finished_, n_documents);
  if (device_rows_ != nullptr) device_rows_->Discard();
  const uint32_t n_rows = row_begin_[n_documents];
  for (auto& layer : layers_) {
    layer->codes.resize(n_rows * layer->code_size);
    layer->ntotal = n_rows;
  }
}

void Segment::Append(DocumentNumber number, uint32_t n_chunks,
                     std::span<const float* const> layer_keys) {
  const uint32_t row = row_begin_[n_documents_];
  assert(n_chunks <= capacity_rows_ - row);
  if (device_rows_ != nullptr) device_rows_->Append(row, n_chunks, layer_keys);
  for (size_t r = 0; r < layers_.size(); ++r) {
    layers_[r]->add(n_chunks, layer_keys[r]);
    assert(layers_[r]->get_xb() == keys_[r]);
    if (key_type_ == KeyType::kInt8) {
      RoundKeysToInt8(layers_[r]->get_xb() + row * dim_, n_chunks, dim_);
    }
  }
  numbers_[n_documents_] = number;
  row_begin_[n_documents_ + 1] = row + n_chunks;
  ++n_documents_;
}

void Segment::AppendFrom(const Segment& from, uint32_t ordinal) {
  const uint32_t from_row = from.row_begin_[ordinal];
  const uint32_t n_chunks = from.row_begin_[ordinal + 1] - from_row;
  const uint32_t row = row_begin_[n_documents_];
  assert(n_chunks <= capacity_rows_ - row);
  if (device_rows_ != nullptr && device_rows_->device() == from.device_rows_->device()) {
    device_rows_->CopyFrom(*from.device_rows_, from_row, n_chunks, row);
    numbers_[n_documents_] = from.numbers_[ordinal];
    row_begin_[n_documents_ + 1] = row + n_chunks;
    ++n_documents_;
    return;
  }
  std::vector<const float*> layer_keys(n_layers_);
  std::vector<float> copy;
  if (device_rows_ != nullptr) copy.resize(n_layers_ * n_chunks * dim_);
  for (int r = 0; r < n_layers_; ++r) {
    if (device_rows_ == nullptr) {
      layer_keys[r] = from.keys(r) + from_row * dim_;
      continue;
    }
    float* layer = copy.data() + r * n_chunks * dim_;
    from.Read(r, from_row, n_chunks, layer);
    layer_keys[r] = layer;
  }
  Append(from.numbers_[ordinal], n_chunks, layer_keys);
}

void Segment::Finish() {
  if (device_rows_ != nullptr) device_rows_->Flush(row_begin_.get(), n_finished_, n_documents_);
  n_finished_ = n_documents_;
}

void Segment::Read(int layer, uint32_t row, uint32_t n_rows, float* out) const {
  if (device_rows_ != nullptr) return device_rows_->Read(layer, row, n_rows, out);
  std::memcpy(out, keys_[layer] + row * dim_, n_rows * dim_ * sizeof(float));
}

}  // namespace msadb::index::internal
