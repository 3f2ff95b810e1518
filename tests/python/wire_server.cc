// Serves a folder on a free binary port, for tests: wire_server FOLDER MODEL. Prints the port, ends with
// its standard input.
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <string>

#include "msadb/msadb.h"
#include "server/wire_server.h"

namespace {

int Fail(const msadb::Status& status) {
  std::fprintf(stderr, "wire_server: %s\n", status.ToString().c_str());
  return 1;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) return std::fprintf(stderr, "usage: wire_server FOLDER MODEL\n"), 2;
  msadb::Options options;
  options.model_path = argv[2];
  options.threads = 1;
  options.durability = msadb::Durability::kBuffered;
  auto database = msadb::Database::Open(argv[1], options);
  if (!database.ok()) return Fail(database.status());
  msadb::server::Admission admission{msadb::server::AdmissionOptions{}};
  auto server = msadb::server::StartWireServer(
      {.insecure = true}, {.database = std::move(*database), .admission = &admission});
  if (!server.ok()) return Fail(server.status());
  std::printf("%u\n", unsigned{(*server)->port()});
  std::fflush(stdout);
  char byte = 0;
  while (read(STDIN_FILENO, &byte, 1) > 0) {
  }
  (*server)->Shutdown(std::chrono::milliseconds(0));
  return 0;
}
