// Building a commit.
#include <rocksdb/write_batch.h>

#include <algorithm>
#include <new>
#include <utility>

#include "storage/rocksdb_status.h"
#include "storage/store_impl.h"

namespace msadb::storage {
namespace {

constexpr size_t kSettingNameBytesMax = 64;
constexpr size_t kSettingValueBytesMax = 64u << 10;
// One part's fixed overhead in the log, generously.
constexpr size_t kPartOverheadBytes = 512;

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

Status UsedUp() {
  return Status::InvalidArgument(
      "this write set has been committed already, or there was no memory to make it");
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

WriteSet::WriteSet(std::unique_ptr<State> state) : state_(std::move(state)) {}
WriteSet::WriteSet(WriteSet&&) noexcept = default;
WriteSet& WriteSet::operator=(WriteSet&&) noexcept = default;
WriteSet::~WriteSet() = default;

size_t WriteSet::bytes() const { return state_ ? state_->batch.GetDataSize() : 0; }
bool WriteSet::empty() const { return !state_ || state_->batch.Count() == 0; }
bool WriteSet::inserts() const { return state_ && state_->inserts > 0; }

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
      payload.size() + routing.bytes.size() + blocks.bytes.size() + kPartOverheadBytes;
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

}  // namespace msadb::storage
