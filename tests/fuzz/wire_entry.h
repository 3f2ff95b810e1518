// The binary protocol as a fuzz entry: bytes that claim to be a conversation.
#ifndef MSADB_TESTS_FUZZ_WIRE_ENTRY_H_
#define MSADB_TESTS_FUZZ_WIRE_ENTRY_H_

#include <string>
#include <string_view>
#include <vector>

namespace msadb::fuzz {

void RunWire(std::string_view input);
std::vector<std::string> WireSeeds();

}  // namespace msadb::fuzz

#endif  // MSADB_TESTS_FUZZ_WIRE_ENTRY_H_
