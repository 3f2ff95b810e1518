// What searches and writers of all indexes on one GPU share: streams and buffers that wait for
// their next use. Includes CUDA's runtime header: only for this room's device_*.cc files.
#ifndef MSADB_INDEX_DEVICE_CONTEXT_H_
#define MSADB_INDEX_DEVICE_CONTEXT_H_

#include <cuda_runtime_api.h>

#include <memory>
#include <mutex>
#include <vector>

#include "index/device_memory.h"

namespace msadb::index::internal {

// Page-locked memory in two halves: one is filled while the other is copied.
struct DeviceStaging {
  explicit DeviceStaging(int device);
  ~DeviceStaging();

  static constexpr size_t kHalfBytes = size_t{8} << 20;
  const int device;
  cudaStream_t stream = nullptr;
  cudaEvent_t copied[2] = {};
  PinnedScratch memory;
  int half = 0;
  uint32_t first_row = 0;
  uint32_t n_rows = 0;  // in the current half
};

// What one search needs on one GPU.
struct DeviceWorkspace {
  explicit DeviceWorkspace(int device);
  ~DeviceWorkspace();

  const int device;
  cudaStream_t stream = nullptr;
  PinnedScratch upload;  // queries, table of segments, counters, masks
  DeviceScratch uploaded;
  DeviceScratch packed;      // float16 queries
  DeviceScratch scores;      // one float a chunk
  DeviceScratch candidates;  // of the kernel's top-k
  DeviceScratch top;         // RoutedOrdinal
  DeviceScratch rows;        // RouteRow
  PinnedScratch results;     // RouteRow with scores, after a count
};

class DeviceContext {
 public:
  // The context of a device of this machine; lives to the end of the process. Throws DeviceFailure.
  static DeviceContext& Get(int device);

  // An idle one or a new one. Throws DeviceFailure.
  std::unique_ptr<DeviceStaging> TakeStaging();
  std::unique_ptr<DeviceWorkspace> TakeWorkspace();
  // Gives it back for the next one, after its stream's work is done.
  void Return(std::unique_ptr<DeviceStaging> staging) noexcept;
  void Return(std::unique_ptr<DeviceWorkspace> workspace) noexcept;

  std::mutex& faiss_mutex() {
    return faiss_mutex_;
  }  // FAISS's resources serve one thread at a time

 private:
  explicit DeviceContext(int device) : device_(device) {}
  static constexpr size_t kIdleMax = 16;
  const int device_;
  std::mutex mutex_;
  std::mutex faiss_mutex_;
  std::vector<std::unique_ptr<DeviceStaging>> stagings_;
  std::vector<std::unique_ptr<DeviceWorkspace>> workspaces_;
};

}  // namespace msadb::index::internal

#endif  // MSADB_INDEX_DEVICE_CONTEXT_H_
