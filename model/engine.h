// Everything a loaded model folder consists of, wired together: what the facade (model/model.h),
// the tests and the benchmarks run on.
#ifndef MSADB_MODEL_ENGINE_H_
#define MSADB_MODEL_ENGINE_H_

#include <memory>
#include <optional>
#include <string>

#include "kernels/backend.h"
#include "model/encoder.h"
#include "model/generator.h"
#include "model/layer.h"
#include "model/model.h"
#include "model/model_config.h"
#include "model/templates.h"
#include "model/tokenizer.h"
#include "model/weights.h"
#include "msadb/status.h"

namespace msadb::model {

// Immutable after Load but for `states`, which `generator` and EncodeBatch work in: one computing
// call at a time.
struct Engine {
  // Errors as Model::Load.
  static Result<std::unique_ptr<Engine>> Load(const std::string& folder,
                                              const ModelOptions& options);
  Engine() = default;
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  ModelConfig config;
  std::unique_ptr<Tokenizer> tokenizer;
  std::optional<Templates> templates;
  std::unique_ptr<kernels::Backend> backend;
  Weights weights;
  TemplatePrefix prefix;
  std::optional<TokenStates> states;
  std::optional<Generator> generator;
  std::string fingerprint;
  std::string description;
};

}  // namespace msadb::model

#endif  // MSADB_MODEL_ENGINE_H_
