// The op table (kernels/backend.h) on an NVIDIA GPU, and host memory that GPUs read directly. A
// build without CUDA has these functions too; they say that there is none.
//
// Numbers. Activations are bfloat16, sums (states, logits) float32; every product and reduction
// accumulates in float32. Weights: bfloat16, int8 and int4 as the file holds them; float32 and
// float16 are rounded to bfloat16 when loaded. Products of up to 8 tokens read quantised weights as
// they are, larger ones expand them to bfloat16 first.
//
// Threads: as kernels/backend.h; calls may come from different threads, one at a time.
#ifndef MSADB_KERNELS_CUDA_BACKEND_H_
#define MSADB_KERNELS_CUDA_BACKEND_H_

#include <cstddef>
#include <memory>
#include <string>

#include "kernels/backend.h"
#include "msadb/status.h"

namespace msadb::kernels {

// GPUs this process can use; 0 without a driver, without a GPU and in a build without CUDA.
int CudaDeviceCount();

// Unsupported: a build without CUDA, no such device, or one this build has no code for.
// Unavailable: the device or cuBLAS does not start; the message says which.
// ResourceExhausted: no memory on the device. Calls of the backend answer Unavailable once the
// device is lost; another backend is needed then.
Result<std::unique_ptr<Backend>> MakeCudaBackend(int device);

// Page-locked host memory, aligned to a page, that every GPU of the process reads directly: null
// when the system refuses it or there is no GPU. Any thread.
void* AllocatePinned(size_t bytes);
void FreePinned(void* memory);

}  // namespace msadb::kernels

#endif  // MSADB_KERNELS_CUDA_BACKEND_H_
