// The weights of a model folder on a backend, under the checkpoint's names.
#ifndef MSADB_MODEL_WEIGHTS_H_
#define MSADB_MODEL_WEIGHTS_H_

#include <memory>
#include <vector>

#include "kernels/backend.h"
#include "model/model_config.h"
#include "model/safetensors.h"
#include "msadb/status.h"

namespace msadb::model {

// One layer. Projections that read the same input are stacked into one matrix at load.
// H heads, G kv heads, D head_dim, I intermediate_size.
struct LayerWeights {
  std::unique_ptr<kernels::Vector> input_norm;  // input_layernorm [hidden]
  std::unique_ptr<kernels::Matrix> qkv;         // self_attn.{q,k,v}_proj [(H + 2 G) D, hidden]
  std::unique_ptr<kernels::Vector> q_norm;      // self_attn.q_norm [D]; null: Llama style
  std::unique_ptr<kernels::Vector> k_norm;      // self_attn.k_norm [D]; null: Llama style
  std::unique_ptr<kernels::Matrix> output;      // self_attn.o_proj [hidden, H D]
  std::unique_ptr<kernels::Matrix> router_q;    // self_attn.router_q_proj.0 [H D, hidden]
  std::unique_ptr<kernels::Matrix> router_k;    // self_attn.router_k_proj.0 [G D, hidden]
                                                // both null unless a decoupled routing layer
  std::unique_ptr<kernels::Vector> post_attention_norm;  // post_attention_layernorm [hidden]
  std::unique_ptr<kernels::Matrix> gate_up;              // mlp.{gate,up}_proj [2 I, hidden]
  std::unique_ptr<kernels::Matrix> down;                 // mlp.down_proj [hidden, I]
};

struct Weights {
  std::unique_ptr<kernels::Matrix> embedding;  // model.embed_tokens [vocab, hidden]
  std::unique_ptr<kernels::Matrix> lm_head;    // lm_head [vocab, hidden]; null: the embedding, tied
  std::unique_ptr<kernels::Vector> final_norm;  // model.norm [hidden]
  std::vector<LayerWeights> layers;

  const kernels::Matrix& head() const { return lm_head ? *lm_head : *embedding; }
  size_t bytes() const;  // of all matrices
  size_t bytes_per_token()
      const;  // read by one decoding step: all matrices but an untied embedding
};

// Checks every tensor's shape against `config` and copies it to `backend`. NotFound or
// InvalidArgument name the tensor, with the expected and the found shape.
Result<Weights> LoadWeights(const WeightFiles& files, const ModelConfig& config,
                            kernels::Backend* backend);

}  // namespace msadb::model

#endif  // MSADB_MODEL_WEIGHTS_H_
