#include "model/encoder.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <new>

#include "kernels/l2_normalize.h"
#include "model/call_limits.h"
#include "model/positions.h"

namespace msadb::model {
namespace {

using kernels::AttentionSegment;
using kernels::Backend;

// One packed batch: consecutive documents with their pooled rows of the layer at hand.
class Batch {
 public:
  Batch(std::span<const DocumentTokens> documents, const ModelConfig& config,
        const Weights& weights, TokenStates* states, Backend* backend)
      : documents_(documents),
        config_(config),
        weights_(weights),
        states_(*states),
        backend_(*backend),
        chunk_(static_cast<size_t>(config.msa.pooling_kernel_size)),
        kv_dim_(static_cast<size_t>(config.kv_dim())) {
    for (const DocumentTokens& document : documents) {
      segments_.push_back({ids_.size(), document.size(), ids_.size(), 0});
      lengths_.push_back(document.size());
      chunk_counts_.push_back((document.size() + chunk_ - 1) / chunk_);
      n_chunks_ += chunk_counts_.back();
      ids_.insert(ids_.end(), document.begin(), document.end());
    }
  }

  // Nothing may still be on its way to buffers of this object.
  ~Batch() { (void)backend_.Synchronize(); }
  Batch(const Batch&) = delete;
  Batch& operator=(const Batch&) = delete;

  Result<std::vector<EncodedDocument>> Run(const CallLimits& limits) {
    MSADB_RETURN_IF_ERROR(states_.Reserve(ids_.size()));
    const auto head_dim = static_cast<size_t>(config_.head_dim);
    MSADB_ASSIGN_OR_RETURN(
        const auto angles,
        backend_.LoadAngles(DocumentPositions(lengths_).values, head_dim, config_.rope_theta));
    MSADB_RETURN_IF_ERROR(states_.Embed(ids_));
    const int last = config_.msa.routing_layers.back();
    for (int layer = 0; layer <= last; ++layer) {
      MSADB_RETURN_IF_ERROR(CheckLimits(limits));
      MSADB_RETURN_IF_ERROR(states_.Project(layer, ids_.size(), *angles));
      if (config_.RoutingOrdinal(layer) >= 0) {
        MSADB_RETURN_IF_ERROR(Remember(layer));
        MSADB_ASSIGN_OR_RETURN(pooled_.back().done, backend_.SetMark());
      }
      if (layer == last) break;
      MSADB_RETURN_IF_ERROR(
          states_.Attend(layer, 0, ids_.size(), states_.k(), states_.v(), segments_));
      MSADB_RETURN_IF_ERROR(states_.Mlp(layer, 0, ids_.size()));
    }
    // A device computes later layers while the host hands out the results of earlier ones.
    std::vector<EncodedDocument> encoded = EmptyDocuments();
    for (size_t r = 0; r < pooled_.size(); ++r) {
      MSADB_RETURN_IF_ERROR(CheckLimits(limits));
      MSADB_RETURN_IF_ERROR(backend_.WaitFor(pooled_[r].done));
      MSADB_RETURN_IF_ERROR(HandOut(r, &encoded));
    }
    return encoded;
  }

 private:
  // What one routing layer leaves behind, pooled; each [chunks, G D].
  struct Pooled {
    std::vector<float> keys, values, routing_keys;
    Backend::Mark done;
  };

  std::vector<EncodedDocument> EmptyDocuments() const {
    const auto n_routing = static_cast<size_t>(config_.n_routing_layers());
    std::vector<EncodedDocument> encoded(documents_.size());
    for (size_t d = 0; d < encoded.size(); ++d) {
      encoded[d].n_tokens = static_cast<uint32_t>(lengths_[d]);
      encoded[d].n_chunks = static_cast<uint32_t>(chunk_counts_[d]);
      const size_t size = n_routing * chunk_counts_[d] * kv_dim_;
      encoded[d].routing_keys.resize(size);
      encoded[d].keys.resize(size);
      encoded[d].values.resize(size);
    }
    return encoded;
  }

  // Pools K, V and K^R of a routing layer (spec section 2); they are there after the mark.
  Status Remember(int layer) {
    const size_t size = n_chunks_ * kv_dim_;
    pooled_.push_back({std::vector<float>(size), std::vector<float>(size), {}});
    Pooled& pooled = pooled_.back();
    MSADB_RETURN_IF_ERROR(Pool(states_.k(), &pooled.keys));
    MSADB_RETURN_IF_ERROR(Pool(states_.v(), &pooled.values));
    if (!config_.msa.decouple_router) return Status::Ok();
    pooled.routing_keys.resize(size);
    if (!router_keys_) {
      MSADB_ASSIGN_OR_RETURN(router_keys_, backend_.Allocate(ids_.size(), kv_dim_));
    }
    const LayerWeights& w = weights_.layers[static_cast<size_t>(layer)];
    MSADB_RETURN_IF_ERROR(
        backend_.Matmul(states_.normed(), ids_.size(), *w.router_k, router_keys_->tensor(), false));
    return Pool(router_keys_->tensor(), &pooled.routing_keys);
  }

  // Gives every document its rows of routing layer r.
  Status HandOut(size_t r, std::vector<EncodedDocument>* encoded) {
    Pooled& pooled = pooled_[r];
    if (!config_.msa.decouple_router) pooled.routing_keys = pooled.keys;
    if (config_.msa.routing_metric == RoutingMetric::kCosine) {
      kernels::L2NormalizeRef({pooled.routing_keys.data(), n_chunks_,
                               static_cast<size_t>(config_.n_kv_heads),
                               static_cast<size_t>(config_.head_dim)});
    }
    MSADB_RETURN_IF_ERROR(Scatter(pooled.routing_keys, r, &EncodedDocument::routing_keys, encoded));
    MSADB_RETURN_IF_ERROR(Scatter(pooled.keys, r, &EncodedDocument::keys, encoded));
    MSADB_RETURN_IF_ERROR(Scatter(pooled.values, r, &EncodedDocument::values, encoded));
    pooled = {};
    return Status::Ok();
  }

  Status Pool(kernels::Tensor x, std::vector<float>* out) {
    return backend_.ChunkPool(x, lengths_, chunk_, kv_dim_, out->data());
  }

  // Hands each document its rows of `pooled`.
  Status Scatter(const std::vector<float>& pooled, size_t r,
                 std::vector<float> EncodedDocument::*to, std::vector<EncodedDocument>* encoded) {
    for (float value : pooled) {
      if (!std::isfinite(value)) {
        return Status::Corruption(
            "the model produced values that are not finite: its weights are damaged or of a kind "
            "this engine cannot compute");
      }
    }
    const float* from = pooled.data();
    for (size_t d = 0; d < encoded->size(); ++d) {
      const size_t size = chunk_counts_[d] * kv_dim_;
      std::copy_n(from, size, ((*encoded)[d].*to).data() + r * size);
      from += size;
    }
    return Status::Ok();
  }

  const std::span<const DocumentTokens> documents_;
  const ModelConfig& config_;
  const Weights& weights_;
  TokenStates& states_;
  Backend& backend_;
  const size_t chunk_;
  const size_t kv_dim_;
  std::vector<int32_t> ids_;
  std::vector<AttentionSegment> segments_;
  std::vector<size_t> lengths_;
  std::vector<size_t> chunk_counts_;
  size_t n_chunks_ = 0;
  std::vector<Pooled> pooled_;                         // per routing layer
  std::unique_ptr<kernels::Activations> router_keys_;  // [tokens, G D]
};

}  // namespace

size_t NextBatch(std::span<const DocumentTokens> documents, size_t batch_tokens) {
  size_t count = 0;
  size_t tokens = 0;
  for (const DocumentTokens& document : documents) {
    tokens += document.size();
    if (count > 0 && tokens > batch_tokens) break;
    ++count;
  }
  return count;
}

Result<std::vector<EncodedDocument>> EncodeBatch(std::span<const DocumentTokens> documents,
                                                 const ModelConfig& config, const Weights& weights,
                                                 const CallLimits& limits, TokenStates* states,
                                                 Backend* backend) try {
  Batch batch(documents, config, weights, states, backend);
  return batch.Run(limits);
} catch (const std::bad_alloc&) {
  return Status::ResourceExhausted("out of memory while encoding documents");
}

Result<TemplatePrefix> EncodePrefix(std::span<const int32_t> tokens, const ModelConfig& config,
                                    TokenStates* states, Backend* backend) try {
  TemplatePrefix prefix;
  prefix.n_tokens = tokens.size();
  const auto kv_dim = static_cast<size_t>(config.kv_dim());
  MSADB_RETURN_IF_ERROR(states->Reserve(std::max<size_t>(tokens.size(), 1)));
  const std::vector<size_t> lengths = {tokens.size()};
  MSADB_ASSIGN_OR_RETURN(
      const auto angles,
      backend->LoadAngles(DocumentPositions(lengths).values, static_cast<size_t>(config.head_dim),
                          config.rope_theta));
  MSADB_RETURN_IF_ERROR(states->Embed(tokens));
  const AttentionSegment segment{0, tokens.size(), 0, 0};
  for (int layer = 0; layer < config.n_layers; ++layer) {
    MSADB_RETURN_IF_ERROR(states->Project(layer, tokens.size(), *angles));
    MSADB_ASSIGN_OR_RETURN(auto keys, backend->Allocate(tokens.size(), kv_dim));
    MSADB_ASSIGN_OR_RETURN(auto values, backend->Allocate(tokens.size(), kv_dim));
    MSADB_RETURN_IF_ERROR(backend->CopyRows(states->k(), keys->tensor(), tokens.size(), kv_dim));
    MSADB_RETURN_IF_ERROR(backend->CopyRows(states->v(), values->tensor(), tokens.size(), kv_dim));
    prefix.keys.push_back(std::move(keys));
    prefix.values.push_back(std::move(values));
    MSADB_RETURN_IF_ERROR(
        states->Attend(layer, 0, tokens.size(), states->k(), states->v(), {&segment, 1}));
    MSADB_RETURN_IF_ERROR(states->Mlp(layer, 0, tokens.size()));
  }
  MSADB_RETURN_IF_ERROR(backend->Synchronize());
  return prefix;
} catch (const std::bad_alloc&) {
  return Status::ResourceExhausted("out of memory while encoding the template prefix");
}

}  // namespace msadb::model
