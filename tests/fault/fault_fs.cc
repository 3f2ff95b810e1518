#include "fault_fs.h"

#include <rocksdb/env.h>
#include <rocksdb/system_clock.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <utility>

namespace msadb::storage {
namespace {

using rocksdb::IODebugContext;
using rocksdb::IOOptions;
using rocksdb::IOStatus;

std::string ReadAll(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::stringstream content;
  content << in.rdbuf();
  return content.str();
}

void WriteAll(const std::string& path, const std::string& content) {
  std::ofstream(path, std::ios::binary | std::ios::trunc) << content;
}

std::string FolderOf(const std::string& path) {
  return std::filesystem::path(path).parent_path().lexically_normal().string();
}

class SequentialFile : public rocksdb::FSSequentialFileOwnerWrapper {
 public:
  SequentialFile(std::unique_ptr<rocksdb::FSSequentialFile> file, FaultFs* fs)
      : FSSequentialFileOwnerWrapper(std::move(file)), fs_(fs) {}
  IOStatus Read(size_t n, const IOOptions& options, rocksdb::Slice* result, char* scratch,
                IODebugContext* debug) override {
    IOStatus s = fs_->Step(FaultOp::kRead);
    return s.ok() ? target()->Read(n, options, result, scratch, debug) : s;
  }

 private:
  FaultFs* fs_;
};

class RandomAccessFile : public rocksdb::FSRandomAccessFileOwnerWrapper {
 public:
  RandomAccessFile(std::unique_ptr<rocksdb::FSRandomAccessFile> file, FaultFs* fs)
      : FSRandomAccessFileOwnerWrapper(std::move(file)), fs_(fs) {}
  IOStatus Read(uint64_t offset, size_t n, const IOOptions& options, rocksdb::Slice* result,
                char* scratch, IODebugContext* debug) const override {
    IOStatus s = fs_->Step(FaultOp::kRead);
    return s.ok() ? target()->Read(offset, n, options, result, scratch, debug) : s;
  }
  IOStatus MultiRead(rocksdb::FSReadRequest* requests, size_t count, const IOOptions& options,
                     IODebugContext* debug) override {
    IOStatus s = fs_->Step(FaultOp::kRead);
    return s.ok() ? target()->MultiRead(requests, count, options, debug) : s;
  }

 private:
  FaultFs* fs_;
};

class WritableFile : public rocksdb::FSWritableFileOwnerWrapper {
 public:
  WritableFile(std::unique_ptr<rocksdb::FSWritableFile> file, std::string path, FaultFs* fs)
      : FSWritableFileOwnerWrapper(std::move(file)), path_(std::move(path)), fs_(fs) {}

  IOStatus Append(const rocksdb::Slice& data, const IOOptions& options,
                  IODebugContext* debug) override {
    IOStatus s = fs_->Step(FaultOp::kAppend);
    const size_t bytes = s.ok() ? data.size() : fs_->PartOf(data.size());
    const IOStatus written = target()->Append(rocksdb::Slice(data.data(), bytes), options, debug);
    if (written.ok()) fs_->Appended(path_, bytes);
    return s.ok() ? written : s;
  }
  IOStatus Append(const rocksdb::Slice& data, const IOOptions& options,
                  const rocksdb::DataVerificationInfo&, IODebugContext* debug) override {
    return Append(data, options, debug);
  }
  IOStatus Flush(const IOOptions& options, IODebugContext* debug) override {
    IOStatus s = fs_->Step(FaultOp::kFlush);
    return s.ok() ? target()->Flush(options, debug) : s;
  }
  IOStatus Sync(const IOOptions& options, IODebugContext* debug) override {
    IOStatus s = fs_->Step(FaultOp::kSync);
    if (s.ok()) s = target()->Sync(options, debug);
    if (s.ok()) fs_->Synced(path_);
    return s;
  }
  IOStatus Fsync(const IOOptions& options, IODebugContext* debug) override {
    return Sync(options, debug);
  }
  IOStatus Close(const IOOptions& options, IODebugContext* debug) override {
    IOStatus s = fs_->Step(FaultOp::kClose);
    const IOStatus closed = target()->Close(options, debug);
    return s.ok() ? closed : s;
  }

 private:
  const std::string path_;
  FaultFs* fs_;
};

class RandomRWFile : public rocksdb::FSRandomRWFileOwnerWrapper {
 public:
  RandomRWFile(std::unique_ptr<rocksdb::FSRandomRWFile> file, std::string path, FaultFs* fs)
      : FSRandomRWFileOwnerWrapper(std::move(file)), path_(std::move(path)), fs_(fs) {}
  IOStatus Write(uint64_t offset, const rocksdb::Slice& data, const IOOptions& options,
                 IODebugContext* debug) override {
    IOStatus s = fs_->Step(FaultOp::kRandomWrite);
    if (!s.ok()) return s;
    fs_->RandomWritten(path_);
    return target()->Write(offset, data, options, debug);
  }
  IOStatus Sync(const IOOptions& options, IODebugContext* debug) override {
    IOStatus s = fs_->Step(FaultOp::kSync);
    if (s.ok()) s = target()->Sync(options, debug);
    if (s.ok()) fs_->Synced(path_);
    return s;
  }

 private:
  const std::string path_;
  FaultFs* fs_;
};

class Folder : public rocksdb::FSDirectory {
 public:
  Folder(std::unique_ptr<rocksdb::FSDirectory> folder, std::string path, FaultFs* fs)
      : folder_(std::move(folder)), path_(std::move(path)), fs_(fs) {}
  IOStatus Fsync(const IOOptions& options, IODebugContext* debug) override {
    IOStatus s = fs_->Step(FaultOp::kFolderSync);
    if (s.ok()) s = folder_->Fsync(options, debug);
    if (s.ok()) fs_->FolderSynced(path_);
    return s;
  }
  IOStatus Close(const IOOptions& options, IODebugContext* debug) override {
    return folder_->Close(options, debug);
  }

 private:
  std::unique_ptr<rocksdb::FSDirectory> folder_;
  const std::string path_;
  FaultFs* fs_;
};

class SleeplessClock : public rocksdb::SystemClockWrapper {
 public:
  SleeplessClock() : SystemClockWrapper(rocksdb::SystemClock::Default()) {}
  const char* Name() const override { return "SleeplessClock"; }
  void SleepForMicroseconds(int) override {}
};

class SleeplessEnv : public rocksdb::EnvWrapper {
 public:
  explicit SleeplessEnv(const std::shared_ptr<FaultFs>& fs)
      : EnvWrapper(rocksdb::NewCompositeEnv(fs)) {
    file_system_ = fs;
    system_clock_ = std::make_shared<SleeplessClock>();
  }
  const char* Name() const override { return "SleeplessEnv"; }
};

}  // namespace

std::shared_ptr<StoreHooks> HooksOver(const std::shared_ptr<FaultFs>& fs) {
  auto hooks = std::make_shared<StoreHooks>();
  hooks->file_system = fs;
  hooks->env = std::make_shared<SleeplessEnv>(fs);
  return hooks;
}

const char* FaultOpName(FaultOp op) {
  static constexpr const char* kNames[kFaultOps] = {
      "create", "append", "flush",       "sync",         "close",
      "rename", "delete", "folder sync", "random write", "read"};
  return kNames[static_cast<size_t>(op)];
}

FaultFs::FaultFs() : FileSystemWrapper(rocksdb::FileSystem::Default()) {}
FaultFs::~FaultFs() = default;

void FaultFs::Arm(const Fault& fault) {
  const std::lock_guard lock(mutex_);
  fault_ = fault;
  armed_seen_ = 0;
  fired_ = false;
}

bool FaultFs::fired() const {
  const std::lock_guard lock(mutex_);
  return fired_;
}

std::array<uint64_t, kFaultOps> FaultFs::counts() const {
  const std::lock_guard lock(mutex_);
  return counts_;
}

uint64_t FaultFs::writes() const {
  const std::lock_guard lock(mutex_);
  uint64_t sum = 0;
  for (const uint64_t count : counts_) sum += count;
  return sum - counts_[static_cast<size_t>(FaultOp::kRead)];
}

void FaultFs::CutPowerAt(uint64_t write) {
  const std::lock_guard lock(mutex_);
  cut_at_ = write;
}

IOStatus FaultFs::Step(FaultOp op) {
  const std::lock_guard lock(mutex_);
  ++counts_[static_cast<size_t>(op)];
  if (op != FaultOp::kRead && cut_at_ > 0) {
    if (--cut_at_ == 0) power_off_ = true;
  }
  if (power_off_ && op != FaultOp::kRead) return IOStatus::IOError("power is off");
  if (fault_.at == 0) return IOStatus::OK();
  if (fault_.op ? op != *fault_.op : op == FaultOp::kRead) return IOStatus::OK();
  ++armed_seen_;
  if (armed_seen_ < fault_.at || (armed_seen_ > fault_.at && !fault_.forever)) {
    return IOStatus::OK();
  }
  fired_ = true;
  IOStatus s = fault_.no_space ? IOStatus::NoSpace("injected", "No space left on device")
                               : IOStatus::IOError("injected", "Input/output error");
  if (fault_.no_space) s.SetRetryable(true);  // as the real one does
  return s;
}

size_t FaultFs::PartOf(size_t bytes) {
  const std::lock_guard lock(mutex_);
  return power_off_ ? 0 : parts_() % (bytes + 1);
}

void FaultFs::Created(const std::string& path) {
  const std::lock_guard lock(mutex_);
  files_[path] = {};
  unsynced_names_.push_back({NameChange::kCreated, path, {}, {}, {}});
}

void FaultFs::Appended(const std::string& path, uint64_t bytes) {
  const std::lock_guard lock(mutex_);
  files_[path].bytes += bytes;
}

void FaultFs::Synced(const std::string& path) {
  const std::lock_guard lock(mutex_);
  FileState& state = files_[path];
  state.synced_bytes = state.bytes;
  state.synced_content.reset();
}

void FaultFs::RandomWritten(const std::string& path) {
  const std::lock_guard lock(mutex_);
  FileState& state = files_[path];
  if (!state.synced_content) state.synced_content = ReadAll(path);
}

void FaultFs::FolderSynced(const std::string& path) {
  const std::lock_guard lock(mutex_);
  const std::string folder = std::filesystem::path(path).lexically_normal().string();
  std::erase_if(unsynced_names_,
                [&](const NameChange& change) { return FolderOf(change.path) == folder; });
}

void FaultFs::LosePower(std::mt19937_64& rng) {
  const std::lock_guard lock(mutex_);
  power_off_ = false;
  cut_at_ = 0;
  const size_t kept = rng() % (unsynced_names_.size() + 1);
  while (unsynced_names_.size() > kept) {
    NameChange change = std::move(unsynced_names_.back());
    unsynced_names_.pop_back();
    switch (change.kind) {
      case NameChange::kCreated:
        std::filesystem::remove(change.path);
        files_.erase(change.path);
        break;
      case NameChange::kRenamed:
        std::filesystem::rename(change.to, change.path);
        files_[change.path] = files_[change.to];
        files_.erase(change.to);
        if (change.before) {
          WriteAll(change.to, *change.before);
          files_[change.to] = change.before_state;
        }
        break;
      case NameChange::kDeleted:
        WriteAll(change.path, *change.before);
        files_[change.path] = change.before_state;
        break;
    }
  }
  unsynced_names_.clear();
  for (auto& [path, state] : files_) {
    if (!std::filesystem::exists(path)) continue;
    if (state.synced_content) {
      // Written in place, in units smaller than a sector: all of the latest, or none of it.
      if (rng() % 2 == 0) WriteAll(path, *state.synced_content);
      continue;
    }
    const uint64_t size = std::filesystem::file_size(path);
    if (size <= state.synced_bytes) continue;
    std::filesystem::resize_file(path,
                                 state.synced_bytes + rng() % (size - state.synced_bytes + 1));
  }
  files_.clear();
}

IOStatus FaultFs::NewSequentialFile(const std::string& path, const rocksdb::FileOptions& options,
                                    std::unique_ptr<rocksdb::FSSequentialFile>* file,
                                    IODebugContext* debug) {
  std::unique_ptr<rocksdb::FSSequentialFile> inner;
  IOStatus s = target()->NewSequentialFile(path, options, &inner, debug);
  if (s.ok()) *file = std::make_unique<SequentialFile>(std::move(inner), this);
  return s;
}

IOStatus FaultFs::NewRandomAccessFile(const std::string& path, const rocksdb::FileOptions& options,
                                      std::unique_ptr<rocksdb::FSRandomAccessFile>* file,
                                      IODebugContext* debug) {
  std::unique_ptr<rocksdb::FSRandomAccessFile> inner;
  IOStatus s = target()->NewRandomAccessFile(path, options, &inner, debug);
  if (s.ok()) *file = std::make_unique<RandomAccessFile>(std::move(inner), this);
  return s;
}

IOStatus FaultFs::NewWritableFile(const std::string& path, const rocksdb::FileOptions& options,
                                  std::unique_ptr<rocksdb::FSWritableFile>* file,
                                  IODebugContext* debug) {
  IOStatus s = Step(FaultOp::kCreate);
  if (!s.ok()) return s;
  std::unique_ptr<rocksdb::FSWritableFile> inner;
  s = target()->NewWritableFile(path, options, &inner, debug);
  if (!s.ok()) return s;
  Created(path);
  *file = std::make_unique<WritableFile>(std::move(inner), path, this);
  return s;
}

IOStatus FaultFs::ReopenWritableFile(const std::string&, const rocksdb::FileOptions&,
                                     std::unique_ptr<rocksdb::FSWritableFile>*, IODebugContext*) {
  return IOStatus::NotSupported("not simulated");
}

IOStatus FaultFs::ReuseWritableFile(const std::string&, const std::string&,
                                    const rocksdb::FileOptions&,
                                    std::unique_ptr<rocksdb::FSWritableFile>*, IODebugContext*) {
  return IOStatus::NotSupported("not simulated");
}

IOStatus FaultFs::NewRandomRWFile(const std::string& path, const rocksdb::FileOptions& options,
                                  std::unique_ptr<rocksdb::FSRandomRWFile>* file,
                                  IODebugContext* debug) {
  std::unique_ptr<rocksdb::FSRandomRWFile> inner;
  IOStatus s = target()->NewRandomRWFile(path, options, &inner, debug);
  if (s.ok()) *file = std::make_unique<RandomRWFile>(std::move(inner), path, this);
  return s;
}

IOStatus FaultFs::NewDirectory(const std::string& path, const IOOptions& options,
                               std::unique_ptr<rocksdb::FSDirectory>* folder,
                               IODebugContext* debug) {
  std::unique_ptr<rocksdb::FSDirectory> inner;
  IOStatus s = target()->NewDirectory(path, options, &inner, debug);
  if (s.ok()) *folder = std::make_unique<Folder>(std::move(inner), path, this);
  return s;
}

IOStatus FaultFs::DeleteFile(const std::string& path, const IOOptions& options,
                             IODebugContext* debug) {
  IOStatus s = Step(FaultOp::kDelete);
  if (!s.ok()) return s;
  std::string content = ReadAll(path);
  s = target()->DeleteFile(path, options, debug);
  if (!s.ok()) return s;
  const std::lock_guard lock(mutex_);
  FileState state = files_.contains(path) ? files_[path] : FileState{};
  if (!files_.contains(path)) state.bytes = state.synced_bytes = content.size();
  unsynced_names_.push_back({NameChange::kDeleted, path, {}, std::move(content), state});
  files_.erase(path);
  return s;
}

IOStatus FaultFs::RenameFile(const std::string& from, const std::string& to,
                             const IOOptions& options, IODebugContext* debug) {
  IOStatus s = Step(FaultOp::kRename);
  if (!s.ok()) return s;
  std::optional<std::string> before;
  if (std::filesystem::exists(to)) before = ReadAll(to);
  s = target()->RenameFile(from, to, options, debug);
  if (!s.ok()) return s;
  const std::lock_guard lock(mutex_);
  const auto state_of = [this](const std::string& path, uint64_t bytes) {
    if (files_.contains(path)) return files_[path];
    FileState state;
    state.bytes = state.synced_bytes = bytes;
    return state;
  };
  const FileState moved = state_of(from, std::filesystem::file_size(to));
  const FileState replaced = before ? state_of(to, before->size()) : FileState{};
  unsynced_names_.push_back({NameChange::kRenamed, from, to, std::move(before), replaced});
  files_[to] = moved;
  files_.erase(from);
  return s;
}

}  // namespace msadb::storage
