// Token embedding: out[i, :] = float32 of row ids[i] of the embedding matrix, whatever its type.
#ifndef MSADB_KERNELS_EMBEDDING_H_
#define MSADB_KERNELS_EMBEDDING_H_

#include <cstddef>
#include <cstdint>

#include "kernels/weight_matrix.h"

namespace msadb::kernels {

struct EmbeddingParams {
  const WeightMatrix* weight = nullptr;  // [vocabulary, width]
  const int32_t* ids = nullptr;          // [tokens], each in [0, vocabulary)
  size_t tokens = 0;
  float* out = nullptr;  // [tokens, width]
  size_t out_stride = 0;
};

// A row copy per token: the plain loop is the CPU version.
void EmbeddingRef(const EmbeddingParams& p);

}  // namespace msadb::kernels

#endif  // MSADB_KERNELS_EMBEDDING_H_
