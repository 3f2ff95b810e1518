// Verify: reads everything and holds it against everything else.
#include <rocksdb/db.h>
#include <rocksdb/file_checksum.h>
#include <rocksdb/metadata.h>

#include <algorithm>
#include <array>
#include <map>
#include <new>
#include <utility>

#include "storage/rocksdb_status.h"
#include "storage/store_impl.h"

namespace msadb::storage {
namespace {

constexpr size_t kFileReadBytes = 1u << 20;
constexpr size_t kReadaheadBytes = size_t{4} << 20;

bool Before(const PartKeyFields& a, const PartKeyFields& b) {
  return a.collection != b.collection ? a.collection < b.collection : a.number < b.number;
}

bool Same(const PartKeyFields& a, const PartKeyFields& b) {
  return a.collection == b.collection && a.number == b.number;
}

}  // namespace

class Verifier {
 public:
  Verifier(StoreImpl& store, const StoreVerifyOptions& options)
      : store_(store), options_(options) {}

  Result<StoreVerifyReport> Run() {
    if (!store_.mark_damage_.empty()) Add(0, 0, store_.mark_damage_);
    MSADB_ASSIGN_OR_RETURN(snapshot_, store_.TakeSnapshot());
    MSADB_RETURN_IF_ERROR(CheckFiles());
    MSADB_RETURN_IF_ERROR(CheckMeta());
    MSADB_RETURN_IF_ERROR(CheckParts());
    MSADB_RETURN_IF_ERROR(CheckKeys());
    MSADB_RETURN_IF_ERROR(CheckExpiry());
    CheckStatistics();
    return std::move(report_);
  }

 private:
  // A walk over one of the three families that are keyed by part.
  struct Cursor {
    Family family;
    std::unique_ptr<rocksdb::Iterator> it;
    PartKeyFields last;  // the newest key seen
  };

  void Add(CollectionId collection, Number number, std::string what) {
    ++report_.damages_total;
    damaged_collections_[collection] = true;
    if (report_.damages.size() < options_.damages_max) {
      report_.damages.push_back({collection, number, std::move(what)});
    }
  }

  void AddStatus(CollectionId collection, Number number, const Status& status) {
    Add(collection, number, std::string(status.message()));
  }

  std::string Name(const PartKeyFields& key) const {
    return store_.PartName(key.collection, key.number);
  }

  // False: the caller wants to stop.
  bool Progress(uint64_t bytes) {
    report_.bytes_checked += bytes;
    since_progress_ += bytes;
    if (!options_.on_progress || since_progress_ < kFileReadBytes) return true;
    since_progress_ = 0;
    return options_.on_progress(report_.bytes_checked,
                                std::max(bytes_total_, report_.bytes_checked));
  }
  static Status Stopped() { return Status::Cancelled("verification was stopped"); }

  // --- Whole files against the checksums in the MANIFEST ---

  struct File {
    std::string path;
    uint64_t bytes;
    std::string checksum;
    std::string function;
  };

  Status CheckFiles() {
    // So that no compaction deletes a file while it is read.
    if (!store_.options_.read_only) {
      MSADB_RETURN_IF_ERROR(FromRocksdb(store_.db_->DisableFileDeletions(),
                                        "holding the files of " + store_.folder_));
    }
    const Status status = CheckHeldFiles();
    if (!store_.options_.read_only) {
      MSADB_RETURN_IF_ERROR(FromRocksdb(store_.db_->EnableFileDeletions(/*force=*/false),
                                        "releasing the files of " + store_.folder_));
    }
    return status;
  }

  Status CheckHeldFiles() {
    std::vector<File> files;
    for (rocksdb::ColumnFamilyHandle* handle : store_.families_) {
      rocksdb::ColumnFamilyMetaData metadata;
      store_.db_->GetColumnFamilyMetaData(handle, &metadata);
      for (const rocksdb::LevelMetaData& level : metadata.levels) {
        for (const rocksdb::SstFileMetaData& sst : level.files) {
          files.push_back({store_.rocksdb_folder_ + "/" + sst.relative_filename, sst.size,
                           sst.file_checksum, sst.file_checksum_func_name});
        }
      }
      for (const rocksdb::BlobMetaData& blob : metadata.blob_files) {
        files.push_back({store_.rocksdb_folder_ + "/" + blob.blob_file_name, blob.blob_file_size,
                         blob.checksum_value, blob.checksum_method});
      }
    }
    // Every file is read here, and its values once more below.
    for (const File& file : files) bytes_total_ += 2 * file.bytes;
    for (const File& file : files) {
      bool stop = false;
      const Status status = CheckFile(file, &stop);
      if (stop) return Stopped();
      if (!status.ok()) AddStatus(0, 0, status);
    }
    return Status::Ok();
  }

  Status CheckFile(const File& file, bool* stop) {
    rocksdb::FileChecksumGenContext context;
    context.file_name = file.path;
    context.requested_checksum_func_name = file.function;
    const auto generator =
        rocksdb::GetFileChecksumGenCrc32cFactory()->CreateFileChecksumGenerator(context);
    if (generator == nullptr || file.function != generator->Name()) {
      return Status::Corruption(file.path + " has no checksum that can be verified");
    }
    std::unique_ptr<rocksdb::FSSequentialFile> reader;
    rocksdb::IOStatus s =
        store_.file_system_->NewSequentialFile(file.path, rocksdb::FileOptions(), &reader, nullptr);
    const auto scratch = std::make_unique<char[]>(kFileReadBytes);
    uint64_t bytes = 0;
    while (s.ok()) {
      rocksdb::Slice read;
      s = reader->Read(kFileReadBytes, rocksdb::IOOptions(), &read, scratch.get(), nullptr);
      if (!s.ok() || read.empty()) break;
      generator->Update(read.data(), read.size());
      bytes += read.size();
      if (!Progress(read.size())) {
        *stop = true;
        return Status::Ok();
      }
    }
    MSADB_RETURN_IF_ERROR(FromRocksdb(s, "reading " + file.path));
    generator->Finalize();
    if (generator->GetChecksum() != file.checksum) {
      return Status::Corruption(file.path + " (" + std::to_string(bytes) +
                                " bytes) fails its checksum");
    }
    return Status::Ok();
  }

  // --- meta ---

  Status CheckMeta() {
    const std::unique_ptr<rocksdb::Iterator> it = NewIterator(Family::kMeta);
    for (it->SeekToFirst(); it->Valid(); it->Next()) {
      if (!Unseal(Family::kMeta, ToView(it->key()), ToView(it->value()))) {
        Add(0, 0, "a value of the family meta fails its checksum");
      }
    }
    if (!it->status().ok()) AddStatus(0, 0, FromRocksdb(it->status(), "reading the family meta"));
    return Status::Ok();
  }

  // --- Records, routing keys and blocks, side by side ---

  Status CheckParts() {
    Cursor documents = Open(Family::kDocuments);
    Cursor routing = Open(Family::kRouting);
    Cursor blocks = Open(Family::kBlocks);
    while (true) {
      if (!documents.it->Valid() && !SkipDamage(documents)) break;
      const PartKeyFields key = KeyOf(documents);
      if (!Progress(documents.it->value().size())) return Stopped();
      std::optional<PartRecord> record = CheckRecord(key, documents.it->value());
      ++report_.parts_checked;
      for (Cursor* tensor : {&routing, &blocks}) {
        bool stop = false;
        CheckTensorOf(*tensor, key, record ? &*record : nullptr, &stop);
        if (stop) return Stopped();
      }
      documents.it->Next();
    }
    EndDocument();
    for (Cursor* tensor : {&routing, &blocks}) {
      while (tensor->it->Valid() || SkipDamage(*tensor)) ReportOrphan(*tensor);
    }
    return Status::Ok();
  }

  std::unique_ptr<rocksdb::Iterator> NewIterator(Family f) {
    rocksdb::ReadOptions read = StoreImpl::ReadOptionsFor(snapshot_.get());
    read.fill_cache = false;
    read.readahead_size = kReadaheadBytes;
    return std::unique_ptr<rocksdb::Iterator>(store_.db_->NewIterator(read, store_.family(f)));
  }

  Cursor Open(Family f) {
    Cursor cursor{f, NewIterator(f), {}};
    cursor.it->SeekToFirst();
    return cursor;
  }

  PartKeyFields KeyOf(Cursor& cursor) {
    const auto key = ParsePartKey(ToView(cursor.it->key()));
    if (key) {
      cursor.last = *key;
    } else {
      Add(0, 0, "a malformed key in the family " + std::string(FamilyName(cursor.family)));
    }
    return cursor.last;
  }

  // The cursor cannot go on. False at the true end; after damage, reports it and finds the next key
  // that can be read. Which keys lie between is unknown; their other values show up as orphans.
  bool SkipDamage(Cursor& cursor) {
    if (cursor.it->status().ok()) return false;
    Add(cursor.last.collection, cursor.last.number,
        std::string(FromRocksdb(cursor.it->status(), "reading the " +
                                                         std::string(FamilyName(cursor.family)) +
                                                         " after " + Name(cursor.last))
                        .message()));
    // Blocks hold neighbours, so growing steps leave a damaged one soon; then on to the next
    // collections.
    for (int shift = 0; shift < 63; ++shift) {
      const Number step = Number{1} << shift;
      if (cursor.last.number > UINT64_MAX - step) break;
      cursor.it->Seek(ToSlice(PartKey(cursor.last.collection, cursor.last.number + step).view()));
      if (cursor.it->Valid()) return true;
    }
    const Result<std::vector<CollectionInfo>> collections = store_.ListCollections();
    if (!collections.ok()) return false;
    CollectionId next = UINT32_MAX;
    for (const CollectionInfo& info : *collections) {
      if (info.id <= cursor.last.collection || info.id >= next) continue;
      cursor.it->Seek(ToSlice(CollectionKey(info.id).view()));
      if (cursor.it->Valid()) next = info.id;
    }
    if (next == UINT32_MAX) return false;
    cursor.it->Seek(ToSlice(CollectionKey(next).view()));
    return cursor.it->Valid();
  }

  std::optional<PartRecord> CheckRecord(const PartKeyFields& key, const rocksdb::Slice& value) {
    const KeyBytes bytes = PartKey(key.collection, key.number);
    const auto payload = Unseal(Family::kDocuments, bytes.view(), ToView(value));
    if (!payload) {
      Add(key.collection, key.number, "the record of " + Name(key) + " fails its checksum");
      return std::nullopt;
    }
    Result<PartRecord> record = DecodePartRecord(*payload, PartFields::kNoText);
    if (!record.ok()) {
      AddStatus(key.collection, key.number, record.status().WithContext(Name(key)));
      return std::nullopt;
    }
    CheckSequence(key, *record);
    Count(key, *record);
    if (record->key) CheckMapping(key, *record->key);
    if (record->expires_us) CheckExpiryEntry(key, *record->expires_us);
    return std::move(*record);
  }

  // The parts of a document follow each other without a gap in numbers or text.
  void CheckSequence(const PartKeyFields& key, const PartRecord& record) {
    if (record.first_number + record.part_index != key.number) {
      Add(key.collection, key.number, Name(key) + " holds the record of another number");
      return;
    }
    const bool follows = previous_ && previous_key_.collection == key.collection &&
                         previous_key_.number + 1 == key.number &&
                         previous_->first_number == record.first_number;
    if (record.part_index > 0) {
      if (!follows || previous_->part_count != record.part_count ||
          previous_->text_offset + previous_->text_bytes != record.text_offset) {
        Add(key.collection, key.number, Name(key) + " does not continue the part before it");
      }
    }
    if (!follows) EndDocument();
    previous_key_ = key;
    previous_ = record;
  }

  void EndDocument() {
    if (previous_ && previous_->part_index + 1 != previous_->part_count) {
      Add(previous_key_.collection, previous_key_.number + 1,
          "the parts of " + Name({previous_key_.collection, previous_->first_number}) +
              " after number " + std::to_string(previous_key_.number) + " are missing");
    }
    previous_.reset();
  }

  void Count(const PartKeyFields& key, const PartRecord& record) {
    CollectionStats& s = counted_[key.collection];
    s.documents += record.part_index == 0 ? 1 : 0;
    s.parts += 1;
    s.tokens += record.token_count;
    s.chunks += record.chunk_count;
    s.text_bytes += record.text_bytes;
    s.routing_bytes += record.routing_bytes;
    s.blocks_bytes += record.blocks_bytes;
  }

  // The routing keys or blocks of `key`: brings the cursor there and past it.
  void CheckTensorOf(Cursor& cursor, const PartKeyFields& key, const PartRecord* record,
                     bool* stop) {
    while (cursor.it->Valid() && Before(KeyOf(cursor), key)) ReportOrphan(cursor);
    const std::string name = std::string(FamilyName(cursor.family)) + " of " + Name(key);
    if (cursor.it->Valid()) {
      if (!Same(KeyOf(cursor), key)) {
        Add(key.collection, key.number, "the " + name + " are missing");
        return;
      }
      *stop = !Progress(cursor.it->value().size());
      CheckTensorValue(cursor.family, key, ToView(cursor.it->value()), record);
      cursor.it->Next();
      return;
    }
    // An iterator does not say which value it failed on; asking for this one does.
    const bool failed = !cursor.it->status().ok();
    rocksdb::PinnableSlice value;
    const KeyBytes bytes = PartKey(key.collection, key.number);
    const rocksdb::Status s =
        store_.db_->Get(StoreImpl::ReadOptionsFor(snapshot_.get()), store_.family(cursor.family),
                        ToSlice(bytes.view()), &value);
    if (s.ok()) {
      CheckTensorValue(cursor.family, key, ToView(value), record);
    } else if (s.IsNotFound()) {
      Add(key.collection, key.number, "the " + name + " are missing");
    } else {
      AddStatus(key.collection, key.number, FromRocksdb(s, "reading the " + name));
    }
    if (failed && key.number < UINT64_MAX) {
      cursor.last = key;
      cursor.it->Seek(ToSlice(PartKey(key.collection, key.number + 1).view()));
    }
  }

  void CheckTensorValue(Family f, const PartKeyFields& key, std::string_view value,
                        const PartRecord* record) {
    const std::string name = std::string(FamilyName(f)) + " of " + Name(key);
    const auto payload = Unseal(f, PartKey(key.collection, key.number).view(), value);
    if (!payload) {
      Add(key.collection, key.number, "the " + name + " fail their checksum");
      return;
    }
    const Result<TensorView> tensor = ParseTensor(f, *payload);
    if (!tensor.ok()) {
      AddStatus(key.collection, key.number, tensor.status().WithContext(name));
      return;
    }
    if (record == nullptr) return;
    const uint64_t expected = f == Family::kRouting ? record->routing_bytes : record->blocks_bytes;
    if (tensor->shape.n_chunks != record->chunk_count || tensor->bytes.size() != expected) {
      Add(key.collection, key.number, "the " + name + " have another size than the record says");
    }
  }

  void ReportOrphan(Cursor& cursor) {
    const PartKeyFields key = KeyOf(cursor);
    Add(key.collection, key.number,
        "there are " + std::string(FamilyName(cursor.family)) + " but no record of " + Name(key));
    cursor.it->Next();
  }

  // --- keys and expiry, both ways ---

  void CheckMapping(const PartKeyFields& key, const std::string& user_key) {
    const Result<Number> number = store_.FindKey(key.collection, user_key, snapshot_.get());
    if (!number.ok()) {
      AddStatus(key.collection, key.number, number.status().WithContext("the key of " + Name(key)));
    } else if (*number != key.number) {
      Add(key.collection, key.number,
          "the key of " + Name(key) + " leads to document " + std::to_string(*number));
    }
  }

  void CheckExpiryEntry(const PartKeyFields& key, int64_t expires_us) {
    rocksdb::PinnableSlice value;
    const Result<std::string_view> entry =
        store_.GetSealed(Family::kExpiry, ExpiryKey(key.collection, expires_us, key.number).view(),
                         snapshot_.get(), &value, key.collection, key.number);
    if (!entry.ok()) {
      AddStatus(key.collection, key.number,
                entry.status().WithContext("the expiry entry of " + Name(key)));
    }
  }

  Status CheckKeys() {
    const std::unique_ptr<rocksdb::Iterator> it = NewIterator(Family::kKeys);
    for (it->SeekToFirst(); it->Valid(); it->Next()) {
      if (!Progress(it->value().size())) return Stopped();
      const std::string_view key = ToView(it->key());
      auto payload = Unseal(Family::kKeys, key, ToView(it->value()));
      PartKeyFields target;
      if (key.size() != kUserKeyHashBytes || !payload || !GetFixed64(&*payload, &target.number)) {
        Add(0, 0, "a value of the family keys fails its checksum");
        continue;
      }
      for (const char c : key.substr(0, 4)) {
        target.collection = target.collection << 8 | static_cast<uint8_t>(c);
      }
      const Result<PartRecord> record =
          store_.ReadPart(target.collection, target.number, snapshot_.get(), PartFields::kNoText);
      if (!record.ok()) {
        AddStatus(target.collection, target.number,
                  record.status().WithContext("a key leads to " + Name(target)));
      } else if (!record->key || UserKeyHash(target.collection, *record->key).view() != key) {
        Add(target.collection, target.number,
            "a key leads to " + Name(target) + ", which has another key");
      }
    }
    if (!it->status().ok()) AddStatus(0, 0, FromRocksdb(it->status(), "reading the family keys"));
    return Status::Ok();
  }

  Status CheckExpiry() {
    const std::unique_ptr<rocksdb::Iterator> it = NewIterator(Family::kExpiry);
    for (it->SeekToFirst(); it->Valid(); it->Next()) {
      if (!Progress(it->key().size())) return Stopped();
      const auto key = ParseExpiryKey(ToView(it->key()));
      if (!key || !Unseal(Family::kExpiry, ToView(it->key()), ToView(it->value()))) {
        Add(0, 0, "a value of the family expiry fails its checksum");
        continue;
      }
      const PartKeyFields target{key->collection, key->number};
      const Result<PartRecord> record =
          store_.ReadPart(target.collection, target.number, snapshot_.get(), PartFields::kNoText);
      if (!record.ok()) {
        AddStatus(target.collection, target.number,
                  record.status().WithContext("an expiry entry names " + Name(target)));
      } else if (record->expires_us != key->expires_us) {
        Add(target.collection, target.number,
            "the expiry entry of " + Name(target) + " has another time than its record");
      }
    }
    if (!it->status().ok()) AddStatus(0, 0, FromRocksdb(it->status(), "reading the family expiry"));
    return Status::Ok();
  }

  // --- What was counted against what the statistics say ---

  void CheckStatistics() {
    std::map<CollectionId, CollectionStats> stored;
    const Result<std::vector<CollectionInfo>> collections = store_.ListCollections();
    if (!collections.ok()) {
      AddStatus(0, 0, collections.status());
      return;
    }
    for (const CollectionInfo& listed : *collections) {
      const Result<CollectionInfo> info = store_.GetCollection(listed.id, snapshot_.get());
      if (info.ok()) {
        stored[listed.id] = info->stats;
      } else if (info.status().code() != StatusCode::kNotFound) {  // else made since the snapshot
        AddStatus(listed.id, 0, info.status());
      }
    }
    for (const auto& [id, stats] : counted_) {
      if (stored.contains(id)) continue;
      // Dropped since the snapshot, or never there.
      if (!store_.GetCollection(id, snapshot_.get()).ok()) {
        Add(id, 0,
            "there are documents of collection " + std::to_string(id) + ", which does not exist");
      }
    }
    for (const auto& [id, stats] : stored) {
      // A damaged collection cannot be counted, and has been reported.
      if (damaged_collections_.contains(id) || damaged_collections_.contains(0)) continue;
      if (!(counted_[id] == stats)) {
        Add(id, 0, "the statistics of " + store_.CollectionName(id) + " differ from what it holds");
      }
    }
  }

  StoreImpl& store_;
  const StoreVerifyOptions& options_;
  StoreVerifyReport report_;
  std::shared_ptr<const Snapshot> snapshot_;
  uint64_t bytes_total_ = 0;
  uint64_t since_progress_ = 0;
  std::map<CollectionId, bool> damaged_collections_;
  std::map<CollectionId, CollectionStats> counted_;
  PartKeyFields previous_key_;
  std::optional<PartRecord> previous_;
};

Result<StoreVerifyReport> StoreImpl::Verify(const StoreVerifyOptions& options) try {
  const std::lock_guard maintenance(maintenance_mutex_);
  // What is only in memory and in the log gets into files first, so that all of it is read from
  // disk.
  if (CheckWritable().ok()) MSADB_RETURN_IF_ERROR(FlushAll());
  return Verifier(*this, options).Run();
} catch (const std::bad_alloc&) {
  return Status::ResourceExhausted("no memory to verify");
}

}  // namespace msadb::storage
