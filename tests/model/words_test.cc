#include "model/words.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <random>
#include <set>

#include "tests/model/vector_bank.h"

namespace msadb::model {
namespace {

using Strings = std::vector<std::string>;

TEST(Words, AreLettersAndDigitsInLowerCase) {
  EXPECT_EQ(Words("Dr. Élodie's pet_1, ÜBER 3.5 x²!"),
            (Strings{"dr", "élodie", "s", "pet_1", "über", "3", "5", "x²"}));
  EXPECT_EQ(Words("“Quoted”—twice…"), (Strings{"quoted", "twice"}));
  EXPECT_EQ(Words("Анна и ΑΘΗΝΑ"), (Strings{"анна", "и", "αθηνα"}));
  EXPECT_EQ(Words(" .,; "), Strings());
  EXPECT_EQ(Words(""), Strings());
}

TEST(Words, IdeographsAreWordsByThemselves) {
  EXPECT_EQ(Words("abc東京x。ひら"), (Strings{"abc", "東", "京", "x", "ひ", "ら"}));
}

TEST(Words, BytesThatAreNoUtf8SeparateWords) {
  EXPECT_EQ(Words("one\xfftwo\xc3"), (Strings{"one", "two"}));
  EXPECT_EQ(Words(std::string_view("a\0b", 3)), (Strings{"a", "b"}));
}

// The values are those of the test of train/msa/words.py.
TEST(WordOverlaps, KnownValues) {
  const Strings texts = {"Mokie gets its shots from Chloe.", "When Lokie limps, Sam has a look.",
                         "Lokie is Oliver's parrot; LOKIE sings.", "It rained."};
  const std::vector<float> overlaps = WordOverlaps("Which vet has a look at Lokie?", texts);
  ASSERT_EQ(overlaps.size(), 4u);
  EXPECT_FLOAT_EQ(overlaps[0], 0.0f);
  EXPECT_FLOAT_EQ(overlaps[1], 1.0f);
  EXPECT_NEAR(overlaps[2], 0.3154221f, 1e-5);
  EXPECT_FLOAT_EQ(overlaps[3], 0.0f);
}

TEST(WordOverlaps, NothingInCommon) {
  EXPECT_EQ(WordOverlaps("Who?", Strings{"One.", ""}), (std::vector<float>{0.0f, 0.0f}));
  EXPECT_EQ(WordOverlaps("", Strings{"One."}), std::vector<float>{0.0f});
  EXPECT_TRUE(WordOverlaps("Who?", {}).empty());
}

TEST(WordOverlaps, EqualsTheFormulaOnRandomTexts) {
  std::mt19937 random(7);
  const auto text = [&](size_t length) {
    std::string words;
    for (size_t i = 0; i < length; ++i) words += "w" + std::to_string(random() % 30) + " ";
    return words;
  };
  for (int turn = 0; turn < 50; ++turn) {
    const std::string asked = text(1 + random() % 12);
    Strings texts;
    for (size_t i = 0, n = 1 + random() % 20; i < n; ++i) texts.push_back(text(random() % 15));
    const auto set = [](const std::string& t) {
      const Strings words = Words(t);
      return std::set<std::string>(words.begin(), words.end());
    };
    std::map<std::string, double> weights;
    double total = 0;
    for (const std::string& word : set(asked)) {
      size_t n = 0;
      for (const std::string& t : texts) n += set(t).contains(word);
      if (n > 0) weights[word] = std::pow(std::log((texts.size() + 1.0) / (n + 0.5)), 2);
      total += n > 0 ? weights[word] : 0;
    }
    const std::vector<float> overlaps = WordOverlaps(asked, texts);
    ASSERT_EQ(overlaps.size(), texts.size());
    for (size_t i = 0; i < texts.size(); ++i) {
      double sum = 0;
      for (const auto& [word, weight] : weights) {
        if (set(texts[i]).contains(word)) sum += weight;
      }
      EXPECT_NEAR(overlaps[i], total > 0 ? std::sqrt(sum / total) : 0, 1e-6);
    }
  }
}

TEST(RankByWords, AddsToScoresAndSorts) {
  VectorBank bank(1);
  bank.Add(1, {}, "Nothing.");
  bank.Add(2, {}, "A parrot called Lokie.");
  bank.Add(3, {}, "Nothing.");
  std::vector<RoutedDocument> ranked = {{3, 0.5f}, {1, 0.5f}, {9, 0.4f}, {2, 0.3f}};  // no 9
  ASSERT_TRUE(RankByWords("Lokie?", 0.25f, bank, &ranked).ok());
  ASSERT_EQ(ranked.size(), 4u);
  EXPECT_EQ(ranked[0].number, 2u);
  EXPECT_FLOAT_EQ(ranked[0].score, 0.55f);
  EXPECT_EQ(ranked[1].number, 1u);
  EXPECT_EQ(ranked[2].number, 3u);
  EXPECT_EQ(ranked[3].number, 9u);
  EXPECT_FLOAT_EQ(ranked[3].score, 0.4f);
}

TEST(RankByWords, ReadsTheBest256AtMost) {
  VectorBank bank(1);
  std::vector<RoutedDocument> ranked;
  for (DocumentNumber number = 1; number <= 300; ++number) {
    bank.Add(number, {}, number == 256 || number == 257 ? "Lokie." : "Nothing.");
    ranked.push_back({number, 1.0f - static_cast<float>(number) / 1000});
  }
  ASSERT_TRUE(RankByWords("Lokie?", 1, bank, &ranked).ok());
  EXPECT_EQ(ranked[0].number, 256u);
  EXPECT_EQ(ranked[257].number, 258u);  // 257 stays where it was
  EXPECT_EQ(ranked[256].number, 257u);
}

TEST(RankByWords, NoShareChangesNothing) {
  VectorBank bank(1);
  bank.Add(2, {}, "Lokie.");
  std::vector<RoutedDocument> ranked = {{1, 0.4f}, {2, 0.3f}};
  ASSERT_TRUE(RankByWords("Lokie?", 0, bank, &ranked).ok());
  EXPECT_EQ(ranked[0].number, 1u);
  EXPECT_FLOAT_EQ(ranked[1].score, 0.3f);
}

}  // namespace
}  // namespace msadb::model
