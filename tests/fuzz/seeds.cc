#include "tests/fuzz/seeds.h"

#include <cstdint>
#include <nlohmann/json.hpp>

namespace msadb::fuzz {
namespace {

using nlohmann::json;

// Values to put in the place of every other one.
const std::vector<json>& Replacements() {
  static const std::vector<json> values = {
      nullptr, true, -1, 0, 1.5, UINT64_MAX, "", "x", json::array(), json::object(), {1, "a"}};
  return values;
}

void AddWithOneValueReplaced(const json& good, std::vector<std::string>* seeds) {
  const json flat = good.flatten();
  size_t turn = 0;
  for (const auto& [pointer, value] : flat.items()) {
    // Two of the replacements per place keep the corpus small and still use each of them.
    for (int i = 0; i < 2; ++i) {
      json bad = good;
      bad[json::json_pointer(pointer)] = Replacements()[turn++ % Replacements().size()];
      seeds->push_back(bad.dump());
    }
  }
}

void AddWithOneKeyRemoved(const json& good, std::vector<std::string>* seeds) {
  for (const auto& [key, value] : good.items()) {
    json bad = good;
    bad.erase(key);
    seeds->push_back(bad.dump());
  }
}

std::string Assemble(const std::string& header, size_t data_bytes, uint64_t extra_length = 0) {
  std::string file;
  const uint64_t length = header.size() + extra_length;
  for (int i = 0; i < 8; ++i) file += static_cast<char>(length >> (8 * i));
  return file + header + std::string(data_bytes, 'd');
}

void AppendUtf8(unsigned c, std::string* out) {
  if (c < 0x80) {
    *out += static_cast<char>(c);
  } else {
    *out += static_cast<char>(0xc0 | c >> 6);
    *out += static_cast<char>(0x80 | (c & 0x3f));
  }
}

json TinyTokenizer() {
  json vocab = json::object();
  unsigned next = 256;
  for (unsigned byte = 0; byte < 256; ++byte) {
    const bool printable =
        (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
    std::string spelling;
    AppendUtf8(printable ? byte : next++, &spelling);
    vocab[spelling] = byte;
  }
  json merges = json::array();
  int id = 256;
  for (const auto& [left, right] :
       std::vector<std::pair<std::string, std::string>>{{"l", "l"},
                                                        {"h", "e"},
                                                        {"he", "ll"},
                                                        {"hell", "o"},
                                                        {"a", "a"},
                                                        {"aa", "aa"},
                                                        {"\u0120", "w"}}) {
    merges.push_back({left, right});
    vocab[left + right] = id++;
  }
  const json byte_level = {{"type", "ByteLevel"},
                           {"add_prefix_space", false},
                           {"trim_offsets", false},
                           {"use_regex", false}};
  const auto added = [](int token, const char* content, bool special) {
    return json{{"id", token},         {"content", content}, {"special", special},
                {"normalized", false}, {"lstrip", false},    {"rstrip", false},
                {"single_word", false}};
  };
  return {
      {"version", "1.0"},
      {"truncation", nullptr},
      {"added_tokens",
       {added(300, "<|im_start|>", true), added(301, "<|im_end|>", true),
        added(302, "<|object_ref_end|>", true), added(303, "<think>", false)}},
      {"normalizer", {{"type", "NFC"}}},
      {"pre_tokenizer",
       {{"type", "Sequence"},
        {"pretokenizers",
         {{{"type", "Split"},
           {"pattern",
            {{"Regex",
              "(?i:'s|'t)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|"
              "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"}}},
           {"behavior", "Isolated"},
           {"invert", false}},
          byte_level}}}},
      {"decoder", byte_level},
      {"model",
       {{"type", "BPE"},
        {"dropout", nullptr},
        {"unk_token", nullptr},
        {"continuing_subword_prefix", ""},
        {"end_of_word_suffix", ""},
        {"fuse_unk", false},
        {"byte_fallback", false},
        {"ignore_merges", false},
        {"vocab", vocab},
        {"merges", merges}}},
  };
}

}  // namespace

std::string TinyTokenizerJson() { return TinyTokenizer().dump(); }

std::vector<std::string> SafetensorsSeeds() {
  const json good = {
      {"__metadata__", {{"format", "pt"}}},
      {"a.weight", {{"dtype", "F32"}, {"shape", {2, 3}}, {"data_offsets", {0, 24}}}},
      {"b.weight", {{"dtype", "BF16"}, {"shape", {4}}, {"data_offsets", {24, 32}}}},
      {"c.weight_q4", {{"dtype", "U8"}, {"shape", {1, 16}}, {"data_offsets", {32, 48}}}},
      {"d", {{"dtype", "I8"}, {"shape", json::array()}, {"data_offsets", {48, 49}}}},
      {"e", {{"dtype", "F16"}, {"shape", {0, 5}}, {"data_offsets", {49, 49}}}}};
  std::vector<std::string> headers = {good.dump(), "{}", "[]", "", "{\"a\":", good.dump() + "   "};
  AddWithOneValueReplaced(good, &headers);
  AddWithOneKeyRemoved(good, &headers);
  std::vector<std::string> seeds;
  for (const std::string& header : headers) seeds.push_back(Assemble(header, 49));
  for (const uint64_t extra : {uint64_t{1}, uint64_t{49}, uint64_t{50}, uint64_t{8} << 20,
                               UINT64_MAX, uint64_t{1} << 63}) {
    seeds.push_back(Assemble(good.dump(), 49, extra));
  }
  for (const size_t data : {size_t{0}, size_t{48}, size_t{50}}) {
    seeds.push_back(Assemble(good.dump(), data));
  }
  seeds.push_back("");
  seeds.push_back("1234567");
  return seeds;
}

std::vector<std::string> SafetensorsIndexSeeds() {
  const json good = {
      {"metadata", {{"total_size", 123}}},
      {"weight_map",
       {{"a", "model-00001-of-00002.safetensors"}, {"b", "model-00002-of-00002.safetensors"}}}};
  std::vector<std::string> seeds = {good.dump(), good.dump(2), "{}", "[", ""};
  AddWithOneValueReplaced(good, &seeds);
  AddWithOneKeyRemoved(good, &seeds);
  for (const char* shard : {"../a.safetensors", "/a.safetensors", ".a.safetensors",
                            "a/../b.safetensors", "\\a.safetensors", "a.bin"}) {
    seeds.push_back(json({{"weight_map", {{"a", shard}}}}).dump());
  }
  return seeds;
}

std::vector<std::string> ConfigSeeds() {
  const json good = {{"architectures", {"MSAForCausalLM"}},
                     {"attention_bias", false},
                     {"bos_token_id", 1},
                     {"eos_token_id", {2, 3}},
                     {"head_dim", 16},
                     {"hidden_act", "silu"},
                     {"hidden_size", 64},
                     {"intermediate_size", 128},
                     {"layer_types", {"full_attention"}},
                     {"max_position_embeddings", 4096},
                     {"model_type", "msa"},
                     {"msa_config",
                      {{"router_layer_idx", "2,3"},
                       {"top_k_docs", 16},
                       {"pooling_kernel_size", 64},
                       {"decouple_router", true},
                       {"head_reduce_method", "mean"},
                       {"query_reduce_method", "max"},
                       {"chunk_reduce_method", "max"},
                       {"decouple_pooling_mode", "mean"},
                       {"aux_loss_method", "INFONCE_DECOUPLE"},
                       {"infonce_loss_temp", 0.1},
                       {"lmloss_weigth", 1.0},
                       {"rewrite_position", true},
                       {"routing_metric", "cosine"},
                       {"document_tokens_max", 2048}}},
                     {"num_attention_heads", 4},
                     {"num_hidden_layers", 4},
                     {"num_key_value_heads", 2},
                     {"rms_norm_eps", 1e-6},
                     {"rope_parameters", {{"rope_type", "default"}, {"rope_theta", 10000}}},
                     {"rope_theta", 10000},
                     {"tie_word_embeddings", true},
                     {"use_sliding_window", false},
                     {"vocab_size", 300}};
  json llama = good;
  llama["model_type"] = "llama";
  llama.erase("msa_config");
  std::vector<std::string> seeds = {good.dump(), llama.dump(), llama.dump(2), "{}", "", "["};
  AddWithOneValueReplaced(good, &seeds);
  AddWithOneKeyRemoved(good, &seeds);
  for (const json& layers :
       std::vector<json>{"all", "0", "0, 1", {0, 1, 3}, 3, "3,2", "9", ",", ""}) {
    json other = good;
    other["msa_config"]["router_layer_idx"] = layers;
    seeds.push_back(other.dump());
  }
  return seeds;
}

std::vector<std::string> TokenizerSeeds() {
  const json good = TinyTokenizer();
  std::vector<std::string> seeds = {good.dump(), good.dump(1), "{}", "", "["};
  AddWithOneKeyRemoved(good, &seeds);
  // The vocabulary is left out of the replacing: 256 like places teach nothing new.
  json bare = good;
  bare["model"].erase("vocab");
  std::vector<std::string> replaced;
  AddWithOneValueReplaced(bare, &replaced);
  for (const std::string& text : replaced) {
    json other = json::parse(text);
    if (other["model"].is_object()) other["model"]["vocab"] = good["model"]["vocab"];
    seeds.push_back(other.dump());
  }
  for (const char* regex :
       {"", "a", "(a|aa)+[bc]", "[", "(", "\\p{Lu}\\p{Ll}*", "\\s", "\\S+", "[^\\s]", "(?=a)", "a*",
        "(?:)", "(?i:a)", "(?!a)|b?", "a{1,3}", "[\\x{41}-\\x{5A}]", "\\d+|\\D+", ".", "(?>a+)b"}) {
    json other = good;
    other["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = regex;
    seeds.push_back(other.dump());
  }
  for (const char* key : {"lstrip", "rstrip", "single_word", "normalized"}) {
    json other = good;
    other["added_tokens"][1][key] = true;
    seeds.push_back(other.dump());
  }
  json strings = good;
  for (json& merge : strings["model"]["merges"]) {
    merge = merge[0].get<std::string>() + " " + merge[1].get<std::string>();
  }
  seeds.push_back(strings.dump());
  json gpt2 = good;
  gpt2["pre_tokenizer"] = {{"type", "ByteLevel"}, {"add_prefix_space", true}};
  gpt2["normalizer"] = nullptr;
  gpt2["model"]["ignore_merges"] = true;
  seeds.push_back(gpt2.dump());
  json digits = good;
  digits["pre_tokenizer"]["pretokenizers"][0] = {{"type", "Digits"}, {"individual_digits", true}};
  seeds.push_back(digits.dump());
  json unknown = good;
  unknown["model"]["unk_token"] = "a";
  unknown["model"]["fuse_unk"] = true;
  unknown["model"]["vocab"].erase("x");
  seeds.push_back(unknown.dump());
  return seeds;
}

std::vector<std::string> TemplatesSeeds() {
  const json good = {
      {"head", "<|im_start|>user\n"},
      {"document", "<|im_start|>[{number}]. {text}[{number}]<|im_end|>"},
      {"question", "\nPlease answer\n\n{question}\nPlease return\n"},
      {"tail", "<|im_end|>\n"},
      {"response_head", "<|im_start|>"},
      {"numbers_end", "<|object_ref_end|>"},
      {"appended_document", "[{number}]. {text}\n"},
      {"appended_end", "<|object_ref_end|>"},
      {"retrieval_end", "<End-of-Retrieve>"},
      {"restart", "<|im_start|>The user's question is: {question}\n<|object_ref_end|>"},
      {"answer_prefix", "The answer to the question is: "},
      {"retrieval", "route"},
      {"route_documents", 3},
      {"answer_head", "<|im_start|>user\n{question}\n"},
      {"answer_tail", "<|im_end|>\n<|im_start|>assistant\n"},
      {"stop", {"<|im_end|>"}}};
  std::vector<std::string> seeds = {good.dump(), good.dump(2), "{}", "", "["};
  AddWithOneValueReplaced(good, &seeds);
  AddWithOneKeyRemoved(good, &seeds);
  for (const char* text :
       {"{number}", "{text}", "{question}", "{number}{text}", "{{text}}", "{number", "{}",
        "<|im_end|>{text}<|im_end|>", "\u00e9{number}\u0301{text}"}) {
    for (const char* key : {"document", "head", "question", "answer_tail"}) {
      json other = good;
      other[key] = text;
      seeds.push_back(other.dump());
    }
  }
  return seeds;
}

}  // namespace msadb::fuzz
