// Options::device, read once for all who need it.
#ifndef MSADB_DB_DEVICE_H_
#define MSADB_DB_DEVICE_H_

#include <string>
#include <string_view>
#include <vector>

#include "msadb/status.h"

namespace msadb::db {

struct DeviceChoice {
  bool automatic = false;  // a GPU when there is one that works
  std::vector<int> gpus;   // the GPUs named, as CUDA counts them; empty for "auto" and "cpu"

  // What model::ModelOptions::device says the same with: the model runs on the first GPU named.
  std::string ForModel() const;
};

// "auto", "cpu", "cuda:N" or "cuda:N,M,...". InvalidArgument says which forms there are. A GPU that
// does not exist is noticed by whoever uses it.
Result<DeviceChoice> ParseDevice(std::string_view text);

}  // namespace msadb::db

#endif  // MSADB_DB_DEVICE_H_
