// Reads the JSON of a request, which is untrusted: its depth and number of values are bounded, a
// name may occur once, unknown names are refused, and every number has a lower and an upper bound.
// All errors are InvalidArgument and name the field. Nothing here throws.
#ifndef MSADB_SERVER_REQUEST_JSON_H_
#define MSADB_SERVER_REQUEST_JSON_H_

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <string_view>

#include "msadb/filter.h"
#include "msadb/status.h"

namespace msadb::server {

// An object. Nesting is bounded by what filters need, below "where".
Result<nlohmann::json> ParseRequestJson(std::string_view body);

// Takes the fields of an object one by one; the first error stays. `object` must outlive it.
//
//   MSADB_RETURN_IF_ERROR(FieldReader(json).Required("query", &query).Number("top_k", &k, 1, 1000)
//                             .Done());
class FieldReader {
 public:
  explicit FieldReader(const nlohmann::json& object) : object_(object) {}

  // An absent or null field leaves *out as it is, unless it is required.
  FieldReader& Required(const char* name, std::string* out);
  FieldReader& Text(const char* name, std::string* out);
  FieldReader& Flag(const char* name, bool* out);
  FieldReader& Number(const char* name, uint64_t* out, uint64_t least, uint64_t most);
  FieldReader& Number(const char* name, int* out, int least, int most);
  FieldReader& Number(const char* name, float* out, float least, float most);
  FieldReader& Where(const char* name, std::optional<Filter>* out);
  // *out points into the object; null when absent. Whatever it holds is taken.
  FieldReader& Any(const char* name, const nlohmann::json** out);
  FieldReader& Ignore(const char* name);

  // The first error, or that there are fields nobody took.
  Status Done();

 private:
  const nlohmann::json* Take(const char* name);
  void Fail(const char* name, const std::string& what);

  const nlohmann::json& object_;
  std::set<std::string, std::less<>> known_;
  Status status_;
};

}  // namespace msadb::server

#endif  // MSADB_SERVER_REQUEST_JSON_H_
