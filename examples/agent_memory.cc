// The memory of an agent: every turn of a conversation is remembered, and what was said long ago is
// recalled when it matters.
//
//   agent_memory FOLDER MODEL_FOLDER < conversation.txt
//
// Reads one message a line. A line that ends in '?' is answered from memory; any other line is
// remembered. "forget NUMBER" deletes one. Run it again: it still knows.
#include <msadb/msadb.h>

#include <chrono>
#include <cstdlib>
#include <iostream>
#include <string>

namespace {

// Remembers what the user said. Small talk need not be kept for ever: it expires after 30 days.
msadb::Status Remember(msadb::Collection& memory, const std::string& said) {
  msadb::NewDocument document;
  document.text = "The user said: " + said;
  document.source = "conversation";
  document.metadata["role"] = "user";
  document.expires_at = std::chrono::time_point_cast<std::chrono::microseconds>(
      std::chrono::system_clock::now() + std::chrono::hours(24 * 30));
  const auto id = memory.Insert(document);
  if (id.ok()) std::cout << "remembered as [" << *id << "]\n";
  return id.status();
}

msadb::Status Reply(msadb::Collection& memory, const std::string& question) {
  // What comes to mind: ranked by the model's own routing, nothing is generated. An agent that
  // brings another language model stops here and puts these texts into its prompt.
  msadb::SearchOptions recall;
  recall.top_k = 3;
  const auto hits = memory.Search(question, recall);
  if (!hits.ok()) return hits.status();
  for (const auto& hit : *hits) std::cout << "  recalled [" << hit.part << "] " << hit.text << "\n";

  // Or let the MSA model answer, with its attention over the memory. The pieces appear as they are
  // generated, and a deadline keeps the agent responsive.
  msadb::AskOptions ask;
  ask.answer_tokens_max = 48;
  ask.deadline = std::chrono::steady_clock::now() + std::chrono::minutes(1);
  ask.on_text = [](std::string_view piece) {
    std::cout << piece << std::flush;
    return true;
  };
  const auto answer = memory.Ask(question, ask);
  if (!answer.ok()) return answer.status();
  std::cout << "\n";
  for (const auto& citation : answer->citations) std::cout << "  read [" << citation.part << "]\n";
  return msadb::Status::Ok();
}

msadb::Status Converse(const std::string& folder, const std::string& model) {
  msadb::Options options;
  options.model_path = model;
  MSADB_ASSIGN_OR_RETURN(auto database, msadb::Database::Open(folder, options));
  // One collection for each agent or user keeps their memories apart.
  MSADB_ASSIGN_OR_RETURN(auto memory, database->GetOrCreateCollection("assistant"));
  MSADB_ASSIGN_OR_RETURN(const uint64_t known, memory->Count());
  std::cout << known << " turns in memory\n";

  std::string line;
  while (std::getline(std::cin, line)) {
    if (line.empty()) continue;
    if (line.starts_with("forget ")) {
      const msadb::Status forgotten = memory->Delete(std::strtoull(line.c_str() + 7, nullptr, 10));
      std::cout << (forgotten.ok() ? "forgotten" : forgotten.ToString()) << "\n";
    } else if (line.back() == '?') {
      MSADB_RETURN_IF_ERROR(Reply(*memory, line));
    } else {
      MSADB_RETURN_IF_ERROR(Remember(*memory, line));
    }
  }
  return msadb::Status::Ok();
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    std::cerr << "usage: agent_memory FOLDER MODEL_FOLDER < conversation.txt\n";
    return 2;
  }
  const msadb::Status status = Converse(argv[1], argv[2]);
  if (!status.ok()) std::cerr << status.ToString() << "\n";
  return status.ok() ? 0 : 1;
}
