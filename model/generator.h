// The question meets memory: prefill with routing in every routing layer, then decoding over the
// assembled keys and values (paper stages 2 and 3, spec section 3).
#ifndef MSADB_MODEL_GENERATOR_H_
#define MSADB_MODEL_GENERATOR_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "kernels/backend.h"
#include "model/encoder.h"
#include "model/layer.h"
#include "model/memory_bank.h"
#include "model/model.h"
#include "model/model_config.h"
#include "model/weights.h"
#include "msadb/status.h"

namespace msadb::model {

// What a prompt token is. Only query tokens route.
enum class TokenRole : int8_t { kQuery = 0, kGenerated = -1, kTemplate = -2 };

struct PromptPart {
  TokenRole role = TokenRole::kTemplate;
  std::vector<int32_t> tokens;
};

// [template prefix; memory; local tokens] of every layer: what the next token attends to.
struct Context {
  struct Layer {
    std::unique_ptr<kernels::Activations> keys;    // [capacity, G D]
    std::unique_ptr<kernels::Activations> values;  // [capacity, G D]
    size_t rows = 0;                               // filled
  };
  std::vector<Layer> layers;
  size_t position = 0;        // of the next token
  std::vector<float> logits;  // [vocab_size] after the last token
};

struct PrefillTrace {
  std::vector<LayerTrace> layers;  // one per routing layer
  double routing_ms = 0;
  double fetch_ms = 0;
};

struct PrefillOptions {
  // Documents asked of the bank in each routing layer, at least top_k_docs; the best top_k_docs are
  // attended to, all are in the trace. 0: top_k_docs.
  size_t route_count = 0;
  // Only the trace is wanted: stop where routing ends and leave the context empty.
  bool routing_only = false;
  // Tokens that will be appended, so that the context need not grow.
  size_t tokens_to_come = 0;
};

// Holds no state of a question; everything it points to must outlive it.
class Generator {
 public:
  Generator(const ModelConfig* config, const Weights* weights, const TemplatePrefix* prefix,
            TokenStates* states, kernels::Backend* backend)
      : config_(*config),
        weights_(*weights),
        prefix_(*prefix),
        states_(*states),
        backend_(*backend) {}

  // Runs `parts` after the template prefix, from position prefix + top_k_docs on. Not empty in all,
  // ids in [0, vocab_size). Errors of the bank come back as they are.
  Result<Context> Prefill(std::span<const PromptPart> parts, MemoryBank& bank,
                          const PrefillOptions& options, const CallLimits& limits,
                          PrefillTrace* trace);

  // Appends tokens without routing: a generated one, or several that the engine adds.
  Status Append(std::span<const int32_t> tokens, const CallLimits& limits, Context* context);
  // One decoding step of several sequences in one pass: every product runs over all tokens
  // together, each token attends to its own context. What a sequence gets does not depend on who
  // shares the pass: bit for bit with int8 and int4 weights on the CPU (kernels/matmul.h), else up
  // to rounding, since products of float weights and of other devices choose their order of
  // summation by the number of tokens. Every context must have room (MakeRoom), none may come
  // twice. After an error no context may be used again.
  struct Next {
    int32_t token = 0;
    Context* context = nullptr;
  };
  Status Step(std::span<const Next> sequences);
  // Room for one more token. On error the context is as it was.
  Status MakeRoom(Context* context);
  // Forgets the last `tokens` appended ones; logits are valid again after the next Append.
  static void TakeBack(size_t tokens, Context* context);

 private:
  // The documents of routing layer r for the query tokens of a prefill, best first.
  Result<std::vector<RoutedDocument>> Route(int layer, std::span<const PromptPart> parts,
                                            MemoryBank& bank, size_t count);
  Status Reserve(size_t rows, Context::Layer* layer);
  // The rest of a layer once its context is assembled: attention over it and the MLP, for all
  // `tokens` local tokens or, in the last layer, for the only one whose output is used.
  Status Finish(int layer, size_t tokens, const Context::Layer& context);

  const ModelConfig& config_;
  const Weights& weights_;
  const TemplatePrefix& prefix_;
  TokenStates& states_;
  kernels::Backend& backend_;
};

// Documents by their mean score over the layers of a trace, best first, equal scores by ascending
// number. A layer whose list does not hold a document counts with the last score of its list (0 for
// an empty one): the bank returned everything better. From each score `share` times the document's
// score in `before`, the layers of another trace, is taken.
std::vector<RoutedDocument> FuseLayers(std::span<const LayerTrace> layers,
                                       std::span<const LayerTrace> before = {}, float share = 0);

}  // namespace msadb::model

#endif  // MSADB_MODEL_GENERATOR_H_
