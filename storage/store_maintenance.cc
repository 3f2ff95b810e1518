// Purge and statistics.
#include <rocksdb/db.h>
#include <rocksdb/metadata.h>

#include <algorithm>
#include <chrono>
#include <new>
#include <set>
#include <thread>
#include <utility>

#include "storage/rocksdb_status.h"
#include "storage/store_impl.h"

namespace msadb::storage {
namespace {

constexpr Family kAllFamilies[] = {Family::kMeta,   Family::kDocuments, Family::kKeys,
                                   Family::kExpiry, Family::kRouting,   Family::kBlocks};

// What RocksDB rewrites in one step before it frees the inputs: 25 target files of 64 MiB.
constexpr uint64_t kCompactionStepBytes = uint64_t{25} * (64u << 20);
// Left free below a rewrite, for the MANIFEST and the log.
constexpr uint64_t kRewriteSlackBytes = 1u << 20;

// How long Purge waits for reads under way to let go of old files.
constexpr int kReleasePolls = 50;
constexpr std::chrono::milliseconds kReleasePollInterval{20};

bool IsDataFile(const std::string& path) {
  return path.ends_with(".sst") || path.ends_with(".blob");
}

uint64_t TotalBytes(const std::vector<FolderFile>& files) {
  uint64_t total = 0;
  for (const FolderFile& file : files) total += file.bytes;
  return total;
}

}  // namespace

Result<PurgeReport> StoreImpl::Purge() try {
  const std::lock_guard maintenance(maintenance_mutex_);
  MSADB_RETURN_IF_ERROR(CheckWritable());
  PurgeReport report;
  const std::vector<FolderFile> before = ListFiles(rocksdb_folder_);
  report.disk_bytes_before = TotalBytes(ListFiles(folder_));
  uint64_t deleted_bytes = 0, seen_by_snapshots = 0;
  bool clean = false;
  {
    const std::lock_guard lock(state_mutex_);
    deleted_bytes = counters_.deleted_bytes;
    clean = deleted_bytes == purged_bytes_;
    report.open_snapshots = snapshot_deleted_bytes_.size();
    // A snapshot keeps what was deleted after it was taken; the oldest one keeps the most. It
    // counts even if it is released meanwhile: the rewrite has seen it.
    if (!snapshot_deleted_bytes_.empty()) {
      seen_by_snapshots = deleted_bytes - *snapshot_deleted_bytes_.begin();
    }
  }
  if (clean) {
    report.disk_bytes_after = report.disk_bytes_before;
    return report;
  }
  MSADB_RETURN_IF_ERROR(FlushAll());
  for (const Family f : kAllFamilies) MSADB_RETURN_IF_ERROR(CompactFamily(f));
  MSADB_RETURN_IF_ERROR(CollectBlobGarbage());
  MSADB_ASSIGN_OR_RETURN(const uint64_t held, DropObsoleteFiles(before));
  report.bytes_retained = std::max(seen_by_snapshots, held);
  report.disk_bytes_after = TotalBytes(ListFiles(folder_));
  if (!report.complete()) return report;

  const std::lock_guard lock(commit_mutex_);
  MSADB_RETURN_IF_ERROR(CheckWritable());
  std::string payload;
  PutFixed64(&payload, deleted_bytes);
  const KeyBytes key = PurgedKey();
  rocksdb::WriteBatch batch;
  MSADB_RETURN_IF_ERROR(FromRocksdb(batch.Put(family(Family::kMeta), ToSlice(key.view()),
                                              Seal(Family::kMeta, key.view(), payload)),
                                    "building a commit"));
  MSADB_RETURN_IF_ERROR(WriteBatchLocked(&batch, counters_));
  const std::lock_guard state(state_mutex_);
  purged_bytes_ = deleted_bytes;
  return report;
} catch (const std::bad_alloc&) {
  return Status::ResourceExhausted("no memory to purge");
}

Status StoreImpl::FlushAll() {
  rocksdb::FlushOptions options;
  options.allow_write_stall = true;
  const rocksdb::Status s = db_->Flush(options, {families_.begin(), families_.end()});
  if (!s.ok()) Stop(s.ToString());
  return FromRocksdb(s, "flushing " + folder_);
}

Status StoreImpl::CheckRewriteRoom(uint64_t bytes) const {
  MSADB_ASSIGN_OR_RETURN(const uint64_t free_bytes, FreeDiskBytes());
  if (free_bytes >= bytes + kRewriteSlackBytes) return Status::Ok();
  return Status::ResourceExhausted(
      "purging " + folder_ + " needs " + std::to_string(bytes + kRewriteSlackBytes) +
      " bytes of free disk space to rewrite files; there are " + std::to_string(free_bytes));
}

Status StoreImpl::CompactFamily(Family f) {
  rocksdb::ColumnFamilyMetaData metadata;
  db_->GetColumnFamilyMetaData(family(f), &metadata);
  MSADB_RETURN_IF_ERROR(CheckRewriteRoom(std::min<uint64_t>(metadata.size, kCompactionStepBytes)));
  rocksdb::CompactRangeOptions options;
  options.bottommost_level_compaction = rocksdb::BottommostLevelCompaction::kForceOptimized;
  options.allow_write_stall = true;
  // Blobs come afterwards, once it is known which of their files hold garbage.
  options.blob_garbage_collection_policy = rocksdb::BlobGarbageCollectionPolicy::kDisable;
  return FromRocksdb(db_->CompactRange(options, family(f), nullptr, nullptr),
                     "compacting the " + std::string(FamilyName(f)) + " of " + folder_);
}

Status StoreImpl::CollectBlobGarbage() {
  rocksdb::ColumnFamilyMetaData metadata;
  db_->GetColumnFamilyMetaData(family(Family::kBlocks), &metadata);
  std::vector<rocksdb::BlobMetaData>& files = metadata.blob_files;
  std::sort(files.begin(), files.end(),
            [](const auto& a, const auto& b) { return a.blob_file_number < b.blob_file_number; });
  // RocksDB rewrites the oldest files up to a fraction of them: up to the newest with garbage.
  size_t rewritten = 0;
  uint64_t live_bytes = 0, live_bytes_up_to_here = 0;
  for (size_t i = 0; i < files.size(); ++i) {
    live_bytes_up_to_here += files[i].total_blob_bytes - files[i].garbage_blob_bytes;
    if (files[i].garbage_blob_bytes == 0) continue;
    rewritten = i + 1;
    live_bytes = live_bytes_up_to_here;
  }
  if (rewritten == 0) return Status::Ok();
  MSADB_RETURN_IF_ERROR(CheckRewriteRoom(live_bytes + metadata.size));
  rocksdb::CompactRangeOptions options;
  options.bottommost_level_compaction = rocksdb::BottommostLevelCompaction::kForceOptimized;
  options.allow_write_stall = true;
  options.blob_garbage_collection_policy = rocksdb::BlobGarbageCollectionPolicy::kForce;
  // RocksDB rounds fraction * files down; the half keeps it from losing one to rounding.
  options.blob_garbage_collection_age_cutoff =
      std::min(1.0, (static_cast<double>(rewritten) + 0.5) / static_cast<double>(files.size()));
  return FromRocksdb(db_->CompactRange(options, family(Family::kBlocks), nullptr, nullptr),
                     "collecting blob garbage of " + folder_);
}

Result<uint64_t> StoreImpl::DropObsoleteFiles(const std::vector<FolderFile>& before) {
  for (int poll = 0;; ++poll) {
    // Enabling deletions again scans the folder and deletes in this thread.
    rocksdb::Status s = db_->DisableFileDeletions();
    if (s.ok()) s = db_->EnableFileDeletions(/*force=*/false);
    MSADB_RETURN_IF_ERROR(FromRocksdb(s, "deleting obsolete files of " + folder_));

    std::vector<std::string> names;
    uint64_t manifest_bytes = 0;
    s = db_->GetLiveFiles(names, &manifest_bytes, /*flush_memtable=*/false);
    MSADB_RETURN_IF_ERROR(FromRocksdb(s, "listing the files of " + folder_));
    const std::set<std::string> live(names.begin(), names.end());  // "/000012.sst"
    std::set<std::string> present;
    for (const FolderFile& file : ListFiles(rocksdb_folder_)) present.insert(file.path);
    uint64_t held = 0;
    for (const FolderFile& file : before) {
      if (IsDataFile(file.path) && present.contains(file.path) &&
          !live.contains(file.path.substr(file.path.rfind('/')))) {
        held += std::max<uint64_t>(file.bytes, 1);
      }
    }
    if (held == 0 || poll == kReleasePolls) return held;
    std::this_thread::sleep_for(kReleasePollInterval);
  }
}

Result<StoreStats> StoreImpl::Stats() const try {
  StoreStats stats;
  const auto property = [this](Family f, const std::string& name) {
    uint64_t value = 0;
    return db_->GetIntProperty(family(f), name, &value) ? value : 0;
  };
  for (const Family f : kAllFamilies) {
    ColumnFamilyStats cf;
    cf.name = FamilyName(f);
    cf.sst_bytes = property(f, rocksdb::DB::Properties::kLiveSstFilesSize);
    cf.blob_bytes = property(f, rocksdb::DB::Properties::kLiveBlobFileSize);
    cf.blob_garbage_bytes = property(f, rocksdb::DB::Properties::kLiveBlobFileGarbageSize);
    cf.memtable_bytes = property(f, rocksdb::DB::Properties::kSizeAllMemTables);
    cf.estimated_keys = property(f, rocksdb::DB::Properties::kEstimateNumKeys);
    stats.memory_bytes += cf.memtable_bytes;
    stats.memory_bytes += property(f, rocksdb::DB::Properties::kEstimateTableReadersMem);
    stats.column_families.push_back(std::move(cf));
  }
  // One cache serves all families.
  stats.memory_bytes += property(Family::kMeta, rocksdb::DB::Properties::kBlockCacheUsage);
  for (const FolderFile& file : ListFiles(folder_)) {
    stats.disk_bytes += file.bytes;
    if (file.path.ends_with(".log")) stats.wal_bytes += file.bytes;
  }
  MSADB_ASSIGN_OR_RETURN(stats.free_disk_bytes, FreeDiskBytes());
  const std::lock_guard lock(state_mutex_);
  stats.commits = counters_.commits;
  stats.open_snapshots = snapshot_deleted_bytes_.size();
  return stats;
} catch (const std::bad_alloc&) {
  return Status::ResourceExhausted("no memory for statistics");
}

}  // namespace msadb::storage
