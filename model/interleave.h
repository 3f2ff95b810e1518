// From a question to an answer: Memory Interleave (paper section 3.4, spec section 4).
//
// A round is one prefill with fresh routing and what the model generates after it. Two ways to
// choose whose text is read, as templates.json says:
//   generate  The model writes document numbers; their text is appended and the whole prompt is
//             prefilled again, until it writes the end-of-retrieval string.
//   route     For backbones never trained to write numbers: the documents that routing ranks best
//             are appended in the first round, the answer follows in the second.
// Retrieval also ends with the rounds allowed, and with a list that holds no new existing document.
#ifndef MSADB_MODEL_INTERLEAVE_H_
#define MSADB_MODEL_INTERLEAVE_H_

#include <string_view>
#include <vector>

#include "model/engine.h"
#include "model/memory_bank.h"
#include "model/model.h"
#include "model/scheduler.h"
#include "msadb/status.h"

namespace msadb::model {

// As Model::Answer; `question` is not empty. What must be computed goes through `scheduler`, a
// piece at a time, so that others get their turns in between.
Result<AnswerResult> AnswerQuestion(std::string_view question, MemoryBank& bank,
                                    const AnswerOptions& options, const Engine& engine,
                                    Scheduler* scheduler);

// The document numbers written as "[n]" in `text`, in order, repetitions kept. Numbers that do not
// fit 64 bits are skipped.
std::vector<DocumentNumber> ParseNumbers(std::string_view text);

}  // namespace msadb::model

#endif  // MSADB_MODEL_INTERLEAVE_H_
