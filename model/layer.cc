#include "model/layer.h"

#include <algorithm>
#include <utility>

namespace msadb::model {
namespace {

using kernels::Tensor;

}  // namespace

TokenStates::TokenStates(const ModelConfig* config, const Weights* weights,
                         kernels::Backend* backend)
    : config_(*config),
      weights_(*weights),
      backend_(*backend),
      hidden_(static_cast<size_t>(config->hidden_size)),
      inner_(static_cast<size_t>(config->intermediate_size)),
      q_dim_(static_cast<size_t>(config->q_dim())),
      kv_dim_(static_cast<size_t>(config->kv_dim())),
      n_heads_(static_cast<size_t>(config->n_heads)),
      n_kv_heads_(static_cast<size_t>(config->n_kv_heads)),
      head_dim_(static_cast<size_t>(config->head_dim)),
      epsilon_(static_cast<float>(config->rms_norm_eps)) {}

Status TokenStates::Reserve(size_t tokens) {
  if (tokens <= capacity_) return Status::Ok();
  capacity_ = 0;  // until all of it is there
  const size_t tile = std::min(tokens, backend_.mlp_tile());
  MSADB_ASSIGN_OR_RETURN(states_, backend_.AllocateSums(tokens, hidden_));
  MSADB_ASSIGN_OR_RETURN(normed_, backend_.Allocate(tokens, hidden_));
  MSADB_ASSIGN_OR_RETURN(qkv_, backend_.Allocate(tokens, q_dim_ + 2 * kv_dim_));
  MSADB_ASSIGN_OR_RETURN(attention_, backend_.Allocate(tokens, q_dim_));
  MSADB_ASSIGN_OR_RETURN(gate_up_, backend_.Allocate(tile, 2 * inner_));
  MSADB_ASSIGN_OR_RETURN(gated_, backend_.Allocate(tile, inner_));
  capacity_ = tokens;
  return Status::Ok();
}

Status TokenStates::Embed(std::span<const int32_t> ids) {
  const Tensor states = states_->tensor();
  MSADB_RETURN_IF_ERROR(backend_.Embed(*weights_.embedding, ids, states));
  return See("hidden", -1, states, ids.size(), hidden_);
}

Status TokenStates::Project(int layer, size_t tokens, const kernels::Angles& angles) {
  const LayerWeights& w = weights_.layers[static_cast<size_t>(layer)];
  MSADB_RETURN_IF_ERROR(backend_.NormMatmul(states_->tensor(), tokens, *w.input_norm, epsilon_,
                                            *w.qkv, normed(), qkv_->tensor()));
  MSADB_RETURN_IF_ERROR(backend_.NormRope(q(), k(), tokens, n_heads_, n_kv_heads_, head_dim_,
                                          w.q_norm.get(), w.k_norm.get(), epsilon_, angles));
  return SeeProjected(layer, tokens);
}

Status TokenStates::SeeProjected(int layer, size_t tokens) {
  MSADB_RETURN_IF_ERROR(See("q", layer, q(), tokens, q_dim_));
  MSADB_RETURN_IF_ERROR(See("k", layer, k(), tokens, kv_dim_));
  return See("v", layer, v(), tokens, kv_dim_);
}

Status TokenStates::Attend(int layer, size_t first, size_t count, Tensor keys, Tensor values,
                           std::span<const kernels::AttentionSegment> segments) {
  const LayerWeights& w = weights_.layers[static_cast<size_t>(layer)];
  const Tensor attention = attention_->tensor();
  MSADB_RETURN_IF_ERROR(
      backend_.Attention(q(), keys, values, attention, segments, n_heads_, n_kv_heads_, head_dim_));
  MSADB_RETURN_IF_ERROR(See("attention", layer, attention.At(first), count, q_dim_));
  return backend_.Matmul(attention.At(first), count, *w.output, states_->tensor().At(first), true);
}

Status TokenStates::AttendEach(int layer, std::span<const kernels::OwnKeys> keys,
                               const kernels::Angles& angles) {
  const LayerWeights& w = weights_.layers[static_cast<size_t>(layer)];
  const Tensor attention = attention_->tensor();
  MSADB_RETURN_IF_ERROR(backend_.NormMatmul(states_->tensor(), keys.size(), *w.input_norm, epsilon_,
                                            *w.qkv, normed(), qkv_->tensor()));
  if (probe_) {  // sees the steps one by one
    MSADB_RETURN_IF_ERROR(backend_.NormRopeAppend(q(), k(), v(), keys, n_heads_, n_kv_heads_,
                                                  head_dim_, w.q_norm.get(), w.k_norm.get(),
                                                  epsilon_, angles));
    MSADB_RETURN_IF_ERROR(SeeProjected(layer, keys.size()));
    MSADB_RETURN_IF_ERROR(
        backend_.AttentionEach(q(), keys, attention, n_heads_, n_kv_heads_, head_dim_));
  } else {
    MSADB_RETURN_IF_ERROR(backend_.RotateAttentionEach(
        q(), k(), v(), keys, attention, n_heads_, n_kv_heads_, head_dim_, w.q_norm.get(),
        w.k_norm.get(), epsilon_, angles));
  }
  MSADB_RETURN_IF_ERROR(See("attention", layer, attention, keys.size(), q_dim_));
  return backend_.Matmul(attention, keys.size(), *w.output, states_->tensor(), true);
}

Status TokenStates::Mlp(int layer, size_t first, size_t count) {
  const LayerWeights& w = weights_.layers[static_cast<size_t>(layer)];
  const Tensor states = states_->tensor();
  const size_t tile = backend_.mlp_tile();
  for (size_t begin = first; begin < first + count; begin += tile) {
    const size_t n = std::min(tile, first + count - begin);
    const Tensor gated = gated_->tensor();
    MSADB_RETURN_IF_ERROR(backend_.NormMatmulSiluMul(states.At(begin), n, *w.post_attention_norm,
                                                     epsilon_, *w.gate_up, normed(),
                                                     gate_up_->tensor(), gated));
    MSADB_RETURN_IF_ERROR(backend_.Matmul(gated, n, *w.down, states.At(begin), true));
  }
  return See("hidden", layer, states.At(first), count, hidden_);
}

Result<bool> TokenStates::Step(int32_t token, std::span<const kernels::OwnKeys> keys,
                               const kernels::Angles& angles, std::vector<float>* logits) {
  if (probe_) return false;  // sees the steps one by one
  std::vector<kernels::DecodeLayer> layers;
  for (size_t l = 0; l < keys.size(); ++l) {
    const LayerWeights& w = weights_.layers[l];
    layers.push_back({w.input_norm.get(), w.qkv.get(), w.q_norm.get(), w.k_norm.get(),
                      w.output.get(), w.post_attention_norm.get(), w.gate_up.get(), w.down.get(),
                      keys[l]});
  }
  const kernels::DecodeInput input = {weights_.embedding.get(), token,      &angles,
                                      layers,                   weights_.final_norm.get(),
                                      &weights_.head(),         n_heads_,   n_kv_heads_,
                                      head_dim_,                epsilon_};
  logits->resize(weights_.head().rows());
  MSADB_ASSIGN_OR_RETURN(const bool done, backend_.DecodeStep(input, logits->data()));
  if (done) MSADB_RETURN_IF_ERROR(backend_.Synchronize());
  return done;
}

Status TokenStates::Logits(size_t token, std::vector<float>* logits) {
  return Head(token, {&logits, 1});
}

Status TokenStates::LogitsEach(std::span<std::vector<float>* const> logits) {
  return Head(0, logits);
}

Status TokenStates::Head(size_t first, std::span<std::vector<float>* const> logits) {
  const size_t vocab = weights_.head().rows();
  if (!logits_ || logits_->rows() < logits.size()) {
    logits_.reset();
    MSADB_ASSIGN_OR_RETURN(logits_, backend_.AllocateSums(logits.size(), vocab));
  }
  MSADB_RETURN_IF_ERROR(backend_.NormMatmul(states_->tensor().At(first), logits.size(),
                                            *weights_.final_norm, epsilon_, weights_.head(),
                                            normed(), logits_->tensor()));
  for (size_t i = 0; i < logits.size(); ++i) {
    logits[i]->resize(vocab);
    MSADB_RETURN_IF_ERROR(backend_.Download(logits_->tensor().At(i), logits[i]->data(), 1, vocab));
  }
  return backend_.Synchronize();
}

Status TokenStates::See(std::string_view name, int layer, Tensor x, size_t rows, size_t width) {
  if (!probe_) return Status::Ok();
  std::vector<float> values(rows * width);
  MSADB_RETURN_IF_ERROR(backend_.Download(x, values.data(), rows, width));
  MSADB_RETURN_IF_ERROR(backend_.Synchronize());
  probe_(name, layer, values, width);
  return Status::Ok();
}

}  // namespace msadb::model
