// A knowledge base over a folder of text files: load in bulk, then ask, filtered by metadata.
//
//   knowledge_base FOLDER MODEL_FOLDER DOCUMENTS QUESTION [TOPIC]
//
// Every .md and .txt file below DOCUMENTS becomes one document; its topic is the part of the file
// name before the first '-'. Loading is resumable: a file that is stored already is skipped.
#include <msadb/msadb.h>

#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <string>
#include <vector>

namespace {

namespace fs = std::filesystem;

std::vector<msadb::NewDocument> ReadFolder(const fs::path& folder) {
  std::vector<msadb::NewDocument> documents;
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    const fs::path& path = entry.path();
    if (path.extension() != ".md" && path.extension() != ".txt") continue;
    std::ifstream file(path, std::ios::binary);
    msadb::NewDocument document;
    document.text.assign(std::istreambuf_iterator<char>(file), {});
    document.key = fs::relative(path, folder).string();
    document.source = path.string();
    const std::string name = path.stem().string();
    document.metadata["topic"] = name.substr(0, name.find('-'));
    documents.push_back(std::move(document));
  }
  return documents;
}

msadb::Status AskFolder(char** argv, const std::string& topic) {
  msadb::Options options;
  options.model_path = argv[2];
  MSADB_ASSIGN_OR_RETURN(auto database, msadb::Database::Open(argv[1], options));
  MSADB_ASSIGN_OR_RETURN(auto knowledge, database->GetOrCreateCollection("knowledge"));

  const auto documents = ReadFolder(argv[3]);
  msadb::InsertManyOptions load;
  load.on_progress = [](const msadb::InsertProgress& progress) {
    std::cout << "stored " << progress.done << " of " << progress.total << "\n";
    return true;
  };
  MSADB_ASSIGN_OR_RETURN(const size_t added, knowledge->InsertMany(documents, load));
  std::cout << added << " new documents\n";

  msadb::AskOptions ask;
  ask.answer_tokens_max = 48;
  if (!topic.empty()) {
    const std::string where = R"({"topic": {"$eq": ")" + topic + R"("}})";
    MSADB_ASSIGN_OR_RETURN(ask.where, msadb::Filter::Parse(where));
  }
  MSADB_ASSIGN_OR_RETURN(const auto answer, knowledge->Ask(argv[4], ask));
  std::cout << answer.text << "\n";
  for (const auto& citation : answer.citations) {
    std::cout << "  [" << citation.part << "] " << citation.source << "\n";
  }
  return msadb::Status::Ok();
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 5 && argc != 6) {
    std::cerr << "usage: knowledge_base FOLDER MODEL_FOLDER DOCUMENTS QUESTION [TOPIC]\n";
    return 2;
  }
  if (!fs::is_directory(argv[3])) {
    std::cerr << argv[3] << " is not a folder\n";
    return 2;
  }
  const msadb::Status status = AskFolder(argv, argc == 6 ? argv[5] : "");
  if (!status.ok()) std::cerr << status.ToString() << "\n";
  return status.ok() ? 0 : 1;
}
