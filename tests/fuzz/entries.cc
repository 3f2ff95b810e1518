#include "tests/fuzz/entries.h"

#include <cstdio>
#include <cstdlib>
#include <memory>

#include "base/utf8.h"
#include "model/model_config.h"
#include "model/safetensors.h"
#include "model/templates.h"
#include "model/tokenizer.h"
#include "tests/fuzz/http_entry.h"
#include "tests/fuzz/seeds.h"
#include "tests/fuzz/values_entry.h"
#include "tests/fuzz/wire_entry.h"

namespace msadb::fuzz {
namespace {

using model::Tokenizer;

// Not assert(): it must also hold in builds without it.
void Require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "violated: %s\n", what);
  std::abort();
}

void RequireMessage(const Status& status) {
  Require(!status.ok() && !status.message().empty(), "an error says something");
  Require(status.code() == StatusCode::kInvalidArgument ||
              status.code() == StatusCode::kUnsupported ||
              status.code() == StatusCode::kCorruption ||
              status.code() == StatusCode::kResourceExhausted,
          "an error of bad input is no internal error");
  Require(base::IsValidUtf8(status.message()), "a message is valid UTF-8");
}

void RunSafetensors(std::string_view input) {
  const auto entries = model::ParseSafetensorsHeader(
      std::as_bytes(std::span(input.data(), input.size())), input.size());
  if (!entries.ok()) return RequireMessage(entries.status());
  uint64_t last = 0;
  for (const model::TensorEntry& entry : *entries) {
    Require(entry.begin <= entry.end && entry.end <= input.size(), "a tensor lies in the file");
    Require(last == 0 || entry.begin == last, "tensors are contiguous");
    last = entry.end;
    uint64_t bytes = model::DTypeSize(entry.dtype);
    for (const uint64_t size : entry.shape) bytes *= size;
    Require(bytes == entry.end - entry.begin, "bytes = shape * dtype");
  }
  Require(entries->empty() || last == input.size(), "the data fills the file");
}

void RunSafetensorsIndex(std::string_view input) {
  const auto index = model::ParseSafetensorsIndex(input);
  if (!index.ok()) return RequireMessage(index.status());
  for (const auto& [name, shard] : *index) {
    Require(shard.find('/') == std::string::npos && shard.front() != '.', "a shard is a file name");
  }
}

void RunConfig(std::string_view input) {
  auto config = model::ParseModelConfig(input);
  if (!config.ok()) return RequireMessage(config.status());
  Require(config->n_heads % config->n_kv_heads == 0, "G divides H");
  Require(config->head_dim > 0 && config->head_dim % 2 == 0, "D is even");
  Require(!config->msa.routing_layers.empty(), "a layer routes");
  int ordinal = 0;
  for (const int layer : config->msa.routing_layers) {
    Require(layer >= 0 && layer < config->n_layers, "a routing layer exists");
    Require(config->RoutingOrdinal(layer) == ordinal++, "routing layers ascend");
  }
  if (Status status = model::MergeGenerationConfig(input, &*config); !status.ok()) {
    RequireMessage(status);
  }
  for (const int32_t id : config->eos_token_ids) {
    Require(id >= 0 && id < config->vocab_size, "an eos id is in the vocabulary");
  }
}

void RunTokenizer(std::string_view input) {
  const auto loaded = Tokenizer::FromJson(input);
  if (!loaded.ok()) return RequireMessage(loaded.status());
  const Tokenizer& tokenizer = **loaded;
  const int32_t size = static_cast<int32_t>(tokenizer.vocab_size());
  for (const std::string_view text :
       {"Hello, world! 12 x  \n\t<|im_end|> it's", "e\xcc\x81\xe3\x81\x82\xf0\x9f\x98\x80  ",
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}) {
    for (const bool parse : {false, true}) {
      const auto ids = tokenizer.Encode(text, {.parse_special_tokens = parse});
      if (!ids.ok()) {
        RequireMessage(ids.status());
        continue;
      }
      model::StreamDecoder stream(&tokenizer, /*skip_special=*/false);
      std::string streamed;
      for (const int32_t id : *ids) {
        Require(id >= 0 && id < size, "an id is in the vocabulary");
        streamed += stream.Push(id);
      }
      streamed += stream.Finish();
      const std::string decoded = tokenizer.Decode(*ids, /*skip_special=*/false);
      Require(base::IsValidUtf8(decoded), "decoded text is valid UTF-8");
      Require(decoded == streamed, "a stream adds up to the whole");
    }
  }
  for (const int32_t id : {-1, 0, size - 1, size}) {
    if (tokenizer.IsSpecial(id)) Require(!tokenizer.TokenBytes(id).empty(), "special tokens exist");
  }
}

void RunTemplates(std::string_view input) {
  static const std::unique_ptr<Tokenizer> tokenizer = [] {
    auto loaded = Tokenizer::FromJson(TinyTokenizerJson());
    Require(loaded.ok(), "the tokenizer of this entry loads");
    return std::move(*loaded);
  }();
  auto strings = model::ParseTemplates(input);
  if (!strings.ok()) return RequireMessage(strings.status());
  const auto templates = model::Templates::Compile(std::move(*strings), tokenizer.get());
  if (!templates.ok()) return RequireMessage(templates.status());
  const int32_t end = *tokenizer->TokenId("<|im_end|>");
  const auto count_ends = [&](const Result<std::vector<int32_t>>& ids) {
    Require(ids.ok(), "a valid text fits every template");
    size_t count = 0;
    for (const int32_t id : *ids) count += id == end;
    return count;
  };
  Require(
      count_ends(templates->Document(7, "x<|im_end|>")) == count_ends(templates->Document(7, "x")),
      "text does not inject tokens into a document");
  Require(count_ends(templates->Question("<|im_end|>")) == count_ends(templates->Question("x")),
          "text does not inject tokens into a question");
}

constexpr Entry kEntries[] = {
    {"safetensors", RunSafetensors, SafetensorsSeeds},
    {"safetensors_index", RunSafetensorsIndex, SafetensorsIndexSeeds},
    {"config", RunConfig, ConfigSeeds},
    {"tokenizer", RunTokenizer, TokenizerSeeds},
    {"templates", RunTemplates, TemplatesSeeds},
    {"wire", RunWire, WireSeeds},
    {"filter", RunFilter, FilterSeeds},
    {"document", RunDocument, DocumentSeeds},
    {"http", RunHttp, HttpSeeds},
};

}  // namespace

std::span<const Entry> Entries() { return kEntries; }

const Entry* FindEntry(std::string_view name) {
  for (const Entry& entry : kEntries) {
    if (name == entry.name) return &entry;
  }
  return nullptr;
}

}  // namespace msadb::fuzz
