// The libFuzzer driver of one entry, named by MSADB_FUZZ_ENTRY at compile time.
#include <cstddef>
#include <cstdint>

#include "tests/fuzz/entries.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const msadb::fuzz::Entry* const entry = msadb::fuzz::FindEntry(MSADB_FUZZ_ENTRY);
  entry->run({reinterpret_cast<const char*>(data), size});
  return 0;
}
