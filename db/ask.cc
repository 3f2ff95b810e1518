// Ask: the model answers over a MemoryBank of the view; its numbers become citations.
#include <utility>

#include "db/view_reader.h"
#include "values/validate.h"

namespace msadb::db {
namespace {

model::AnswerOptions ToModelOptions(const AskOptions& options) {
  model::AnswerOptions out;
  out.limits.stop = options.stop;
  out.limits.deadline = options.deadline;
  out.on_text = options.on_text;
  out.rounds_max = options.rounds_max;
  out.answer_tokens_max = options.answer_tokens_max;
  out.retrieved_text_tokens_max = options.retrieved_text_tokens_max;
  out.temperature = options.temperature;
  out.top_p = options.top_p;
  out.seed = options.seed;
  return out;
}

AnswerTrace::Round ToTrace(model::RoundTrace&& round) {
  AnswerTrace::Round out;
  out.generated = std::move(round.generated);
  out.appended = std::move(round.appended);
  out.layers.reserve(round.layers.size());
  for (const model::LayerTrace& layer : round.layers) {
    AnswerTrace::Layer& to = out.layers.emplace_back();
    to.layer = layer.layer;
    for (const model::RoutedDocument& document : layer.documents) {
      to.documents.push_back({document.number, document.score});
    }
  }
  out.prefill_ms = round.prefill_ms;
  out.routing_ms = round.routing_ms;
  out.fetch_ms = round.fetch_ms;
  out.decode_ms = round.decode_ms;
  return out;
}

}  // namespace

Result<Answer> ViewReader::Ask(std::string_view question, const AskOptions& options) const {
  MSADB_RETURN_IF_ERROR(values::ValidateQuestion(question, engine_.options.limits));
  MSADB_RETURN_IF_ERROR(values::ValidateAsk(options));
  MSADB_ASSIGN_OR_RETURN(const auto bank,
                         ViewBank::Create(engine_, collection_, view_, options.where, Now()));
  MSADB_ASSIGN_OR_RETURN(model::AnswerResult result,
                         engine_.model().Answer(question, *bank, ToModelOptions(options)));
  Answer answer;
  answer.text = std::move(result.text);
  answer.finish_reason = result.finish_reason == model::FinishReason::kLength
                             ? FinishReason::kLength
                             : FinishReason::kStop;
  answer.prompt_tokens = result.prompt_tokens;
  answer.generated_tokens = result.generated_tokens;
  for (const model::CitedDocument& cited : result.citations) {
    const DocumentInfo* document = bank->Owner(cited.number);
    if (document == nullptr) continue;
    MSADB_ASSIGN_OR_RETURN(storage::PartRecord part,
                           engine_.store->ReadPart(collection_, cited.number, view_.storage.get()));
    Citation citation;
    citation.id = document->id;
    citation.part = cited.number;
    citation.text_offset = part.text_offset;
    citation.text = std::move(part.text);
    citation.in_answer = cited.in_answer;
    if (cited.number != document->id) {
      MSADB_ASSIGN_OR_RETURN(part,
                             engine_.store->ReadPart(collection_, document->id, view_.storage.get(),
                                                     storage::PartFields::kNoText));
    }
    citation.key = std::move(part.key);
    citation.source = std::move(part.source);
    citation.written_by = std::move(part.written_by);
    citation.created_at = FromMicroseconds(part.created_us);
    answer.citations.push_back(std::move(citation));
  }
  if (options.trace) {
    for (model::RoundTrace& round : result.rounds) {
      answer.trace.rounds.push_back(ToTrace(std::move(round)));
    }
  }
  return answer;
}

}  // namespace msadb::db
