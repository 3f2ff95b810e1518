// Time to the first token of a question over a memory of 100M tokens on one GPU, with the shapes of
// MSA-4B: 18 routing layers, d = 1024, chunks of 64 tokens, so 1.5625M chunks a layer.
//
//   gpu_question_bench [--rows 1562500] [--chunks 8] [--content-gb 115] [--seconds 150] [--devices
//   0] gpu_question_bench --tiny    a small model and memory on the CPU: only whether all of it
//   runs
//
// What is real: the model's forward pass (random weights), the routing index in GPU memory with a
// random key for every chunk and layer, the exact search of every layer, the content of the chosen
// documents gathered from page-locked memory. What is not: nothing is stored (no RocksDB, no block
// cache in front of it), and when --content-gb is less than all content, documents share content.
//
// --seconds bounds the filling (half of it the making of content): the numbers are then those of
// the memory filled so far, as printed.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "bench/kernels/random_model.h"
#include "index/routing_index.h"
#include "kernels/cuda_backend.h"
#include "kernels/sample.h"
#include "model/encoder.h"
#include "model/generator.h"

namespace msadb::model {
namespace {

using Clock = std::chrono::steady_clock;

struct Settings {
  size_t rows = 1'562'500;  // chunks of one layer
  uint32_t chunks = 8;      // of a document
  size_t content_bytes = size_t{115} << 30;
  size_t piece_bytes = size_t{4} << 30;  // of content, allocated at once
  double seconds = 150;
  std::vector<int> devices = {0};          // none: the CPU, with everything in host memory
  size_t batch_values = size_t{64} << 20;  // inserted into the index at once
  int questions = 25;
};

Settings Tiny() {
  Settings s;
  s.rows = 1'000;
  s.content_bytes = s.piece_bytes = size_t{8} << 20;
  s.devices = {};
  s.batch_values = size_t{1} << 18;
  s.questions = 2;
  return s;
}

ModelConfig TinyShapes() {
  ModelConfig c = Shapes(4);
  c.hidden_size = 128;
  c.intermediate_size = 256;
  c.n_heads = 4;
  c.n_kv_heads = 2;
  c.head_dim = 32;
  c.vocab_size = 1000;
  return c;
}

double Since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

struct Times {
  std::vector<double> ms;
  double At(double quantile) {
    std::sort(ms.begin(), ms.end());
    return ms.empty() ? 0 : ms[std::min(ms.size() - 1, static_cast<size_t>(quantile * ms.size()))];
  }
};

void InParallel(size_t n, const std::function<void(size_t begin, size_t end)>& work) {
  const size_t n_threads = std::clamp<size_t>(std::thread::hardware_concurrency() / 2, 1, 12);
  std::vector<std::jthread> threads;
  for (size_t t = 0; t < n_threads; ++t) {
    threads.emplace_back([=, &work] { work(n * t / n_threads, n * (t + 1) / n_threads); });
  }
}

// Windows of one pool of random numbers: rows are independent unless their windows meet, and making
// 100 GB costs no more than writing it.
template <typename T>
class Pool {
 public:
  explicit Pool(const std::function<T(float)>& convert) : values_(size_t{1} << 22) {
    std::mt19937 random(7);
    std::uniform_real_distribution<float> uniform(-1, 1);
    for (T& value : values_) value = convert(uniform(random));
  }
  void Window(uint64_t seed, size_t n, T* out) const {
    uint64_t h = (seed + 1) * 0x9E3779B97F4A7C15ull;
    h = (h ^ (h >> 31)) * 0xBF58476D1CE4E5B9ull;
    std::memcpy(out, values_.data() + (h ^ (h >> 29)) % (values_.size() - n), n * sizeof(T));
  }

 private:
  std::vector<T> values_;
};

// Content slots [layer][K, V][kv_dim], page-locked when a GPU reads them.
class Slots {
 public:
  Slots(size_t slot_values, const Settings& s, double seconds)
      : slot_values_(slot_values), pinned_(!s.devices.empty()) {
    const auto start = Clock::now();
    const Pool<uint16_t> pool([](float x) { return kernels::F32ToBf16(x); });
    per_piece_ = s.piece_bytes / (slot_values * sizeof(uint16_t));
    while (count_ < s.rows && bytes_ < s.content_bytes && (bytes_ == 0 || Since(start) < seconds)) {
      const size_t piece_bytes = per_piece_ * slot_values * sizeof(uint16_t);
      auto* const piece = static_cast<uint16_t*>(pinned_ ? kernels::AllocatePinned(piece_bytes)
                                                         : std::malloc(piece_bytes));
      if (piece == nullptr) break;  // the machine has no more: share what there is
      InParallel(per_piece_, [&](size_t begin, size_t end) {
        for (size_t i = begin; i < end; ++i) {
          pool.Window(count_ + i, slot_values_, piece + i * slot_values_);
        }
      });
      pieces_.push_back(piece);
      count_ += per_piece_;
      bytes_ += piece_bytes;
    }
    if (pieces_.empty()) Fail("no page-locked memory");
  }
  ~Slots() {
    for (uint16_t* piece : pieces_) pinned_ ? kernels::FreePinned(piece) : std::free(piece);
  }
  Slots(const Slots&) = delete;
  Slots& operator=(const Slots&) = delete;
  const uint16_t* At(size_t slot) const {
    slot %= count_;
    return pieces_[slot / per_piece_] + slot % per_piece_ * slot_values_;
  }
  size_t bytes() const { return bytes_; }

 private:
  const size_t slot_values_;
  const bool pinned_;
  size_t per_piece_ = 0, count_ = 0, bytes_ = 0;
  std::vector<uint16_t*> pieces_;
};

class Bank : public MemoryBank {
 public:
  Bank(const index::RoutingIndex* index, const Slots* slots, uint32_t chunks, size_t kv_dim)
      : snapshot_(index->TakeSnapshot()), slots_(*slots), chunks_(chunks), kv_dim_(kv_dim) {}

  size_t document_count() const override { return snapshot_.document_count(); }
  Result<std::vector<RoutedDocument>> Route(int r, const RouteQuery& query) override {
    MSADB_ASSIGN_OR_RETURN(const auto found,
                           snapshot_.Search(r, query.queries, query.n_tokens, query.top_k));
    std::vector<RoutedDocument> routed;
    for (const auto& [number, score] : found) routed.push_back({number, score});
    return routed;
  }
  Status Fetch(int r, std::span<const DocumentNumber> documents, ContentBlocks* out) override {
    out->Clear();
    for (const DocumentNumber number : documents) {
      for (size_t chunk = 0; chunk < chunks_; ++chunk, ++out->n_rows) {
        const uint16_t* const key =
            slots_.At((number - 1) * chunks_ + chunk) + static_cast<size_t>(r) * 2 * kv_dim_;
        out->key_rows.push_back(key);
        out->value_rows.push_back(key + kv_dim_);
      }
    }
    return Status::Ok();
  }
  Result<std::string> Text(DocumentNumber) override { return Status::NotFound("no texts"); }

 private:
  const index::Snapshot snapshot_;
  const Slots& slots_;
  const size_t chunks_, kv_dim_;
};

int Main(const Settings& s) {
  const std::unique_ptr<kernels::Backend> made =
      s.devices.empty() ? kernels::MakeCpuBackend({})
                        : Take(kernels::MakeCudaBackend(s.devices.front()));
  kernels::Backend* const backend = made.get();
  const ModelConfig config = s.devices.empty() ? TinyShapes() : Shapes(36);
  const auto kv_dim = static_cast<size_t>(config.kv_dim());
  const auto n_layers = static_cast<size_t>(config.n_routing_layers());
  const Weights weights = MakeWeights(config, backend);
  TokenStates states(&config, &weights, backend);
  std::printf("%s; %.2f GB of weights\n", backend->description().c_str(),
              static_cast<double>(weights.bytes()) / 1e9);
  std::fflush(stdout);

  // Routing keys through the index's own insertion.
  index::IndexConfig index_config;
  index_config.n_layers = static_cast<int>(n_layers);
  index_config.dim = kv_dim;
  index_config.devices = s.devices;
  index_config.segment_rows_min = 65'536;
  index_config.segment_rows_max = size_t{1} << 22;
  const std::unique_ptr<index::RoutingIndex> index =
      Take(index::RoutingIndex::Create(index_config));
  const float scale = std::sqrt(3.0f / static_cast<float>(config.head_dim));
  const Pool<float> keys([=](float x) { return x * scale; });
  const size_t document_values = n_layers * s.chunks * kv_dim;
  const size_t batch_documents = std::max<size_t>(1, s.batch_values / document_values);
  std::vector<float> batches[2];
  for (auto& batch : batches) batch.resize(batch_documents * document_values);
  size_t filled = 0, number = 0;
  double prepare_seconds = 0;
  const auto make = [&](size_t first, std::vector<float>* batch) {
    InParallel(batch_documents * n_layers * s.chunks, [&](size_t begin, size_t end) {
      for (size_t i = begin; i < end; ++i) {
        keys.Window(first * n_layers * s.chunks + i, kv_dim, batch->data() + i * kv_dim);
      }
    });
  };
  const auto start = Clock::now();
  make(0, &batches[0]);
  for (size_t turn = 0; filled < s.rows && Since(start) < s.seconds; ++turn) {
    const std::vector<float>& batch = batches[turn % 2];
    std::jthread next(
        [&, first = number + batch_documents] { make(first, &batches[1 - turn % 2]); });
    std::vector<index::DocumentKeys> documents;
    for (size_t i = 0; i < batch_documents && filled < s.rows; ++i) {
      const auto n = static_cast<uint32_t>(std::min<size_t>(s.chunks, s.rows - filled));
      documents.push_back({++number, n, batch.data() + i * document_values});
      filled += n;
    }
    const auto begin = Clock::now();
    Take(index->Prepare(documents, {})).Publish();
    prepare_seconds += Since(begin);
  }
  const double key_gb = static_cast<double>(filled * n_layers * kv_dim * 2) / 1e9;
  std::printf("memory: %.1fM tokens, %zu documents, %zu chunks x %zu layers\n",
              static_cast<double>(filled) * 64 / 1e6, number, filled, n_layers);
  std::printf("filled in %.1f s, %.1f s of them in the index: %.2f GB/s, %zu segments\n",
              Since(start), prepare_seconds, key_gb / prepare_seconds, index->Stats().segments);
  std::fflush(stdout);

  const auto pin_start = Clock::now();
  const Slots slots(n_layers * 2 * kv_dim, s, s.seconds / 2);
  const double all_content = static_cast<double>(filled * n_layers * 2 * kv_dim * 2) / 1e9;
  std::printf(
      "bytes: GPU: routing keys %.2f GB, weights %.2f GB; page-locked content %.1f of %.1f GB, "
      "made "
      "in %.1f s\n",
      static_cast<double>(index->Stats().bytes_used) / 1e9,
      static_cast<double>(weights.bytes()) / 1e9, static_cast<double>(slots.bytes()) / 1e9,
      all_content, Since(pin_start));
  std::fflush(stdout);

  std::mt19937 random(6);
  std::normal_distribution<float> normal;
  const index::Snapshot snapshot = index->TakeSnapshot();
  const double layer_gb = key_gb / static_cast<double>(n_layers);
  for (const size_t tokens : {1, 16, 64, 256}) {
    std::vector<float> queries(tokens * kv_dim);
    for (float& q : queries) q = normal(random);
    Times all, one;
    for (int run = 0; run < 6; ++run) {
      const auto question = Clock::now();
      for (size_t r = 0; r < n_layers; ++r) {
        const auto layer = Clock::now();
        Take(snapshot.Search(static_cast<int>(r), queries.data(), tokens, 16));
        if (run > 0) one.ms.push_back(1e3 * Since(layer));
      }
      if (run > 0) all.ms.push_back(1e3 * Since(question));
    }
    std::printf("routing, %3zu tokens: %.3f ms a layer (%.0f GB/s), %.2f ms for %zu layers\n",
                tokens, one.At(0.5), layer_gb / one.At(0.5) * 1e3, all.At(0.5), n_layers);
  }
  std::fflush(stdout);

  const TemplatePrefix prefix =
      Take(EncodePrefix(RandomTokens(24, config, random), config, &states, backend));
  Generator generator(&config, &weights, &prefix, &states, backend);
  const auto ask = [&](Times* first_token, Times* routing, Times* fetching) {
    const PromptPart prompt{TokenRole::kQuery, RandomTokens(64, config, random)};
    const auto begin = Clock::now();
    Bank bank(index.get(), &slots, s.chunks, kv_dim);
    PrefillTrace trace;
    const Context context =
        Take(generator.Prefill({&prompt, 1}, bank, {.tokens_to_come = 64}, {}, &trace));
    const int32_t token = kernels::ArgMax(context.logits.data(), context.logits.size());
    if (token < 0) Fail("no token");
    first_token->ms.push_back(1e3 * Since(begin));
    routing->ms.push_back(trace.routing_ms);
    fetching->ms.push_back(trace.fetch_ms);
  };
  const auto report = [](const char* what, Times* first, Times* routing, Times* fetching) {
    std::printf(
        "%s: first token %.2f ms (median of %zu; 90%%: %.2f), of it routing %.2f, fetch %.2f, the "
        "rest of the forward pass %.2f\n",
        what, first->At(0.5), first->ms.size(), first->At(0.9), routing->At(0.5), fetching->At(0.5),
        first->At(0.5) - routing->At(0.5) - fetching->At(0.5));
    std::fflush(stdout);
  };
  Times warm[3], quiet[3], busy[3];
  for (int i = 0; i < 3; ++i) ask(&warm[0], &warm[1], &warm[2]);
  for (int i = 0; i < s.questions; ++i) ask(&quiet[0], &quiet[1], &quiet[2]);
  report("64-token question", &quiet[0], &quiet[1], &quiet[2]);

  Times encoding;
  const DocumentTokens text = RandomTokens(512, config, random);
  for (int i = 0; i < 6; ++i) {
    const auto begin = Clock::now();
    Take(EncodeBatch({&text, 1}, config, weights, {}, &states, backend));
    if (i > 0) encoding.ms.push_back(1e3 * Since(begin));
  }
  // Inserts and deletes into the index while questions are answered.
  Times inserting, deleting;
  std::atomic<bool> stop = false;
  std::jthread writer([&] {
    std::vector<float> document(size_t{8} * n_layers * kv_dim);
    for (size_t i = 0; i < size_t{8} * n_layers; ++i) {
      keys.Window(~i, kv_dim, document.data() + i * kv_dim);
    }
    while (!stop) {
      const index::DocumentKeys insert{++number, 8, document.data()};
      auto begin = Clock::now();
      Take(index->Prepare({&insert, 1}, {})).Publish();
      inserting.ms.push_back(1e3 * Since(begin));
      const index::DocumentNumber gone = number;
      begin = Clock::now();
      Take(index->Prepare({}, {&gone, 1})).Publish();
      deleting.ms.push_back(1e3 * Since(begin));
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
  });
  for (int i = 0; i < s.questions; ++i) ask(&busy[0], &busy[1], &busy[2]);
  stop = true;
  writer.join();
  report("the same during inserts and deletes", &busy[0], &busy[1], &busy[2]);
  std::printf(
      "insert of a document of 512 tokens: encode %.2f ms; into the index during questions %.2f ms "
      "(median of %zu; 90%%: %.2f); delete %.2f ms\n",
      encoding.At(0.5), inserting.At(0.5), inserting.ms.size(), inserting.At(0.9),
      deleting.At(0.5));
  return 0;
}

}  // namespace
}  // namespace msadb::model

int main(int argc, char** argv) {
  msadb::model::Settings settings;
  if (argc == 2 && std::string(argv[1]) == "--tiny") {
    return msadb::model::Main(msadb::model::Tiny());
  }
  if (argc % 2 == 0) msadb::model::Fail("every option needs a value");
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string option = argv[i];
    const double value = std::strtod(argv[i + 1], nullptr);
    if (option == "--rows") {
      settings.rows = static_cast<size_t>(value);
    } else if (option == "--chunks") {
      settings.chunks = static_cast<uint32_t>(value);
    } else if (option == "--content-gb") {
      settings.content_bytes = static_cast<size_t>(value * 1e9);
    } else if (option == "--seconds") {
      settings.seconds = value;
    } else if (option == "--devices") {
      settings.devices.clear();
      for (const char* at = argv[i + 1]; *at != 0; at += *at == ',') {
        char* end = nullptr;
        settings.devices.push_back(static_cast<int>(std::strtol(at, &end, 10)));
        if (end == at) msadb::model::Fail("--devices needs numbers");
        at = end;
      }
    } else {
      msadb::model::Fail("unknown option " + option);
    }
  }
  if (settings.rows == 0 || settings.chunks == 0 || settings.devices.empty())
    msadb::model::Fail("nothing to fill");
  return msadb::model::Main(settings);
}
