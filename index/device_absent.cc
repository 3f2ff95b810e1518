// GPUs in a build without CUDA: no index can be made on one (CheckDevices), so nothing else here is
// ever reached.
#include "index/device_memory.h"
#include "index/device_rows.h"
#include "index/search.h"

namespace msadb::index::internal {
namespace {

Status NoCuda() {
  return Status::Unsupported(
      "this build has no CUDA code; leave IndexConfig::devices empty, or build msadb where the "
      "CUDA Toolkit is installed");
}

}  // namespace

struct DeviceStaging {};

void SetDeviceAllocationHook(DeviceAllocationHook) {}
DeviceRange::DeviceRange(int device, size_t) : device_(device) { throw DeviceFailure(NoCuda()); }
DeviceRange::~DeviceRange() = default;
DeviceRows::DeviceRows(int device, int n_layers, size_t dim, KeyType type, uint32_t capacity_rows)
    : device_(device),
      n_layers_(n_layers),
      dim_(dim),
      type_(type),
      padded_dim_(0),
      row_bytes_(0),
      scale_bytes_(0),
      capacity_rows_(capacity_rows),
      plane_bytes_(0),
      scale_plane_bytes_(0),
      range_(device, 0) {}
DeviceRows::~DeviceRows() = default;
void DeviceRows::Append(uint32_t, uint32_t, std::span<const float* const>) {}
void DeviceRows::CopyFrom(const DeviceRows&, uint32_t, uint32_t, uint32_t) {}
void DeviceRows::Flush(const uint32_t*, uint32_t, uint32_t) {}
void DeviceRows::Discard() {}
void DeviceRows::Read(int, uint32_t, uint32_t, float*) const {}

Status CheckDevices(const IndexConfig& config) {
  return config.devices.empty() ? Status::Ok() : NoCuda();
}

std::vector<RoutedDocument> SearchDevices(const SearchRequest&) { throw DeviceFailure(NoCuda()); }

}  // namespace msadb::index::internal
