// Mean pooling of each document's rows over consecutive chunks (MSA paper section 3.2, spec section
// 2): row c of a document is the float32 mean of its tokens [c * chunk, min((c + 1) * chunk,
// length)). The last chunk averages what it has; a chunk never spans two documents.
//
// Memory traffic only, under a thousandth of a forward pass: the plain loops are the CPU version.
#ifndef MSADB_KERNELS_CHUNK_POOL_H_
#define MSADB_KERNELS_CHUNK_POOL_H_

#include <cstddef>

namespace msadb::kernels {

struct ChunkPoolParams {
  const float* x = nullptr;         // [sum of lengths, width], documents one after another
  size_t x_stride = 0;              // floats between tokens
  const size_t* lengths = nullptr;  // [documents], tokens of each; 0 gives no rows
  size_t documents = 0;
  size_t chunk = 0;  // at least 1
  size_t width = 0;
  float* out = nullptr;  // [sum of ceil(length / chunk), width]; no overlap with x
};

void ChunkPoolRef(const ChunkPoolParams& p);

}  // namespace msadb::kernels

#endif  // MSADB_KERNELS_CHUNK_POOL_H_
