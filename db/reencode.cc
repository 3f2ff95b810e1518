// Database::Reencode: a second database grows beside the first from its texts, then takes its place
// in one rename.
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <utility>

#include "db/device.h"
#include "db/encoder.h"
#include "db/engine.h"
#include "db/guard.h"
#include "db/open.h"
#include "db/view_reader.h"
#include "msadb/database.h"
#include "storage/folder.h"
#include "values/validate.h"

namespace msadb::db {
namespace {

namespace fs = std::filesystem;

Status Errno(const std::string& what) {
  const int error = errno;
  const std::string text = what + ": " + std::strerror(error);
  return error == ENOSPC ? Status::ResourceExhausted(text) : Status::IOError(text);
}

Status SyncFolder(const fs::path& folder) {
  const int fd = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return Errno("opening '" + folder.string() + "'");
  const bool synced = ::fsync(fd) == 0;
  const Status status = synced ? Status::Ok() : Errno("syncing '" + folder.string() + "'");
  ::close(fd);
  return status;
}

Status RemoveFolder(const fs::path& folder) {
  std::error_code error;
  fs::remove_all(folder, error);
  if (error) return Status::IOError("removing '" + folder.string() + "': " + error.message());
  return Status::Ok();
}

// Removes what an interrupted run left beside the database: a copy at any stage of its growth, or of
// its removal. Anything else stays and is an error.
Status ClearLeftovers(const fs::path& beside) {
  MSADB_ASSIGN_OR_RETURN(const storage::FolderState state,
                         storage::InspectFolder(beside.string()));
  if (state == storage::FolderState::kMissing) return Status::Ok();
  if (state == storage::FolderState::kForeign) {
    return Status::AlreadyExists("'" + beside.string() +
                                 "' is in the way and is no database; move it elsewhere");
  }
  // Nobody has it open while it goes.
  MSADB_ASSIGN_OR_RETURN(const auto lock, storage::FolderLock::Acquire(beside.string()));
  return RemoveFolder(beside);
}

// Swaps two folders of one file system in one step.
Status ExchangeFolders(const fs::path& a, const fs::path& b) {
  if (::renameat2(AT_FDCWD, a.c_str(), AT_FDCWD, b.c_str(), RENAME_EXCHANGE) == 0) {
    return SyncFolder(a.parent_path());
  }
  if (errno == EINVAL || errno == ENOSYS) {
    return Status::Unsupported(
        "this file system cannot exchange two folders in one step; export the database and import "
        "it into a new one instead");
  }
  return Errno("exchanging '" + a.string() + "' and '" + b.string() + "'");
}

// Copies documents collection by collection from one store into another, encoding them again.
class Reencoder {
 public:
  Reencoder(Engine* from, Engine* to, const std::function<bool(const InsertProgress&)>& progress)
      : from_(*from), to_(*to), on_progress_(progress) {}

  Status Run() {
    MSADB_ASSIGN_OR_RETURN(const auto collections, from_.store->ListCollections());
    for (const auto& info : collections) progress_.total += info.stats.documents;
    for (const auto& info : collections) {
      MSADB_RETURN_IF_ERROR(Copy(info).WithContext("collection '" + info.name + "'"));
    }
    return Status::Ok();
  }

 private:
  Status Copy(const storage::CollectionInfo& info) {
    MSADB_ASSIGN_OR_RETURN(target_, to_.store->CreateCollection(info.name));
    next_ = reserved_ = 1;
    MSADB_ASSIGN_OR_RETURN(View view, FromView());
    const ViewReader reader(from_, info.id, info.name, std::move(view));
    ListOptions page;
    page.limit = 256;
    for (;;) {
      MSADB_ASSIGN_OR_RETURN(DocumentPage documents, reader.List(page));
      MSADB_RETURN_IF_ERROR(CopyPage(std::move(documents.documents)));
      if (!documents.next) break;
      page.start_after = *documents.next;
    }
    // Numbers of documents that were deleted long ago stay used.
    storage::WriteSet set = to_.store->NewWriteSet();
    MSADB_RETURN_IF_ERROR(set.RaiseNextNumber(target_, std::max(info.next_number, next_)));
    return to_.store->Commit(std::move(set));
  }

  Result<View> FromView() {
    View view;
    MSADB_ASSIGN_OR_RETURN(view.storage, from_.store->TakeSnapshot());
    return view;
  }

  static NewDocument ToNew(Document&& document) {
    NewDocument out;
    out.text = std::move(document.text);
    out.key = std::move(document.key);
    out.metadata = std::move(document.metadata);
    out.source = std::move(document.source);
    out.written_by = std::move(document.written_by);
    out.created_at = document.created_at;
    out.expires_at = document.expires_at;
    return out;
  }

  Status CopyPage(std::vector<Document>&& documents) {
    std::vector<DocumentId> old_ids;
    std::vector<NewDocument> texts;
    for (Document& document : documents) {
      old_ids.push_back(document.id);
      texts.push_back(ToNew(std::move(document)));
    }
    std::vector<PlannedDocument> batch;
    std::vector<DocumentId> ids;
    size_t tokens = 0;
    for (size_t i = 0; i < texts.size(); ++i) {
      MSADB_ASSIGN_OR_RETURN(PlannedDocument planned, PlanDocument(to_, texts[i]));
      ids.push_back(std::max(next_, old_ids[i]));
      next_ = ids.back() + planned.parts.size();
      tokens += planned.tokens;
      batch.push_back(std::move(planned));
      if (tokens >= to_.options.encode_batch_tokens || i + 1 == texts.size()) {
        MSADB_RETURN_IF_ERROR(Commit(batch, ids));
        batch.clear();
        ids.clear();
        tokens = 0;
      }
    }
    return Status::Ok();
  }

  Status Commit(const std::vector<PlannedDocument>& batch, const std::vector<DocumentId>& ids) {
    MSADB_ASSIGN_OR_RETURN(const auto encoded, EncodeDocuments(to_, batch, ids));
    // Gaps are reserved along with the numbers that are used.
    MSADB_ASSIGN_OR_RETURN(const storage::Number first,
                           to_.store->ReserveNumbers(target_, next_ - reserved_));
    if (first != reserved_) return Status::Internal("somebody else reserves numbers");
    reserved_ = next_;
    storage::WriteSet set = to_.store->NewWriteSet();
    for (const PendingDocument& document : encoded) {
      MSADB_RETURN_IF_ERROR(AddToWriteSet(to_, target_, document, &set));
      for (const PendingPart& part : document.parts) progress_.tokens += part.record.token_count;
    }
    MSADB_RETURN_IF_ERROR(to_.store->Commit(std::move(set)));
    progress_.done += encoded.size();
    if (on_progress_ && !on_progress_(progress_)) {
      return Status::Cancelled("re-encoding was stopped; the database is as it was");
    }
    return Status::Ok();
  }

  Engine& from_;
  Engine& to_;
  const std::function<bool(const InsertProgress&)>& on_progress_;
  InsertProgress progress_;
  storage::CollectionId target_ = 0;
  storage::Number next_ = 1;      // above every number given to a document
  storage::Number reserved_ = 1;  // the first number not reserved yet
};

// Builds the new database in `beside`. It is closed when this returns.
Status Build(const std::shared_ptr<storage::Store>& old_store, const fs::path& beside,
             const Options& options, const std::function<bool(const InsertProgress&)>& progress) {
  const auto remembered = old_store->GetSetting(kModelPathSetting);
  MSADB_ASSIGN_OR_RETURN(ResolvedModel resolved,
                         ResolveModel(options, remembered.ok() ? *remembered : ""));
  storage::StoreOptions store_options = ToStoreOptions(options);
  store_options.create_if_missing = true;
  store_options.fingerprint = resolved.model->fingerprint();
  store_options.model_description = resolved.model->description();
  MSADB_ASSIGN_OR_RETURN(std::shared_ptr<storage::Store> store,
                         storage::Store::Open(beside.string(), store_options));
  if (!resolved.path.empty()) {
    storage::WriteSet set = store->NewWriteSet();
    MSADB_RETURN_IF_ERROR(set.PutSetting(kModelPathSetting, resolved.path));
    MSADB_RETURN_IF_ERROR(store->Commit(std::move(set)));
  }
  Engine from(options, nullptr, old_store);
  Engine to(options, resolved.model, store);
  MSADB_RETURN_IF_ERROR(Reencoder(&from, &to, progress).Run());
  return store->Sync();
}

Status ReencodeFolder(const std::string& folder, const Options& options,
                      const std::function<bool(const InsertProgress&)>& progress) {
  MSADB_RETURN_IF_ERROR(values::ValidateOptions(options));
  MSADB_RETURN_IF_ERROR(ParseDevice(options.device).status());
  if (!HoldsDatabase(folder)) {
    return Status::NotFound("no msadb database in '" + folder + "'");
  }
  std::error_code error;
  const fs::path target = fs::canonical(folder, error);
  if (error) return Status::IOError("resolving '" + folder + "': " + error.message());
  const fs::path beside = target.string() + ".reencode";

  // Its lock keeps everybody else out until the new database is in place.
  storage::StoreOptions old_options = ToStoreOptions(options);
  old_options.create_if_missing = false;
  old_options.error_if_exists = false;
  old_options.read_only = true;
  MSADB_ASSIGN_OR_RETURN(std::shared_ptr<storage::Store> old_store,
                         storage::Store::Open(target.string(), old_options));
  MSADB_RETURN_IF_ERROR(ClearLeftovers(beside));
  Options new_options = options;
  new_options.read_only = false;
  new_options.error_if_exists = false;
  Status status = Build(old_store, beside, new_options, progress);
  if (status.ok()) status = ExchangeFolders(target, beside);
  old_store.reset();
  // `beside` is the unfinished copy after a failure, the old database after success.
  if (fs::exists(beside, error)) {
    const Status removed = RemoveFolder(beside);
    if (status.ok()) status = removed;
  }
  return status;
}

}  // namespace
}  // namespace msadb::db

namespace msadb {

Status Database::Reencode(const std::string& folder, const Options& options,
                          const std::function<bool(const InsertProgress&)>& progress) {
  return db::Guard([&] { return db::ReencodeFolder(folder, options, progress); });
}

}  // namespace msadb
