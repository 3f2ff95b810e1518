#include "python/native/remote.h"

#include <chrono>

#include "msadb/client.h"
#include "python/native/held.h"

namespace msadb::python {

std::shared_ptr<Database> Connect(py::handle host, const py::dict& settings) {
  client::ClientOptions options;
  options.name = "msadb-python";
  options.host = Text(host, "host");
  for (const auto& [key, value] : settings) {
    const std::string name = Text(key, "an option's name");
    if (name == "port") {
      options.port = value.cast<uint16_t>();
    } else if (name == "token") {
      options.token = Text(value, "token");
    } else if (name == "tls") {
      options.tls.enabled = value.cast<bool>();
    } else if (name == "ca_file") {
      options.tls.ca_file = Text(value, "ca_file");
    } else if (name == "connect_timeout_ms") {
      options.connect_timeout = std::chrono::milliseconds(value.cast<int64_t>());
    } else if (name == "request_timeout_ms") {
      options.request_timeout = std::chrono::milliseconds(value.cast<int64_t>());
    } else {
      Raise(Status::InvalidArgument("there is no option '" + name + "'"));
    }
  }
  return Take(Unlocked([&] { return client::Connect(options); }));
}

}  // namespace msadb::python
