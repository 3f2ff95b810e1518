// The one place where RocksDB's errors become ours. Internal to storage.
#ifndef MSADB_STORAGE_ROCKSDB_STATUS_H_
#define MSADB_STORAGE_ROCKSDB_STATUS_H_

#include <rocksdb/status.h>

#include <string_view>

#include "msadb/status.h"

namespace msadb::storage {

// `context` says what was being done, and to what. OK gives OK.
Status FromRocksdb(const rocksdb::Status& status, std::string_view context);

}  // namespace msadb::storage

#endif  // MSADB_STORAGE_ROCKSDB_STATUS_H_
