#include "kernels/cuda/device_memory.h"

#include <algorithm>
#include <cstdint>
#include <map>
#include <mutex>

#include "kernels/cuda_backend.h"

namespace msadb::kernels {
namespace cuda {
namespace {

// AllocatePinned blocks: begin to end.
struct Registry {
  std::mutex mutex;
  std::map<uintptr_t, uintptr_t> blocks;
};

Registry& PinnedRegistry() {
  static Registry* const registry = new Registry;  // outlives every user at exit
  return *registry;
}

}  // namespace

Status FromCuda(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return Status::Ok();
  (void)cudaGetLastError();  // errors that do not stay are forgotten here
  const std::string detail = std::string(cudaGetErrorString(error)) + " in " + what;
  switch (error) {
    case cudaErrorMemoryAllocation:
      return Status::ResourceExhausted(
          "out of GPU memory; use shorter documents or fewer at a time, or another device (" +
          detail + ")");
    case cudaErrorInvalidValue:
    case cudaErrorInvalidConfiguration:
    case cudaErrorInvalidPitchValue:
      return Status::Internal("a wrong call of CUDA: " + detail);
    case cudaErrorNoKernelImageForDevice:
    case cudaErrorInvalidDeviceFunction:
      return Status::Unsupported(
          "this build has no code for the GPU; build with its architecture in "
          "MSADB_CUDA_ARCHITECTURES, or use device \"cpu\" (" +
          detail + ")");
    default:
      return Status::Unavailable("the GPU stopped working: " + detail +
                                 "; open the database again, with device \"cpu\" if it stays so");
  }
}

Result<std::shared_ptr<Stream>> Stream::Create(int device) {
  auto stream = std::make_shared<Stream>();
  stream->device = device;
  MSADB_CUDA_RETURN_IF_ERROR(cudaSetDevice(device));
  MSADB_CUDA_RETURN_IF_ERROR(cudaStreamCreateWithFlags(&stream->stream, cudaStreamNonBlocking));
  cudaMemPoolProps properties = {};
  properties.allocType = cudaMemAllocationTypePinned;
  properties.location.type = cudaMemLocationTypeDevice;
  properties.location.id = device;
  MSADB_CUDA_RETURN_IF_ERROR(cudaMemPoolCreate(&stream->pool, &properties));
  uint64_t keep = UINT64_MAX;
  MSADB_CUDA_RETURN_IF_ERROR(
      cudaMemPoolSetAttribute(stream->pool, cudaMemPoolAttrReleaseThreshold, &keep));
  return stream;
}

// Errors of a shutdown help nobody: the driver frees what is left with the process.
Stream::~Stream() {
  (void)cudaSetDevice(device);
  if (stream != nullptr) (void)cudaStreamSynchronize(stream);
  if (pool != nullptr) (void)cudaMemPoolDestroy(pool);
  if (stream != nullptr) (void)cudaStreamDestroy(stream);
}

Result<DeviceBuffer> DeviceBuffer::Allocate(std::shared_ptr<Stream> stream, size_t bytes) {
  DeviceBuffer buffer;
  if (bytes == 0) return buffer;
  MSADB_CUDA_RETURN_IF_ERROR(cudaSetDevice(stream->device));
  cudaError_t error = cudaMallocFromPoolAsync(&buffer.data_, bytes, stream->pool, stream->stream);
  if (error == cudaErrorMemoryAllocation) {
    // What the pool keeps may be in pieces of other sizes.
    (void)cudaGetLastError();
    (void)cudaStreamSynchronize(stream->stream);
    (void)cudaMemPoolTrimTo(stream->pool, 0);
    error = cudaMallocFromPoolAsync(&buffer.data_, bytes, stream->pool, stream->stream);
  }
  if (error != cudaSuccess) {
    buffer.data_ = nullptr;
    return FromCuda(error, "cudaMallocFromPoolAsync");
  }
  buffer.stream_ = std::move(stream);
  buffer.size_ = bytes;
  return buffer;
}

Status DeviceBuffer::Reserve(const std::shared_ptr<Stream>& stream, size_t bytes) {
  if (bytes <= size_) return Status::Ok();
  Free();
  MSADB_ASSIGN_OR_RETURN(*this, Allocate(stream, bytes));
  return Status::Ok();
}

void DeviceBuffer::Free() {
  if (data_ == nullptr) return;
  (void)cudaSetDevice(stream_->device);
  (void)cudaFreeAsync(data_, stream_->stream);
  data_ = nullptr;
  size_ = 0;
}

PinnedArea::~PinnedArea() {
  if (data_ != nullptr) (void)cudaFreeHost(data_);
}

Status PinnedArea::Resize(size_t bytes) {
  if (data_ != nullptr) (void)cudaFreeHost(data_);
  data_ = nullptr;
  size_ = used_ = 0;
  void* memory = nullptr;
  MSADB_CUDA_RETURN_IF_ERROR(cudaHostAlloc(&memory, bytes, cudaHostAllocPortable));
  data_ = static_cast<char*>(memory);
  size_ = bytes;
  return Status::Ok();
}

void* PinnedArea::Take(size_t bytes) {
  const size_t rounded = (bytes + 255) / 256 * 256;
  if (rounded < bytes || rounded > size_ - used_) return nullptr;
  void* const taken = data_ + used_;
  used_ += rounded;
  return taken;
}

PinnedRanges::PinnedRanges() { PinnedRegistry().mutex.lock(); }
PinnedRanges::~PinnedRanges() { PinnedRegistry().mutex.unlock(); }

bool PinnedRanges::Contain(const void* memory, size_t bytes) {
  const auto begin = reinterpret_cast<uintptr_t>(memory);
  if (begin < begin_ || begin >= end_) {
    const auto& blocks = PinnedRegistry().blocks;
    auto after = blocks.upper_bound(begin);
    if (after == blocks.begin()) return false;
    --after;
    begin_ = after->first;
    end_ = after->second;
  }
  return begin + bytes <= end_;
}

}  // namespace cuda

int CudaDeviceCount() {
  int count = 0;
  if (cudaGetDeviceCount(&count) == cudaSuccess) return count;
  (void)cudaGetLastError();
  return 0;
}

void* AllocatePinned(size_t bytes) {
  if (bytes == 0 || CudaDeviceCount() == 0) return nullptr;
  void* memory = nullptr;
  if (cudaHostAlloc(&memory, bytes, cudaHostAllocPortable) != cudaSuccess) {
    (void)cudaGetLastError();
    return nullptr;
  }
  auto& registry = cuda::PinnedRegistry();
  const std::lock_guard lock(registry.mutex);
  const auto begin = reinterpret_cast<uintptr_t>(memory);
  registry.blocks[begin] = begin + bytes;
  return memory;
}

void FreePinned(void* memory) {
  if (memory == nullptr) return;
  {
    auto& registry = cuda::PinnedRegistry();
    const std::lock_guard lock(registry.mutex);
    registry.blocks.erase(reinterpret_cast<uintptr_t>(memory));
  }
  (void)cudaFreeHost(memory);
}

}  // namespace msadb::kernels
