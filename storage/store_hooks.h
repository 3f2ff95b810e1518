// What tests may put between the store and the disk. Internal to storage and its tests.
#ifndef MSADB_STORAGE_STORE_HOOKS_H_
#define MSADB_STORAGE_STORE_HOOKS_H_

#include <rocksdb/file_system.h>

#include <memory>

namespace msadb::storage {

struct StoreHooks {
  // Carries all reads and writes of the store but its LOCK. Outlives the store.
  std::shared_ptr<rocksdb::FileSystem> file_system;
};

}  // namespace msadb::storage

#endif  // MSADB_STORAGE_STORE_HOOKS_H_
