// How kernels walk over the documents of all segments.
#ifndef MSADB_KERNELS_CUDA_ROUTE_SEGMENTS_CUH_
#define MSADB_KERNELS_CUDA_ROUTE_SEGMENTS_CUH_

#include <cstdint>

#include "kernels/cuda/primitives.cuh"
#include "kernels/route_topk.h"

namespace msadb::kernels::cuda {

// A thread goes through the chunks of a document of its own when there are at most this many; the
// warp goes through those of others together.
inline constexpr size_t kOwnChunksMax = 64;

// Where a document's scores are.
struct DocumentScores {
  size_t begin = 0;
  size_t end = 0;  // begin: no document, or not an allowed one
};

// Finds documents by their ordinals over all segments. A thread asks in ascending order.
class DocumentCursor {
 public:
  __device__ DocumentCursor(const RouteSegment* segments, size_t n_documents)
      : segments_(segments), segment_(segments[0]), n_documents_(n_documents) {}

  __device__ DocumentScores Seek(size_t document) {
    if (document >= n_documents_) return {};
    while (document >= segment_.first_document + segment_.n_documents) {
      segment_ = segments_[++index_];
    }
    const size_t d = document - segment_.first_document;
    if (segment_.allowed != nullptr && !(segment_.allowed[d / 32] >> (d % 32) & 1)) return {};
    return {segment_.first_score + segment_.document_begin[d],
            segment_.first_score + segment_.document_begin[d + 1]};
  }

  // Of the document found last.
  __device__ uint32_t segment() const { return index_; }
  __device__ size_t first_score() const { return segment_.first_score; }

 private:
  const RouteSegment* segments_;
  RouteSegment segment_;
  size_t n_documents_;
  uint32_t index_ = 0;
};

}  // namespace msadb::kernels::cuda

#endif  // MSADB_KERNELS_CUDA_ROUTE_SEGMENTS_CUH_
