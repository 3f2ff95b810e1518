// Seed inputs of the fuzz entries: good files, and files wrong in one place.
#ifndef MSADB_TESTS_FUZZ_SEEDS_H_
#define MSADB_TESTS_FUZZ_SEEDS_H_

#include <string>
#include <vector>

namespace msadb::fuzz {

std::vector<std::string> SafetensorsSeeds();
std::vector<std::string> SafetensorsIndexSeeds();
std::vector<std::string> ConfigSeeds();
std::vector<std::string> TokenizerSeeds();
std::vector<std::string> TemplatesSeeds();

// A byte-level tokenizer.json with all 256 byte tokens, a few merges and added tokens, Qwen style.
std::string TinyTokenizerJson();

}  // namespace msadb::fuzz

#endif  // MSADB_TESTS_FUZZ_SEEDS_H_
