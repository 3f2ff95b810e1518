// The front door: Database, Collection, Transaction, Snapshot.
//
//   auto db = msadb::Database::Open("notes", {.model_path = "models/default"});
//   auto notes = (*db)->OpenCollection("default");
//   (*notes)->Insert({.text = "The spare key is under the blue flowerpot."});
//   auto answer = (*notes)->Ask("Where is the spare key?");
//   std::cout << answer->text;
//
// Threads: every method of every class here may be called from any thread at any time, except that
// one Transaction belongs to one thread at a time. Readers never wait for writers.
// Errors: as Status; a failed call has changed nothing. No exception leaves these classes.
// Ownership: objects are handed out as std::unique_ptr or std::shared_ptr. A Collection, Transaction
// or Snapshot keeps its Database alive; destroying the last owner closes the folder.
#ifndef MSADB_DATABASE_H_
#define MSADB_DATABASE_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "msadb/document.h"
#include "msadb/filter.h"
#include "msadb/options.h"
#include "msadb/query.h"
#include "msadb/status.h"

namespace msadb {

// A model read into memory once, to be shared by several databases (Options::model).
class LoadedModel {
 public:
  // NotFound / Corruption / InvalidArgument / Unsupported name the file and what is wrong with it.
  // `threads` and `device` as in Options.
  static Result<std::shared_ptr<LoadedModel>> Load(const std::string& model_path, int threads = 0,
                                                   const std::string& device = "auto");
  virtual ~LoadedModel() = default;

  virtual std::string fingerprint() const = 0;    // hex SHA-256 of what decides a document's memory
  virtual std::string description() const = 0;    // one line for people
  virtual size_t document_tokens_max() const = 0; // longer documents are stored as several parts
};

struct DocumentPage {
  std::vector<Document> documents;      // ascending id
  std::optional<DocumentId> next;       // pass as ListOptions::start_after; empty at the end
};

struct CollectionStats {
  std::string name;
  uint64_t documents = 0;
  uint64_t parts = 0;
  uint64_t tokens = 0;
  uint64_t chunks = 0;
  uint64_t text_bytes = 0;       // original text
  uint64_t routing_bytes = 0;    // routing keys as stored
  uint64_t content_bytes = 0;    // K/V blocks as stored
  bool index_loaded = false;
  uint64_t index_bytes = 0;      // memory of the loaded index
};

struct DatabaseStats {
  std::string model_fingerprint;
  std::vector<CollectionStats> collections;
  uint64_t disk_bytes = 0;             // the whole folder
  uint64_t block_cache_bytes = 0;      // in use
  uint64_t block_cache_capacity = 0;
  uint64_t block_cache_hits = 0;
  uint64_t block_cache_misses = 0;
  uint64_t index_bytes = 0;
};

struct VerifyReport {
  uint64_t documents_checked = 0;
  uint64_t bytes_checked = 0;
  std::vector<std::string> problems;   // empty: everything is as it should be
  bool truncated = false;              // more problems than listed
  bool ok() const { return problems.empty(); }
};

// What both a live collection and a frozen snapshot of it can answer.
class CollectionReader {
 public:
  virtual ~CollectionReader() = default;

  virtual std::string name() const = 0;

  // NotFound when there is no such document (or it expired).
  virtual Result<Document> Get(DocumentId id) = 0;
  virtual Result<Document> GetByKey(std::string_view key) = 0;
  // Documents in ascending id, a page at a time.
  virtual Result<DocumentPage> List(const ListOptions& options = {}) = 0;
  virtual Result<uint64_t> Count() = 0;

  // Ranks documents by MSA routing alone; nothing is generated.
  virtual Result<std::vector<SearchHit>> Search(std::string_view query,
                                                const SearchOptions& options = {}) = 0;
  // Answers a question by attending over the documents (MSA paper sections 3.3, 3.4). A memory with
  // no (matching) document still answers, with no citations.
  virtual Result<Answer> Ask(std::string_view question, const AskOptions& options = {}) = 0;
};

// A frozen view: unaffected by later inserts and deletes. Holding one keeps deleted documents on
// disk, so do not hold it for long.
class Snapshot : public CollectionReader {};

// Several changes that become durable and visible together, or not at all. Reads through the
// transaction see its own changes over the state at Begin. First committer wins: if another commit
// changed a key or document that this one changes, Commit ends with Conflict and changes nothing.
// Destroying it without Commit drops the changes.
class Transaction {
 public:
  virtual ~Transaction() = default;

  // Encodes the document now (outside any lock) and returns the id it will have.
  // AlreadyExists when the key is taken: use Upsert to replace.
  virtual Result<DocumentId> Insert(const NewDocument& document) = 0;
  // Needs a key. Replaces the document of that key, under a new id, or inserts it.
  virtual Result<DocumentId> Upsert(const NewDocument& document) = 0;
  virtual Status Delete(DocumentId id) = 0;                // NotFound
  virtual Status DeleteByKey(std::string_view key) = 0;    // NotFound
  virtual Result<Document> Get(DocumentId id) = 0;
  virtual Result<Document> GetByKey(std::string_view key) = 0;

  // Conflict, ResourceExhausted, IOError, Unavailable. After any result the transaction is over.
  virtual Status Commit() = 0;
  virtual void Rollback() = 0;
};

// A collection is the unit of isolation: one agent, one user, one knowledge base. It has its own
// numbers, its own index and its own statistics.
class Collection : public CollectionReader {
 public:
  // Durable and visible to every reader that starts after the call returned.
  virtual Result<DocumentId> Insert(const NewDocument& document) = 0;
  virtual Result<DocumentId> Upsert(const NewDocument& document) = 0;
  // Encodes and commits in batches, in order. On error everything committed before stays; the
  // message says how many. Returns how many were inserted or replaced (skipped ones not counted).
  virtual Result<size_t> InsertMany(std::span<const NewDocument> documents,
                                    const InsertManyOptions& options = {}) = 0;
  virtual Status Delete(DocumentId id) = 0;              // NotFound
  virtual Status DeleteByKey(std::string_view key) = 0;  // NotFound
  // Deletes every document that matches, by metadata or provenance; returns how many. One atomic
  // commit.
  virtual Result<uint64_t> DeleteWhere(const Filter& where) = 0;

  virtual Result<std::unique_ptr<Transaction>> Begin() = 0;
  virtual Result<std::unique_ptr<Snapshot>> TakeSnapshot() = 0;
  virtual Result<CollectionStats> Stats() = 0;
};

class Database {
 public:
  // Opens or creates the database in `folder`. Unavailable: another process has it open.
  // FailedPrecondition: it was made with another model. Unsupported: a newer format.
  static Result<std::shared_ptr<Database>> Open(const std::string& folder,
                                                const Options& options = {});
  // Re-encodes every document with the model of `options` and adopts it. The text is the truth, so
  // nothing is lost. Keys stay; an id stays unless the document divides into more parts under the new
  // model. Works on a closed database, beside it in the same file system, and replaces it by a rename:
  // a kill at any moment leaves the old or the new database whole. `progress` may be empty.
  static Status Reencode(const std::string& folder, const Options& options,
                         const std::function<bool(const InsertProgress&)>& progress = {});
  virtual ~Database() = default;

  // Names: 1 to 128 bytes of UTF-8 without control characters or '/', and not ".", ".." or "*".
  virtual Result<std::shared_ptr<Collection>> CreateCollection(std::string_view name) = 0;
  virtual Result<std::shared_ptr<Collection>> OpenCollection(std::string_view name) = 0;
  // Open it, creating it if need be.
  virtual Result<std::shared_ptr<Collection>> GetOrCreateCollection(std::string_view name) = 0;
  // Deletes the collection with all its documents. Open handles then answer NotFound.
  virtual Status DropCollection(std::string_view name) = 0;
  virtual Result<std::vector<std::string>> ListCollections() = 0;

  virtual Result<DatabaseStats> Stats() = 0;
  // Reads every byte: all checksums, records against blocks, index against storage.
  virtual Result<VerifyReport> Verify() = 0;
  // Removes expired documents, and every trace of deleted ones from disk, the index and the block
  // cache. Memory that this process freed earlier is not wiped: it goes when the process ends.
  // FailedPrecondition while an open Snapshot still holds deleted documents.
  virtual Status Compact() = 0;
  virtual std::shared_ptr<LoadedModel> model() const = 0;
};

}  // namespace msadb

#endif  // MSADB_DATABASE_H_
