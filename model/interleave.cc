#include "model/interleave.h"

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cstdint>
#include <limits>
#include <new>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <utility>

#include "kernels/sample.h"
#include "model/answer_text.h"
#include "model/number_list.h"
#include "model/words.h"

namespace msadb::model {
namespace {

using Clock = std::chrono::steady_clock;

double MillisecondsSince(Clock::time_point start) {
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

bool EndsWith(std::span<const int32_t> tokens, std::span<const int32_t> ending) {
  return !ending.empty() && tokens.size() >= ending.size() &&
         std::equal(ending.begin(), ending.end(), tokens.end() - ending.size());
}

bool Holds(const std::vector<DocumentNumber>& numbers, DocumentNumber number) {
  return std::find(numbers.begin(), numbers.end(), number) != numbers.end();
}

size_t TokenCount(std::span<const PromptPart> parts) {
  size_t count = 0;
  for (const PromptPart& part : parts) count += part.tokens.size();
  return count;
}

class Answering {
 public:
  Answering(std::string_view question, MemoryBank& bank, const AnswerOptions& options,
            const Engine& engine, Scheduler* scheduler)
      : question_(question),
        bank_(bank),
        options_(options),
        config_(engine.config),
        tokenizer_(*engine.tokenizer),
        templates_(*engine.templates),
        sequence_(scheduler),
        position_first_(engine.prefix.n_tokens + static_cast<size_t>(config_.msa.top_k_docs)),
        rounds_max_(static_cast<size_t>(std::max(options.rounds_max, 1))),
        answer_tokens_max_(static_cast<size_t>(std::max(options.answer_tokens_max, 1))),
        random_(options.seed) {}

  Result<AnswerResult> Run() {
    MSADB_ASSIGN_OR_RETURN(std::vector<int32_t> question, templates_.Question(question_));
    prompt_.push_back({TokenRole::kQuery, std::move(question)});
    prompt_.push_back({TokenRole::kTemplate, templates_.tail()});
    prompt_.push_back({TokenRole::kGenerated, templates_.response_head()});
    if (templates_.retrieval() == RetrievalMode::kRoute) {
      MSADB_RETURN_IF_ERROR(RetrieveByRouting());
    } else {
      MSADB_RETURN_IF_ERROR(RetrieveByNumbers());
    }
    MSADB_ASSIGN_OR_RETURN(const bool may_read_more, MayReadMore());
    MSADB_RETURN_IF_ERROR(GenerateAnswer(may_read_more));
    if (may_read_more && result_.text == templates_.strings().decline) {
      MSADB_ASSIGN_OR_RETURN(const bool read_more, ReadMore());
      MSADB_RETURN_IF_ERROR(read_more ? GenerateAnswer(false) : Deliver(result_.text));
    }
    MSADB_RETURN_IF_ERROR(Cite());
    for (const RoundTrace& round : result_.rounds) {
      result_.prompt_tokens += round.prompt_tokens;
      result_.generated_tokens += round.generated_tokens;
    }
    return std::move(result_);
  }

 private:
  // Leaves context_ where the answer starts: retrieval ended, the question repeated.
  Status RetrieveByNumbers() {
    MSADB_ASSIGN_OR_RETURN(const std::vector<int32_t> restart, templates_.Restart(question_));
    reserved_tokens_ = templates_.retrieval_end().size() + restart.size();
    std::vector<int32_t> list;  // generated in this round
    bool last = false;          // no other prefill is allowed
    for (size_t round = 1;; ++round) {
      last = round == rounds_max_;
      if (last) MSADB_RETURN_IF_ERROR(ShowBesides().status());
      MSADB_RETURN_IF_ERROR(StartRound());
      list.clear();
      if (last) break;
      MSADB_ASSIGN_OR_RETURN(list, GenerateNumbers());
      bool appended = false;
      std::vector<DocumentNumber> besides;
      if (EndsWith(list, templates_.numbers_end())) {
        MSADB_ASSIGN_OR_RETURN(appended, AppendAsked(&besides));
      }
      if (!appended && round == 1) {
        const auto wanted = static_cast<size_t>(templates_.route_when_none());
        MSADB_ASSIGN_OR_RETURN(appended, AppendBestRouted(wanted));
      }
      if (!appended) break;
      readings_.push_back({this_round().appended, std::move(besides)});
    }
    if (!last) {
      MSADB_ASSIGN_OR_RETURN(const bool shown, ShowBesides());
      if (shown) {
        MSADB_RETURN_IF_ERROR(StartRound());
        prompt_.push_back({TokenRole::kGenerated, {}});  // a list that may follow
        list.clear();
      }
    }
    // A list that led to nothing (empty, unknown or repeated numbers, cut off) is taken back: the
    // model goes on as if it had ended retrieval at once, which is what it was trained on.
    const bool ended = list == templates_.retrieval_end();
    std::vector<int32_t> tokens;
    if (!ended) tokens = templates_.retrieval_end();
    tokens.insert(tokens.end(), restart.begin(), restart.end());
    if (tokens.empty()) return Status::Ok();
    if (!ended) Generator::TakeBack(list_tokens_, &context_);
    return AppendFixed(tokens);
  }

  // Fixed text of the template, after what is in context_.
  Status AppendFixed(const std::vector<int32_t>& tokens) {
    this_round().prompt_tokens += static_cast<uint32_t>(tokens.size());
    return sequence_.Append(tokens, options_.limits, &context_);
  }

  // Whether an answer that declines makes the engine read more. Not after the last round allowed.
  Result<bool> MayReadMore() {
    if (templates_.retrieval() != RetrievalMode::kGenerate ||
        templates_.strings().decline.empty() || result_.rounds.size() >= rounds_max_) {
      return false;
    }
    const auto wanted = static_cast<size_t>(templates_.route_when_declined());
    MSADB_ASSIGN_OR_RETURN(const std::vector<DocumentNumber> best, BestRouted(wanted, {}));
    return !best.empty();
  }

  // After a declining answer: reads what routing ranks best of what is unread, and leaves context_
  // where another answer starts. False when nothing fits any more.
  Result<bool> ReadMore() {
    const auto wanted = static_cast<size_t>(templates_.route_when_declined());
    MSADB_ASSIGN_OR_RETURN(const bool appended, AppendBestRouted(wanted));
    if (!appended) return false;
    MSADB_RETURN_IF_ERROR(StartRound());
    std::vector<int32_t> tokens = templates_.retrieval_end();
    MSADB_ASSIGN_OR_RETURN(const std::vector<int32_t> restart, templates_.Restart(question_));
    tokens.insert(tokens.end(), restart.begin(), restart.end());
    if (!tokens.empty()) MSADB_RETURN_IF_ERROR(AppendFixed(tokens));
    return true;
  }

  // Leaves context_ where the answer starts: the best routed documents' text read in chat form.
  Status RetrieveByRouting() {
    const auto wanted = static_cast<size_t>(templates_.route_documents());
    MSADB_ASSIGN_OR_RETURN(std::vector<int32_t> head, templates_.AnswerHead(question_));
    MSADB_ASSIGN_OR_RETURN(std::vector<int32_t> tail, templates_.AnswerTail(question_));
    reserved_tokens_ = tail.size();
    MSADB_RETURN_IF_ERROR(CheckRoom(0));
    std::vector<DocumentNumber> numbers;
    if (wanted > 0 && rounds_max_ > 1 && bank_.document_count() > 0) {
      result_.rounds.emplace_back();
      const auto start = Clock::now();
      prompt_.resize(1);  // later tokens cannot change what the question's tokens route to
      PrefillTrace trace;
      auto routed = sequence_.Prefill(prompt_, bank_,
                                      {.route_count = RouteCount(wanted), .routing_only = true},
                                      options_.limits, &trace);
      if (!routed.ok()) return routed.status();
      Record(TokenCount(prompt_), start, &trace);
      std::vector<RoutedDocument> ranked = FuseLayers(trace.layers);
      MSADB_RETURN_IF_ERROR(RankByWords(question_, templates_.route_words(), bank_, &ranked));
      for (const RoutedDocument& document : ranked) {
        if (numbers.size() < wanted) numbers.push_back(document.number);
      }
    }
    prompt_.clear();
    prompt_.push_back({TokenRole::kTemplate, std::move(head)});
    if (!numbers.empty()) {
      MSADB_ASSIGN_OR_RETURN(PromptPart texts, ReadTexts(numbers));
      prompt_.push_back(std::move(texts));
    }
    prompt_.push_back({TokenRole::kQuery, std::move(tail)});
    reserved_tokens_ = 0;
    return StartRound();
  }

  // Prefills the prompt so far with fresh routing.
  Status StartRound() {
    MSADB_RETURN_IF_ERROR(CheckRoom(0));
    result_.rounds.emplace_back();
    const auto start = Clock::now();
    PrefillTrace trace;
    auto context = sequence_.Prefill(prompt_, bank_, {.tokens_to_come = answer_tokens_max_},
                                     options_.limits, &trace);
    if (!context.ok()) return context.status();
    context_ = std::move(*context);
    list_tokens_ = 0;
    Record(TokenCount(prompt_), start, &trace);
    return Status::Ok();
  }

  // Notes a prefill of this round. The trace keeps the documents attended to.
  void Record(size_t tokens, Clock::time_point start, PrefillTrace* trace) {
    RoundTrace& round = this_round();
    round.prefill_ms = MillisecondsSince(start);
    round.routing_ms = trace->routing_ms;
    round.fetch_ms = trace->fetch_ms;
    round.prompt_tokens += static_cast<uint32_t>(tokens);
    round.layers = trace->layers;
    for (LayerTrace& layer : round.layers) {
      const auto top_k = static_cast<size_t>(config_.msa.top_k_docs);
      layer.documents.resize(std::min(layer.documents.size(), top_k));
    }
    ranked_.reset();
  }

  // Greedy, until the list is closed, retrieval is ended, or the limit. Fills this round's
  // `generated`; the prompt gains the tokens, which are returned. The context gains the first
  // list_tokens_ of them: what can follow in one way only is computed when something else follows
  // it.
  Result<std::vector<int32_t>> GenerateNumbers() {
    const auto start = Clock::now();
    const auto tokens_max = static_cast<size_t>(std::max(options_.retrieval_tokens_max, 1));
    const NumberListGrammar* const lists = templates_.number_lists();
    std::vector<std::string> choices;
    if (lists != nullptr) {
      const auto most = static_cast<size_t>(templates_.numbers_from_routing());
      MSADB_ASSIGN_OR_RETURN(const std::vector<DocumentNumber> best, BestRouted(most, {}));
      choices = AsChoices(best);
    }
    std::vector<int32_t> tokens;
    const auto compute = [&] {
      const auto missing = std::span<const int32_t>(tokens).subspan(list_tokens_);
      list_tokens_ = tokens.size();
      return missing.empty() ? Status::Ok() : sequence_.Append(missing, options_.limits, &context_);
    };
    while (tokens.size() < tokens_max) {
      std::vector<int32_t> allowed;
      if (lists != nullptr) allowed = lists->Next(tokens, choices);
      int32_t token = allowed.size() == 1 ? allowed.front() : -1;
      if (token < 0) {
        MSADB_RETURN_IF_ERROR(compute());
        MSADB_ASSIGN_OR_RETURN(token, NextListToken(tokens.empty(), allowed));
      }
      if (IsStop(token)) break;
      tokens.push_back(token);
      if (EndsWith(tokens, templates_.numbers_end())) break;
      if (EndsWith(tokens, templates_.retrieval_end())) {
        MSADB_RETURN_IF_ERROR(compute());
        break;
      }
    }
    RoundTrace& round = this_round();
    round.generated = ParseNumbers(tokenizer_.Decode(tokens));
    round.generated_tokens += static_cast<uint32_t>(tokens.size());
    round.decode_ms += MillisecondsSince(start);
    prompt_.push_back({TokenRole::kGenerated, tokens});
    return tokens;
  }

  // Appends the text of those numbers that exist and were not read before, within the limits. False
  // when there is none: another round would see nothing new.
  Result<bool> AppendTexts(const std::vector<DocumentNumber>& numbers) {
    const size_t end_tokens = templates_.appended_end().size();
    reserved_tokens_ += end_tokens;
    MSADB_ASSIGN_OR_RETURN(PromptPart texts, ReadTexts(numbers));
    reserved_tokens_ -= end_tokens;
    if (texts.tokens.empty()) return false;
    // Role 0 covers the question and the newest texts: those of earlier rounds route no more.
    for (size_t i = 1; i < prompt_.size(); ++i) {
      if (prompt_[i].role == TokenRole::kQuery) prompt_[i].role = TokenRole::kGenerated;
    }
    prompt_.push_back(std::move(texts));
    prompt_.push_back({TokenRole::kTemplate, templates_.appended_end()});
    return true;
  }

  // What the model asked for, and what routing ranks best besides, if the model's folder wants
  // that: at once, or later, which `later` is then.
  Result<bool> AppendAsked(std::vector<DocumentNumber>* later) {
    std::vector<DocumentNumber> numbers = this_round().generated;
    const std::set<DocumentNumber> distinct(numbers.begin(), numbers.end());
    const auto wanted = static_cast<size_t>(std::count_if(
        distinct.begin(), distinct.end(), [&](DocumentNumber n) { return !Holds(read_, n); }));
    if (wanted == 0) return false;
    if (bank_.document_count() >= templates_.numbers_by_rank()) {
      MSADB_ASSIGN_OR_RETURN(numbers, BestRouted(wanted, {}, templates_.rank_gap_max()));
      std::sort(numbers.begin(), numbers.end());  // as a model writes them
    }
    std::vector<DocumentNumber> listed = numbers;
    for (const Reading& reading : readings_) {
      listed.insert(listed.end(), reading.besides.begin(), reading.besides.end());
    }
    const auto more = static_cast<size_t>(templates_.route_besides());
    MSADB_ASSIGN_OR_RETURN(std::vector<DocumentNumber> besides, BestRouted(more, listed));
    if (bank_.document_count() >= templates_.route_besides_last()) besides.swap(*later);
    if (besides.empty() && numbers == this_round().generated) return AppendTexts(numbers);
    numbers.insert(numbers.end(), besides.begin(), besides.end());
    return AppendListed(numbers);
  }

  // Once retrieval has ended: the prompt as if each round had asked for what was to be read
  // besides, too. False when there is nothing of it, or no room for it; then the prompt stays as it
  // is.
  Result<bool> ShowBesides() {
    const bool none = std::all_of(readings_.begin(), readings_.end(),
                                  [](const Reading& r) { return r.besides.empty(); });
    if (none) return false;
    std::vector<PromptPart> prompt(prompt_.begin(), prompt_.begin() + kQuestionParts);
    prompt.swap(prompt_);
    const std::vector<DocumentNumber> read = std::exchange(read_, {});
    const std::vector<DocumentNumber> appended = this_round().appended;
    std::string newest_texts = newest_texts_;
    for (const Reading& reading : readings_) {
      std::vector<DocumentNumber> numbers = reading.asked;
      for (const DocumentNumber number : reading.besides) {
        if (!Holds(read, number)) numbers.push_back(number);
      }
      prompt_.push_back({TokenRole::kGenerated, {}});
      MSADB_ASSIGN_OR_RETURN(const bool listed, AppendListed(numbers));
      if (!listed) prompt_.pop_back();
    }
    this_round().appended = appended;
    const bool all_asked =
        std::all_of(read.begin(), read.end(), [&](auto n) { return Holds(read_, n); });
    if (all_asked && read_.size() > read.size()) {
      for (const DocumentNumber number : read_) {
        if (!Holds(read, number)) this_round().appended.push_back(number);
      }
      return true;
    }
    prompt_ = std::move(prompt);
    read_ = read;
    newest_texts_ = std::move(newest_texts);
    return false;
  }

  // The `count` documents that this round's routing ranks best, of those neither read before nor in
  // `listed`; fewer when one scores more than `gap_max` below the one before it. After the first
  // round what scored in the round before counts less; what shares words with the texts that routed
  // counts more.
  Result<std::vector<DocumentNumber>> BestRouted(
      size_t count, const std::vector<DocumentNumber>& listed,
      float gap_max = std::numeric_limits<float>::infinity()) {
    std::vector<DocumentNumber> best;
    if (count == 0) return best;
    if (!ranked_.has_value()) {
      const std::vector<RoundTrace>& rounds = result_.rounds;
      std::span<const LayerTrace> before;
      if (rounds.size() > 1) before = rounds[rounds.size() - 2].layers;
      std::vector<RoutedDocument> ranked =
          FuseLayers(rounds.back().layers, before, templates_.route_news());
      const std::string asked = std::string(question_) + "\n" + newest_texts_;
      MSADB_RETURN_IF_ERROR(RankByWords(asked, templates_.route_words(), bank_, &ranked));
      ranked_ = std::move(ranked);
    }
    float last = -std::numeric_limits<float>::infinity();
    for (const RoutedDocument& document : *ranked_) {
      if (best.size() >= count) break;
      const DocumentNumber number = document.number;
      if (Holds(read_, number) || Holds(listed, number)) continue;
      if (last - document.score > gap_max) break;
      best.push_back(number);
      last = document.score;
    }
    return best;
  }

  // Goes on as if the model had written the list `numbers`. False when it is empty or leads to
  // nothing.
  Result<bool> AppendListed(const std::vector<DocumentNumber>& numbers) {
    if (numbers.empty()) return false;
    std::string list;
    for (const DocumentNumber number : numbers) list += "[" + std::to_string(number) + "]";
    MSADB_ASSIGN_OR_RETURN(std::vector<int32_t> tokens, tokenizer_.Encode(list));
    const auto& end = templates_.numbers_end();
    tokens.insert(tokens.end(), end.begin(), end.end());
    std::vector<int32_t> written = std::exchange(prompt_.back().tokens, std::move(tokens));
    MSADB_ASSIGN_OR_RETURN(const bool appended, AppendTexts(numbers));
    if (!appended) prompt_.back().tokens = std::move(written);
    return appended;
  }

  // The same with the `count` documents that this round's routing ranks best of what is unread.
  Result<bool> AppendBestRouted(size_t count) {
    MSADB_ASSIGN_OR_RETURN(const std::vector<DocumentNumber> best, BestRouted(count, {}));
    return AppendListed(best);
  }

  // The filled-in texts of documents, and notes them as appended in this round. They are the newest
  // texts then, if there are any.
  Result<PromptPart> ReadTexts(const std::vector<DocumentNumber>& numbers) {
    PromptPart texts{TokenRole::kQuery, {}};
    const auto tokens_max = static_cast<size_t>(std::max(options_.retrieved_text_tokens_max, 0));
    const size_t read_before = read_.size();
    std::string newest;
    for (DocumentNumber number : numbers) {
      if (read_.size() - read_before >= static_cast<size_t>(options_.documents_per_round_max))
        break;
      if (Holds(read_, number)) continue;
      auto text = bank_.Text(number);
      if (text.status().code() == StatusCode::kNotFound) continue;
      if (!text.ok()) return text.status();
      MSADB_ASSIGN_OR_RETURN(const std::vector<int32_t> tokens,
                             templates_.AppendedDocument(number, *text));
      if (texts.tokens.size() + tokens.size() > tokens_max) break;
      if (!CheckRoom(texts.tokens.size() + tokens.size()).ok()) break;
      texts.tokens.insert(texts.tokens.end(), tokens.begin(), tokens.end());
      this_round().appended.push_back(number);
      read_.push_back(number);
      newest.append(*text).push_back('\n');
    }
    if (!newest.empty()) newest_texts_ = std::move(newest);
    return texts;
  }

  Status Deliver(std::string_view piece) const {
    if (piece.empty() || !options_.on_text || options_.on_text(piece)) return Status::Ok();
    return Status::Cancelled("the caller cancelled");
  }

  // `hold_decline`: an answer that declines is not handed to on_text.
  Status GenerateAnswer(bool hold_decline) {
    const auto start = Clock::now();
    const std::string& decline = templates_.strings().decline;
    std::string held;  // while the answer may still become `decline`
    const auto on_text = [&](std::string_view piece) {
      if (!hold_decline) return Deliver(piece).ok();
      held += piece;
      if (decline.starts_with(held)) return true;
      hold_decline = false;
      return Deliver(held).ok();
    };
    AnswerText answer(templates_.strings().answer_prefix, on_text);
    StreamDecoder decoder(&tokenizer_);
    result_.finish_reason = FinishReason::kLength;
    RoundTrace& round = this_round();
    for (size_t i = 0; i < answer_tokens_max_; ++i) {
      MSADB_ASSIGN_OR_RETURN(const int32_t token, NextToken(options_.temperature));
      if (IsStop(token)) {
        result_.finish_reason = FinishReason::kStop;
        break;
      }
      ++round.generated_tokens;
      MSADB_RETURN_IF_ERROR(answer.Push(decoder.Push(token)));
      if (i + 1 == answer_tokens_max_) break;
      MSADB_RETURN_IF_ERROR(sequence_.Append({&token, 1}, options_.limits, &context_));
    }
    MSADB_RETURN_IF_ERROR(answer.Push(decoder.Finish()));
    MSADB_RETURN_IF_ERROR(answer.Finish());
    result_.text = answer.text();
    if (hold_decline && held != decline) MSADB_RETURN_IF_ERROR(Deliver(held));
    round.decode_ms += MillisecondsSince(start);
    return Status::Ok();
  }

  // What was read, then what the answer names beyond that.
  Status Cite() {
    for (DocumentNumber number : read_) result_.citations.push_back({number, true, false});
    for (DocumentNumber number : ParseNumbers(result_.text)) {
      auto cited = std::find_if(result_.citations.begin(), result_.citations.end(),
                                [&](const CitedDocument& c) { return c.number == number; });
      if (cited == result_.citations.end()) {
        auto text = bank_.Text(number);
        if (text.status().code() == StatusCode::kNotFound) continue;
        if (!text.ok()) return text.status();
        cited = result_.citations.insert(cited, {number, false, false});
      }
      cited->in_answer = true;
    }
    return Status::Ok();
  }

  Result<int32_t> NextToken(float temperature) {
    // Rows of the head past the tokenizer's vocabulary stand for nothing.
    const size_t count = std::min(context_.logits.size(), tokenizer_.vocab_size());
    const int32_t token = kernels::Sample(
        {context_.logits.data(), count, temperature, options_.top_p}, random_, &scratch_);
    if (token < 0) {
      return Status::Corruption(
          "the model produced logits that are not finite: its weights are damaged or of a kind "
          "this engine cannot compute");
    }
    return token;
  }

  // The likeliest of `allowed`, or of all tokens when there are none. `first`: a list could begin
  // here.
  Result<int32_t> NextListToken(bool first, std::span<const int32_t> allowed) {
    MSADB_ASSIGN_OR_RETURN(const int32_t token, NextToken(0));
    if (allowed.empty()) return token;
    const std::vector<int32_t>& end = templates_.retrieval_end();
    const int32_t ending = first && !end.empty() ? end.front() : -1;
    const auto logit = [&](int32_t id) {
      const auto row = static_cast<size_t>(id);
      if (row >= context_.logits.size()) return -std::numeric_limits<float>::infinity();
      return context_.logits[row] - (id == ending ? templates_.retrieval_end_penalty() : 0.0f);
    };
    return *std::max_element(allowed.begin(), allowed.end(),
                             [&](int32_t a, int32_t b) { return logit(a) < logit(b); });
  }

  bool IsStop(int32_t token) const {
    const auto& stops = templates_.stop_tokens();
    const auto& eos = config_.eos_token_ids;
    return std::binary_search(stops.begin(), stops.end(), token) ||
           std::binary_search(eos.begin(), eos.end(), token);
  }

  // Whether the prompt so far, `more` tokens, what must follow and an answer fit the model's
  // positions.
  Status CheckRoom(size_t more) const {
    const size_t needed =
        position_first_ + TokenCount(prompt_) + more + reserved_tokens_ + answer_tokens_max_;
    if (needed <= static_cast<size_t>(config_.max_position_embeddings)) return Status::Ok();
    return Status::InvalidArgument("the question is too long: with its answer it takes " +
                                   std::to_string(needed) + " positions, the model has " +
                                   std::to_string(config_.max_position_embeddings) +
                                   "; shorten it or lower the number of answer tokens");
  }

  // Enough documents per layer that the fused ranking rarely rests on a document's absence.
  static size_t RouteCount(size_t wanted) { return std::max<size_t>(4 * wanted, 64); }

  RoundTrace& this_round() {
    if (result_.rounds.empty()) result_.rounds.emplace_back();
    return result_.rounds.back();
  }

  const std::string_view question_;
  MemoryBank& bank_;
  const AnswerOptions& options_;
  const ModelConfig& config_;
  const Tokenizer& tokenizer_;
  const Templates& templates_;
  Scheduler::Sequence sequence_;
  const size_t position_first_;
  const size_t rounds_max_;
  const size_t answer_tokens_max_;
  std::mt19937_64 random_;
  std::vector<std::pair<float, int32_t>> scratch_;

  // A round that read: what was asked for, and what is read besides once retrieval has ended.
  struct Reading {
    std::vector<DocumentNumber> asked, besides;
  };
  static constexpr size_t kQuestionParts = 3;  // of the prompt: question, tail, response head

  std::vector<PromptPart> prompt_;
  std::vector<Reading> readings_;
  size_t reserved_tokens_ = 0;  // fixed tokens that will follow the texts read
  Context context_;
  size_t list_tokens_ = 0;            // of the newest list, in context_
  std::vector<DocumentNumber> read_;  // documents whose text was appended, in order
  std::string newest_texts_;          // of the newest round that appended any; they route
  std::optional<std::vector<RoutedDocument>> ranked_;  // of the newest prefill, once asked for
  AnswerResult result_;
};

}  // namespace

std::vector<DocumentNumber> ParseNumbers(std::string_view text) {
  std::vector<DocumentNumber> numbers;
  for (size_t open = text.find('['); open != std::string_view::npos;
       open = text.find('[', open + 1)) {
    DocumentNumber number = 0;
    const char* const end = text.data() + text.size();
    const auto parsed = std::from_chars(text.data() + open + 1, end, number);
    if (parsed.ec == std::errc() && parsed.ptr != end && *parsed.ptr == ']') {
      numbers.push_back(number);
    }
  }
  return numbers;
}

Result<AnswerResult> AnswerQuestion(std::string_view question, MemoryBank& bank,
                                    const AnswerOptions& options, const Engine& engine,
                                    Scheduler* scheduler) try {
  return Answering(question, bank, options, engine, scheduler).Run();
} catch (const std::bad_alloc&) {
  return Status::ResourceExhausted("out of memory while answering");
}

}  // namespace msadb::model
