// GPU memory of this room: errors, address ranges that are filled with memory as they are needed,
// and buffers that grow. No CUDA types, so that every file of the room can include it.
#ifndef MSADB_INDEX_DEVICE_MEMORY_H_
#define MSADB_INDEX_DEVICE_MEMORY_H_

#include <cstddef>
#include <exception>
#include <string>
#include <utility>
#include <vector>

#include "msadb/status.h"

namespace msadb::index::internal {

// What a failed CUDA call throws inside this room; Guard() turns it into its status.
class DeviceFailure : public std::exception {
 public:
  explicit DeviceFailure(Status status)
      : status_(std::move(status)), message_(status_.ToString()) {}
  const Status& status() const { return status_; }
  const char* what() const noexcept override { return message_.c_str(); }

 private:
  Status status_;
  std::string message_;
};

// Throws DeviceFailure unless `cuda_error` (a cudaError_t) is success.
void CheckCuda(int cuda_error, const char* what);

// Makes `device` the calling thread's device while it lives. Throws DeviceFailure.
class DeviceScope {
 public:
  explicit DeviceScope(int device);
  ~DeviceScope();
  DeviceScope(const DeviceScope&) = delete;
  DeviceScope& operator=(const DeviceScope&) = delete;

 private:
  int previous_ = 0;
};

// Asked before every allocation of GPU memory in this room; false refuses it as if the GPU were
// full. For tests; null (the default) asks nobody. Set it while no other thread uses an index.
using DeviceAllocationHook = bool (*)(size_t bytes);
void SetDeviceAllocationHook(DeviceAllocationHook hook);

// A range of GPU addresses. Memory is put behind it by Commit, in steps of about 2 MiB, without
// moving what is there: an array can be reserved at its largest size and costs what was written.
class DeviceRange {
 public:
  // Reserves addresses only. Throws DeviceFailure.
  DeviceRange(int device, size_t bytes);
  ~DeviceRange();
  DeviceRange(const DeviceRange&) = delete;
  DeviceRange& operator=(const DeviceRange&) = delete;

  // Puts memory behind the bytes [begin, end). Throws DeviceFailure (ResourceExhausted: the GPU is
  // full); what was committed stays.
  void Commit(size_t begin, size_t end);

  char* data() const { return data_; }
  size_t bytes_committed() const { return bytes_committed_; }

 private:
  struct Mapping {
    size_t begin, bytes;
  };
  const int device_;
  size_t granule_ = 0;
  size_t bytes_ = 0;
  char* data_ = nullptr;
  std::vector<bool> committed_;  // by granule
  std::vector<Mapping> mappings_;
  size_t bytes_committed_ = 0;
};

// Device memory that grows; the contents are lost when it does.
class DeviceScratch {
 public:
  DeviceScratch() = default;
  ~DeviceScratch();
  DeviceScratch(const DeviceScratch&) = delete;
  DeviceScratch& operator=(const DeviceScratch&) = delete;

  // At least `bytes`, on the current device. Throws DeviceFailure.
  void Reserve(size_t bytes);
  template <typename T>
  T* as() const {
    return static_cast<T*>(data_);
  }

 private:
  void* data_ = nullptr;
  size_t bytes_ = 0;
};

// Page-locked host memory that the GPUs read and write; grows like DeviceScratch.
class PinnedScratch {
 public:
  PinnedScratch() = default;
  ~PinnedScratch();
  PinnedScratch(const PinnedScratch&) = delete;
  PinnedScratch& operator=(const PinnedScratch&) = delete;

  void Reserve(size_t bytes);
  template <typename T>
  T* as() const {
    return static_cast<T*>(data_);
  }

 private:
  void* data_ = nullptr;
  size_t bytes_ = 0;
};

}  // namespace msadb::index::internal

#endif  // MSADB_INDEX_DEVICE_MEMORY_H_
