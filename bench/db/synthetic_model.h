// A model of a given shape that computes nothing: random memory in, random queries out. It lets the
// database be measured at sizes that no CPU could encode, with the routing work of a real question.
#ifndef MSADB_BENCH_DB_SYNTHETIC_MODEL_H_
#define MSADB_BENCH_DB_SYNTHETIC_MODEL_H_

#include <memory>

#include "model/model.h"

namespace msadb::bench {

struct SyntheticShape {
  size_t n_layers = 15;      // routing layers; SmolLM2-135M: the upper half of 30
  size_t dim = 192;          // 3 key/value heads of 64
  uint32_t n_chunks = 1;     // of every document
  size_t query_tokens = 16;  // that route
};

// Search routes one random query of query_tokens in every layer. `wants_pinned_content` as
// Model::wants_pinned_content: a model on a GPU does.
std::unique_ptr<model::Model> MakeSyntheticModel(const SyntheticShape& shape,
                                                 bool wants_pinned_content);

}  // namespace msadb::bench

#endif  // MSADB_BENCH_DB_SYNTHETIC_MODEL_H_
