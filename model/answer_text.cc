#include "model/answer_text.h"

#include <utility>

namespace msadb::model {
namespace {

constexpr std::string_view kSpace = " \t\r\n";

std::string_view TrimStart(std::string_view text) {
  const size_t begin = text.find_first_not_of(kSpace);
  return begin == std::string_view::npos ? std::string_view() : text.substr(begin);
}

std::string_view Trim(std::string_view text) {
  text = TrimStart(text);
  return text.substr(0, text.find_last_not_of(kSpace) + 1);
}

}  // namespace

AnswerText::AnswerText(std::string_view prefix, std::function<bool(std::string_view)> on_text)
    : prefix_(Trim(prefix)), on_text_(std::move(on_text)) {}

Status AnswerText::Push(std::string_view piece) {
  held_ += piece;
  if (at_start_) {
    std::string_view rest = TrimStart(held_);
    if (rest.size() < prefix_.size() && prefix_.starts_with(rest)) return Status::Ok();
    if (rest.starts_with(prefix_)) rest = TrimStart(rest.substr(prefix_.size()));
    if (rest.empty()) return Status::Ok();
    held_ = std::string(rest);
    at_start_ = false;
  }
  const size_t end = held_.find_last_not_of(kSpace) + 1;  // 0 when all of it is white space
  const std::string ready = held_.substr(0, end);
  held_.erase(0, end);
  return Emit(ready);
}

Status AnswerText::Finish() {
  if (!at_start_) return Status::Ok();  // what is held is white space
  // The beginning of the prefix and nothing more is the whole answer.
  const std::string_view rest = Trim(held_);
  return rest == prefix_ ? Status::Ok() : Emit(rest);
}

Status AnswerText::Emit(std::string_view piece) {
  if (piece.empty()) return Status::Ok();
  text_ += piece;
  if (on_text_ && !on_text_(piece)) return Status::Cancelled("the caller cancelled");
  return Status::Ok();
}

}  // namespace msadb::model
