// The driver's virtual memory functions that index/device_memory.cc looks up, for the emulated GPU
// of tests/kernels/cuda/emulated: addresses are host addresses, which cannot be touched before
// memory is put behind them. Granules are pages, so that one row too far ends the program.
#include <cuda.h>
#include <cuda_runtime_api.h>
#include <sys/mman.h>

#include <cstring>
#include <string_view>

namespace {

constexpr size_t kGranule = 4096;

char* Pointer(CUdeviceptr address) { return reinterpret_cast<char*>(address); }

CUresult Granularity(size_t* granularity, const CUmemAllocationProp*,
                     CUmemAllocationGranularity_flags) {
  *granularity = kGranule;
  return CUDA_SUCCESS;
}

CUresult Reserve(CUdeviceptr* address, size_t bytes, size_t, CUdeviceptr, unsigned long long) {
  void* memory =
      mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) return CUDA_ERROR_OUT_OF_MEMORY;
  *address = reinterpret_cast<CUdeviceptr>(memory);
  return CUDA_SUCCESS;
}

CUresult Free(CUdeviceptr address, size_t bytes) {
  return munmap(Pointer(address), bytes) == 0 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult Create(CUmemGenericAllocationHandle* handle, size_t bytes, const CUmemAllocationProp*,
                unsigned long long) {
  *handle = bytes;
  return bytes % kGranule == 0 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult Release(CUmemGenericAllocationHandle) { return CUDA_SUCCESS; }

CUresult Map(CUdeviceptr address, size_t bytes, size_t offset, CUmemGenericAllocationHandle handle,
             unsigned long long) {
  const bool whole = address % kGranule == 0 && offset == 0 && bytes == handle;
  return whole ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult Unmap(CUdeviceptr address, size_t bytes) {
  return mprotect(Pointer(address), bytes, PROT_NONE) == 0 ? CUDA_SUCCESS
                                                           : CUDA_ERROR_INVALID_VALUE;
}

CUresult SetAccess(CUdeviceptr address, size_t bytes, const CUmemAccessDesc*, size_t) {
  if (mprotect(Pointer(address), bytes, PROT_READ | PROT_WRITE) != 0) {
    return CUDA_ERROR_OUT_OF_MEMORY;
  }
  std::memset(Pointer(address), 0xff, bytes);  // fresh device memory is not zero
  return CUDA_SUCCESS;
}

struct Entry {
  std::string_view name;
  void* function;
};
const Entry kEntries[] = {
    {"cuMemGetAllocationGranularity", reinterpret_cast<void*>(&Granularity)},
    {"cuMemAddressReserve", reinterpret_cast<void*>(&Reserve)},
    {"cuMemAddressFree", reinterpret_cast<void*>(&Free)},
    {"cuMemCreate", reinterpret_cast<void*>(&Create)},
    {"cuMemRelease", reinterpret_cast<void*>(&Release)},
    {"cuMemMap", reinterpret_cast<void*>(&Map)},
    {"cuMemUnmap", reinterpret_cast<void*>(&Unmap)},
    {"cuMemSetAccess", reinterpret_cast<void*>(&SetAccess)},
};

}  // namespace

extern "C" cudaError_t cudaGetDriverEntryPointByVersion(const char* name, void** function, unsigned,
                                                        unsigned long long,
                                                        cudaDriverEntryPointQueryResult* result) {
  for (const Entry& entry : kEntries) {
    if (entry.name != name) continue;
    *function = entry.function;
    *result = cudaDriverEntryPointSuccess;
    return cudaSuccess;
  }
  *result = cudaDriverEntryPointSymbolNotFound;
  return cudaSuccess;
}
