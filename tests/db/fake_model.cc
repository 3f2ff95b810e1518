#include "tests/db/fake_model.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <map>
#include <sstream>

#include "db/loaded_model.h"
#include "kernels/dtype.h"

namespace msadb::db {
namespace {

constexpr size_t kLayers = 2;
constexpr size_t kDim = 32;
constexpr size_t kChunkTokens = 8;
std::atomic<uint64_t> documents_encoded{0};

uint64_t Mix(uint64_t x) {
  x += 0x9E3779B97F4A7C15ull;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
  return x ^ (x >> 31);
}

uint64_t Hash(std::string_view word) {
  uint64_t h = 1469598103934665603ull;
  for (const char c : word) h = (h ^ static_cast<unsigned char>(c)) * 1099511628211ull;
  return Mix(h);
}

// Adds the word's direction to `row`.
void AddWord(uint64_t hash, size_t layer, float* row) {
  for (size_t d = 0; d < kDim; ++d) {
    row[d] += Mix(hash + layer * 1000 + d) & 1 ? 1.0f : -1.0f;
  }
}

void Normalise(float* row) {
  float sum = 0;
  for (size_t d = 0; d < kDim; ++d) sum += row[d] * row[d];
  if (sum == 0) row[0] = sum = 1;
  const float scale = 1.0f / std::sqrt(sum);
  for (size_t d = 0; d < kDim; ++d) row[d] *= scale;
}

std::vector<std::string> Words(std::string_view text) {
  std::istringstream in{std::string(text)};
  std::vector<std::string> words;
  for (std::string word; in >> word;) words.push_back(word);
  return words;
}

class FakeModel final : public model::Model {
 public:
  explicit FakeModel(const FakeModelOptions& options)
      : options_(options), description_("fake model " + options.fingerprint.substr(0, 4)) {}

  const std::string& fingerprint() const override { return options_.fingerprint; }
  const std::string& description() const override { return description_; }
  size_t kv_dim() const override { return kDim; }
  size_t routing_layer_count() const override { return kLayers; }
  size_t chunk_tokens() const override { return kChunkTokens; }
  size_t top_k() const override { return 4; }
  size_t document_tokens_max() const override { return options_.document_tokens_max; }
  std::string_view routing_metric() const override { return "cosine"; }
  bool wants_pinned_content() const override { return options_.wants_pinned_content; }

  Result<size_t> CountTokens(std::string_view text) const override { return Words(text).size(); }
  Result<size_t> CountDocumentTokens(const model::DocumentInput& document) const override {
    return Words(document.text).size() + 1;
  }

  Result<std::vector<model::EncodedDocument>> EncodeDocuments(
      std::span<const model::DocumentInput> documents, const model::CallLimits&) override {
    std::vector<model::EncodedDocument> encoded;
    for (const model::DocumentInput& document : documents) {
      if (Words(document.text).size() + 1 > options_.document_tokens_max) {
        return Status::InvalidArgument("too many tokens");
      }
      encoded.push_back(Encode(document));
      ++documents_encoded;
    }
    return encoded;
  }

  Result<std::vector<model::RoutedDocument>> Search(std::string_view query, model::MemoryBank& bank,
                                                    size_t count,
                                                    const model::CallLimits&) override {
    std::map<model::DocumentNumber, float> scores;
    for (size_t layer = 0; layer < kLayers; ++layer) {
      MSADB_ASSIGN_OR_RETURN(const auto routed, Route(query, bank, layer, count));
      for (const auto& document : routed) scores[document.number] += document.score / kLayers;
    }
    std::vector<model::RoutedDocument> ranked;
    for (const auto& [number, score] : scores) ranked.push_back({number, score});
    std::stable_sort(ranked.begin(), ranked.end(),
                     [](const auto& a, const auto& b) { return a.score > b.score; });
    ranked.resize(std::min(ranked.size(), count));
    return ranked;
  }

  // "[n] text of n" for the best document.
  Result<model::AnswerResult> Answer(std::string_view question, model::MemoryBank& bank,
                                     const model::AnswerOptions& options) override {
    if (options_.on_answer) options_.on_answer(options.limits.stop);
    model::AnswerResult result;
    if (options.limits.stop.stop_requested()) return Status::Cancelled("stopped");
    if (options.limits.deadline && *options.limits.deadline <= std::chrono::steady_clock::now()) {
      return Status::DeadlineExceeded("too late");
    }
    MSADB_ASSIGN_OR_RETURN(const auto routed, Route(question, bank, 0, top_k()));
    if (bank.document_count() == 0 || routed.empty()) {
      result.text = "I do not know.";
      return result;
    }
    bank.Prefetch(std::vector<model::DocumentNumber>{routed[0].number});
    model::RoundTrace& round = result.rounds.emplace_back();
    for (size_t layer = 0; layer < kLayers; ++layer) {
      MSADB_RETURN_IF_ERROR(CheckContent(bank, layer, routed));
      round.layers.push_back({static_cast<int>(layer + 7), routed});
    }
    MSADB_ASSIGN_OR_RETURN(const std::string text, bank.Text(routed[0].number));
    round.generated = {routed[0].number, 999'999'999};
    round.appended = {routed[0].number};
    for (const std::string& piece : {"[" + std::to_string(routed[0].number) + "] ", text}) {
      result.text += piece;
      ++result.generated_tokens;
      if (options.on_text && !options.on_text(piece)) return Status::Cancelled("by on_text");
    }
    result.citations.push_back({routed[0].number, true, true});
    return result;
  }

 private:
  static model::EncodedDocument Encode(const model::DocumentInput& document) {
    std::vector<std::string> words = Words(document.text);
    words.insert(words.begin(), std::to_string(document.number));
    model::EncodedDocument encoded;
    encoded.n_tokens = static_cast<uint32_t>(words.size());
    encoded.n_chunks = static_cast<uint32_t>((words.size() + kChunkTokens - 1) / kChunkTokens);
    const size_t elements = kLayers * encoded.n_chunks * kDim;
    encoded.routing_keys.assign(elements, 0);
    encoded.keys.assign(elements, 0);
    encoded.values.assign(elements, 0);
    for (size_t layer = 0; layer < kLayers; ++layer) {
      for (size_t chunk = 0; chunk < encoded.n_chunks; ++chunk) {
        const size_t row = (layer * encoded.n_chunks + chunk) * kDim;
        uint64_t content = Mix(document.number * 64 + layer);
        const size_t end = std::min(words.size(), (chunk + 1) * kChunkTokens);
        for (size_t w = chunk * kChunkTokens; w < end; ++w) {
          // The number does not route: it would pull everything towards it.
          if (w > 0) AddWord(Hash(words[w]), layer, encoded.routing_keys.data() + row);
          content = Mix(content ^ Hash(words[w]));
        }
        Normalise(encoded.routing_keys.data() + row);
        for (size_t d = 0; d < kDim; ++d) {
          encoded.keys[row + d] = static_cast<float>(Mix(content + d) % 2000) / 100.0f - 10.0f;
          encoded.values[row + d] = static_cast<float>(Mix(~content + d) % 2000) / 100.0f - 10.0f;
        }
      }
    }
    return encoded;
  }

  static Result<std::vector<model::RoutedDocument>> Route(std::string_view query,
                                                          model::MemoryBank& bank, size_t layer,
                                                          size_t count) {
    float row[kDim] = {};
    for (const std::string& word : Words(query)) AddWord(Hash(word), layer, row);
    Normalise(row);
    return bank.Route(static_cast<int>(layer), {row, 1, kDim, count});
  }

  static Status CheckContent(model::MemoryBank& bank, size_t layer,
                             const std::vector<model::RoutedDocument>& routed) {
    std::vector<model::DocumentNumber> numbers;
    for (const auto& document : routed) numbers.push_back(document.number);
    std::sort(numbers.begin(), numbers.end());
    model::ContentBlocks blocks;
    MSADB_RETURN_IF_ERROR(bank.Fetch(static_cast<int>(layer), numbers, &blocks));
    size_t row = 0;
    for (const model::DocumentNumber number : numbers) {
      MSADB_ASSIGN_OR_RETURN(const std::string text, bank.Text(number));
      const model::EncodedDocument expected = Encode({number, text});
      for (size_t chunk = 0; chunk < expected.n_chunks; ++chunk, ++row) {
        for (size_t d = 0; d < kDim; ++d) {
          const size_t from = (layer * expected.n_chunks + chunk) * kDim + d;
          if (row >= blocks.n_rows || !Same(blocks.key_rows[row][d], expected.keys[from]) ||
              !Same(blocks.value_rows[row][d], expected.values[from])) {
            return Status::Internal("content of part " + std::to_string(number) +
                                    " is not what was encoded");
          }
        }
      }
    }
    if (row != blocks.n_rows) return Status::Internal("Fetch returned more rows than were asked");
    return Status::Ok();
  }

  static bool Same(uint16_t stored, float exact) { return stored == kernels::F32ToBf16(exact); }

  const FakeModelOptions options_;
  const std::string description_;
};

}  // namespace

std::shared_ptr<LoadedModel> MakeFakeModel(const FakeModelOptions& options) {
  return std::make_shared<LoadedModelImpl>(std::make_unique<FakeModel>(options));
}

uint64_t FakeDocumentsEncoded() { return documents_encoded; }

}  // namespace msadb::db
