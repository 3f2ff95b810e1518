// Filters and documents in JSON as fuzz entries: what users, tools and clients send.
#ifndef MSADB_TESTS_FUZZ_VALUES_ENTRY_H_
#define MSADB_TESTS_FUZZ_VALUES_ENTRY_H_

#include <string>
#include <string_view>
#include <vector>

namespace msadb::fuzz {

void RunFilter(std::string_view input);
std::vector<std::string> FilterSeeds();

void RunDocument(std::string_view input);
std::vector<std::string> DocumentSeeds();

}  // namespace msadb::fuzz

#endif  // MSADB_TESTS_FUZZ_VALUES_ENTRY_H_
