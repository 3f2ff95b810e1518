#include "index/device_context.h"

#include <map>
#include <utility>

namespace msadb::index::internal {
namespace {

template <typename T>
std::unique_ptr<T> TakeIdle(std::mutex& mutex, std::vector<std::unique_ptr<T>>& idle) {
  std::lock_guard lock(mutex);
  if (idle.empty()) return nullptr;
  std::unique_ptr<T> taken = std::move(idle.back());
  idle.pop_back();
  return taken;
}

}  // namespace

DeviceStaging::DeviceStaging(int d) : device(d) {
  const DeviceScope scope(device);
  CheckCuda(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreate");
  for (cudaEvent_t& event : copied) {
    CheckCuda(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "cudaEventCreate");
  }
  memory.Reserve(2 * kHalfBytes);
}

DeviceStaging::~DeviceStaging() {
  for (cudaEvent_t event : copied) {
    if (event != nullptr) (void)cudaEventDestroy(event);
  }
  if (stream != nullptr) (void)cudaStreamDestroy(stream);
}

DeviceWorkspace::DeviceWorkspace(int d) : device(d) {
  const DeviceScope scope(device);
  CheckCuda(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreate");
}

DeviceWorkspace::~DeviceWorkspace() {
  if (stream != nullptr) (void)cudaStreamDestroy(stream);
}

DeviceContext& DeviceContext::Get(int device) {
  // Never destroyed: the driver may be gone before static objects are.
  static std::mutex* const mutex = new std::mutex;
  static auto* const contexts = new std::map<int, std::unique_ptr<DeviceContext>>;
  std::lock_guard lock(*mutex);
  std::unique_ptr<DeviceContext>& context = (*contexts)[device];
  if (context == nullptr) context.reset(new DeviceContext(device));
  return *context;
}

std::unique_ptr<DeviceStaging> DeviceContext::TakeStaging() {
  auto staging = TakeIdle(mutex_, stagings_);
  return staging ? std::move(staging) : std::make_unique<DeviceStaging>(device_);
}

std::unique_ptr<DeviceWorkspace> DeviceContext::TakeWorkspace() {
  auto workspace = TakeIdle(mutex_, workspaces_);
  return workspace ? std::move(workspace) : std::make_unique<DeviceWorkspace>(device_);
}

void DeviceContext::Return(std::unique_ptr<DeviceStaging> staging) noexcept {
  (void)cudaStreamSynchronize(staging->stream);
  staging->n_rows = 0;
  try {
    std::lock_guard lock(mutex_);
    if (stagings_.size() < kIdleMax) stagings_.push_back(std::move(staging));
  } catch (const std::bad_alloc&) {  // then it is freed
  }
}

void DeviceContext::Return(std::unique_ptr<DeviceWorkspace> workspace) noexcept {
  (void)cudaStreamSynchronize(workspace->stream);
  try {
    std::lock_guard lock(mutex_);
    if (workspaces_.size() < kIdleMax) workspaces_.push_back(std::move(workspace));
  } catch (const std::bad_alloc&) {
  }
}

}  // namespace msadb::index::internal
