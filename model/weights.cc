#include "model/weights.h"

#include <cstring>
#include <initializer_list>
#include <new>
#include <string>

#include "kernels/dtype.h"

namespace msadb::model {
namespace {

using kernels::WeightSource;
using kernels::WeightType;

struct Rows {
  std::string name;  // without ".weight"
  uint64_t rows;
};

class Loader {
 public:
  Loader(const WeightFiles& files, kernels::Backend* backend) : files_(files), backend_(backend) {}

  // The named projections of `cols` inputs, stacked in order.
  Result<std::unique_ptr<kernels::Matrix>> Matrix(std::initializer_list<Rows> stacked,
                                                  uint64_t cols) {
    std::vector<WeightSource> sources;
    for (const Rows& item : stacked) {
      MSADB_ASSIGN_OR_RETURN(const MatrixView view, files_.FindMatrix(item.name, item.rows, cols));
      WeightSource source;
      switch (view.form) {
        case MatrixView::Form::kInt8:
          source.type = WeightType::kInt8;
          break;
        case MatrixView::Form::kInt4:
          source.type = WeightType::kInt4;
          break;
        case MatrixView::Form::kDense:
          source.type = view.weight.dtype == DType::kF32   ? WeightType::kF32
                        : view.weight.dtype == DType::kF16 ? WeightType::kF16
                                                           : WeightType::kBF16;
          break;
      }
      source.data = view.weight.data.data();
      source.scale = reinterpret_cast<const uint16_t*>(view.scale.data.data());
      source.min = reinterpret_cast<const uint16_t*>(view.min.data.data());
      source.rows = view.rows;
      source.cols = view.cols;
      source.group = view.group;
      sources.push_back(source);
    }
    auto matrix = backend_->LoadMatrix(sources);
    if (!matrix.ok()) return matrix.status().WithContext(stacked.begin()->name);
    return matrix;
  }

  // A norm's weights, whatever float type they are stored in.
  Result<std::unique_ptr<kernels::Vector>> Vector(const std::string& name, uint64_t size) {
    MSADB_ASSIGN_OR_RETURN(const TensorView view, files_.Get(name, std::span(&size, 1)));
    std::vector<float> values(size);
    const std::byte* data = view.data.data();
    switch (view.dtype) {
      case DType::kF32:
        std::memcpy(values.data(), data, view.data.size());
        break;
      case DType::kF16:
        kernels::ConvertF16ToF32(reinterpret_cast<const uint16_t*>(data), values.data(), size);
        break;
      case DType::kBF16:
        kernels::ConvertBf16ToF32(reinterpret_cast<const uint16_t*>(data), values.data(), size);
        break;
      default:
        return Status::InvalidArgument(name + " is " + DTypeName(view.dtype) +
                                       "; a norm must be F32, F16 or BF16");
    }
    return backend_->LoadVector(values);
  }

 private:
  const WeightFiles& files_;
  kernels::Backend* backend_;
};

Result<LayerWeights> LoadLayer(Loader& loader, const ModelConfig& config, int layer) {
  const std::string prefix = "model.layers." + std::to_string(layer) + ".";
  const std::string attention = prefix + "self_attn.";
  const auto hidden = static_cast<uint64_t>(config.hidden_size);
  const auto inner = static_cast<uint64_t>(config.intermediate_size);
  const auto q_dim = static_cast<uint64_t>(config.q_dim());
  const auto kv_dim = static_cast<uint64_t>(config.kv_dim());
  const auto head_dim = static_cast<uint64_t>(config.head_dim);

  LayerWeights w;
  MSADB_ASSIGN_OR_RETURN(w.input_norm, loader.Vector(prefix + "input_layernorm.weight", hidden));
  MSADB_ASSIGN_OR_RETURN(w.qkv, loader.Matrix({{attention + "q_proj", q_dim},
                                               {attention + "k_proj", kv_dim},
                                               {attention + "v_proj", kv_dim}},
                                              hidden));
  if (config.qk_norm) {
    MSADB_ASSIGN_OR_RETURN(w.q_norm, loader.Vector(attention + "q_norm.weight", head_dim));
    MSADB_ASSIGN_OR_RETURN(w.k_norm, loader.Vector(attention + "k_norm.weight", head_dim));
  }
  MSADB_ASSIGN_OR_RETURN(w.output, loader.Matrix({{attention + "o_proj", hidden}}, q_dim));
  if (config.msa.decouple_router && config.RoutingOrdinal(layer) >= 0) {
    MSADB_ASSIGN_OR_RETURN(w.router_q,
                           loader.Matrix({{attention + "router_q_proj.0", q_dim}}, hidden));
    MSADB_ASSIGN_OR_RETURN(w.router_k,
                           loader.Matrix({{attention + "router_k_proj.0", kv_dim}}, hidden));
  }
  MSADB_ASSIGN_OR_RETURN(w.post_attention_norm,
                         loader.Vector(prefix + "post_attention_layernorm.weight", hidden));
  MSADB_ASSIGN_OR_RETURN(
      w.gate_up,
      loader.Matrix({{prefix + "mlp.gate_proj", inner}, {prefix + "mlp.up_proj", inner}}, hidden));
  MSADB_ASSIGN_OR_RETURN(w.down, loader.Matrix({{prefix + "mlp.down_proj", hidden}}, inner));
  return w;
}

size_t BytesOf(const std::unique_ptr<kernels::Matrix>& matrix) {
  return matrix ? matrix->bytes() : 0;
}

}  // namespace

size_t Weights::bytes() const {
  size_t total = BytesOf(embedding) + BytesOf(lm_head);
  for (const LayerWeights& w : layers) {
    for (const auto* matrix : {&w.qkv, &w.output, &w.router_q, &w.router_k, &w.gate_up, &w.down}) {
      total += BytesOf(*matrix);
    }
  }
  return total;
}

size_t Weights::bytes_per_token() const {
  size_t total = head().bytes();
  for (const LayerWeights& w : layers) {
    for (const auto* matrix : {&w.qkv, &w.output, &w.gate_up, &w.down}) total += BytesOf(*matrix);
  }
  return total;
}

Result<Weights> LoadWeights(const WeightFiles& files, const ModelConfig& config,
                            kernels::Backend* backend) try {
  Loader loader(files, backend);
  const auto vocab = static_cast<uint64_t>(config.vocab_size);
  const auto hidden = static_cast<uint64_t>(config.hidden_size);
  Weights weights;
  MSADB_ASSIGN_OR_RETURN(weights.embedding, loader.Matrix({{"model.embed_tokens", vocab}}, hidden));
  if (!config.tie_word_embeddings) {
    MSADB_ASSIGN_OR_RETURN(weights.lm_head, loader.Matrix({{"lm_head", vocab}}, hidden));
  }
  MSADB_ASSIGN_OR_RETURN(weights.final_norm, loader.Vector("model.norm.weight", hidden));
  for (int layer = 0; layer < config.n_layers; ++layer) {
    MSADB_ASSIGN_OR_RETURN(LayerWeights w, LoadLayer(loader, config, layer));
    weights.layers.push_back(std::move(w));
  }
  return weights;
} catch (const std::bad_alloc&) {
  return Status::ResourceExhausted("out of memory while loading weights");
}

}  // namespace msadb::model
