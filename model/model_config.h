// What config.json of a model folder says (docs/model-folder.md, MSA spec section 1).
//
// One description serves both backbones: Qwen3 style (model_type "msa" or "qwen3") and Llama style
// (model_type "llama"), which is the same network without q_norm and k_norm.
//
// Parsing rules. Unknown keys are ignored and missing ones defaulted. A key that this engine knows
// but whose value it cannot compute (another activation, a scaled RoPE, sliding windows, ...) is
// refused with Unsupported, naming key and value: a wrong guess would give wrong answers silently.
// Values out of range or of the wrong type are refused with InvalidArgument. The bytes are
// untrusted: nesting, size and every number are bounded before anything is allocated from them.
#ifndef MSADB_MODEL_MODEL_CONFIG_H_
#define MSADB_MODEL_MODEL_CONFIG_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "msadb/status.h"

namespace msadb::model {

// How routing compares a query with a routing key (spec section 3, "Cosine or scaled dot"). A
// memory encoded under one metric cannot be searched with the other.
enum class RoutingMetric : uint8_t {
  kCosine,     // both sides L2-normalised per head (the paper; default)
  kScaledDot,  // raw dot product times head_dim^-0.5 (released inference code)
};

// "cosine" or "scaled_dot".
const char* RoutingMetricName(RoutingMetric metric);

// `msa_config`. The defaults are the values published with MSA-4B, except where noted.
struct MsaConfig {
  // Model layers that route, ascending, unique, not empty. From `router_layer_idx`: "all", a comma
  // list "18,19,20", or a JSON array of integers. Missing: the upper half [n_layers / 2, n_layers)
  // (spec section 6), which for 36 layers is the published list.
  std::vector<int> routing_layers;

  int top_k_docs = 16;           // documents attended to per routing layer, 1..1024
  int pooling_kernel_size = 64;  // P, tokens per chunk, 1..4096
  // True: the checkpoint has router_q_proj / router_k_proj. False: routing uses the backbone's own
  // normed and rotated q and k. Missing: true for model_type "msa", else false, since a plain
  // backbone has no projectors.
  bool decouple_router = true;
  RoutingMetric routing_metric = RoutingMetric::kCosine;  // our key `routing_metric`

  // Reductions. Only these values can be written as an inner-product search (spec section 3), so
  // only these are accepted: head "mean", query "max", chunk "max", pooling "mean".
  std::string head_reduce_method = "mean";
  std::string query_reduce_method = "max";
  std::string chunk_reduce_method = "max";
  std::string decouple_pooling_mode = "mean";

  // Positions restart at 0 in every document. False is refused.
  bool rewrite_position = true;

  // Our key `document_tokens_max`: longer documents are stored in parts. 0: the folder does not
  // say. 0..1,048,576.
  int document_tokens_max = 0;

  // Training only; kept for the record, any value is accepted.
  std::string aux_loss_method = "INFONCE_DECOUPLE";
  double infonce_loss_temp = 0.1;
};

struct ModelConfig {
  std::string model_type;  // "msa", "qwen3" or "llama"
  bool qk_norm = true;     // RMSNorm per head on q and k before RoPE: true for msa and qwen3

  int n_layers = 0;           // num_hidden_layers, 1..1024
  int hidden_size = 0;        // 1..65,536
  int intermediate_size = 0;  // 1..1,048,576
  int n_heads = 0;            // H = num_attention_heads, 1..1024
  int n_kv_heads = 0;         // G = num_key_value_heads, divides H; missing: H
  int head_dim = 0;           // D, even, 2..1024; missing: hidden_size / H
  int vocab_size = 0;         // rows of the embedding, 1..2,000,000; may exceed the tokenizer's

  double rope_theta = 10000.0;      // finite, 1..1e12
  double rms_norm_eps = 1e-6;       // 0 < eps <= 0.1
  int max_position_embeddings = 0;  // 1..16,777,216; missing: 2048 for llama, else 32,768
  bool tie_word_embeddings = false;

  // Token ids that end a generation: eos_token_id of config.json and of generation_config.json,
  // ascending, unique, each < vocab_size. May be empty.
  std::vector<int32_t> eos_token_ids;
  std::optional<int32_t> bos_token_id;

  MsaConfig msa;

  int q_dim() const { return n_heads * head_dim; }      // H * D
  int kv_dim() const { return n_kv_heads * head_dim; }  // G * D
  int group_size() const { return n_heads / n_kv_heads; }
  int n_routing_layers() const { return static_cast<int>(msa.routing_layers.size()); }
  // Ordinal r of a model layer among the routing layers, or -1 when the layer does not route.
  int RoutingOrdinal(int layer) const;
};

// Parses the text of config.json. InvalidArgument / Unsupported name the key.
Result<ModelConfig> ParseModelConfig(std::string_view json);

// Adds the eos ids of generation_config.json to `config`, which is unchanged on error.
Status MergeGenerationConfig(std::string_view json, ModelConfig* config);

// Reads <folder>/config.json and, when there, <folder>/generation_config.json.
// NotFound: no config.json. IOError: unreadable. Otherwise as the parsers, with the path in front.
Result<ModelConfig> LoadModelConfig(const std::string& folder);

}  // namespace msadb::model

#endif  // MSADB_MODEL_MODEL_CONFIG_H_
