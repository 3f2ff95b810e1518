// A connected TCP socket, plain or inside TLS, for both ends. Boost.Asio and OpenSSL are needed to
// include this header; only sources of client/ and server/ do.
#ifndef MSADB_CLIENT_STREAM_H_
#define MSADB_CLIENT_STREAM_H_

#include <boost/asio/buffer.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/system/error_code.hpp>
#include <cstddef>
#include <functional>
#include <memory>
#include <string>

#include "msadb/status.h"

// OpenSSL's SSL_CTX, without its headers.
struct ssl_ctx_st;

namespace msadb::wire {

using ErrorCode = boost::system::error_code;
using IoHandler = std::function<void(const ErrorCode&, size_t)>;

// One read and one write may be under way at a time. All calls come from the socket's executor,
// and so do the handlers. Destroying a Stream closes it; its handlers may then still be called,
// with an error.
class Stream {
 public:
  virtual ~Stream() = default;
  // TLS handshake; nothing for a plain socket.
  virtual void Handshake(std::function<void(const ErrorCode&)> done) = 0;
  // At least one byte, at most the buffer.
  virtual void Read(boost::asio::mutable_buffer into, IoHandler done) = 0;
  // All bytes, which stay valid until then.
  virtual void Write(boost::asio::const_buffer from, IoHandler done) = 0;
  // At once, without TLS's farewell: what was written may be lost unless it was acknowledged.
  virtual void Close() = 0;
  virtual boost::asio::ip::tcp::socket& socket() = 0;
};

std::unique_ptr<Stream> MakeStream(boost::asio::ip::tcp::socket socket);

// A TLS configuration, shared by connections.
using TlsContext = std::shared_ptr<ssl_ctx_st>;
// NotFound / InvalidArgument name the file. TLS 1.2 and later.
Result<TlsContext> MakeServerTls(const std::string& certificate_file, const std::string& key_file);
// `ca_file` empty: the system's authorities.
Result<TlsContext> MakeClientTls(const std::string& ca_file, bool verify);
// `server_name`: what the certificate must be for; empty on the server's side.
std::unique_ptr<Stream> MakeTlsStream(boost::asio::ip::tcp::socket socket, const TlsContext& tls,
                                      bool server, const std::string& server_name, bool verify);

}  // namespace msadb::wire

#endif  // MSADB_CLIENT_STREAM_H_
