// A model folder whose every output is known beforehand: attention and MLP write nothing (their
// output projections are zero), so the state that reaches the head is the embedding of the last
// token, and the head maps it to the one token that shall follow it. Routing is real: q, k and v
// are random.
#ifndef MSADB_TESTS_MODEL_MARKOV_MODEL_H_
#define MSADB_TESTS_MODEL_MARKOV_MODEL_H_

#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <random>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace msadb::model {

struct MarkovModel {
  // What follows what; both are contents of added tokens, the stop token "<|im_end|>" among them.
  // What follows a token that is not listed is not defined.
  std::vector<std::pair<std::string, std::string>> follows;
  nlohmann::json templates = nlohmann::json::object();   // written to templates.json
  nlohmann::json msa_config = nlohmann::json::object();  // added to the defaults below
  nlohmann::json config = nlohmann::json::object();      // added to config.json
  // Tensors to leave out, to replace by NaN, or to give one row more.
  std::string missing, broken, misshapen;

  static constexpr int kHidden = 64, kLayers = 3, kHeads = 4, kKvHeads = 2, kHeadDim = 16;
  static constexpr int kInner = 32;

  // Added tokens that every model of this kind has; those of `follows` come on top.
  static std::vector<std::string> SpecialTokens() {
    return {"<|im_start|>", "<|im_end|>", "<|object_ref_end|>", "<End-of-Retrieve>", "<answer>"};
  }

  void Write(const std::filesystem::path& folder) const {
    std::filesystem::create_directories(folder);
    std::map<std::string, int> ids;
    const nlohmann::json tokenizer = MakeTokenizer(&ids);
    const int vocab = 256 + static_cast<int>(ids.size());
    Save(folder / "tokenizer.json", tokenizer);
    Save(folder / "templates.json", templates);
    nlohmann::json c = {{"model_type", "llama"},
                        {"vocab_size", vocab},
                        {"hidden_size", kHidden},
                        {"intermediate_size", kInner},
                        {"num_hidden_layers", kLayers},
                        {"num_attention_heads", kHeads},
                        {"num_key_value_heads", kKvHeads},
                        {"head_dim", kHeadDim},
                        {"rms_norm_eps", 1e-5},
                        {"max_position_embeddings", 4096},
                        {"tie_word_embeddings", false},
                        {"eos_token_id", ids.at("<|im_end|>")}};
    c["msa_config"] = {{"router_layer_idx", "1,2"},
                       {"top_k_docs", 2},
                       {"pooling_kernel_size", 8},
                       {"decouple_router", false}};
    c["msa_config"].update(msa_config);
    c.update(config);
    Save(folder / "config.json", c);
    WriteWeights(folder / "model.safetensors", vocab, ids);
  }

 private:
  static void Save(const std::filesystem::path& path, const nlohmann::json& value) {
    std::ofstream(path) << value.dump();
  }

  nlohmann::json MakeTokenizer(std::map<std::string, int>* ids) const {
    nlohmann::json vocab = nlohmann::json::object();
    // GPT-2's spelling of bytes: printable ones as themselves, the rest from U+0100 on.
    int next = 256;
    for (int byte = 0; byte < 256; ++byte) {
      const bool printable = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) ||
                             (byte >= 174 && byte <= 255);
      const int point = printable ? byte : next++;
      std::string utf8;
      if (point < 128) {
        utf8 = static_cast<char>(point);
      } else {
        utf8 += static_cast<char>(0xc0 | (point >> 6));
        utf8 += static_cast<char>(0x80 | (point & 63));
      }
      vocab[utf8] = byte;
    }
    nlohmann::json added = nlohmann::json::array();
    const auto add = [&](const std::string& content, bool special) {
      const int id = 256 + static_cast<int>(ids->size());
      if (!ids->emplace(content, id).second) return;
      added.push_back({{"id", id},
                       {"content", content},
                       {"single_word", false},
                       {"lstrip", false},
                       {"rstrip", false},
                       {"normalized", false},
                       {"special", special}});
    };
    for (const std::string& content : SpecialTokens()) add(content, true);
    for (const auto& [from, to] : follows) {
      add(from, false);
      add(to, false);
    }
    const nlohmann::json byte_level = {{"type", "ByteLevel"},
                                       {"add_prefix_space", false},
                                       {"trim_offsets", true},
                                       {"use_regex", true}};
    return {{"version", "1.0"},
            {"added_tokens", added},
            {"normalizer", nullptr},
            {"pre_tokenizer", byte_level},
            {"decoder", byte_level},
            {"model", {{"type", "BPE"}, {"vocab", vocab}, {"merges", nlohmann::json::array()}}}};
  }

  void WriteWeights(const std::filesystem::path& path, int vocab,
                    const std::map<std::string, int>& ids) const {
    std::mt19937 random(5);
    std::normal_distribution<float> normal;
    const auto filled = [&](int rows, int cols, float spread) {
      std::vector<float> values(static_cast<size_t>(rows) * static_cast<size_t>(cols));
      for (float& value : values) value = spread == 0 ? 0 : spread * normal(random);
      return values;
    };
    struct Tensor {
      std::vector<int> shape;
      std::vector<float> values;
    };
    std::map<std::string, Tensor> tensors;
    const std::vector<float> ones(kHidden, 1.0f);
    const std::vector<float> embedding = filled(vocab, kHidden, 1.0f);
    std::vector<float> head(embedding.size(), 0.0f);
    for (const auto& [from, to] : follows) {
      for (int d = 0; d < kHidden; ++d) {
        head[static_cast<size_t>(ids.at(to) * kHidden + d)] +=
            embedding[static_cast<size_t>(ids.at(from) * kHidden + d)];
      }
    }
    tensors["model.embed_tokens.weight"] = {{vocab, kHidden}, embedding};
    tensors["lm_head.weight"] = {{vocab, kHidden}, head};
    tensors["model.norm.weight"] = {{kHidden}, ones};
    for (int layer = 0; layer < kLayers; ++layer) {
      const std::string prefix = "model.layers." + std::to_string(layer) + ".";
      const std::string attention = prefix + "self_attn.";
      const int q_dim = kHeads * kHeadDim, kv_dim = kKvHeads * kHeadDim;
      tensors[prefix + "input_layernorm.weight"] = {{kHidden}, ones};
      tensors[prefix + "post_attention_layernorm.weight"] = {{kHidden}, ones};
      tensors[attention + "q_proj.weight"] = {{q_dim, kHidden}, filled(q_dim, kHidden, 0.2f)};
      tensors[attention + "k_proj.weight"] = {{kv_dim, kHidden}, filled(kv_dim, kHidden, 0.2f)};
      tensors[attention + "v_proj.weight"] = {{kv_dim, kHidden}, filled(kv_dim, kHidden, 0.2f)};
      tensors[attention + "o_proj.weight"] = {{kHidden, q_dim}, filled(kHidden, q_dim, 0)};
      tensors[prefix + "mlp.gate_proj.weight"] = {{kInner, kHidden}, filled(kInner, kHidden, 0.1f)};
      tensors[prefix + "mlp.up_proj.weight"] = {{kInner, kHidden}, filled(kInner, kHidden, 0.1f)};
      tensors[prefix + "mlp.down_proj.weight"] = {{kHidden, kInner}, filled(kHidden, kInner, 0)};
    }
    if (!missing.empty() && tensors.erase(missing) == 0) throw std::runtime_error(missing);
    if (!broken.empty()) tensors.at(broken).values[0] = std::nanf("");
    if (!misshapen.empty()) {
      Tensor& tensor = tensors.at(misshapen);
      const auto row = tensor.values.size() / static_cast<size_t>(tensor.shape[0]);
      tensor.values.resize(tensor.values.size() + row);
      ++tensor.shape[0];
    }

    nlohmann::json header = nlohmann::json::object();
    std::string data;
    for (const auto& [name, tensor] : tensors) {
      const size_t begin = data.size();
      data.append(reinterpret_cast<const char*>(tensor.values.data()), tensor.values.size() * 4);
      header[name] = {
          {"dtype", "F32"}, {"shape", tensor.shape}, {"data_offsets", {begin, data.size()}}};
    }
    std::string text = header.dump();
    text.resize((text.size() + 7) / 8 * 8, ' ');
    const uint64_t size = text.size();
    std::ofstream out(path, std::ios::binary);
    out.write(reinterpret_cast<const char*>(&size), 8);
    out << text << data;
  }
};

}  // namespace msadb::model

#endif  // MSADB_TESTS_MODEL_MARKOV_MODEL_H_
