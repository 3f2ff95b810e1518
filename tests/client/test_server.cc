// Serves a database with the fake model on a free port, until its input ends:
//   client_test_server FOLDER      prints "port N"
#include <iostream>
#include <string>

#include "server/wire_server.h"
#include "tests/db/fake_model.h"

int main(int count, char** arguments) {
  using namespace msadb;
  if (count != 2) return 2;
  Options options;
  options.model = db::MakeFakeModel();
  options.block_cache_bytes = 1 << 20;
  const auto database = Database::Open(arguments[1], options);
  if (!database.ok()) {
    std::cerr << database.status().ToString() << "\n";
    return 1;
  }
  server::Admission admission({});
  server::WireServerOptions server_options;
  server_options.insecure = true;
  const auto server = server::StartWireServer(
      server_options, {.database = *database, .admission = &admission, .limits = options.limits});
  if (!server.ok()) {
    std::cerr << server.status().ToString() << "\n";
    return 1;
  }
  std::cout << "port " << (*server)->port() << std::endl;
  std::string line;
  while (std::getline(std::cin, line)) {
  }
  (*server)->Shutdown(std::chrono::seconds(1));
  return 0;
}
