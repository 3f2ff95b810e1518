#include "model/answer_text.h"

#include <gtest/gtest.h>

#include <vector>

namespace msadb::model {
namespace {

// Pushes `pieces`; returns the text, having checked that the streamed pieces concatenate to it.
std::string Stream(std::string_view prefix, const std::vector<std::string>& pieces) {
  std::string streamed;
  AnswerText answer(prefix, [&](std::string_view piece) {
    EXPECT_FALSE(piece.empty());
    streamed += piece;
    return true;
  });
  for (const std::string& piece : pieces) EXPECT_TRUE(answer.Push(piece).ok());
  EXPECT_TRUE(answer.Finish().ok());
  EXPECT_EQ(streamed, answer.text());
  return answer.text();
}

constexpr char kPrefix[] = "The answer is: ";

TEST(AnswerText, CutsThePrefixHoweverItArrives) {
  EXPECT_EQ(Stream(kPrefix, {"The answer is: blue."}), "blue.");
  EXPECT_EQ(Stream(kPrefix, {"\n The", " answer", " is", ":", " blue", "."}), "blue.");
  EXPECT_EQ(Stream(kPrefix, {"The answer is:blue."}), "blue.");
  EXPECT_EQ(Stream(kPrefix, {"The answer is:"}), "");
}

TEST(AnswerText, KeepsWhatOnlyBeginsLikeThePrefix) {
  EXPECT_EQ(Stream(kPrefix, {"The", " ans", "werers left."}), "The answerers left.");
  EXPECT_EQ(Stream(kPrefix, {"The answer"}), "The answer");
  EXPECT_EQ(Stream(kPrefix, {"Blue. The answer is: blue."}), "Blue. The answer is: blue.");
}

TEST(AnswerText, TrimsBothEndsAndNothingBetween) {
  EXPECT_EQ(Stream("", {"  \n", "a ", " b", "\n\n", " c \n", " "}), "a  b\n\n c");
  EXPECT_EQ(Stream("", {}), "");
  EXPECT_EQ(Stream("", {" ", "\n"}), "");
  EXPECT_EQ(Stream(kPrefix, {" ", "\n"}), "");
}

TEST(AnswerText, RefusalCancels) {
  int seen = 0;
  AnswerText answer("", [&](std::string_view) { return ++seen < 2; });
  EXPECT_TRUE(answer.Push("a").ok());
  EXPECT_EQ(answer.Push("b").code(), StatusCode::kCancelled);
}

}  // namespace
}  // namespace msadb::model
