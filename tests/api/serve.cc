// Serves a folder with a model on a free binary port until its input ends, for the tests in Python:
//   api_test_server FOLDER MODEL READ_ONLY      (READ_ONLY: 0 or 1; prints the port)
#include <iostream>
#include <string>

#include "msadb/msadb.h"
#include "server/wire_server.h"

namespace {

int Fail(const msadb::Status& status) {
  std::cerr << status.ToString() << "\n";
  return 1;
}

}  // namespace

int main(int count, char** arguments) {
  using namespace msadb;
  if (count != 4) return 2;
  Options options;
  options.model_path = arguments[2];
  options.read_only = arguments[3] == std::string("1");
  options.threads = 1;
  options.durability = Durability::kBuffered;
  options.encode_batch_tokens = 64;
  const auto database = Database::Open(arguments[1], options);
  if (!database.ok()) return Fail(database.status());
  server::Admission admission({});
  server::WireServerOptions server_options;
  server_options.insecure = true;
  const auto server = server::StartWireServer(
      server_options, {.database = *database, .admission = &admission, .limits = options.limits});
  if (!server.ok()) return Fail(server.status());
  std::cout << (*server)->port() << std::endl;
  for (std::string line; std::getline(std::cin, line);) {
  }
  (*server)->Shutdown(std::chrono::seconds(1));
  return 0;
}
