// What a list of document numbers may look like while it is generated.
#ifndef MSADB_MODEL_NUMBER_LIST_H_
#define MSADB_MODEL_NUMBER_LIST_H_

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "model/memory_bank.h"
#include "model/tokenizer.h"

namespace msadb::model {

// Lists "[4][17]" followed by `numbers_end`, or `retrieval_end` alone, in tokens. Immutable, for
// any thread; the tokenizer must outlive it.
class NumberListGrammar {
 public:
  NumberListGrammar(const Tokenizer* tokenizer, std::vector<int32_t> numbers_end,
                    std::vector<int32_t> retrieval_end);

  // The tokens that may follow `list`, a beginning of a list that names only documents of `choices`
  // (decimal numbers, ascending as text, unique), each at most once. Empty when `list` is no such
  // beginning or is finished.
  std::vector<int32_t> Next(std::span<const int32_t> list,
                            std::span<const std::string> choices) const;

 private:
  const Tokenizer* tokenizer_;
  std::vector<int32_t> numbers_end_, retrieval_end_;
  std::vector<int32_t> pieces_;  // the tokens made of digits and brackets alone
};

// `numbers` as NumberListGrammar wants its choices.
std::vector<std::string> AsChoices(std::span<const DocumentNumber> numbers);

}  // namespace msadb::model

#endif  // MSADB_MODEL_NUMBER_LIST_H_
