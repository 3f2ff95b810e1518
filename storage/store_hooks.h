// What tests may put between the store and the disk. Internal to storage and its tests.
#ifndef MSADB_STORAGE_STORE_HOOKS_H_
#define MSADB_STORAGE_STORE_HOOKS_H_

#include <rocksdb/env.h>
#include <rocksdb/file_system.h>

#include <memory>

namespace msadb::storage {

struct StoreHooks {
  // Carries all reads and writes of the store but its LOCK.
  std::shared_ptr<rocksdb::FileSystem> file_system;
  // What RocksDB runs on, over the same file system. Null: the usual threads and clock.
  std::shared_ptr<rocksdb::Env> env;
};

}  // namespace msadb::storage

#endif  // MSADB_STORAGE_STORE_HOOKS_H_
