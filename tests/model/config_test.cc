// config.json as published, as other tools write it, and as it must not be.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

#include "model/json_input.h"
#include "model/model_config.h"

namespace msadb::model {
namespace {

using nlohmann::json;

// MSA-4B's config.json (spec section 1).
json Published() {
  return json::parse(R"({
    "architectures": ["MSAForCausalLM"], "attention_bias": false, "attention_dropout": 0.0,
    "bos_token_id": 151643, "eos_token_id": 151645, "head_dim": 128, "hidden_act": "silu",
    "hidden_size": 2560, "initializer_range": 0.02, "intermediate_size": 9728,
    "max_position_embeddings": 262144, "max_window_layers": 36, "model_type": "msa",
    "msa_config": {
      "router_layer_idx": "18,19,20,21,22,23,24,25,26,27,28,29,30,31,32,33,34,35",
      "top_k_docs": 16, "pooling_kernel_size": 64, "decouple_router": true,
      "head_reduce_method": "mean", "query_reduce_method": "max", "chunk_reduce_method": "max",
      "decouple_pooling_mode": "mean", "aux_loss_method": "INFONCE_DECOUPLE",
      "infonce_loss_temp": 0.1, "lmloss_weigth": 1.0, "rewrite_position": true},
    "num_attention_heads": 32, "num_hidden_layers": 36, "num_key_value_heads": 8,
    "rms_norm_eps": 1e-06, "rope_scaling": null, "rope_theta": 5000000, "sliding_window": null,
    "tie_word_embeddings": true, "torch_dtype": "bfloat16", "use_cache": true,
    "use_sliding_window": false, "vocab_size": 151936})");
}

// SmolLM2-135M-Instruct's.
json Llama() {
  return json::parse(R"({
    "architectures": ["LlamaForCausalLM"], "attention_bias": false, "bos_token_id": 1,
    "eos_token_id": 2, "hidden_act": "silu", "hidden_size": 576, "intermediate_size": 1536,
    "max_position_embeddings": 8192, "mlp_bias": false, "model_type": "llama",
    "num_attention_heads": 9, "num_hidden_layers": 30, "num_key_value_heads": 3,
    "pretraining_tp": 1, "rms_norm_eps": 1e-05, "rope_interleaved": false, "rope_scaling": null,
    "rope_theta": 100000, "tie_word_embeddings": true, "vocab_size": 49152})");
}

json Patched(json base, const json& patch) {
  base.merge_patch(patch);
  return base;
}

ModelConfig Parse(const json& value) {
  auto config = ParseModelConfig(value.dump());
  EXPECT_TRUE(config.ok()) << config.status().ToString();
  return config.ok() ? *config : ModelConfig();
}

TEST(ModelConfig, AsPublished) {
  const ModelConfig config = Parse(Published());
  EXPECT_EQ(config.model_type, "msa");
  EXPECT_TRUE(config.qk_norm);
  EXPECT_EQ(config.n_layers, 36);
  EXPECT_EQ(config.hidden_size, 2560);
  EXPECT_EQ(config.intermediate_size, 9728);
  EXPECT_EQ(config.n_heads, 32);
  EXPECT_EQ(config.n_kv_heads, 8);
  EXPECT_EQ(config.head_dim, 128);
  EXPECT_EQ(config.q_dim(), 4096);
  EXPECT_EQ(config.kv_dim(), 1024);
  EXPECT_EQ(config.group_size(), 4);
  EXPECT_EQ(config.vocab_size, 151936);
  EXPECT_EQ(config.rope_theta, 5e6);
  EXPECT_EQ(config.rms_norm_eps, 1e-6);
  EXPECT_EQ(config.max_position_embeddings, 262144);
  EXPECT_TRUE(config.tie_word_embeddings);
  EXPECT_EQ(config.eos_token_ids, std::vector<int32_t>{151645});
  EXPECT_EQ(config.bos_token_id, 151643);
  ASSERT_EQ(config.n_routing_layers(), 18);
  EXPECT_EQ(config.msa.routing_layers.front(), 18);
  EXPECT_EQ(config.msa.routing_layers.back(), 35);
  EXPECT_EQ(config.RoutingOrdinal(17), -1);
  EXPECT_EQ(config.RoutingOrdinal(18), 0);
  EXPECT_EQ(config.RoutingOrdinal(35), 17);
  EXPECT_EQ(config.RoutingOrdinal(36), -1);
  EXPECT_EQ(config.msa.top_k_docs, 16);
  EXPECT_EQ(config.msa.pooling_kernel_size, 64);
  EXPECT_TRUE(config.msa.decouple_router);
  EXPECT_EQ(config.msa.routing_metric, RoutingMetric::kCosine);
  EXPECT_EQ(config.msa.aux_loss_method, "INFONCE_DECOUPLE");
  EXPECT_EQ(config.msa.document_tokens_max, 0);
}

TEST(ModelConfig, LlamaWithoutMsaConfig) {
  const ModelConfig config = Parse(Llama());
  EXPECT_FALSE(config.qk_norm);
  EXPECT_EQ(config.head_dim, 64) << "hidden_size / num_attention_heads";
  EXPECT_EQ(config.rope_theta, 1e5);
  EXPECT_FALSE(config.msa.decouple_router) << "a plain backbone has no projectors";
  EXPECT_EQ(config.n_routing_layers(), 15) << "the upper half";
  EXPECT_EQ(config.msa.routing_layers.front(), 15);
}

TEST(ModelConfig, MissingKeysHaveTheirDefaults) {
  const ModelConfig msa = Parse({{"model_type", "msa"},
                                 {"num_hidden_layers", 4},
                                 {"hidden_size", 64},
                                 {"intermediate_size", 128},
                                 {"num_attention_heads", 4},
                                 {"vocab_size", 100}});
  EXPECT_EQ(msa.n_kv_heads, 4);
  EXPECT_EQ(msa.head_dim, 16);
  EXPECT_EQ(msa.rope_theta, 10000.0);
  EXPECT_EQ(msa.rms_norm_eps, 1e-6);
  EXPECT_EQ(msa.max_position_embeddings, 32768);
  EXPECT_FALSE(msa.tie_word_embeddings);
  EXPECT_TRUE(msa.eos_token_ids.empty());
  EXPECT_FALSE(msa.bos_token_id.has_value());
  EXPECT_TRUE(msa.msa.decouple_router);
  EXPECT_EQ(msa.msa.routing_layers, (std::vector<int>{2, 3}));
  EXPECT_EQ(Parse(Patched(Llama(), {{"max_position_embeddings", nullptr}})).max_position_embeddings,
            2048);
}

TEST(ModelConfig, RoutingLayersInEveryForm) {
  const auto layers = [](const json& value) {
    return Parse(Patched(Llama(), {{"msa_config", {{"router_layer_idx", value}}}}))
        .msa.routing_layers;
  };
  EXPECT_EQ(layers("all").size(), 30u);
  EXPECT_EQ(layers("7"), std::vector<int>{7});
  EXPECT_EQ(layers(7), std::vector<int>{7});
  EXPECT_EQ(layers("20, 3 ,11"), (std::vector<int>{3, 11, 20}));
  EXPECT_EQ(layers({5, 4}), (std::vector<int>{4, 5}));
}

TEST(ModelConfig, RopeThetaInEveryForm) {
  const auto theta = [](const json& patch) { return Parse(Patched(Llama(), patch)).rope_theta; };
  const json bare = {{"rope_theta", nullptr}};
  EXPECT_EQ(theta(bare), 10000.0);
  EXPECT_EQ(theta({{"rope_theta", nullptr},
                   {"rope_parameters", {{"rope_theta", 5e6}, {"rope_type", "default"}}}}),
            5e6);
  EXPECT_EQ(theta({{"rope_parameters", {{"rope_theta", 100000.0}, {"rope_type", "default"}}}}),
            1e5);
  EXPECT_EQ(theta({{"rope_scaling", {{"type", "default"}}}}), 1e5);
  EXPECT_EQ(theta({{"rope_scaling", {{"rope_type", "default"}}}}), 1e5);
}

TEST(ModelConfig, OurOwnKeys) {
  const ModelConfig config = Parse(
      Patched(Published(),
              {{"msa_config", {{"routing_metric", "scaled_dot"}, {"document_tokens_max", 4096}}}}));
  EXPECT_EQ(config.msa.routing_metric, RoutingMetric::kScaledDot);
  EXPECT_EQ(config.msa.document_tokens_max, 4096);
  EXPECT_STREQ(RoutingMetricName(config.msa.routing_metric), "scaled_dot");
}

TEST(ModelConfig, EosIdsOfBothFilesAreJoined) {
  ModelConfig config = Parse(Patched(Llama(), {{"eos_token_id", {2, 0}}}));
  EXPECT_EQ(config.eos_token_ids, (std::vector<int32_t>{0, 2}));
  ASSERT_TRUE(MergeGenerationConfig(R"({"eos_token_id": [2, 7]})", &config).ok());
  EXPECT_EQ(config.eos_token_ids, (std::vector<int32_t>{0, 2, 7}));
  ASSERT_TRUE(MergeGenerationConfig(R"({"eos_token_id": 9, "temperature": 0.6})", &config).ok());
  ASSERT_TRUE(MergeGenerationConfig("{}", &config).ok());
  EXPECT_EQ(config.eos_token_ids, (std::vector<int32_t>{0, 2, 7, 9}));
  for (const char* bad : {"[]", "{", R"({"eos_token_id": "2"})", R"({"eos_token_id": [1.5]})",
                          R"({"eos_token_id": 49152})", R"({"eos_token_id": [3, -1]})"}) {
    EXPECT_EQ(MergeGenerationConfig(bad, &config).code(), StatusCode::kInvalidArgument) << bad;
  }
  EXPECT_EQ(config.eos_token_ids, (std::vector<int32_t>{0, 2, 7, 9})) << "unchanged by errors";
}

struct BadConfig {
  json patch;
  StatusCode code;
  const char* says;
};

TEST(ModelConfig, RefusesByName) {
  const auto msa = [](const char* key, const json& value) {
    return json{{"msa_config", {{key, value}}}};
  };
  constexpr auto kUnsupported = StatusCode::kUnsupported;
  constexpr auto kInvalid = StatusCode::kInvalidArgument;
  const BadConfig configs[] = {
      {{{"model_type", "qwen3_moe"}}, kUnsupported, "qwen3_moe"},
      {{{"model_type", nullptr}}, kInvalid, "model_type"},
      {{{"model_type", 3}}, kInvalid, "model_type"},
      {{{"attention_bias", true}}, kUnsupported, "attention_bias"},
      {{{"mlp_bias", true}}, kUnsupported, "mlp_bias"},
      {{{"use_sliding_window", true}}, kUnsupported, "use_sliding_window"},
      {{{"layer_types", {"full_attention", "sliding_attention"}}}, kUnsupported, "layer_types"},
      {{{"hidden_act", "gelu"}}, kUnsupported, "gelu"},
      {{{"quantization_config", {{"bits", 4}}}}, kUnsupported, "quantization_config"},
      {{{"rope_scaling", {{"rope_type", "yarn"}, {"factor", 4}}}}, kUnsupported, "yarn"},
      {{{"rope_scaling", {{"type", "linear"}}}}, kUnsupported, "linear"},
      {{{"rope_parameters", {{"rope_type", "llama3"}}}}, kUnsupported, "llama3"},
      {{{"rope_parameters", {{"rope_theta", 10000}}}}, kInvalid, "differ"},
      {{{"rope_parameters", {{"partial_rotary_factor", 0.5}}}}, kUnsupported, "partial_rotary"},
      {{{"partial_rotary_factor", 0.5}}, kUnsupported, "partial_rotary"},
      {{{"rope_parameters", 3}}, kInvalid, "rope_parameters"},
      {{{"rope_theta", 0}}, kInvalid, "rope_theta"},
      {{{"rope_theta", "1e6"}}, kInvalid, "rope_theta"},
      {{{"num_hidden_layers", 0}}, kInvalid, "num_hidden_layers"},
      {{{"num_hidden_layers", 1025}}, kInvalid, "num_hidden_layers"},
      {{{"num_hidden_layers", -1}}, kInvalid, "num_hidden_layers"},
      {{{"num_hidden_layers", 36.0}}, kInvalid, "num_hidden_layers"},
      {{{"num_hidden_layers", nullptr}}, kInvalid, "num_hidden_layers is missing"},
      {{{"hidden_size", 65537}}, kInvalid, "hidden_size"},
      {{{"hidden_size", UINT64_MAX}}, kInvalid, "hidden_size"},
      {{{"intermediate_size", (1 << 20) + 1}}, kInvalid, "intermediate_size"},
      {{{"num_attention_heads", 1025}}, kInvalid, "num_attention_heads"},
      {{{"num_key_value_heads", 5}}, kInvalid, "num_key_value_heads"},
      {{{"num_key_value_heads", 33}}, kInvalid, "num_key_value_heads"},
      {{{"num_key_value_heads", 0}}, kInvalid, "num_key_value_heads"},
      {{{"head_dim", 127}}, kInvalid, "head_dim"},
      {{{"head_dim", 1026}}, kInvalid, "head_dim"},
      {{{"head_dim", nullptr}, {"hidden_size", 2561}}, kInvalid, "head_dim"},
      {{{"vocab_size", 2000001}}, kInvalid, "vocab_size"},
      {{{"rms_norm_eps", 0}}, kInvalid, "rms_norm_eps"},
      {{{"rms_norm_eps", 1e-60}}, kInvalid, "rms_norm_eps"},
      {{{"rms_norm_eps", 0.2}}, kInvalid, "rms_norm_eps"},
      {{{"max_position_embeddings", 0}}, kInvalid, "max_position_embeddings"},
      {{{"max_position_embeddings", (1 << 24) + 1}}, kInvalid, "max_position_embeddings"},
      {{{"tie_word_embeddings", 1}}, kInvalid, "tie_word_embeddings"},
      {{{"eos_token_id", 151936}}, kInvalid, "eos_token_id"},
      {{{"eos_token_id", json(std::vector<int>(65, 1))}}, kInvalid, "eos_token_id"},
      {{{"bos_token_id", -1}}, kInvalid, "bos_token_id"},
      {{{"msa_config", "x"}}, kInvalid, "msa_config"},
      {msa("router_layer_idx", ""), kInvalid, "router_layer_idx"},
      {msa("router_layer_idx", json::array()), kInvalid, "router_layer_idx"},
      {msa("router_layer_idx", "18,,19"), kInvalid, "router_layer_idx"},
      {msa("router_layer_idx", "18,x"), kInvalid, "router_layer_idx"},
      {msa("router_layer_idx", "18,18"), kInvalid, "twice"},
      {msa("router_layer_idx", "36"), kInvalid, "router_layer_idx"},
      {msa("router_layer_idx", "-1"), kInvalid, "router_layer_idx"},
      {msa("router_layer_idx", "99999999999999999999"), kInvalid, "router_layer_idx"},
      {msa("router_layer_idx", std::string(4096, ',')), kInvalid, "router_layer_idx"},
      {msa("router_layer_idx", {1, "2"}), kInvalid, "router_layer_idx"},
      {msa("router_layer_idx", true), kInvalid, "router_layer_idx"},
      {msa("top_k_docs", 0), kInvalid, "top_k_docs"},
      {msa("top_k_docs", 1025), kInvalid, "top_k_docs"},
      {msa("pooling_kernel_size", 0), kInvalid, "pooling_kernel_size"},
      {msa("pooling_kernel_size", 4097), kInvalid, "pooling_kernel_size"},
      {msa("head_reduce_method", "max"), kUnsupported, "head_reduce_method"},
      {msa("query_reduce_method", "mean"), kUnsupported, "query_reduce_method"},
      {msa("chunk_reduce_method", "sum"), kUnsupported, "chunk_reduce_method"},
      {msa("decouple_pooling_mode", "max"), kUnsupported, "decouple_pooling_mode"},
      {msa("rewrite_position", false), kUnsupported, "rewrite_position"},
      {msa("decouple_router", "yes"), kInvalid, "decouple_router"},
      {msa("routing_metric", "l2"), kUnsupported, "l2"},
      {msa("document_tokens_max", -1), kInvalid, "document_tokens_max"},
      {msa("aux_loss_method", std::string(257, 'x')), kInvalid, "aux_loss_method"},
  };
  for (const BadConfig& bad : configs) {
    SCOPED_TRACE(bad.patch.dump());
    const auto config = ParseModelConfig(Patched(Published(), bad.patch).dump());
    ASSERT_FALSE(config.ok());
    EXPECT_EQ(config.status().code(), bad.code) << config.status().ToString();
    EXPECT_NE(config.status().message().find(bad.says), std::string::npos)
        << config.status().ToString();
  }
}

TEST(ModelConfig, RefusesWhatIsNotOneJsonObject) {
  const std::string deep(200000, '[');
  for (const std::string& text :
       {std::string(), std::string("[]"), std::string("{"), std::string("nul"), deep,
        std::string("{\"a\":\"\xff\"}"), std::string("{\"hidden_size\":1,\"hidden_size\":2}"),
        Published().dump() + "x"}) {
    const auto config = ParseModelConfig(text);
    ASSERT_FALSE(config.ok());
    EXPECT_EQ(config.status().code(), StatusCode::kInvalidArgument) << config.status().ToString();
  }
}

TEST(JsonInput, CountsValuesAndDepth) {
  const JsonLimits limits = {.depth_max = 3, .values_max = 5};
  EXPECT_TRUE(ParseJson("[[[1]]]", limits).ok());
  EXPECT_FALSE(ParseJson("[[[[]]]]", limits).ok());
  EXPECT_FALSE(ParseJson("[{\"a\":{\"b\":{}}}]", limits).ok());
  EXPECT_TRUE(ParseJson("[1,2,3,4]", limits).ok());
  EXPECT_FALSE(ParseJson("[1,2,3,4,5]", limits).ok());
  const auto value = ParseJson(R"({"a": [true, null, -2, 2.5, "x"], "b": {}})");
  ASSERT_TRUE(value.ok());
  EXPECT_EQ(*value, json::parse(R"({"a": [true, null, -2, 2.5, "x"], "b": {}})"));
}

TEST(LoadModelConfig, ReadsTheFolder) {
  const auto folder = std::filesystem::path(testing::TempDir()) / "msadb_config_test";
  std::filesystem::remove_all(folder);
  std::filesystem::create_directories(folder);
  const auto missing = LoadModelConfig(folder);
  ASSERT_FALSE(missing.ok());
  EXPECT_EQ(missing.status().code(), StatusCode::kNotFound);
  EXPECT_NE(missing.status().message().find("config.json"), std::string::npos);

  std::ofstream(folder / "config.json") << Llama().dump();
  auto config = LoadModelConfig(folder);
  ASSERT_TRUE(config.ok()) << config.status().ToString();
  EXPECT_EQ(config->eos_token_ids, std::vector<int32_t>{2});

  std::ofstream(folder / "generation_config.json") << R"({"eos_token_id": [0]})";
  config = LoadModelConfig(folder);
  ASSERT_TRUE(config.ok()) << config.status().ToString();
  EXPECT_EQ(config->eos_token_ids, (std::vector<int32_t>{0, 2}));

  std::ofstream(folder / "generation_config.json") << "{";
  config = LoadModelConfig(folder);
  ASSERT_FALSE(config.ok());
  EXPECT_NE(config.status().message().find("generation_config.json"), std::string::npos);

  std::ofstream(folder / "config.json") << std::string((1 << 20) + 1, ' ');
  config = LoadModelConfig(folder);
  ASSERT_FALSE(config.ok());
  EXPECT_EQ(config.status().code(), StatusCode::kInvalidArgument);

  std::filesystem::remove(folder / "config.json");
  std::filesystem::create_directory(folder / "config.json");
  config = LoadModelConfig(folder);
  ASSERT_FALSE(config.ok());
  EXPECT_EQ(config.status().code(), StatusCode::kInvalidArgument);
  std::filesystem::remove_all(folder);
}

}  // namespace
}  // namespace msadb::model
