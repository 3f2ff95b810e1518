// The parts of a request that are parsed from untrusted bytes: address, query, JSON.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "server/request_json.h"
#include "server/routes.h"

namespace msadb::server {
namespace {

TEST(RoutesTest, EveryRouteIsFoundByItsOwnAddress) {
  for (const Route& route : Routes()) {
    std::string path(route.path);
    for (const auto& [variable, value] :
         {std::pair{"{collection}", "a%20b"}, {"{id}", "7"}, {"{key}", "x%2Fy"}}) {
      const size_t at = path.find(variable);
      if (at != std::string::npos) path.replace(at, std::string_view(variable).size(), value);
    }
    auto match = MatchRoute(route.method, path);
    ASSERT_TRUE(match.ok()) << path << ": " << match.status().ToString();
    EXPECT_EQ(match->route, &route) << path;
    if (path.find("a%20b") != std::string::npos) {
      EXPECT_EQ(match->path.at("collection"), "a b");
    }
    if (path.find("x%2Fy") != std::string::npos) {
      EXPECT_EQ(match->path.at("key"), "x/y");
    }
    // What reads changes nothing, and what changes something needs more than the right to read.
    const bool asks = route.name == "search" || route.name == "ask" ||
                      route.name == "completeChat" || route.name == "mcp";
    if (route.method != "GET" && !asks) {
      EXPECT_GT(route.right, Right::kRead) << route.name;
    }
    if (route.method == "GET") {
      EXPECT_EQ(route.right, Right::kRead) << route.name;
    }
    // A body is bounded, and never without a token.
    if (route.body_bytes_max > 0) {
      EXPECT_NE(route.scope, Scope::kPublic) << route.name;
    }
  }
}

TEST(RoutesTest, QueriesAreDecodedAndBounded) {
  auto values = ParseQuery("where=%7B%22a%22%3A1%7D&after=3&text=a+b", "after limit text where");
  ASSERT_TRUE(values.ok());
  EXPECT_EQ(values->at("where"), "{\"a\":1}");
  EXPECT_EQ(values->at("text"), "a b");
  for (const char* bad : {"a=1", "limit=1&limit=2", "limit=%", "limit=%4", "limit=%zz", "limit=%ff",
                          "&", "=", "limit=1&"}) {
    EXPECT_EQ(ParseQuery(bad, "limit").status().code(), StatusCode::kInvalidArgument) << bad;
  }
}

TEST(RequestJsonTest, NumbersHaveBounds) {
  const auto read = [](const char* text) {
    const auto json = ParseRequestJson(text);
    EXPECT_TRUE(json.ok());
    uint64_t number = 5;
    float share = 0.5f;
    return FieldReader(*json).Number("n", &number, 1, 9).Number("s", &share, 0.0f, 1.0f).Done();
  };
  for (const char* good : {"{}", R"({"n":1,"s":1})", R"({"n":9})", R"({"n":null,"s":null})"}) {
    EXPECT_TRUE(read(good).ok()) << good;
  }
  for (const char* bad : {R"({"n":0})", R"({"n":10})", R"({"n":-1})", R"({"n":1.0})", R"({"n":"1"})",
                          R"({"n":18446744073709551616})", R"({"s":1.01})", R"({"s":-0.01})",
                          R"({"s":true})", R"({"x":1})"}) {
    EXPECT_EQ(read(bad).code(), StatusCode::kInvalidArgument) << bad;
  }
}

// Whatever comes in, parsing ends with a value or InvalidArgument; sanitizers see the rest.
TEST(RequestJsonTest, MutatedRequestsNeverGetThrough) {
  const uint32_t seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937 random(seed);
  const std::string seeds[] = {
      R"({"query":"heron","top_k":3,"where":{"$and":[{"a":{"$gt":1}},{"b":[1,"x",true,null]}]}})",
      R"({"changes":[{"op":"insert","document":{"text":"x","metadata":{"a":1e3}}}]})",
      R"({"model":"c","messages":[{"role":"user","content":[{"type":"text","text":"\u00e4"}]}]})"};
  const std::string address = "/v1/collections/a%20b/documents/17";
  const auto mutate = [&](std::string text) {
    for (unsigned i = 0, n = 1 + random() % 4; i < n && !text.empty(); ++i) {
      const size_t at = random() % text.size();
      switch (random() % 3) {
        case 0:
          text[at] = static_cast<char>(random());
          break;
        case 1:
          text.erase(at, 1 + random() % 8);
          break;
        default:
          text.insert(at, text.substr(random() % text.size(), random() % 16));
      }
    }
    return text;
  };
  for (int i = 0; i < 20'000; ++i) {
    const auto json = ParseRequestJson(mutate(seeds[random() % std::size(seeds)]));
    if (json.ok()) {
      std::optional<Filter> where;
      std::string text;
      (void)FieldReader(*json).Where("where", &where).Required("query", &text).Done();
    } else {
      ASSERT_EQ(json.status().code(), StatusCode::kInvalidArgument);
    }
    const std::string path = mutate(address);
    (void)MatchRoute("GET", path);
    (void)ParseQuery(path, "a b");
  }
}

TEST(OpenApiTest, HasEveryRoute) {
  const auto description = nlohmann::json::parse(OpenApiJson());
  size_t operations = 0;
  for (const auto& [path, methods] : description["paths"].items()) operations += methods.size();
  EXPECT_EQ(operations, Routes().size());
  for (const Route& route : Routes()) {
    for (const auto schema : {route.request_schema, route.reply_schema}) {
      if (schema.empty()) continue;
      EXPECT_TRUE(description["components"]["schemas"].contains(std::string(schema))) << schema;
    }
  }
}

}  // namespace
}  // namespace msadb::server
