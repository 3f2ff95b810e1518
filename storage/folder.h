// The database folder around RocksDB: who owns it, what it is, and how far its log must reach.
// Internal to storage.
#ifndef MSADB_STORAGE_FOLDER_H_
#define MSADB_STORAGE_FOLDER_H_

#include <rocksdb/file_system.h>

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "msadb/status.h"

namespace msadb::storage {

inline constexpr char kMarkerFile[] = "MSADB";
inline constexpr char kLockFile[] = "LOCK";
inline constexpr char kCommitsFile[] = "COMMITS";
inline constexpr char kRocksdbFolder[] = "rocksdb";

enum class FolderState {
  kMissing,     // no such folder
  kEmpty,       // nothing of ours and nothing of others
  kUnfinished,  // a creation was cut short: everything but the marker may be there
  kDatabase,    // the marker is there
  kForeign,     // holds something else
};

// Looks, without changing anything. IOError when it cannot look; InvalidArgument for a path that is
// not a folder.
Result<FolderState> InspectFolder(const std::string& folder);

// Makes the folder, mode 0700. Its parent must exist.
Status CreateFolder(const std::string& path);

// The exclusive right to a folder, held until destroyed or the process ends, however it ends.
class FolderLock {
 public:
  // Unavailable, naming the holder's process id where it is known.
  static Result<std::unique_ptr<FolderLock>> Acquire(const std::string& folder);
  ~FolderLock();
  FolderLock(const FolderLock&) = delete;
  FolderLock& operator=(const FolderLock&) = delete;

 private:
  explicit FolderLock(int fd) : fd_(fd) {}
  int fd_;
};

// The marker: "msadb format 1\n". Written last when a database is created, so its presence means
// the rest is there and must never be created again.
Status WriteMarker(rocksdb::FileSystem& fs, const std::string& folder);
// Unsupported for a newer format, Corruption when it is not a marker.
Status CheckMarker(rocksdb::FileSystem& fs, const std::string& folder);

// The number of the newest commit known to be on disk, beside the log that holds the commits.
//
// RocksDB cannot tell a log whose end was cut off from one whose end was never written. This can:
// it is written, without fsync, after each commit's fsync returned; so whatever value a crash
// leaves here is one that the log must reach. A smaller value than the truth only weakens the
// check.
//
// Two slots are written in turn, each with its checksum, so that a torn write leaves the other.
class CommitCounter {
 public:
  // Makes the file with count 0, on disk when this returns.
  static Status Create(rocksdb::FileSystem& fs, const std::string& folder);
  // Never fails for damage: damaged() tells of it, and count() is what could be read.
  static Result<std::unique_ptr<CommitCounter>> Open(rocksdb::FileSystem& fs,
                                                     const std::string& folder, bool read_only);

  uint64_t count() const { return count_; }
  // Empty, or what was wrong with the file when it was opened.
  const std::string& damaged() const { return damaged_; }

  // Not for concurrent use with itself. After the first failure nothing more is written: an old
  // value is harmless.
  void Record(uint64_t count);
  void Sync();

 private:
  CommitCounter() = default;
  std::unique_ptr<rocksdb::FSRandomRWFile> file_;  // null when read-only or given up
  uint64_t count_ = 0;
  std::string damaged_;
};

// Names and sizes of the files under `folder`, one level of subfolders included.
struct FolderFile {
  std::string path;
  uint64_t bytes = 0;
};
std::vector<FolderFile> ListFiles(const std::string& folder);

}  // namespace msadb::storage

#endif  // MSADB_STORAGE_FOLDER_H_
