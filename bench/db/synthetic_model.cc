#include "bench/db/synthetic_model.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <mutex>
#include <random>

namespace msadb::bench {
namespace {

class SyntheticModel final : public model::Model {
 public:
  SyntheticModel(const SyntheticShape& shape, bool wants_pinned_content)
      : shape_(shape), wants_pinned_content_(wants_pinned_content) {}

  const std::string& fingerprint() const override { return fingerprint_; }
  const std::string& description() const override { return description_; }
  size_t kv_dim() const override { return shape_.dim; }
  size_t routing_layer_count() const override { return shape_.n_layers; }
  size_t chunk_tokens() const override { return 64; }
  size_t top_k() const override { return 16; }
  size_t document_tokens_max() const override { return 1 << 20; }
  std::string_view routing_metric() const override { return "cosine"; }
  bool wants_pinned_content() const override { return wants_pinned_content_; }
  Result<size_t> CountTokens(std::string_view) const override { return 64 * shape_.n_chunks; }
  Result<size_t> CountDocumentTokens(const model::DocumentInput&) const override {
    return 64 * shape_.n_chunks;
  }

  Result<std::vector<model::EncodedDocument>> EncodeDocuments(
      std::span<const model::DocumentInput> documents, const model::CallLimits&) override {
    std::lock_guard lock(mutex_);
    std::vector<model::EncodedDocument> encoded(documents.size());
    for (model::EncodedDocument& document : encoded) {
      document.n_tokens = 64 * shape_.n_chunks;
      document.n_chunks = shape_.n_chunks;
      const size_t rows = shape_.n_layers * shape_.n_chunks;
      document.routing_keys = RandomRows(rows);
      document.keys = document.routing_keys;
      document.values = document.routing_keys;
    }
    return encoded;
  }

  Result<std::vector<model::RoutedDocument>> Search(std::string_view, model::MemoryBank& bank,
                                                    size_t count,
                                                    const model::CallLimits&) override {
    std::vector<float> query;
    {
      std::lock_guard lock(mutex_);
      query = RandomRows(shape_.query_tokens);
    }
    std::vector<model::RoutedDocument> last;
    for (size_t layer = 0; layer < shape_.n_layers; ++layer) {
      MSADB_ASSIGN_OR_RETURN(
          last, bank.Route(static_cast<int>(layer), {query.data(), shape_.query_tokens, shape_.dim,
                                                     std::max(count, top_k())}));
    }
    last.resize(std::min(last.size(), count));
    return last;
  }

  Result<model::AnswerResult> Answer(std::string_view, model::MemoryBank&,
                                     const model::AnswerOptions&) override {
    return Status::Unsupported("a synthetic model does not answer");
  }

 private:
  std::vector<float> RandomRows(size_t rows) {
    std::vector<float> values(rows * shape_.dim);
    for (size_t row = 0; row < rows; ++row) {
      float* begin = values.data() + row * shape_.dim;
      float sum = 0;
      for (size_t d = 0; d < shape_.dim; ++d) {
        begin[d] = static_cast<float>(static_cast<int64_t>(random_() >> 40)) / (1 << 23) - 1.0f;
        sum += begin[d] * begin[d];
      }
      const float scale = 1.0f / std::sqrt(sum);
      for (size_t d = 0; d < shape_.dim; ++d) begin[d] *= scale;
    }
    return values;
  }

  const SyntheticShape shape_;
  const bool wants_pinned_content_;
  const std::string fingerprint_ = std::string(64, '5');
  const std::string description_ = "synthetic model of a benchmark";
  std::mutex mutex_;
  std::mt19937_64 random_{1};
};

}  // namespace

std::unique_ptr<model::Model> MakeSyntheticModel(const SyntheticShape& shape,
                                                 bool wants_pinned_content) {
  return std::make_unique<SyntheticModel>(shape, wants_pinned_content);
}

}  // namespace msadb::bench
