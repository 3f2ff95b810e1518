// Device memory and errors of the GPU backend.
#ifndef MSADB_KERNELS_CUDA_DEVICE_MEMORY_H_
#define MSADB_KERNELS_CUDA_DEVICE_MEMORY_H_

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "msadb/status.h"

namespace msadb::kernels::cuda {

// ResourceExhausted for memory, Unavailable for a device that is gone, Internal for a call that
// should not have been made.
Status FromCuda(cudaError_t error, const char* what);

#define MSADB_CUDA_RETURN_IF_ERROR(call)                          \
  do {                                                            \
    const cudaError_t cuda_error = (call);                        \
    if (cuda_error != cudaSuccess) {                              \
      return ::msadb::kernels::cuda::FromCuda(cuda_error, #call); \
    }                                                             \
  } while (false)

// A device, the stream all of a backend's work goes to, and the pool its memory comes from. The
// pool keeps what is freed, so that a steady state allocates nothing from the driver.
struct Stream {
  static Result<std::shared_ptr<Stream>> Create(int device);
  ~Stream();

  int device = 0;
  cudaStream_t stream = nullptr;
  cudaMemPool_t pool = nullptr;
};

// Owns device memory, allocated and freed in the order of the stream's work: memory freed here is
// reused only by work submitted later.
class DeviceBuffer {
 public:
  DeviceBuffer() = default;
  // Uninitialised, aligned to 256 bytes.
  static Result<DeviceBuffer> Allocate(std::shared_ptr<Stream> stream, size_t bytes);
  ~DeviceBuffer() { Free(); }
  DeviceBuffer(DeviceBuffer&& other) noexcept
      : stream_(std::move(other.stream_)),
        data_(std::exchange(other.data_, nullptr)),
        size_(std::exchange(other.size_, 0)) {}
  DeviceBuffer& operator=(DeviceBuffer&& other) noexcept {
    std::swap(stream_, other.stream_);
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
  }

  // Grows to at least `bytes`; the contents are lost when it does.
  Status Reserve(const std::shared_ptr<Stream>& stream, size_t bytes);

  template <typename T>
  T* as() const {
    return static_cast<T*>(data_);
  }
  size_t size() const { return size_; }

 private:
  void Free();
  std::shared_ptr<Stream> stream_;
  void* data_ = nullptr;
  size_t size_ = 0;
};

// Page-locked memory handed out from front to back until Reset.
class PinnedArea {
 public:
  PinnedArea() = default;
  ~PinnedArea();
  PinnedArea(const PinnedArea&) = delete;
  PinnedArea& operator=(const PinnedArea&) = delete;

  // Replaces the area by one of at least `bytes`; nothing may use the old one any more.
  Status Resize(size_t bytes);
  // Null when it is full. Aligned to 256 bytes.
  void* Take(size_t bytes);
  void Reset() { used_ = 0; }
  size_t size() const { return size_; }

 private:
  char* data_ = nullptr;
  size_t size_ = 0;
  size_t used_ = 0;
};

// Whether every byte from `memory` on lies in one AllocatePinned block. A scope takes the
// registry's lock once for many questions.
class PinnedRanges {
 public:
  PinnedRanges();
  ~PinnedRanges();
  PinnedRanges(const PinnedRanges&) = delete;
  PinnedRanges& operator=(const PinnedRanges&) = delete;
  bool Contain(const void* memory, size_t bytes);

 private:
  uintptr_t begin_ = 0, end_ = 0;  // the block found last
};

}  // namespace msadb::kernels::cuda

#endif  // MSADB_KERNELS_CUDA_DEVICE_MEMORY_H_
