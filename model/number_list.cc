#include "model/number_list.h"

#include <algorithm>
#include <set>
#include <string_view>
#include <utility>

namespace msadb::model {
namespace {

// How far a text got as a list of numbers.
enum class State : uint8_t { kWrong, kOpen, kComplete };  // kComplete: no number is half written

State Check(std::string_view text, std::span<const std::string> choices) {
  std::set<std::string_view> named;
  while (!text.empty()) {
    if (text.front() != '[') return State::kWrong;
    text.remove_prefix(1);
    const size_t close = text.find(']');
    const std::string_view number = text.substr(0, close);
    if (close == std::string_view::npos) {
      // Open: some document that was not named yet must begin with these digits.
      for (auto at = std::lower_bound(choices.begin(), choices.end(), number);
           at != choices.end() && at->starts_with(number); ++at) {
        if (!named.contains(*at)) return State::kOpen;
      }
      return State::kWrong;
    }
    if (!std::binary_search(choices.begin(), choices.end(), number) ||
        !named.insert(number).second) {
      return State::kWrong;
    }
    text.remove_prefix(close + 1);
  }
  return State::kComplete;
}

bool StartsWith(std::span<const int32_t> whole, std::span<const int32_t> start) {
  return whole.size() >= start.size() && std::equal(start.begin(), start.end(), whole.begin());
}

}  // namespace

NumberListGrammar::NumberListGrammar(const Tokenizer* tokenizer, std::vector<int32_t> numbers_end,
                                     std::vector<int32_t> retrieval_end)
    : tokenizer_(tokenizer),
      numbers_end_(std::move(numbers_end)),
      retrieval_end_(std::move(retrieval_end)) {
  for (int32_t id = 0; id < static_cast<int32_t>(tokenizer_->vocab_size()); ++id) {
    const std::string_view bytes = tokenizer_->TokenBytes(id);
    if (!bytes.empty() && bytes.find_first_not_of("[]0123456789") == std::string_view::npos) {
      pieces_.push_back(id);
    }
  }
}

std::vector<int32_t> NumberListGrammar::Next(std::span<const int32_t> list,
                                             std::span<const std::string> choices) const {
  size_t written = 0;  // tokens of the numbers; an ending follows
  std::string text;
  while (written < list.size() &&
         std::binary_search(pieces_.begin(), pieces_.end(), list[written])) {
    text += tokenizer_->TokenBytes(list[written++]);
  }
  const State state = Check(text, choices);
  if (state == State::kWrong) return {};
  std::vector<int32_t> next;
  const std::span<const int32_t> ending = list.subspan(written);
  if (ending.empty()) {
    for (const int32_t piece : pieces_) {
      const std::string longer = text + std::string(tokenizer_->TokenBytes(piece));
      if (Check(longer, choices) != State::kWrong) next.push_back(piece);
    }
  }
  const std::vector<int32_t>& end = written == 0 ? retrieval_end_ : numbers_end_;
  if (state == State::kComplete && StartsWith(end, ending) && ending.size() < end.size()) {
    next.push_back(end[ending.size()]);
  }
  return next;
}

std::vector<std::string> AsChoices(std::span<const DocumentNumber> numbers) {
  std::set<std::string> unique;
  for (const DocumentNumber number : numbers) unique.insert(std::to_string(number));
  return {unique.begin(), unique.end()};
}

}  // namespace msadb::model
