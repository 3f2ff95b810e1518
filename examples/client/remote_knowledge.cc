// A knowledge base over a folder of text files, on a server: reads the files that are new or
// changed into a collection, then answers a question from them, streaming.
//
//   remote_knowledge HOST PORT TOKEN_FILE FOLDER QUESTION
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <string>
#include <vector>

#include "msadb/client.h"
#include "msadb/msadb.h"

namespace {

std::string ReadFile(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

msadb::Status Run(char** arguments) {
  msadb::client::ClientOptions options;
  options.host = arguments[1];
  options.port = static_cast<uint16_t>(std::atoi(arguments[2]));
  options.token = ReadFile(arguments[3]);
  while (!options.token.empty() && options.token.back() == '\n') options.token.pop_back();
  MSADB_ASSIGN_OR_RETURN(const auto db, msadb::client::Connect(options));
  MSADB_ASSIGN_OR_RETURN(const auto knowledge, db->GetOrCreateCollection("knowledge"));

  std::vector<msadb::NewDocument> changed;
  for (const auto& entry : std::filesystem::directory_iterator(arguments[4])) {
    if (!entry.is_regular_file()) continue;
    const std::string key = entry.path().filename().string();
    std::string text = ReadFile(entry.path());
    const auto known = knowledge->GetByKey(key);
    if (known.ok() && known->text == text) continue;
    changed.push_back({.text = std::move(text), .key = key, .source = entry.path().string()});
  }
  MSADB_ASSIGN_OR_RETURN(const size_t read,
                         knowledge->InsertMany(changed, {.replace_existing = true}));
  std::cout << read << " documents read\n";

  msadb::AskOptions ask;
  ask.on_text = [](std::string_view piece) {
    std::cout << piece << std::flush;
    return true;
  };
  MSADB_ASSIGN_OR_RETURN(const msadb::Answer answer, knowledge->Ask(arguments[5], ask));
  std::cout << "\n";
  for (const msadb::Citation& citation : answer.citations) {
    std::cout << "[" << citation.part << "] " << citation.key.value_or("") << "\n";
  }
  return msadb::Status::Ok();
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 6) {
    std::cerr << "usage: " << arguments[0] << " HOST PORT TOKEN_FILE FOLDER QUESTION\n";
    return 2;
  }
  const msadb::Status status = Run(arguments);
  if (!status.ok()) std::cerr << status.ToString() << "\n";
  return status.ok() ? 0 : 1;
}
