#include "storage/folder.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <filesystem>
#include <string_view>
#include <system_error>

#include "storage/rocksdb_status.h"
#include "storage/store.h"

namespace msadb::storage {
namespace {

namespace stdfs = std::filesystem;

constexpr std::string_view kMarkerPrefix = "msadb format ";
constexpr char kMarkerTemporary[] = "MSADB.tmp";

Status FromErrno(int error, const std::string& what) {
  const std::string message = what + ": " + std::generic_category().message(error);
  if (error == ENOSPC || error == EDQUOT || error == EMFILE || error == ENFILE || error == ENOMEM) {
    return Status::ResourceExhausted(message);
  }
  return Status::IOError(message);
}

rocksdb::Status SyncFolder(rocksdb::FileSystem& fs, const std::string& folder) {
  std::unique_ptr<rocksdb::FSDirectory> directory;
  rocksdb::IOStatus s = fs.NewDirectory(folder, rocksdb::IOOptions(), &directory, nullptr);
  if (s.ok()) s = directory->Fsync(rocksdb::IOOptions(), nullptr);
  return s;
}

}  // namespace

Status WriteFileAtomically(rocksdb::FileSystem& fs, const std::string& folder,
                           const std::string& temporary, const std::string& name,
                           std::string_view content) {
  const std::string path = folder + "/" + temporary;
  std::unique_ptr<rocksdb::FSWritableFile> file;
  rocksdb::IOStatus s = fs.NewWritableFile(path, rocksdb::FileOptions(), &file, nullptr);
  if (s.ok()) {
    s = file->Append(rocksdb::Slice(content.data(), content.size()), rocksdb::IOOptions(), nullptr);
    if (s.ok()) s = file->Sync(rocksdb::IOOptions(), nullptr);
    const rocksdb::IOStatus closed = file->Close(rocksdb::IOOptions(), nullptr);
    if (s.ok()) s = closed;
  }
  if (s.ok()) s = fs.RenameFile(path, folder + "/" + name, rocksdb::IOOptions(), nullptr);
  rocksdb::Status synced = s;
  if (s.ok()) synced = SyncFolder(fs, folder);
  return FromRocksdb(synced, "writing " + folder + "/" + name);
}

Result<FolderState> InspectFolder(const std::string& folder) {
  std::error_code error;
  const stdfs::file_status status = stdfs::status(folder, error);
  if (status.type() == stdfs::file_type::not_found) return FolderState::kMissing;
  if (error) return FromErrno(error.value(), "looking at " + folder);
  if (status.type() != stdfs::file_type::directory) {
    return Status::InvalidArgument(folder + " is not a folder");
  }
  bool marker = false, ours = false, foreign = false;
  stdfs::directory_iterator it(folder, error);
  for (; !error && it != stdfs::directory_iterator(); it.increment(error)) {
    const std::string name = it->path().filename().string();
    if (name == kMarkerFile) {
      marker = true;
    } else if (name == kLockFile || name == kCommitsFile || name == kRocksdbFolder ||
               name == kMarkerTemporary || name == kCommitsTemporary) {
      ours = true;
    } else if (name != "lost+found") {  // of a mount point
      foreign = true;
    }
  }
  if (error) return FromErrno(error.value(), "reading " + folder);
  if (marker) return FolderState::kDatabase;
  if (foreign) return FolderState::kForeign;
  return ours ? FolderState::kUnfinished : FolderState::kEmpty;
}

Status CreateFolder(const std::string& path) {
  if (::mkdir(path.c_str(), 0700) != 0 && errno != EEXIST) {
    return FromErrno(errno, "creating the folder " + path);
  }
  return Status::Ok();
}

Result<std::unique_ptr<FolderLock>> FolderLock::Acquire(const std::string& folder) {
  const std::string path = folder + "/" + kLockFile;
  const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (fd < 0) return FromErrno(errno, "opening " + path);
  if (::flock(fd, LOCK_EX | LOCK_NB) != 0) {
    const int error = errno;
    char holder[32] = {};
    const ssize_t n = ::pread(fd, holder, sizeof(holder) - 1, 0);
    ::close(fd);
    if (error != EWOULDBLOCK) return FromErrno(error, "locking " + path);
    long pid = 0;
    if (n > 0) std::from_chars(holder, holder + n, pid);
    return Status::Unavailable(folder + " is open in " +
                               (pid == ::getpid() ? std::string("this process already")
                                : pid > 0         ? "another process (" + std::to_string(pid) + ")"
                                                  : std::string("another process")) +
                               "; close it there first, or let one process serve the others");
  }
  // For the message above only, so failures do not matter.
  const std::string pid = std::to_string(::getpid()) + "\n";
  if (::ftruncate(fd, 0) == 0) (void)!::pwrite(fd, pid.data(), pid.size(), 0);
  return std::unique_ptr<FolderLock>(new FolderLock(fd));
}

FolderLock::~FolderLock() { ::close(fd_); }

Status WriteMarker(rocksdb::FileSystem& fs, const std::string& folder) {
  const std::string content = std::string(kMarkerPrefix) + std::to_string(kFormatVersion) + "\n";
  MSADB_RETURN_IF_ERROR(WriteFileAtomically(fs, folder, kMarkerTemporary, kMarkerFile, content));
  // The name of the folder itself: best effort, since the parent may not be ours to open.
  const std::string parent = stdfs::path(folder + "/..").lexically_normal().string();
  SyncFolder(fs, parent.empty() ? "." : parent).PermitUncheckedError();
  return Status::Ok();
}

Status CheckMarker(rocksdb::FileSystem& fs, const std::string& folder) {
  const std::string path = folder + "/" + kMarkerFile;
  std::unique_ptr<rocksdb::FSSequentialFile> file;
  rocksdb::Status s = fs.NewSequentialFile(path, rocksdb::FileOptions(), &file, nullptr);
  char scratch[64];
  rocksdb::Slice read;
  if (s.ok()) s = file->Read(sizeof(scratch), rocksdb::IOOptions(), &read, scratch, nullptr);
  MSADB_RETURN_IF_ERROR(FromRocksdb(s, "reading " + path));
  std::string_view text(read.data(), read.size());
  uint32_t version = 0;
  if (text.starts_with(kMarkerPrefix)) {
    text.remove_prefix(kMarkerPrefix.size());
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), version);
    if (error == std::errc() && std::string_view(end, text.data() + text.size()) == "\n" &&
        version > 0) {
      if (version == kFormatVersion) return Status::Ok();
      return Status::Unsupported(folder + " has format version " + std::to_string(version) +
                                 "; this msadb reads version " + std::to_string(kFormatVersion) +
                                 ". Open it with a newer msadb");
    }
  }
  return Status::Corruption(path + " is damaged: it should read \"" + std::string(kMarkerPrefix) +
                            std::to_string(kFormatVersion) + "\"");
}

std::vector<FolderFile> ListFiles(const std::string& folder) {
  std::vector<FolderFile> files;
  std::error_code error;
  stdfs::recursive_directory_iterator it(folder, error);
  for (; !error && it != stdfs::recursive_directory_iterator(); it.increment(error)) {
    // Files come and go while RocksDB works.
    std::error_code gone;
    if (it->is_regular_file(gone) && !gone) {
      const uintmax_t bytes = it->file_size(gone);
      if (!gone) files.push_back({it->path().string(), bytes});
    }
  }
  return files;
}

}  // namespace msadb::storage
