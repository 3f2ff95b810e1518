// The public types as JSON: what the server answers and `msadb --json` prints.
#ifndef MSADB_SERVER_JSON_FORMS_H_
#define MSADB_SERVER_JSON_FORMS_H_

#include <nlohmann/json.hpp>
#include <string>

#include "msadb/database.h"

namespace msadb {

using Json = nlohmann::ordered_json;

Json ToJson(const Metadata& metadata);
Json ToJson(const Document& document, bool with_text);
Json ToJson(const SearchHit& hit);
Json ToJson(const Answer& answer, bool with_trace);
Json ToJson(const CollectionStats& stats);
Json ToJson(const DatabaseStats& stats);
// {"error": {"code": "NotFound", "message": "..."}}
Json ErrorToJson(const Status& status);

// On one line. Never throws: bytes that are not UTF-8, which nothing stored has, are replaced.
std::string Dump(const Json& json);

}  // namespace msadb

#endif  // MSADB_SERVER_JSON_FORMS_H_
