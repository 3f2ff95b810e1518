// How fast a model folder encodes documents and generates text on this CPU.
//
//   bench_model FOLDER [--threads N] [--documents N] [--document-tokens N] [--prompt-tokens N]
//               [--generate N] [--repeat N] [--precision fine|fast|exact] [--json]
//
// Encoding is given as tokens/s and GFLOP/s (two per weight and token, plus attention), decoding at
// batch 1 as tokens/s and GB/s (every weight read once per token). Medians over `repeat` runs, with
// the spread. Token ids are random but fixed; decoding is greedy, and the generated ids are hashed
// so that two builds can be seen to compute the same.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "kernels/sample.h"
#include "model/encoder.h"
#include "model/engine.h"

namespace msadb::model {
namespace {

struct Settings {
  std::string folder;
  int threads = 0;
  size_t documents = 8;
  size_t document_tokens = 256;
  size_t prompt_tokens = 64;
  size_t generate = 128;
  size_t repeat = 5;
  Precision precision = Precision::kFine;
  bool json = false;
};

struct Rate {
  double median = 0, lowest = 0, highest = 0;  // tokens/s
};

Rate Summarize(size_t tokens, std::vector<double> seconds) {
  std::sort(seconds.begin(), seconds.end());
  const auto n = static_cast<double>(tokens);
  return {n / seconds[seconds.size() / 2], n / seconds.back(), n / seconds.front()};
}

double SecondsSince(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

[[noreturn]] void Fail(const std::string& message) {
  std::fprintf(stderr, "bench_model: %s\n", message.c_str());
  std::exit(1);
}

class EmptyBank : public MemoryBank {
 public:
  size_t document_count() const override { return 0; }
  Result<std::vector<RoutedDocument>> Route(int, const RouteQuery&) override {
    return std::vector<RoutedDocument>();
  }
  Status Fetch(int, std::span<const DocumentNumber>, ContentBlocks*) override {
    return Status::NotFound("the bank is empty");
  }
  Result<std::string> Text(DocumentNumber) override {
    return Status::NotFound("the bank is empty");
  }
};

std::vector<int32_t> RandomTokens(size_t count, const ModelConfig& config, std::mt19937& random) {
  std::vector<int32_t> tokens(count);
  for (int32_t& token : tokens) {
    token = static_cast<int32_t>(random() % static_cast<uint32_t>(config.vocab_size));
  }
  return tokens;
}

// Floating point operations of encoding one document: matrix products and causal attention.
double EncodeFlop(const ModelConfig& c, size_t tokens) {
  const double per_layer = 2.0 * c.hidden_size * (2.0 * c.q_dim() + 2.0 * c.kv_dim()) +
                           6.0 * c.hidden_size * c.intermediate_size;
  const double n = static_cast<double>(tokens);
  return c.n_layers * (n * per_layer + 2.0 * n * n * c.q_dim());
}

Rate MeasureEncode(const Settings& s, Engine& engine) {
  std::mt19937 random(1);
  std::vector<DocumentTokens> documents;
  for (size_t i = 0; i < s.documents; ++i) {
    documents.push_back(RandomTokens(s.document_tokens, engine.config, random));
  }
  std::vector<double> seconds;
  for (size_t run = 0; run <= s.repeat; ++run) {
    const auto start = std::chrono::steady_clock::now();
    const auto encoded = EncodeBatch(documents, engine.config, engine.weights, {}, &*engine.states,
                                     engine.backend.get());
    if (!encoded.ok()) Fail(encoded.status().ToString());
    if (run > 0) seconds.push_back(SecondsSince(start));  // the first warms up
  }
  return Summarize(s.documents * s.document_tokens, seconds);
}

// A question of `document_tokens` tokens over an empty memory: all layers, and the head once.
Rate MeasurePrefill(const Settings& s, Engine& engine) {
  std::mt19937 random(3);
  EmptyBank bank;
  const PromptPart prompt{TokenRole::kQuery,
                          RandomTokens(s.document_tokens, engine.config, random)};
  std::vector<double> seconds;
  for (size_t run = 0; run <= s.repeat; ++run) {
    PrefillTrace trace;
    const auto start = std::chrono::steady_clock::now();
    const auto context = engine.generator->Prefill({&prompt, 1}, bank, {}, {}, &trace);
    if (!context.ok()) Fail(context.status().ToString());
    if (run > 0) seconds.push_back(SecondsSince(start));
  }
  return Summarize(s.document_tokens, seconds);
}

Rate MeasureDecode(const Settings& s, Engine& engine, uint64_t* hash) {
  std::mt19937 random(2);
  EmptyBank bank;
  const PromptPart prompt{TokenRole::kQuery, RandomTokens(s.prompt_tokens, engine.config, random)};
  std::vector<double> seconds;
  for (size_t run = 0; run <= s.repeat; ++run) {
    PrefillTrace trace;
    auto context =
        engine.generator->Prefill({&prompt, 1}, bank, {.tokens_to_come = s.generate}, {}, &trace);
    if (!context.ok()) Fail(context.status().ToString());
    *hash = 14695981039346656037u;
    const auto start = std::chrono::steady_clock::now();
    for (size_t i = 0; i < s.generate; ++i) {
      const int32_t token = kernels::ArgMax(context->logits.data(), context->logits.size());
      *hash = (*hash ^ static_cast<uint32_t>(token)) * 1099511628211u;
      const Status status = engine.generator->Append({&token, 1}, {}, &*context);
      if (!status.ok()) Fail(status.ToString());
    }
    if (run > 0) seconds.push_back(SecondsSince(start));
  }
  return Summarize(s.generate, seconds);
}

Settings Parse(int argc, char** argv) {
  Settings s;
  const auto number = [&](int& i) {
    if (i + 1 >= argc) Fail(std::string(argv[i]) + " needs a number");
    return static_cast<size_t>(std::strtoull(argv[++i], nullptr, 10));
  };
  for (int i = 1; i < argc; ++i) {
    const std::string arg = argv[i];
    if (arg == "--threads") {
      s.threads = static_cast<int>(number(i));
    } else if (arg == "--documents") {
      s.documents = number(i);
    } else if (arg == "--document-tokens") {
      s.document_tokens = number(i);
    } else if (arg == "--prompt-tokens") {
      s.prompt_tokens = number(i);
    } else if (arg == "--generate") {
      s.generate = number(i);
    } else if (arg == "--repeat") {
      s.repeat = std::max<size_t>(number(i), 1);
    } else if (arg == "--precision" && i + 1 < argc) {
      const std::string name = argv[++i];
      if (name != "fine" && name != "fast" && name != "exact") Fail("unknown precision " + name);
      s.precision = name == "fine"   ? Precision::kFine
                    : name == "fast" ? Precision::kFast
                                     : Precision::kExact;
    } else if (arg == "--json") {
      s.json = true;
    } else if (s.folder.empty() && !arg.starts_with("-")) {
      s.folder = arg;
    } else {
      Fail("unknown argument " + arg);
    }
  }
  if (s.folder.empty()) Fail("usage: bench_model FOLDER [--threads N] ... (see the source)");
  return s;
}

int Main(int argc, char** argv) {
  const Settings s = Parse(argc, argv);
  auto engine = Engine::Load(s.folder, {.threads = s.threads, .precision = s.precision});
  if (!engine.ok()) Fail(engine.status().ToString());
  Engine& e = **engine;

  const Rate encode = s.documents * s.document_tokens > 0 ? MeasureEncode(s, e) : Rate();
  const Rate prefill = s.document_tokens > 0 ? MeasurePrefill(s, e) : Rate();
  uint64_t hash = 0;
  const Rate decode = s.generate > 0 ? MeasureDecode(s, e, &hash) : Rate();
  const double gflops = encode.median / static_cast<double>(s.document_tokens) *
                        EncodeFlop(e.config, s.document_tokens) / 1e9;
  const double gb_per_s = decode.median * static_cast<double>(e.weights.bytes_per_token()) / 1e9;
  if (s.json) {
    std::printf(
        "{\"encode\": %.2f, \"encode_low\": %.2f, \"encode_high\": %.2f, \"encode_gflops\": %.2f, "
        "\"prefill\": %.2f, \"decode\": %.3f, \"decode_low\": %.3f, \"decode_high\": %.3f, "
        "\"decode_gb\": %.3f, "
        "\"hash\": \"%016llx\"}\n",
        encode.median, encode.lowest, encode.highest, gflops, prefill.median, decode.median,
        decode.lowest, decode.highest, gb_per_s, static_cast<unsigned long long>(hash));
    return 0;
  }
  std::printf("%s\n", e.description.c_str());
  std::printf("encode %zu x %zu tokens: %8.1f tokens/s (%.1f to %.1f), %.1f GFLOP/s\n", s.documents,
              s.document_tokens, encode.median, encode.lowest, encode.highest, gflops);
  std::printf("prefill of %zu tokens:    %8.1f tokens/s (%.1f to %.1f)\n", s.document_tokens,
              prefill.median, prefill.lowest, prefill.highest);
  std::printf(
      "decode %zu after %zu:     %8.1f tokens/s (%.1f to %.1f), %.2f GB/s of %.1f MB of weights\n",
      s.generate, s.prompt_tokens, decode.median, decode.lowest, decode.highest, gb_per_s,
      static_cast<double>(e.weights.bytes_per_token()) / 1e6);
  std::printf("greedy tokens hash %016llx\n", static_cast<unsigned long long>(hash));
  return 0;
}

}  // namespace
}  // namespace msadb::model

int main(int argc, char** argv) { return msadb::model::Main(argc, argv); }
