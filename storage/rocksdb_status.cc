#include "storage/rocksdb_status.h"

#include <string>

namespace msadb::storage {
namespace {

StatusCode CodeOf(const rocksdb::Status& status) {
  // The subcode says more than the code: a full disk is an IOError too.
  if (status.subcode() == rocksdb::Status::kNoSpace ||
      status.subcode() == rocksdb::Status::kSpaceLimit ||
      status.subcode() == rocksdb::Status::kMemoryLimit) {
    return StatusCode::kResourceExhausted;
  }
  switch (status.code()) {
    case rocksdb::Status::kOk:
      return StatusCode::kOk;
    case rocksdb::Status::kNotFound:
      return StatusCode::kNotFound;
    case rocksdb::Status::kCorruption:
      return StatusCode::kCorruption;
    case rocksdb::Status::kIOError:
      // RocksDB opens only files its MANIFEST names, so one that is not there has been lost.
      return status.subcode() == rocksdb::Status::kPathNotFound ? StatusCode::kCorruption
                                                                : StatusCode::kIOError;
    case rocksdb::Status::kNotSupported:
      return StatusCode::kUnsupported;
    case rocksdb::Status::kMergeInProgress:
    case rocksdb::Status::kIncomplete:
    case rocksdb::Status::kShutdownInProgress:
    case rocksdb::Status::kTimedOut:
    case rocksdb::Status::kAborted:
    case rocksdb::Status::kBusy:
    case rocksdb::Status::kExpired:
    case rocksdb::Status::kTryAgain:
      return StatusCode::kUnavailable;
    default:
      return StatusCode::kInternal;
  }
}

}  // namespace

Status FromRocksdb(const rocksdb::Status& status, std::string_view context) {
  if (status.ok()) return Status::Ok();
  std::string message(context);
  message += ": ";
  message += status.ToString();
  if (CodeOf(status) == StatusCode::kResourceExhausted &&
      status.subcode() != rocksdb::Status::kMemoryLimit) {
    message += "; free some disk space";
  }
  return Status(CodeOf(status), message);
}

}  // namespace msadb::storage
