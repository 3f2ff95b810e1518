#include "msadb/filter.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <random>

#include "msadb/transfer.h"
#include "tests/db/filter_fuzz.h"

namespace msadb {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using Strings = std::vector<std::string>;

bool Matches(std::string_view json, const Metadata& metadata, const Provenance& provenance = {}) {
  const auto filter = Filter::Parse(json);
  EXPECT_TRUE(filter.ok()) << json << ": " << filter.status().ToString();
  return filter.ok() && filter->Matches(metadata, provenance);
}

std::string ErrorOf(std::string_view json) {
  const auto filter = Filter::Parse(json);
  EXPECT_EQ(filter.status().code(), StatusCode::kInvalidArgument) << json;
  return filter.status().ToString();
}

TEST(FilterTest, EmptyFilterMatchesEverything) {
  EXPECT_TRUE(Filter().Matches({}));
  EXPECT_TRUE(Filter().Matches({{"a", true}}));
  EXPECT_TRUE(Matches("{}", {}));
  EXPECT_TRUE(Matches(" { } ", {{"a", int64_t{1}}}));
  EXPECT_EQ(Filter().ToJson(), "{}");
}

TEST(FilterTest, EqualityIsImplicitAndTyped) {
  const Metadata m = {{"s", std::string("1")}, {"i", int64_t{1}}, {"d", 1.0}, {"b", true}};
  EXPECT_TRUE(Matches(R"({"s": "1"})", m));
  EXPECT_TRUE(Matches(R"({"s": {"$eq": "1"}})", m));
  EXPECT_FALSE(Matches(R"({"s": 1})", m));
  EXPECT_FALSE(Matches(R"({"s": true})", m));
  EXPECT_TRUE(Matches(R"({"i": 1})", m));
  EXPECT_TRUE(Matches(R"({"i": 1.0})", m));
  EXPECT_FALSE(Matches(R"({"i": "1"})", m));
  EXPECT_FALSE(Matches(R"({"i": true})", m));
  EXPECT_TRUE(Matches(R"({"d": 1})", m));
  EXPECT_FALSE(Matches(R"({"d": 1.0000001})", m));
  EXPECT_TRUE(Matches(R"({"b": true})", m));
  EXPECT_FALSE(Matches(R"({"b": false})", m));
  EXPECT_FALSE(Matches(R"({"b": 1})", m));
  EXPECT_TRUE(Matches(R"({"b": {"$ne": 1}})", m));
}

TEST(FilterTest, SeveralFieldsAndOperatorsMustAllHold) {
  const Metadata m = {{"a", int64_t{3}}, {"b", std::string("x")}};
  EXPECT_TRUE(Matches(R"({"a": 3, "b": "x"})", m));
  EXPECT_FALSE(Matches(R"({"a": 3, "b": "y"})", m));
  EXPECT_TRUE(Matches(R"({"a": {"$gt": 1, "$lt": 5}})", m));
  EXPECT_FALSE(Matches(R"({"a": {"$gt": 1, "$lt": 3}})", m));
  EXPECT_TRUE(Matches(R"({"a": {"$gte": 3, "$lte": 3}})", m));
}

TEST(FilterTest, NumbersCompareExactly) {
  constexpr int64_t kBig = 9007199254740993;  // 2^53 + 1, no double
  const Metadata m = {{"i", kBig},
                      {"max", INT64_MAX},
                      {"min", INT64_MIN},
                      {"d", 9007199254740992.0},
                      {"half", -0.5}};
  EXPECT_FALSE(Matches(R"({"i": 9007199254740992.0})", m));
  EXPECT_TRUE(Matches(R"({"i": {"$gt": 9007199254740992.0}})", m));
  EXPECT_TRUE(Matches(R"({"i": 9007199254740993})", m));
  EXPECT_FALSE(Matches(R"({"d": 9007199254740993})", m));
  EXPECT_TRUE(Matches(R"({"d": {"$lt": 9007199254740993}})", m));
  EXPECT_TRUE(Matches(R"({"d": {"$in": [9007199254740993, 9007199254740992]}})", m));
  EXPECT_FALSE(Matches(R"({"d": {"$in": [9007199254740993, 9007199254740991]}})", m));
  EXPECT_TRUE(Matches(R"({"max": {"$lt": 9223372036854775808.0}})", m));
  EXPECT_FALSE(Matches(R"({"max": 9223372036854775808.0})", m));
  EXPECT_TRUE(Matches(R"({"max": 9223372036854775807})", m));
  EXPECT_TRUE(Matches(R"({"min": -9223372036854775808.0})", m));
  EXPECT_TRUE(Matches(R"({"min": {"$gt": -1e300}})", m));
  EXPECT_TRUE(Matches(R"({"half": {"$lt": 0, "$gt": -1}})", m));
  EXPECT_TRUE(Matches(R"({"half": {"$gt": -0.6, "$lt": -0.4}})", m));
}

TEST(FilterTest, NanInMetadataEqualsNothing) {
  const Metadata m = {{"a", std::numeric_limits<double>::quiet_NaN()}};
  for (const char* op : {"$eq", "$gt", "$gte", "$lt", "$lte"}) {
    EXPECT_FALSE(Matches(std::string("{\"a\": {\"") + op + "\": 1}}", m)) << op;
    EXPECT_FALSE(Matches(std::string("{\"a\": {\"") + op + "\": 1.5}}", m)) << op;
  }
  EXPECT_TRUE(Matches(R"({"a": {"$ne": 1}})", m));
  EXPECT_FALSE(Matches(R"({"a": {"$in": [1, 2.5, "x"]}})", m));
}

TEST(FilterTest, StringsCompareByBytes) {
  const Metadata m = {{"s", std::string("\xC3\xA4"
                                        "b")},
                      {"t", std::string("2024-03-01")}};
  EXPECT_TRUE(Matches(R"({"s": {"$gt": "z"}})", m));
  EXPECT_TRUE(
      Matches("{\"s\": {\"$lt\": \"\xC3\xA4"
              "c\"}}",
              m));
  EXPECT_TRUE(Matches(R"({"t": {"$gte": "2024-01-01", "$lt": "2025"}})", m));
  EXPECT_TRUE(Matches("{\"s\": \"\\u00e4b\"}", m));
  EXPECT_FALSE(Matches(R"({"t": {"$gt": 5}})", m));
  EXPECT_FALSE(Matches(R"({"t": {"$lte": 5}})", m));
}

TEST(FilterTest, InAndNotIn) {
  const Metadata m = {{"a", int64_t{2}}, {"s", std::string("de")}, {"b", false}};
  EXPECT_TRUE(Matches(R"({"a": {"$in": ["x", 1, 2.0, true]}})", m));
  EXPECT_FALSE(Matches(R"({"a": {"$in": ["2", 1, true]}})", m));
  EXPECT_TRUE(Matches(R"({"s": {"$in": ["fr", "de", "de"]}})", m));
  EXPECT_TRUE(Matches(R"({"b": {"$in": [false]}})", m));
  EXPECT_FALSE(Matches(R"({"b": {"$in": [0, true, ""]}})", m));
  EXPECT_FALSE(Matches(R"({"a": {"$in": []}})", m));
  EXPECT_TRUE(Matches(R"({"a": {"$nin": []}})", m));
  EXPECT_FALSE(Matches(R"({"a": {"$nin": [2]}})", m));
  EXPECT_TRUE(Matches(R"({"a": {"$nin": [3, "2"]}})", m));
}

TEST(FilterTest, ListsMatchByMembership) {
  const Metadata m = {
      {"tags", Strings{"red", "blue"}}, {"none", Strings{}}, {"s", std::string("red")}};
  EXPECT_TRUE(Matches(R"({"tags": "red"})", m));
  EXPECT_FALSE(Matches(R"({"tags": "green"})", m));
  EXPECT_FALSE(Matches(R"({"tags": {"$ne": "red"}})", m));
  EXPECT_TRUE(Matches(R"({"tags": {"$ne": "green"}})", m));
  EXPECT_TRUE(Matches(R"({"tags": {"$in": ["green", "blue"]}})", m));
  EXPECT_FALSE(Matches(R"({"tags": {"$nin": ["green", "blue"]}})", m));
  EXPECT_TRUE(Matches(R"({"tags": {"$gt": "p"}})", m));
  EXPECT_TRUE(Matches(R"({"tags": {"$contains": "blue"}})", m));
  EXPECT_FALSE(Matches(R"({"tags": {"$contains": "blu"}})", m));
  EXPECT_FALSE(Matches(R"({"s": {"$contains": "red"}})", m));
  EXPECT_FALSE(Matches(R"({"none": {"$contains": ""}})", m));
  EXPECT_TRUE(Matches(R"({"tags": ["red", "blue"]})", m));
  EXPECT_FALSE(Matches(R"({"tags": ["blue", "red"]})", m));
  EXPECT_TRUE(Matches(R"({"tags": {"$ne": ["red"]}})", m));
  EXPECT_TRUE(Matches(R"({"none": []})", m));
  EXPECT_FALSE(Matches(R"({"s": ["red"]})", m));
}

TEST(FilterTest, MissingFieldsAreLikeMongo) {
  const Metadata m = {{"a", int64_t{1}}};
  for (const char* no : {R"({"x": 1})", R"({"x": {"$gt": 1}})", R"({"x": {"$lte": 1}})",
                         R"({"x": {"$in": [1]}})", R"({"x": {"$contains": "y"}})", R"({"x": []})",
                         R"({"x": {"$exists": true}})", R"({"a": {"$exists": false}})"}) {
    EXPECT_FALSE(Matches(no, m)) << no;
  }
  for (const char* yes :
       {R"({"x": {"$ne": 1}})", R"({"x": {"$nin": [1]}})", R"({"x": {"$not": {"$gt": 1}}})",
        R"({"$not": {"x": 1}})", R"({"x": {"$exists": false}})", R"({"a": {"$exists": true}})"}) {
    EXPECT_TRUE(Matches(yes, m)) << yes;
  }
}

TEST(FilterTest, LogicalOperators) {
  const Metadata m = {{"a", int64_t{1}}, {"b", std::string("x")}};
  EXPECT_TRUE(Matches(R"({"$and": [{"a": 1}, {"b": "x"}]})", m));
  EXPECT_FALSE(Matches(R"({"$and": [{"a": 1}, {"b": "y"}]})", m));
  EXPECT_TRUE(Matches(R"({"$or": [{"a": 2}, {"b": "x"}]})", m));
  EXPECT_FALSE(Matches(R"({"$or": [{"a": 2}, {"b": "y"}]})", m));
  EXPECT_FALSE(Matches(R"({"$not": {"a": 1, "b": "x"}})", m));
  EXPECT_TRUE(Matches(R"({"$not": {"a": 1, "b": "y"}})", m));
  EXPECT_FALSE(Matches(R"({"$not": {}})", m));
  EXPECT_TRUE(Matches(R"({"a": {"$not": {"$gt": 1, "$lt": 5}}})", m));
  EXPECT_TRUE(Matches(R"({"a": {"$not": {"$not": {"$eq": 1}}}})", m));
  EXPECT_TRUE(
      Matches(R"({"b": "x", "$or": [{"a": {"$lt": 0}}, {"$and": [{"a": {"$gt": 0}}]}]})", m));
}

TEST(FilterTest, FieldNamesAreLiteral) {
  EXPECT_TRUE(Matches(R"({"a.b": 1})", {{"a.b", int64_t{1}}}));
  EXPECT_TRUE(Matches("{\"\\u00fc/~\": 1}", {{"\xC3\xBC/~", int64_t{1}}}));
}

TEST(FilterTest, ReservedNamesReachProvenance) {
  const auto when = ParseTime("2026-11-22T10:00:00.25Z");
  ASSERT_TRUE(when.ok());
  const Provenance p = {.written_by = "agent", .source = "", .created_at = *when};
  // Names without '$' are metadata as ever.
  const Metadata m = {{"written_by", std::string("ada")}, {"year", int64_t{2026}}};
  for (const char* yes :
       {R"({"$written_by": "agent"})", R"({"written_by": "ada"})",
        R"({"$written_by": {"$in": ["agent", "other"]}, "year": 2026})", R"({"$source": ""})",
        R"({"$written_by": {"$gt": "a", "$lt": "b"}})", R"({"$written_by": {"$exists": true}})",
        R"({"$or": [{"$source": "x"}, {"$not": {"$written_by": "ada"}}]})",
        R"({"$created_at": {"$gte": "2026-11-22T10:00:00Z", "$lt": "2026-11-22T10:00:00.3Z"}})",
        R"({"$created_at": "2026-11-22T10:00:00.250000Z"})",
        // As texts these would stand in another order than as times.
        R"({"$created_at": {"$in": ["2026-11-22T10:00:00Z", "2026-11-22T10:00:00.25Z",
            "2026-11-22T10:00:00.5Z"]}})",
        R"({"$created_at": {"$nin": ["2026-11-22T10:00:00Z"]}})",
        R"({"$created_at": {"$not": {"$gt": "2026-11-22T10:00:00.25Z"}}})"}) {
    EXPECT_TRUE(Matches(yes, m, p)) << yes;
  }
  for (const char* no :
       {R"({"$written_by": "ada"})", R"({"$written_by": {"$exists": false}})",
        R"({"$written_by": ["agent"]})", R"({"$written_by": {"$contains": "agent"}})",
        R"({"$written_by": 1})", R"({"$source": {"$ne": ""}})",
        R"({"$created_at": {"$gt": "2026-11-22T10:00:00.25Z"}})",
        R"({"$created_at": {"$exists": false}})"}) {
    EXPECT_FALSE(Matches(no, m, p)) << no;
  }
  // What a document whose writer was not recorded answers.
  EXPECT_TRUE(Matches(R"({"$written_by": ""})", {}));
  EXPECT_TRUE(Matches(R"({"$written_by": {"$ne": "agent"}})", {}));
}

TEST(FilterTest, TimesMustBeTimes) {
  for (const char* bad :
       {R"({"$created_at": "yesterday"})", R"({"$created_at": {"$gt": 1700000000}})",
        R"({"$created_at": true})", R"({"$created_at": {"$in": ["2026-11-22T10:00:00Z", 1]}})",
        R"({"$created_at": {"$contains": "2026-11-22T10:00:00Z"}})",
        R"({"$created_at": ["2026-11-22T10:00:00Z"]})", R"({"$created_at": "2026-11-22"})"}) {
    EXPECT_THAT(ErrorOf(bad), AllOf(HasSubstr("/$created_at"), HasSubstr("compared with times")));
  }
  EXPECT_THAT(ErrorOf(R"({"$writtenby": "x"})"), HasSubstr("$written_by"));
}

TEST(FilterTest, ErrorsSayWhereAndWhat) {
  EXPECT_THAT(ErrorOf(R"({"a": )"), HasSubstr("not valid JSON near byte"));
  EXPECT_THAT(ErrorOf(""), HasSubstr("not valid JSON"));
  EXPECT_THAT(ErrorOf("{} {}"), HasSubstr("not valid JSON"));
  EXPECT_THAT(ErrorOf("{\"a\": \"\xFF\"}"), HasSubstr("not valid JSON"));
  EXPECT_THAT(ErrorOf("[1]"), HasSubstr("must be an object"));
  EXPECT_THAT(ErrorOf("null"), HasSubstr("must be an object"));
  EXPECT_THAT(
      ErrorOf(R"({"price": {"$gt": 1, "$foo": 2}})"),
      AllOf(HasSubstr("at /price/$foo:"), HasSubstr("unknown operator"), HasSubstr("$gte")));
  EXPECT_THAT(ErrorOf(R"({"$and": [{"a": 1}, {"b": {"$gt": true}}]})"),
              AllOf(HasSubstr("at /$and/1/b/$gt:"), HasSubstr("number or a string")));
  EXPECT_THAT(ErrorOf(R"({"$gt": 5})"),
              AllOf(HasSubstr("at /$gt:"), HasSubstr("belong to a field")));
  EXPECT_THAT(ErrorOf(R"({"$or": []})"), HasSubstr("one or more"));
  EXPECT_THAT(ErrorOf(R"({"$or": {"a": 1}})"), HasSubstr("array"));
  EXPECT_THAT(ErrorOf(R"({"$not": [1]})"), HasSubstr("at /$not:"));
  EXPECT_THAT(ErrorOf(R"({"a": {"$not": 1}})"), HasSubstr("$ne"));
  EXPECT_THAT(ErrorOf(R"({"a": null})"), AllOf(HasSubstr("at /a:"), HasSubstr("$exists")));
  EXPECT_THAT(ErrorOf(R"({"a": {}})"), HasSubstr("no operator"));
  EXPECT_THAT(ErrorOf(R"({"a": {"b": 1}})"), AllOf(HasSubstr("flat"), HasSubstr("\"b\"")));
  EXPECT_THAT(ErrorOf(R"({"a": [1]})"), AllOf(HasSubstr("at /a/0:"), HasSubstr("$in")));
  EXPECT_THAT(ErrorOf(R"({"a": {"$in": 1}})"), HasSubstr("array of values"));
  EXPECT_THAT(ErrorOf(R"({"a": {"$in": [1, [2]]}})"), HasSubstr("at /a/$in/1:"));
  EXPECT_THAT(ErrorOf(R"({"a": {"$contains": 1}})"), HasSubstr("string"));
  EXPECT_THAT(ErrorOf(R"({"a": {"$exists": 1}})"), HasSubstr("true or false"));
  EXPECT_THAT(ErrorOf(R"({"a": {"$lt": ["x"]}})"), HasSubstr("order"));
  EXPECT_THAT(ErrorOf(R"({"a": 1, "a": 2})"), HasSubstr("twice"));
  EXPECT_THAT(ErrorOf(R"({"": 1})"), HasSubstr("empty"));
  EXPECT_THAT(ErrorOf(R"({"a": 9223372036854775808})"), HasSubstr("64 bits"));
  EXPECT_THAT(ErrorOf(R"({"a": -9223372036854775809})"), HasSubstr("64 bits"));
  EXPECT_THAT(ErrorOf(R"({"a": 123456789012345678901234567890})"), HasSubstr("64 bits"));
  EXPECT_THAT(ErrorOf(R"({"a": 1e999})"), HasSubstr("JSON"));
  EXPECT_THAT(ErrorOf("{\"a~/b\": null}"), HasSubstr("at /a~0~1b:"));
  const std::string message = ErrorOf("{\"$\\u0007" + std::string(5000, 'x') + "\": 1}");
  EXPECT_LT(message.size(), 400u);
  EXPECT_EQ(message.find('\a'), std::string::npos);
}

TEST(FilterTest, LimitsHold) {
  const auto nested = [](int levels) {
    std::string json = R"({"a":1})";
    for (int i = 1; i < levels; ++i) json = R"({"$not":)" + json + "}";
    return json;
  };
  EXPECT_TRUE(Filter::Parse(nested(Filter::kDepthMax)).ok());
  EXPECT_THAT(ErrorOf(nested(Filter::kDepthMax + 1)), HasSubstr("nested deeper"));
  EXPECT_THAT(ErrorOf(std::string(1 << 19, '[')), HasSubstr("nested deeper"));

  const auto list = [](size_t values) {
    std::string json = R"({"a":{"$in":[0)";
    for (size_t i = 1; i < values; ++i) json += "," + std::to_string(i * 7919 % 10007);
    return json + "]}}";
  };
  EXPECT_TRUE(Matches(list(Filter::kValuesMax - 3), {{"a", int64_t{7919}}}));
  EXPECT_THAT(ErrorOf(list(Filter::kValuesMax - 2)), HasSubstr("values"));
  EXPECT_THAT(ErrorOf(std::string(Filter::kBytesMax + 1, ' ')), HasSubstr("limit"));
  std::string wide = "{\"n0\":1";
  for (int i = 1; i <= 1000; ++i) wide += ",\"n" + std::to_string(i) + "\":1";
  EXPECT_THAT(ErrorOf(wide + "}"), HasSubstr("$and"));
}

TEST(FilterTest, ToJsonReadsBack) {
  for (const char* json :
       {R"({})", R"({"a":1})", R"({"a":1.0})", R"({"z":{"$gt":0.1,"$lt":1e+300},"a":["x",""]})",
        R"({"$or":[{"a":{"$in":[1,"x",true,-2.5]}},{"$not":{"b":{"$exists":false}}}]})",
        R"({"$created_at":{"$gte":"2026-11-22T10:00:00Z"},"$written_by":"a"})"}) {
    const auto filter = Filter::Parse(json);
    ASSERT_TRUE(filter.ok()) << json;
    EXPECT_EQ(filter->ToJson(), json);
  }
}

TEST(FilterTest, ACopyIsTheSameFilter) {
  const auto filter = Filter::Parse(R"({"a": 1})");
  ASSERT_TRUE(filter.ok());
  const Filter copy = *filter;
  EXPECT_TRUE(copy.Matches({{"a", int64_t{1}}}));
  EXPECT_FALSE(copy.Matches({}));
}

// Random filters, checked against a plain reading of the header's rules.
class RandomFilter {
 public:
  explicit RandomFilter(uint64_t seed) : rng_(seed) {}

  size_t Pick(size_t n) { return std::uniform_int_distribution<size_t>(0, n - 1)(rng_); }

  std::string Scalar() {
    static const char* kScalars[] = {"0",    "1",     "1.0",   "1.5",  "-2",
                                     "\"\"", "\"a\"", "\"b\"", "true", "false"};
    return kScalars[Pick(std::size(kScalars))];
  }

  std::string Make(int depth) {
    switch (Pick(depth > 0 ? 6 : 3)) {
      case 3:
        return R"({"$and":[)" + Make(depth - 1) + "," + Make(depth - 1) + "]}";
      case 4:
        return R"({"$or":[)" + Make(depth - 1) + "," + Make(depth - 1) + "]}";
      case 5:
        return R"({"$not":)" + Make(depth - 1) + "}";
      default:
        return "{\"" + std::string(1, static_cast<char>('f' + Pick(3))) + "\":" + Condition() + "}";
    }
  }

  Metadata Document() {
    Metadata metadata;
    for (const char* name : {"f", "g", "h"}) {
      switch (Pick(7)) {
        case 0:
          break;
        case 1:
          metadata[name] = static_cast<int64_t>(Pick(4)) - 2;
          break;
        case 2:
          metadata[name] = static_cast<double>(Pick(5)) / 2;
          break;
        case 3:
          metadata[name] = Pick(2) == 0;
          break;
        case 4:
          metadata[name] = std::string(Pick(2), static_cast<char>('a' + Pick(2)));
          break;
        default:
          metadata[name] = Strings(Pick(3), std::string(1, static_cast<char>('a' + Pick(2))));
      }
    }
    return metadata;
  }

 private:
  std::string Condition() {
    switch (Pick(4)) {
      case 0:
        return Scalar();
      case 1: {
        static const char* kOrders[] = {"$gt", "$gte", "$lt", "$lte"};
        std::string operand = Scalar();
        while (operand == "true" || operand == "false") operand = Scalar();
        return std::string("{\"") + kOrders[Pick(4)] + "\":" + operand + "}";
      }
      case 2:
        return std::string("{\"") + (Pick(2) ? "$eq" : "$ne") + "\":" + Scalar() + "}";
      default:
        return std::string("{\"") + (Pick(2) ? "$in" : "$nin") + "\":[" + Scalar() + "," +
               Scalar() + "," + Scalar() + "]}";
    }
  }

  std::mt19937_64 rng_;
};

TEST(FilterTest, IdentitiesHoldForRandomFilters) {
  constexpr uint64_t kSeed = 7;
  RandomFilter random(kSeed);
  int matched = 0;
  constexpr int kRounds = 4000;
  for (int round = 0; round < kRounds; ++round) {
    SCOPED_TRACE("seed " + std::to_string(kSeed) + ", round " + std::to_string(round));
    const std::string p = random.Make(3), q = random.Make(2);
    const Metadata m = random.Document();
    const bool is_p = Matches(p, m), is_q = Matches(q, m);
    matched += is_p;
    ASSERT_EQ(Matches(R"({"$and":[)" + p + "," + q + "]}", m), is_p && is_q) << p << " " << q;
    ASSERT_EQ(Matches(R"({"$or":[)" + p + "," + q + "]}", m), is_p || is_q) << p << " " << q;
    ASSERT_EQ(Matches(R"({"$not":)" + p + "}", m), !is_p) << p;
    const std::string a = random.Scalar(), b = random.Scalar();
    ASSERT_EQ(Matches(R"({"f":{"$in":[)" + a + "," + b + "]}}", m),
              Matches(R"({"$or":[{"f":)" + a + R"(},{"f":)" + b + "}]}", m))
        << a << " " << b;
    ASSERT_EQ(Matches(R"({"f":{"$ne":)" + a + "}}", m), !Matches(R"({"f":)" + a + "}", m)) << a;
    FuzzFilter(reinterpret_cast<const uint8_t*>(p.data()), p.size());
  }
  EXPECT_GT(matched, kRounds / 10);
  EXPECT_LT(matched, kRounds * 9 / 10);
}

TEST(FilterTest, DamagedTextNeverMisbehaves) {
  const std::vector<std::string> seeds = {
      R"({"a": {"$gt": 1, "$lt": 5.5e3}, "b": "x"})",
      R"({"$or": [{"t": {"$contains": "x"}}, {"$not": {"a": {"$in": [1, "1", true]}}}]})",
      R"({"b": {"$not": {"$exists": false}}, "t": ["x", "y"], "$and": [{}]})",
      "{\"\\u00e4\": {\"$nin\": [null, -9223372036854775808, 1e308]}}"};
  constexpr uint64_t kSeed = 11;
  std::mt19937_64 rng(kSeed);
  const std::string alphabet = "{}[]\",:$\\0123456789.eE-+ntfabx \xFF\xC3\x00\x1F";
  for (int round = 0; round < 20000; ++round) {
    SCOPED_TRACE("seed " + std::to_string(kSeed) + ", round " + std::to_string(round));
    std::string text = seeds[rng() % seeds.size()];
    for (size_t edits = 1 + rng() % 4; edits > 0 && !text.empty(); --edits) {
      const size_t at = rng() % text.size();
      switch (rng() % 4) {
        case 0:
          text.erase(at, 1 + rng() % 3);
          break;
        case 1:
          text.insert(at, 1, alphabet[rng() % alphabet.size()]);
          break;
        case 2:
          text[at] = alphabet[rng() % alphabet.size()];
          break;
        default:
          text.insert(at, text.substr(rng() % text.size(), rng() % 20));
      }
    }
    FuzzFilter(reinterpret_cast<const uint8_t*>(text.data()), text.size());
  }
}

}  // namespace
}  // namespace msadb
