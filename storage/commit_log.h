// That nothing acknowledged is missing when a database is opened. Internal to storage.
//
// RocksDB takes the end of what it can read of its log and of its MANIFEST for their end. A log
// that was cut off, a zeroed stretch in it, a missing log file or a shortened MANIFEST therefore
// open without an error, to an older state, or to one with a hole. Three things catch this, before
// anything is changed:
//   - every commit carries its number, so the numbers in the log must follow on those in the files;
//   - the file COMMITS, beside the log, has the number of the newest commit known to be on disk;
//   - it has length and hash of the MANIFEST as well.
#ifndef MSADB_STORAGE_COMMIT_LOG_H_
#define MSADB_STORAGE_COMMIT_LOG_H_

#include <rocksdb/file_system.h>
#include <rocksdb/wal_filter.h>

#include <cstdint>
#include <memory>
#include <string>

#include "msadb/status.h"

namespace msadb::storage {

// Counters::commits out of one batch of the log; 0 when it has none.
uint64_t CommitNumberOf(const rocksdb::WriteBatch& batch);

// Length and hash of the part of a MANIFEST known to be on disk. A MANIFEST only grows, so what was
// hashed stays hashed.
class ManifestDigest {
 public:
  ManifestDigest();
  ~ManifestDigest();
  // Goes on to the first `bytes` bytes of `folder`/MANIFEST-`number`.
  Status Extend(rocksdb::FileSystem& fs, const std::string& folder, uint64_t number,
                uint64_t bytes);
  uint64_t number() const { return number_; }
  uint64_t bytes() const { return bytes_; }
  uint64_t hash() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
  uint64_t number_ = 0;
  uint64_t bytes_ = 0;
};

// "MANIFEST-000017" -> 17; 0 for anything else.
uint64_t ManifestNumber(std::string_view name);

// How far log and MANIFEST must reach at least.
struct CommitMark {
  uint64_t commits = 0;
  uint64_t manifest_number = 0;  // 0: unknown
  uint64_t manifest_bytes = 0;
  uint64_t manifest_hash = 0;
  bool operator==(const CommitMark&) const = default;
};

// The file COMMITS. It is written, without fsync, after the fsync of what it tells of has returned;
// so whatever a crash leaves in it is true. An old content only weakens the check.
//
// Two slots are written in turn, each with its checksum, so that a torn write leaves the other.
class CommitMarkFile {
 public:
  // Makes the file, on disk when this returns.
  static Status Create(rocksdb::FileSystem& fs, const std::string& folder);
  // Damage is no error: damaged() tells of it, and mark() is what could be read.
  static Result<std::unique_ptr<CommitMarkFile>> Open(rocksdb::FileSystem& fs,
                                                      const std::string& folder, bool read_only);

  const CommitMark& mark() const { return mark_; }
  // Empty, or what was wrong with the file when it was opened.
  const std::string& damaged() const { return damaged_; }

  // Not for concurrent use with itself. After the first failure nothing more is written.
  void Record(const CommitMark& mark);
  void Sync();

 private:
  CommitMarkFile() = default;
  std::unique_ptr<rocksdb::FSRandomRWFile> file_;  // null when read-only or given up
  uint64_t sequence_ = 0;
  CommitMark mark_;
  std::string damaged_;
};

// Corruption when CURRENT names an older MANIFEST than the mark, or the same one with other bytes.
Status CheckManifest(rocksdb::FileSystem& fs, const std::string& rocksdb_folder,
                     const CommitMark& mark);

// Watches the log while RocksDB replays it.
class CommitLogFilter : public rocksdb::WalFilter {
 public:
  // Looks, and keeps RocksDB from applying anything.
  CommitLogFilter() = default;
  // Applies commits up to `last`, and stops at the first later one.
  explicit CommitLogFilter(uint64_t last) : apply_(true), last_(last) {}

  const char* Name() const override { return "msadb.CommitLogFilter"; }
  WalProcessingOption LogRecord(const rocksdb::WriteBatch& batch, rocksdb::WriteBatch* new_batch,
                                bool* batch_changed) const override;

  // After looking: the newest commit that can be reached from `base`, the newest one in the files,
  // without a gap.
  uint64_t LastReachable(uint64_t base) const;

 private:
  const bool apply_ = false;
  const uint64_t last_ = 0;
  // The commits found form runs without gaps. RocksDB replays from one thread.
  struct Run {
    uint64_t first, last;
  };
  mutable std::vector<Run> runs_;
  mutable bool out_of_memory_ = false;
};

}  // namespace msadb::storage

#endif  // MSADB_STORAGE_COMMIT_LOG_H_
