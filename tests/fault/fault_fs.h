// A file system that fails on demand and can lose power. It sits between a Store and the real one.
//
// Faults: the n-th operation of a kind (or of any kind that writes) fails with EIO or ENOSPC, once
// or from then on. A failing append leaves a part of its bytes, as a real one may.
//
// Power: after CutPowerAt(n) the n-th writing operation and all later ones do nothing and fail.
// Then, with the store closed, LosePower() makes the folder what a power cut could have left: each
// file keeps what was synced and a random part of what was appended since, and creations, renames
// and deletions whose folder was not synced are undone from some random one on.
#ifndef MSADB_TESTS_FAULT_FAULT_FS_H_
#define MSADB_TESTS_FAULT_FAULT_FS_H_

#include <rocksdb/file_system.h>

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "storage/store_hooks.h"

namespace msadb::storage {

enum class FaultOp : uint8_t {
  kCreate,
  kAppend,
  kFlush,
  kSync,
  kClose,
  kRename,
  kDelete,
  kFolderSync,
  kRandomWrite,  // into the middle of a file
  kRead,
};
inline constexpr size_t kFaultOps = 10;
const char* FaultOpName(FaultOp op);

struct Fault {
  std::optional<FaultOp> op;  // none: any but kRead
  uint64_t at = 0;            // the at-th one from now, from 1; 0: none
  bool forever = false;       // and all later ones
  bool no_space = false;      // ENOSPC, else EIO
};

class FaultFs : public rocksdb::FileSystemWrapper {
 public:
  FaultFs();
  ~FaultFs() override;
  const char* Name() const override { return "FaultFs"; }

  void Arm(const Fault& fault);
  bool fired() const;  // the armed fault has happened
  std::array<uint64_t, kFaultOps> counts() const;
  uint64_t writes() const;  // all but reads

  void CutPowerAt(uint64_t write);
  // To be called with no store open. Power is back afterwards.
  void LosePower(std::mt19937_64& rng);

  rocksdb::IOStatus NewSequentialFile(const std::string& path, const rocksdb::FileOptions& options,
                                      std::unique_ptr<rocksdb::FSSequentialFile>* file,
                                      rocksdb::IODebugContext* debug) override;
  rocksdb::IOStatus NewRandomAccessFile(const std::string& path,
                                        const rocksdb::FileOptions& options,
                                        std::unique_ptr<rocksdb::FSRandomAccessFile>* file,
                                        rocksdb::IODebugContext* debug) override;
  rocksdb::IOStatus NewWritableFile(const std::string& path, const rocksdb::FileOptions& options,
                                    std::unique_ptr<rocksdb::FSWritableFile>* file,
                                    rocksdb::IODebugContext* debug) override;
  rocksdb::IOStatus ReopenWritableFile(const std::string& path, const rocksdb::FileOptions& options,
                                       std::unique_ptr<rocksdb::FSWritableFile>* file,
                                       rocksdb::IODebugContext* debug) override;
  rocksdb::IOStatus ReuseWritableFile(const std::string& path, const std::string& old_path,
                                      const rocksdb::FileOptions& options,
                                      std::unique_ptr<rocksdb::FSWritableFile>* file,
                                      rocksdb::IODebugContext* debug) override;
  rocksdb::IOStatus NewRandomRWFile(const std::string& path, const rocksdb::FileOptions& options,
                                    std::unique_ptr<rocksdb::FSRandomRWFile>* file,
                                    rocksdb::IODebugContext* debug) override;
  rocksdb::IOStatus NewDirectory(const std::string& path, const rocksdb::IOOptions& options,
                                 std::unique_ptr<rocksdb::FSDirectory>* folder,
                                 rocksdb::IODebugContext* debug) override;
  rocksdb::IOStatus DeleteFile(const std::string& path, const rocksdb::IOOptions& options,
                               rocksdb::IODebugContext* debug) override;
  rocksdb::IOStatus RenameFile(const std::string& from, const std::string& to,
                               const rocksdb::IOOptions& options,
                               rocksdb::IODebugContext* debug) override;

  // For the file wrappers.
  // What the next operation of this kind shall do: OK, or the error it must return.
  rocksdb::IOStatus Step(FaultOp op);
  // How many of `bytes` a failing append still writes.
  size_t PartOf(size_t bytes);
  void Appended(const std::string& path, uint64_t bytes);
  void Synced(const std::string& path);
  void FolderSynced(const std::string& path);
  void RandomWritten(const std::string& path);

 private:
  struct FileState {
    uint64_t bytes = 0;
    uint64_t synced_bytes = 0;
    // A file written in place (COMMITS): all of it as of the last sync, while that differs.
    std::optional<std::string> synced_content;
  };
  // A change of names that a power cut may undo.
  struct NameChange {
    enum Kind { kCreated, kRenamed, kDeleted } kind;
    std::string path;
    std::string to;                     // of a rename
    std::optional<std::string> before;  // content that was deleted or renamed over
    FileState before_state;
  };
  void Created(const std::string& path);

  mutable std::mutex mutex_;
  Fault fault_;
  uint64_t armed_seen_ = 0;
  bool fired_ = false;
  std::array<uint64_t, kFaultOps> counts_{};
  uint64_t cut_at_ = 0;
  bool power_off_ = false;
  std::mt19937_64 parts_{1};
  std::map<std::string, FileState> files_;
  std::vector<NameChange> unsynced_names_;
};

// A store over `fs`, on an environment that does not sleep: after a failed flush RocksDB waits a
// second before it looks again, which with hundreds of failures would be all that a test does.
std::shared_ptr<StoreHooks> HooksOver(const std::shared_ptr<FaultFs>& fs);

}  // namespace msadb::storage

#endif  // MSADB_TESTS_FAULT_FAULT_FS_H_
