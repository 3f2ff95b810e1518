#include "model/model_config.h"

#include <algorithm>
#include <cctype>
#include <charconv>
#include <cmath>
#include <limits>
#include <new>
#include <utility>

#include "model/json_input.h"

namespace msadb::model {
namespace {

using nlohmann::json;

constexpr size_t kConfigBytesMax = 1u << 20;

std::string Shown(const json& value) {
  return Quoted(value.dump(-1, ' ', true, json::error_handler_t::replace));
}

// Null counts as missing: Hugging Face writes it for "default".
const json* FindKey(const json& object, const char* key) {
  auto it = object.find(key);
  return it == object.end() || it->is_null() ? nullptr : &*it;
}

Status WrongType(const char* key, const char* wanted, const json& value) {
  return Status::InvalidArgument(std::string("key ") + key + " must be " + wanted + ", not " +
                                 Shown(value));
}

Status UnsupportedValue(const char* key, const json& value, const char* supported) {
  return Status::Unsupported(std::string("key ") + key + " is " + Shown(value) +
                             "; this engine computes only " + supported);
}

template <typename T>
Status ReadInt(const json& object, const char* key, int64_t min, int64_t max, T* out) {
  const json* value = FindKey(object, key);
  if (value == nullptr) return Status();
  if (!value->is_number_integer()) return WrongType(key, "an integer", *value);
  const bool huge = value->is_number_unsigned() &&
                    value->get<uint64_t>() > uint64_t{std::numeric_limits<int64_t>::max()};
  const int64_t number = huge ? std::numeric_limits<int64_t>::max() : value->get<int64_t>();
  if (number < min || number > max) {
    return Status::InvalidArgument(std::string("key ") + key + " is " + Shown(*value) +
                                   ", outside " + std::to_string(min) + ".." + std::to_string(max));
  }
  *out = static_cast<T>(number);
  return Status();
}

Status ReadBool(const json& object, const char* key, bool* out) {
  const json* value = FindKey(object, key);
  if (value == nullptr) return Status();
  if (!value->is_boolean()) return WrongType(key, "true or false", *value);
  *out = value->get<bool>();
  return Status();
}

// Bounds are inclusive.
Status ReadDouble(const json& object, const char* key, double min, double max, double* out) {
  const json* value = FindKey(object, key);
  if (value == nullptr) return Status();
  if (!value->is_number()) return WrongType(key, "a number", *value);
  const double number = value->get<double>();
  if (!(number >= min && number <= max)) {
    return Status::InvalidArgument(std::string("key ") + key + " is " + Shown(*value) +
                                   ", out of range");
  }
  *out = number;
  return Status();
}

Status ReadString(const json& object, const char* key, std::string* out) {
  const json* value = FindKey(object, key);
  if (value == nullptr) return Status();
  if (!value->is_string()) return WrongType(key, "a string", *value);
  *out = value->get<std::string>();
  if (out->size() > 256) return WrongType(key, "a string of at most 256 bytes", *value);
  return Status();
}

// A string key of which this engine computes a single value.
Status RequireString(const json& object, const char* key, std::string* value) {
  const std::string supported = *value;
  MSADB_RETURN_IF_ERROR(ReadString(object, key, value));
  if (*value != supported) return UnsupportedValue(key, *value, Quoted(supported).c_str());
  return Status();
}

Status RequireBool(const json& object, const char* key, bool supported) {
  bool value = supported;
  MSADB_RETURN_IF_ERROR(ReadBool(object, key, &value));
  if (value != supported) return UnsupportedValue(key, value, supported ? "true" : "false");
  return Status();
}

// An id or a list of ids; adds them to `ids`, which stays sorted and unique.
Status ReadTokenIds(const json& object, const char* key, int vocab_size,
                    std::vector<int32_t>* ids) {
  const json* value = FindKey(object, key);
  if (value == nullptr) return Status();
  constexpr size_t kIdsMax = 64;
  const json list = value->is_array() ? *value : json::array({*value});
  if (list.size() > kIdsMax) return WrongType(key, "at most 64 token ids", *value);
  std::vector<int32_t> merged = *ids;
  for (const json& item : list) {
    if (!item.is_number_integer()) return WrongType(key, "a token id or a list of them", *value);
    const json wrapped = {{key, item}};
    int32_t id = 0;
    MSADB_RETURN_IF_ERROR(ReadInt(wrapped, key, 0, vocab_size - 1, &id));
    merged.push_back(id);
  }
  std::sort(merged.begin(), merged.end());
  merged.erase(std::unique(merged.begin(), merged.end()), merged.end());
  *ids = std::move(merged);
  return Status();
}

// rope_theta, as a key of its own (up to transformers 4) or inside rope_parameters (from 5 on), and
// rope_scaling, the older name of the latter. Only unscaled RoPE is computed.
Status ReadRope(const json& object, double* theta) {
  constexpr double kThetaMin = 1.0;
  constexpr double kThetaMax = 1e12;
  MSADB_RETURN_IF_ERROR(ReadDouble(object, "rope_theta", kThetaMin, kThetaMax, theta));
  const bool top_level = FindKey(object, "rope_theta") != nullptr;
  for (const char* key : {"rope_parameters", "rope_scaling"}) {
    const json* parameters = FindKey(object, key);
    if (parameters == nullptr) continue;
    if (!parameters->is_object()) return WrongType(key, "an object", *parameters);
    for (const char* type_key : {"rope_type", "type"}) {
      std::string type = "default";
      if (Status status = RequireString(*parameters, type_key, &type); !status.ok()) {
        return status.WithContext(key);
      }
    }
    double inner = *theta;
    if (Status status = ReadDouble(*parameters, "rope_theta", kThetaMin, kThetaMax, &inner);
        !status.ok()) {
      return status.WithContext(key);
    }
    if (top_level && inner != *theta) {
      return Status::InvalidArgument(std::string("rope_theta and ") + key +
                                     ".rope_theta differ; remove one of them");
    }
    *theta = inner;
    double rotated = 1.0;
    if (Status status = ReadDouble(*parameters, "partial_rotary_factor", 0.0, 1.0, &rotated);
        !status.ok()) {
      return status.WithContext(key);
    }
    if (rotated != 1.0) return UnsupportedValue("partial_rotary_factor", rotated, "1");
  }
  double rotated = 1.0;
  MSADB_RETURN_IF_ERROR(ReadDouble(object, "partial_rotary_factor", 0.0, 1.0, &rotated));
  if (rotated != 1.0) return UnsupportedValue("partial_rotary_factor", rotated, "1");
  return Status();
}

// What a Hugging Face config may ask for beyond the network that this engine computes.
Status RefuseUnsupported(const json& object) {
  for (const char* key : {"attention_bias", "mlp_bias", "use_sliding_window"}) {
    MSADB_RETURN_IF_ERROR(RequireBool(object, key, false));
  }
  std::string activation = "silu";
  MSADB_RETURN_IF_ERROR(RequireString(object, "hidden_act", &activation));
  if (const json* kinds = FindKey(object, "layer_types")) {
    if (!kinds->is_array()) return WrongType("layer_types", "a list", *kinds);
    for (const json& kind : *kinds) {
      if (kind != "full_attention") {
        return UnsupportedValue("layer_types", kind, "\"full_attention\"");
      }
    }
  }
  if (const json* quantization = FindKey(object, "quantization_config")) {
    return UnsupportedValue("quantization_config", *quantization,
                            "unquantised weights and its own int8 and int4 forms, which need no "
                            "such key");
  }
  return Status();
}

Status ReadRoutingLayers(const json& msa, int n_layers, std::vector<int>* layers) {
  constexpr const char* kKey = "router_layer_idx";
  constexpr const char* kWanted = "\"all\", a comma list of layers or an array of layers";
  const json* value = FindKey(msa, kKey);
  if (value == nullptr) {
    for (int layer = n_layers / 2; layer < n_layers; ++layer) layers->push_back(layer);
    return Status();
  }
  json list = json::array();
  if (value->is_string()) {
    const std::string text = value->get<std::string>();
    if (text == "all") {
      for (int layer = 0; layer < n_layers; ++layer) layers->push_back(layer);
      return Status();
    }
    // At most five digits, a comma and a space per layer.
    if (text.size() > static_cast<size_t>(n_layers) * 7) return WrongType(kKey, kWanted, *value);
    size_t begin = 0;
    while (begin <= text.size()) {
      const size_t end = std::min(text.find(',', begin), text.size());
      std::string_view item = std::string_view(text).substr(begin, end - begin);
      while (!item.empty() && item.front() == ' ') item.remove_prefix(1);
      while (!item.empty() && item.back() == ' ') item.remove_suffix(1);
      int layer = 0;
      const auto [rest, error] = std::from_chars(item.data(), item.data() + item.size(), layer);
      if (error != std::errc() || rest != item.data() + item.size()) {
        return WrongType(kKey, kWanted, *value);
      }
      list.push_back(layer);
      begin = end + 1;
    }
  } else if (value->is_number_integer()) {
    list.push_back(*value);
  } else if (value->is_array()) {
    list = *value;
  } else {
    return WrongType(kKey, kWanted, *value);
  }
  for (const json& item : list) {
    if (!item.is_number_integer()) return WrongType(kKey, kWanted, *value);
    const json wrapped = {{kKey, item}};
    int layer = 0;
    MSADB_RETURN_IF_ERROR(ReadInt(wrapped, kKey, 0, n_layers - 1, &layer));
    layers->push_back(layer);
  }
  std::sort(layers->begin(), layers->end());
  if (layers->empty()) return Status::InvalidArgument("key router_layer_idx names no layer");
  if (std::adjacent_find(layers->begin(), layers->end()) != layers->end()) {
    return Status::InvalidArgument("key router_layer_idx names a layer twice");
  }
  return Status();
}

Status ReadMsaConfig(const json& msa, const ModelConfig& config, MsaConfig* out) {
  MSADB_RETURN_IF_ERROR(ReadRoutingLayers(msa, config.n_layers, &out->routing_layers));
  MSADB_RETURN_IF_ERROR(ReadInt(msa, "top_k_docs", 1, 1024, &out->top_k_docs));
  MSADB_RETURN_IF_ERROR(ReadInt(msa, "pooling_kernel_size", 1, 4096, &out->pooling_kernel_size));
  MSADB_RETURN_IF_ERROR(ReadBool(msa, "decouple_router", &out->decouple_router));
  MSADB_RETURN_IF_ERROR(RequireString(msa, "head_reduce_method", &out->head_reduce_method));
  MSADB_RETURN_IF_ERROR(RequireString(msa, "query_reduce_method", &out->query_reduce_method));
  MSADB_RETURN_IF_ERROR(RequireString(msa, "chunk_reduce_method", &out->chunk_reduce_method));
  MSADB_RETURN_IF_ERROR(RequireString(msa, "decouple_pooling_mode", &out->decouple_pooling_mode));
  MSADB_RETURN_IF_ERROR(RequireBool(msa, "rewrite_position", true));
  MSADB_RETURN_IF_ERROR(ReadInt(msa, "document_tokens_max", 0, 1 << 20, &out->document_tokens_max));
  MSADB_RETURN_IF_ERROR(ReadString(msa, "aux_loss_method", &out->aux_loss_method));
  MSADB_RETURN_IF_ERROR(ReadDouble(msa, "infonce_loss_temp", 0.0, 1e6, &out->infonce_loss_temp));
  std::string metric = RoutingMetricName(out->routing_metric);
  MSADB_RETURN_IF_ERROR(ReadString(msa, "routing_metric", &metric));
  if (metric == RoutingMetricName(RoutingMetric::kCosine)) {
    out->routing_metric = RoutingMetric::kCosine;
  } else if (metric == RoutingMetricName(RoutingMetric::kScaledDot)) {
    out->routing_metric = RoutingMetric::kScaledDot;
  } else {
    return UnsupportedValue("routing_metric", metric, "\"cosine\" and \"scaled_dot\"");
  }
  return Status();
}

Status ReadConfig(const json& object, ModelConfig* config) {
  MSADB_RETURN_IF_ERROR(ReadString(object, "model_type", &config->model_type));
  const std::string& type = config->model_type;
  if (type.empty()) return Status::InvalidArgument("key model_type is missing");
  if (type != "msa" && type != "qwen3" && type != "llama") {
    return UnsupportedValue("model_type", type, "\"msa\", \"qwen3\" and \"llama\"");
  }
  config->qk_norm = type != "llama";
  MSADB_RETURN_IF_ERROR(RefuseUnsupported(object));

  struct Size {
    const char* key;
    int64_t max;
    int* out;
  };
  const Size required[] = {
      {"num_hidden_layers", 1024, &config->n_layers},
      {"hidden_size", 1 << 16, &config->hidden_size},
      {"intermediate_size", 1 << 20, &config->intermediate_size},
      {"num_attention_heads", 1024, &config->n_heads},
      {"vocab_size", 2'000'000, &config->vocab_size},
  };
  for (const Size& size : required) {
    if (FindKey(object, size.key) == nullptr) {
      return Status::InvalidArgument(std::string("key ") + size.key + " is missing");
    }
    MSADB_RETURN_IF_ERROR(ReadInt(object, size.key, 1, size.max, size.out));
  }
  config->n_kv_heads = config->n_heads;
  MSADB_RETURN_IF_ERROR(
      ReadInt(object, "num_key_value_heads", 1, config->n_heads, &config->n_kv_heads));
  if (config->n_heads % config->n_kv_heads != 0) {
    return Status::InvalidArgument("num_key_value_heads must divide num_attention_heads");
  }
  if (FindKey(object, "head_dim") != nullptr) {
    MSADB_RETURN_IF_ERROR(ReadInt(object, "head_dim", 2, 1024, &config->head_dim));
  } else {
    if (config->hidden_size % config->n_heads != 0) {
      return Status::InvalidArgument(
          "hidden_size is not a multiple of num_attention_heads and head_dim is missing");
    }
    config->head_dim = config->hidden_size / config->n_heads;
  }
  if (config->head_dim % 2 != 0 || config->head_dim < 2 || config->head_dim > 1024) {
    return Status::InvalidArgument("head_dim must be even and within 2..1024");
  }

  MSADB_RETURN_IF_ERROR(ReadRope(object, &config->rope_theta));
  // The smallest positive normal float: below it a float32 kernel would divide by zero.
  MSADB_RETURN_IF_ERROR(ReadDouble(object, "rms_norm_eps", std::numeric_limits<float>::min(), 0.1,
                                   &config->rms_norm_eps));
  config->max_position_embeddings = type == "llama" ? 2048 : 32768;
  MSADB_RETURN_IF_ERROR(
      ReadInt(object, "max_position_embeddings", 1, 1 << 24, &config->max_position_embeddings));
  MSADB_RETURN_IF_ERROR(ReadBool(object, "tie_word_embeddings", &config->tie_word_embeddings));
  MSADB_RETURN_IF_ERROR(
      ReadTokenIds(object, "eos_token_id", config->vocab_size, &config->eos_token_ids));
  if (FindKey(object, "bos_token_id") != nullptr) {
    int32_t bos = 0;
    MSADB_RETURN_IF_ERROR(ReadInt(object, "bos_token_id", 0, config->vocab_size - 1, &bos));
    config->bos_token_id = bos;
  }

  config->msa.decouple_router = type == "msa";
  json msa = json::object();
  if (const json* value = FindKey(object, "msa_config")) {
    if (!value->is_object()) return WrongType("msa_config", "an object", *value);
    msa = *value;
  }
  Status status = ReadMsaConfig(msa, *config, &config->msa);
  return status.ok() ? status : status.WithContext("msa_config");
}

}  // namespace

const char* RoutingMetricName(RoutingMetric metric) {
  return metric == RoutingMetric::kCosine ? "cosine" : "scaled_dot";
}

int ModelConfig::RoutingOrdinal(int layer) const {
  const auto& layers = msa.routing_layers;
  const auto it = std::lower_bound(layers.begin(), layers.end(), layer);
  return it != layers.end() && *it == layer ? static_cast<int>(it - layers.begin()) : -1;
}

Result<ModelConfig> ParseModelConfig(std::string_view text) {
  try {
    MSADB_ASSIGN_OR_RETURN(const json object, ParseJson(text));
    if (!object.is_object()) return Status::InvalidArgument("not a JSON object");
    ModelConfig config;
    MSADB_RETURN_IF_ERROR(ReadConfig(object, &config));
    return config;
  } catch (const std::bad_alloc&) {
    return Status::ResourceExhausted("no memory to read the model's config");
  }
}

Status MergeGenerationConfig(std::string_view text, ModelConfig* config) {
  try {
    MSADB_ASSIGN_OR_RETURN(const json object, ParseJson(text));
    if (!object.is_object()) return Status::InvalidArgument("not a JSON object");
    return ReadTokenIds(object, "eos_token_id", config->vocab_size, &config->eos_token_ids);
  } catch (const std::bad_alloc&) {
    return Status::ResourceExhausted("no memory to read the generation config");
  }
}

Result<ModelConfig> LoadModelConfig(const std::string& folder) {
  const std::string path = folder + "/config.json";
  MSADB_ASSIGN_OR_RETURN(const std::string text, ReadFile(path, kConfigBytesMax));
  auto config = ParseModelConfig(text);
  if (!config.ok()) return config.status().WithContext(path);

  const std::string generation_path = folder + "/generation_config.json";
  auto generation = ReadFile(generation_path, kConfigBytesMax);
  if (generation.ok()) {
    Status status = MergeGenerationConfig(*generation, &*config);
    if (!status.ok()) return status.WithContext(generation_path);
  } else if (generation.status().code() != StatusCode::kNotFound) {
    return generation.status();
  }
  return config;
}

}  // namespace msadb::model
