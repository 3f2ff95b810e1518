// One transformer layer, in the steps that encoding, prefill and decoding share. Each step works on
// the token states held here; what differs between the three (which keys and values a token sees)
// comes in as arguments.
//
//   Embed                       states = embedding of the tokens
//   per layer: Project          h = input_norm(states); q, k, v = rope(norm(W h))
//              Attend           states += W_o attention(q, K, V)
//              Mlp              states += W_down(silu(W_gate h) * W_up h), h = post_norm(states)
//   Logits                      W_head final_norm(state)
#ifndef MSADB_MODEL_LAYER_H_
#define MSADB_MODEL_LAYER_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "kernels/backend.h"
#include "model/model_config.h"
#include "model/weights.h"
#include "msadb/status.h"

namespace msadb::model {

// Sees intermediates by name, for comparing with a reference layer by layer: "q", "k", "v",
// "attention" (before W_o) and "hidden" (the layer's output) of each layer, "hidden" of layer -1
// for the embeddings. `values` is [rows, width], valid during the call.
using Probe = std::function<void(std::string_view name, int layer, std::span<const float> values,
                                 size_t width)>;

// One forward pass at a time. `config`, `weights` and `backend` must outlive it.
class TokenStates {
 public:
  TokenStates(const ModelConfig* config, const Weights* weights, kernels::Backend* backend);

  // Makes room for `tokens`, which all following calls then stay within. ResourceExhausted.
  Status Reserve(size_t tokens);
  void set_probe(Probe probe) { probe_ = std::move(probe); }

  // Token ids must lie in [0, vocab_size).
  Status Embed(std::span<const int32_t> ids);

  // Fills normed(), q(), k() and v() of the first `tokens` tokens.
  Status Project(int layer, size_t tokens, const kernels::Angles& angles);
  // Tokens [first, first + count): `segments` index rows of q() and of `keys` and `values`.
  Status Attend(int layer, size_t first, size_t count, kernels::Tensor keys, kernels::Tensor values,
                std::span<const kernels::AttentionSegment> segments);
  // Projects tokens 0 .. keys.size() - 1 of different sequences, makes the key and the value of token
  // i the last rows of keys[i], and attends over these. Leaves q(), k() and v() undefined.
  Status AttendEach(int layer, std::span<const kernels::OwnKeys> keys,
                    const kernels::Angles& angles);
  Status Mlp(int layer, size_t first, size_t count);
  // A decoding step of one sequence in one call (Backend::DecodeStep): keys[l] is layer l's, the last row of
  // each the token's. False, and nothing was done: take it layer by layer.
  Result<bool> Step(int32_t token, std::span<const kernels::OwnKeys> keys,
                    const kernels::Angles& angles, std::vector<float>* logits);

  // [vocab_size] of one token.
  Status Logits(size_t token, std::vector<float>* logits);
  // logits[i] becomes token i's.
  Status LogitsEach(std::span<std::vector<float>* const> logits);

  // Row i is token i. Valid after Project until the next one.
  kernels::Tensor normed() const { return normed_->tensor(); }                  // [tokens, hidden]
  kernels::Tensor q() const { return qkv_->tensor(); }                          // [tokens, H D]
  kernels::Tensor k() const { return qkv_->tensor().At(0, q_dim_); }            // [tokens, G D]
  kernels::Tensor v() const { return qkv_->tensor().At(0, q_dim_ + kv_dim_); }  // [tokens, G D]

 private:
  Status SeeProjected(int layer, size_t tokens);
  // The tokens from `first` on.
  Status Head(size_t first, std::span<std::vector<float>* const> logits);
  Status See(std::string_view name, int layer, kernels::Tensor x, size_t rows, size_t width);

  const ModelConfig& config_;
  const Weights& weights_;
  kernels::Backend& backend_;
  Probe probe_;

  const size_t hidden_, inner_, q_dim_, kv_dim_, n_heads_, n_kv_heads_, head_dim_;
  const float epsilon_;
  size_t capacity_ = 0;                              // tokens
  std::unique_ptr<kernels::Activations> states_;     // [capacity, hidden]
  std::unique_ptr<kernels::Activations> normed_;     // [capacity, hidden]
  std::unique_ptr<kernels::Activations> qkv_;        // [capacity, (H + 2 G) D]
  std::unique_ptr<kernels::Activations> attention_;  // [capacity, H D]
  std::unique_ptr<kernels::Activations> gate_up_;    // [tile, 2 I]
  std::unique_ptr<kernels::Activations> gated_;      // [tile, I]
  std::unique_ptr<kernels::Activations> logits_;     // [most tokens asked for at once, vocab]
};

}  // namespace msadb::model

#endif  // MSADB_MODEL_LAYER_H_
