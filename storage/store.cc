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
constexpr Number kNumberMax = uint64_t{1} << 62;
constexpr size_t kSettingNameBytesMax = 64;
constexpr size_t kSettingValueBytesMax = 64u << 10;
constexpr size_t kModelBytesMax = 64u << 10;
// Values at least this long go to blob files, where compactions do not copy them again and again.
constexpr uint64_t kBlobBytesMin = 4096;
// One commit's fixed overhead in the log, generously.
constexpr size_t kOperationOverheadBytes = 64;

int64_t NowMicros() {
  return std::chrono::duration_cast<std::chrono::microseconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

// Tells the store about failures of RocksDB's background work, and keeps RocksDB from resuming on
// its own: after a failure nothing is known about the tail of the log until the next open.
class FailStopListener : public rocksdb::EventListener {
 public:
  explicit FailStopListener(StoreImpl* store) : store_(store) {}
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

Status CheckSettingName(std::string_view name) {
  const bool valid =
      !name.empty() && name.size() <= kSettingNameBytesMax &&
      std::all_of(name.begin(), name.end(), [](char c) {
        return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_' || c == '.';
      });
  if (valid) return Status::Ok();
  return Status::InvalidArgument("a setting's name is 1 to 64 characters of a-z, 0-9, '_' and '.'");
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
  return Status::ResourceExhausted("no memory to open " + folder);
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
    commit_counter_->Sync();
  }
  for (rocksdb::ColumnFamilyHandle* handle : families_) {
    if (handle != nullptr) db_->DestroyColumnFamilyHandle(handle).PermitUncheckedError();
  }
  db_->Close().PermitUncheckedError();
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

  file_system_ = options_.hooks != nullptr && options_.hooks->file_system != nullptr
                     ? options_.hooks->file_system
                     : rocksdb::FileSystem::Default();
  env_ = rocksdb::NewCompositeEnv(file_system_);

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
  if (!has_marker) MSADB_RETURN_IF_ERROR(CommitCounter::Create(*file_system_, folder_));
  MSADB_ASSIGN_OR_RETURN(commit_counter_,
                         CommitCounter::Open(*file_system_, folder_, options_.read_only));
  counter_damage_ = commit_counter_->damaged();
  MSADB_RETURN_IF_ERROR(OpenRocksdb(!has_marker));

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
  commit_counter_->Record(counters_.commits);
  return Status::Ok();
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

Status StoreImpl::OpenRocksdb(bool create) {
  rocksdb::Options options = DbOptions(create);
  options.listeners.push_back(std::make_shared<FailStopListener>(this));

  rocksdb::BlockBasedTableOptions table;
  table.block_cache = rocksdb::NewLRUCache(options_.memory_bytes - WriteBufferBytes());
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
  std::vector<rocksdb::ColumnFamilyHandle*> handles;
  rocksdb::DB* db = nullptr;
  const rocksdb::Status s =
      options_.read_only
          ? rocksdb::DB::OpenForReadOnly(options, rocksdb_folder_, descriptors, &handles, &db)
          : rocksdb::DB::Open(options, rocksdb_folder_, descriptors, &handles, &db);
  if (!s.ok()) {
    // With the marker there, files or families that RocksDB cannot find have been lost.
    if (s.IsInvalidArgument() || s.IsCorruption()) {
      return Status::Corruption(folder_ + " is damaged: " + s.ToString() +
                                "; nothing was changed, restore the folder from a backup");
    }
    return FromRocksdb(s, "opening " + folder_);
  }
  db_.reset(db);
  std::copy(handles.begin(), handles.end(), families_.begin());
  return Status::Ok();
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
  if (counters_.commits < commit_counter_->count()) {
    return Status::Corruption(
        folder_ + ": commits " + std::to_string(counters_.commits + 1) + " to " +
        std::to_string(commit_counter_->count()) +
        " were acknowledged but are missing (the log or the MANIFEST was cut off); restore the "
        "folder from a backup, or delete the file COMMITS in it to go on without them");
  }
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

Result<std::string> StoreImpl::GetSetting(std::string_view name) const {
  MSADB_RETURN_IF_ERROR(CheckSettingName(name));
  rocksdb::PinnableSlice value;
  const Result<std::string_view> payload =
      GetSealed(Family::kMeta, SettingKey(name).view(), nullptr, &value, 0, 0);
  if (payload.ok()) return std::string(*payload);
  if (payload.status().code() != StatusCode::kNotFound) return payload.status();
  return Status::NotFound("no setting '" + std::string(name) + "'");
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
  const KeyBytes begin = CollectionKey(id), end = CollectionKey(id + 1);
  for (const Family f :
       {Family::kDocuments, Family::kKeys, Family::kExpiry, Family::kRouting, Family::kBlocks}) {
    if (s.ok()) s = batch.DeleteRange(family(f), ToSlice(begin.view()), ToSlice(end.view()));
  }
  MSADB_RETURN_IF_ERROR(FromRocksdb(s, "building a commit"));
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

WriteSet::WriteSet(std::unique_ptr<State> state) : state_(std::move(state)) {}
WriteSet::WriteSet(WriteSet&&) noexcept = default;
WriteSet& WriteSet::operator=(WriteSet&&) noexcept = default;
WriteSet::~WriteSet() = default;

size_t WriteSet::bytes() const { return state_ ? state_->batch.GetDataSize() : 0; }
bool WriteSet::empty() const { return !state_ || state_->batch.Count() == 0; }
bool WriteSet::inserts() const { return state_ && state_->inserts > 0; }

namespace {

Status UsedUp() { return Status::InvalidArgument("this write set has been committed already"); }

// Runs `add` on the batch; if it fails in any way the batch is as before.
template <typename F>
Status AddAtomically(rocksdb::WriteBatch* batch, const F& add) {
  batch->SetSavePoint();
  rocksdb::Status s;
  try {
    s = add();
  } catch (const std::bad_alloc&) {
    s = rocksdb::Status::MemoryLimit();
  }
  const rocksdb::Status undone = s.ok() ? batch->PopSavePoint() : batch->RollbackToSavePoint();
  if (s.ok()) s = undone;
  return FromRocksdb(s, "building a commit");
}

rocksdb::Status PutTensor(rocksdb::WriteBatch* batch, rocksdb::ColumnFamilyHandle* handle,
                          Family family, const KeyBytes& key, const TensorView& tensor) {
  const auto header = TensorHeader(family, tensor.shape);
  const std::string_view head(header.data(), header.size());
  const std::string_view body(reinterpret_cast<const char*>(tensor.bytes.data()),
                              tensor.bytes.size());
  const auto seal = SealOf(family, key.view(), head, body);
  const rocksdb::Slice key_part = ToSlice(key.view());
  const rocksdb::Slice value_parts[] = {{seal.data(), seal.size()}, ToSlice(head), ToSlice(body)};
  return batch->Put(handle, rocksdb::SliceParts(&key_part, 1), rocksdb::SliceParts(value_parts, 3));
}

Status CheckTensor(const char* name, const TensorView& tensor, const Result<size_t>& bytes,
                   uint32_t n_chunks) {
  if (!bytes.ok()) return bytes.status().WithContext(name);
  if (tensor.bytes.size() != *bytes) {
    return Status::InvalidArgument(std::string(name) + ": " + std::to_string(tensor.bytes.size()) +
                                   " bytes given where the shape needs " + std::to_string(*bytes));
  }
  if (tensor.shape.n_chunks != n_chunks) {
    return Status::InvalidArgument(std::string(name) + ": " +
                                   std::to_string(tensor.shape.n_chunks) +
                                   " chunks where the record says " + std::to_string(n_chunks));
  }
  return Status::Ok();
}

}  // namespace

Status WriteSet::PutPart(CollectionId collection, Number number, const PartRecord& record,
                         const TensorView& routing, const TensorView& blocks) try {
  if (!state_) return UsedUp();
  MSADB_RETURN_IF_ERROR(
      CheckTensor("routing keys", routing, RoutingBytes(routing.shape), record.chunk_count));
  MSADB_RETURN_IF_ERROR(
      CheckTensor("content blocks", blocks, BlocksBytes(blocks.shape), record.chunk_count));
  if (number == 0 || number > kNumberMax || number != record.first_number + record.part_index) {
    return Status::InvalidArgument("part number " + std::to_string(number) +
                                   " is not first_number + part_index");
  }
  PartRecord sized = record;
  sized.routing_bytes = routing.bytes.size();
  sized.blocks_bytes = blocks.bytes.size();
  MSADB_ASSIGN_OR_RETURN(const std::string payload, EncodePartRecord(sized));
  const size_t added =
      payload.size() + routing.bytes.size() + blocks.bytes.size() + 8 * kOperationOverheadBytes;
  if (bytes() + added > kWriteSetBytesMax) {
    return Status::ResourceExhausted("one commit holds at most 2 GiB; divide it");
  }
  const KeyBytes key = PartKey(collection, number);
  CollectionChange& change = state_->changes[collection];
  const auto handle = [this](Family f) { return state_->families[static_cast<size_t>(f)]; };
  MSADB_RETURN_IF_ERROR(AddAtomically(&state_->batch, [&]() -> rocksdb::Status {
    rocksdb::Status s = state_->batch.Put(handle(Family::kDocuments), ToSlice(key.view()),
                                          Seal(Family::kDocuments, key.view(), payload));
    if (s.ok()) {
      s = PutTensor(&state_->batch, handle(Family::kRouting), Family::kRouting, key, routing);
    }
    if (s.ok()) {
      s = PutTensor(&state_->batch, handle(Family::kBlocks), Family::kBlocks, key, blocks);
    }
    if (s.ok() && record.key) {
      const KeyBytes hash = UserKeyHash(collection, *record.key);
      std::string id;
      PutFixed64(&id, number);
      s = state_->batch.Put(handle(Family::kKeys), ToSlice(hash.view()),
                            Seal(Family::kKeys, hash.view(), id));
    }
    if (s.ok() && record.expires_us) {
      const KeyBytes expiry = ExpiryKey(collection, *record.expires_us, number);
      s = state_->batch.Put(handle(Family::kExpiry), ToSlice(expiry.view()),
                            Seal(Family::kExpiry, expiry.view(), {}));
    }
    return s;
  }));
  change.documents += record.part_index == 0 ? 1 : 0;
  change.parts += 1;
  change.tokens += record.token_count;
  change.chunks += record.chunk_count;
  change.text_bytes += static_cast<int64_t>(record.text.size());
  change.routing_bytes += static_cast<int64_t>(sized.routing_bytes);
  change.blocks_bytes += static_cast<int64_t>(sized.blocks_bytes);
  change.next_number = std::max(change.next_number, number + 1);
  change.number_put = std::max(change.number_put, number);
  state_->inserts += 1;
  return Status::Ok();
} catch (const std::bad_alloc&) {
  return Status::ResourceExhausted("no memory to add a part to a commit");
}

Status WriteSet::DeletePart(CollectionId collection, Number number, const PartRecord& record) try {
  if (!state_) return UsedUp();
  if (number == 0 || number != record.first_number + record.part_index) {
    return Status::InvalidArgument("the record is not the one of part " + std::to_string(number));
  }
  CollectionChange& change = state_->changes[collection];
  const KeyBytes key = PartKey(collection, number);
  const auto handle = [this](Family f) { return state_->families[static_cast<size_t>(f)]; };
  MSADB_RETURN_IF_ERROR(AddAtomically(&state_->batch, [&]() -> rocksdb::Status {
    rocksdb::Status s;
    for (const Family f : {Family::kDocuments, Family::kRouting, Family::kBlocks}) {
      if (s.ok()) s = state_->batch.Delete(handle(f), ToSlice(key.view()));
    }
    if (s.ok() && record.key) {
      s = state_->batch.Delete(handle(Family::kKeys),
                               ToSlice(UserKeyHash(collection, *record.key).view()));
    }
    if (s.ok() && record.expires_us) {
      s = state_->batch.Delete(handle(Family::kExpiry),
                               ToSlice(ExpiryKey(collection, *record.expires_us, number).view()));
    }
    return s;
  }));
  change.documents -= record.part_index == 0 ? 1 : 0;
  change.parts -= 1;
  change.tokens -= record.token_count;
  change.chunks -= record.chunk_count;
  change.text_bytes -= static_cast<int64_t>(record.text_bytes);
  change.routing_bytes -= static_cast<int64_t>(record.routing_bytes);
  change.blocks_bytes -= static_cast<int64_t>(record.blocks_bytes);
  state_->deleted_bytes += 1 + record.text_bytes + record.routing_bytes + record.blocks_bytes;
  return Status::Ok();
} catch (const std::bad_alloc&) {
  return Status::ResourceExhausted("no memory to add a delete to a commit");
}

Status WriteSet::RaiseNextNumber(CollectionId collection, Number next) try {
  if (!state_) return UsedUp();
  if (next > kNumberMax) return Status::InvalidArgument("document number is too large");
  CollectionChange& change = state_->changes[collection];
  change.next_number = std::max(change.next_number, next);
  return Status::Ok();
} catch (const std::bad_alloc&) {
  return Status::ResourceExhausted("no memory to add to a commit");
}

Status WriteSet::PutSetting(std::string_view name, std::string_view value) try {
  if (!state_) return UsedUp();
  MSADB_RETURN_IF_ERROR(CheckSettingName(name));
  if (value.size() > kSettingValueBytesMax) {
    return Status::InvalidArgument("the value of setting '" + std::string(name) +
                                   "' exceeds 64 KiB");
  }
  const KeyBytes key = SettingKey(name);
  rocksdb::ColumnFamilyHandle* meta = state_->families[static_cast<size_t>(Family::kMeta)];
  MSADB_RETURN_IF_ERROR(AddAtomically(&state_->batch, [&] {
    return value.empty() ? state_->batch.Delete(meta, ToSlice(key.view()))
                         : state_->batch.Put(meta, ToSlice(key.view()),
                                             Seal(Family::kMeta, key.view(), value));
  }));
  state_->deleted_bytes += 1;  // the value it replaces
  return Status::Ok();
} catch (const std::bad_alloc&) {
  return Status::ResourceExhausted("no memory to add a setting to a commit");
}

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

WriteSet StoreImpl::NewWriteSet() {
  auto state = std::make_unique<WriteSet::State>();
  state->store = this;
  state->families = families_;
  return WriteSet(std::move(state));
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
  if (write.sync) commit_counter_->Record(counters.commits);
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
  commit_counter_->Record(synced_commits_);
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
