// What each request of the binary port does. Runs on Admission's workers.
#include <algorithm>
#include <exception>
#include <new>
#include <utility>

#include "server/wire_session.h"
#include "values/validate.h"

namespace msadb::server {
namespace {

namespace fb = wire::fb;
using wire::Builder;
using wire::Decoder;

// The first piece of a page of documents; later pieces aim at kBatchBytes.
constexpr size_t kFirstPiece = 16;
constexpr size_t kNamesPerMessage = 2000;

std::string_view View(const flatbuffers::String* text) {
  return text == nullptr ? std::string_view() : std::string_view(text->data(), text->size());
}

// Lets a request into a transaction, one at a time.
class Exclusive {
 public:
  static Result<Exclusive> Enter(WireHandlePtr handle) {
    if (handle->busy.exchange(true)) {
      return Status::FailedPrecondition(
          "another request uses this transaction; send one at a time");
    }
    return Exclusive(std::move(handle));
  }
  Exclusive(Exclusive&&) noexcept = default;
  Exclusive& operator=(Exclusive&&) = delete;
  ~Exclusive() { Leave(); }
  // Call it before the reply goes out: the client's next request may come at once.
  void Leave() {
    if (handle_ != nullptr) handle_->busy.store(false);
    handle_ = nullptr;
  }

 private:
  explicit Exclusive(WireHandlePtr handle) : handle_(std::move(handle)) {}
  WireHandlePtr handle_;
};

class Handler {
 public:
  explicit Handler(const WireRequestPtr& request)
      : request_(request),
        session_(*request->session),
        database_(*context().services.database),
        decoder_(request->payload.size()) {}

  // Replies unless it fails.
  Status Run() {
    const fb::Request& message = *request_->message;
    switch (message.body_type()) {
      case fb::RequestBody::Ping:
        return Done();
      case fb::RequestBody::OpenCollection:
        return OpenCollection(*message.body_as_OpenCollection());
      case fb::RequestBody::DropCollection:
        return DropCollection(*message.body_as_DropCollection());
      case fb::RequestBody::ListCollections:
        return ListCollections();
      case fb::RequestBody::GetDatabaseStats:
        return GetDatabaseStats();
      case fb::RequestBody::GetCollectionStats:
        return GetCollectionStats(*message.body_as_GetCollectionStats());
      case fb::RequestBody::VerifyDatabase:
        return Verify();
      case fb::RequestBody::Compact:
        return Compact();
      case fb::RequestBody::Get:
        return Get(*message.body_as_Get());
      case fb::RequestBody::List:
        return List(*message.body_as_List());
      case fb::RequestBody::Count:
        return Count(*message.body_as_Count());
      case fb::RequestBody::Search:
        return Search(*message.body_as_Search());
      case fb::RequestBody::Ask:
        return Ask(*message.body_as_Ask());
      case fb::RequestBody::Put:
        return Put(*message.body_as_Put());
      case fb::RequestBody::InsertBatch:
        return InsertBatch(*message.body_as_InsertBatch());
      case fb::RequestBody::Delete:
        return Delete(*message.body_as_Delete());
      case fb::RequestBody::DeleteWhere:
        return DeleteWhere(*message.body_as_DeleteWhere());
      case fb::RequestBody::Begin:
        return Begin(*message.body_as_Begin());
      case fb::RequestBody::TakeSnapshot:
        return TakeSnapshot(*message.body_as_TakeSnapshot());
      case fb::RequestBody::Commit:
        return Commit(*message.body_as_Commit());
      case fb::RequestBody::Release:
        return Release(*message.body_as_Release());
      case fb::RequestBody::Hello:
        return Status::FailedPrecondition("the connection is greeted already");
      default:
        return Status::Unsupported("this server does not know request kind " +
                                   std::to_string(static_cast<int>(message.body_type())));
    }
  }

  uint64_t committed() const { return committed_; }

 private:
  WireContext& context() const { return *request_->session_context; }

  // ---- Replying

  template <typename Table>
  void Send(bool last, flatbuffers::Offset<Table> body) {
    session_.Send(request_->number, last, wire::FinishReply(&builder_, body));
  }
  Status Done() {
    Send(true, fb::CreateDone(builder_));
    return Status::Ok();
  }
  Status Number(uint64_t value) {
    Send(true, fb::CreateNumber(builder_, value));
    return Status::Ok();
  }
  Status ReplyDocument(const Document& document) {
    const auto offset = wire::Encode(&builder_, document);
    Send(true, fb::CreateDocuments(builder_, builder_.CreateVector(&offset, 1)));
    return Status::Ok();
  }

  // ---- Finding what a request is about

  Result<std::shared_ptr<Collection>> Find(const flatbuffers::String* name, Right right) {
    MSADB_RETURN_IF_ERROR(request_->principal->CheckCollection(View(name), right));
    return database_.OpenCollection(View(name));
  }

  // The live collection, or a snapshot.
  template <typename Table>
  Result<std::shared_ptr<CollectionReader>> Reader(const Table& in) {
    if (in.handle() == 0) {
      MSADB_ASSIGN_OR_RETURN(auto collection, Find(in.collection(), Right::kRead));
      return std::shared_ptr<CollectionReader>(std::move(collection));
    }
    MSADB_ASSIGN_OR_RETURN(const WireHandlePtr handle, session_.FindHandle(in.handle()));
    MSADB_RETURN_IF_ERROR(request_->principal->CheckCollection(handle->collection, Right::kRead));
    if (handle->snapshot == nullptr) {
      return Status::InvalidArgument("a transaction cannot do this; use the collection");
    }
    // Keeps the handle, not only the snapshot: it counts as used meanwhile.
    return std::shared_ptr<CollectionReader>(handle, handle->snapshot.get());
  }

  // Null: the request is about no transaction.
  Result<WireHandlePtr> TransactionOf(uint64_t number) {
    if (number == 0) return WireHandlePtr();
    MSADB_ASSIGN_OR_RETURN(WireHandlePtr handle, session_.FindHandle(number));
    MSADB_RETURN_IF_ERROR(request_->principal->CheckCollection(handle->collection, Right::kWrite));
    if (handle->transaction == nullptr) return Status::InvalidArgument("a snapshot cannot change");
    return handle;
  }

  // ---- The database

  Status OpenCollection(const fb::OpenCollection& in) {
    const std::string_view name = View(in.collection());
    MSADB_RETURN_IF_ERROR(values::ValidateCollectionName(name));
    if (in.mode() == fb::OpenMode::Create) {
      MSADB_RETURN_IF_ERROR(request_->principal->CheckCollection(name, Right::kAdmin));
      MSADB_RETURN_IF_ERROR(database_.CreateCollection(name).status());
      return Done();
    }
    const Status found = Find(in.collection(), Right::kRead).status();
    if (found.code() != StatusCode::kNotFound || in.mode() != fb::OpenMode::OpenOrCreate) {
      MSADB_RETURN_IF_ERROR(found);
      return Done();
    }
    MSADB_RETURN_IF_ERROR(request_->principal->CheckCollection(name, Right::kAdmin));
    MSADB_RETURN_IF_ERROR(database_.GetOrCreateCollection(name).status());
    return Done();
  }

  Status DropCollection(const fb::DropCollection& in) {
    MSADB_RETURN_IF_ERROR(
        request_->principal->CheckCollection(View(in.collection()), Right::kAdmin));
    MSADB_RETURN_IF_ERROR(database_.DropCollection(View(in.collection())));
    return Done();
  }

  Status ListCollections() {
    MSADB_ASSIGN_OR_RETURN(std::vector<std::string> names, database_.ListCollections());
    std::erase_if(names,
                  [&](const std::string& name) { return !request_->principal->RightFor(name); });
    size_t begin = 0;
    do {
      const size_t end = std::min(names.size(), begin + kNamesPerMessage);
      std::vector<flatbuffers::Offset<flatbuffers::String>> offsets;
      for (size_t i = begin; i < end; ++i) {
        offsets.push_back(wire::EncodeText(&builder_, names[i]));
      }
      begin = end;
      Send(begin == names.size(), fb::CreateNames(builder_, builder_.CreateVector(offsets)));
    } while (begin < names.size());
    return Status::Ok();
  }

  Status GetDatabaseStats() {
    MSADB_RETURN_IF_ERROR(request_->principal->CheckServer(Right::kRead));
    MSADB_ASSIGN_OR_RETURN(const DatabaseStats stats, database_.Stats());
    for (size_t begin = 0; begin < stats.collections.size();) {
      const size_t end = std::min(stats.collections.size(), begin + kNamesPerMessage);
      std::vector<flatbuffers::Offset<fb::CollectionNumbers>> offsets;
      for (; begin < end; ++begin) {
        offsets.push_back(wire::Encode(&builder_, stats.collections[begin]));
      }
      Send(false, fb::CreateCollectionStats(builder_, builder_.CreateVector(offsets)));
    }
    Send(true, wire::Encode(&builder_, stats));
    return Status::Ok();
  }

  Status GetCollectionStats(const fb::GetCollectionStats& in) {
    MSADB_ASSIGN_OR_RETURN(const auto collection, Find(in.collection(), Right::kRead));
    MSADB_ASSIGN_OR_RETURN(const CollectionStats stats, collection->Stats());
    const auto offset = wire::Encode(&builder_, stats);
    Send(true, fb::CreateCollectionStats(builder_, builder_.CreateVector(&offset, 1)));
    return Status::Ok();
  }

  Status Verify() {
    MSADB_RETURN_IF_ERROR(request_->principal->CheckServer(Right::kAdmin));
    MSADB_ASSIGN_OR_RETURN(const VerifyReport report, database_.Verify());
    Send(true, wire::Encode(&builder_, report));
    return Status::Ok();
  }

  Status Compact() {
    MSADB_RETURN_IF_ERROR(request_->principal->CheckServer(Right::kAdmin));
    MSADB_RETURN_IF_ERROR(database_.Compact());
    return Done();
  }

  // ---- Reading

  Status Get(const fb::Get& in) {
    if (in.handle() != 0) {
      MSADB_ASSIGN_OR_RETURN(const WireHandlePtr handle, session_.FindHandle(in.handle()));
      if (handle->transaction != nullptr) {
        MSADB_RETURN_IF_ERROR(
            request_->principal->CheckCollection(handle->collection, Right::kWrite));
        MSADB_ASSIGN_OR_RETURN(Exclusive entered, Exclusive::Enter(handle));
        Transaction& transaction = *handle->transaction;
        MSADB_ASSIGN_OR_RETURN(const Document document, in.key() != nullptr
                                                            ? transaction.GetByKey(View(in.key()))
                                                            : transaction.Get(in.id()));
        entered.Leave();
        return ReplyDocument(document);
      }
    }
    MSADB_ASSIGN_OR_RETURN(const auto reader, Reader(in));
    MSADB_ASSIGN_OR_RETURN(const Document document, in.key() != nullptr
                                                        ? reader->GetByKey(View(in.key()))
                                                        : reader->Get(in.id()));
    return ReplyDocument(document);
  }

  // A page is sent in pieces, the next one not before the reader has taken most of those before.
  struct Page {
    WireRequestPtr request;
    std::shared_ptr<CollectionReader> reader;  // frozen, so that the pieces fit together
    ListOptions options;                       // limit: what is left
    size_t piece = kFirstPiece;
  };

  Status List(const fb::List& in) {
    auto page = std::make_shared<Page>();
    page->request = request_;
    page->options.start_after = in.start_after();
    page->options.limit = in.limit();
    page->options.include_text = in.include_text();
    MSADB_RETURN_IF_ERROR(values::ValidateList(page->options));
    MSADB_RETURN_IF_ERROR(decoder_.Read(in.where(), &page->options.where));
    MSADB_ASSIGN_OR_RETURN(page->reader, Reader(in));
    if (in.handle() == 0 && page->options.limit > kFirstPiece) {
      MSADB_ASSIGN_OR_RETURN(auto frozen, static_cast<Collection&>(*page->reader).TakeSnapshot());
      page->reader = std::move(frozen);
    }
    return SendPiece(page);
  }

  static Status SendPiece(const std::shared_ptr<Page>& page) {
    WireSession& session = *page->request->session;
    const uint64_t number = page->request->number;
    if (page->request->stop.stop_requested()) return Status::Cancelled("stopped by the client");
    ListOptions options = page->options;
    options.limit = std::min(page->options.limit, page->piece);
    MSADB_ASSIGN_OR_RETURN(const DocumentPage piece, page->reader->List(options));
    page->options.limit -= std::min(page->options.limit, piece.documents.size());
    const bool last = !piece.next || page->options.limit == 0;
    if (piece.next) page->options.start_after = *piece.next;

    Builder b;
    std::vector<flatbuffers::Offset<fb::Document>> offsets;
    size_t bytes = 0, tables = 0, all_bytes = 0;
    for (const Document& document : piece.documents) {
      const size_t more_bytes = wire::ByteCount(document);
      const size_t more_tables = wire::TableCount(document.metadata);
      if (!offsets.empty() &&
          (bytes + more_bytes > wire::kBatchBytes || tables + more_tables > wire::kBatchTables)) {
        session.Send(number, false,
                     wire::FinishReply(&b, fb::CreateDocuments(b, b.CreateVector(offsets))));
        offsets.clear();
        bytes = tables = 0;
      }
      offsets.push_back(wire::Encode(&b, document));
      bytes += more_bytes;
      tables += more_tables;
      all_bytes += more_bytes;
    }
    const auto documents = b.CreateVector(offsets);
    fb::DocumentsBuilder reply(b);
    reply.add_documents(documents);
    if (last && piece.next) reply.add_next(*piece.next);
    session.Send(number, last, wire::FinishReply(&b, reply.Finish()));
    if (last) return Status::Ok();
    const size_t mean = 1 + all_bytes / std::max<size_t>(1, piece.documents.size());
    page->piece = std::clamp<size_t>(wire::kBatchBytes / mean, 1, 1024);
    session.WhenWritable([page] { SubmitPiece(page); });
    return Status::Ok();
  }

  static void SubmitPiece(const std::shared_ptr<Page>& page) {
    const WireRequestPtr& request = page->request;
    Job job;
    job.collection = CollectionOf(*request->message);
    job.lane = Lane::kStorage;
    job.deadline = request->deadline;
    job.stop = request->stop;
    job.run = [page](const Status& admitted) {
      const Status status = admitted.ok() ? Guarded([&] { return SendPiece(page); }) : admitted;
      if (!status.ok()) page->request->session->SendError(page->request->number, status);
    };
    const Status status = request->session_context->services.admission->Submit(std::move(job));
    if (!status.ok()) request->session->SendError(request->number, status);
  }

  Status Count(const fb::Count& in) {
    MSADB_ASSIGN_OR_RETURN(const auto reader, Reader(in));
    MSADB_ASSIGN_OR_RETURN(const uint64_t count, reader->Count());
    return Number(count);
  }

  Status Search(const fb::Search& in) {
    SearchOptions options;
    options.top_k = in.top_k();
    options.include_text = in.include_text();
    MSADB_RETURN_IF_ERROR(decoder_.Read(in.where(), &options.where));
    MSADB_ASSIGN_OR_RETURN(const auto reader, Reader(in));
    MSADB_ASSIGN_OR_RETURN(const std::vector<SearchHit> hits,
                           reader->Search(View(in.query()), options));
    std::vector<flatbuffers::Offset<fb::Hit>> offsets;
    size_t bytes = 0, tables = 0;
    for (const SearchHit& hit : hits) {
      const size_t more_bytes = wire::ByteCount(hit);
      const size_t more_tables = wire::TableCount(hit.metadata);
      if (!offsets.empty() &&
          (bytes + more_bytes > wire::kBatchBytes || tables + more_tables > wire::kBatchTables)) {
        Send(false, fb::CreateHits(builder_, builder_.CreateVector(offsets)));
        offsets.clear();
        bytes = tables = 0;
      }
      offsets.push_back(wire::Encode(&builder_, hit));
      bytes += more_bytes;
      tables += more_tables;
    }
    Send(true, fb::CreateHits(builder_, builder_.CreateVector(offsets)));
    return Status::Ok();
  }

  Status Ask(const fb::Ask& in) {
    AskOptions options;
    options.trace = in.trace();
    options.rounds_max = in.rounds_max();
    options.answer_tokens_max = in.answer_tokens_max();
    options.retrieved_text_tokens_max = in.retrieved_text_tokens_max();
    options.temperature = in.temperature();
    options.top_p = in.top_p();
    options.seed = in.seed();
    options.stop = request_->stop.get_token();
    options.deadline = request_->deadline;
    if (in.stream()) {
      options.on_text = [this](std::string_view piece) {
        Builder b(piece.size() + 64);
        return session_.Send(
            request_->number, false,
            wire::FinishReply(&b, fb::CreateTextPiece(b, wire::EncodeText(&b, piece))));
      };
    }
    MSADB_RETURN_IF_ERROR(decoder_.Read(in.where(), &options.where));
    MSADB_ASSIGN_OR_RETURN(const auto reader, Reader(in));
    MSADB_ASSIGN_OR_RETURN(const Answer answer, reader->Ask(View(in.question()), options));
    Send(true, wire::Encode(&builder_, answer));
    return Status::Ok();
  }

  // ---- Changing

  Status ReadNew(const fb::NewDocument* in, NewDocument* out) {
    MSADB_RETURN_IF_ERROR(decoder_.Read(in, out));
    out->written_by = request_->principal->name();
    return Status::Ok();
  }

  Status Put(const fb::Put& in) {
    NewDocument document;
    MSADB_ASSIGN_OR_RETURN(const WireHandlePtr handle, TransactionOf(in.handle()));
    if (handle != nullptr) {
      MSADB_RETURN_IF_ERROR(ReadNew(in.document(), &document));
      MSADB_ASSIGN_OR_RETURN(Exclusive entered, Exclusive::Enter(handle));
      Transaction& transaction = *handle->transaction;
      MSADB_ASSIGN_OR_RETURN(const DocumentId id, in.upsert() ? transaction.Upsert(document)
                                                              : transaction.Insert(document));
      entered.Leave();
      return Number(id);
    }
    MSADB_ASSIGN_OR_RETURN(const auto collection, Find(in.collection(), Right::kWrite));
    MSADB_RETURN_IF_ERROR(ReadNew(in.document(), &document));
    MSADB_ASSIGN_OR_RETURN(const DocumentId id, in.upsert() ? collection->Upsert(document)
                                                            : collection->Insert(document));
    return Number(id);
  }

  Status InsertBatch(const fb::InsertBatch& in) {
    MSADB_ASSIGN_OR_RETURN(const auto collection, Find(in.collection(), Right::kWrite));
    std::vector<NewDocument> documents;
    if (in.documents() != nullptr) {
      documents.reserve(in.documents()->size());
      for (const fb::NewDocument* document : *in.documents()) {
        MSADB_RETURN_IF_ERROR(ReadNew(document, &documents.emplace_back()));
      }
    }
    InsertManyOptions options;
    options.replace_existing = in.replace_existing();
    options.on_progress = [&](const InsertProgress& progress) {
      committed_ = progress.done;
      if (in.progress()) {
        Builder b(64);
        session_.Send(request_->number, false,
                      wire::FinishReply(&b, fb::CreateProgress(b, progress.done, progress.tokens)));
      }
      return !request_->stop.stop_requested();
    };
    MSADB_ASSIGN_OR_RETURN(const size_t inserted, collection->InsertMany(documents, options));
    return Number(inserted);
  }

  Status Delete(const fb::Delete& in) {
    MSADB_ASSIGN_OR_RETURN(const WireHandlePtr handle, TransactionOf(in.handle()));
    if (handle != nullptr) {
      MSADB_ASSIGN_OR_RETURN(Exclusive entered, Exclusive::Enter(handle));
      Transaction& transaction = *handle->transaction;
      MSADB_RETURN_IF_ERROR(in.key() != nullptr ? transaction.DeleteByKey(View(in.key()))
                                                : transaction.Delete(in.id()));
      entered.Leave();
      return Done();
    }
    MSADB_ASSIGN_OR_RETURN(const auto collection, Find(in.collection(), Right::kWrite));
    MSADB_RETURN_IF_ERROR(in.key() != nullptr ? collection->DeleteByKey(View(in.key()))
                                              : collection->Delete(in.id()));
    return Done();
  }

  Status DeleteWhere(const fb::DeleteWhere& in) {
    MSADB_ASSIGN_OR_RETURN(const auto collection, Find(in.collection(), Right::kWrite));
    // Everything goes only by {}, never by a field left out.
    if (in.where() == nullptr) {
      return Status::InvalidArgument("DeleteWhere needs a filter; {} matches every document");
    }
    std::optional<Filter> where;
    MSADB_RETURN_IF_ERROR(decoder_.Read(in.where(), &where));
    MSADB_ASSIGN_OR_RETURN(const uint64_t deleted, collection->DeleteWhere(*where));
    return Number(deleted);
  }

  // ---- Handles

  Status AddHandle(WireHandlePtr handle) {
    MSADB_ASSIGN_OR_RETURN(const uint64_t number, session_.AddHandle(std::move(handle)));
    return Number(number);
  }

  WireHandlePtr NewHandle(std::string_view collection) {
    auto handle = std::make_shared<WireHandle>();
    handle->context = request_->session_context;
    handle->context->handles.fetch_add(1);
    handle->collection = collection;
    return handle;
  }

  Status Begin(const fb::Begin& in) {
    MSADB_ASSIGN_OR_RETURN(const auto collection, Find(in.collection(), Right::kWrite));
    WireHandlePtr handle = NewHandle(View(in.collection()));
    MSADB_ASSIGN_OR_RETURN(handle->transaction, collection->Begin());
    return AddHandle(std::move(handle));
  }

  Status TakeSnapshot(const fb::TakeSnapshot& in) {
    MSADB_ASSIGN_OR_RETURN(const auto collection, Find(in.collection(), Right::kRead));
    WireHandlePtr handle = NewHandle(View(in.collection()));
    MSADB_ASSIGN_OR_RETURN(handle->snapshot, collection->TakeSnapshot());
    return AddHandle(std::move(handle));
  }

  Status Commit(const fb::Commit& in) {
    MSADB_ASSIGN_OR_RETURN(const WireHandlePtr handle, TransactionOf(in.handle()));
    if (handle == nullptr) return Status::InvalidArgument("Commit needs a transaction");
    MSADB_ASSIGN_OR_RETURN(const Exclusive entered, Exclusive::Enter(handle));
    const Status status = handle->transaction->Commit();
    session_.RemoveHandle(in.handle());
    MSADB_RETURN_IF_ERROR(status);
    return Done();
  }

  Status Release(const fb::Release& in) {
    session_.RemoveHandle(in.handle());
    return Done();
  }

 public:
  template <typename Fn>
  static Status Guarded(Fn&& fn) {
    try {
      return fn();
    } catch (const std::bad_alloc&) {
      return Status::ResourceExhausted("the server is out of memory");
    } catch (const std::exception& e) {
      return Status::Internal(std::string("unexpected exception: ") + e.what());
    } catch (...) {
      return Status::Internal("unexpected exception of an unknown type");
    }
  }

 private:
  const WireRequestPtr request_;
  WireSession& session_;
  Database& database_;
  Decoder decoder_;
  Builder builder_;
  uint64_t committed_ = 0;
};

template <typename Table>
std::string NameIn(const Table* table) {
  return std::string(View(table->collection()));
}

}  // namespace

Lane LaneOf(const fb::Request& message) {
  switch (message.body_type()) {
    case fb::RequestBody::Search:
    case fb::RequestBody::Ask:
    case fb::RequestBody::Put:
    case fb::RequestBody::InsertBatch:
      return Lane::kModel;
    default:
      return Lane::kStorage;
  }
}

std::string CollectionOf(const fb::Request& message) {
  switch (message.body_type()) {
    case fb::RequestBody::Get:
      return NameIn(message.body_as_Get());
    case fb::RequestBody::List:
      return NameIn(message.body_as_List());
    case fb::RequestBody::Count:
      return NameIn(message.body_as_Count());
    case fb::RequestBody::Search:
      return NameIn(message.body_as_Search());
    case fb::RequestBody::Ask:
      return NameIn(message.body_as_Ask());
    case fb::RequestBody::Put:
      return NameIn(message.body_as_Put());
    case fb::RequestBody::InsertBatch:
      return NameIn(message.body_as_InsertBatch());
    case fb::RequestBody::Delete:
      return NameIn(message.body_as_Delete());
    case fb::RequestBody::DeleteWhere:
      return NameIn(message.body_as_DeleteWhere());
    case fb::RequestBody::Begin:
      return NameIn(message.body_as_Begin());
    case fb::RequestBody::TakeSnapshot:
      return NameIn(message.body_as_TakeSnapshot());
    default:
      return std::string();
  }
}

void HandleWireRequest(const WireRequestPtr& request) {
  uint64_t committed = 0;
  const Status status = Handler::Guarded([&] {
    Handler handler(request);
    Status result = handler.Run();
    committed = handler.committed();
    return result;
  });
  if (!status.ok()) request->session->SendError(request->number, status, committed);
}

}  // namespace msadb::server
