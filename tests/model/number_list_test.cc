// The grammar of document number lists, over the shipped tokenizer (digits one by one, "][" one
// token) and against a brute-force reading of every list that the grammar allows.
#include "model/number_list.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>

#include "model/tokenizer.h"

namespace msadb::model {
namespace {

class NumberListTest : public testing::Test {
 protected:
  void SetUp() override {
    auto loaded = Tokenizer::Load(std::string(MSADB_SOURCE_DIR) + "/models/default");
    ASSERT_TRUE(loaded.ok()) << loaded.status().ToString();
    tokenizer_ = std::move(*loaded);
    end_ = *tokenizer_->TokenId("<file_sep>");
    none_ = *tokenizer_->TokenId("<empty_output>");
  }

  std::vector<int32_t> Encode(std::string_view text) const {
    return *tokenizer_->Encode(text, {.parse_special_tokens = true});
  }

  // The texts of what may follow `list`.
  std::vector<std::string> Next(std::string_view list, const std::vector<DocumentNumber>& numbers) {
    const NumberListGrammar grammar(tokenizer_.get(), {end_}, {none_});
    std::vector<std::string> texts;
    for (int32_t id : grammar.Next(Encode(list), AsChoices(numbers))) {
      texts.emplace_back(tokenizer_->TokenBytes(id));
    }
    return texts;
  }

  std::unique_ptr<Tokenizer> tokenizer_;
  int32_t end_ = 0, none_ = 0;
};

using testing::IsEmpty;
using testing::UnorderedElementsAre;

TEST_F(NumberListTest, StartsWithANumberOrEndsRetrieval) {
  EXPECT_THAT(Next("", {14, 140}), UnorderedElementsAre("[", "<empty_output>"));
  EXPECT_THAT(Next("", {}), UnorderedElementsAre("<empty_output>"));
}

TEST_F(NumberListTest, DigitsLeadToChoicesOnly) {
  EXPECT_THAT(Next("[", {14, 140, 25}), UnorderedElementsAre("1", "2"));
  EXPECT_THAT(Next("[1", {14, 140, 25}), UnorderedElementsAre("4"));
  EXPECT_THAT(Next("[14", {14, 140, 25}), UnorderedElementsAre("0", "]", "]["));
  EXPECT_THAT(Next("[140", {14, 140, 25}), UnorderedElementsAre("]", "]["));
  EXPECT_THAT(Next("[2", {140}), IsEmpty());
}

TEST_F(NumberListTest, EachNumberOnceThenTheEnd) {
  EXPECT_THAT(Next("[14]", {14, 25}), UnorderedElementsAre("[", "<file_sep>"));
  EXPECT_THAT(Next("[14][", {14, 25}), UnorderedElementsAre("2"));
  EXPECT_THAT(Next("[14][2", {14, 25}), UnorderedElementsAre("5"));
  EXPECT_THAT(Next("[14][25]", {14, 25}), UnorderedElementsAre("<file_sep>"));
  EXPECT_THAT(Next("[14]<file_sep>", {14, 25}), IsEmpty());
  EXPECT_THAT(Next("<empty_output>", {14, 25}), IsEmpty());
}

TEST_F(NumberListTest, WhatIsNoListHasNoContinuation) {
  for (const char* list : {"x", "[99]", "14", "[14][14]", "[]", "[014]", "<file_sep>"}) {
    EXPECT_THAT(Next(list, {14, 25}), IsEmpty()) << list;
  }
}

TEST_F(NumberListTest, EndingsOfSeveralTokens) {
  const std::vector<int32_t> end = Encode("end of list"), none = Encode("no more");
  ASSERT_GT(end.size(), 1u);
  ASSERT_GT(none.size(), 1u);
  const NumberListGrammar grammar(tokenizer_.get(), end, none);
  const auto choices = AsChoices(std::vector<DocumentNumber>{7});
  std::vector<int32_t> list = Encode("[7]");
  for (int32_t token : end) {
    EXPECT_THAT(grammar.Next(list, choices), testing::Contains(token));
    list.push_back(token);
  }
  EXPECT_THAT(grammar.Next(list, choices), IsEmpty());
  list.clear();
  for (int32_t token : none) {
    EXPECT_THAT(grammar.Next(list, choices), testing::Contains(token));
    list.push_back(token);
  }
  EXPECT_THAT(grammar.Next(list, choices), IsEmpty());
}

// Every list that can be reached is one of "", "[a]", "[a][b]", ... without repetition, and every
// such list can be reached.
TEST_F(NumberListTest, ReachesExactlyTheLists) {
  const std::vector<DocumentNumber> numbers = {1, 10, 101};
  const NumberListGrammar grammar(tokenizer_.get(), {end_}, {none_});
  std::set<std::string> reached;
  std::vector<int32_t> list;
  const std::function<void()> walk = [&] {
    for (int32_t token : grammar.Next(list, AsChoices(numbers))) {
      list.push_back(token);
      if (token == end_ || token == none_) {
        reached.insert(tokenizer_->Decode({list.data(), list.size() - 1}));
      } else {
        walk();
      }
      list.pop_back();
    }
  };
  walk();
  std::set<std::string> expected = {""};
  for (DocumentNumber a : numbers) {
    const std::string one = "[" + std::to_string(a) + "]";
    expected.insert(one);
    for (DocumentNumber b : numbers) {
      if (b == a) continue;
      const std::string two = one + "[" + std::to_string(b) + "]";
      expected.insert(two);
      for (DocumentNumber c : numbers) {
        if (c != a && c != b) expected.insert(two + "[" + std::to_string(c) + "]");
      }
    }
  }
  EXPECT_EQ(reached, expected);
}

}  // namespace
}  // namespace msadb::model
