// The facade of this room: a loaded Memory Sparse Attention model.
//
//   auto model = Model::Load("models/default");
//   auto memory = (*model)->EncodeDocuments(documents);              // what a database stores
//   auto answer = (*model)->Answer("Where is the key?", bank, {});   // what a database asks
//
// Threads: every method may be called from any thread. Computing calls (EncodeDocuments, Search,
// Answer) share the model's threads, a piece at a time (model/scheduler.h): callers that answer at
// once decode in common passes, small inserts at once are encoded in one, prefills come in between.
// What a call returns does not depend on who computes beside it: bit for bit for int8 and int4
// weights on the CPU, else up to rounding. Waiting obeys the call's stop token and deadline.
// Accessors never wait. A MemoryBank is called on its caller's thread, during Route and Fetch while
// the model computes, and must not call the model back.
// Errors: as Status; no exception leaves this class. ResourceExhausted when memory runs out.
#ifndef MSADB_MODEL_MODEL_H_
#define MSADB_MODEL_MODEL_H_

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <stop_token>
#include <string>
#include <string_view>
#include <vector>

#include "model/memory_bank.h"
#include "msadb/status.h"

namespace msadb::model {

// How products with int8 and int4 weights are computed; float weights are not concerned. All give
// the same memory and answers up to rounding.
enum class Precision : uint8_t {
  kFine,   // activations as 16-bit integers: near float32's own rounding
  kFast,   // activations as 8-bit integers, as GGUF engines do: encodes faster, rounds by about 1%
  kExact,  // float32 activations: slow, for comparing with a reference
};

struct ModelOptions {
  int threads = 0;              // 0: one per core this process may use
  std::string device = "auto";  // "auto", "cpu" or "cuda:N"; a device this build lacks: Unsupported
  // Documents of more tokens are refused (number and template included). 0: what the model folder
  // says, else 2048.
  size_t document_tokens_max = 0;
  // Packed tokens that run through the layers at once; bounds the workspace. A longer document
  // still runs whole.
  size_t encode_batch_tokens = 2048;
  Precision precision = Precision::kFine;
};

// When a computing call must give up. Checked at least once per layer of a prefill or an encoding,
// and per generated token.
struct CallLimits {
  std::stop_token stop;                                           // Cancelled
  std::optional<std::chrono::steady_clock::time_point> deadline;  // DeadlineExceeded
};

struct DocumentInput {
  DocumentNumber number = 0;  // encoded into the text as "[number]. "
  std::string_view text;      // valid UTF-8, not empty
};

struct AnswerOptions {
  CallLimits limits;
  // Called on the calling thread with each piece of the answer (whole UTF-8 characters; the pieces
  // concatenate to AnswerResult::text). Return false to cancel.
  std::function<bool(std::string_view piece)> on_text;

  // Memory Interleave (paper section 3.4, spec section 4). Upper bounds.
  int rounds_max = 4;                    // prefills, the answering one included; at least 1
  int answer_tokens_max = 256;           // tokens generated after retrieval ended
  int retrieval_tokens_max = 128;        // tokens generated in one retrieval round
  int documents_per_round_max = 16;      // texts appended in one round
  int retrieved_text_tokens_max = 3072;  // tokens of original text appended in one round

  // Sampling. Temperature 0 is greedy and reproducible; the document numbers of retrieval rounds
  // are always chosen greedily.
  float temperature = 0.0f;
  float top_p = 1.0f;
  uint64_t seed = 0;
};

enum class FinishReason : uint8_t {
  kStop,    // the model ended its answer
  kLength,  // answer_tokens_max was reached
};

struct LayerTrace {
  int layer = 0;                          // the model's layer number
  std::vector<RoutedDocument> documents;  // attended to, best first
};

struct RoundTrace {
  std::vector<DocumentNumber> generated;  // numbers asked for, in order, unknown ones included
  std::vector<DocumentNumber> appended;   // those whose original text was added
  std::vector<LayerTrace> layers;         // one per routing layer
  uint32_t prompt_tokens = 0;
  uint32_t generated_tokens = 0;
  double prefill_ms = 0;
  double routing_ms = 0;  // part of prefill: MemoryBank::Route
  double fetch_ms = 0;    // part of prefill: MemoryBank::Fetch
  double decode_ms = 0;
};

struct CitedDocument {
  DocumentNumber number = 0;
  bool fetched = false;    // its original text was appended to the prompt
  bool in_answer = false;  // its number appears as "[n]" in the answer
};

struct AnswerResult {
  std::string text;                      // trimmed of the template's fixed words
  std::vector<CitedDocument> citations;  // existing documents only, in order of first mention
  FinishReason finish_reason = FinishReason::kStop;
  uint32_t prompt_tokens = 0;     // prefilled, all rounds together
  uint32_t generated_tokens = 0;  // all rounds together
  std::vector<RoundTrace> rounds;
};

class Model {
 public:
  // Reads a model folder (docs/model-folder.md): config.json, safetensors, tokenizer.json,
  // templates.json. NotFound / Corruption / InvalidArgument / Unsupported name the file or tensor
  // and what is wrong with it.
  static Result<std::unique_ptr<Model>> Load(const std::string& folder,
                                             const ModelOptions& options = {});
  virtual ~Model() = default;

  // --- What memory must know to hold this model's documents ---

  virtual const std::string& fingerprint() const = 0;  // hex SHA-256 (model/fingerprint.h)
  virtual const std::string& description() const = 0;  // one line for people
  virtual size_t kv_dim() const = 0;  // n_kv_heads * head_dim, width of every memory row
  virtual size_t routing_layer_count() const = 0;
  virtual size_t chunk_tokens() const = 0;  // pooling_kernel_size
  virtual size_t top_k() const = 0;         // documents each routing layer attends to
  virtual size_t document_tokens_max() const = 0;
  virtual std::string_view routing_metric() const = 0;  // "cosine" or "scaled_dot"
  // Whether content should lie in page-locked memory (kernels/cuda_backend.h), because a GPU reads
  // it from there.
  virtual bool wants_pinned_content() const { return false; }

  // Tokens of a bare text, without template and number. InvalidArgument: not UTF-8.
  virtual Result<size_t> CountTokens(std::string_view text) const = 0;
  // Tokens EncodeDocuments would run for this document, template and number included.
  virtual Result<size_t> CountDocumentTokens(const DocumentInput& document) const = 0;

  // --- Computing ---

  // The memory of each document, in the order given. Documents are independent of each other: a
  // batch gives the same result as one call each, up to float32 rounding. All or nothing.
  // InvalidArgument (naming the document): empty, not UTF-8, or over document_tokens_max tokens.
  virtual Result<std::vector<EncodedDocument>> EncodeDocuments(
      std::span<const DocumentInput> documents, const CallLimits& limits = {}) = 0;

  // Documents ranked by routing alone, best first; at most `count`. A document's score is the mean
  // over routing layers of its score in that layer; a layer whose list ends before the document
  // counts with the last score of its list, so a score never depends on unseen documents.
  virtual Result<std::vector<RoutedDocument>> Search(std::string_view query, MemoryBank& bank,
                                                     size_t count,
                                                     const CallLimits& limits = {}) = 0;

  // Answers a question from memory (spec sections 3 and 4). An empty bank still answers, with no
  // citations. InvalidArgument: empty or not UTF-8, or longer than the model's context.
  // Cancelled / DeadlineExceeded: nothing is returned, though on_text has seen pieces.
  virtual Result<AnswerResult> Answer(std::string_view question, MemoryBank& bank,
                                      const AnswerOptions& options = {}) = 0;
};

}  // namespace msadb::model

#endif  // MSADB_MODEL_MODEL_H_
