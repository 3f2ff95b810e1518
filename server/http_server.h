// The HTTP port: connections, TLS, the protocol's limits and deadlines. What requests mean is
// HttpService's affair. Boost is used in http_server.cc alone.
//
// Every phase of a connection has an absolute deadline, so that a client cannot hold it by sending a
// byte now and then. Sizes are checked before memory is taken for what they announce.
#ifndef MSADB_SERVER_HTTP_SERVER_H_
#define MSADB_SERVER_HTTP_SERVER_H_

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>

#include "msadb/status.h"
#include "server/http_service.h"

namespace msadb::server {

struct HttpServerOptions {
  std::string address = "127.0.0.1";  // IPv4 or IPv6, without brackets
  uint16_t port = 0;                  // 0: any free one
  std::string tls_certificate;        // PEM files; both or none
  std::string tls_key;
  int threads = 2;  // for connections; database calls run elsewhere

  size_t connections_max = 4096;
  uint32_t header_bytes_max = 16u << 10;
  std::chrono::milliseconds handshake_time{10'000};
  std::chrono::milliseconds header_time{10'000};  // from its first byte to its end
  std::chrono::milliseconds body_time{60'000};    // from the end of the header
  std::chrono::milliseconds write_time{60'000};   // of a whole reply, or of one piece of a stream
  std::chrono::milliseconds idle_time{75'000};    // between requests
  size_t stream_bytes_waiting_max = 1u << 20;     // of a streamed answer that nobody reads
};

class HttpServer {
 public:
  // Listens and serves on threads of its own. `service` must outlive this object. InvalidArgument:
  // not an address, or the certificate and key cannot be used. IOError: the address is taken or not
  // ours.
  static Result<std::unique_ptr<HttpServer>> Start(HttpService* service,
                                                   const HttpServerOptions& options);
  // Stops at once. Drain the Admission before: its jobs answer over these connections.
  virtual ~HttpServer() = default;

  virtual uint16_t port() const = 0;
  // Takes no new connections; those there are end after the request they are at.
  virtual void StopAccepting() = 0;
  // Waits until no connection has a request, at most `patience`, then cuts those left.
  virtual void Stop(std::chrono::milliseconds patience) = 0;
};

}  // namespace msadb::server

#endif  // MSADB_SERVER_HTTP_SERVER_H_
