// write_seeds FOLDER: writes the seed corpus of every entry to FOLDER/<entry>/.
#include <cstdio>
#include <filesystem>
#include <fstream>

#include "tests/fuzz/entries.h"

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: write_seeds FOLDER\n");
    return 2;
  }
  for (const msadb::fuzz::Entry& entry : msadb::fuzz::Entries()) {
    const auto folder = std::filesystem::path(argv[1]) / entry.name;
    std::filesystem::create_directories(folder);
    size_t number = 0;
    for (const std::string& seed : entry.seeds()) {
      std::ofstream file(folder / std::to_string(number++), std::ios::binary);
      file << seed;
      file.close();
      if (!file) {
        std::fprintf(stderr, "cannot write to %s\n", folder.c_str());
        return 1;
      }
    }
    std::printf("%s: %zu seeds\n", folder.c_str(), number);
  }
  return 0;
}
