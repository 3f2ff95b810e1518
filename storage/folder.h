// The database folder around RocksDB: who owns it and what it is.
// Internal to storage.
#ifndef MSADB_STORAGE_FOLDER_H_
#define MSADB_STORAGE_FOLDER_H_

#include <rocksdb/file_system.h>

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "msadb/status.h"

namespace msadb::storage {

inline constexpr char kMarkerFile[] = "MSADB";
inline constexpr char kLockFile[] = "LOCK";
inline constexpr char kCommitsFile[] = "COMMITS";
inline constexpr char kCommitsTemporary[] = "COMMITS.tmp";
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

// Writes a small file whole: under the name `temporary`, synced, renamed to `name`, and that
// synced.
Status WriteFileAtomically(rocksdb::FileSystem& fs, const std::string& folder,
                           const std::string& temporary, const std::string& name,
                           std::string_view content);

// Names and sizes of the files under `folder`, one level of subfolders included.
struct FolderFile {
  std::string path;
  uint64_t bytes = 0;
};
std::vector<FolderFile> ListFiles(const std::string& folder);

}  // namespace msadb::storage

#endif  // MSADB_STORAGE_FOLDER_H_
