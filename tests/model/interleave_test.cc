// Memory Interleave over models whose output is known (markov_model.h): which numbers are asked
// for, what is appended, what routes, how retrieval ends, and what comes out.
#include "model/interleave.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <set>
#include <thread>

#include "tests/model/markov_model.h"
#include "tests/model/vector_bank.h"

namespace msadb::model {
namespace {

using Numbers = std::vector<DocumentNumber>;

// Round 1 asks for [4], the unknown [99] and [7]; round 2 ends retrieval; the answer cites [7] and
// [3].
const std::vector<std::pair<std::string, std::string>> kTwoRounds = {
    {"<|im_start|>", "[4]"},
    {"[4]", "[99]"},
    {"[99]", "[7]"},
    {"[7]", "<|object_ref_end|>"},
    {"<|object_ref_end|>", "<End-of-Retrieve>"},
    {"<answer>", "The answer to the question is: "},
    {"The answer to the question is: ", "blue "},
    {"blue ", "as [7] and "},
    {"as [7] and ", "[3] say.\n"},
    {"[3] say.\n", "<|im_end|>"},
};

class InterleaveTest : public testing::Test {
 protected:
  void TearDown() override {
    if (!folder_.empty()) std::filesystem::remove_all(folder_);
  }

  // Loads a model that generates `follows` and fills the bank with documents 3, 4, 7 and 8.
  void Load(std::vector<std::pair<std::string, std::string>> follows,
            nlohmann::json templates = nlohmann::json::object(),
            nlohmann::json config = nlohmann::json::object()) {
    MarkovModel markov;
    markov.follows = std::move(follows);
    markov.templates = {{"restart", "<|im_start|>{question}<answer>"}};
    markov.templates.update(templates);
    markov.config = std::move(config);
    folder_ = std::filesystem::temp_directory_path() /
              ("msadb_interleave_" + std::to_string(std::random_device{}()));
    markov.Write(folder_);
    auto model = Model::Load(folder_, {.threads = 1});
    ASSERT_TRUE(model.ok()) << model.status().ToString();
    model_ = std::move(*model);
    bank_.emplace(model_->kv_dim());
    for (DocumentNumber number : {3, 4, 7, 8}) {
      const std::string text = "Text of document " + std::to_string(number) + ", which is short.";
      const DocumentInput input{number, text};
      auto memory = model_->EncodeDocuments({&input, 1});
      ASSERT_TRUE(memory.ok()) << memory.status().ToString();
      bank_->Add(number, std::move((*memory)[0]), text);
    }
  }

  AnswerResult Answer(const AnswerOptions& options = {}) {
    bank_->ClearCalls();
    auto result = model_->Answer("Which colour?", *bank_, options);
    EXPECT_TRUE(result.ok()) << result.status().ToString();
    return result.ok() ? *result : AnswerResult();
  }

  size_t Tokens(std::string_view text) const { return *model_->CountTokens(text); }

  std::filesystem::path folder_;
  std::unique_ptr<Model> model_;
  std::optional<VectorBank> bank_;
};

Numbers Cited(const AnswerResult& result) {
  Numbers numbers;
  for (const CitedDocument& cited : result.citations) numbers.push_back(cited.number);
  return numbers;
}

TEST_F(InterleaveTest, GeneratesNumbersReadsTextsAnswers) {
  Load(kTwoRounds);
  std::string streamed;
  const AnswerResult result = Answer({.on_text = [&](std::string_view piece) {
    streamed += piece;
    return true;
  }});
  EXPECT_EQ(result.text, "blue as [7] and [3] say.");
  EXPECT_EQ(streamed, result.text);
  EXPECT_EQ(result.finish_reason, FinishReason::kStop);

  ASSERT_EQ(result.rounds.size(), 2u);
  EXPECT_EQ(result.rounds[0].generated, (Numbers{4, 99, 7}));
  EXPECT_EQ(result.rounds[0].appended, (Numbers{4, 7}));  // 99 does not exist
  EXPECT_EQ(result.rounds[0].generated_tokens, 4u);
  EXPECT_EQ(result.rounds[1].generated, Numbers());
  EXPECT_EQ(result.rounds[1].generated_tokens, 1u + 4u);  // end of retrieval, then the answer
  EXPECT_EQ(result.generated_tokens, 9u);
  EXPECT_EQ(result.prompt_tokens, result.rounds[0].prompt_tokens + result.rounds[1].prompt_tokens);
  for (const RoundTrace& round : result.rounds) {
    ASSERT_EQ(round.layers.size(), 2u);
    EXPECT_EQ(round.layers[0].layer, 1);
    EXPECT_EQ(round.layers[1].layer, 2);
    for (const LayerTrace& layer : round.layers) EXPECT_EQ(layer.documents.size(), 2u);
  }

  EXPECT_EQ(Cited(result), (Numbers{4, 7, 3}));  // what was read, then what the answer adds
  EXPECT_TRUE(result.citations[0].fetched && !result.citations[0].in_answer);
  EXPECT_TRUE(result.citations[1].fetched && result.citations[1].in_answer);
  EXPECT_TRUE(!result.citations[2].fetched && result.citations[2].in_answer);
}

// Role 0 covers the question, and in the second round the appended texts as well (spec section 4).
TEST_F(InterleaveTest, TheNewestTextsRoute) {
  Load(kTwoRounds);
  const AnswerResult result = Answer();
  ASSERT_EQ(bank_->routes().size(), 4u);  // two routing layers in each of two rounds
  const size_t question = bank_->routes()[0].n_tokens;
  const size_t texts = Tokens(
      "[4]. Text of document 4, which is short.\n[7]. Text of document 7, "
      "which is short.\n");
  EXPECT_EQ(bank_->routes()[1].n_tokens, question);
  EXPECT_EQ(bank_->routes()[2].n_tokens, question + texts);
  EXPECT_EQ(bank_->routes()[3].n_tokens, question + texts);
  for (const VectorBank::Call& call : bank_->routes()) EXPECT_EQ(call.top_k, 2u);
  // The second prompt is the first one, the four generated tokens, the texts and their end.
  const size_t first = result.rounds[0].prompt_tokens;
  const size_t restart = Tokens("Which colour?") + 2;
  EXPECT_EQ(result.rounds[1].prompt_tokens, first + 4 + texts + 1 + restart);
}

TEST_F(InterleaveTest, AskingAgainForTheSameEndsRetrieval) {
  auto follows = kTwoRounds;
  follows[4] = {"<|object_ref_end|>", "[4]"};
  Load(follows);
  const AnswerResult result = Answer({.rounds_max = 10});
  ASSERT_EQ(result.rounds.size(), 2u);
  EXPECT_EQ(result.rounds[1].generated, (Numbers{4, 99, 7}));
  EXPECT_EQ(result.rounds[1].appended, Numbers());
  EXPECT_EQ(result.text, "blue as [7] and [3] say.");
}

TEST_F(InterleaveTest, UnknownNumbersAloneEndRetrieval) {
  auto follows = kTwoRounds;
  follows[0] = {"<|im_start|>", "[99]"};
  follows[2] = {"[99]", "<|object_ref_end|>"};
  Load(follows);
  const AnswerResult result = Answer();
  ASSERT_EQ(result.rounds.size(), 1u);
  EXPECT_EQ(result.rounds[0].generated, (Numbers{99}));
  EXPECT_EQ(Cited(result), (Numbers{7, 3}));
  EXPECT_EQ(result.text, "blue as [7] and [3] say.");
}

TEST_F(InterleaveTest, AListWithoutEndIsCut) {
  auto follows = kTwoRounds;
  follows[3] = {"[7]", "[4]"};  // 4, 99, 7, 4, 99, 7, ...
  Load(follows);
  const AnswerResult result = Answer({.retrieval_tokens_max = 20});
  ASSERT_EQ(result.rounds.size(), 1u);
  EXPECT_EQ(result.rounds[0].generated.size(), 20u);
  EXPECT_EQ(result.rounds[0].appended, Numbers());
  EXPECT_EQ(result.text, "blue as [7] and [3] say.");
}

TEST_F(InterleaveTest, AStopTokenEndsRetrieval) {
  auto follows = kTwoRounds;
  follows[0] = {"<|im_start|>", "<|im_end|>"};
  Load(follows);
  const AnswerResult result = Answer();
  ASSERT_EQ(result.rounds.size(), 1u);
  EXPECT_EQ(result.text, "blue as [7] and [3] say.");
}

TEST_F(InterleaveTest, RoundsAreBounded) {
  Load(kTwoRounds);
  const AnswerResult result = Answer({.rounds_max = 1});
  ASSERT_EQ(result.rounds.size(), 1u);
  EXPECT_EQ(result.rounds[0].generated, Numbers());
  EXPECT_EQ(result.text, "blue as [7] and [3] say.");
}

TEST_F(InterleaveTest, TextsAreBoundedInNumberAndTokens) {
  Load(kTwoRounds);
  EXPECT_EQ(Answer({.documents_per_round_max = 1}).rounds[0].appended, (Numbers{4}));
  const size_t one = Tokens("[4]. Text of document 4, which is short.\n");
  const auto just = static_cast<int>(one);
  EXPECT_EQ(Answer({.retrieved_text_tokens_max = 2 * just}).rounds[0].appended, (Numbers{4, 7}));
  EXPECT_EQ(Answer({.retrieved_text_tokens_max = 2 * just - 1}).rounds[0].appended, (Numbers{4}));
  const AnswerResult none = Answer({.retrieved_text_tokens_max = just - 1});
  EXPECT_EQ(none.rounds.size(), 1u);
  EXPECT_EQ(none.text, "blue as [7] and [3] say.");
}

TEST_F(InterleaveTest, AnswersAreBounded) {
  Load(kTwoRounds);
  const AnswerResult result = Answer({.answer_tokens_max = 2});
  EXPECT_EQ(result.text, "blue");
  EXPECT_EQ(result.finish_reason, FinishReason::kLength);
}

TEST_F(InterleaveTest, RoutedDocumentsAreReadWhenTheModelAsksForNone) {
  auto follows = kTwoRounds;
  follows[0] = {"<|im_start|>", "<End-of-Retrieve>"};
  Load(follows, {{"route_when_none", 1}});
  const AnswerResult result = Answer();
  ASSERT_EQ(result.rounds.size(), 2u);
  ASSERT_EQ(result.rounds[0].appended.size(), 1u);
  EXPECT_EQ(result.rounds[0].appended[0], FuseLayers(result.rounds[0].layers)[0].number);
  EXPECT_EQ(result.text, "blue as [7] and [3] say.");
}

TEST_F(InterleaveTest, RoutedDocumentsAreReadBesidesThoseAskedFor) {
  Load(kTwoRounds, {{"route_besides", 1}});
  const AnswerResult result = Answer();
  ASSERT_EQ(result.rounds.size(), 2u);
  EXPECT_EQ(result.rounds[0].generated, (Numbers{4, 99, 7}));
  Numbers expected = {4, 7};
  for (const RoutedDocument& document : FuseLayers(result.rounds[0].layers)) {
    if (document.number != 4 && document.number != 7) {
      expected.push_back(document.number);
      break;
    }
  }
  ASSERT_EQ(expected.size(), 3u) << "routing chose nothing but what the model asked for";
  EXPECT_EQ(result.rounds[0].appended, expected);
  EXPECT_EQ(result.text, "blue as [7] and [3] say.");
}

// What is read besides does not route: it comes when retrieval has ended.
TEST_F(InterleaveTest, WhatIsReadBesidesMayComeLast) {
  Load(kTwoRounds, {{"route_besides", 1}});
  const Numbers at_once = Answer().rounds[0].appended;
  ASSERT_EQ(at_once.size(), 3u);
  TearDown();
  const size_t documents = bank_->document_count();
  Load(kTwoRounds, {{"route_besides", 1}, {"route_besides_last", documents + 1}});
  EXPECT_EQ(Answer().rounds[0].appended, at_once) << "the memory is too small for it";
  TearDown();
  Load(kTwoRounds, {{"route_besides", 1}, {"route_besides_last", documents}});
  const AnswerResult result = Answer();
  ASSERT_EQ(result.rounds.size(), 3u);
  EXPECT_EQ(result.rounds[0].appended, (Numbers{4, 7}));
  EXPECT_EQ(result.rounds[1].generated, Numbers());
  EXPECT_EQ(result.rounds[1].appended, Numbers{at_once.back()});
  EXPECT_GT(result.rounds[2].prompt_tokens, result.rounds[1].prompt_tokens);
  EXPECT_EQ(result.text, "blue as [7] and [3] say.");
  ASSERT_EQ(result.citations.size(), 4u);
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(result.citations[i].number, at_once[i]);
    EXPECT_TRUE(result.citations[i].fetched);
  }
  // Where no prefill is left for it, it comes with the last one.
  const AnswerResult bounded = Answer({.rounds_max = 2});
  ASSERT_EQ(bounded.rounds.size(), 2u);
  EXPECT_EQ(bounded.rounds[0].appended, at_once);
  EXPECT_EQ(bounded.rounds[1].prompt_tokens, result.rounds[2].prompt_tokens);
  EXPECT_EQ(bounded.text, "blue as [7] and [3] say.");
}

// Without room for it the model answers from what it asked for, without another prefill.
TEST_F(InterleaveTest, WhatIsReadBesidesNeverReplacesWhatWasAskedFor) {
  Load(kTwoRounds, {{"route_besides", 1}, {"route_besides_last", true}});
  const auto one = static_cast<int>(Tokens("[4]. Text of document 4, which is short.\n"));
  const AnswerResult result = Answer({.retrieved_text_tokens_max = 2 * one});
  ASSERT_EQ(result.rounds.size(), 2u);
  EXPECT_EQ(result.rounds[0].appended, (Numbers{4, 7}));
  EXPECT_EQ(result.rounds[1].appended, Numbers());
  EXPECT_EQ(result.text, "blue as [7] and [3] say.");
}

// Asked for what it has read, the engine does not go on reading by routing alone.
TEST_F(InterleaveTest, AskingAgainForTheSameEndsRetrievalWithRoutingBesides) {
  auto follows = kTwoRounds;
  follows[4] = {"<|object_ref_end|>", "[4]"};
  follows[2] = {"[99]", "[7]"};
  follows[1] = {"[4]", "[7]"};
  Load(follows, {{"route_besides", 1}});
  const AnswerResult result = Answer({.rounds_max = 10});
  EXPECT_EQ(result.rounds.size(), 2u);
}

// A model that gives the same answer again: that answer is delivered, once.
TEST_F(InterleaveTest, MoreIsReadWhenTheAnswerDeclines) {
  const std::string decline = "blue as [7] and [3] say.";
  Load(kTwoRounds, {{"route_when_declined", 1}, {"decline", decline}});
  std::string streamed;
  const auto on_text = [&](std::string_view piece) {
    streamed += piece;
    return true;
  };
  const AnswerResult result = Answer({.on_text = on_text});
  ASSERT_EQ(result.rounds.size(), 3u);
  ASSERT_EQ(result.rounds[1].appended.size(), 1u);
  const DocumentNumber more = result.rounds[1].appended[0];
  EXPECT_TRUE(more != 4 && more != 7) << more;
  for (const RoutedDocument& document : FuseLayers(result.rounds[1].layers)) {
    if (document.number == 4 || document.number == 7) continue;
    EXPECT_EQ(more, document.number);
    break;
  }
  EXPECT_EQ(result.text, decline);
  EXPECT_EQ(streamed, decline);

  streamed.clear();
  EXPECT_EQ(Answer({.on_text = on_text, .rounds_max = 2}).rounds.size(), 2u);
  EXPECT_EQ(streamed, decline);
}

TEST_F(InterleaveTest, AnAnswerThatDoesNotDeclineIsGivenAtOnce) {
  for (const char* decline : {"blue as", "blue as [7] and [3] say. So it is.", "I don't know."}) {
    Load(kTwoRounds, {{"route_when_declined", 1}, {"decline", decline}});
    std::string streamed;
    const AnswerResult result = Answer({.on_text = [&](std::string_view piece) {
      streamed += piece;
      return true;
    }});
    EXPECT_EQ(result.rounds.size(), 2u) << decline;
    EXPECT_EQ(streamed, "blue as [7] and [3] say.") << decline;
    TearDown();
  }
}

// 99 does not exist and [7] may come once: the list takes what routing chose, then closes.
TEST_F(InterleaveTest, ListsNameWhatRoutingChose) {
  auto follows = kTwoRounds;
  follows[3] = {"[7]", "[99]"};
  Load(follows, {{"numbers_from_routing", true}});
  const AnswerResult result = Answer();
  ASSERT_EQ(result.rounds.size(), 2u);
  std::set<DocumentNumber> routed;
  for (const LayerTrace& layer : result.rounds[0].layers) {
    for (const RoutedDocument& document : layer.documents) routed.insert(document.number);
  }
  const Numbers& generated = result.rounds[0].generated;
  EXPECT_FALSE(generated.empty());
  for (DocumentNumber number : generated) EXPECT_TRUE(routed.contains(number)) << number;
  EXPECT_EQ(std::set<DocumentNumber>(generated.begin(), generated.end()).size(), generated.size());
  EXPECT_EQ(result.rounds[0].appended, generated);
  EXPECT_EQ(result.rounds[1].generated, Numbers());
  EXPECT_EQ(result.text, "blue as [7] and [3] say.");
}

// Of the best routed document alone a list has that one, whatever the model would write.
TEST_F(InterleaveTest, ListsNameTheBestRoutedDocuments) {
  for (const int count : {1, 2}) {
    Load(kTwoRounds, {{"numbers_from_routing", count}});
    const AnswerResult result = Answer();
    ASSERT_GE(result.rounds.size(), 2u);
    const std::vector<RoutedDocument> best = FuseLayers(result.rounds[0].layers);
    const Numbers& generated = result.rounds[0].generated;
    ASSERT_FALSE(generated.empty());
    EXPECT_LE(generated.size(), static_cast<size_t>(count));
    for (const DocumentNumber number : generated) {
      EXPECT_TRUE(number == best[0].number || (count > 1 && number == best[1].number)) << number;
    }
    EXPECT_EQ(result.text, "blue as [7] and [3] say.");
    TearDown();
  }
}

// In a memory of so many documents a list says how many; which ones, routing says.
TEST_F(InterleaveTest, ListsMayStandForAsManyOfTheBestRouted) {
  Load(kTwoRounds);
  const size_t documents = bank_->document_count();
  TearDown();
  for (const size_t least : {documents + 1, documents}) {
    Load(kTwoRounds, {{"numbers_by_rank", least}});
    const AnswerResult result = Answer();
    ASSERT_EQ(result.rounds.size(), 2u);
    EXPECT_EQ(result.rounds[0].generated, (Numbers{4, 99, 7}));
    Numbers expected = {4, 7};
    if (least == documents) {
      expected.clear();
      const std::vector<RoutedDocument> best = FuseLayers(result.rounds[0].layers);
      ASSERT_GE(best.size(), 3u);
      for (size_t i = 0; i < 3; ++i) expected.push_back(best[i].number);
      std::sort(expected.begin(), expected.end());
    }
    EXPECT_EQ(result.rounds[0].appended, expected);
    EXPECT_EQ(result.text, "blue as [7] and [3] say.");
    TearDown();
  }
}

// After the first round documents are ranked by what they gained on the round before.
TEST_F(InterleaveTest, LaterRoundsMayRankWhatIsNew) {
  auto follows = kTwoRounds;
  follows[1] = {"[4]", "<|object_ref_end|>"};
  for (const float share : {0.0f, 1.0f}) {
    Load(follows,
         {{"numbers_from_routing", 1}, {"retrieval_end_penalty", 100}, {"route_news", share}});
    const AnswerResult result = Answer({.rounds_max = 3});
    ASSERT_EQ(result.rounds.size(), 3u);
    const Numbers& read = result.rounds[0].appended;
    ASSERT_EQ(read.size(), 1u);
    EXPECT_EQ(read[0], FuseLayers(result.rounds[0].layers)[0].number);
    for (const RoutedDocument& document :
         FuseLayers(result.rounds[1].layers, result.rounds[0].layers, share)) {
      if (document.number == read[0]) continue;
      EXPECT_EQ(result.rounds[1].appended, Numbers{document.number});
      break;
    }
    TearDown();
  }
}

// A document that names what is asked for is ranked before one that routing alone prefers; in the
// next round what the texts just read name counts.
TEST_F(InterleaveTest, WordsOfTheTextsThatRouteCount) {
  auto follows = kTwoRounds;
  follows[1] = {"[4]", "<|object_ref_end|>"};
  for (const float share : {0.0f, 1.0f}) {
    Load(follows,
         {{"numbers_from_routing", 1}, {"retrieval_end_penalty", 100}, {"route_words", share}});
    // Those that routing ranks first and last, by what it alone would do.
    const std::vector<RoutedDocument> routed =
        FuseLayers(Answer({.rounds_max = 3}).rounds[0].layers);
    ASSERT_GE(routed.size(), 3u);
    const DocumentNumber named = routed.back().number, next = routed[routed.size() - 2].number;
    for (const RoutedDocument& document : routed) {
      const DocumentNumber number = document.number;
      const EncodedDocument memory = bank_->memory(number);
      bank_->Add(number, memory,
                 number == named  ? "The Colour is that of Pipster."
                 : number == next ? "PIPSTER, a ferret, is grey."
                                  : "Something else.");
    }
    const AnswerResult result = Answer({.rounds_max = 3});
    ASSERT_EQ(result.rounds.size(), 3u);
    EXPECT_EQ(result.rounds[0].appended, Numbers{share == 0 ? routed[0].number : named});
    if (share == 1) {
      EXPECT_EQ(result.rounds[1].appended, Numbers{next});
    }
    TearDown();
  }
}

// By rank, a list reaches down to the first gap between scores.
TEST_F(InterleaveTest, ByRankStopsAtAGap) {
  for (const float gap : {0.0f, 100.0f}) {
    Load(kTwoRounds, {{"numbers_by_rank", true}, {"rank_gap_max", gap}});
    const AnswerResult result = Answer();
    const std::vector<RoutedDocument> best = FuseLayers(result.rounds[0].layers);
    ASSERT_GE(best.size(), 3u);
    ASSERT_GT(best[0].score, best[1].score);
    EXPECT_EQ(result.rounds[0].generated, (Numbers{4, 99, 7}));
    EXPECT_EQ(result.rounds[0].appended.size(), gap == 0 ? 1u : 3u);
    if (gap == 0) {
      EXPECT_EQ(result.rounds[0].appended[0], best[0].number);
    }
    TearDown();
  }
}

// What would end retrieval loses its lead: another list follows, of what routing chose.
TEST_F(InterleaveTest, APenaltyOnEndingRetrievalReadsOn) {
  auto follows = kTwoRounds;
  follows[1] = {"[4]", "<|object_ref_end|>"};
  for (const float penalty : {0.0f, 100.0f}) {
    Load(follows, {{"numbers_from_routing", true}, {"retrieval_end_penalty", penalty}});
    const AnswerResult result = Answer({.rounds_max = 3});
    ASSERT_GE(result.rounds.size(), 2u);
    EXPECT_EQ(result.rounds[1].generated.empty(), penalty == 0);
    EXPECT_EQ(result.rounds.size(), penalty == 0 ? 2u : 3u);
    EXPECT_EQ(result.text, "blue as [7] and [3] say.");
    TearDown();
  }
}

TEST_F(InterleaveTest, AFolderWithoutAnEndOfRetrievalIsAsked) {
  Load(kTwoRounds, {{"numbers_from_routing", true}, {"retrieval_end", ""}});
  EXPECT_FALSE(Answer({.rounds_max = 2}).rounds.empty());
}

TEST_F(InterleaveTest, RouteModeReadsTheBestRoutedDocuments) {
  Load(kTwoRounds, {{"retrieval", "route"},
                    {"route_documents", 3},
                    {"answer_head", "<|im_start|>"},
                    {"answer_tail", "{question}<answer>"}});
  const AnswerResult result = Answer();
  EXPECT_EQ(result.text, "blue as [7] and [3] say.");
  ASSERT_EQ(result.rounds.size(), 2u);
  auto ranked = model_->Search("Which colour?", *bank_, 3);
  ASSERT_TRUE(ranked.ok());
  Numbers best;
  for (const RoutedDocument& document : *ranked) best.push_back(document.number);
  EXPECT_EQ(result.rounds[0].appended, best);
  for (const LayerTrace& layer : result.rounds[0].layers) EXPECT_EQ(layer.documents.size(), 2u);
  // The answering round attends to memory too, routed by texts and question.
  EXPECT_EQ(result.rounds[1].layers.size(), 2u);

  EXPECT_EQ(Answer({.rounds_max = 1}).rounds.size(), 1u);
}

TEST_F(InterleaveTest, RouteModeWithoutTexts) {
  Load(kTwoRounds, {{"retrieval", "route"},
                    {"route_documents", 0},
                    {"answer_head", "<|im_start|>"},
                    {"answer_tail", "{question}<answer>"}});
  const AnswerResult result = Answer();
  EXPECT_EQ(result.text, "blue as [7] and [3] say.");
  EXPECT_EQ(result.rounds.size(), 1u);
}

TEST_F(InterleaveTest, AnEmptyBankStillAnswers) {
  Load(kTwoRounds);
  for (DocumentNumber number : {3, 4, 7, 8}) bank_->Remove(number);
  const AnswerResult result = Answer();
  EXPECT_EQ(result.text, "blue as [7] and [3] say.");
  EXPECT_TRUE(result.citations.empty());
  EXPECT_TRUE(bank_->routes().empty());
}

TEST_F(InterleaveTest, ErrorsOfTheBankComeBack) {
  Load(kTwoRounds);
  bank_->FailFetch(Status::Corruption("block 3 is damaged"));
  EXPECT_EQ(model_->Answer("Which colour?", *bank_).status().message(), "block 3 is damaged");
  bank_->FailRoute(Status::Unavailable("the index is closed"));
  EXPECT_EQ(model_->Answer("Which colour?", *bank_).status().code(), StatusCode::kUnavailable);
  EXPECT_EQ(model_->Search("Which colour?", *bank_, 3).status().code(), StatusCode::kUnavailable);
}

TEST_F(InterleaveTest, CancelAndDeadline) {
  Load(kTwoRounds);
  const auto code = [&](const AnswerOptions& options) {
    return model_->Answer("Which colour?", *bank_, options).status().code();
  };
  EXPECT_EQ(code({.on_text = [](std::string_view) { return false; }}), StatusCode::kCancelled);
  std::stop_source stop;
  stop.request_stop();
  EXPECT_EQ(code({.limits = {.stop = stop.get_token()}}), StatusCode::kCancelled);
  EXPECT_EQ(code({.limits = {.deadline = std::chrono::steady_clock::now()}}),
            StatusCode::kDeadlineExceeded);
  // A request from inside the stream stops at the next layer.
  std::stop_source later;
  int pieces = 0;
  EXPECT_EQ(code({.limits = {.stop = later.get_token()},
                  .on_text =
                      [&](std::string_view) {
                        ++pieces;
                        later.request_stop();
                        return true;
                      }}),
            StatusCode::kCancelled);
  EXPECT_EQ(pieces, 1);
  // The model is usable afterwards.
  EXPECT_EQ(Answer().text, "blue as [7] and [3] say.");
}

TEST_F(InterleaveTest, QuestionsThatDoNotFitAreRefused) {
  Load(kTwoRounds, nlohmann::json::object(), {{"max_position_embeddings", 400}});
  EXPECT_EQ(Answer({.answer_tokens_max = 20}).text, "blue as [7] and [3] say.");
  const std::string long_question(1000, 'x');
  const Status status = model_->Answer(long_question, *bank_, {.answer_tokens_max = 20}).status();
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_NE(status.message().find("too long"), std::string::npos) << status.ToString();
  EXPECT_EQ(model_->Search(long_question, *bank_, 3).status().code(), StatusCode::kInvalidArgument);
  for (const char* bad : {"", " \n", "a\xff"}) {
    EXPECT_EQ(model_->Answer(bad, *bank_).status().code(), StatusCode::kInvalidArgument);
    EXPECT_EQ(model_->Search(bad, *bank_, 3).status().code(), StatusCode::kInvalidArgument);
  }
}

// Texts that would leave no room for the answer are left out instead of failing the question.
TEST_F(InterleaveTest, TextsLeaveRoomForTheAnswer) {
  Load(kTwoRounds);
  const AnswerResult all = Answer({.answer_tokens_max = 20});
  const size_t text = Tokens("[4]. Text of document 4, which is short.\n");
  const size_t prefix = 1 + Tokens("user\n");
  // Prefix, k = 2, the second prompt with its restart, an end of retrieval that may have to be
  // added, the answer.
  const size_t exactly = prefix + 2 + all.rounds[1].prompt_tokens + 1 + 20;
  const std::vector<std::pair<size_t, size_t>> cases = {
      {exactly, 2}, {exactly - 1, 1}, {exactly - text, 1}, {exactly - text - 1, 0}};
  for (const auto& [positions, texts] : cases) {
    TearDown();
    Load(kTwoRounds, nlohmann::json::object(), {{"max_position_embeddings", positions}});
    const AnswerResult result = Answer({.answer_tokens_max = 20});
    EXPECT_EQ(result.text, "blue as [7] and [3] say.");
    EXPECT_EQ(result.rounds[0].appended.size(), texts) << positions;
  }
}

TEST(ParseNumbers, FindsBracketedNumbers) {
  EXPECT_EQ(ParseNumbers("[4][17] and [0], [x], [12, [ 3], [5]] [18446744073709551615]"),
            (Numbers{4, 17, 0, 5, 18446744073709551615u}));
  EXPECT_EQ(ParseNumbers("[18446744073709551616] [-1] [] [7"), Numbers());
  EXPECT_EQ(ParseNumbers(""), Numbers());
}

TEST(FuseLayers, AbsentDocumentsCountWithTheListsLast) {
  const std::vector<LayerTrace> layers = {{5, {{1, 0.9f}, {2, 0.5f}}}, {6, {{3, 0.8f}, {1, 0.2f}}}};
  const std::vector<RoutedDocument> fused = FuseLayers(layers);
  ASSERT_EQ(fused.size(), 3u);
  EXPECT_EQ(fused[0].number, 3u);  // (0.5 + 0.8) / 2
  EXPECT_FLOAT_EQ(fused[0].score, 0.65f);
  EXPECT_EQ(fused[1].number, 1u);  // (0.9 + 0.2) / 2
  EXPECT_FLOAT_EQ(fused[1].score, 0.55f);
  EXPECT_EQ(fused[2].number, 2u);  // (0.5 + 0.2) / 2
  EXPECT_FLOAT_EQ(fused[2].score, 0.35f);
  EXPECT_TRUE(FuseLayers({}).empty());
}

TEST(FuseLayers, NewsIsWhatWasGained) {
  const std::vector<LayerTrace> before = {{5, {{1, 0.9f}, {4, 0.1f}}}};
  const std::vector<LayerTrace> now = {{5, {{1, 0.8f}, {2, 0.6f}, {4, 0.5f}, {3, 0.5f}}}};
  const auto numbers = [](const std::vector<RoutedDocument>& documents) {
    Numbers numbers;
    for (const RoutedDocument& document : documents) numbers.push_back(document.number);
    return numbers;
  };
  EXPECT_EQ(numbers(FuseLayers(now, before, 0)), (Numbers{1, 2, 3, 4}));
  const std::vector<RoutedDocument> half = FuseLayers(now, before, 0.5f);
  EXPECT_EQ(numbers(half), (Numbers{2, 3, 4, 1}));
  EXPECT_FLOAT_EQ(half[0].score, 0.55f);  // 2 was in no list before: 0.6 - 0.5 * 0.1
  EXPECT_FLOAT_EQ(half[3].score, 0.35f);  // 0.8 - 0.5 * 0.9
  EXPECT_EQ(numbers(FuseLayers(now, {}, 1)), (Numbers{1, 2, 3, 4}));
  EXPECT_TRUE(FuseLayers({}, before, 1).empty());
}

}  // namespace
}  // namespace msadb::model
