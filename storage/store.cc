// Opening, collections, settings and commits.
#include "storage/store.h"

#include <rocksdb/cache.h>
#include <rocksdb/convenience.h>
#include <rocksdb/file_checksum.h>
#include <rocksdb/filter_policy.h>
#include <rocksdb/listener.h>
#include <rocksdb/table.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <new>
#include <string>
#include <system_error>
#include <utility>

#include "base/utf8.h"
#include "storage/rocksdb_status.h"
#include "storage/store_hooks.h"
#include "storage/store_impl.h"

namespace msadb::storage {
namespace {

constexpr size_t kMemoryBytesMin = 1u << 20;
constexpr uint64_t kHeadroomBase = 64u << 20;
constexpr uint64_t kReserveMax = uint64_t{1} << 32;
constexpr size_t kModelBytesMax = 64u << 10;
// For the look before the open proper.
constexpr int kInspectOpenFiles = 16;
// Values at least this long go to blob files, where compactions do not copy them again and again.
constexpr uint64_t kBlobBytesMin = 4096;

int64_t NowMicros() {
  return std::chrono::duration_cast<std::chrono::microseconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

// Tells the store about failures of RocksDB's background work, and keeps RocksDB from resuming on
// its own: after a failure nothing is known about the tail of the log until the next open.
class StoreListener : public rocksdb::EventListener {
 public:
  explicit StoreListener(StoreImpl* store) : store_(store) {}
  void OnBackgroundError(rocksdb::BackgroundErrorReason, rocksdb::Status* error) override {
    // A lost message is better than an exception inside RocksDB.
    try {
      store_->Stop(error->ToString());
    } catch (const std::bad_alloc&) {
      store_->Stop({});
    }
  }
  void OnErrorRecoveryBegin(rocksdb::BackgroundErrorReason, rocksdb::Status,
                            bool* auto_recovery) override {
    *auto_recovery = false;
  }
  void OnFlushCompleted(rocksdb::DB*, const rocksdb::FlushJobInfo&) override {
    store_->NoteFilesChanged();
  }
  void OnCompactionCompleted(rocksdb::DB*, const rocksdb::CompactionJobInfo&) override {
    store_->NoteFilesChanged();
  }

 private:
  StoreImpl* const store_;
};

rocksdb::CompressionType BestCompression() {
  const std::vector<rocksdb::CompressionType> supported = rocksdb::GetSupportedCompressions();
  for (const auto type : {rocksdb::kZSTD, rocksdb::kLZ4Compression}) {
    if (std::find(supported.begin(), supported.end(), type) != supported.end()) return type;
  }
  return rocksdb::kNoCompression;
}

std::string EncodeCounters(const Counters& counters) {
  std::string payload;
  PutFixed64(&payload, counters.commits);
  PutFixed64(&payload, counters.deleted_bytes);
  PutFixed32(&payload, counters.next_collection);
  return payload;
}

bool DecodeCounters(std::string_view payload, Counters* counters) {
  return GetFixed64(&payload, &counters->commits) &&
         GetFixed64(&payload, &counters->deleted_bytes) &&
         GetFixed32(&payload, &counters->next_collection) && payload.empty();
}

std::string EncodeStats(Number next_number, const CollectionStats& s) {
  std::string payload;
  for (const uint64_t v : {next_number, s.documents, s.parts, s.tokens, s.chunks, s.text_bytes,
                           s.routing_bytes, s.blocks_bytes}) {
    PutFixed64(&payload, v);
  }
  return payload;
}

bool DecodeStats(std::string_view payload, Number* next_number, CollectionStats* s) {
  for (uint64_t* v : {next_number, &s->documents, &s->parts, &s->tokens, &s->chunks, &s->text_bytes,
                      &s->routing_bytes, &s->blocks_bytes}) {
    if (!GetFixed64(&payload, v)) return false;
  }
  return payload.empty();
}

std::string EncodeModel(std::string_view fingerprint, std::string_view description) {
  std::string payload;
  PutFixed32(&payload, static_cast<uint32_t>(fingerprint.size()));
  payload.append(fingerprint);
  payload.append(description);
  return payload;
}

bool DecodeModel(std::string_view payload, std::string* fingerprint, std::string* description) {
  uint32_t length = 0;
  if (!GetFixed32(&payload, &length) || length > payload.size()) return false;
  *fingerprint = payload.substr(0, length);
  *description = payload.substr(length);
  return true;
}

Status PutSealed(rocksdb::WriteBatch* batch, rocksdb::ColumnFamilyHandle* handle, Family family,
                 const KeyBytes& key, std::string_view payload) {
  return FromRocksdb(batch->Put(handle, ToSlice(key.view()), Seal(family, key.view(), payload)),
                     "building a commit");
}

// A counter and what a commit adds to it; false when that would be negative.
bool AddSigned(uint64_t* value, int64_t change) {
  if (change < 0 && *value < static_cast<uint64_t>(-change)) return false;
  *value += static_cast<uint64_t>(change);
  return true;
}

bool ApplyChange(CollectionStats* s, const CollectionChange& c) {
  return AddSigned(&s->documents, c.documents) && AddSigned(&s->parts, c.parts) &&
         AddSigned(&s->tokens, c.tokens) && AddSigned(&s->chunks, c.chunks) &&
         AddSigned(&s->text_bytes, c.text_bytes) && AddSigned(&s->routing_bytes, c.routing_bytes) &&
         AddSigned(&s->blocks_bytes, c.blocks_bytes);
}

Status CheckModelIdentity(std::string_view fingerprint, std::string_view description) {
  if (fingerprint.size() > kModelBytesMax || description.size() > kModelBytesMax) {
    return Status::InvalidArgument("the model's fingerprint or description exceeds 64 KiB");
  }
  return Status::Ok();
}

}  // namespace

Status CheckCollectionName(std::string_view name) {
  if (name.empty() || name.size() > kCollectionNameBytesMax) {
    return Status::InvalidArgument("a collection's name has 1 to 128 bytes; this one has " +
                                   std::to_string(name.size()));
  }
  if (!base::IsValidUtf8(name)) {
    return Status::InvalidArgument("a collection's name must be valid UTF-8");
  }
  if (base::HasControlCharacter(name) || name.find('/') != std::string_view::npos) {
    return Status::InvalidArgument(
        "a collection's name must not contain control characters or '/'");
  }
  return Status::Ok();
}

// --- Opening
// ---------------------------------------------------------------------------------------

Result<std::shared_ptr<Store>> Store::Open(const std::string& folder,
                                           const StoreOptions& options) try {
  auto store = std::make_shared<StoreImpl>(folder, options);
  MSADB_RETURN_IF_ERROR(store->OpenFolder());
  return std::shared_ptr<Store>(std::move(store));
} catch (const std::bad_alloc&) {
  return Status::ResourceExhausted("no memory to open it").WithContext(folder);
} catch (const std::system_error& error) {  // a thread that could not be started
  return Status::ResourceExhausted("opening " + folder + ": " + error.what());
}

StoreImpl::StoreImpl(std::string folder, const StoreOptions& options)
    : folder_(std::move(folder)),
      rocksdb_folder_(folder_ + "/" + kRocksdbFolder),
      options_(options),
      log_(std::make_shared<InfoLog>()) {}

StoreImpl::~StoreImpl() {
  if (db_ == nullptr) return;
  if (!options_.read_only && !stopped_) {
    if (!Sync().ok()) log_->Add("the last buffered commits could not be synced on close");
    rocksdb::CancelAllBackgroundWork(db_.get(), /*wait=*/true);
    RecordMark();
    mark_file_->Sync();
  }
  for (rocksdb::ColumnFamilyHandle* handle : families_) {
    if (handle != nullptr) db_->DestroyColumnFamilyHandle(handle).PermitUncheckedError();
  }
  db_->Close().PermitUncheckedError();
  db_.reset();  // before anything that its callbacks use
}

Status StoreImpl::OpenFolder() {
  MSADB_RETURN_IF_ERROR(CheckModelIdentity(options_.fingerprint, options_.model_description));
  if (options_.memory_bytes < kMemoryBytesMin) {
    return Status::InvalidArgument("storage needs at least 1 MiB of memory (memory_bytes)");
  }
  MSADB_ASSIGN_OR_RETURN(FolderState state, InspectFolder(folder_));
  if (state == FolderState::kForeign) {
    return Status::FailedPrecondition(
        folder_ + " holds files that are not msadb's; choose an empty or a new folder");
  }
  if (state != FolderState::kDatabase && (options_.read_only || !options_.create_if_missing)) {
    return Status::NotFound("there is no msadb database in " + folder_);
  }
  if (state == FolderState::kDatabase && options_.error_if_exists) {
    return Status::AlreadyExists(folder_ + " holds a database already");
  }
  if (state == FolderState::kMissing) MSADB_RETURN_IF_ERROR(CreateFolder(folder_));
  MSADB_ASSIGN_OR_RETURN(lock_, FolderLock::Acquire(folder_));
  // What was seen before the lock may have changed since.
  MSADB_ASSIGN_OR_RETURN(state, InspectFolder(folder_));
  const bool has_marker = state == FolderState::kDatabase;

  const StoreHooks hooks = options_.hooks != nullptr ? *options_.hooks : StoreHooks();
  file_system_ = hooks.file_system ? hooks.file_system : rocksdb::FileSystem::Default();
  env_ = hooks.env ? hooks.env : rocksdb::NewCompositeEnv(file_system_);

  if (has_marker) {
    MSADB_RETURN_IF_ERROR(CheckMarker(*file_system_, folder_));
  } else {
    // Without a marker the folder is taken for a creation that was cut short. Data files without
    // RocksDB's CURRENT are no such thing: creating over them would delete them.
    bool current = false, data = false;
    for (const FolderFile& file : ListFiles(rocksdb_folder_)) {
      current = current || file.path.ends_with("/CURRENT");
      data = data || file.path.ends_with(".sst") || file.path.ends_with(".blob") ||
             (file.path.ends_with(".log") && file.bytes > 0);
    }
    if (data && !current) {
      return Status::Corruption(rocksdb_folder_ +
                                "/CURRENT is missing; restore the folder from a backup");
    }
    MSADB_RETURN_IF_ERROR(CreateFolder(rocksdb_folder_));
  }
  std::error_code ignored;
  if (!has_marker && !std::filesystem::exists(folder_ + "/" + kCommitsFile, ignored)) {
    MSADB_RETURN_IF_ERROR(CommitMarkFile::Create(*file_system_, folder_));
  }
  MSADB_ASSIGN_OR_RETURN(mark_file_,
                         CommitMarkFile::Open(*file_system_, folder_, options_.read_only));
  mark_damage_ = mark_file_->damaged();
  MSADB_ASSIGN_OR_RETURN(const uint64_t last_commit,
                         has_marker ? InspectLog() : Result<uint64_t>(UINT64_MAX));
  MSADB_RETURN_IF_ERROR(OpenRocksdb(!has_marker, last_commit));

  rocksdb::PinnableSlice format;
  const Result<std::string_view> payload =
      GetSealed(Family::kMeta, FormatKey().view(), nullptr, &format, 0, 0);
  if (!payload.ok()) {
    if (payload.status().code() != StatusCode::kNotFound) return payload.status();
    if (has_marker || db_->GetLatestSequenceNumber() != 0) {
      return Status::Corruption(folder_ +
                                ": the format record is missing; restore the folder from a backup");
    }
    MSADB_RETURN_IF_ERROR(Initialize());
  } else {
    std::string_view fields = *payload;
    uint32_t version = 0;
    if (!GetFixed32(&fields, &version) || !fields.empty()) {
      return Status::Corruption(folder_ + ": the format record is damaged");
    }
    if (version != kFormatVersion) {
      return Status::Unsupported(folder_ + " has format version " + std::to_string(version) +
                                 "; this msadb reads version " + std::to_string(kFormatVersion));
    }
    MSADB_RETURN_IF_ERROR(LoadState());
  }
  if (!has_marker) MSADB_RETURN_IF_ERROR(WriteMarker(*file_system_, folder_));
  if (!created_ && !options_.fingerprint.empty()) {
    MSADB_RETURN_IF_ERROR(CheckModel(options_.fingerprint, options_.model_description));
  }
  // RocksDB has moved what it found in the log to files and synced them, so all of it is on disk.
  synced_commits_ = counters_.commits;
  RecordMark();
  return Status::Ok();
}

// What the log holds beyond the files, found out before anything is changed. Returns the newest
// commit that may be applied: what lies behind a gap is the leftover of buffered commits that a
// power cut tore apart, and goes.
Result<uint64_t> StoreImpl::InspectLog() {
  MSADB_RETURN_IF_ERROR(CheckManifest(*file_system_, rocksdb_folder_, mark_file_->mark()));
  CommitLogFilter filter;
  rocksdb::Options options = DbOptions(/*create=*/false);
  options.wal_filter = &filter;
  options.max_open_files = kInspectOpenFiles;  // opens tables when they are read, and hardly any is
  std::vector<rocksdb::ColumnFamilyHandle*> handles;
  rocksdb::DB* db = nullptr;
  const rocksdb::Status s = rocksdb::DB::OpenForReadOnly(
      options, rocksdb_folder_, FamilyDescriptors(/*cache_bytes=*/kMemoryBytesMin), &handles, &db);
  MSADB_RETURN_IF_ERROR(OpenStatus(s));
  const std::unique_ptr<rocksdb::DB> owner(db);
  std::string value;
  const KeyBytes key = CountersKey();
  const rocksdb::Status read =
      db->Get(rocksdb::ReadOptions(), handles[0], ToSlice(key.view()), &value);
  for (rocksdb::ColumnFamilyHandle* handle : handles) {
    db->DestroyColumnFamilyHandle(handle).PermitUncheckedError();
  }
  Counters base;
  if (read.ok()) {
    const auto payload = Unseal(Family::kMeta, key.view(), value);
    if (!payload || !DecodeCounters(*payload, &base)) {
      return Status::Corruption(folder_ + ": the commit counter fails its checksum");
    }
  } else if (!read.IsNotFound()) {  // not found: everything is still in the log
    return FromRocksdb(read, "reading the commit counter of " + folder_);
  }
  const uint64_t last = filter.LastReachable(base.commits);
  if (last >= mark_file_->mark().commits) return last;
  return Status::Corruption(
      folder_ + ": commits " + std::to_string(last + 1) + " to " +
      std::to_string(mark_file_->mark().commits) +
      " were acknowledged but are missing from the log, which is damaged or cut off; nothing was "
      "changed. Restore the folder from a backup, or delete the file COMMITS in it to go on "
      "without "
      "them");
}

Status StoreImpl::OpenStatus(const rocksdb::Status& s) const {
  // What RocksDB cannot find in a database that has its marker has been lost.
  if (s.IsInvalidArgument() || s.IsCorruption()) {
    return Status::Corruption(folder_ + " is damaged: " + s.ToString() +
                              "; nothing was changed, restore the folder from a backup");
  }
  return FromRocksdb(s, "opening " + folder_);
}

rocksdb::Options StoreImpl::DbOptions(bool create) const {
  rocksdb::Options o;
  o.create_if_missing = create;
  o.create_missing_column_families = create;
  o.env = env_.get();
  o.info_log = log_;
  o.info_log_level = rocksdb::InfoLogLevel::WARN_LEVEL;
  // The default (kPointInTimeRecovery) silently drops acknowledged commits behind a damaged one.
  o.wal_recovery_mode = rocksdb::WALRecoveryMode::kTolerateCorruptedTailRecords;
  o.paranoid_checks = true;
  o.verify_sst_unique_id_in_manifest = true;
  // All families are flushed at one point of the log, so that a MANIFEST cut off at its end shows
  // an older state of everything, which the commit counter notices, and never of one family alone.
  o.atomic_flush = true;
  // Without it damage inside blob files is invisible to a check of whole files.
  o.file_checksum_gen_factory = rocksdb::GetFileChecksumGenCrc32cFactory();
  o.max_bgerror_resume_count = 0;
  o.max_manifest_file_size = 1u << 20;
  o.db_write_buffer_size = WriteBufferBytes();
  o.max_total_wal_size = 4 * WriteBufferBytes();
  o.max_background_jobs = 2;
  // With more, RocksDB starts threads to open tables, and where one cannot be started (no memory, a
  // limit on processes) it ends the whole process.
  o.max_file_opening_threads = 1;
  o.stats_dump_period_sec = 0;
  o.stats_persist_period_sec = 0;
  o.skip_stats_update_on_db_open = true;
  o.recycle_log_file_num = 0;  // a recycled log would keep deleted bytes
  return o;
}

rocksdb::ColumnFamilyOptions StoreImpl::FamilyOptions(Family f) const {
  rocksdb::ColumnFamilyOptions o;
  o.write_buffer_size = WriteBufferBytes() / 2;
  o.level_compaction_dynamic_level_bytes = true;
  o.compression = rocksdb::kNoCompression;
  if (f == Family::kDocuments && options_.compress) o.compression = BestCompression();
  if (f == Family::kBlocks) {
    o.enable_blob_files = true;
    o.min_blob_size = kBlobBytesMin;
    o.blob_file_size = uint64_t{256} << 20;
    o.enable_blob_garbage_collection = true;
    o.blob_garbage_collection_age_cutoff = 0.25;
  }
  return o;
}

std::vector<rocksdb::ColumnFamilyDescriptor> StoreImpl::FamilyDescriptors(
    size_t cache_bytes) const {
  rocksdb::BlockBasedTableOptions table;
  table.block_cache = rocksdb::NewLRUCache(cache_bytes);
  table.cache_index_and_filter_blocks = true;  // so that memory_bytes bounds them too
  table.checksum = rocksdb::kXXH3;
  table.format_version = 5;
  table.filter_policy.reset(rocksdb::NewBloomFilterPolicy(10));
  const std::shared_ptr<rocksdb::TableFactory> factory(rocksdb::NewBlockBasedTableFactory(table));
  std::vector<rocksdb::ColumnFamilyDescriptor> descriptors;
  for (size_t i = 0; i < kFamilyCount; ++i) {
    const auto f = static_cast<Family>(i);
    descriptors.emplace_back(FamilyRocksdbName(f), FamilyOptions(f));
    descriptors.back().options.table_factory = factory;
  }
  return descriptors;
}

Status StoreImpl::OpenRocksdb(bool create, uint64_t last_commit) {
  rocksdb::Options options = DbOptions(create);
  options.listeners.push_back(std::make_shared<StoreListener>(this));
  // Used during the open only.
  CommitLogFilter filter(last_commit);
  options.wal_filter = &filter;
  const std::vector<rocksdb::ColumnFamilyDescriptor> descriptors =
      FamilyDescriptors(options_.memory_bytes - WriteBufferBytes());
  std::vector<rocksdb::ColumnFamilyHandle*> handles;
  rocksdb::DB* db = nullptr;
  const rocksdb::Status s =
      options_.read_only
          ? rocksdb::DB::OpenForReadOnly(options, rocksdb_folder_, descriptors, &handles, &db)
          : rocksdb::DB::Open(options, rocksdb_folder_, descriptors, &handles, &db);
  MSADB_RETURN_IF_ERROR(OpenStatus(s));
  db_.reset(db);
  std::copy(handles.begin(), handles.end(), families_.begin());
  return Status::Ok();
}

void StoreImpl::RecordMark() {
  CommitMark mark = mark_file_->mark();
  mark.commits = std::max(mark.commits, synced_commits_);
  if (files_changed_.exchange(false)) {
    std::vector<std::string> names;
    uint64_t manifest_bytes = 0;
    // The length that RocksDB has synced, which is what a crash cannot take away.
    rocksdb::Status s = db_->GetLiveFiles(names, &manifest_bytes, /*flush_memtable=*/false);
    for (const std::string& name : names) {
      const uint64_t number = s.ok() ? ManifestNumber(std::string_view(name).substr(1)) : 0;
      if (number == 0) continue;
      // On failure the old mark stays true.
      if (!manifest_.Extend(*file_system_, rocksdb_folder_, number, manifest_bytes).ok()) break;
      mark.manifest_number = number;
      mark.manifest_bytes = manifest_.bytes();
      mark.manifest_hash = manifest_.hash();
    }
  }
  mark_file_->Record(mark);
}

Status StoreImpl::Initialize() {
  created_ = true;
  fingerprint_ = options_.fingerprint;
  model_description_ = options_.model_description;
  rocksdb::WriteBatch batch;
  std::string format;
  PutFixed32(&format, kFormatVersion);
  MSADB_RETURN_IF_ERROR(
      PutSealed(&batch, family(Family::kMeta), Family::kMeta, FormatKey(), format));
  MSADB_RETURN_IF_ERROR(PutSealed(&batch, family(Family::kMeta), Family::kMeta, ModelKey(),
                                  EncodeModel(fingerprint_, model_description_)));
  const std::lock_guard lock(commit_mutex_);
  MSADB_RETURN_IF_ERROR(WriteBatchLocked(&batch, counters_));
  // Whatever the durability: the marker that follows promises that this is there.
  const rocksdb::Status s = db_->SyncWAL();
  if (!s.ok()) Stop(s.ToString());
  return FromRocksdb(s, "creating " + folder_);
}

Status StoreImpl::LoadState() {
  const auto damaged = [this](const std::string& what) {
    return Status::Corruption(folder_ + ": " + what + " is damaged");
  };
  rocksdb::PinnableSlice value;
  MSADB_ASSIGN_OR_RETURN(std::string_view payload,
                         GetSealed(Family::kMeta, CountersKey().view(), nullptr, &value, 0, 0));
  if (!DecodeCounters(payload, &counters_)) return damaged("the commit counter");
  value.Reset();
  MSADB_ASSIGN_OR_RETURN(payload,
                         GetSealed(Family::kMeta, ModelKey().view(), nullptr, &value, 0, 0));
  if (!DecodeModel(payload, &fingerprint_, &model_description_)) return damaged("the model record");

  value.Reset();
  const Result<std::string_view> purged =
      GetSealed(Family::kMeta, PurgedKey().view(), nullptr, &value, 0, 0);
  if (purged.ok()) {
    payload = *purged;
    if (!GetFixed64(&payload, &purged_bytes_)) return damaged("the purge record");
  } else if (purged.status().code() != StatusCode::kNotFound) {
    return purged.status();
  }

  const std::unique_ptr<rocksdb::Iterator> it(
      db_->NewIterator(rocksdb::ReadOptions(), family(Family::kMeta)));
  for (it->Seek(rocksdb::Slice(&kCollectionNameTag, 1));
       it->Valid() && it->key().starts_with(rocksdb::Slice(&kCollectionNameTag, 1)); it->Next()) {
    std::string_view key = ToView(it->key());
    const auto name = Unseal(Family::kMeta, key, ToView(it->value()));
    if (key.size() != 5 || !name) return damaged("a collection record");
    CollectionId id = 0;
    for (const char c : key.substr(1)) id = id << 8 | static_cast<uint8_t>(c);
    rocksdb::PinnableSlice stats_value;
    MSADB_ASSIGN_OR_RETURN(
        const std::string_view stats,
        GetSealed(Family::kMeta, CollectionStatsKey(id).view(), nullptr, &stats_value, 0, 0));
    MSADB_ASSIGN_OR_RETURN(CollectionState state, DecodeCollection(id, *name, stats));
    if (id >= counters_.next_collection || !collection_ids_.emplace(state.name, id).second) {
      return damaged("the list of collections");
    }
    collections_.emplace(id, std::move(state));
  }
  return FromRocksdb(it->status(), "reading the collections of " + folder_);
}

Result<CollectionState> StoreImpl::DecodeCollection(CollectionId id, std::string_view name_payload,
                                                    std::string_view stats_payload) const {
  CollectionState state;
  uint64_t created_us = 0;
  if (!GetFixed64(&name_payload, &created_us) || name_payload.empty() ||
      !DecodeStats(stats_payload, &state.next_number, &state.stats) || state.next_number == 0) {
    return Status::Corruption(folder_ + ": the record of collection " + std::to_string(id) +
                              " is damaged");
  }
  state.name = name_payload;
  state.created_us = static_cast<int64_t>(created_us);
  state.next_reserved = state.next_number;
  return state;
}

// --- Model identity and settings
// -------------------------------------------------------------------

std::string StoreImpl::fingerprint() const {
  const std::lock_guard lock(state_mutex_);
  return fingerprint_;
}

std::string StoreImpl::model_description() const {
  const std::lock_guard lock(state_mutex_);
  return model_description_;
}

Status StoreImpl::CheckModel(std::string_view fingerprint, std::string_view description) const {
  const std::lock_guard lock(state_mutex_);
  if (fingerprint == fingerprint_) return Status::Ok();
  const auto name = [](std::string_view text, std::string_view print) {
    return (text.empty() ? std::string("a model") : "'" + std::string(text) + "'") +
           " with fingerprint " + (print.empty() ? "(none)" : std::string(print));
  };
  return Status::FailedPrecondition(
      folder_ + " holds the memory of " + name(model_description_, fingerprint_) + ", not of " +
      name(description, fingerprint) +
      "; open it with the model it was made with, or re-encode it for the other one");
}

Status StoreImpl::SetModel(std::string_view fingerprint, std::string_view description) try {
  MSADB_RETURN_IF_ERROR(CheckModelIdentity(fingerprint, description));
  const std::lock_guard lock(commit_mutex_);
  MSADB_RETURN_IF_ERROR(CheckWritable());
  std::string new_fingerprint(fingerprint), new_description(description);
  Counters counters = counters_;
  counters.deleted_bytes += 1;
  rocksdb::WriteBatch batch;
  MSADB_RETURN_IF_ERROR(PutSealed(&batch, family(Family::kMeta), Family::kMeta, ModelKey(),
                                  EncodeModel(fingerprint, description)));
  MSADB_RETURN_IF_ERROR(WriteBatchLocked(&batch, counters));
  const std::lock_guard state(state_mutex_);
  fingerprint_.swap(new_fingerprint);
  model_description_.swap(new_description);
  return Status::Ok();
} catch (const std::bad_alloc&) {
  return Status::ResourceExhausted("no memory to store the model's identity");
}

Result<std::string> StoreImpl::GetSetting(std::string_view name) const try {
  MSADB_RETURN_IF_ERROR(CheckSettingName(name));
  rocksdb::PinnableSlice value;
  const Result<std::string_view> payload =
      GetSealed(Family::kMeta, SettingKey(name).view(), nullptr, &value, 0, 0);
  if (payload.ok()) return std::string(*payload);
  if (payload.status().code() != StatusCode::kNotFound) return payload.status();
  return Status::NotFound("no setting '" + std::string(name) + "'");
} catch (const std::bad_alloc&) {
  return Status::ResourceExhausted("no memory to read a setting");
}

// --- Collections
// -----------------------------------------------------------------------------------

Result<CollectionId> StoreImpl::CreateCollection(std::string_view name) try {
  MSADB_RETURN_IF_ERROR(CheckCollectionName(name));
  const std::lock_guard lock(commit_mutex_);
  MSADB_RETURN_IF_ERROR(CheckWritable());
  MSADB_RETURN_IF_ERROR(CheckHeadroom(0));
  Counters counters = counters_;
  const CollectionId id = counters.next_collection;
  // Made ready first: after the write nothing may fail.
  std::map<CollectionId, CollectionState> new_collection;
  std::map<std::string, CollectionId, std::less<>> new_id;
  {
    const std::lock_guard state(state_mutex_);
    if (collection_ids_.find(name) != collection_ids_.end()) {
      return Status::AlreadyExists("there is a collection '" + std::string(name) + "' already");
    }
  }
  if (id == UINT32_MAX) {
    return Status::ResourceExhausted("this database has used up its collection numbers");
  }
  counters.next_collection = id + 1;
  CollectionState& state = new_collection[id];
  state.name = name;
  state.created_us = NowMicros();
  new_id.emplace(name, id);

  rocksdb::WriteBatch batch;
  std::string payload;
  PutFixed64(&payload, static_cast<uint64_t>(state.created_us));
  payload.append(name);
  MSADB_RETURN_IF_ERROR(
      PutSealed(&batch, family(Family::kMeta), Family::kMeta, CollectionNameKey(id), payload));
  MSADB_RETURN_IF_ERROR(PutSealed(&batch, family(Family::kMeta), Family::kMeta,
                                  CollectionStatsKey(id),
                                  EncodeStats(state.next_number, state.stats)));
  MSADB_RETURN_IF_ERROR(WriteBatchLocked(&batch, counters));
  const std::lock_guard publish(state_mutex_);
  collections_.merge(new_collection);
  collection_ids_.merge(new_id);
  return id;
} catch (const std::bad_alloc&) {
  return Status::ResourceExhausted("no memory to create a collection");
}

// Row by row, not as ranges: RocksDB 7.8 asserts, and so ends the process, when the file system
// fails while a compaction writes a file that would hold range deletions alone
// (CompactionOutputs::CloseOutput, CompactionJob::UpdateCompactionJobStats).
Status StoreImpl::DeleteRowsOf(CollectionId id, rocksdb::WriteBatch* batch) {
  const KeyBytes begin = CollectionKey(id), end = CollectionKey(id + 1);
  const rocksdb::Slice upper = ToSlice(end.view());
  rocksdb::ReadOptions read;
  read.iterate_upper_bound = &upper;
  read.fill_cache = false;
  for (const Family f : {Family::kDocuments, Family::kKeys, Family::kExpiry}) {
    const std::unique_ptr<rocksdb::Iterator> it(db_->NewIterator(read, family(f)));
    for (it->Seek(ToSlice(begin.view())); it->Valid(); it->Next()) {
      rocksdb::Status s = batch->Delete(family(f), it->key());
      if (f == Family::kDocuments) {
        // Same keys, and values that are better not read.
        if (s.ok()) s = batch->Delete(family(Family::kRouting), it->key());
        if (s.ok()) s = batch->Delete(family(Family::kBlocks), it->key());
      }
      MSADB_RETURN_IF_ERROR(FromRocksdb(s, "building a commit"));
    }
    MSADB_RETURN_IF_ERROR(FromRocksdb(it->status(), "listing what collection " +
                                                        std::to_string(id) + " holds"));
  }
  return Status::Ok();
}

Status StoreImpl::DropCollection(CollectionId id) try {
  const std::lock_guard lock(commit_mutex_);
  MSADB_RETURN_IF_ERROR(CheckWritable());
  Counters counters = counters_;
  std::string name;
  {
    const std::lock_guard state(state_mutex_);
    const auto it = collections_.find(id);
    if (it == collections_.end()) {
      return Status::NotFound("no collection with id " + std::to_string(id));
    }
    name = it->second.name;
    const CollectionStats& s = it->second.stats;
    counters.deleted_bytes += name.size() + s.text_bytes + s.routing_bytes + s.blocks_bytes;
  }
  rocksdb::WriteBatch batch;
  rocksdb::Status s = batch.Delete(family(Family::kMeta), ToSlice(CollectionNameKey(id).view()));
  if (s.ok()) {
    s = batch.Delete(family(Family::kMeta), ToSlice(CollectionStatsKey(id).view()));
  }
  MSADB_RETURN_IF_ERROR(FromRocksdb(s, "building a commit"));
  MSADB_RETURN_IF_ERROR(DeleteRowsOf(id, &batch));
  MSADB_RETURN_IF_ERROR(WriteBatchLocked(&batch, counters));
  const std::lock_guard publish(state_mutex_);
  collection_ids_.erase(name);
  collections_.erase(id);
  return Status::Ok();
} catch (const std::bad_alloc&) {
  return Status::ResourceExhausted("no memory to drop a collection");
}

// --- Writing
// ---------------------------------------------------------------------------------------

Result<Number> StoreImpl::ReserveNumbers(CollectionId collection, uint64_t count) {
  if (count == 0 || count > kReserveMax) {
    return Status::InvalidArgument("between 1 and 2^32 numbers can be reserved at a time");
  }
  const std::lock_guard lock(state_mutex_);
  const auto it = collections_.find(collection);
  if (it == collections_.end()) {
    return Status::NotFound("no collection with id " + std::to_string(collection));
  }
  if (it->second.next_reserved > kNumberMax - count) {
    return Status::ResourceExhausted("this collection has used up its document numbers");
  }
  const Number first = it->second.next_reserved;
  it->second.next_reserved += count;
  return first;
}

WriteSet StoreImpl::NewWriteSet() try {
  auto state = std::make_unique<WriteSet::State>();
  state->store = this;
  state->families = families_;
  return WriteSet(std::move(state));
} catch (const std::bad_alloc&) {
  return WriteSet(nullptr);  // which refuses whatever is added to it
}

Status StoreImpl::Commit(WriteSet&& set) try {
  const std::unique_ptr<WriteSet::State> state = std::move(set.state_);
  if (!state) return UsedUp();
  if (state->store != this) {
    return Status::InvalidArgument("the write set was made by another store");
  }
  if (state->batch.Count() == 0 && state->changes.empty()) return Status::Ok();

  const std::lock_guard lock(commit_mutex_);
  MSADB_RETURN_IF_ERROR(CheckWritable());
  if (state->inserts > 0) MSADB_RETURN_IF_ERROR(CheckHeadroom(2 * state->batch.GetDataSize()));

  Counters counters = counters_;
  counters.deleted_bytes += state->deleted_bytes;
  struct Update {
    CollectionId id;
    Number next_number;
    CollectionStats stats;
  };
  std::vector<Update> updates;
  {
    const std::lock_guard state_lock(state_mutex_);
    for (const auto& [id, change] : state->changes) {
      const auto it = collections_.find(id);
      if (it == collections_.end()) {
        return Status::NotFound("collection " + std::to_string(id) + " was dropped");
      }
      const CollectionState& now = it->second;
      if (change.number_put >= now.next_reserved) {
        return Status::InvalidArgument("document number " + std::to_string(change.number_put) +
                                       " was not reserved");
      }
      Update update{id, std::max(now.next_number, change.next_number), now.stats};
      if (!ApplyChange(&update.stats, change)) {
        return Status::Internal("a commit deletes more of collection '" + now.name +
                                "' than it holds");
      }
      updates.push_back(update);
    }
  }
  for (const Update& u : updates) {
    MSADB_RETURN_IF_ERROR(PutSealed(&state->batch, family(Family::kMeta), Family::kMeta,
                                    CollectionStatsKey(u.id), EncodeStats(u.next_number, u.stats)));
  }
  MSADB_RETURN_IF_ERROR(WriteBatchLocked(&state->batch, counters));
  const std::lock_guard publish(state_mutex_);
  for (const Update& u : updates) {
    CollectionState& now = collections_.find(u.id)->second;
    now.next_number = u.next_number;
    now.next_reserved = std::max(now.next_reserved, u.next_number);
    now.stats = u.stats;
  }
  return Status::Ok();
} catch (const std::bad_alloc&) {
  return Status::ResourceExhausted("no memory to commit");
}

Status StoreImpl::WriteBatchLocked(rocksdb::WriteBatch* batch, Counters counters) {
  counters.commits += 1;
  MSADB_RETURN_IF_ERROR(PutSealed(batch, family(Family::kMeta), Family::kMeta, CountersKey(),
                                  EncodeCounters(counters)));
  rocksdb::WriteOptions write;
  write.sync = options_.durability == CommitDurability::kSync;
  rocksdb::Status s;
  try {
    s = db_->Write(write, batch);
  } catch (const std::bad_alloc&) {
    // RocksDB is not exception-safe: what it did before is unknown.
    s = rocksdb::Status::MemoryLimit("no memory inside a commit");
  }
  if (!s.ok()) {
    Stop(s.ToString());
    return FromRocksdb(s, "commit failed, and the store takes no more writes until it is reopened");
  }
  {
    const std::lock_guard lock(state_mutex_);
    counters_ = counters;
    if (write.sync) synced_commits_ = counters.commits;
  }
  if (write.sync) RecordMark();
  return Status::Ok();
}

Status StoreImpl::Sync() {
  if (options_.read_only) return Status::Ok();
  const std::lock_guard lock(commit_mutex_);
  MSADB_RETURN_IF_ERROR(CheckWritable());
  if (synced_commits_ == counters_.commits) return Status::Ok();
  const rocksdb::Status s = db_->SyncWAL();
  if (!s.ok()) {
    Stop(s.ToString());
    return FromRocksdb(s, "syncing the log");
  }
  {
    const std::lock_guard state(state_mutex_);
    synced_commits_ = counters_.commits;
  }
  RecordMark();
  return Status::Ok();
}

void StoreImpl::Stop(std::string_view cause) {
  const std::lock_guard lock(stop_mutex_);
  if (stopped_) return;
  try {
    stop_cause_ = cause;
  } catch (const std::bad_alloc&) {
    stop_cause_.clear();
  }
  stopped_ = true;
}

Status StoreImpl::write_status() const {
  if (!stopped_) return Status::Ok();
  return Status::Unavailable(folder_ + " takes no more writes after a failure (" + stop_cause_ +
                             "); close it, see to the cause, and open it again");
}

Status StoreImpl::CheckWritable() const {
  if (options_.read_only) return Status::FailedPrecondition(folder_ + " was opened read-only");
  return write_status();
}

Result<uint64_t> StoreImpl::FreeDiskBytes() const {
  uint64_t free_bytes = 0;
  const rocksdb::IOStatus s =
      file_system_->GetFreeSpace(folder_, rocksdb::IOOptions(), &free_bytes, nullptr);
  if (s.IsNotSupported()) return UINT64_MAX;
  if (!s.ok()) return FromRocksdb(s, "looking for free space in " + folder_);
  return free_bytes;
}

Status StoreImpl::CheckHeadroom(uint64_t bytes) const {
  const uint64_t needed =
      bytes + options_.disk_headroom_bytes.value_or(3 * WriteBufferBytes() + kHeadroomBase);
  MSADB_ASSIGN_OR_RETURN(const uint64_t free_bytes, FreeDiskBytes());
  if (free_bytes >= needed) return Status::Ok();
  return Status::ResourceExhausted("the disk of " + folder_ +
                                   " is nearly full: " + std::to_string(free_bytes) +
                                   " bytes free, an insert needs " + std::to_string(needed) +
                                   " left; free some space, or delete documents and compact");
}

}  // namespace msadb::storage
