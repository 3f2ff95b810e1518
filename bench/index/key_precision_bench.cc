// What 8-bit routing keys cost: how many of the best documents by float16 keys are still
// among the best by 8-bit ones, for questions over made-up notes with a real model.
//
//   key_precision_bench --model FOLDER [--device cpu] [--documents 2000] [--questions 40] [--k 16]
//
// Forms: int8 and fp8 (e4m3), a scale for every chunk of a layer; "keys": queries stay float32,
// "both": queries are 8-bit too, a scale for every token, as tensor cores would multiply them.
// Columns: recall at k, and how many of the best k are among the 2k and 4k best by 8 bits (what a
// second pass over float16 keys, in host memory, could restore); how often the first is the same.
// Means over questions and routing layers, with the worst layer's recall.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "index/routing_index.h"
#include "kernels/dtype.h"
#include "model/model.h"

namespace msadb::model {
namespace {

[[noreturn]] void Fail(const std::string& what) {
  std::fprintf(stderr, "key_precision_bench: %s\n", what.c_str());
  std::exit(1);
}

template <typename T>
T Take(Result<T> result) {
  if (!result.ok()) Fail(result.status().ToString());
  return std::move(result).value();
}

// As the index does (Options::routing_keys).
void RoundInt8(float* row, size_t n) { index::RoundKeysToInt8(row, 1, n); }

// To the nearest e4m3 number (3 bits after the point, 2^-6 the smallest normal), the largest
// magnitude at 448.
void RoundFp8(float* row, size_t n) {
  float largest = 0;
  for (size_t i = 0; i < n; ++i) largest = std::max(largest, std::abs(row[i]));
  if (largest == 0) return;
  const float scale = 448 / largest;
  for (size_t i = 0; i < n; ++i) {
    const float x = row[i] * scale;
    const int exponent = x == 0 ? -6 : std::max(std::ilogb(x), -6);
    const float step = std::ldexp(1.0f, exponent - 3);
    row[i] = std::nearbyint(x / step) * step / scale;
  }
}

void RoundFp16(float* row, size_t n) {
  for (size_t i = 0; i < n; ++i) row[i] = kernels::F16ToF32(kernels::F32ToF16(row[i]));
}

struct Form {
  const char* name;
  void (*round)(float* row, size_t n);
  bool queries;
};
constexpr Form kForms[] = {{"int8 keys", RoundInt8, false},
                           {"int8 both", RoundInt8, true},
                           {"fp8 keys", RoundFp8, false},
                           {"fp8 both", RoundFp8, true}};
constexpr size_t kFormCount = std::size(kForms);

struct Tally {
  double recall = 0, twice = 0, four = 0, first = 0;
  size_t count = 0;
};

// Answers by float16 keys and counts what the 8-bit forms would have found.
class ComparingBank : public MemoryBank {
 public:
  ComparingBank(const Model& model, size_t k)
      : k_(k), dim_(model.kv_dim()), n_layers_(model.routing_layer_count()), tallies_(kFormCount) {
    for (auto& tally : tallies_) tally.resize(n_layers_);
    keys_.resize(n_layers_);
    for (auto& layer : keys_) layer.resize(kFormCount + 1);
  }

  void Add(const EncodedDocument& document) {
    for (size_t r = 0; r < n_layers_; ++r) {
      const float* const from = document.routing_keys.data() + r * document.n_chunks * dim_;
      for (size_t form = 0; form <= kFormCount; ++form) {
        std::vector<float> rows(from, from + document.n_chunks * dim_);
        for (size_t c = 0; c < document.n_chunks; ++c) {
          RoundFp16(rows.data() + c * dim_, dim_);
          if (form < kFormCount) kForms[form].round(rows.data() + c * dim_, dim_);
        }
        keys_[r][form].insert(keys_[r][form].end(), rows.begin(), rows.end());
      }
    }
    chunk_begin_.push_back(chunk_begin_.back() + document.n_chunks);
  }

  size_t document_count() const override { return chunk_begin_.size() - 1; }
  Result<std::vector<RoutedDocument>> Route(int r, const RouteQuery& query) override {
    const std::vector<float> queries(query.queries, query.queries + query.n_tokens * dim_);
    const auto exact = Ranked(keys_[static_cast<size_t>(r)][kFormCount], queries);
    for (size_t form = 0; form < kFormCount; ++form) {
      std::vector<float> rounded = queries;
      if (kForms[form].queries) {
        for (size_t t = 0; t < query.n_tokens; ++t) {
          kForms[form].round(rounded.data() + t * dim_, dim_);
        }
      }
      const auto found = Ranked(keys_[static_cast<size_t>(r)][form], rounded);
      Tally& tally = tallies_[form][static_cast<size_t>(r)];
      tally.recall += Recall(exact, found, k_);
      tally.twice += Recall(exact, found, 2 * k_);
      tally.four += Recall(exact, found, 4 * k_);
      tally.first += exact[0].number == found[0].number;
      ++tally.count;
    }
    return std::vector<RoutedDocument>(exact.begin(),
                                       exact.begin() + std::min(query.top_k, exact.size()));
  }
  Status Fetch(int, std::span<const DocumentNumber>, ContentBlocks* out) override {
    out->Clear();  // what the documents say changes later layers' queries, not the comparison
    return Status::Ok();
  }
  Result<std::string> Text(DocumentNumber) override { return Status::NotFound("no texts"); }

  void Print() const {
    std::printf("%-10s %9s %12s %9s %9s %11s\n", "form", "recall", "worst layer", "in 2k", "in 4k",
                "same first");
    for (size_t form = 0; form < kFormCount; ++form) {
      Tally sum;
      double worst = 1;
      for (const Tally& tally : tallies_[form]) {
        sum.recall += tally.recall, sum.twice += tally.twice, sum.four += tally.four;
        sum.first += tally.first, sum.count += tally.count;
        if (tally.count > 0) {
          worst = std::min(worst, tally.recall / static_cast<double>(tally.count));
        }
      }
      const auto n = static_cast<double>(sum.count);
      std::printf("%-10s %9.4f %12.4f %9.4f %9.4f %11.4f\n", kForms[form].name, sum.recall / n,
                  worst, sum.twice / n, sum.four / n, sum.first / n);
    }
  }

 private:
  // The best 4 k documents.
  std::vector<RoutedDocument> Ranked(const std::vector<float>& keys,
                                     const std::vector<float>& queries) const {
    std::vector<RoutedDocument> documents(document_count());
#pragma omp parallel for
    for (size_t d = 0; d < documents.size(); ++d) {
      float best = -INFINITY;
      for (size_t c = chunk_begin_[d]; c < chunk_begin_[d + 1]; ++c) {
        for (size_t t = 0; t < queries.size(); t += dim_) {
          float dot = 0;
          const float* const key = keys.data() + c * dim_;
          const float* const q = queries.data() + t;
#pragma omp simd reduction(+ : dot)
          for (size_t i = 0; i < dim_; ++i) dot += q[i] * key[i];
          best = std::max(best, dot);
        }
      }
      documents[d] = {d + 1, best};
    }
    const size_t wanted = std::min(4 * k_, documents.size());
    std::partial_sort(documents.begin(), documents.begin() + wanted, documents.end(),
                      [](const auto& a, const auto& b) {
                        return a.score != b.score ? a.score > b.score : a.number < b.number;
                      });
    documents.resize(wanted);
    return documents;
  }

  // The share of the best k of `exact` among the best `limit` of `found`.
  double Recall(const std::vector<RoutedDocument>& exact, const std::vector<RoutedDocument>& found,
                size_t limit) const {
    const size_t n = std::min(k_, exact.size());
    const auto end = found.begin() + std::min(limit, found.size());
    size_t hits = 0;
    for (size_t i = 0; i < n; ++i) {
      hits += std::any_of(found.begin(), end,
                          [&](const auto& f) { return f.number == exact[i].number; });
    }
    return static_cast<double>(hits) / static_cast<double>(n);
  }

  const size_t k_, dim_, n_layers_;
  std::vector<size_t> chunk_begin_ = {0};
  std::vector<std::vector<std::vector<float>>> keys_;  // [layer][form; the last: float16]
  std::vector<std::vector<Tally>> tallies_;            // [form][layer]
};

// Note i; its question asks for what only it says.
std::string Note(size_t i, std::string* question) {
  static const char* const kNames[] = {"Anna",  "Boris", "Carla", "Dmitri", "Elena", "Farid",
                                       "Grace", "Hugo",  "Ines",  "Jonas",  "Katrin"};
  static const char* const kThings[] = {
      "bicycle",        "spare key",  "passport",    "blue umbrella", "violin",
      "tool box",       "old camera", "winter coat", "tent",          "red suitcase",
      "coffee grinder", "chess set",  "fishing rod"};
  static const char* const kPlaces[] = {
      "the cellar",  "the garage", "the attic",    "the office",  "the shed",    "the hall",
      "the kitchen", "the car",    "the garden",   "the bedroom", "the library", "the boat",
      "the cabin",   "the school", "the workshop", "the studio",  "the station"};
  const std::string name = kNames[i % std::size(kNames)], thing = kThings[i % std::size(kThings)];
  const std::string year = std::to_string(1950 + i % 71);
  *question = "Where is " + name + "'s " + thing + " from " + year + "?";
  return name + "'s " + thing + " from " + year + " is in " + kPlaces[i * 7 % std::size(kPlaces)] +
         ", on shelf " + std::to_string(i * 31 % 97) + ".";
}

int Main(int argc, char** argv) {
  std::map<std::string, std::string> settings = {{"--model", ""},
                                                 {"--device", "cpu"},
                                                 {"--documents", "2000"},
                                                 {"--questions", "40"},
                                                 {"--k", "16"}};
  for (int i = 1; i < argc; i += 2) {
    if (i + 1 >= argc || !settings.contains(argv[i])) Fail("see the head of the source file");
    settings[argv[i]] = argv[i + 1];
  }
  const auto number = [&](const char* name) {
    return std::max<size_t>(1, std::strtoull(settings[name].c_str(), nullptr, 10));
  };
  const auto model = Take(Model::Load(settings["--model"], {.device = settings["--device"]}));
  ComparingBank bank(*model, number("--k"));
  std::vector<std::string> questions(number("--documents"));
  std::vector<DocumentInput> batch;
  std::vector<std::string> texts(questions.size());
  for (size_t i = 0; i < questions.size(); ++i) texts[i] = Note(i, &questions[i]);
  for (size_t i = 0; i < texts.size(); ++i) {
    batch.push_back({i + 1, texts[i]});
    if (batch.size() < 64 && i + 1 < texts.size()) continue;
    for (const EncodedDocument& document : Take(model->EncodeDocuments(batch))) bank.Add(document);
    batch.clear();
  }
  const size_t n = number("--questions");
  for (size_t i = 0; i < n; ++i) {
    (void)Take(model->Search(questions[i * questions.size() / n], bank, number("--k")));
  }
  std::printf("%zu notes, %zu questions, %zu routing layers of %zu, k = %zu\n", texts.size(), n,
              model->routing_layer_count(), model->kv_dim(), number("--k"));
  bank.Print();
  return 0;
}

}  // namespace
}  // namespace msadb::model

int main(int argc, char** argv) { return msadb::model::Main(argc, argv); }
