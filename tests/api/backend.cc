#include "tests/api/backend.h"

#include "msadb/client.h"
#include "server/wire_server.h"

namespace msadb::api {
namespace {

class Embedded final : public Backend {
 public:
  explicit Embedded(std::string folder) : folder_(std::move(folder)) {}
  void Open(const Options& options) override {
    database_.reset();
    auto opened = Database::Open(folder_, options);
    ASSERT_TRUE(opened.ok()) << opened.status().ToString();
    database_ = std::move(*opened);
  }

  std::string StoredWriter(const std::string& name) const override { return name; }

 private:
  const std::string folder_;
};

class Remote final : public Backend {
 public:
  explicit Remote(std::string folder) : folder_(std::move(folder)) {}
  ~Remote() override { Stop(); }

  void Open(const Options& options) override {
    Stop();
    auto opened = Database::Open(folder_, options);
    ASSERT_TRUE(opened.ok()) << opened.status().ToString();
    admission_ = std::make_unique<server::Admission>(server::AdmissionOptions{});
    server::WireServerOptions server_options;
    server_options.insecure = true;
    server::WireServices services;
    services.database = std::move(*opened);
    services.admission = admission_.get();
    services.limits = options.limits;
    auto server = server::StartWireServer(server_options, services);
    ASSERT_TRUE(server.ok()) << server.status().ToString();
    server_ = std::move(*server);
    auto connected = client::Connect({.port = server_->port()});
    ASSERT_TRUE(connected.ok()) << connected.status().ToString();
    database_ = std::move(*connected);
  }

  // The server has no tokens.
  std::string StoredWriter(const std::string&) const override { return "anyone"; }

 private:
  void Stop() {
    database_.reset();
    server_.reset();
    admission_.reset();
  }

  const std::string folder_;
  std::unique_ptr<server::Admission> admission_;
  std::unique_ptr<server::WireServer> server_;
};

}  // namespace

std::unique_ptr<Backend> MakeEmbedded(const std::string& folder) {
  return std::make_unique<Embedded>(folder);
}
std::unique_ptr<Backend> MakeRemote(const std::string& folder) {
  return std::make_unique<Remote>(folder);
}

}  // namespace msadb::api
