// Snapshots, reads and scans.
#include <rocksdb/db.h>

#include <algorithm>
#include <new>
#include <utility>

#include "storage/rocksdb_status.h"
#include "storage/store_impl.h"

namespace msadb::storage {
namespace {

// Routing keys of a collection are read once, in order, to rebuild its index.
constexpr size_t kRoutingReadaheadBytes = size_t{4} << 20;
constexpr size_t kExpiredMax = 1'000'000;

}  // namespace

Result<std::shared_ptr<const Snapshot>> StoreImpl::TakeSnapshot() const try {
  auto snapshot = std::make_shared<SnapshotImpl>(shared_from_this(), nullptr);
  {
    // Registered before it is taken, so that Purge never overlooks it; at worst Purge counts a
    // little too much as held by it.
    const std::lock_guard lock(state_mutex_);
    snapshot->counters_ = counters_;
    snapshot_deleted_bytes_.insert(counters_.deleted_bytes);
    snapshot->registered_ = true;
  }
  snapshot->snapshot_ = db_->GetSnapshot();
  if (snapshot->snapshot_ == nullptr) return Status::Internal("RocksDB gave no snapshot");
  // A commit may have come between: what the snapshot itself says is right.
  rocksdb::PinnableSlice value;
  MSADB_ASSIGN_OR_RETURN(std::string_view payload, GetSealed(Family::kMeta, CountersKey().view(),
                                                             snapshot.get(), &value, 0, 0));
  uint64_t commits = 0;
  if (!GetFixed64(&payload, &commits)) {
    return Status::Corruption(folder_ + ": the commit counter is damaged");
  }
  snapshot->counters_.commits = commits;
  return std::shared_ptr<const Snapshot>(std::move(snapshot));
} catch (const std::bad_alloc&) {
  return Status::ResourceExhausted("no memory for a snapshot");
}

SnapshotImpl::~SnapshotImpl() { store_->Release(*this); }

void StoreImpl::Release(SnapshotImpl& snapshot) const {
  if (snapshot.snapshot_ != nullptr) db_->ReleaseSnapshot(snapshot.snapshot_);
  if (!snapshot.registered_) return;
  const std::lock_guard lock(state_mutex_);
  snapshot_deleted_bytes_.erase(snapshot_deleted_bytes_.find(snapshot.counters_.deleted_bytes));
}

rocksdb::ReadOptions StoreImpl::ReadOptionsFor(const Snapshot* snapshot) {
  rocksdb::ReadOptions options;
  if (snapshot != nullptr) {
    options.snapshot = static_cast<const SnapshotImpl*>(snapshot)->snapshot_;
  }
  return options;
}

std::string StoreImpl::CollectionName(CollectionId collection) const {
  const std::lock_guard lock(state_mutex_);
  const auto it = collections_.find(collection);
  return it == collections_.end() ? "collection " + std::to_string(collection)
                                  : "collection '" + it->second.name + "'";
}

std::string StoreImpl::PartName(CollectionId collection, Number number) const {
  return "document " + std::to_string(number) + " in " + CollectionName(collection);
}

Result<std::string_view> StoreImpl::GetSealed(Family f, std::string_view key,
                                              const Snapshot* snapshot,
                                              rocksdb::PinnableSlice* value,
                                              CollectionId collection, Number number) const {
  const rocksdb::Status s = db_->Get(ReadOptionsFor(snapshot), family(f), ToSlice(key), value);
  const auto name = [&] {
    if (number != 0) return PartName(collection, number);
    return collection != 0 ? CollectionName(collection) : folder_;
  };
  if (s.IsNotFound()) return Status::NotFound("no " + name());
  if (!s.ok()) return FromRocksdb(s, "reading the " + std::string(FamilyName(f)) + " of " + name());
  const auto payload = Unseal(f, key, ToView(*value));
  if (!payload) {
    return Status::Corruption("the " + std::string(FamilyName(f)) + " value of " + name() +
                              " fails its checksum");
  }
  return *payload;
}

Result<CollectionInfo> StoreImpl::FindCollection(std::string_view name) const try {
  const std::lock_guard lock(state_mutex_);
  const auto it = collection_ids_.find(name);
  if (it == collection_ids_.end()) {
    return Status::NotFound("there is no collection '" + std::string(name) + "'");
  }
  const CollectionState& state = collections_.find(it->second)->second;
  return CollectionInfo{it->second, state.name, state.created_us, state.next_number, state.stats};
} catch (const std::bad_alloc&) {
  return Status::ResourceExhausted("no memory to describe a collection");
}

Result<CollectionInfo> StoreImpl::GetCollection(CollectionId id, const Snapshot* snapshot) const
    try {
  if (snapshot == nullptr) {
    const std::lock_guard lock(state_mutex_);
    const auto it = collections_.find(id);
    if (it == collections_.end()) {
      return Status::NotFound("no collection with id " + std::to_string(id));
    }
    const CollectionState& state = it->second;
    return CollectionInfo{id, state.name, state.created_us, state.next_number, state.stats};
  }
  rocksdb::PinnableSlice name_value, stats_value;
  MSADB_ASSIGN_OR_RETURN(
      const std::string_view name,
      GetSealed(Family::kMeta, CollectionNameKey(id).view(), snapshot, &name_value, id, 0));
  MSADB_ASSIGN_OR_RETURN(
      const std::string_view stats,
      GetSealed(Family::kMeta, CollectionStatsKey(id).view(), snapshot, &stats_value, id, 0));
  MSADB_ASSIGN_OR_RETURN(CollectionState state, DecodeCollection(id, name, stats));
  return CollectionInfo{id, std::move(state.name), state.created_us, state.next_number,
                        state.stats};
} catch (const std::bad_alloc&) {
  return Status::ResourceExhausted("no memory to describe a collection");
}

Result<std::vector<CollectionInfo>> StoreImpl::ListCollections() const try {
  const std::lock_guard lock(state_mutex_);
  std::vector<CollectionInfo> list;
  list.reserve(collections_.size());
  for (const auto& [name, id] : collection_ids_) {
    const CollectionState& state = collections_.find(id)->second;
    list.push_back({id, state.name, state.created_us, state.next_number, state.stats});
  }
  return list;
} catch (const std::bad_alloc&) {
  return Status::ResourceExhausted("no memory to list the collections");
}

Result<PartRecord> StoreImpl::ReadPart(CollectionId collection, Number number,
                                       const Snapshot* snapshot, PartFields fields) const try {
  rocksdb::PinnableSlice value;
  MSADB_ASSIGN_OR_RETURN(const std::string_view payload,
                         GetSealed(Family::kDocuments, PartKey(collection, number).view(), snapshot,
                                   &value, collection, number));
  Result<PartRecord> record = DecodePartRecord(payload, fields);
  if (!record.ok()) return record.status().WithContext(PartName(collection, number));
  return record;
} catch (const std::bad_alloc&) {
  return Status::ResourceExhausted("no memory to read a document");
}

Result<bool> StoreImpl::HasPart(CollectionId collection, Number number,
                                const Snapshot* snapshot) const try {
  // The families change together, and this one has the smallest values.
  rocksdb::PinnableSlice value;
  const rocksdb::Status s = db_->Get(ReadOptionsFor(snapshot), family(Family::kDocuments),
                                     ToSlice(PartKey(collection, number).view()), &value);
  if (s.ok()) return true;
  if (s.IsNotFound()) return false;
  return FromRocksdb(s, "reading " + PartName(collection, number));
} catch (const std::bad_alloc&) {
  return Status::ResourceExhausted("no memory to look for a document");
}

Result<Number> StoreImpl::FindKey(CollectionId collection, std::string_view key,
                                  const Snapshot* snapshot) const try {
  // Without a snapshot of the caller's, the mapping and the record it leads to could be of
  // different moments.
  std::shared_ptr<const Snapshot> own;
  if (snapshot == nullptr) {
    MSADB_ASSIGN_OR_RETURN(own, TakeSnapshot());
    snapshot = own.get();
  }
  const KeyBytes hash = UserKeyHash(collection, key);
  rocksdb::PinnableSlice value;
  const Result<std::string_view> payload =
      GetSealed(Family::kKeys, hash.view(), snapshot, &value, collection, 0);
  if (!payload.ok()) {
    if (payload.status().code() != StatusCode::kNotFound) return payload.status();
    return Status::NotFound("no document with this key in " + CollectionName(collection));
  }
  std::string_view fields = *payload;
  Number number = 0;
  if (!GetFixed64(&fields, &number) || !fields.empty()) {
    return Status::Corruption("a key mapping in " + CollectionName(collection) + " is damaged");
  }
  const Result<PartRecord> record = ReadPart(collection, number, snapshot, PartFields::kNoText);
  if (!record.ok()) {
    if (record.status().code() != StatusCode::kNotFound) return record.status();
    return Status::Corruption("a key leads to " + PartName(collection, number) +
                              ", which does not exist");
  }
  if (record->key != key) {
    return Status::InvalidArgument("this key has the same hash as the key of " +
                                   PartName(collection, number) + "; choose another key");
  }
  return number;
} catch (const std::bad_alloc&) {
  return Status::ResourceExhausted("no memory to look up a key");
}

Status StoreImpl::ReadTensor(Family f, CollectionId collection, Number number, const TensorUse& use,
                             const Snapshot* snapshot) const try {
  rocksdb::PinnableSlice value;
  MSADB_ASSIGN_OR_RETURN(
      const std::string_view payload,
      GetSealed(f, PartKey(collection, number).view(), snapshot, &value, collection, number));
  const Result<TensorView> tensor = ParseTensor(f, payload);
  if (!tensor.ok()) return tensor.status().WithContext(PartName(collection, number));
  use(*tensor);
  return Status::Ok();
} catch (const std::bad_alloc&) {
  return Status::ResourceExhausted("no memory to read a document's memory");
}

Status StoreImpl::ReadRouting(CollectionId collection, Number number, const TensorUse& use,
                              const Snapshot* snapshot) const {
  return ReadTensor(Family::kRouting, collection, number, use, snapshot);
}

Status StoreImpl::ReadBlocks(CollectionId collection, Number number, const TensorUse& use,
                             const Snapshot* snapshot) const {
  return ReadTensor(Family::kBlocks, collection, number, use, snapshot);
}

Status StoreImpl::ScanSealed(
    Family f, CollectionId collection, Number first, Number last, const Snapshot* snapshot,
    size_t readahead_bytes,
    const std::function<Result<bool>(Number, std::string_view)>& visit) const {
  if (first > last) return Status::Ok();
  const KeyBytes begin = PartKey(collection, first);
  const KeyBytes end =
      last == UINT64_MAX ? CollectionKey(collection + 1) : PartKey(collection, last + 1);
  const rocksdb::Slice end_slice = ToSlice(end.view());
  rocksdb::ReadOptions options = ReadOptionsFor(snapshot);
  options.iterate_upper_bound = &end_slice;
  options.readahead_size = readahead_bytes;
  options.fill_cache = readahead_bytes == 0;
  const std::unique_ptr<rocksdb::Iterator> it(db_->NewIterator(options, family(f)));
  Number number = 0;
  for (it->Seek(ToSlice(begin.view())); it->Valid(); it->Next()) {
    const auto key = ParsePartKey(ToView(it->key()));
    if (!key || key->collection != collection) {
      return Status::Corruption("a foreign key among the " + std::string(FamilyName(f)) + " of " +
                                CollectionName(collection));
    }
    number = key->number;
    const auto payload = Unseal(f, ToView(it->key()), ToView(it->value()));
    if (!payload) {
      return Status::Corruption("the " + std::string(FamilyName(f)) + " value of " +
                                PartName(collection, number) + " fails its checksum");
    }
    const Result<bool> more = visit(number, *payload);
    if (!more.ok()) return more.status().WithContext(PartName(collection, number));
    if (!*more) return Status::Ok();
  }
  if (it->status().ok()) return Status::Ok();
  return FromRocksdb(it->status(), "reading the " + std::string(FamilyName(f)) + " after " +
                                       PartName(collection, number));
}

Status StoreImpl::ScanParts(CollectionId collection, Number first, Number last,
                            const PartVisit& visit, const Snapshot* snapshot,
                            PartFields fields) const try {
  return ScanSealed(Family::kDocuments, collection, first, last, snapshot, 0,
                    [&](Number number, std::string_view payload) -> Result<bool> {
                      MSADB_ASSIGN_OR_RETURN(PartRecord record, DecodePartRecord(payload, fields));
                      return visit(number, std::move(record));
                    });
} catch (const std::bad_alloc&) {
  return Status::ResourceExhausted("no memory to read documents");
}

Status StoreImpl::ScanRouting(CollectionId collection, Number first, Number last,
                              const TensorVisit& visit, const Snapshot* snapshot) const try {
  return ScanSealed(Family::kRouting, collection, first, last, snapshot, kRoutingReadaheadBytes,
                    [&](Number number, std::string_view payload) -> Result<bool> {
                      MSADB_ASSIGN_OR_RETURN(const TensorView tensor,
                                             ParseTensor(Family::kRouting, payload));
                      return visit(number, tensor);
                    });
} catch (const std::bad_alloc&) {
  return Status::ResourceExhausted("no memory to read routing keys");
}

Result<std::vector<ExpiredPart>> StoreImpl::FindExpired(int64_t now_us, size_t limit,
                                                        const Snapshot* snapshot) const try {
  std::vector<ExpiredPart> expired;
  limit = std::min(limit, kExpiredMax);
  const std::unique_ptr<rocksdb::Iterator> it(
      db_->NewIterator(ReadOptionsFor(snapshot), family(Family::kExpiry)));
  it->SeekToFirst();
  while (it->Valid() && expired.size() < limit) {
    const auto key = ParseExpiryKey(ToView(it->key()));
    if (!key || !Unseal(Family::kExpiry, ToView(it->key()), ToView(it->value()))) {
      return Status::Corruption(folder_ + ": an expiry entry is damaged");
    }
    if (key->expires_us <= now_us) {
      expired.push_back({key->collection, key->number, key->expires_us});
      it->Next();
    } else {
      // Entries are sorted by time inside a collection: the rest of this one expires later.
      it->Seek(ToSlice(CollectionKey(key->collection + 1).view()));
    }
  }
  MSADB_RETURN_IF_ERROR(FromRocksdb(it->status(), "reading the expiry entries of " + folder_));
  return expired;
} catch (const std::bad_alloc&) {
  return Status::ResourceExhausted("no memory to look for expired documents");
}

}  // namespace msadb::storage
