// Documents into memory (paper stage 1, spec section 2).
#ifndef MSADB_MODEL_ENCODER_H_
#define MSADB_MODEL_ENCODER_H_

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/backend.h"
#include "model/layer.h"
#include "model/memory_bank.h"
#include "model/model.h"
#include "model/model_config.h"
#include "model/weights.h"
#include "msadb/status.h"

namespace msadb::model {

// One document as the layers see it: the filled-in template, not empty, ids in [0, vocab_size).
using DocumentTokens = std::vector<int32_t>;

// How many of the first documents form the next packed batch: as many as stay within `batch_tokens`
// together, at least one unless there is none.
size_t NextBatch(std::span<const DocumentTokens> documents, size_t batch_tokens);

// Runs one packed batch through the layers and pools what routing layers leave behind. Each
// document is a causal sequence of its own with positions from 0, so packing changes nothing but
// speed. Layers after the last routing layer, that layer's attention and MLP, and the LM head leave
// nothing in memory and are not run.
//
// Results are in the order of `documents`. Cancelled / DeadlineExceeded by `limits`, checked per
// layer. Corruption when the weights produce values that are not finite.
Result<std::vector<EncodedDocument>> EncodeBatch(std::span<const DocumentTokens> documents,
                                                 const ModelConfig& config, const Weights& weights,
                                                 const CallLimits& limits, TokenStates* states,
                                                 kernels::Backend* backend);

// The template prefix: K and V of every layer for the template head's tokens, which stand at
// positions 0 .. and attend to each other causally (spec section 2).
struct TemplatePrefix {
  size_t n_tokens = 0;
  std::vector<std::unique_ptr<kernels::Activations>> keys;    // per layer, [n_tokens, G D]
  std::vector<std::unique_ptr<kernels::Activations>> values;  // per layer, [n_tokens, G D]
};

Result<TemplatePrefix> EncodePrefix(std::span<const int32_t> tokens, const ModelConfig& config,
                                    TokenStates* states, kernels::Backend* backend);

}  // namespace msadb::model

#endif  // MSADB_MODEL_ENCODER_H_
