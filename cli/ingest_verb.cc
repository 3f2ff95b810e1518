// ingest: files and folders, again and again. Only what changed is encoded.
#include <sys/stat.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <set>

#include "base/utf8.h"
#include "cli/files.h"
#include "cli/ingest_documents.h"
#include "cli/interrupt.h"
#include "cli/values.h"
#include "cli/verb.h"

namespace msadb::cli {
namespace {

namespace fs = std::filesystem;

constexpr size_t kBatchDocuments = 256;
constexpr size_t kBatchBytes = 8u << 20;

struct IngestArgs : DatabaseArgs {
  std::vector<std::string> paths;
  std::string written_by;
  bool prune = false;
  bool dry_run = false;
};

struct FoundFile {
  std::string path;  // as the user named it, normalised; the documents' key
  FileKind kind = FileKind::kText;
};

struct Skipped {
  std::string path;
  std::string reason;
};

struct Report {
  size_t files = 0;
  size_t added = 0;
  size_t changed = 0;
  size_t unchanged = 0;
  size_t removed = 0;
  std::vector<Skipped> skipped;
};

// path -> key -> hash, of what earlier runs stored.
using Stored = std::map<std::string, std::map<std::string, std::string>>;

std::string Normal(const std::string& path) {
  std::string normal = fs::path(path).lexically_normal().string();
  while (normal.size() > 1 && normal.back() == '/') normal.pop_back();
  return normal;
}

bool IsHidden(const fs::path& path) { return path.filename().string().starts_with('.'); }

// Files below `folder` whose kind is known. Hidden ones are passed over, and so are links to
// folders, which might lead in a circle.
Status FindInFolder(const std::string& folder, std::vector<FoundFile>* found) {
  std::error_code error;
  fs::recursive_directory_iterator entry(folder, error);
  for (; !error && entry != fs::recursive_directory_iterator(); entry.increment(error)) {
    std::error_code ignored;
    if (IsHidden(entry->path())) {
      if (entry->is_directory(ignored)) entry.disable_recursion_pending();
      continue;
    }
    const std::string path = Normal(entry->path().string());
    const auto kind = KindOfFile(path);
    if (kind && entry->is_regular_file(ignored)) found->push_back({path, *kind});
  }
  if (error) return Status::IOError("cannot read the folder '" + folder + "': " + error.message());
  return Status::Ok();
}

Result<std::vector<FoundFile>> FindFiles(const std::vector<std::string>& paths) {
  std::vector<FoundFile> found;
  for (const auto& path : paths) {
    std::error_code error;
    const auto status = fs::status(path, error);
    if (!fs::exists(status)) return Status::NotFound("there is no file or folder '" + path + "'");
    if (fs::is_directory(status)) {
      MSADB_RETURN_IF_ERROR(FindInFolder(path, &found));
    } else {
      found.push_back({Normal(path), KindOfFile(path).value_or(FileKind::kText)});
    }
  }
  std::sort(found.begin(), found.end(),
            [](const FoundFile& a, const FoundFile& b) { return a.path < b.path; });
  found.erase(std::unique(found.begin(), found.end(),
                          [](const FoundFile& a, const FoundFile& b) { return a.path == b.path; }),
              found.end());
  return found;
}

const std::string* StringEntry(const Metadata& metadata, const char* name) {
  const auto entry = metadata.find(name);
  return entry == metadata.end() ? nullptr : std::get_if<std::string>(&entry->second);
}

Result<Stored> LoadStored(Collection& collection) {
  Stored stored;
  ListOptions options;
  options.limit = 10'000;
  options.include_text = false;
  MSADB_ASSIGN_OR_RETURN(options.where,
                         ParseWhere(R"({"type": {"$in": ["text", "markdown", "chat"]}})"));
  for (;;) {
    MSADB_ASSIGN_OR_RETURN(auto page, collection.List(options));
    for (const auto& document : page.documents) {
      const std::string* path = StringEntry(document.metadata, "path");
      const std::string* hash = StringEntry(document.metadata, "hash");
      if (path && hash && document.key) stored[*path][*document.key] = *hash;
    }
    if (!page.next) return stored;
    options.start_after = *page.next;
  }
}

Result<std::vector<NewDocument>> ReadFile(const FoundFile& file) {
  // Before the file is encoded: a document that is refused would take its whole batch with it.
  if (!base::IsValidUtf8(file.path)) {
    return Status::InvalidArgument("its name is not UTF-8; rename it, e.g. with convmv");
  }
  MSADB_ASSIGN_OR_RETURN(auto content, ReadAll(file.path, Limits().text_bytes_max));
  if (!base::IsValidUtf8(content)) {
    return Status::InvalidArgument("not UTF-8 text; convert it, e.g. with iconv");
  }
  struct stat info {};
  TimePoint modified = Now();
  if (stat(file.path.c_str(), &info) == 0) {
    modified = TimePoint(std::chrono::seconds(info.st_mtim.tv_sec) +
                         std::chrono::microseconds(info.st_mtim.tv_nsec / 1000));
  }
  MSADB_ASSIGN_OR_RETURN(auto documents, DocumentsOfFile(file.path, file.kind, content, modified));
  for (const auto& document : documents) {
    if (document.key->size() > Limits().key_bytes_max) {
      return Status::InvalidArgument("its path is too long for a key; keys have at most " +
                                     std::to_string(Limits().key_bytes_max) + " bytes");
    }
  }
  return documents;
}

bool IsAtOrBelow(const std::string& path, const std::string& folder) {
  if (folder == ".") return !path.starts_with('/') && !path.starts_with("..");
  return path == folder ||
         (path.starts_with(folder) && (folder == "/" || path[folder.size()] == '/'));
}

// Compares files with what is stored and applies the difference in batches.
class Ingester {
 public:
  Ingester(std::shared_ptr<Collection> collection, Stored stored, const IngestArgs& args)
      : collection_(std::move(collection)), stored_(std::move(stored)), args_(args) {}

  Status Run(const std::vector<FoundFile>& files, Printer& out) {
    InterruptScope interrupt;
    ProgressBar bar(out, "Ingesting");
    for (const auto& file : files) {
      if (interrupt.interrupted()) return Cancelled();
      MSADB_RETURN_IF_ERROR(AddFile(file, interrupt, bar, files.size()));
      bar.Update(++report_.files, files.size(), tokens_);
    }
    MSADB_RETURN_IF_ERROR(Flush(interrupt, bar, files.size()));
    if (args_.prune) MarkVanished(files);
    return RemoveObsolete();
  }

  const Report& report() const { return report_; }

 private:
  Status AddFile(const FoundFile& file, InterruptScope& interrupt, ProgressBar& bar,
                 size_t files_total) {
    auto documents = ReadFile(file);
    if (!documents.ok()) {
      report_.skipped.push_back({file.path, std::string(documents.status().message())});
      return Status::Ok();
    }
    // What remains of the stored sections has no counterpart in the file any more.
    std::map<std::string, std::string> before;
    if (const auto known = stored_.find(file.path); known != stored_.end()) before = known->second;
    for (auto& document : *documents) {
      const auto old = before.find(*document.key);
      const bool is_known = old != before.end();
      const bool is_same = is_known && old->second == *StringEntry(document.metadata, "hash");
      if (is_known) before.erase(old);
      if (is_same) {
        ++report_.unchanged;
        continue;
      }
      ++(is_known ? report_.changed : report_.added);
      document.written_by = args_.written_by;
      pending_bytes_ += document.text.size();
      pending_.push_back(std::move(document));
      if (pending_.size() >= kBatchDocuments || pending_bytes_ >= kBatchBytes) {
        MSADB_RETURN_IF_ERROR(Flush(interrupt, bar, files_total));
      }
    }
    for (const auto& [key, hash] : before) obsolete_.push_back(key);
    return Status::Ok();
  }

  Status Flush(InterruptScope& interrupt, ProgressBar& bar, size_t files_total) {
    if (!pending_.empty() && !args_.dry_run) {
      InsertManyOptions options;
      options.replace_existing = true;
      uint64_t tokens_in_call = 0;
      options.on_progress = [&](const InsertProgress& progress) {
        tokens_in_call = progress.tokens;
        bar.Update(report_.files, files_total, tokens_ + tokens_in_call);
        return !interrupt.interrupted();
      };
      const auto inserted = collection_->InsertMany(pending_, options);
      if (!inserted.ok()) {
        return inserted.status().code() == StatusCode::kCancelled ? Cancelled() : inserted.status();
      }
      tokens_ += tokens_in_call;
    }
    pending_.clear();
    pending_bytes_ = 0;
    return Status::Ok();
  }

  // Everything stored from the named paths whose file was not found now.
  void MarkVanished(const std::vector<FoundFile>& files) {
    std::set<std::string> present;
    for (const auto& file : files) present.insert(file.path);
    for (const auto& [path, keys] : stored_) {
      const bool is_named = std::any_of(
          args_.paths.begin(), args_.paths.end(),
          [&path = path](const std::string& named) { return IsAtOrBelow(path, Normal(named)); });
      if (!is_named || present.contains(path)) continue;
      for (const auto& [key, hash] : keys) obsolete_.push_back(key);
    }
  }

  Status RemoveObsolete() {
    if (!args_.dry_run && !obsolete_.empty()) {
      MSADB_ASSIGN_OR_RETURN(auto transaction, collection_->Begin());
      for (const auto& key : obsolete_) {
        const Status deleted = transaction->DeleteByKey(key);
        if (!deleted.ok() && deleted.code() != StatusCode::kNotFound) return deleted;
      }
      MSADB_RETURN_IF_ERROR(transaction->Commit());
    }
    report_.removed = obsolete_.size();
    return Status::Ok();
  }

  static Status Cancelled() {
    return Status::Cancelled("stopped; what was stored stays, and a new run goes on from there");
  }

  std::shared_ptr<Collection> collection_;  // may be null when nothing is to be stored
  const Stored stored_;
  const IngestArgs& args_;
  std::vector<NewDocument> pending_;
  size_t pending_bytes_ = 0;
  std::vector<std::string> obsolete_;
  uint64_t tokens_ = 0;
  Report report_;
};

void Print(const Report& report, bool dry_run, Printer& out) {
  if (out.json()) {
    Json skipped = Json::array();
    for (const auto& file : report.skipped) {
      skipped.push_back({{"path", file.path}, {"reason", file.reason}});
    }
    out.Value({{"files", report.files},
               {"added", report.added},
               {"changed", report.changed},
               {"unchanged", report.unchanged},
               {"removed", report.removed},
               {"skipped", std::move(skipped)},
               {"dry_run", dry_run}});
    return;
  }
  for (const auto& file : report.skipped) {
    out.Remark("msadb: left out " + file.path + ": " + file.reason);
  }
  out.Text(std::string(dry_run ? "Would store: " : "") + std::to_string(report.files) +
           " files: " + std::to_string(report.added) + " documents added, " +
           std::to_string(report.changed) + " changed, " + std::to_string(report.unchanged) +
           " unchanged, " + std::to_string(report.removed) + " removed.\n");
}

Result<int> Ingest(const IngestArgs& args, Printer& out) {
  MSADB_ASSIGN_OR_RETURN(auto files, FindFiles(args.paths));
  const auto ingest = [&](const std::shared_ptr<Collection>& collection) -> Result<int> {
    Stored stored;
    if (collection) {
      MSADB_ASSIGN_OR_RETURN(stored, LoadStored(*collection));
    }
    Ingester ingester(collection, std::move(stored), args);
    MSADB_RETURN_IF_ERROR(ingester.Run(files, out));
    Print(ingester.report(), args.dry_run, out);
    return kExitOk;
  };
  if (!args.dry_run) return WriteToCollection(args, ingest);
  MSADB_ASSIGN_OR_RETURN(auto database, OpenDatabase(args, Access::kRead));
  auto collection = database->OpenCollection(args.collection);
  if (collection.status().code() == StatusCode::kNotFound) return ingest(nullptr);
  if (!collection.ok()) return collection.status();
  return ingest(*collection);
}

}  // namespace

void AddIngestVerb(CLI::App& app, Chosen* chosen) {
  auto args = std::make_shared<IngestArgs>();
  CLI::App* verb = AddVerb(
      app, "ingest", "Store text files, Markdown and chat logs; later, what changed",
      "Folders are read recursively for .txt .text .md .markdown .jsonl; hidden files are passed "
      "over.\n"
      "  text      one document, key = path\n"
      "  Markdown  one document a section, key = path#heading\n"
      "  JSONL     a chat log of {\"role\", \"content\", \"timestamp\"}: one document an "
      "exchange,\n"
      "            key = path#line\n"
      "Each gets the metadata path, type, modified and hash. Run it again after editing: only "
      "what\n"
      "changed is encoded, and sections that left a file are removed. Documents of files that are\n"
      "gone stay until --prune. The path counts as you write it, so run it from the same folder.\n"
      "A file that cannot be read as text is reported and left out.\n\n"
      "Examples:\n"
      "  msadb ingest notes ~/Documents/journal\n"
      "  msadb ingest notes docs README.md --prune\n"
      "  msadb ingest notes chat.jsonl -c assistant\n"
      "  msadb ask notes \"What did we decide?\" --where '{\"type\": \"chat\"}'",
      args.get());
  verb->add_option("PATH", args->paths, "Files and folders")->required();
  AddCollectionOption(verb, args.get());
  verb->add_option("--written-by", args->written_by, "Who wrote them");
  verb->add_flag("--prune", args->prune, "Remove documents whose file is gone from the PATHs");
  verb->add_flag("--dry-run", args->dry_run, "Only count what would be done");
  OnChosen(verb, chosen, args, Ingest);
}

}  // namespace msadb::cli
