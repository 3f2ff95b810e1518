// The CUDA runtime's, the driver's and cuBLAS's functions that msadb calls, for one GPU that is this CPU: memory is
// host memory, and everything is finished when a call returns. Linked before the real runtime.
#include <cuda.h>
#include <cuda_runtime_api.h>
#include <sys/mman.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "kernels/cuda/cublas.h"
#include "kernels/dtype.h"

namespace {

// What the process may have as device memory, so that asking for too much fails.
constexpr size_t kDeviceBytes = size_t{4} << 30;

thread_local cudaError_t last_error = cudaSuccess;

cudaError_t Remember(cudaError_t error) {
  if (error != cudaSuccess) last_error = error;
  return error;
}

cudaError_t Allocate(void** memory, size_t bytes) {
  if (bytes > kDeviceBytes) return Remember(cudaErrorMemoryAllocation);
  if (posix_memalign(memory, 256, bytes) != 0) return Remember(cudaErrorMemoryAllocation);
  // Fresh device memory is not zero.
  std::memset(*memory, 0xff, bytes);
  return cudaSuccess;
}

// The driver's virtual memory: addresses without access until something is mapped there.
constexpr size_t kGranuleBytes = size_t{2} << 20;

CUresult GetGranularity(size_t* bytes, const CUmemAllocationProp*,
                        CUmemAllocationGranularity_flags) {
  *bytes = kGranuleBytes;
  return CUDA_SUCCESS;
}
CUresult ReserveAddresses(CUdeviceptr* address, size_t bytes, size_t, CUdeviceptr,
                          unsigned long long) {
  void* const range =
      mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  *address = reinterpret_cast<CUdeviceptr>(range);
  return range == MAP_FAILED ? CUDA_ERROR_OUT_OF_MEMORY : CUDA_SUCCESS;
}
CUresult FreeAddresses(CUdeviceptr address, size_t bytes) {
  munmap(reinterpret_cast<void*>(address), bytes);
  return CUDA_SUCCESS;
}
CUresult CreateMemory(CUmemGenericAllocationHandle* handle, size_t bytes,
                      const CUmemAllocationProp*, unsigned long long) {
  *handle = 1;
  return bytes > kDeviceBytes ? CUDA_ERROR_OUT_OF_MEMORY : CUDA_SUCCESS;
}
CUresult ReleaseMemory(CUmemGenericAllocationHandle) { return CUDA_SUCCESS; }
CUresult MapMemory(CUdeviceptr address, size_t bytes, size_t, CUmemGenericAllocationHandle,
                   unsigned long long) {
  auto* const memory = reinterpret_cast<void*>(address);
  if (mprotect(memory, bytes, PROT_READ | PROT_WRITE) != 0) return CUDA_ERROR_OUT_OF_MEMORY;
  std::memset(memory, 0xff, bytes);
  return CUDA_SUCCESS;
}
CUresult UnmapMemory(CUdeviceptr address, size_t bytes) {
  auto* const memory = reinterpret_cast<void*>(address);
  madvise(memory, bytes, MADV_DONTNEED);
  mprotect(memory, bytes, PROT_NONE);
  return CUDA_SUCCESS;
}
CUresult SetAccess(CUdeviceptr, size_t, const CUmemAccessDesc*, size_t) { return CUDA_SUCCESS; }

struct DriverFunction {
  const char* name;
  void* address;
};
const DriverFunction driver_functions[] = {
    {"cuMemGetAllocationGranularity", reinterpret_cast<void*>(&GetGranularity)},
    {"cuMemAddressReserve", reinterpret_cast<void*>(&ReserveAddresses)},
    {"cuMemAddressFree", reinterpret_cast<void*>(&FreeAddresses)},
    {"cuMemCreate", reinterpret_cast<void*>(&CreateMemory)},
    {"cuMemRelease", reinterpret_cast<void*>(&ReleaseMemory)},
    {"cuMemMap", reinterpret_cast<void*>(&MapMemory)},
    {"cuMemUnmap", reinterpret_cast<void*>(&UnmapMemory)},
    {"cuMemSetAccess", reinterpret_cast<void*>(&SetAccess)},
};

}  // namespace

extern "C" {

cudaError_t cudaGetDriverEntryPointByVersion(const char* name, void** address, unsigned,
                                             unsigned long long,
                                             cudaDriverEntryPointQueryResult* result) {
  for (const DriverFunction& function : driver_functions) {
    if (std::strcmp(function.name, name) != 0) continue;
    *address = function.address;
    *result = cudaDriverEntryPointSuccess;
    return cudaSuccess;
  }
  *result = cudaDriverEntryPointSymbolNotFound;
  return cudaSuccess;
}

cudaError_t cudaGetDeviceCount(int* count) {
  *count = 1;
  return cudaSuccess;
}
cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) {
  return Remember(device == 0 ? cudaSuccess : cudaErrorInvalidDevice);
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
  *properties = {};
  std::snprintf(properties->name, sizeof properties->name, "GPU emulated on the CPU");
  properties->totalGlobalMem = kDeviceBytes;
  properties->multiProcessorCount = 6;
  properties->major = 9;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  if (attribute != cudaDevAttrMultiProcessorCount) return Remember(cudaErrorInvalidValue);
  *value = 6;
  return cudaSuccess;
}
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void*) {
  *attributes = {};
  return cudaSuccess;
}
cudaError_t cudaGetLastError() { return std::exchange(last_error, cudaSuccess); }
const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess: return "no error";
    case cudaErrorMemoryAllocation: return "out of memory";
    case cudaErrorInvalidDevice: return "invalid device ordinal";
    case cudaErrorInvalidConfiguration: return "invalid configuration argument";
    default: return "invalid argument";
  }
}
cudaError_t cudaMalloc(void** memory, size_t bytes) { return Allocate(memory, bytes); }
cudaError_t cudaFree(void* memory) {
  std::free(memory);
  return cudaSuccess;
}
cudaError_t cudaHostAlloc(void** memory, size_t bytes, unsigned) { return Allocate(memory, bytes); }
cudaError_t cudaFreeHost(void* memory) { return cudaFree(memory); }
cudaError_t cudaMemPoolCreate(cudaMemPool_t* pool, const cudaMemPoolProps*) {
  *pool = nullptr;
  return cudaSuccess;
}
cudaError_t cudaMemPoolDestroy(cudaMemPool_t) { return cudaSuccess; }
cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t, cudaMemPoolAttr, void*) { return cudaSuccess; }
cudaError_t cudaMemPoolTrimTo(cudaMemPool_t, size_t) { return cudaSuccess; }
cudaError_t cudaMallocFromPoolAsync(void** memory, size_t bytes, cudaMemPool_t, cudaStream_t) {
  return Allocate(memory, bytes);
}
cudaError_t cudaFreeAsync(void* memory, cudaStream_t) { return cudaFree(memory); }
cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  *free = *total = kDeviceBytes;
  return cudaSuccess;
}
cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind) {
  std::memcpy(to, from, bytes);
  return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t) {
  return cudaMemcpy(to, from, bytes, kind);
}
cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t) {
  std::memset(to, value, bytes);
  return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  *stream = nullptr;
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t) { return cudaSuccess; }
cudaError_t cudaDeviceSynchronize() { return cudaSuccess; }
cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  *event = nullptr;
  return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t) { return cudaSuccess; }
cudaError_t cudaEventRecord(cudaEvent_t, cudaStream_t) { return cudaSuccess; }
cudaError_t cudaEventSynchronize(cudaEvent_t) { return cudaSuccess; }

}  // extern "C"

namespace msadb::kernels::cuda {
namespace {

float Element(const void* data, cudaDataType type, size_t i) {
  if (type == CUDA_R_32F) return static_cast<const float*>(data)[i];
  const uint32_t bits = uint32_t{static_cast<const uint16_t*>(data)[i]} << 16;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// C = alpha A^T B + beta C, column-major: the one form that msadb asks for.
cublasStatus_t Gemm(cublasHandle_t, cublasOperation_t transpose_a, cublasOperation_t transpose_b,
                    int m, int n, int k, const void* alpha, const void* a, cudaDataType a_type,
                    int lda, const void* b, cudaDataType b_type, int ldb, const void* beta, void* c,
                    cudaDataType c_type, int ldc, cublasComputeType_t, cublasGemmAlgo_t) {
  if (transpose_a != CUBLAS_OP_T || transpose_b != CUBLAS_OP_N) return CUBLAS_STATUS_NOT_SUPPORTED;
  const float scale = *static_cast<const float*>(alpha), keep = *static_cast<const float*>(beta);
  for (int column = 0; column < n; ++column) {
    for (int row = 0; row < m; ++row) {
      float sum = 0;
      for (int i = 0; i < k; ++i) {
        sum += Element(a, a_type, static_cast<size_t>(row) * lda + i) *
               Element(b, b_type, static_cast<size_t>(column) * ldb + i);
      }
      const size_t at = static_cast<size_t>(column) * ldc + row;
      const float value = scale * sum + (keep == 0 ? 0 : keep * Element(c, c_type, at));
      if (c_type == CUDA_R_32F) {
        static_cast<float*>(c)[at] = value;
      } else {
        static_cast<uint16_t*>(c)[at] = F32ToBf16(value);
      }
    }
  }
  return CUBLAS_STATUS_SUCCESS;
}

}  // namespace

Result<const CublasLibrary*> CublasLibrary::Get() {
  static const CublasLibrary library = {
      [](cublasHandle_t* handle) {
        *handle = nullptr;
        return CUBLAS_STATUS_SUCCESS;
      },
      [](cublasHandle_t) { return CUBLAS_STATUS_SUCCESS; },
      [](cublasHandle_t, cudaStream_t) { return CUBLAS_STATUS_SUCCESS; },
      [](cublasHandle_t, void*, size_t) { return CUBLAS_STATUS_SUCCESS; }, &Gemm};
  return &library;
}

}  // namespace msadb::kernels::cuda
