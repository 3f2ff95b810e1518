// The model on a GPU with the shapes of MSA-4B (Qwen3-4B) and random weights, built on the device:
// nothing is read from disk.
//
//   bench_gpu_model [--device N] [--layers N] [--generate N] [--repeat N] [--only WHAT]
//
//   encode   packed documents per second, in tokens; floor: 2 operations per weight and token, and
//            those of attention, at the rate of a large bfloat16 product measured in the same run
//   decode   tokens per second of one question over [prefix; 16 documents; question]; floor: every
//            weight read once per token at the copy bandwidth measured in the same run
//   fetch    GB/s of 16 documents' content of one layer, gathered from a page-locked slab to the
//            device in one step; rival: one large copy of as many bytes
//   steps    how long each operation of a decoding step takes by itself
//
// WHAT is one of these. Medians over `repeat` runs, with the spread.
// bench/kernels/transformers_4b.py measures the rival.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "bench/kernels/random_model.h"
#include "kernels/cuda_backend.h"
#include "kernels/dtype.h"
#include "kernels/sample.h"
#include "model/encoder.h"
#include "model/generator.h"

namespace msadb::model {
namespace {

struct Settings {
  int device = 0;
  int layers = 36;
  size_t generate = 128;
  size_t repeat = 5;
  std::string only;  // empty: everything
};

void CheckCuda(cudaError_t error) {
  if (error != cudaSuccess) Fail(cudaGetErrorString(error));
}

double SecondsSince(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

struct Seconds {
  double median = 0, lowest = 0, highest = 0;
};

// Runs `f` once to warm up and `repeat` times for the clock.
template <typename F>
Seconds Measure(size_t repeat, const F& f) {
  std::vector<double> seconds;
  for (size_t run = 0; run <= repeat; ++run) {
    const auto start = std::chrono::steady_clock::now();
    f();
    if (run > 0) seconds.push_back(SecondsSince(start));
  }
  std::sort(seconds.begin(), seconds.end());
  return {seconds[seconds.size() / 2], seconds.front(), seconds.back()};
}

// Content of random documents in slots [layer][K, V][kv_dim], as the block cache holds them.
class SlabBank : public MemoryBank {
 public:
  SlabBank(const ModelConfig& c, size_t documents, size_t chunks)
      : documents_(documents),
        chunks_(chunks),
        kv_dim_(static_cast<size_t>(c.kv_dim())),
        slot_(static_cast<size_t>(c.n_routing_layers()) * 2 * kv_dim_) {
    const size_t count = documents * chunks * slot_;
    slab_ = static_cast<uint16_t*>(kernels::AllocatePinned(count * sizeof(uint16_t)));
    if (slab_ == nullptr) Fail("no page-locked memory");
    std::mt19937 random(3);
    std::normal_distribution<float> normal;
    std::vector<uint16_t> pattern(65521);
    for (uint16_t& value : pattern) value = kernels::F32ToBf16(normal(random));
    for (size_t i = 0; i < count; ++i) slab_[i] = pattern[i % pattern.size()];
  }
  ~SlabBank() override { kernels::FreePinned(slab_); }

  size_t document_count() const override { return documents_; }
  Result<std::vector<RoutedDocument>> Route(int r, const RouteQuery& query) override {
    std::vector<RoutedDocument> routed;
    for (size_t i = 0; i < query.top_k; ++i) {
      routed.push_back({(i * 7 + static_cast<size_t>(r)) % documents_, 1.0f});
    }
    return routed;
  }
  Status Fetch(int r, std::span<const DocumentNumber> documents, ContentBlocks* out) override {
    out->Clear();
    for (const DocumentNumber number : documents) {
      for (size_t chunk = 0; chunk < chunks_; ++chunk, ++out->n_rows) {
        const uint16_t* const key =
            slab_ + (number * chunks_ + chunk) * slot_ + static_cast<size_t>(r) * 2 * kv_dim_;
        out->key_rows.push_back(key);
        out->value_rows.push_back(key + kv_dim_);
      }
    }
    return Status::Ok();
  }
  Result<std::string> Text(DocumentNumber) override { return Status::NotFound("no texts"); }

  const uint16_t* slab() const { return slab_; }
  size_t bytes() const { return documents_ * chunks_ * slot_ * sizeof(uint16_t); }

 private:
  const size_t documents_, chunks_, kv_dim_, slot_;
  uint16_t* slab_ = nullptr;
};

// Copy bandwidth (bytes read and written) and rate of a large product.
struct Ceilings {
  double copy_bytes = 0;
  double flops = 0;
};

Ceilings MeasureCeilings(const Settings& s, kernels::Backend& backend) {
  Ceilings ceilings;
  const size_t bytes = size_t{2} << 30;
  void *from = nullptr, *to = nullptr;
  CheckCuda(cudaMalloc(&from, bytes));
  CheckCuda(cudaMalloc(&to, bytes));
  const Seconds copy = Measure(s.repeat, [&] {
    for (int i = 0; i < 4; ++i)
      CheckCuda(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice));
    CheckCuda(cudaDeviceSynchronize());
  });
  ceilings.copy_bytes = 8.0 * static_cast<double>(bytes) / copy.median;
  CheckCuda(cudaFree(from));
  CheckCuda(cudaFree(to));

  const size_t n = 8192;
  RandomWeights random(&backend, n * n);
  const auto weight = random.Matrix(n, n);
  const auto x = Take(backend.Allocate(n, n));
  const auto y = Take(backend.Allocate(n, n));
  std::mt19937 seed(4);
  std::normal_distribution<float> normal;
  std::vector<float> values(n * n);
  for (float& value : values) value = normal(seed);
  Check(backend.Upload(values.data(), x->tensor(), n, n));
  const Seconds product = Measure(s.repeat, [&] {
    for (int i = 0; i < 5; ++i) Check(backend.Matmul(x->tensor(), n, *weight, y->tensor(), false));
    Check(backend.Synchronize());
  });
  ceilings.flops = 5 * 2.0 * static_cast<double>(n) * static_cast<double>(n) *
                   static_cast<double>(n) / product.median;
  return ceilings;
}

void BenchEncode(const Settings& s, const ModelConfig& c, const Weights& weights,
                 const Ceilings& ceilings, TokenStates* states, kernels::Backend* backend) {
  std::mt19937 random(5);
  for (const auto& [documents, tokens] :
       {std::pair<size_t, size_t>{1, 512}, {32, 512}, {8, 2048}}) {
    std::vector<DocumentTokens> batch;
    for (size_t i = 0; i < documents; ++i) batch.push_back(RandomTokens(tokens, c, random));
    const Seconds time =
        Measure(s.repeat, [&] { Take(EncodeBatch(batch, c, weights, {}, states, backend)); });
    const auto total = static_cast<double>(documents * tokens);
    // Layers up to the last routing one; that one without attention and MLP.
    const double layer = 2.0 * c.hidden_size * (2.0 * c.q_dim() + 2.0 * c.kv_dim()) +
                         6.0 * c.hidden_size * c.intermediate_size +
                         2.0 * static_cast<double>(tokens) * c.q_dim();
    const double flop = total * layer * c.n_layers;
    const double floor = total / (flop / ceilings.flops);
    std::printf(
        "encode %2zu x %4zu tokens: %8.0f tokens/s (%.0f to %.0f); floor %.0f (%.1f%% of it)\n",
        documents, tokens, total / time.median, total / time.highest, total / time.lowest, floor,
        100 * total / time.median / floor);
  }
}

void BenchDecode(const Settings& s, const ModelConfig& c, const Weights& weights,
                 const Ceilings& ceilings, TokenStates* states, kernels::Backend* backend) {
  std::mt19937 random(6);
  const TemplatePrefix prefix = Take(EncodePrefix(RandomTokens(24, c, random), c, states, backend));
  Generator generator(&c, &weights, &prefix, states, backend);
  SlabBank bank(c, 64, 8);
  const PromptPart prompt{TokenRole::kQuery, RandomTokens(64, c, random)};
  uint64_t hash = 0;
  Context context;
  const Seconds prefill = Measure(s.repeat, [&] {
    PrefillTrace trace;
    context =
        Take(generator.Prefill({&prompt, 1}, bank, {.tokens_to_come = s.generate}, {}, &trace));
  });
  std::printf(
      "prefill of 64 tokens with 16 x 8 chunks in each routing layer: %.2f ms (%.2f to %.2f)\n",
      1e3 * prefill.median, 1e3 * prefill.lowest, 1e3 * prefill.highest);
  const Seconds decode = Measure(s.repeat, [&] {
    hash = 14695981039346656037u;
    for (size_t i = 0; i < s.generate; ++i) {
      const int32_t token = kernels::ArgMax(context.logits.data(), context.logits.size());
      hash = (hash ^ static_cast<uint32_t>(token)) * 1099511628211u;
      const Generator::Next next{token, &context};  // as the scheduler decodes
      Check(generator.MakeRoom(&context));
      Check(generator.Step({&next, 1}));
    }
    Generator::TakeBack(s.generate, &context);
  });
  const double rate = static_cast<double>(s.generate) / decode.median;
  const auto bytes = static_cast<double>(weights.bytes_per_token());
  const double floor = ceilings.copy_bytes / bytes;
  std::printf(
      "decode %zu tokens: %.1f tokens/s (%.1f to %.1f), %.2f ms each; floor %.1f (%.1f%% of it), "
      "hash %016llx\n",
      s.generate, rate, static_cast<double>(s.generate) / decode.highest,
      static_cast<double>(s.generate) / decode.lowest, 1e3 / rate, floor, 100 * rate / floor,
      static_cast<unsigned long long>(hash));

  // Where a token's time goes: products alone, at their own size.
  const LayerWeights& w = weights.layers.front();
  const auto x = Take(backend->Allocate(1, static_cast<size_t>(2 * c.intermediate_size)));
  const auto y = Take(backend->Allocate(1, static_cast<size_t>(c.vocab_size)));
  const std::vector<float> ones(static_cast<size_t>(2 * c.intermediate_size), 0.5f);
  Check(backend->Upload(ones.data(), x->tensor(), 1, ones.size()));
  const std::pair<const char*, const kernels::Matrix*> matrices[] = {{"qkv", w.qkv.get()},
                                                                     {"output", w.output.get()},
                                                                     {"gate_up", w.gate_up.get()},
                                                                     {"down", w.down.get()},
                                                                     {"head", &weights.head()}};
  for (const auto& [name, matrix] : matrices) {
    // Every layer's, so that none is in the cache.
    std::vector<const kernels::Matrix*> all;
    for (const LayerWeights& layer : weights.layers) {
      all.push_back(std::string(name) == "qkv"       ? layer.qkv.get()
                    : std::string(name) == "output"  ? layer.output.get()
                    : std::string(name) == "gate_up" ? layer.gate_up.get()
                    : std::string(name) == "down"    ? layer.down.get()
                                                     : &weights.head());
    }
    const Seconds time = Measure(s.repeat, [&] {
      for (const kernels::Matrix* m : all) {
        Check(backend->Matmul(x->tensor(), 1, *m, y->tensor(), false));
      }
      Check(backend->Synchronize());
    });
    const double each = time.median / static_cast<double>(all.size());
    std::printf("  product with %-8s %6.1f us, %.2f TB/s\n", name, 1e6 * each,
                static_cast<double>(matrix->bytes()) / each / 1e12);
  }
}

// The small steps of a decoding step, each repeated alone, and what queueing one costs the host.
void BenchSteps(const Settings& s, const ModelConfig& c, const Weights& weights,
                kernels::Backend* backend) {
  const LayerWeights& w = weights.layers.front();
  const auto hidden = static_cast<size_t>(c.hidden_size), q_dim = static_cast<size_t>(c.q_dim());
  const auto kv_dim = static_cast<size_t>(c.kv_dim());
  const auto heads = static_cast<size_t>(c.n_heads), kv_heads = static_cast<size_t>(c.n_kv_heads);
  const auto head_dim = static_cast<size_t>(c.head_dim);
  const size_t rows = 280, calls = 500;
  const auto state = Take(backend->AllocateSums(1, hidden));
  const auto normed = Take(backend->Allocate(1, hidden));
  const auto qkv = Take(backend->Allocate(1, q_dim + 2 * kv_dim));
  const auto attended = Take(backend->Allocate(1, q_dim));
  const auto gated = Take(backend->Allocate(1, static_cast<size_t>(2 * c.intermediate_size)));
  const auto keys = Take(backend->Allocate(rows, kv_dim));
  const auto values = Take(backend->Allocate(rows, kv_dim));
  const std::vector<float> numbers(rows * kv_dim, 0.01f);
  Check(backend->Upload(numbers.data(), state->tensor(), 1, hidden));
  Check(backend->Upload(numbers.data(), qkv->tensor(), 1, q_dim + 2 * kv_dim));
  Check(backend->Upload(numbers.data(), keys->tensor(), rows, kv_dim));
  Check(backend->Upload(numbers.data(), values->tensor(), rows, kv_dim));
  const std::vector<int32_t> positions = {77};
  const auto angles = Take(backend->LoadAngles(positions, head_dim, c.rope_theta));
  const kernels::Tensor q = qkv->tensor(), k = qkv->tensor().At(0, q_dim);
  const auto epsilon = static_cast<float>(c.rms_norm_eps);
  std::vector<std::pair<const char*, std::function<Status(size_t)>>> steps;
  const kernels::OwnKeys own{keys->tensor(), values->tensor(), rows};
  steps.emplace_back("rotation, attention", [&](size_t) {
    return backend->RotateAttentionEach(q, k, k, {&own, 1}, attended->tensor(), heads, kv_heads,
                                        head_dim, w.q_norm.get(), w.k_norm.get(), epsilon,
                                        *angles);
  });
  steps.emplace_back("norm, qkv", [&](size_t i) {
    return backend->NormMatmul(state->tensor(), 1, *w.input_norm, epsilon,
                               *weights.layers[i % weights.layers.size()].qkv, normed->tensor(),
                               qkv->tensor());
  });
  steps.emplace_back("norm, gate, up, gating", [&](size_t i) {
    return backend->NormMatmulSiluMul(state->tensor(), 1, *w.input_norm, epsilon,
                                      *weights.layers[i % weights.layers.size()].gate_up,
                                      normed->tensor(), gated->tensor(), gated->tensor());
  });
  for (const auto& item : steps) {
    const std::function<Status(size_t)>& step = item.second;
    double queueing = 0;
    const Seconds time = Measure(s.repeat, [&] {
      const auto start = std::chrono::steady_clock::now();
      for (size_t i = 0; i < calls; ++i) Check(step(i));
      queueing = SecondsSince(start);
      Check(backend->Synchronize());
    });
    std::printf("  %-24s %6.1f us, the host queues one in %.1f us\n", item.first,
                1e6 * time.median / static_cast<double>(calls),
                1e6 * queueing / static_cast<double>(calls));
  }
  std::vector<float> logits(static_cast<size_t>(c.vocab_size));
  const auto head = Take(backend->AllocateSums(1, logits.size()));
  Check(backend->Upload(std::vector<float>(logits.size(), 1.0f).data(), head->tensor(), 1,
                        logits.size()));
  const Seconds download = Measure(s.repeat, [&] {
    for (size_t i = 0; i < 20; ++i) {
      Check(backend->Download(head->tensor(), logits.data(), 1, logits.size()));
      Check(backend->Synchronize());
    }
  });
  const Seconds choice = Measure(s.repeat, [&] {
    for (size_t i = 0; i < 20; ++i) {
      logits[i] += 1;
      if (kernels::ArgMax(logits.data(), logits.size()) < 0) Fail("no largest logit");
    }
  });
  std::printf("  logits to the host       %6.1f us, choice of the token %.1f us\n",
              1e6 * download.median / 20, 1e6 * choice.median / 20);
}

void BenchFetch(const Settings& s, const ModelConfig& c, kernels::Backend* backend) {
  const size_t top_k = 16;
  const auto kv_dim = static_cast<size_t>(c.kv_dim());
  for (size_t chunks : {8, 32}) {
    SlabBank bank(c, 512, chunks);
    const size_t rows = top_k * chunks;
    const auto keys = Take(backend->Allocate(rows, kv_dim));
    const auto values = Take(backend->Allocate(rows, kv_dim));
    const auto bytes = static_cast<double>(2 * rows * kv_dim * sizeof(uint16_t));
    std::mt19937 random(7);
    const size_t calls = 200;
    ContentBlocks blocks;
    std::vector<std::vector<DocumentNumber>> choices(calls);
    for (auto& choice : choices) {
      while (choice.size() < top_k) {
        const DocumentNumber number = random() % bank.document_count();
        if (std::find(choice.begin(), choice.end(), number) == choice.end()) {
          choice.push_back(number);
        }
      }
      std::sort(choice.begin(), choice.end());
    }
    const auto fetch = [&](size_t call) {
      Check(bank.Fetch(static_cast<int>(call) % c.n_routing_layers(), choices[call], &blocks));
      Check(backend->UploadRows(blocks.key_rows, keys->tensor(), blocks.value_rows,
                                values->tensor(), kv_dim));
    };
    // The answer first: the last row of the last call.
    fetch(calls - 1);
    std::vector<float> got(kv_dim);
    Check(backend->Download(values->tensor().At(rows - 1), got.data(), 1, kv_dim));
    Check(backend->Synchronize());
    for (size_t i = 0; i < kv_dim; ++i) {
      if (got[i] != kernels::Bf16ToF32(blocks.value_rows.back()[i]))
        Fail("a wrong row was fetched");
    }
    const Seconds alone = Measure(s.repeat, [&] {
      for (size_t call = 0; call < calls; ++call) {
        fetch(call);
        Check(backend->Synchronize());
      }
    });
    const Seconds queued = Measure(s.repeat, [&] {
      for (size_t call = 0; call < calls; ++call) fetch(call);
      Check(backend->Synchronize());
    });
    void* device = nullptr;
    CheckCuda(cudaMalloc(&device, static_cast<size_t>(bytes)));
    const Seconds copies = Measure(s.repeat, [&] {
      for (size_t call = 0; call < calls; ++call) {
        const size_t at = (call * static_cast<size_t>(bytes)) %
                          (bank.bytes() - static_cast<size_t>(bytes)) / 4096 * 4096;
        CheckCuda(cudaMemcpyAsync(device, reinterpret_cast<const char*>(bank.slab()) + at,
                                  static_cast<size_t>(bytes), cudaMemcpyHostToDevice));
      }
      CheckCuda(cudaDeviceSynchronize());
    });
    CheckCuda(cudaFree(device));
    const double total = bytes * static_cast<double>(calls) / 1e9;
    std::printf(
        "fetch 16 documents of %zu chunks, one layer, %.2f MB: %.1f GB/s one after another "
        "(%.1f us each), %.1f GB/s queued; one copy of as many bytes each: %.1f GB/s\n",
        chunks, bytes / 1e6, total / alone.median, 1e6 * alone.median / static_cast<double>(calls),
        total / queued.median, total / copies.median);
  }
}

int Main(int argc, char** argv) {
  Settings s;
  for (int i = 1; i < argc; ++i) {
    const std::string arg = argv[i];
    if (i + 1 >= argc) Fail(arg + " needs a value");
    const long value = std::strtol(argv[++i], nullptr, 10);
    if (arg == "--only") {
      s.only = argv[i];
    } else if (arg == "--device") {
      s.device = static_cast<int>(value);
    } else if (arg == "--layers") {
      s.layers = static_cast<int>(std::max(value, 2L));
    } else if (arg == "--generate") {
      s.generate = static_cast<size_t>(std::max(value, 1L));
    } else if (arg == "--repeat") {
      s.repeat = static_cast<size_t>(std::max(value, 1L));
    } else {
      Fail("unknown argument " + arg);
    }
  }
  const auto wanted = [&](const char* what) { return s.only.empty() || s.only == what; };
  if (!wanted("encode") && !wanted("decode") && !wanted("fetch") && !wanted("steps")) {
    Fail("--only takes encode, decode, fetch or steps");
  }
  auto made = kernels::MakeCudaBackend(s.device);
  Check(made.status());
  kernels::Backend* const backend = made->get();
  std::printf("%s\n", backend->description().c_str());
  const Ceilings ceilings = MeasureCeilings(s, *backend);
  std::printf("ceilings: copy %.2f TB/s (read + write), product of 8192^3 %.0f TFLOP/s\n",
              ceilings.copy_bytes / 1e12, ceilings.flops / 1e12);
  const ModelConfig config = Shapes(s.layers);
  if (wanted("fetch")) BenchFetch(s, config, backend);
  std::fflush(stdout);
  const Weights weights = MakeWeights(config, backend);
  std::printf("%d layers, %.2f GB of weights, %.2f GB read per token\n", config.n_layers,
              static_cast<double>(weights.bytes()) / 1e9,
              static_cast<double>(weights.bytes_per_token()) / 1e9);
  TokenStates states(&config, &weights, backend);
  if (wanted("decode")) BenchDecode(s, config, weights, ceilings, &states, backend);
  if (wanted("steps")) BenchSteps(s, config, weights, backend);
  std::fflush(stdout);
  if (wanted("encode")) BenchEncode(s, config, weights, ceilings, &states, backend);
  return 0;
}

}  // namespace
}  // namespace msadb::model

int main(int argc, char** argv) { return msadb::model::Main(argc, argv); }
