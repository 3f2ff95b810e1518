// What is fuzzed: each entry feeds untrusted bytes to one parser and checks what must hold of
// anything it accepts. An entry ends the process when it does not; it returns otherwise.
#ifndef MSADB_TESTS_FUZZ_ENTRIES_H_
#define MSADB_TESTS_FUZZ_ENTRIES_H_

#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace msadb::fuzz {

struct Entry {
  const char* name;                     // also the name of the libFuzzer binary: fuzz_<name>
  void (*run)(std::string_view input);  // any bytes
  std::vector<std::string> (*seeds)();  // good and nearly good inputs to start from
};

std::span<const Entry> Entries();
// Null when there is no such entry.
const Entry* FindEntry(std::string_view name);

}  // namespace msadb::fuzz

#endif  // MSADB_TESTS_FUZZ_ENTRIES_H_
