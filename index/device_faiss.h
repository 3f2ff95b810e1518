// FAISS's brute-force search of rows that are in GPU memory already (faiss::gpu::bfKnn). Builds
// without FAISS for GPUs have these functions too (device_faiss_absent.cc).
#ifndef MSADB_INDEX_DEVICE_FAISS_H_
#define MSADB_INDEX_DEVICE_FAISS_H_

#include <cstddef>
#include <cstdint>

#include "msadb/status.h"

namespace msadb::index::internal {

// Ok when FAISS can search on GPUs here; the message of an error says what is missing.
Status CheckDeviceFaiss();

// Longest list that FAISS's selection can make.
inline constexpr size_t kDeviceFaissListMax = 2048;

// The n_listed <= kDeviceFaissListMax rows of keys [n_rows, dim] with the largest inner products
// with each of queries [n_tokens, dim]: scores and rows [n_tokens, n_listed], host memory,
// descending. Keys and queries are float16 in the memory of `device`, and written; n_rows * dim is
// below 2^31. Waits for the result. Throws DeviceFailure, FaissException.
void DeviceFaissSearch(int device, const void* keys, size_t n_rows, size_t dim, const void* queries,
                       size_t n_tokens, size_t n_listed, float* scores, int64_t* rows);

}  // namespace msadb::index::internal

#endif  // MSADB_INDEX_DEVICE_FAISS_H_
