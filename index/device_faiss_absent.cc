// index/device_faiss.h in a build without FAISS for GPUs.
#include "index/device_faiss.h"
#include "index/device_memory.h"

namespace msadb::index::internal {

Status CheckDeviceFaiss() {
  return Status::Unsupported(
      "this build has no FAISS for GPUs (MSADB_FAISS_GPU); use Engine::kFused");
}

void DeviceFaissSearch(int, const void*, size_t, size_t, const void*, size_t, size_t, float*,
                       int64_t*) {
  throw DeviceFailure(CheckDeviceFaiss());
}

}  // namespace msadb::index::internal
