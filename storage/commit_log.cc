#include "storage/commit_log.h"

#include <rocksdb/write_batch.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <new>
#include <optional>
#include <utility>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "storage/codec.h"
#include "storage/folder.h"
#include "storage/rocksdb_status.h"

namespace msadb::storage {
namespace {

constexpr uint64_t kSlotDistance = 512;  // a disk sector: one slot's write cannot tear the other
constexpr size_t kSlotFields = 5;
constexpr std::string_view kSlotMagic = "msadbcmt";
constexpr size_t kSlotBytes = 8 + kSealBytes + kSlotFields * sizeof(uint64_t);
constexpr size_t kReadBytes = 64u << 10;
constexpr std::string_view kManifestPrefix = "MANIFEST-";

struct Slot {
  uint64_t sequence = 0;
  CommitMark mark;
};

std::string EncodeSlot(const Slot& slot) {
  std::string payload;
  for (const uint64_t v : {slot.sequence, slot.mark.commits, slot.mark.manifest_number,
                           slot.mark.manifest_bytes, slot.mark.manifest_hash}) {
    PutFixed64(&payload, v);
  }
  return std::string(kSlotMagic) + Seal(Family::kMeta, kCommitsFile, payload);
}

std::optional<Slot> DecodeSlot(std::string_view bytes) {
  if (bytes.size() != kSlotBytes || !bytes.starts_with(kSlotMagic)) return std::nullopt;
  auto payload = Unseal(Family::kMeta, kCommitsFile, bytes.substr(kSlotMagic.size()));
  if (!payload) return std::nullopt;
  Slot slot;
  for (uint64_t* v : {&slot.sequence, &slot.mark.commits, &slot.mark.manifest_number,
                      &slot.mark.manifest_bytes, &slot.mark.manifest_hash}) {
    if (!GetFixed64(&*payload, v)) return std::nullopt;
  }
  return slot;
}

// Finds the counters that every commit writes last.
class CommitNumberHandler : public rocksdb::WriteBatch::Handler {
 public:
  rocksdb::Status PutCF(uint32_t family, const rocksdb::Slice& key,
                        const rocksdb::Slice& value) override {
    // RocksDB numbers "default", our meta, 0.
    const KeyBytes counters = CountersKey();
    if (family != 0 || std::string_view(key.data(), key.size()) != counters.view()) {
      return rocksdb::Status::OK();
    }
    auto payload = Unseal(Family::kMeta, counters.view(), {value.data(), value.size()});
    if (!payload || !GetFixed64(&*payload, &commits)) commits = 0;
    return rocksdb::Status::OK();
  }
  rocksdb::Status DeleteCF(uint32_t, const rocksdb::Slice&) override {
    return rocksdb::Status::OK();
  }
  uint64_t commits = 0;
};

Result<std::string> ReadSmallFile(rocksdb::FileSystem& fs, const std::string& path) {
  std::unique_ptr<rocksdb::FSSequentialFile> file;
  rocksdb::IOStatus s = fs.NewSequentialFile(path, rocksdb::FileOptions(), &file, nullptr);
  std::array<char, 256> scratch;
  rocksdb::Slice read;
  if (s.ok()) s = file->Read(scratch.size(), rocksdb::IOOptions(), &read, scratch.data(), nullptr);
  if (!s.ok()) return FromRocksdb(s, "reading " + path);
  return read.ToString();
}

}  // namespace

uint64_t CommitNumberOf(const rocksdb::WriteBatch& batch) {
  CommitNumberHandler handler;
  batch.Iterate(&handler).PermitUncheckedError();
  return handler.commits;
}

// --- MANIFEST
// ---------------------------------------------------------------------------------------

struct ManifestDigest::State {
  XXH3_state_t xxh;
};

ManifestDigest::ManifestDigest() : state_(std::make_unique<State>()) {
  XXH3_64bits_reset(&state_->xxh);
}
ManifestDigest::~ManifestDigest() = default;

uint64_t ManifestDigest::hash() const { return XXH3_64bits_digest(&state_->xxh); }

Status ManifestDigest::Extend(rocksdb::FileSystem& fs, const std::string& folder, uint64_t number,
                              uint64_t bytes) {
  if (number != number_ || bytes < bytes_) {
    XXH3_64bits_reset(&state_->xxh);
    number_ = number;
    bytes_ = 0;
  }
  if (bytes == bytes_) return Status::Ok();
  std::string digits = std::to_string(number);
  digits.insert(0, digits.size() < 6 ? 6 - digits.size() : 0, '0');
  const std::string path = folder + "/" + std::string(kManifestPrefix) + digits;
  std::unique_ptr<rocksdb::FSRandomAccessFile> file;
  rocksdb::IOStatus s = fs.NewRandomAccessFile(path, rocksdb::FileOptions(), &file, nullptr);
  if (!s.ok()) return FromRocksdb(s, "opening " + path);
  const auto scratch = std::make_unique<char[]>(kReadBytes);
  while (bytes_ < bytes) {
    rocksdb::Slice read;
    s = file->Read(bytes_, std::min<uint64_t>(kReadBytes, bytes - bytes_), rocksdb::IOOptions(),
                   &read, scratch.get(), nullptr);
    if (!s.ok()) return FromRocksdb(s, "reading " + path);
    if (read.empty()) {
      return Status::Corruption(path + " ends at byte " + std::to_string(bytes_) + " of " +
                                std::to_string(bytes));
    }
    XXH3_64bits_update(&state_->xxh, read.data(), read.size());
    bytes_ += read.size();
  }
  return Status::Ok();
}

uint64_t ManifestNumber(std::string_view name) {
  if (!name.starts_with(kManifestPrefix)) return 0;
  name.remove_prefix(kManifestPrefix.size());
  uint64_t number = 0;
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), number);
  return error == std::errc() && end == name.data() + name.size() ? number : 0;
}

Status CheckManifest(rocksdb::FileSystem& fs, const std::string& rocksdb_folder,
                     const CommitMark& mark) {
  if (mark.manifest_number == 0) return Status::Ok();
  MSADB_ASSIGN_OR_RETURN(std::string current, ReadSmallFile(fs, rocksdb_folder + "/CURRENT"));
  if (current.ends_with('\n')) current.pop_back();
  const uint64_t number = ManifestNumber(current);
  if (number == 0) return Status::Corruption(rocksdb_folder + "/CURRENT is damaged");
  if (number < mark.manifest_number) {
    return Status::Corruption(rocksdb_folder + "/CURRENT names " + current +
                              ", which has been replaced since");
  }
  if (number > mark.manifest_number) return Status::Ok();  // begun after the mark was written
  ManifestDigest digest;
  MSADB_RETURN_IF_ERROR(digest.Extend(fs, rocksdb_folder, number, mark.manifest_bytes));
  if (digest.hash() != mark.manifest_hash) {
    return Status::Corruption(rocksdb_folder + "/" + current + " is damaged");
  }
  return Status::Ok();
}

// --- COMMITS
// ----------------------------------------------------------------------------------------

Status CommitMarkFile::Create(rocksdb::FileSystem& fs, const std::string& folder) {
  std::string content = EncodeSlot({});
  content.resize(kSlotDistance, '\0');
  content += EncodeSlot({});
  return WriteFileAtomically(fs, folder, kCommitsTemporary, kCommitsFile, content);
}

Result<std::unique_ptr<CommitMarkFile>> CommitMarkFile::Open(rocksdb::FileSystem& fs,
                                                             const std::string& folder,
                                                             bool read_only) {
  const std::string path = folder + "/" + kCommitsFile;
  std::unique_ptr<CommitMarkFile> file(new CommitMarkFile());
  std::unique_ptr<rocksdb::FSRandomAccessFile> reader;
  rocksdb::IOStatus s = fs.NewRandomAccessFile(path, rocksdb::FileOptions(), &reader, nullptr);
  if (s.IsNotFound() || s.IsPathNotFound()) {
    file->damaged_ = path + " is missing: a log cut off at its end would go unnoticed";
    if (!read_only) MSADB_RETURN_IF_ERROR(Create(fs, folder));
  } else if (!s.ok()) {
    return FromRocksdb(s, "opening " + path);
  } else {
    for (const uint64_t offset : {uint64_t{0}, kSlotDistance}) {
      char scratch[kSlotBytes];
      rocksdb::Slice read;
      s = reader->Read(offset, kSlotBytes, rocksdb::IOOptions(), &read, scratch, nullptr);
      if (!s.ok()) return FromRocksdb(s, "reading " + path);
      const auto slot = DecodeSlot({read.data(), read.size()});
      if (!slot) {
        file->damaged_ = path + " is damaged at byte " + std::to_string(offset);
      } else if (slot->sequence >= file->sequence_) {
        file->sequence_ = slot->sequence;
        file->mark_ = slot->mark;
      }
    }
  }
  if (!read_only) {
    s = fs.NewRandomRWFile(path, rocksdb::FileOptions(), &file->file_, nullptr);
    if (!s.ok()) return FromRocksdb(s, "opening " + path);
  }
  return file;
}

void CommitMarkFile::Record(const CommitMark& mark) {
  if (!file_ || mark == mark_) return;
  const uint64_t sequence = sequence_ + 1;
  const rocksdb::IOStatus s = file_->Write(
      sequence % 2 * kSlotDistance, EncodeSlot({sequence, mark}), rocksdb::IOOptions(), nullptr);
  if (s.ok()) {
    sequence_ = sequence;
    mark_ = mark;
  } else {
    file_.reset();
  }
}

void CommitMarkFile::Sync() {
  if (file_ && !file_->Sync(rocksdb::IOOptions(), nullptr).ok()) file_.reset();
}

// --- The log
// ----------------------------------------------------------------------------------------

rocksdb::WalFilter::WalProcessingOption CommitLogFilter::LogRecord(const rocksdb::WriteBatch& batch,
                                                                   rocksdb::WriteBatch*,
                                                                   bool*) const {
  const uint64_t commit = CommitNumberOf(batch);
  if (apply_) {
    return commit <= last_ ? WalProcessingOption::kContinueProcessing
                           : WalProcessingOption::kStopReplay;
  }
  try {
    if (!runs_.empty() && commit == runs_.back().last + 1) {
      runs_.back().last = commit;
    } else {
      runs_.push_back({commit, commit});
    }
  } catch (const std::bad_alloc&) {
    out_of_memory_ = true;
  }
  return WalProcessingOption::kIgnoreCurrentRecord;
}

uint64_t CommitLogFilter::LastReachable(uint64_t base) const {
  if (out_of_memory_) throw std::bad_alloc();
  uint64_t last = base;
  for (const Run& run : runs_) {
    if (run.first > last + 1) break;
    last = std::max(last, run.last);
  }
  return last;
}

}  // namespace msadb::storage
