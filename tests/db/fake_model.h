// A model without mathematics, for tests of the database: quick, deterministic, and able to tell
// whether what memory hands back is what it encoded.
//
// A token is a word. A chunk's routing key is the unit vector of its words' hashes, so a query
// finds the document that shares its words. Content K and V of a chunk follow from its number and
// words alone: Answer recomputes them from MemoryBank::Text and compares, so blocks of another
// document, another version or half a document are an error.
#ifndef MSADB_TESTS_DB_FAKE_MODEL_H_
#define MSADB_TESTS_DB_FAKE_MODEL_H_

#include <functional>
#include <memory>
#include <stop_token>
#include <string>

#include "msadb/database.h"

namespace msadb::db {

struct FakeModelOptions {
  std::string fingerprint = std::string(64, 'f');
  size_t document_tokens_max = 64;    // words, number included
  bool wants_pinned_content = false;  // as a model on a GPU does
  // Called at the start of every Answer with its stop token; may block, for a test that needs a
  // question to last.
  std::function<void(const std::stop_token&)> on_answer;
};

std::shared_ptr<LoadedModel> MakeFakeModel(const FakeModelOptions& options = {});

// Documents encoded by all fake models of this process so far.
uint64_t FakeDocumentsEncoded();

}  // namespace msadb::db

#endif  // MSADB_TESTS_DB_FAKE_MODEL_H_
