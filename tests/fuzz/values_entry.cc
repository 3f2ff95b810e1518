#include "tests/fuzz/values_entry.h"

#include <cstdio>
#include <cstdlib>

#include "base/utf8.h"
#include "msadb/transfer.h"
#include "tests/db/filter_fuzz.h"

namespace msadb::fuzz {
namespace {

// Not assert(): it must also hold in builds without it.
void Require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "violated: %s\n", what);
  std::abort();
}

}  // namespace

void RunFilter(std::string_view input) {
  FuzzFilter(reinterpret_cast<const uint8_t*>(input.data()), input.size());
}

std::vector<std::string> FilterSeeds() {
  return {R"({"a": {"$gt": 1, "$lt": 5.5e3}, "b": "x"})",
          R"({"$or": [{"t": {"$contains": "x"}}, {"$not": {"a": {"$in": [1, "1", true]}}}]})",
          R"({"b": {"$not": {"$exists": false}}, "t": ["x", "y"], "$and": [{}]})",
          R"({"\u00e4": {"$nin": [null, -9223372036854775808, 1e308]}})",
          R"({"a": {"$gte": 9007199254740993, "$lte": 1.0, "$ne": "", "$eq": false}})",
          R"({"$and": [{"$and": [{"$and": [{"a": 1}]}]}]})",
          R"({"$written_by": {"$in": ["x", ""]}, "$source": {"$exists": true},
              "$created_at": {"$gte": "1970-01-01T00:00:00Z"}})",
          "{}",
          "",
          "[]"};
}

// What reads as a document is written and read again without a change.
void RunDocument(std::string_view input) {
  const auto document = DocumentFromJson(input);
  if (!document.ok()) {
    Require(document.status().code() == StatusCode::kInvalidArgument,
            "bad JSON is an invalid argument");
    Require(!document.status().message().empty(), "an error says something");
    Require(base::IsValidUtf8(document.status().message()), "a message is valid UTF-8");
    return;
  }
  Require(base::IsValidUtf8(document->text), "text is valid UTF-8");
  Document stored;
  stored.id = 1;
  stored.text = document->text;
  stored.key = document->key;
  stored.metadata = document->metadata;
  stored.source = document->source;
  stored.written_by = document->written_by;
  stored.expires_at = document->expires_at;
  const auto again = DocumentFromJson(DocumentToJson(stored));
  Require(again.ok(), "a written document reads");
  Require(again->text == document->text && again->key == document->key &&
              again->source == document->source && again->written_by == document->written_by &&
              again->expires_at == document->expires_at,
          "a written document reads as it was");
  Require(MetadataToJson(again->metadata) == MetadataToJson(document->metadata),
          "metadata reads as it was");
}

std::vector<std::string> DocumentSeeds() {
  return {R"({"text": "The key is under the pot."})",
          R"({"id": 17, "text": "t", "key": "k", "metadata": {"year": 2026, "share": 0.5,)"
          R"( "open": true, "tags": ["a", "b"], "name": "n"}, "source": "s",)"
          R"( "created_at": "2026-11-22T10:00:00.000000Z", "expires_at": "2026-12-01T00:00:00Z"})",
          R"({"text": "\ud83d\ude00 \u0000", "metadata": {"n": -9223372036854775808}})",
          R"({"text": "x", "expires_at": "9999-12-31T23:59:59.999999Z"})",
          R"({"text": "x", "metadata": {"f": 1e308}})",
          R"({"text": ""})",
          "{}",
          "null",
          ""};
}

}  // namespace msadb::fuzz
