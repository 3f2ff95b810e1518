// The CUDA runtime's, the driver's and cuBLAS's functions that msadb calls, for two GPUs that are this
// CPU: memory is host memory, and everything is finished when a call returns. Linked before the real
// runtime.
#include <cuda.h>
#include <cuda_runtime_api.h>
#include <sys/mman.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string_view>
#include <utility>

#include "emulation.h"
#include "kernels/cuda/cublas.h"
#include "kernels/dtype.h"

namespace {

// What the process may have as device memory, so that asking for too much fails.
constexpr size_t kDeviceBytes = size_t{4} << 30;

constexpr int kDevices = 2;
constexpr int kMultiprocessors = msadb::emulated::kMultiprocessors;

thread_local cudaError_t last_error = cudaSuccess;
thread_local int current_device = 0;
std::atomic<bool> lost[kDevices];

cudaError_t Remember(cudaError_t error) {
  if (error != cudaSuccess) last_error = error;
  return error;
}

// What a call that reaches the device returns: after an error of the hardware, always that.
cudaError_t Device() {
  return lost[current_device] ? Remember(cudaErrorIllegalAddress) : cudaSuccess;
}

cudaError_t Allocate(void** memory, size_t bytes) {
  if (lost[current_device]) return Device();
  if (bytes > kDeviceBytes) return Remember(cudaErrorMemoryAllocation);
  if (posix_memalign(memory, 256, bytes) != 0) return Remember(cudaErrorMemoryAllocation);
  // Fresh device memory is not zero.
  std::memset(*memory, 0xff, bytes);
  return cudaSuccess;
}

// The driver's: memory put behind reserved addresses.
constexpr size_t kGranule = size_t{64} << 10;

CUresult Granularity(size_t* bytes, const CUmemAllocationProp*, CUmemAllocationGranularity_flags) {
  *bytes = kGranule;
  return CUDA_SUCCESS;
}
CUresult AddressReserve(CUdeviceptr* address, size_t bytes, size_t, CUdeviceptr, cuuint64_t) {
  void* const reserved =
      mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (reserved == MAP_FAILED) return CUDA_ERROR_OUT_OF_MEMORY;
  *address = reinterpret_cast<CUdeviceptr>(reserved);
  return CUDA_SUCCESS;
}
CUresult AddressFree(CUdeviceptr address, size_t bytes) {
  munmap(reinterpret_cast<void*>(address), bytes);
  return CUDA_SUCCESS;
}
CUresult Create(CUmemGenericAllocationHandle* handle, size_t bytes, const CUmemAllocationProp*,
                unsigned long long) {
  if (bytes > kDeviceBytes) return CUDA_ERROR_OUT_OF_MEMORY;
  *handle = 1;
  return CUDA_SUCCESS;
}
CUresult Release(CUmemGenericAllocationHandle) { return CUDA_SUCCESS; }
CUresult Map(CUdeviceptr, size_t, size_t, CUmemGenericAllocationHandle, unsigned long long) {
  return CUDA_SUCCESS;
}
CUresult SetAccess(CUdeviceptr address, size_t bytes, const CUmemAccessDesc*, size_t) {
  void* const memory = reinterpret_cast<void*>(address);
  if (mprotect(memory, bytes, PROT_READ | PROT_WRITE) != 0) return CUDA_ERROR_OUT_OF_MEMORY;
  std::memset(memory, 0xff, bytes);
  return CUDA_SUCCESS;
}
CUresult Unmap(CUdeviceptr address, size_t bytes) {
  return mprotect(reinterpret_cast<void*>(address), bytes, PROT_NONE) == 0 ? CUDA_SUCCESS
                                                                           : CUDA_ERROR_UNKNOWN;
}

const std::pair<std::string_view, void*> kDriver[] = {
    {"cuMemGetAllocationGranularity", reinterpret_cast<void*>(&Granularity)},
    {"cuMemAddressReserve", reinterpret_cast<void*>(&AddressReserve)},
    {"cuMemAddressFree", reinterpret_cast<void*>(&AddressFree)},
    {"cuMemCreate", reinterpret_cast<void*>(&Create)},
    {"cuMemRelease", reinterpret_cast<void*>(&Release)},
    {"cuMemMap", reinterpret_cast<void*>(&Map)},
    {"cuMemUnmap", reinterpret_cast<void*>(&Unmap)},
    {"cuMemSetAccess", reinterpret_cast<void*>(&SetAccess)},
};

}  // namespace

extern "C" {

cudaError_t cudaGetDriverEntryPointByVersion(const char* name, void** function, unsigned,
                                             unsigned long long,
                                             cudaDriverEntryPointQueryResult* result) {
  for (const auto& [known, address] : kDriver) {
    if (known != name) continue;
    *function = address;
    *result = cudaDriverEntryPointSuccess;
    return cudaSuccess;
  }
  *result = cudaDriverEntryPointSymbolNotFound;
  return Remember(cudaErrorSymbolNotFound);
}

cudaError_t cudaGetDeviceCount(int* count) {
  *count = kDevices;
  return cudaSuccess;
}
cudaError_t cudaGetDevice(int* device) {
  *device = current_device;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) {
  if (device < 0 || device >= kDevices) return Remember(cudaErrorInvalidDevice);
  current_device = device;
  return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
  *properties = {};
  std::snprintf(properties->name, sizeof properties->name, "GPU emulated on the CPU");
  properties->totalGlobalMem = kDeviceBytes;
  properties->multiProcessorCount = kMultiprocessors;
  properties->major = 9;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  if (attribute != cudaDevAttrMultiProcessorCount) return Remember(cudaErrorInvalidValue);
  *value = kMultiprocessors;
  return cudaSuccess;
}
cudaError_t cudaGetLastError() { return std::exchange(last_error, cudaSuccess); }
const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess: return "no error";
    case cudaErrorMemoryAllocation: return "out of memory";
    case cudaErrorInvalidDevice: return "invalid device ordinal";
    case cudaErrorIllegalAddress: return "an illegal memory access was encountered";
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
  return Device();
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
  return Device();
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t) {
  return cudaMemcpy(to, from, bytes, kind);
}
cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t) {
  std::memset(to, value, bytes);
  return Device();
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  *stream = nullptr;
  return Device();
}
cudaError_t cudaStreamDestroy(cudaStream_t) { return cudaSuccess; }
cudaError_t cudaDeviceSynchronize() { return Device(); }
cudaError_t cudaStreamSynchronize(cudaStream_t) { return Device(); }
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  *event = nullptr;
  return Device();
}
cudaError_t cudaEventDestroy(cudaEvent_t) { return cudaSuccess; }
cudaError_t cudaEventRecord(cudaEvent_t, cudaStream_t) { return Device(); }
cudaError_t cudaEventSynchronize(cudaEvent_t) { return Device(); }

}  // extern "C"

namespace msadb::emulated {

void LoseDevice(int device) { lost[device] = true; }
int DeviceError() { return Device(); }

}  // namespace msadb::emulated

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
