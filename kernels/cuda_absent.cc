// kernels/cuda_backend.h in a build without CUDA.
#include "kernels/cuda_backend.h"

namespace msadb::kernels {

int CudaDeviceCount() { return 0; }

Result<std::unique_ptr<Backend>> MakeCudaBackend(int device) {
  return Status::Unsupported(
      "this build has no CUDA code; use device \"cpu\", or build msadb where "
      "the CUDA Toolkit is installed");
}

void* AllocatePinned(size_t bytes) { return nullptr; }

void FreePinned(void* memory) {}

}  // namespace msadb::kernels
