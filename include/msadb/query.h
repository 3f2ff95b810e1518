// Results of Search and Ask.
#ifndef MSADB_QUERY_H_
#define MSADB_QUERY_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "msadb/document.h"

namespace msadb {

struct SearchHit {
  DocumentId id = 0;         // the document
  DocumentId part = 0;       // the part that scored best (equal to `id` for an undivided document)
  float score = 0;           // fused over layers, and words in common: docs/architecture.md
  std::string text;          // of that part; empty when SearchOptions::include_text is false
  uint64_t text_offset = 0;  // of that part inside the document, bytes
  std::optional<std::string> key;
  Metadata metadata;
  std::string source;  // provenance, as in Document
  std::string written_by;
  TimePoint created_at{};
};

// A document the answer rests on.
struct Citation {
  DocumentId id = 0;         // the document
  DocumentId part = 0;       // the part that was read
  uint64_t text_offset = 0;  // of that part inside the document, bytes
  std::string text;          // the part's original text
  std::optional<std::string> key;
  std::string source;  // provenance, as in Document
  std::string written_by;
  TimePoint created_at{};
  bool in_answer = false;  // its number appears in the answer itself
};

enum class FinishReason : uint8_t { kStop, kLength };

struct AnswerTrace {
  struct RoutedDocument {
    DocumentId number = 0;
    float score = 0;
  };
  struct Layer {
    int layer = 0;                          // the model's layer number
    std::vector<RoutedDocument> documents;  // best first
  };
  struct Round {
    std::vector<DocumentId> generated;  // numbers the model asked for, in order
    std::vector<DocumentId> appended;   // those whose original text was added
    std::vector<Layer> layers;          // what each routing layer attended to
    double prefill_ms = 0;
    double routing_ms = 0;  // part of prefill
    double fetch_ms = 0;    // part of prefill
    double decode_ms = 0;
  };
  std::vector<Round> rounds;
};

struct Answer {
  std::string text;
  std::vector<Citation> citations;  // in the order they were read
  FinishReason finish_reason = FinishReason::kStop;
  uint32_t prompt_tokens = 0;     // prefilled, all rounds together
  uint32_t generated_tokens = 0;  // all rounds together
  AnswerTrace trace;              // empty unless AskOptions::trace
};

}  // namespace msadb

#endif  // MSADB_QUERY_H_
