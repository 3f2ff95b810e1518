#include "client/stream.h"

#include <openssl/err.h>
#include <openssl/ssl.h>

#include <boost/asio/ip/address.hpp>
#include <boost/asio/ssl/context.hpp>
#include <boost/asio/ssl/host_name_verification.hpp>
#include <boost/asio/ssl/stream.hpp>
#include <boost/asio/write.hpp>
#include <utility>

namespace msadb::wire {
namespace {

namespace asio = boost::asio;
using asio::ip::tcp;

void CloseSocket(tcp::socket& socket) {
  ErrorCode ignored;
  socket.shutdown(tcp::socket::shutdown_both, ignored);
  socket.close(ignored);
}

class PlainStream final : public Stream {
 public:
  explicit PlainStream(tcp::socket socket) : socket_(std::move(socket)) {}
  void Handshake(std::function<void(const ErrorCode&)> done) override { done({}); }
  void Read(asio::mutable_buffer into, IoHandler done) override {
    socket_.async_read_some(into, std::move(done));
  }
  void Write(asio::const_buffer from, IoHandler done) override {
    asio::async_write(socket_, from, std::move(done));
  }
  void Close() override { CloseSocket(socket_); }
  tcp::socket& socket() override { return socket_; }

 private:
  tcp::socket socket_;
};

class TlsStream final : public Stream {
 public:
  TlsStream(tcp::socket socket, const TlsContext& tls, bool server)
      : context_(tls),
        native_(SSL_CTX_up_ref(tls.get()) == 1 ? tls.get() : nullptr),
        stream_(std::move(socket), native_),
        server_(server) {}

  void SetServerName(const std::string& name, bool verify) {
    ErrorCode not_an_address;
    asio::ip::make_address(name, not_an_address);
    if (not_an_address) SSL_set_tlsext_host_name(stream_.native_handle(), name.c_str());
    if (!verify) return;
    ErrorCode ignored;
    stream_.set_verify_mode(asio::ssl::verify_peer, ignored);
    stream_.set_verify_callback(asio::ssl::host_name_verification(name), ignored);
  }

  void Handshake(std::function<void(const ErrorCode&)> done) override {
    stream_.async_handshake(
        server_ ? asio::ssl::stream_base::server : asio::ssl::stream_base::client, std::move(done));
  }
  void Read(asio::mutable_buffer into, IoHandler done) override {
    stream_.async_read_some(into, std::move(done));
  }
  void Write(asio::const_buffer from, IoHandler done) override {
    asio::async_write(stream_, from, std::move(done));
  }
  void Close() override { CloseSocket(stream_.next_layer()); }
  tcp::socket& socket() override { return stream_.next_layer(); }

 private:
  TlsContext context_;
  asio::ssl::context native_;  // shares context_'s SSL_CTX
  asio::ssl::stream<tcp::socket> stream_;
  const bool server_;
};

std::string TlsReason() {
  const unsigned long error = ERR_get_error();
  if (error == 0) return "unknown reason";
  const char* reason = ERR_reason_error_string(error);
  return reason == nullptr ? "error " + std::to_string(error) : reason;
}

Result<TlsContext> MakeContext(const SSL_METHOD* method) {
  ERR_clear_error();
  TlsContext tls(SSL_CTX_new(method), SSL_CTX_free);
  if (tls == nullptr) return Status::Internal("TLS cannot be set up: " + TlsReason());
  SSL_CTX_set_min_proto_version(tls.get(), TLS1_2_VERSION);
  SSL_CTX_set_mode(tls.get(), SSL_MODE_RELEASE_BUFFERS);
  // A client that starts handshakes over and over costs the server much and itself little.
  SSL_CTX_set_options(tls.get(), SSL_OP_NO_RENEGOTIATION);
  return tls;
}

}  // namespace

std::unique_ptr<Stream> MakeStream(tcp::socket socket) {
  return std::make_unique<PlainStream>(std::move(socket));
}

Result<TlsContext> MakeServerTls(const std::string& certificate_file, const std::string& key_file) {
  MSADB_ASSIGN_OR_RETURN(TlsContext tls, MakeContext(TLS_server_method()));
  if (SSL_CTX_use_certificate_chain_file(tls.get(), certificate_file.c_str()) != 1) {
    return Status::InvalidArgument("the TLS certificate '" + certificate_file +
                                   "' cannot be used: " + TlsReason());
  }
  if (SSL_CTX_use_PrivateKey_file(tls.get(), key_file.c_str(), SSL_FILETYPE_PEM) != 1 ||
      SSL_CTX_check_private_key(tls.get()) != 1) {
    return Status::InvalidArgument("the TLS key '" + key_file + "' cannot be used: " + TlsReason());
  }
  return tls;
}

Result<TlsContext> MakeClientTls(const std::string& ca_file, bool verify) {
  MSADB_ASSIGN_OR_RETURN(TlsContext tls, MakeContext(TLS_client_method()));
  if (!verify) return tls;
  const int loaded = ca_file.empty()
                         ? SSL_CTX_set_default_verify_paths(tls.get())
                         : SSL_CTX_load_verify_locations(tls.get(), ca_file.c_str(), nullptr);
  if (loaded != 1) {
    return Status::InvalidArgument("the certificate authorities in '" + ca_file +
                                   "' cannot be used: " + TlsReason());
  }
  return tls;
}

std::unique_ptr<Stream> MakeTlsStream(tcp::socket socket, const TlsContext& tls, bool server,
                                      const std::string& server_name, bool verify) {
  auto stream = std::make_unique<TlsStream>(std::move(socket), tls, server);
  if (!server) stream->SetServerName(server_name, verify);
  return stream;
}

}  // namespace msadb::wire
