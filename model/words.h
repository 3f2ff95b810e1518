// Ranking by words. Mean-pooled routing keys tell what a text is about, less well which of two
// names that look alike it says it of; the words themselves do.
#ifndef MSADB_MODEL_WORDS_H_
#define MSADB_MODEL_WORDS_H_

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "model/memory_bank.h"
#include "msadb/status.h"

namespace msadb::model {

// The words of a text in lower case, in order: letters, digits and '_' in a row; ideographs, kana
// and Hangul syllables (U+2E80 and above) are words by themselves. What is not UTF-8 separates
// words.
std::vector<std::string> Words(std::string_view text);

// Of each text, within 0..1, how much of `asked` it holds by words: with idf(w) = log((N + 1) / (n
// + 0.5)) for N texts of which n hold the word w,
//   sqrt(sum of idf(w)^2 over asked words w that the text holds / the same over those that any text
//   holds),
// each distinct word counted once. 0 for all when no text holds any.
std::vector<float> WordOverlaps(std::string_view asked, std::span<const std::string> texts);

// Adds `share` times its overlap with `asked` to the score of each of the best 256 documents of
// `ranked`, which is sorted best first before and after, equal scores by ascending number.
// Documents that are not in `bank` any more gain nothing.
Status RankByWords(std::string_view asked, float share, MemoryBank& bank,
                   std::vector<RoutedDocument>* ranked);

}  // namespace msadb::model

#endif  // MSADB_MODEL_WORDS_H_
