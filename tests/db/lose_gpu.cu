#include <cuda_runtime.h>

#include "tests/db/lose_gpu.h"

namespace msadb::db {
namespace {

__global__ void WriteNowhere(int* address) { *address = 1; }

}  // namespace

void LoseGpu(int device) {
  (void)cudaSetDevice(device);
  WriteNowhere<<<1, 1>>>(reinterpret_cast<int*>(16));
  (void)cudaDeviceSynchronize();
}

}  // namespace msadb::db
