#include "cli/values.h"

#include <gtest/gtest.h>

#include "cli/exit_codes.h"
#include "msadb/transfer.h"

namespace msadb::cli {
namespace {

using std::chrono::milliseconds;

TEST(ParseDurationTest, ReadsNumbersWithUnits) {
  const std::pair<const char*, int64_t> cases[] = {
      {"250ms", 250},         {"90s", 90'000},       {"90", 90'000},
      {"1.5s", 1'500},        {"15m", 900'000},      {"12h", 43'200'000},
      {"30d", 2'592'000'000}, {"2w", 1'209'600'000}, {"0s", 0},
  };
  for (const auto& [text, millis] : cases) {
    const auto duration = ParseDuration(text);
    ASSERT_TRUE(duration.ok()) << text;
    EXPECT_EQ(*duration, milliseconds(millis)) << text;
  }
}

TEST(ParseDurationTest, RefusesTheRest) {
  for (const char* text :
       {"", "s", "-1s", "5 s", "5y", "nan", "inf", "1e400d", "200000000d", "10sx"}) {
    const auto duration = ParseDuration(text);
    ASSERT_FALSE(duration.ok()) << text;
    EXPECT_EQ(duration.status().code(), StatusCode::kInvalidArgument) << text;
  }
}

TEST(ParseExpiryTest, ReadsDurationsDatesAndTimes) {
  const TimePoint now{std::chrono::seconds(1'000'000)};
  const auto after = ParseExpiry("2d", now);
  ASSERT_TRUE(after.ok());
  EXPECT_EQ(*after - now, std::chrono::hours(48));
  const auto day = ParseExpiry("2026-12-31", now);
  ASSERT_TRUE(day.ok()) << day.status().ToString();
  EXPECT_EQ(FormatTime(*day), "2026-12-31T00:00:00.000000Z");
  const auto time = ParseExpiry("2026-12-31T23:59:59Z", now);
  ASSERT_TRUE(time.ok()) << time.status().ToString();
  EXPECT_EQ(FormatTime(*time), "2026-12-31T23:59:59.000000Z");
  for (const char* bad : {"", "tomorrow", "2026-13-01", "2026-02-30", "2026-12-31T25:00:00Z"}) {
    EXPECT_EQ(ParseExpiry(bad, now).status().code(), StatusCode::kInvalidArgument) << bad;
  }
}

TEST(ToJsonTest, KeepsMetadataTypes) {
  const Metadata metadata = {{"a", std::string("text")},
                             {"b", int64_t{7}},
                             {"c", 1.5},
                             {"d", true},
                             {"e", std::vector<std::string>{"x", "y"}}};
  EXPECT_EQ(ToJson(metadata).dump(), R"({"a":"text","b":7,"c":1.5,"d":true,"e":["x","y"]})");
}

TEST(ToJsonTest, ADocumentHasItsPartsAndNulls) {
  Document document;
  document.id = 3;
  document.text = "text";
  document.parts.push_back({.number = 3, .text_size = 4, .token_count = 9, .chunk_count = 1});
  const Json with_text = ToJson(document, true);
  EXPECT_EQ(with_text["text"], "text");
  EXPECT_TRUE(with_text["key"].is_null());
  EXPECT_TRUE(with_text["expires_at"].is_null());
  EXPECT_EQ(with_text["parts"][0]["tokens"], 9);
  EXPECT_FALSE(ToJson(document, false).contains("text"));
}

TEST(PreviewTest, IsOnePrintableLine) {
  EXPECT_EQ(Preview("  \n first line \n\nsecond\n", 80), "first line second");
  EXPECT_EQ(Preview("tab\there \x1b[31m", 80), "tab here [31m");
  EXPECT_EQ(Preview("abcdef", 3), "abc...");
  EXPECT_EQ(Preview("abc  ", 3), "abc");
  EXPECT_EQ(Preview("abc d", 4), "abc ...");
  EXPECT_EQ(Preview("aéé", 2), "a...") << "never cuts inside a character";
  EXPECT_EQ(Preview(" \n ", 5), "");
}

TEST(HumanBytesTest, PicksTheUnit) {
  EXPECT_EQ(HumanBytes(0), "0 B");
  EXPECT_EQ(HumanBytes(1023), "1023 B");
  EXPECT_EQ(HumanBytes(1536), "1.5 KiB");
  EXPECT_EQ(HumanBytes(uint64_t{5} << 40), "5.0 TiB");
}

TEST(ExitCodeTest, EveryErrorHasOneThatIsNotZero) {
  EXPECT_EQ(ExitCodeOf(StatusCode::kOk), 0);
  for (int code = 1; code <= static_cast<int>(StatusCode::kPermissionDenied); ++code) {
    EXPECT_NE(ExitCodeOf(static_cast<StatusCode>(code)), 0) << code;
  }
  EXPECT_EQ(ExitCodeOf(StatusCode::kNotFound), 1);
  EXPECT_EQ(ExitCodeOf(StatusCode::kInvalidArgument), 2);
  EXPECT_EQ(ExitCodeOf(StatusCode::kCancelled), 130);
}

}  // namespace
}  // namespace msadb::cli
