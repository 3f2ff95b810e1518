// A memory held in std::vectors, searched by brute force: what the model's tests run against, and
// the plainest statement of what a MemoryBank must do.
#ifndef MSADB_TESTS_MODEL_VECTOR_BANK_H_
#define MSADB_TESTS_MODEL_VECTOR_BANK_H_

#include <algorithm>
#include <limits>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "model/memory_bank.h"

namespace msadb::model {

class VectorBank : public MemoryBank {
 public:
  explicit VectorBank(size_t kv_dim) : kv_dim_(kv_dim) {}

  void Add(DocumentNumber number, EncodedDocument memory, std::string text) {
    documents_[number] = {std::move(memory), std::move(text)};
  }
  void Remove(DocumentNumber number) { documents_.erase(number); }
  const EncodedDocument& memory(DocumentNumber number) const {
    return documents_.at(number).memory;
  }

  // What was asked of the bank, in order.
  struct Call {
    int r;
    size_t n_tokens;
    size_t top_k;
    std::vector<float> queries;
  };
  const std::vector<Call>& routes() const { return routes_; }
  void ClearCalls() { routes_.clear(); }
  // Every call of the kind fails with this from then on.
  void FailRoute(Status status) { route_status_ = std::move(status); }
  void FailFetch(Status status) { fetch_status_ = std::move(status); }

  // The score of every document in routing layer r, ascending number.
  std::vector<RoutedDocument> Scores(int r, const RouteQuery& query) const {
    std::vector<RoutedDocument> scores;
    for (const auto& [number, document] : documents_) {
      float best = -std::numeric_limits<float>::infinity();
      for (size_t c = 0; c < document.memory.n_chunks; ++c) {
        const float* key = document.memory.routing_keys.data() + Row(document.memory, r, c);
        for (size_t t = 0; t < query.n_tokens; ++t) {
          float dot = 0;
          for (size_t d = 0; d < kv_dim_; ++d) dot += query.queries[t * kv_dim_ + d] * key[d];
          best = std::max(best, dot);
        }
      }
      scores.push_back({number, best});
    }
    return scores;
  }

  size_t document_count() const override { return documents_.size(); }

  Result<std::vector<RoutedDocument>> Route(int r, const RouteQuery& query) override {
    routes_.push_back({r,
                       query.n_tokens,
                       query.top_k,
                       {query.queries, query.queries + query.n_tokens * query.kv_dim}});
    if (!route_status_.ok()) return route_status_;
    std::vector<RoutedDocument> scores = Scores(r, query);
    std::stable_sort(scores.begin(), scores.end(),
                     [](const auto& a, const auto& b) { return a.score > b.score; });
    scores.resize(std::min(scores.size(), query.top_k));
    return scores;
  }

  Status Fetch(int r, std::span<const DocumentNumber> numbers, ContentBlocks* out) override {
    if (!fetch_status_.ok()) return fetch_status_;
    out->keys.clear();
    out->values.clear();
    out->n_rows = 0;
    for (DocumentNumber number : numbers) {
      const auto found = documents_.find(number);
      if (found == documents_.end()) {
        return Status::NotFound("no document " + std::to_string(number));
      }
      const EncodedDocument& memory = found->second.memory;
      const size_t begin = Row(memory, r, 0), end = Row(memory, r, memory.n_chunks);
      out->keys.insert(out->keys.end(), memory.keys.begin() + begin, memory.keys.begin() + end);
      out->values.insert(out->values.end(), memory.values.begin() + begin,
                         memory.values.begin() + end);
      out->n_rows += memory.n_chunks;
    }
    return Status::Ok();
  }

  Result<std::string> Text(DocumentNumber number) override {
    const auto found = documents_.find(number);
    if (found == documents_.end()) {
      return Status::NotFound("no document " + std::to_string(number));
    }
    return found->second.text;
  }

 private:
  struct Document {
    EncodedDocument memory;
    std::string text;
  };
  ptrdiff_t Row(const EncodedDocument& memory, int r, size_t chunk) const {
    return static_cast<ptrdiff_t>((static_cast<size_t>(r) * memory.n_chunks + chunk) * kv_dim_);
  }

  const size_t kv_dim_;
  std::map<DocumentNumber, Document> documents_;
  std::vector<Call> routes_;
  Status route_status_, fetch_status_;
};

}  // namespace msadb::model

#endif  // MSADB_TESTS_MODEL_VECTOR_BANK_H_
