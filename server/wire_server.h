// The binary port: docs/wire-protocol.md over TCP, for msadb::client and its like in other
// languages.
#ifndef MSADB_SERVER_WIRE_SERVER_H_
#define MSADB_SERVER_WIRE_SERVER_H_

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "msadb/database.h"
#include "server/access.h"
#include "server/admission.h"

namespace msadb::server {

struct WireServerOptions {
  std::string address = "127.0.0.1";
  uint16_t port = 0;  // 0: any free one, see WireServer::port
  // PEM files. Both empty: no TLS.
  std::string certificate_file;
  std::string key_file;
  // Serve without tokens, or an address other than loopback without TLS. Never the default.
  bool insecure = false;

  int threads = 2;                // for the network; the database runs on Admission's workers
  size_t connections_max = 1024;  // one more is closed at once
  uint32_t requests_max = 64;     // at a time on one connection
  uint32_t handles_max = 64;      // transactions and snapshots at a time on one connection
  size_t frame_bytes_max = 32u << 20;
  // Of all connections together; a larger request beyond it is answered Unavailable.
  size_t request_bytes_max = 512u << 20;
  // What may wait for a slow reader on one connection. Beyond the first nothing new is begun for
  // it and nothing more is read from it, beyond the second it is cut off.
  size_t reply_bytes_high = 4u << 20;
  size_t reply_bytes_max = 256u << 20;

  // Absolute: from the first byte waited for to the last.
  std::chrono::milliseconds hello_timeout{10'000};  // TLS handshake and Hello
  std::chrono::milliseconds frame_timeout{30'000};  // a frame, plus a second for every 64 KiB
  std::chrono::milliseconds write_timeout{30'000};  // 256 KiB of a reply
  std::chrono::milliseconds idle_timeout{600'000};  // no request under way, no handle open
  std::chrono::milliseconds handle_idle_timeout{60'000};
};

// What serves the requests. All must outlive the server; `tokens` is null for an insecure one.
struct WireServices {
  std::shared_ptr<Database> database;
  TokenStore* tokens = nullptr;
  Admission* admission = nullptr;
  Limits limits;               // those of the database, told to clients
  std::string name = "msadb";  // program and version, told to clients
  // Takes one line, without line feed, for every request and greeting, of the form of the HTTP
  // port's. May be called from several threads. Empty: no log.
  std::function<void(std::string_view line)> log = {};
};

struct WireStats {
  size_t connections = 0;      // now
  size_t requests_active = 0;  // now
  size_t handles = 0;          // now: transactions and snapshots
  size_t reply_bytes = 0;      // now: that clients have not taken yet
  uint64_t connections_accepted = 0;
  uint64_t connections_cut = 0;  // for a deadline, a limit or bytes that are no protocol
  uint64_t hellos_refused = 0;   // wrong token or version
  uint64_t requests = 0;
  uint64_t request_errors = 0;  // requests answered with an Error
};

class WireServer {
 public:
  // Shutdown without patience; waits for requests that cannot be stopped, like an insert.
  virtual ~WireServer() = default;
  virtual uint16_t port() const = 0;
  virtual WireStats stats() const = 0;
  // Takes no new connections and tells the clients to leave; waits at most `patience` for requests
  // under way, then asks them to stop, which answers them Unavailable, and closes. Returns true
  // when none had to be stopped. Repeating it is harmless. Drain Admission after it, not before.
  virtual bool Shutdown(std::chrono::milliseconds patience) = 0;
};

// Listens and serves on threads of its own until destroyed. InvalidArgument: options that make no
// sense or are not safe. Unavailable: the address cannot be had.
Result<std::unique_ptr<WireServer>> StartWireServer(const WireServerOptions& options,
                                                    const WireServices& services);

}  // namespace msadb::server

#endif  // MSADB_SERVER_WIRE_SERVER_H_
