#include "db/splitter.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>
#include <string>

#include "base/utf8.h"

namespace msadb::db {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

size_t Characters(std::string_view text) {
  size_t n = 0;
  for (const char c : text) n += (static_cast<unsigned char>(c) & 0xC0) != 0x80;
  return n;
}

// A token a character: makes expected parts easy to see.
Result<size_t> CountCharacters(std::string_view text) { return Characters(text); }

// Like a BPE tokenizer: a word with the space before it is one token per 6 bytes, begun ones
// counted.
Result<size_t> CountWordPieces(std::string_view text) {
  size_t tokens = 0, word = 0;
  for (const char c : text) {
    if (c == ' ' || c == '\n') {
      tokens += (word + 5) / 6;
      word = 0;
    }
    ++word;
  }
  return tokens + (word + 5) / 6;
}

std::vector<std::string> Parts(std::string_view text, size_t tokens_max,
                               const TokenCounter& count = CountCharacters) {
  const auto parts = SplitText(text, tokens_max, count);
  EXPECT_TRUE(parts.ok()) << parts.status().ToString();
  std::vector<std::string> texts;
  size_t offset = 0;
  if (!parts.ok()) return texts;
  for (const TextPart& part : *parts) {
    EXPECT_EQ(part.offset, offset);
    EXPECT_GT(part.size, 0u);
    texts.emplace_back(text.substr(part.offset, part.size));
    EXPECT_LE(*count(texts.back()), tokens_max);
    offset += part.size;
  }
  EXPECT_EQ(offset, text.size());
  return texts;
}

TEST(SplitterTest, ShortAndEmptyTexts) {
  EXPECT_THAT(Parts("", 10), ElementsAre());
  EXPECT_THAT(Parts("Hello.", 6), ElementsAre("Hello."));
}

TEST(SplitterTest, EndsAtSentences) {
  EXPECT_THAT(Parts("One two. Three four! Five six? Seven.", 24),
              ElementsAre("One two. Three four! ", "Five six? Seven."));
  EXPECT_THAT(Parts("He said \"stop.\" Then (really!) he left. Gone.", 32),
              ElementsAre("He said \"stop.\" ", "Then (really!) he left. Gone."));
}

TEST(SplitterTest, DotsInsideSentencesDoNotEndThem) {
  EXPECT_THAT(Parts("It costs 3.14 euro at Dr. Smith on No. 5 St. Street. Cheap it is.", 58),
              ElementsAre("It costs 3.14 euro at Dr. Smith on No. 5 St. Street. ", "Cheap it is."));
  EXPECT_THAT(Parts("See J. S. Bach, e.g. the suites ... and more. Fine words.", 52),
              ElementsAre("See J. S. Bach, e.g. the suites ... and more. ", "Fine words."));
  EXPECT_THAT(Parts("Open the file a.txt now. Read db/filter.h and version 2.0 of it.", 45),
              ElementsAre("Open the file a.txt now. ", "Read db/filter.h and version 2.0 of it."));
}

TEST(SplitterTest, ParagraphsAreEndsToo) {
  EXPECT_THAT(Parts("A heading\n\nsome text without any stop and more", 44),
              ElementsAre("A heading\n\nsome text without any stop ", "and more"));
  EXPECT_THAT(Parts("A rather long heading\n \nsome text goes here", 40),
              ElementsAre("A rather long heading\n \n", "some text goes here"));
}

TEST(SplitterTest, LinesThenWordsThenCharacters) {
  EXPECT_THAT(Parts("first line here\nsecond line here\nthird", 35),
              ElementsAre("first line here\nsecond line here\n", "third"));
  EXPECT_THAT(Parts("alpha beta gamma delta", 14), ElementsAre("alpha beta ", "gamma delta"));
  EXPECT_THAT(Parts("abcdefghij", 4), ElementsAre("abcd", "efgh", "ij"));
  // An early sentence end is not worth a nearly empty part.
  EXPECT_THAT(Parts("Hi. alpha beta gamma delta epsilon", 24),
              ElementsAre("Hi. alpha beta gamma ", "delta epsilon"));
  // But better than cutting a word.
  EXPECT_THAT(Parts("Hi. abcdefghijklmnopqrst", 22), ElementsAre("Hi. ", "abcdefghijklmnopqrst"));
}

TEST(SplitterTest, ManyScripts) {
  EXPECT_THAT(Parts("今天很好。我们去公园！你去吗？好。", 12),
              ElementsAre("今天很好。我们去公园！", "你去吗？好。"));
  EXPECT_THAT(Parts("「行く。」と言った。終わり。", 11),
              ElementsAre("「行く。」と言った。", "終わり。"));
  EXPECT_THAT(Parts("यह पहला है। यह दूसरा है। अंत।", 26), ElementsAre("यह पहला है। यह दूसरा है। ", "अंत।"));
  EXPECT_THAT(Parts("هل هذا جيد؟ نعم هو كذلك", 14), ElementsAre("هل هذا جيد؟ ", "نعم هو كذلك"));
  EXPECT_THAT(Parts("እንዴት ነህ። ደህና ነኝ።", 12), ElementsAre("እንዴት ነህ። ", "ደህና ነኝ።"));
}

TEST(SplitterTest, NeverCutsACharacter) {
  EXPECT_THAT(Parts("\xF0\x9F\x98\x80\xF0\x9F\x98\x81\xF0\x9F\x98\x82", 2),
              ElementsAre("\xF0\x9F\x98\x80\xF0\x9F\x98\x81", "\xF0\x9F\x98\x82"));
  const auto bytes = [](std::string_view text) -> Result<size_t> { return text.size(); };
  EXPECT_THAT(Parts("\xC3\xA4\xC3\xB6\xC3\xBC", 3, bytes),
              ElementsAre("\xC3\xA4", "\xC3\xB6", "\xC3\xBC"));
}

TEST(SplitterTest, TheLastPartIsNotBlank) {
  EXPECT_THAT(Parts("abcdefgh  \n", 8), ElementsAre("abcdefg", "h  \n"));
  EXPECT_THAT(Parts("Done here now. \n\n\n", 15), ElementsAre("Done here ", "now. \n\n\n"));
}

TEST(SplitterTest, ALimitBelowOneCharacterIsAnError) {
  const auto bytes = [](std::string_view text) -> Result<size_t> { return text.size(); };
  const auto parts = SplitText("ab\xE2\x82\xAC", 2, bytes);
  EXPECT_EQ(parts.status().code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(parts.status().ToString(), HasSubstr("single character"));
  EXPECT_FALSE(SplitText("a", 0, CountCharacters).ok());
}

TEST(SplitterTest, CountingErrorsArePassedOn) {
  const auto fails = [](std::string_view) -> Result<size_t> {
    return Status::Corruption("broken");
  };
  EXPECT_EQ(SplitText("abc", 2, fails).status().code(), StatusCode::kCorruption);
}

TEST(SplitterTest, CountsLittleAndFillsWell) {
  std::mt19937_64 rng(3);
  std::string text;
  while (text.size() < 400'000) {
    for (size_t words = 3 + rng() % 25; words > 0; --words) {
      text += std::string(1 + rng() % 9, static_cast<char>('a' + rng() % 26)) + " ";
    }
    text.back() = '.';
    text += rng() % 8 ? " " : "\n\n";
  }
  size_t tokens_counted = 0;
  const TokenCounter count = [&](std::string_view piece) -> Result<size_t> {
    const size_t tokens = *CountWordPieces(piece);
    tokens_counted += tokens;
    return tokens;
  };
  constexpr size_t kMax = 500;
  const auto parts = SplitText(text, kMax, count);
  ASSERT_TRUE(parts.ok());
  const size_t tokens = *CountWordPieces(text);
  EXPECT_LE(tokens_counted, 4 * tokens);
  EXPECT_LE(parts->size(), 2 * tokens / kMax + 1);
}

TEST(SplitterTest, LongRunsStayNearLinear) {
  for (const std::string& text :
       {std::string(300'000, 'a'), std::string(300'000, ' '), std::string(300'000, '.'),
        std::string(300'000, '\n'), std::string(150'000, 'a') + std::string(150'000, ' ')}) {
    size_t bytes_counted = 0;
    const TokenCounter count = [&](std::string_view piece) -> Result<size_t> {
      bytes_counted += piece.size();
      return (piece.size() + 15) / 16;  // a run of equal characters is cheap in tokens
    };
    const auto parts = SplitText(text, 100, count);
    ASSERT_TRUE(parts.ok());
    EXPECT_LE(bytes_counted, 8 * text.size());
  }
}

// Random texts of awkward pieces and random limits, with tokenizers that are not even monotone.
TEST(SplitterTest, AlwaysAnExactPartition) {
  const std::vector<std::string> pieces = {"word",
                                           " ",
                                           " ",
                                           ". ",
                                           ".",
                                           "!\" ",
                                           "\n",
                                           "\n\n",
                                           "\r\n",
                                           "Dr. ",
                                           "3.14",
                                           "。",
                                           "漢字",
                                           "？」",
                                           "\xF0\x9F\x91\xA9\xE2\x80\x8D\xF0\x9F\x92\xBB",
                                           "e\xCC\x81",
                                           "\xE2\x80\xA9",
                                           "।",
                                           "...",
                                           "\t",
                                           "aVeryLongWordWithoutAnySpaceInIt",
                                           std::string(50, ' ')};
  const uint64_t first = 100;
  for (uint64_t seed = first; seed < first + 400; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    std::mt19937_64 rng(seed);
    std::string text;
    for (size_t n = rng() % 300; n > 0; --n) text += pieces[rng() % pieces.size()];
    const size_t tokens_max = 4 + rng() % 200;
    const TokenCounter erratic = [](std::string_view piece) -> Result<size_t> {
      return Characters(piece) + (piece.size() * 2654435761u >> 7) % 4;
    };
    switch (seed % 3) {
      case 0:
        Parts(text, tokens_max);
        break;
      case 1:
        Parts(text, tokens_max, CountWordPieces);
        break;
      default:
        Parts(text, tokens_max, erratic);
    }
    size_t offset = 0;
    const auto parts = SplitText(text, tokens_max, CountCharacters);
    ASSERT_TRUE(parts.ok());
    for (const TextPart& part : *parts) {
      EXPECT_TRUE(base::IsValidUtf8(std::string_view(text).substr(offset, part.size)));
      offset += part.size;
    }
    if (HasFailure()) break;
  }
}

TEST(SplitterTest, BytesThatAreNotUtf8DoNotHurt) {
  std::mt19937_64 rng(9);
  for (int round = 0; round < 200; ++round) {
    std::string text(rng() % 200, ' ');
    for (char& c : text) c = static_cast<char>(rng());
    const auto bytes = [](std::string_view piece) -> Result<size_t> { return piece.size(); };
    Parts(text, 4 + rng() % 50, bytes);
  }
}

}  // namespace
}  // namespace msadb::db
