// search and ask.
#include <chrono>
#include <cstdio>

#include "cli/interrupt.h"
#include "cli/values.h"
#include "cli/verb.h"

namespace msadb::cli {
namespace {

struct SearchArgs : DatabaseArgs {
  std::string query;
  size_t top_k = 10;
  std::optional<std::string> where;
};

struct AskArgs : DatabaseArgs {
  std::string question;
  std::optional<std::string> where;
  bool trace = false;
  AskOptions options;
  std::string deadline;
};

// "[3] ada/birthday (diary.txt) by ada", of a SearchHit or Citation.
template <typename Found>
std::string Name(const Found& found) {
  std::string name = "[" + std::to_string(found.id) + "]";
  if (found.key) name += " " + *found.key;
  if (!found.source.empty() && found.source != found.key) name += " (" + found.source + ")";
  if (!found.written_by.empty()) name += " by " + found.written_by;
  return name;
}

Result<int> Search(const SearchArgs& args, Printer& out) {
  SearchOptions options;
  options.top_k = args.top_k;
  MSADB_ASSIGN_OR_RETURN(options.where, ParseWhere(args.where));
  MSADB_ASSIGN_OR_RETURN(auto collection, OpenCollection(args));
  MSADB_ASSIGN_OR_RETURN(auto hits, collection->Search(args.query, options));
  if (out.json()) {
    Json listed = Json::array();
    for (const auto& hit : hits) listed.push_back(ToJson(hit));
    out.Value({{"hits", std::move(listed)}});
    return kExitOk;
  }
  for (size_t i = 0; i < hits.size(); ++i) {
    char head[64];
    std::snprintf(head, sizeof(head), "%3zu. %.4f  ", i + 1, static_cast<double>(hits[i].score));
    out.Text(head + Name(hits[i]) + "\n             " + Preview(hits[i].text, 100) + "\n");
  }
  if (hits.empty()) out.Remark("No documents.");
  return kExitOk;
}

void PrintTrace(const AnswerTrace& trace, Printer& out) {
  const auto numbers = [](const std::vector<DocumentId>& ids) {
    std::string line;
    for (DocumentId id : ids) line += " [" + std::to_string(id) + "]";
    return line.empty() ? " none" : line;
  };
  for (size_t i = 0; i < trace.rounds.size(); ++i) {
    const auto& round = trace.rounds[i];
    char times[160];
    std::snprintf(times, sizeof(times),
                  "prefill %.1f ms (routing %.1f, fetch %.1f), decode %.1f ms", round.prefill_ms,
                  round.routing_ms, round.fetch_ms, round.decode_ms);
    out.Text("\nround " + std::to_string(i + 1) + ": " + times + "\n");
    out.Text("  asked for" + numbers(round.generated) + ", read" + numbers(round.appended) + "\n");
    for (const auto& layer : round.layers) {
      out.Text("  layer " + std::to_string(layer.layer) + ":");
      for (const auto& routed : layer.documents) {
        char entry[48];
        std::snprintf(entry, sizeof(entry), " %llu:%.3f",
                      static_cast<unsigned long long>(routed.number),
                      static_cast<double>(routed.score));
        out.Text(entry);
      }
      out.Text("\n");
    }
  }
}

Result<int> Ask(const AskArgs& args, Printer& out) {
  AskOptions options = args.options;
  options.trace = args.trace;
  MSADB_ASSIGN_OR_RETURN(options.where, ParseWhere(args.where));
  if (!args.deadline.empty()) {
    auto duration = ParseDuration(args.deadline);
    if (!duration.ok()) return duration.status().WithContext("--deadline");
    options.deadline = std::chrono::steady_clock::now() + *duration;
  }
  MSADB_ASSIGN_OR_RETURN(auto collection, OpenCollection(args));

  InterruptScope interrupt;
  options.stop = interrupt.token();
  bool streamed = false;
  if (!out.json()) {
    options.on_text = [&](std::string_view piece) {
      streamed = true;
      out.Text(piece);
      return out.Finish();
    };
  }
  auto answer = collection->Ask(args.question, options);
  if (streamed) out.Text("\n");
  if (!answer.ok()) return answer.status();
  if (out.json()) {
    out.Value(ToJson(*answer, args.trace));
    return kExitOk;
  }
  if (!streamed) out.Text(answer->text + "\n");
  if (!answer->citations.empty()) out.Text("\nSources\n");
  for (const auto& citation : answer->citations) {
    out.Text("  " + Name(citation) + (citation.in_answer ? " *" : "") + "\n      " +
             Preview(citation.text, 100) + "\n");
  }
  if (answer->finish_reason == FinishReason::kLength) {
    out.Remark("The answer was cut at --max-tokens.");
  }
  if (args.trace) PrintTrace(answer->trace, out);
  return kExitOk;
}

}  // namespace

void AddQueryVerbs(CLI::App& app, Chosen* chosen) {
  auto search = std::make_shared<SearchArgs>();
  CLI::App* search_verb =
      AddVerb(app, "search", "Rank documents for a query, generating nothing",
              "Scores come from the model's routing: how strongly its layers would attend to a\n"
              "document for this query. Useful with a language model of your own.\n\n"
              "Examples:\n"
              "  msadb search notes \"spare key\"\n"
              "  msadb search notes \"budget\" -k 3 --where '{\"year\": {\"$gte\": 2025}}' --json",
              search.get());
  search_verb->add_option("QUERY", search->query, "What to look for")->required();
  AddCollectionOption(search_verb, search.get());
  search_verb->add_option("-k,--top", search->top_k, "Documents to return")
      ->capture_default_str()
      ->check(CLI::Range(1, 1000));
  search_verb->add_option("--where", search->where, "Only documents whose metadata matches");
  OnChosen(search_verb, chosen, search, Search);

  auto ask = std::make_shared<AskArgs>();
  CLI::App* ask_verb = AddVerb(
      app, "ask", "Answer a question from the documents",
      "The answer appears as it is generated, then the documents that were read; * marks those\n"
      "that the answer itself cites. Ctrl-C stops it cleanly.\n\n"
      "Examples:\n"
      "  msadb ask notes \"Where is the spare key?\"\n"
      "  msadb ask notes \"Who leads the roof project?\" --where '{\"project\": \"roof\"}'\n"
      "  msadb ask notes \"What did Ada say?\" --deadline 10s --json | jq -r .answer\n"
      "  msadb ask notes \"Where is the spare key?\" --trace    which layer read what",
      ask.get());
  ask_verb->add_option("QUESTION", ask->question, "The question")->required();
  AddCollectionOption(ask_verb, ask.get());
  ask_verb->add_option("--where", ask->where, "Only documents whose metadata matches");
  ask_verb->add_flag("--trace", ask->trace, "Also show rounds, routing and timings");
  ask_verb->add_option("--deadline", ask->deadline, "Give up after this long: 250ms, 10s, 2m");
  ask_verb->add_option("--rounds", ask->options.rounds_max, "Retrieval rounds at most")
      ->capture_default_str()
      ->check(CLI::Range(0, 64));
  ask_verb->add_option("--max-tokens", ask->options.answer_tokens_max, "Answer tokens at most")
      ->capture_default_str()
      ->check(CLI::Range(1, 1 << 20));
  ask_verb->add_option("--temperature", ask->options.temperature, "0: always the same answer")
      ->capture_default_str()
      ->check(CLI::Range(0.0, 10.0));
  ask_verb->add_option("--top-p", ask->options.top_p, "Sample from this share of probability")
      ->capture_default_str()
      ->check(CLI::Range(0.0, 1.0));
  ask_verb->add_option("--seed", ask->options.seed, "Repeats a sampled answer")
      ->capture_default_str()
      ->check(WholeNumber());
  OnChosen(ask_verb, chosen, ask, Ask);
}

}  // namespace msadb::cli
