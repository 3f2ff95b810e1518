// One input of the filter fuzzer: bytes that claim to be a filter.
#ifndef MSADB_TESTS_DB_FILTER_FUZZ_H_
#define MSADB_TESTS_DB_FILTER_FUZZ_H_

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include "msadb/filter.h"

namespace msadb {

// Aborts when a property of Filter does not hold; sanitizers watch the rest.
inline void FuzzFilter(const uint8_t* data, size_t size) {
  static const Metadata kMetadata[] = {
      {},
      {{"a", int64_t{1}}, {"b", std::string("x")}, {"t", std::vector<std::string>{"x", "y"}}},
      {{"a", 1.5}, {"b", true}, {"t", std::vector<std::string>{}}},
      {{"a", std::string("1")}, {"b", int64_t{INT64_MIN}}, {"t", std::string("x")}},
  };
  static constexpr Provenance kProvenance = {
      .written_by = "x", .source = "", .created_at = TimePoint(std::chrono::microseconds(1))};
  const auto filter = Filter::Parse({reinterpret_cast<const char*>(data), size});
  if (!filter.ok()) {
    if (filter.status().code() != StatusCode::kInvalidArgument) std::abort();
    if (filter.status().message().size() > 4096) std::abort();
    return;
  }
  const std::string json = filter->ToJson();
  const auto again = Filter::Parse(json);
  if (!again.ok() || again->ToJson() != json) std::abort();
  const auto opposite = Filter::Parse("{\"$not\":" + json + "}");
  for (const Metadata& metadata : kMetadata) {
    const bool matches = filter->Matches(metadata, kProvenance);
    if (again->Matches(metadata, kProvenance) != matches) std::abort();
    // One level deeper may be one too deep.
    if (opposite.ok() && opposite->Matches(metadata, kProvenance) == matches) std::abort();
  }
}

}  // namespace msadb

#endif  // MSADB_TESTS_DB_FILTER_FUZZ_H_
