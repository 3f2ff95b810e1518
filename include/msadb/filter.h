// Filters select documents by metadata and provenance, in the JSON form that Chroma and MongoDB
// users know:
//
//   {"topic": "garden"}                                equal
//   {"year": {"$gte": 2020, "$lt": 2023}}              a range; all operators must hold
//   {"topic": "garden", "public": true}                several fields: all must hold
//   {"$or": [{"lang": {"$in": ["de", "fr"]}}, {"$not": {"draft": true}}]}
//
//   $eq $ne                equal, not equal. {"a": 1} is short for {"a": {"$eq": 1}}
//   $gt $gte $lt $lte      order, for numbers and strings
//   $in $nin               equal to one, to none of a list of values
//   $contains              a list of strings contains this string
//   $exists                true: the document has the field; false: it has not
//   $and $or               of one or more filters
//   $not                   of a filter, {"$not": {"a": 1}}, or of a field's operators,
//                          {"a": {"$not": {"$gt": 1}}}
//   {}                     every document
//
// Three names reach a document's provenance; they cannot be metadata, whose names do not begin with
// '$'. They are never missing:
//   $written_by $source    strings, "" when not given: {"$written_by": {"$in": ["agent", ""]}}
//   $created_at            a time, compared with times in RFC 3339, UTC:
//                          {"$created_at": {"$gte": "2026-11-22T10:00:00Z"}}
//
// Comparing. Numbers compare by their exact values, whole numbers with fractions too: 1 equals 1.0,
// and 9007199254740993 does not equal 9007199254740992.0. Strings compare byte by byte. Values of
// different types are never equal and none is greater: {"a": {"$gt": 1}} and {"a": {"$lte": 1}} are
// both false of "one". True and false are not numbers and have no order.
// A list of strings satisfies $eq, $in and the order operators when one of its elements does, so
// {"tags": "red"} and {"tags": {"$contains": "red"}} are the same for lists; on any other value
// $contains is false. {"tags": ["red", "blue"]} asks for the whole list, in order.
// A missing field satisfies only $ne, $nin, {"$exists": false}, and $not of what it fails. $ne and
// $nin are the exact opposites of $eq and $in. This is MongoDB's way.
// Field names are literal: metadata is flat, and "a.b" is the field named "a.b".
#ifndef MSADB_FILTER_H_
#define MSADB_FILTER_H_

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

#include "msadb/document.h"
#include "msadb/status.h"

namespace msadb {

// Of a document, as filters see it.
struct Provenance {
  std::string_view written_by;
  std::string_view source;
  TimePoint created_at{};
};

// Immutable; copying is cheap. Every method may be called from any thread at any time.
class Filter {
 public:
  // Limits on the JSON text, so that an untrusted filter cannot cost much.
  static constexpr size_t kBytesMax = 1u << 20;
  static constexpr size_t kDepthMax = 32;       // nested objects and arrays
  static constexpr size_t kValuesMax = 10'000;  // objects, arrays, numbers, strings together

  // Matches every document, as Parse("{}") does.
  Filter();

  // InvalidArgument names the place in the JSON (as a JSON pointer, RFC 6901) and what to write
  // there instead.
  static Result<Filter> Parse(std::string_view json);

  bool Matches(const Metadata& metadata, const Provenance& provenance = {}) const;

  // The filter as compact JSON; Parse reads it back.
  std::string ToJson() const;

 private:
  struct Node;
  friend class FilterCompiler;
  std::shared_ptr<const Node> root_;  // null: matches everything
  std::shared_ptr<const std::string> json_;
};

}  // namespace msadb

#endif  // MSADB_FILTER_H_
