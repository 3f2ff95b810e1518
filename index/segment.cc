#include "index/segment.h"

#include <cassert>

namespace msadb::index::internal {

Segment::Segment(int n_layers, size_t dim, uint32_t capacity_rows,
                 std::shared_ptr<ByteCounter> reserved)
    : capacity_rows_(capacity_rows),
      bytes_reserved_(capacity_rows * (RowBytes(n_layers, dim) + kDocumentBytes)),
      reserved_(std::move(reserved)) {
  layers_.reserve(n_layers);
  keys_.reserve(n_layers);
  for (int r = 0; r < n_layers; ++r) {
    auto layer = std::make_unique<faiss::IndexFlatIP>(static_cast<faiss::Index::idx_t>(dim));
    // Reserved, not resized: pages that no row was written to cost nothing, and data() is final.
    layer->codes.reserve(capacity_rows * layer->code_size);
    keys_.push_back(layer->get_xb());
    layers_.push_back(std::move(layer));
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
  for (size_t r = 0; r < layers_.size(); ++r) {
    layers_[r]->add(n_chunks, layer_keys[r]);
    assert(layers_[r]->get_xb() == keys_[r]);
  }
  numbers_[n_documents_] = number;
  row_begin_[n_documents_ + 1] = row + n_chunks;
  ++n_documents_;
}

}  // namespace msadb::index::internal
