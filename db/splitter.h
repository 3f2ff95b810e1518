// Cuts a text that is too long for the model into parts that are not.
#ifndef MSADB_DB_SPLITTER_H_
#define MSADB_DB_SPLITTER_H_

#include <cstddef>
#include <functional>
#include <string_view>
#include <vector>

#include "msadb/status.h"

namespace msadb::db {

// Bytes [offset, offset + size) of the text.
struct TextPart {
  size_t offset = 0;
  size_t size = 0;
  friend bool operator==(const TextPart&, const TextPart&) = default;
};

// The tokens that the model makes of a text.
using TokenCounter = std::function<Result<size_t>(std::string_view)>;

// Cuts `text` (valid UTF-8) into consecutive parts of at most `tokens_max` tokens each, as
// count_tokens tells. Together the parts are the whole text, byte for byte; none is empty. An empty
// text has no parts.
//
// A part ends where a sentence or a paragraph does, if there is such a place in its second half;
// else at a line's end, else at a word's end, under the same condition; else at the last of these
// anywhere; else between two characters. White space after an end belongs to the part before it.
//
// Counts about twice the tokens of the text in all, up to five times where they are very unevenly
// long, in pieces of about tokens_max. InvalidArgument: tokens_max is smaller than the tokens of a
// single character. Errors of count_tokens are passed on.
Result<std::vector<TextPart>> SplitText(std::string_view text, size_t tokens_max,
                                        const TokenCounter& count_tokens);

}  // namespace msadb::db

#endif  // MSADB_DB_SPLITTER_H_
