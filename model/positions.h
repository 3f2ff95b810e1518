// Where tokens stand for RoPE. Documents and questions count differently (spec sections 2 and 3),
// and mixing the two is the bug to expect: hence two types.
#ifndef MSADB_MODEL_POSITIONS_H_
#define MSADB_MODEL_POSITIONS_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace msadb::model {

// Document-wise: 0 .. length - 1, restarting at every document of a packed batch.
struct DocumentPositions {
  explicit DocumentPositions(std::span<const size_t> lengths) {
    for (size_t length : lengths) {
      for (size_t i = 0; i < length; ++i) values.push_back(static_cast<int32_t>(i));
    }
  }
  std::vector<int32_t> values;
};

// Global: consecutive from `first` on. The first question token stands at template prefix length +
// top_k_docs, whatever number of documents exists.
struct GlobalPositions {
  GlobalPositions(size_t first, size_t count) {
    for (size_t i = 0; i < count; ++i) values.push_back(static_cast<int32_t>(first + i));
  }
  std::vector<int32_t> values;
};

}  // namespace msadb::model

#endif  // MSADB_MODEL_POSITIONS_H_
