// A reproducible life of a store, and what must be in it after every step.
//
// Step k follows from the seed, k and the state before it, so that a parent process can follow what
// a child does without seeing more than the number of its acknowledged steps.
#ifndef MSADB_TESTS_FAULT_WORKLOAD_H_
#define MSADB_TESTS_FAULT_WORKLOAD_H_

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "storage/store.h"

namespace msadb::storage {

struct ModelDocument {
  uint64_t content = 0;
  uint32_t parts = 1;
  uint32_t n_chunks = 1;
  std::optional<std::string> key;
  std::optional<int64_t> expires_us;
  bool operator==(const ModelDocument&) const = default;
};

struct ModelCollection {
  std::map<Number, ModelDocument> documents;  // by id
  Number next_number = 1;
  bool operator==(const ModelCollection&) const = default;
};

using ModelState = std::map<std::string, ModelCollection>;

// What a store answered that `state` does not explain, and what it refused to answer.
struct Comparison {
  std::vector<std::string> wrong;   // a wrong or missing answer without an error
  std::vector<std::string> errors;  // Corruption, IOError, ...
  bool exact() const { return wrong.empty() && errors.empty(); }
  std::string ToString() const;
};
Comparison Compare(const Store& store, const ModelState& state);

class Workload {
 public:
  explicit Workload(uint64_t seed) : seed_(seed) {}

  // Plans the next step, does it on `store`, and takes it as done if it succeeded.
  Status Step(Store& store);
  // The same without a store: as if the step had succeeded.
  void Skip();
  // After a failure or a kill: the store holds the state before the interrupted step or after it.
  // Takes note of which; false, with the differences, when it is neither.
  bool Settle(const Store& store, std::string* differences);

  uint64_t steps_done() const { return steps_; }
  const ModelState& state() const { return state_; }

 private:
  struct Plan {
    enum Kind { kPut, kCreate, kDrop, kPurge, kVerify } kind = kPut;
    std::string collection;
    std::vector<Number> deletes;                            // before the inserts
    std::vector<std::pair<Number, ModelDocument>> inserts;  // with the ids they will have
    ModelState after;
  };
  Plan MakePlan() const;
  static Status Do(const Plan& plan, const ModelState& before, Store& store);

  const uint64_t seed_;
  uint64_t steps_ = 0;
  ModelState state_;
};

}  // namespace msadb::storage

#endif  // MSADB_TESTS_FAULT_WORKLOAD_H_
