#include "base/utf8.h"

#include <gtest/gtest.h>

#include <string>

namespace msadb::base {
namespace {

// Encodes any number below 2^21, also ones that are not characters.
std::string Encode(uint32_t c, int length) {
  std::string s;
  switch (length) {
    case 1: s = {static_cast<char>(c)}; break;
    case 2: s = {static_cast<char>(0xC0 | c >> 6), static_cast<char>(0x80 | (c & 63))}; break;
    case 3:
      s = {static_cast<char>(0xE0 | c >> 12), static_cast<char>(0x80 | (c >> 6 & 63)),
           static_cast<char>(0x80 | (c & 63))};
      break;
    default:
      s = {static_cast<char>(0xF0 | c >> 18), static_cast<char>(0x80 | (c >> 12 & 63)),
           static_cast<char>(0x80 | (c >> 6 & 63)), static_cast<char>(0x80 | (c & 63))};
  }
  return s;
}

TEST(Utf8, AcceptsExactlyTheShortestFormOfEveryScalarValue) {
  for (uint32_t c = 0; c < 0x140000; ++c) {
    const int shortest = c < 0x80 ? 1 : c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    const bool scalar = c <= 0x10FFFF && !(c >= 0xD800 && c <= 0xDFFF);
    for (int length = shortest; length <= 4; ++length) {
      const std::string text = "prefix, " + Encode(c, length) + "!";
      const bool valid = scalar && length == shortest;
      ASSERT_EQ(IsValidUtf8(text), valid) << "U+" << std::hex << c << " in " << length << " bytes";
      ASSERT_EQ(Utf8ValidPrefix(text), valid ? text.size() : 8u);
    }
  }
}

TEST(Utf8, RejectsEveryTruncationAndStrayContinuation) {
  for (const std::string& c : {Encode(0xE9, 2), Encode(0x20AC, 3), Encode(0x1F511, 4)}) {
    for (size_t cut = 1; cut < c.size(); ++cut) {
      EXPECT_EQ(Utf8ValidPrefix("0123456789" + c.substr(0, cut)), 10u);
      EXPECT_EQ(Utf8ValidPrefix("0123456789" + c.substr(0, cut) + "abcdefgh"), 10u);
      EXPECT_EQ(Utf8ValidPrefix(c.substr(cut)), 0u);
    }
  }
  EXPECT_EQ(Utf8ValidPrefix("\xFE"), 0u);
  EXPECT_EQ(Utf8ValidPrefix(""), 0u);
  EXPECT_TRUE(IsValidUtf8(""));
  EXPECT_TRUE(IsValidUtf8(std::string_view("a\0b", 3)));
}

TEST(Utf8, FindsControlCharacters) {
  for (const char* bad : {"a\nb", "\t", "\x7F", "caf\xC3\xA9\xC2\x85"}) {
    EXPECT_TRUE(HasControlCharacter(bad)) << bad;
  }
  for (const char* good : {"", "notes", "caf\xC3\xA9", "\xC2\xA0", "\xE2\x82\x82"}) {
    EXPECT_FALSE(HasControlCharacter(good)) << good;
  }
}

}  // namespace
}  // namespace msadb::base
