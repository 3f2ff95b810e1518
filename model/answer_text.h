// The answer as it is streamed: the generated text without the fixed words a trained model puts
// before it and without white space at its ends.
#ifndef MSADB_MODEL_ANSWER_TEXT_H_
#define MSADB_MODEL_ANSWER_TEXT_H_

#include <functional>
#include <string>
#include <string_view>

#include "msadb/status.h"

namespace msadb::model {

// One thread; `on_text` (may be empty) sees pieces whose concatenation is text().
class AnswerText {
 public:
  AnswerText(std::string_view prefix, std::function<bool(std::string_view)> on_text);

  // More generated text, whole UTF-8 characters. Cancelled when on_text returned false.
  Status Push(std::string_view piece);
  // No more will come.
  Status Finish();
  const std::string& text() const { return text_; }

 private:
  Status Emit(std::string_view piece);

  const std::string prefix_;  // without white space at its ends
  const std::function<bool(std::string_view)> on_text_;
  bool at_start_ = true;
  std::string held_;  // at the start: what may still be the prefix; later: trailing white space
  std::string text_;
};

}  // namespace msadb::model

#endif  // MSADB_MODEL_ANSWER_TEXT_H_
