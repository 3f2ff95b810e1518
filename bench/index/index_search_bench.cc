// Search latency of the routing index as the memory grows, next to what it could be at best
// (reading the keys once) and to plain FAISS, in one run.
//
//   index_search_bench [--dim 192] [--layers 15] [--chunks 1] [--tokens 1,16,64,256]
//                      [--documents 1000,10000,100000] [--repeat 9] [--tiny]
//
// Columns, milliseconds per layer search, median (fastest) of --repeat:
//   read     sum all keys of the layer once, all cores: the floor of any exact search
//   msadb    Snapshot::Search, exact top-16 documents, fused engine
//   overfetch  the same by the FAISS engine: lists per token, enlarged until proven exact
//   faiss    IndexFlatIP::search, k = 16 rows per token: no documents, no max over tokens, no proof
//   10%      fused engine with a random tenth of the documents allowed
// A layer other than the last one is searched each time, so keys come from memory, not from a
// cache, once all layers together are larger than the caches. Every msadb answer is checked against
// the FAISS engine's, bit for bit; a difference ends the program with an error.
#include <faiss/IndexFlat.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "index/routing_index.h"

namespace msadb::index {
namespace {

constexpr size_t kTopK = 16;

struct Settings {
  size_t dim = 192;  // SmolLM2-135M: 3 key/value heads of 64
  int n_layers = 15;
  uint32_t n_chunks = 1;
  std::vector<size_t> tokens = {1, 16, 64, 256};
  std::vector<size_t> documents = {1000, 10000, 100000};
  int repeat = 9;
};

double Milliseconds(const std::function<void()>& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start)
      .count();
}

struct Timing {
  double median = 0;
  double fastest = 0;
};

// work(i) is called with i = 0, 1, ... so that it can turn to another layer each time.
Timing Measure(int repeat, const std::function<void(int)>& work) {
  work(0);
  std::vector<double> times;
  for (int i = 1; i <= repeat; ++i) times.push_back(Milliseconds([&] { work(i); }));
  std::sort(times.begin(), times.end());
  return {times[times.size() / 2], times.front()};
}

void Print(const Timing& timing) { std::printf(" %8.3f (%8.3f)", timing.median, timing.fastest); }

float SumAll(const float* values, size_t n) {
  float total = 0;
  const auto blocks = static_cast<int64_t>(n / 4096);
#pragma omp parallel for reduction(+ : total)
  for (int64_t b = 0; b < blocks; ++b) {
    const float* block = values + b * 4096;
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int i = 0; i < 4096; ++i) sum += block[i];
    total += sum;
  }
  return total;
}

std::vector<float> UnitRows(std::mt19937_64& rng, size_t n, size_t dim) {
  std::normal_distribution<float> normal;
  std::vector<float> rows(n * dim);
  for (size_t r = 0; r < n; ++r) {
    double square = 0;
    for (size_t i = 0; i < dim; ++i) {
      float& v = rows[r * dim + i] = normal(rng);
      square += static_cast<double>(v) * v;
    }
    for (size_t i = 0; i < dim; ++i) rows[r * dim + i] /= static_cast<float>(std::sqrt(square));
  }
  return rows;
}

std::unique_ptr<RoutingIndex> MakeIndex(const Settings& s, Engine engine) {
  IndexConfig config;
  config.n_layers = s.n_layers;
  config.dim = s.dim;
  config.engine = engine;
  auto index = RoutingIndex::Create(config);
  if (!index.ok()) {
    std::fprintf(stderr, "%s\n", index.status().ToString().c_str());
    std::exit(2);
  }
  return std::move(index).value();
}

// Inserts one document a change, as a database does; returns the milliseconds of each, ascending.
// Also fills `plain`, one FAISS index a layer, unless null.
std::vector<double> Fill(RoutingIndex& index, const Settings& s, size_t n_documents,
                         std::vector<faiss::IndexFlatIP>* plain) {
  std::mt19937_64 rng(1);
  std::vector<double> times;
  times.reserve(n_documents);
  for (size_t number = 1; number <= n_documents; ++number) {
    const std::vector<float> keys = UnitRows(rng, s.n_layers * s.n_chunks, s.dim);
    for (int r = 0; plain != nullptr && r < s.n_layers; ++r) {
      (*plain)[r].add(s.n_chunks, keys.data() + r * s.n_chunks * s.dim);
    }
    const DocumentKeys insert{number, s.n_chunks, keys.data()};
    times.push_back(Milliseconds([&] {
      auto change = index.Prepare({&insert, 1}, {});
      if (!change.ok()) {
        std::fprintf(stderr, "%s\n", change.status().ToString().c_str());
        std::exit(2);
      }
      change->Publish();
    }));
  }
  std::sort(times.begin(), times.end());
  return times;
}

int Run(const Settings& s) {
  bool same = true;
  volatile float sink = 0;
  for (const size_t n_documents : s.documents) {
    auto fused = MakeIndex(s, Engine::kFused);
    auto reference = MakeIndex(s, Engine::kFaiss);
    // Plain FAISS and the floor have the layers' keys in arrays of their own.
    std::vector<faiss::IndexFlatIP> plain(s.n_layers,
                                          faiss::IndexFlatIP(static_cast<int64_t>(s.dim)));
    const std::vector<double> inserts = Fill(*fused, s, n_documents, nullptr);
    Fill(*reference, s, n_documents, &plain);
    const IndexStats stats = fused->Stats();
    const size_t layer_bytes = stats.chunks * s.dim * sizeof(float);
    std::printf(
        "\n%zu documents x %u chunks, dim %zu, %d layers: %zu segments, %.0f bytes a document "
        "(keys alone %zu), %.1f MB a layer\n",
        n_documents, s.n_chunks, s.dim, s.n_layers, stats.segments,
        static_cast<double>(stats.bytes_used) / static_cast<double>(n_documents),
        s.n_layers * s.n_chunks * s.dim * sizeof(float), layer_bytes / 1e6);
    std::printf("insert one document: median %.4f ms, 99%% %.4f ms, slowest %.3f ms\n",
                inserts[inserts.size() / 2], inserts[inserts.size() * 99 / 100], inserts.back());
    const Snapshot snapshot = fused->TakeSnapshot();
    const Snapshot reference_snapshot = reference->TakeSnapshot();
    std::vector<DocumentNumber> tenth;
    std::mt19937_64 rng(2);
    for (size_t number = 1; number <= n_documents; ++number) {
      if (rng() % 10 == 0) tenth.push_back(number);
    }
    const auto selection = snapshot.Select(tenth);
    const auto reference_selection = reference_snapshot.Select(tenth);

    const Timing read = Measure(s.repeat, [&](int i) {
      sink = sink + SumAll(plain[i % s.n_layers].get_xb(), stats.chunks * s.dim);
    });
    std::printf("reading a layer once: %.3f ms, %.1f GB/s\n", read.median,
                layer_bytes / read.median / 1e6);
    std::printf("%6s %19s %19s %19s %19s %19s  %s\n", "tokens", "read", "msadb", "overfetch",
                "faiss", "10%", "answers");
    for (const size_t n_tokens : s.tokens) {
      const std::vector<float> queries = UnitRows(rng, n_tokens, s.dim);
      std::vector<RoutedDocument> answer;
      const auto search = [&](const Snapshot& from, const Selection* only) {
        return [&, only](int i) {
          auto result = from.Search(i % s.n_layers, queries.data(), n_tokens, kTopK, only);
          answer = result.ok() ? std::move(result).value() : std::vector<RoutedDocument>();
        };
      };
      const Timing msadb = Measure(s.repeat, search(snapshot, nullptr));
      const std::vector<RoutedDocument> fused_answer = answer;
      const Timing overfetch = Measure(s.repeat, search(reference_snapshot, nullptr));
      bool agree = !answer.empty() && answer == fused_answer;
      std::vector<float> scores(n_tokens * kTopK);
      std::vector<int64_t> rows(n_tokens * kTopK);
      const Timing faiss = Measure(s.repeat, [&](int i) {
        plain[i % s.n_layers].search(static_cast<int64_t>(n_tokens), queries.data(), kTopK,
                                     scores.data(), rows.data());
      });
      const Timing filtered = Measure(s.repeat, search(snapshot, &*selection));
      const std::vector<RoutedDocument> fused_filtered = answer;
      search(reference_snapshot, &*reference_selection)(s.repeat);
      agree = agree && answer == fused_filtered;
      same = same && agree;
      std::printf("%6zu", n_tokens);
      for (const Timing& timing : {read, msadb, overfetch, faiss, filtered}) Print(timing);
      std::printf("  %s\n", agree ? "equal" : "DIFFER");
      std::fflush(stdout);
    }
  }
  return same ? 0 : 1;
}

}  // namespace
}  // namespace msadb::index

int main(int argc, char** argv) {
  msadb::index::Settings settings;
  bool tiny = false;
  CLI::App app{"Search latency of the routing index"};
  app.add_option("--dim", settings.dim, "floats of one key");
  app.add_option("--layers", settings.n_layers, "routing layers");
  app.add_option("--chunks", settings.n_chunks, "chunks of every document");
  app.add_option("--tokens", settings.tokens, "question lengths")->delimiter(',');
  app.add_option("--documents", settings.documents, "memory sizes")->delimiter(',');
  app.add_option("--repeat", settings.repeat, "searches per figure")->check(CLI::PositiveNumber);
  app.add_flag("--tiny", tiny, "a small run that only checks that the program works");
  CLI11_PARSE(app, argc, argv);
  if (tiny) {
    settings.documents = {50, 400};
    settings.tokens = {1, 7, 30};
    settings.n_layers = 2;
    settings.repeat = 2;
  }
  return msadb::index::Run(settings);
}
