#include "client/calls.h"

#include <algorithm>
#include <limits>
#include <utility>

namespace msadb::client {
namespace {

namespace fb = wire::fb;
using Clock = std::chrono::steady_clock;
using wire::Builder;
using wire::Decoder;

Status Unexpected() {
  return Status::Corruption("the server answered with a message that does not fit the request");
}

Status TakeDone(const fb::Reply& reply, Decoder&, Unit*) {
  return reply.body_as_Done() != nullptr ? Status::Ok() : Unexpected();
}

Status TakeNumber(const fb::Reply& reply, Decoder&, uint64_t* value) {
  const auto* number = reply.body_as_Number();
  if (number == nullptr) return Unexpected();
  *value = number->value();
  return Status::Ok();
}

Status TakeHandle(const fb::Reply& reply, Decoder& decoder, Handle* value) {
  return TakeNumber(reply, decoder, &value->number);
}

Status TakeDocument(const fb::Reply& reply, Decoder& decoder, Document* value) {
  const auto* documents = reply.body_as_Documents();
  if (documents == nullptr || documents->documents() == nullptr ||
      documents->documents()->size() != 1) {
    return Unexpected();
  }
  return decoder.Read(documents->documents()->Get(0), value);
}

Status TakePage(const fb::Reply& reply, Decoder& decoder, DocumentPage* value) {
  const auto* documents = reply.body_as_Documents();
  if (documents == nullptr) return Unexpected();
  if (documents->documents() != nullptr) {
    for (const fb::Document* document : *documents->documents()) {
      MSADB_RETURN_IF_ERROR(decoder.Read(document, &value->documents.emplace_back()));
    }
  }
  if (documents->next()) value->next = *documents->next();
  return Status::Ok();
}

Status TakeHits(const fb::Reply& reply, Decoder& decoder, std::vector<SearchHit>* value) {
  const auto* hits = reply.body_as_Hits();
  if (hits == nullptr) return Unexpected();
  if (hits->hits() == nullptr) return Status::Ok();
  for (const fb::Hit* hit : *hits->hits()) {
    MSADB_RETURN_IF_ERROR(decoder.Read(hit, &value->emplace_back()));
  }
  return Status::Ok();
}

Status TakeNames(const fb::Reply& reply, Decoder& decoder, std::vector<std::string>* value) {
  const auto* names = reply.body_as_Names();
  if (names == nullptr) return Unexpected();
  std::vector<std::string> more;
  MSADB_RETURN_IF_ERROR(decoder.Read(names->names(), &more));
  std::move(more.begin(), more.end(), std::back_inserter(*value));
  return Status::Ok();
}

Status TakeCollections(const fb::CollectionStats& in, Decoder& decoder,
                       std::vector<CollectionStats>* out) {
  if (in.collections() == nullptr) return Status::Ok();
  for (const fb::CollectionNumbers* numbers : *in.collections()) {
    MSADB_RETURN_IF_ERROR(decoder.Read(numbers, &out->emplace_back()));
  }
  return Status::Ok();
}

}  // namespace

template <typename T, typename Table>
Call<T> Calls::Make(Builder* b, flatbuffers::Offset<Table> body) const {
  Call<T> call;
  call.payload = wire::FinishRequest(b, body, static_cast<uint64_t>(timeout_.count()));
  if (timeout_.count() > 0) call.deadline = Clock::now() + timeout_;
  return call;
}

Call<Unit> Calls::Ping() const {
  Builder b;
  auto call = Make<Unit>(&b, fb::CreatePing(b));
  call.take = TakeDone;
  return call;
}

Call<Unit> Calls::OpenCollection(std::string_view name, fb::OpenMode mode) const {
  Builder b;
  auto call = Make<Unit>(&b, fb::CreateOpenCollection(b, wire::EncodeText(&b, name), mode));
  // Only creating is told apart the second time: the name would be taken.
  call.changes = mode == fb::OpenMode::Create;
  call.take = TakeDone;
  return call;
}

Call<Unit> Calls::DropCollection(std::string_view name) const {
  Builder b;
  auto call = Make<Unit>(&b, fb::CreateDropCollection(b, wire::EncodeText(&b, name)));
  call.changes = true;
  call.take = TakeDone;
  return call;
}

Call<std::vector<std::string>> Calls::ListCollections() const {
  Builder b;
  auto call = Make<std::vector<std::string>>(&b, fb::CreateListCollections(b));
  call.take = TakeNames;
  return call;
}

Call<DatabaseStats> Calls::Stats() const {
  Builder b;
  auto call = Make<DatabaseStats>(&b, fb::CreateGetDatabaseStats(b));
  call.take = [](const fb::Reply& reply, Decoder& decoder, DatabaseStats* value) {
    if (const auto* collections = reply.body_as_CollectionStats()) {
      return TakeCollections(*collections, decoder, &value->collections);
    }
    const auto* stats = reply.body_as_DatabaseStats();
    return stats != nullptr ? decoder.Read(stats, value) : Unexpected();
  };
  return call;
}

Call<CollectionStats> Calls::Stats(std::string_view collection) const {
  Builder b;
  auto call =
      Make<CollectionStats>(&b, fb::CreateGetCollectionStats(b, wire::EncodeText(&b, collection)));
  call.take = [](const fb::Reply& reply, Decoder& decoder, CollectionStats* value) {
    const auto* stats = reply.body_as_CollectionStats();
    std::vector<CollectionStats> list;
    if (stats == nullptr) return Unexpected();
    MSADB_RETURN_IF_ERROR(TakeCollections(*stats, decoder, &list));
    if (list.size() != 1) return Unexpected();
    *value = std::move(list[0]);
    return Status::Ok();
  };
  return call;
}

Call<VerifyReport> Calls::Verify() const {
  Builder b;
  Call<VerifyReport> call;
  call.payload = wire::FinishRequest(&b, fb::CreateVerifyDatabase(b));
  call.take = [](const fb::Reply& reply, Decoder& decoder, VerifyReport* value) {
    const auto* report = reply.body_as_VerifyReport();
    return report != nullptr ? decoder.Read(report, value) : Unexpected();
  };
  return call;
}

Call<Unit> Calls::Compact() const {
  Builder b;
  Call<Unit> call;
  call.payload = wire::FinishRequest(&b, fb::CreateCompact(b));
  call.take = TakeDone;
  return call;
}

Call<Document> Calls::Get(const Target& target, DocumentId id) const {
  Builder b;
  const auto collection = wire::EncodeText(&b, target.collection);
  auto call = Make<Document>(&b, fb::CreateGet(b, collection, target.handle, id));
  call.epoch = target.epoch;
  call.take = TakeDocument;
  return call;
}

Call<Document> Calls::GetByKey(const Target& target, std::string_view key) const {
  Builder b;
  const auto collection = wire::EncodeText(&b, target.collection);
  const auto key_offset = wire::EncodeText(&b, key);
  auto call = Make<Document>(&b, fb::CreateGet(b, collection, target.handle, 0, key_offset));
  call.epoch = target.epoch;
  call.take = TakeDocument;
  return call;
}

Call<DocumentPage> Calls::List(const Target& target, const ListOptions& options) const {
  Builder b;
  const auto collection = wire::EncodeText(&b, target.collection);
  const auto where = wire::EncodeFilter(&b, options.where);
  auto call =
      Make<DocumentPage>(&b, fb::CreateList(b, collection, target.handle, options.start_after,
                                            options.limit, where, options.include_text));
  call.epoch = target.epoch;
  call.take = TakePage;
  return call;
}

Call<uint64_t> Calls::Count(const Target& target) const {
  Builder b;
  const auto collection = wire::EncodeText(&b, target.collection);
  auto call = Make<uint64_t>(&b, fb::CreateCount(b, collection, target.handle));
  call.epoch = target.epoch;
  call.take = TakeNumber;
  return call;
}

Call<std::vector<SearchHit>> Calls::Search(const Target& target, std::string_view query,
                                           const SearchOptions& options) const {
  Builder b;
  const auto collection = wire::EncodeText(&b, target.collection);
  const auto query_offset = wire::EncodeText(&b, query);
  const auto where = wire::EncodeFilter(&b, options.where);
  auto call = Make<std::vector<SearchHit>>(
      &b, fb::CreateSearch(b, collection, target.handle, query_offset, options.top_k, where,
                           options.include_text));
  call.epoch = target.epoch;
  call.take = TakeHits;
  return call;
}

Call<Answer> Calls::Ask(const Target& target, std::string_view question,
                        const AskOptions& options) const {
  Builder b;
  const auto collection = wire::EncodeText(&b, target.collection);
  const auto question_offset = wire::EncodeText(&b, question);
  const auto where = wire::EncodeFilter(&b, options.where);
  const auto body = fb::CreateAsk(
      b, collection, target.handle, question_offset, where, static_cast<bool>(options.on_text),
      options.trace, options.rounds_max, options.answer_tokens_max,
      options.retrieved_text_tokens_max, options.temperature, options.top_p, options.seed);
  Call<Answer> call;
  if (options.deadline) {
    const auto left =
        std::chrono::ceil<std::chrono::milliseconds>(*options.deadline - Clock::now());
    call.payload =
        wire::FinishRequest(&b, body, static_cast<uint64_t>(std::max<int64_t>(1, left.count())));
    call.deadline = options.deadline;
  } else {
    call = Make<Answer>(&b, body);
  }
  call.epoch = target.epoch;
  call.take = [on_text = options.on_text](const fb::Reply& reply, Decoder& decoder,
                                          Answer* value) -> Status {
    if (const auto* piece = reply.body_as_TextPiece()) {
      if (!on_text || piece->text() == nullptr) return Status::Ok();
      try {
        if (on_text({piece->text()->data(), piece->text()->size()})) return Status::Ok();
      } catch (const std::exception& e) {
        return Status::Internal(std::string("unexpected exception: ") + e.what());
      } catch (...) {
        return Status::Internal("unexpected exception of an unknown type");
      }
      return Status::Cancelled("on_text ended the answer");
    }
    const auto* answer = reply.body_as_Answer();
    return answer != nullptr ? decoder.Read(answer, value) : Unexpected();
  };
  return call;
}

Call<DocumentId> Calls::Put(const Target& target, const NewDocument& document, bool upsert) const {
  Builder b(document.text.size() + 512);
  const auto collection = wire::EncodeText(&b, target.collection);
  const auto document_offset = wire::Encode(&b, document);
  auto call =
      Make<DocumentId>(&b, fb::CreatePut(b, collection, target.handle, document_offset, upsert));
  call.epoch = target.epoch;
  // In a transaction nothing is changed until Commit.
  call.changes = target.handle == 0;
  call.take = TakeNumber;
  return call;
}

Call<uint64_t> Calls::InsertBatch(
    std::string_view collection, std::span<const NewDocument> documents, bool replace_existing,
    std::function<void(uint64_t done, uint64_t tokens)> on_progress) const {
  Builder b(wire::kBatchBytes);
  std::vector<flatbuffers::Offset<fb::NewDocument>> offsets;
  offsets.reserve(documents.size());
  for (const NewDocument& document : documents) offsets.push_back(wire::Encode(&b, document));
  const auto list = b.CreateVector(offsets);
  const auto name = wire::EncodeText(&b, collection);
  auto call = Make<uint64_t>(
      &b, fb::CreateInsertBatch(b, name, list, replace_existing, static_cast<bool>(on_progress)));
  call.changes = true;
  call.take = [on_progress = std::move(on_progress)](const fb::Reply& reply, Decoder& decoder,
                                                     uint64_t* value) {
    if (const auto* progress = reply.body_as_Progress()) {
      if (on_progress) on_progress(progress->done(), progress->tokens());
      return Status::Ok();
    }
    return TakeNumber(reply, decoder, value);
  };
  return call;
}

Call<Unit> Calls::Delete(const Target& target, DocumentId id) const {
  Builder b;
  const auto collection = wire::EncodeText(&b, target.collection);
  auto call = Make<Unit>(&b, fb::CreateDelete(b, collection, target.handle, id));
  call.epoch = target.epoch;
  call.changes = target.handle == 0;
  call.take = TakeDone;
  return call;
}

Call<Unit> Calls::DeleteByKey(const Target& target, std::string_view key) const {
  Builder b;
  const auto collection = wire::EncodeText(&b, target.collection);
  const auto key_offset = wire::EncodeText(&b, key);
  auto call = Make<Unit>(&b, fb::CreateDelete(b, collection, target.handle, 0, key_offset));
  call.epoch = target.epoch;
  call.changes = target.handle == 0;
  call.take = TakeDone;
  return call;
}

Call<uint64_t> Calls::DeleteWhere(std::string_view collection, const Filter& where) const {
  Builder b;
  const auto name = wire::EncodeText(&b, collection);
  auto call =
      Make<uint64_t>(&b, fb::CreateDeleteWhere(b, name, wire::EncodeText(&b, where.ToJson())));
  call.changes = true;
  call.take = TakeNumber;
  return call;
}

Call<Handle> Calls::Begin(std::string_view collection) const {
  Builder b;
  auto call = Make<Handle>(&b, fb::CreateBegin(b, wire::EncodeText(&b, collection)));
  call.take = TakeHandle;
  return call;
}

Call<Handle> Calls::TakeSnapshot(std::string_view collection) const {
  Builder b;
  auto call = Make<Handle>(&b, fb::CreateTakeSnapshot(b, wire::EncodeText(&b, collection)));
  call.take = TakeHandle;
  return call;
}

Call<Unit> Calls::Commit(const Target& target) const {
  Builder b;
  auto call = Make<Unit>(&b, fb::CreateCommit(b, target.handle));
  call.epoch = target.epoch;
  call.changes = true;
  call.take = TakeDone;
  return call;
}

Call<Unit> Calls::Release(const Target& target) const {
  Builder b;
  auto call = Make<Unit>(&b, fb::CreateRelease(b, target.handle));
  call.epoch = target.epoch;
  call.take = TakeDone;
  return call;
}

}  // namespace msadb::client
