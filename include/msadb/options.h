// Settings of a database and of its calls. Each field says its default and effect.
#ifndef MSADB_OPTIONS_H_
#define MSADB_OPTIONS_H_

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <string_view>

#include "msadb/document.h"
#include "msadb/filter.h"

namespace msadb {

// When an acknowledged commit is on disk.
enum class Durability : uint8_t {
  kSync,      // before the call returns: survives power loss (default)
  kBuffered,  // in the operating system's cache: survives a killed process, not a power cut
};

// Upper bounds on input, checked before anything is allocated or encoded.
struct Limits {
  size_t text_bytes_max = 16u << 20;       // one document's text
  size_t key_bytes_max = 1024;
  size_t source_bytes_max = 1024;
  size_t metadata_entries_max = 256;
  size_t metadata_bytes_max = 64u << 10;   // names and values of one document together
  size_t question_bytes_max = 256u << 10;
  size_t transaction_operations_max = 100'000;
  size_t transaction_bytes_max = 1u << 30;  // text, metadata and encoded blocks of one transaction
};

// What routing keys are in memory. On disk they are float16, whatever is chosen here.
enum class RoutingKeys : uint8_t {
  kFloat,  // as stored (default): 2 bytes a value on a GPU, 4 in host memory
  kInt8,   // rounded to 8 bits, with a scale for each key: 1 byte a value on a GPU, 4 in host memory
};

struct Options {
  // --- Behavior ---

  // Create the folder and an empty database when there is none.
  bool create_if_missing = true;
  // Fail with AlreadyExists when the folder holds a database already.
  bool error_if_exists = false;
  // Refuse every change. Still takes the folder's lock.
  bool read_only = false;

  // The model folder (docs/model-folder.md). Empty: the folder the database remembers from its
  // creation, else the environment variable MSADB_MODEL. A database only opens with the model it
  // was made with, recognised by a fingerprint of the folder's contents, not by its path. How a model
  // is asked (templates.json but for `head` and `document`) does not count.
  std::string model_path;
  // Use an already loaded model instead (several databases of one process can share it).
  std::shared_ptr<class LoadedModel> model;

  Durability durability = Durability::kSync;
  Limits limits;

  // How often expired documents are deleted in the background. Zero: only by Compact() and by
  // writes. Expired documents are invisible at once in any case.
  std::chrono::milliseconds expiry_interval{1000};

  // --- Performance ---

  // "auto", "cpu", "cuda:N" or "cuda:N,M,...". "auto" takes GPU 0 when the build and the machine have
  // one. Of several GPUs the first computes the model; routing keys are spread over all of them, and
  // every search runs on all at once.
  std::string device = "auto";
  // Threads for the model's mathematics. 0: one per core this process may use.
  int threads = 0;
  // Host memory for the K/V blocks of hot documents.
  size_t block_cache_bytes = 512u << 20;
  // Host (CPU) or device (GPU) memory for routing keys of open collections. An index is loaded when
  // its collection is first used; past the budget the least recently used idle ones are dropped.
  size_t index_bytes_max = size_t{16} << 30;
  // kInt8 halves a GPU's memory for routing keys. Documents are then ranked, exactly, by the rounded
  // keys, so answers can differ a little from kFloat's: a layer finds 0.996 of the best 16 documents
  // (docs/performance.md). GPU and host memory give the same answers, but only a GPU saves memory.
  // Nothing on disk depends on it: the next opening may choose otherwise.
  RoutingKeys routing_keys = RoutingKeys::kFloat;
  // RocksDB's memtables and caches together.
  size_t storage_memory_bytes = 128u << 20;
  // Documents whose memory is encoded in one pass of the model by bulk inserts.
  size_t encode_batch_tokens = 4096;
};

struct SearchOptions {
  size_t top_k = 10;             // documents returned, 1..1000
  std::optional<Filter> where;   // only documents whose metadata matches
  bool include_text = true;      // false: ids, scores and parts only
};

struct AskOptions {
  std::optional<Filter> where;   // only documents whose metadata matches are attended to
  // Called with each piece of the answer as it is generated (valid UTF-8). Called from the asking
  // thread, while the model is busy with this answer: it must not call the database. Return false to
  // cancel.
  std::function<bool(std::string_view piece)> on_text;
  std::stop_token stop;          // request_stop() makes the call end with Cancelled
  std::optional<std::chrono::steady_clock::time_point> deadline;  // else DeadlineExceeded
  bool trace = false;            // fill Answer::trace

  // Memory Interleave (MSA paper section 3.4). All are upper bounds.
  int rounds_max = 4;
  int answer_tokens_max = 256;
  int retrieved_text_tokens_max = 3072;  // original text appended in one round

  // Sampling. Temperature 0 is greedy and reproducible.
  float temperature = 0.0f;
  float top_p = 1.0f;
  uint64_t seed = 0;
};

struct ListOptions {
  DocumentId start_after = 0;    // continue after this id
  size_t limit = 100;            // 1..10,000
  std::optional<Filter> where;
  bool include_text = true;
};

// Progress of InsertMany. `done` counts documents durable and visible so far.
struct InsertProgress {
  size_t done = 0;
  size_t total = 0;
  uint64_t tokens = 0;
};

struct InsertManyOptions {
  // Called after every committed batch. Return false to stop: what is committed stays, and the
  // call ends with Cancelled.
  std::function<bool(const InsertProgress&)> on_progress;
  // With a key present already: replace the document (true), or skip it unread (false). Skipping is
  // what makes an interrupted load resumable: run it again.
  bool replace_existing = false;
};

}  // namespace msadb

#endif  // MSADB_OPTIONS_H_
