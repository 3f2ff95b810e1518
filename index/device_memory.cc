#include "index/device_memory.h"

#include <cuda.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <atomic>
#include <cassert>

namespace msadb::index::internal {
namespace {

std::atomic<DeviceAllocationHook> allocation_hook{nullptr};

[[noreturn]] void ThrowFull(size_t bytes) {
  throw DeviceFailure(Status::ResourceExhausted(
      "the GPU has no " + std::to_string(bytes) +
      " bytes of memory left for routing keys; close other collections, delete documents and "
      "compact, or spread the index over more GPUs"));
}

void AskHook(size_t bytes) {
  const DeviceAllocationHook hook = allocation_hook.load();
  if (hook != nullptr && !hook(bytes)) ThrowFull(bytes);
}

// The driver's virtual memory functions, looked up when first needed: programs must start on
// machines that have no driver.
struct Driver {
  decltype(&cuMemGetAllocationGranularity) granularity = nullptr;
  decltype(&cuMemAddressReserve) reserve = nullptr;
  decltype(&cuMemAddressFree) free = nullptr;
  decltype(&cuMemCreate) create = nullptr;
  decltype(&cuMemRelease) release = nullptr;
  decltype(&cuMemMap) map = nullptr;
  decltype(&cuMemUnmap) unmap = nullptr;
  decltype(&cuMemSetAccess) set_access = nullptr;
  bool found = false;

  Driver() {
    found = Find("cuMemGetAllocationGranularity", &granularity) &&
            Find("cuMemAddressReserve", &reserve) && Find("cuMemAddressFree", &free) &&
            Find("cuMemCreate", &create) && Find("cuMemRelease", &release) &&
            Find("cuMemMap", &map) && Find("cuMemUnmap", &unmap) &&
            Find("cuMemSetAccess", &set_access);
  }

  template <typename Function>
  static bool Find(const char* name, Function* function) {
    void* address = nullptr;
    cudaDriverEntryPointQueryResult result = cudaDriverEntryPointSymbolNotFound;
    if (cudaGetDriverEntryPointByVersion(name, &address, 12000, cudaEnableDefault, &result) !=
            cudaSuccess ||
        result != cudaDriverEntryPointSuccess) {
      return false;
    }
    *function = reinterpret_cast<Function>(address);
    return true;
  }

  static const Driver& Get() {
    static const Driver driver;
    if (!driver.found) {
      throw DeviceFailure(Status::Unsupported(
          "the GPU driver has no virtual memory functions; update it, or use device \"cpu\""));
    }
    return driver;
  }
};

void CheckDriver(CUresult result, const char* what) {
  if (result == CUDA_SUCCESS) return;
  throw DeviceFailure(Status::Unavailable("the GPU stopped working: error " +
                                          std::to_string(static_cast<int>(result)) + " of " + what +
                                          "; open the database again"));
}

CUmemAllocationProp Properties(int device) {
  CUmemAllocationProp properties = {};
  properties.type = CU_MEM_ALLOCATION_TYPE_PINNED;
  properties.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
  properties.location.id = device;
  return properties;
}

CUdeviceptr Address(const char* pointer) { return reinterpret_cast<CUdeviceptr>(pointer); }

}  // namespace

void SetDeviceAllocationHook(DeviceAllocationHook hook) { allocation_hook.store(hook); }

void CheckCuda(int cuda_error, const char* what) {
  const auto error = static_cast<cudaError_t>(cuda_error);
  if (error == cudaSuccess) return;
  (void)cudaGetLastError();  // errors that do not stay are forgotten here
  const std::string detail = std::string(what) + ": " + cudaGetErrorString(error);
  switch (error) {
    case cudaErrorMemoryAllocation:
      throw DeviceFailure(Status::ResourceExhausted(
          "out of GPU memory; close other collections or spread the index over more GPUs (" +
          detail + ")"));
    case cudaErrorInvalidValue:
      throw DeviceFailure(Status::Internal("a wrong call of CUDA: " + detail));
    case cudaErrorNoKernelImageForDevice:
    case cudaErrorInvalidDeviceFunction:
    case cudaErrorNotSupported:
      throw DeviceFailure(Status::Unsupported(
          "this build has no routing code for the GPU; build with its architecture in "
          "MSADB_CUDA_ARCHITECTURES, or use device \"cpu\" (" +
          detail + ")"));
    case cudaErrorInvalidDevice:
    case cudaErrorNoDevice:
    case cudaErrorInsufficientDriver:
      throw DeviceFailure(
          Status::Unsupported("no such GPU (" + detail + "); use another, or device \"cpu\""));
    default:
      throw DeviceFailure(
          Status::Unavailable("the GPU stopped working (" + detail + "); open the database again"));
  }
}

DeviceScope::DeviceScope(int device) {
  CheckCuda(cudaGetDevice(&previous_), "cudaGetDevice");
  CheckCuda(cudaSetDevice(device), "cudaSetDevice");
}

DeviceScope::~DeviceScope() { (void)cudaSetDevice(previous_); }

DeviceRange::DeviceRange(int device, size_t bytes) : device_(device) {
  const Driver& driver = Driver::Get();
  const DeviceScope scope(device);  // starts the device
  const CUmemAllocationProp properties = Properties(device);
  CheckDriver(driver.granularity(&granule_, &properties, CU_MEM_ALLOC_GRANULARITY_RECOMMENDED),
              "cuMemGetAllocationGranularity");
  const size_t granules = (bytes + granule_ - 1) / granule_;
  bytes_ = granules * granule_;
  committed_.resize(granules);
  CUdeviceptr address = 0;
  const CUresult result = driver.reserve(&address, bytes_, granule_, 0, 0);
  if (result == CUDA_ERROR_OUT_OF_MEMORY) ThrowFull(bytes_);
  CheckDriver(result, "cuMemAddressReserve");
  data_ = reinterpret_cast<char*>(address);
}

DeviceRange::~DeviceRange() {
  // Errors of a shutdown help nobody.
  const Driver& driver = Driver::Get();
  for (const Mapping& mapping : mappings_) {
    (void)driver.unmap(Address(data_ + mapping.begin), mapping.bytes);
  }
  (void)driver.free(Address(data_), bytes_);
}

void DeviceRange::Commit(size_t begin, size_t end) {
  assert(end <= bytes_);
  if (begin >= end) return;
  const Driver& driver = Driver::Get();
  const size_t last = (end + granule_ - 1) / granule_;
  for (size_t first = begin / granule_; first < last;) {
    if (committed_[first]) {
      ++first;
      continue;
    }
    size_t after = first + 1;
    while (after < last && !committed_[after]) ++after;
    const size_t offset = first * granule_;
    const size_t bytes = (after - first) * granule_;
    AskHook(bytes);
    mappings_.reserve(mappings_.size() + 1);
    const CUmemAllocationProp properties = Properties(device_);
    CUmemGenericAllocationHandle handle = 0;
    const CUresult created = driver.create(&handle, bytes, &properties, 0);
    if (created == CUDA_ERROR_OUT_OF_MEMORY) ThrowFull(bytes);
    CheckDriver(created, "cuMemCreate");
    const CUresult mapped = driver.map(Address(data_ + offset), bytes, 0, handle, 0);
    (void)driver.release(handle);  // the mapping keeps the memory
    CheckDriver(mapped, "cuMemMap");
    CUmemAccessDesc access = {};
    access.location = properties.location;
    access.flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
    const CUresult allowed = driver.set_access(Address(data_ + offset), bytes, &access, 1);
    if (allowed != CUDA_SUCCESS) (void)driver.unmap(Address(data_ + offset), bytes);
    CheckDriver(allowed, "cuMemSetAccess");
    mappings_.push_back({offset, bytes});
    std::fill(committed_.begin() + first, committed_.begin() + after, true);
    bytes_committed_ += bytes;
    first = after;
  }
}

DeviceScratch::~DeviceScratch() { (void)cudaFree(data_); }

void DeviceScratch::Reserve(size_t bytes) {
  if (bytes <= bytes_) return;
  bytes = std::max(bytes, bytes_ + bytes_ / 2);
  AskHook(bytes);
  CheckCuda(cudaFree(data_), "cudaFree");
  data_ = nullptr;
  bytes_ = 0;
  CheckCuda(cudaMalloc(&data_, bytes), "cudaMalloc");
  bytes_ = bytes;
}

PinnedScratch::~PinnedScratch() { (void)cudaFreeHost(data_); }

void PinnedScratch::Reserve(size_t bytes) {
  if (bytes <= bytes_) return;
  bytes = std::max(bytes, bytes_ + bytes_ / 2);
  CheckCuda(cudaFreeHost(data_), "cudaFreeHost");
  data_ = nullptr;
  bytes_ = 0;
  CheckCuda(cudaHostAlloc(&data_, bytes, cudaHostAllocPortable), "cudaHostAlloc");
  bytes_ = bytes;
}

}  // namespace msadb::index::internal
