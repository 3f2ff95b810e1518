#include "tests/fuzz/wire_entry.h"

#include <cstdio>
#include <cstdlib>

#include "client/codec.h"
#include "client/frame.h"

namespace msadb::fuzz {
namespace {

using wire::Builder;
using wire::Decoder;
namespace fb = wire::fb;

void Require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "violated: %s\n", what);
  std::abort();
}

void RequireRefusal(const Status& status) {
  Require(status.code() == StatusCode::kInvalidArgument && !status.message().empty(),
          "bad bytes are InvalidArgument and say something");
}

size_t Bytes(const Metadata& metadata) {
  size_t bytes = 0;
  for (const auto& [name, value] : metadata) {
    bytes += name.size();
    if (const auto* text = std::get_if<std::string>(&value)) bytes += text->size();
    if (const auto* list = std::get_if<std::vector<std::string>>(&value)) {
      for (const std::string& item : *list) bytes += item.size();
    }
  }
  return bytes;
}

// What was read encodes to something that reads the same.
void RequireRoundTrip(const NewDocument& document) {
  Builder b;
  const auto payload = wire::FinishRequest(&b, fb::CreatePut(b, 0, 0, wire::Encode(&b, document)));
  const auto again = wire::VerifyRequest(payload);
  if (!again.ok()) {
    Require(document.metadata.size() + 2 > wire::kTablesMax, "what was read can be sent");
    return;
  }
  Decoder decoder(payload.size());
  NewDocument copy;
  Require(decoder.Read((*again)->body_as_Put()->document(), &copy).ok(), "an own message is read");
  Require(copy.text == document.text && copy.key == document.key &&
              copy.source == document.source && copy.expires_at == document.expires_at &&
              copy.created_at == document.created_at &&
              copy.metadata.size() == document.metadata.size(),
          "a document comes back as it went");
}

void ReadRequest(const wire::Frame& frame) {
  const auto message = wire::VerifyRequest(frame.payload);
  if (!message.ok()) return RequireRefusal(message.status());
  Decoder decoder(frame.payload.size());
  const auto read = [&](const fb::NewDocument* in) {
    NewDocument document;
    const Status status = decoder.Read(in, &document);
    if (!status.ok()) return RequireRefusal(status);
    Require(document.text.size() + document.source.size() + Bytes(document.metadata) <=
                frame.payload.size(),
            "a document is no larger than its message");
    RequireRoundTrip(document);
  };
  if (const auto* put = (*message)->body_as_Put()) read(put->document());
  if (const auto* batch = (*message)->body_as_InsertBatch()) {
    if (batch->documents() != nullptr) {
      for (const auto* document : *batch->documents()) read(document);
    }
  }
  if (const auto* search = (*message)->body_as_Search()) {
    std::optional<Filter> where;
    const Status status = decoder.Read(search->where(), &where);
    if (!status.ok()) RequireRefusal(status);
  }
}

template <typename Out, typename List>
void ReadAll(Decoder* decoder, const List* list) {
  if (list == nullptr) return;
  for (const auto* item : *list) {
    Out out;
    const Status status = decoder->Read(item, &out);
    if (!status.ok()) return RequireRefusal(status);
  }
}

void ReadReply(const wire::Frame& frame) {
  const auto message = wire::VerifyReply(frame.payload);
  if (!message.ok()) return RequireRefusal(message.status());
  Decoder decoder(frame.payload.size());
  if (const auto* error = (*message)->body_as_Error()) {
    Require(!wire::ReadError(*error).ok(), "an Error is an error");
  } else if (const auto* documents = (*message)->body_as_Documents()) {
    ReadAll<Document>(&decoder, documents->documents());
  } else if (const auto* hits = (*message)->body_as_Hits()) {
    ReadAll<SearchHit>(&decoder, hits->hits());
  } else if (const auto* answer = (*message)->body_as_Answer()) {
    Answer out;
    const Status status = decoder.Read(answer, &out);
    if (!status.ok()) RequireRefusal(status);
  } else if (const auto* stats = (*message)->body_as_CollectionStats()) {
    ReadAll<CollectionStats>(&decoder, stats->collections());
  } else if (const auto* report = (*message)->body_as_VerifyReport()) {
    VerifyReport out;
    const Status status = decoder.Read(report, &out);
    if (!status.ok()) RequireRefusal(status);
  }
}

NewDocument SampleDocument() {
  NewDocument document;
  document.text = "The spare key is under the flowerpot.";
  document.key = "key";
  document.source = "a test";
  document.expires_at = TimePoint(std::chrono::microseconds(5));
  document.metadata = {{"s", std::string("x")},
                       {"i", int64_t{-1}},
                       {"d", 0.5},
                       {"b", true},
                       {"l", std::vector<std::string>{"x", "", "y"}}};
  return document;
}

}  // namespace

void RunWire(std::string_view input) {
  std::span<const uint8_t> bytes(reinterpret_cast<const uint8_t*>(input.data()), input.size());
  if (bytes.size() >= wire::kPrefaceBytes) {
    const auto version = wire::ParsePreface(bytes.first<wire::kPrefaceBytes>());
    if (!version.ok()) RequireRefusal(version.status());
    bytes = bytes.subspan(wire::kPrefaceBytes);
  }
  // Whole, and byte by byte: the same frames.
  wire::FrameReader whole(1u << 20), dribble(1u << 20);
  std::span<const uint8_t> slow = bytes;
  for (;;) {
    wire::Frame frame, slow_frame;
    const auto complete = whole.Next(&bytes, &frame);
    Result<bool> slow_complete = false;
    while (!slow.empty()) {
      std::span<const uint8_t> one = slow.first(1);
      slow = slow.subspan(1);
      slow_complete = dribble.Next(&one, &slow_frame);
      if (!slow_complete.ok() || *slow_complete) break;
    }
    Require(complete.ok() == slow_complete.ok(), "pieces change nothing");
    if (!complete.ok()) return RequireRefusal(complete.status());
    Require(*complete == *slow_complete, "pieces change nothing");
    if (!*complete) return;
    Require(frame.payload == slow_frame.payload && frame.request == slow_frame.request,
            "pieces change nothing");
    Require(!frame.payload.empty() && frame.payload.size() <= input.size(),
            "a payload is no larger than what arrived");
    ReadRequest(frame);
    ReadReply(frame);
  }
}

std::vector<std::string> WireSeeds() {
  const auto preface = wire::Preface();
  const std::string start(preface.begin(), preface.end());
  std::vector<std::string> seeds = {start, std::string(), start + std::string(16, '\0')};
  const auto add = [&](const std::vector<uint8_t>& payload, bool last) {
    const std::string frame = wire::EncodeFrame(seeds.size(), last, payload);
    seeds.push_back(start + frame);
    seeds.push_back(seeds.back() + frame);
  };
  Builder b;
  add(wire::FinishRequest(&b, fb::CreatePing(b)), true);
  add(wire::FinishRequest(&b, fb::CreateHello(b, wire::EncodeText(&b, "token"))), true);
  add(wire::FinishRequest(&b, fb::CreatePut(b, wire::EncodeText(&b, "notes"), 0,
                                            wire::Encode(&b, SampleDocument()))),
      true);
  std::vector<flatbuffers::Offset<fb::NewDocument>> documents;
  for (int i = 0; i < 3; ++i) documents.push_back(wire::Encode(&b, SampleDocument()));
  add(wire::FinishRequest(&b, fb::CreateInsertBatch(b, 0, b.CreateVector(documents))), true);
  const auto query = wire::EncodeText(&b, "query");
  const auto where = wire::EncodeText(&b, R"({"a": {"$gt": 1}})");
  add(wire::FinishRequest(&b, fb::CreateSearch(b, 0, 0, query, 5, where)), true);

  add(wire::ErrorReply(Status::NotFound("no document 17")), true);
  Document document;
  document.text = "text";
  document.metadata = SampleDocument().metadata;
  document.parts = {{1, 0, 4, 2, 1}};
  auto document_offset = wire::Encode(&b, document);
  add(wire::FinishReply(&b, fb::CreateDocuments(b, b.CreateVector(&document_offset, 1), 1)), false);
  SearchHit hit;
  hit.text = "text";
  auto hit_offset = wire::Encode(&b, hit);
  add(wire::FinishReply(&b, fb::CreateHits(b, b.CreateVector(&hit_offset, 1))), true);
  Answer answer;
  answer.text = "[1] text";
  Citation citation;
  citation.id = citation.part = 1;
  citation.text = "text";
  citation.key = "key";
  citation.source = "source";
  answer.citations.push_back(citation);
  answer.trace.rounds.push_back({{1, 2}, {1}, {{7, {{1, 0.5f}}}}, 1, 2, 3, 4});
  add(wire::FinishReply(&b, wire::Encode(&b, answer)), true);
  CollectionStats stats;
  stats.name = "notes";
  auto stats_offset = wire::Encode(&b, stats);
  add(wire::FinishReply(&b, fb::CreateCollectionStats(b, b.CreateVector(&stats_offset, 1))), true);
  VerifyReport report;
  report.problems = {"one", "two"};
  add(wire::FinishReply(&b, wire::Encode(&b, report)), true);
  return seeds;
}

}  // namespace msadb::fuzz
