#include "model/engine.h"

#include <charconv>
#include <string_view>
#include <utility>

#include "kernels/cuda_backend.h"
#include "model/fingerprint.h"
#include "model/safetensors.h"

namespace msadb::model {
namespace {

std::unique_ptr<kernels::Backend> MakeCpuBackend(const ModelOptions& options) {
  kernels::CpuBackendOptions cpu{.threads = options.threads};
  switch (options.precision) {
    case Precision::kFine:
      cpu.precision = kernels::Precision::kFine;
      break;
    case Precision::kFast:
      cpu.precision = kernels::Precision::kFast;
      break;
    case Precision::kExact:
      cpu.precision = kernels::Precision::kExact;
      break;
  }
  return kernels::MakeCpuBackend(cpu);
}

Result<std::unique_ptr<kernels::Backend>> MakeBackend(const ModelOptions& options) {
  const std::string_view device = options.device;
  if (device == "cpu") return MakeCpuBackend(options);
  if (device == "auto") {
    if (kernels::CudaDeviceCount() > 0) {
      auto gpu = kernels::MakeCudaBackend(0);
      if (gpu.ok()) return gpu;
    }
    return MakeCpuBackend(options);
  }
  constexpr std::string_view kCuda = "cuda:";
  if (device.starts_with(kCuda)) {
    int number = 0;
    const char* const begin = device.data() + kCuda.size();
    const char* const end = device.data() + device.size();
    const auto parsed = std::from_chars(begin, end, number);
    if (parsed.ec == std::errc() && parsed.ptr == end) return kernels::MakeCudaBackend(number);
  }
  return Status::InvalidArgument("unknown device \"" + options.device +
                                 "\"; use \"auto\", \"cpu\" or \"cuda:N\"");
}

std::string Describe(const ModelConfig& config, const Weights& weights,
                     const kernels::Backend& backend) {
  return config.model_type + ", " + std::to_string(config.n_layers) + " layers of " +
         std::to_string(config.hidden_size) + ", " +
         std::to_string((weights.bytes() + 500'000) / 1'000'000) + " MB of weights; " +
         backend.description();
}

}  // namespace

Result<std::unique_ptr<Engine>> Engine::Load(const std::string& folder,
                                             const ModelOptions& options) {
  auto engine = std::make_unique<Engine>();
  MSADB_ASSIGN_OR_RETURN(engine->config, LoadModelConfig(folder));
  const ModelConfig& config = engine->config;
  MSADB_ASSIGN_OR_RETURN(engine->tokenizer, Tokenizer::Load(folder));
  if (engine->tokenizer->vocab_size() > static_cast<size_t>(config.vocab_size)) {
    return Status::InvalidArgument(
        folder + ": the tokenizer has " + std::to_string(engine->tokenizer->vocab_size()) +
        " tokens, the model's vocab_size is only " + std::to_string(config.vocab_size));
  }
  MSADB_ASSIGN_OR_RETURN(TemplateStrings strings, LoadTemplates(folder));
  auto templates = Templates::Compile(std::move(strings), engine->tokenizer.get());
  if (!templates.ok()) return templates.status().WithContext(folder);
  engine->templates = std::move(*templates);

  MSADB_ASSIGN_OR_RETURN(engine->backend, MakeBackend(options));
  kernels::Backend* const backend = engine->backend.get();
  {
    MSADB_ASSIGN_OR_RETURN(const auto files, WeightFiles::Open(folder));
    auto weights = LoadWeights(*files, config, backend);
    if (!weights.ok()) return weights.status().WithContext(folder);
    engine->weights = std::move(*weights);
    MSADB_ASSIGN_OR_RETURN(engine->fingerprint, ModelFingerprint(folder, engine->templates->strings(), files->paths()));
  }
  engine->description = Describe(config, engine->weights, *backend);
  engine->states.emplace(&config, &engine->weights, backend);
  MSADB_ASSIGN_OR_RETURN(
      engine->prefix, EncodePrefix(engine->templates->head(), config, &*engine->states, backend));
  engine->generator.emplace(&config, &engine->weights, &engine->prefix, &*engine->states, backend);
  return engine;
}

}  // namespace msadb::model
