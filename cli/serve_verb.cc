// serve, and tokens: who may call it.
#include <signal.h>
#include <sys/stat.h>

#include <atomic>
#include <charconv>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <functional>
#include <thread>

#include "cli/interrupt.h"
#include "cli/values.h"
#include "cli/verb.h"
#include "server/access.h"
#include "server/admission.h"
#include "server/http_server.h"
#include "server/http_service.h"
#include "server/wire_server.h"

namespace msadb::cli {
namespace {

constexpr const char kTokenFileName[] = "tokens.json";

struct TokenFileArgs : DatabaseArgs {
  std::string tokens;  // empty: tokens.json in the database folder
};

struct ServeArgs : TokenFileArgs {
  std::string listen = "127.0.0.1:7700";
  std::string binary_listen;  // empty: no binary port
  std::string certificate;
  std::string key;
  std::vector<std::string> hosts;
  bool insecure = false;
  bool no_log = false;
  size_t model_workers = 8;
  size_t storage_workers = 4;
  size_t queue = 256;
  size_t connections = 4096;
  std::string call_time = "2m";
  std::string drain_time = "30s";
};

struct TokenArgs : TokenFileArgs {
  std::string name;
  std::vector<std::string> grants;  // "COLLECTION:RIGHT"
};

std::string TokenPath(const TokenFileArgs& args) {
  return args.tokens.empty() ? (std::filesystem::path(args.folder) / kTokenFileName).string()
                             : args.tokens;
}

struct ListenAddress {
  std::string address;
  uint16_t port = 0;
  bool loopback = false;
};

Result<ListenAddress> ParseListen(const std::string& text) {
  const size_t colon = text.rfind(':');
  ListenAddress listen;
  if (colon != std::string::npos) {
    listen.address = text.substr(0, colon);
    if (listen.address.starts_with('[') && listen.address.ends_with(']')) {
      listen.address = listen.address.substr(1, listen.address.size() - 2);
    }
    const char* const end = text.data() + text.size();
    const auto [parsed, error] = std::from_chars(text.data() + colon + 1, end, listen.port);
    if (error == std::errc() && parsed == end && !listen.address.empty()) {
      if (listen.address == "localhost") listen.address = "127.0.0.1";
      listen.loopback = listen.address.starts_with("127.") || listen.address == "::1";
      return listen;
    }
  }
  return Status::InvalidArgument("'" + text +
                                 "' is no place to listen; write ADDRESS:PORT, as 127.0.0.1:7700");
}

Status CheckExposure(const ServeArgs& args, const std::string& text, const ListenAddress& listen) {
  if (args.certificate.empty() != args.key.empty()) {
    return Status::InvalidArgument("--tls-cert and --tls-key belong together");
  }
  if (listen.loopback || args.insecure || !args.certificate.empty()) return Status::Ok();
  return Status::InvalidArgument(
      "'" + text +
      "' can be reached from other machines, and tokens would cross the network readable: give "
      "--tls-cert and --tls-key, or say --insecure");
}

// Opens the token file. At the first start makes it, with a token for everything, in *first_token.
Result<std::unique_ptr<server::TokenStore>> OpenTokens(const TokenFileArgs& args,
                                                       std::string* first_token) {
  const std::string path = TokenPath(args);
  auto store = server::TokenStore::Open(path);
  if (store.ok() || store.status().code() != StatusCode::kNotFound) return store;
  MSADB_ASSIGN_OR_RETURN(
      *first_token,
      server::TokenStore::Add(
          path, {.name = "admin",
                 .grants = {{std::string(server::kEveryCollection), server::Right::kAdmin}}}));
  return server::TokenStore::Open(path);
}

void LogLine(std::string_view line) {
  std::string bytes(line);
  bytes.push_back('\n');
  std::fwrite(bytes.data(), 1, bytes.size(), stderr);  // one call, so lines stay whole
}

std::function<void(std::string_view)> LogOf(const ServeArgs& args) {
  if (args.no_log) return {};
  return LogLine;
}

Result<std::unique_ptr<server::WireServer>> StartBinaryPort(
    const ServeArgs& args, const ListenAddress& listen, const std::shared_ptr<Database>& database,
    server::TokenStore* tokens, server::Admission* admission) {
  server::WireServerOptions options;
  options.address = listen.address;
  options.port = listen.port;
  options.certificate_file = args.certificate;
  options.key_file = args.key;
  options.insecure = args.insecure;
  options.connections_max = args.connections;
  return server::StartWireServer(options, {.database = database,
                                           .tokens = tokens,
                                           .admission = admission,
                                           .limits = MakeOptions(args, Access::kWrite).limits,
                                           .name = "msadb " MSADB_VERSION,
                                           .log = LogOf(args)});
}

std::string HostAndPort(const ListenAddress& listen, uint16_t port) {
  const bool is_v6 = listen.address.find(':') != std::string::npos;
  return (is_v6 ? "[" + listen.address + "]" : listen.address) + ":" + std::to_string(port);
}

Result<int> Serve(const ServeArgs& args, Printer& out) {
  signal(SIGPIPE, SIG_IGN);
  umask(077);
  MSADB_ASSIGN_OR_RETURN(const ListenAddress listen, ParseListen(args.listen));
  MSADB_RETURN_IF_ERROR(CheckExposure(args, args.listen, listen));
  ListenAddress binary_listen;
  if (!args.binary_listen.empty()) {
    MSADB_ASSIGN_OR_RETURN(binary_listen, ParseListen(args.binary_listen));
    MSADB_RETURN_IF_ERROR(CheckExposure(args, args.binary_listen, binary_listen));
  }
  MSADB_ASSIGN_OR_RETURN(const auto call_time, ParseDuration(args.call_time));
  MSADB_ASSIGN_OR_RETURN(const auto drain_time, ParseDuration(args.drain_time));
  MSADB_ASSIGN_OR_RETURN(const auto database, OpenDatabase(args, Access::kWrite));
  std::string first_token;
  MSADB_ASSIGN_OR_RETURN(const auto tokens, OpenTokens(args, &first_token));

  server::AdmissionOptions lanes;
  lanes.workers = {args.storage_workers, args.model_workers};
  lanes.queued_max = {4 * args.queue, args.queue};
  lanes.queued_per_collection_max = std::max<size_t>(1, args.queue / 2);
  server::Admission admission(lanes);
  // Long enough for calls to end by themselves, then to be stopped, before the process is ended.
  InterruptScope interrupt(2 * drain_time + std::chrono::seconds(10));
  std::atomic<bool> stopping{false};
  const std::stop_callback on_stop(interrupt.token(), [&] {
    stopping = true;
    stopping.notify_all();
  });
  // Before the HTTP port, which tells of it in /metrics.
  std::unique_ptr<server::WireServer> binary;
  if (!args.binary_listen.empty()) {
    MSADB_ASSIGN_OR_RETURN(
        binary, StartBinaryPort(args, binary_listen, database, tokens.get(), &admission));
  }
  server::HttpServiceOptions service_options;
  service_options.hosts = args.hosts;
  service_options.call_time_max = call_time;
  service_options.log = LogOf(args);
  if (binary) service_options.wire_stats = [&] { return binary->stats(); };
  server::HttpService service(database, tokens.get(), &admission, std::move(service_options));
  server::HttpServerOptions http;
  http.address = listen.address;
  http.port = listen.port;
  http.tls_certificate = args.certificate;
  http.tls_key = args.key;
  http.connections_max = args.connections;

  MSADB_ASSIGN_OR_RETURN(const auto server, server::HttpServer::Start(&service, http));
  const std::string url = (args.certificate.empty() ? "http://" : "https://") +
                          HostAndPort(listen, server->port()) + "/";
  if (out.json()) {
    Json started = {{"listening", url}};
    if (binary) started["binary"] = HostAndPort(binary_listen, binary->port());
    if (!first_token.empty()) started["token"] = first_token;
    out.Value(started);
  } else {
    if (!first_token.empty()) {
      out.Text("The first token, which may do everything. It is shown this once:\n  " +
               first_token + "\nMore: msadb tokens add " + args.folder +
               " NAME COLLECTION:read|write|admin\n");
    }
    out.Text("Listening on " + url + "\n");
    if (binary) out.Text("Binary port " + HostAndPort(binary_listen, binary->port()) + "\n");
  }
  out.Finish();

  stopping.wait(false);
  server->StopAccepting();
  if (binary) binary->Shutdown(drain_time);
  admission.Drain(drain_time);
  server->Stop(std::chrono::seconds(5));
  return kExitOk;
}

Result<int> AddToken(const TokenArgs& args, Printer& out) {
  server::NewToken token{.name = args.name, .grants = {}};
  for (const std::string& grant : args.grants) {
    const size_t colon = grant.rfind(':');
    if (colon == std::string::npos) {
      return Status::InvalidArgument("'" + grant + "' is no grant; write COLLECTION:RIGHT, as " +
                                     "notes:read or '*:admin'");
    }
    MSADB_ASSIGN_OR_RETURN(token.grants[grant.substr(0, colon)],
                           server::RightFromName(std::string_view(grant).substr(colon + 1)));
  }
  MSADB_ASSIGN_OR_RETURN(const std::string text, server::TokenStore::Add(TokenPath(args), token));
  if (out.json()) {
    out.Value({{"name", args.name}, {"token", text}});
  } else {
    out.Text(text + "\n");
    out.Remark("Keep it: it cannot be shown again.");
  }
  return kExitOk;
}

Result<int> RevokeToken(const TokenArgs& args, Printer& out) {
  MSADB_RETURN_IF_ERROR(server::TokenStore::Revoke(TokenPath(args), args.name));
  if (out.json()) {
    out.Value({{"revoked", args.name}});
  } else {
    out.Text("Revoked " + args.name + ".\n");
  }
  return kExitOk;
}

Result<int> ListTokens(const TokenArgs& args, Printer& out) {
  MSADB_ASSIGN_OR_RETURN(const auto store, server::TokenStore::Open(TokenPath(args)));
  Json listed = Json::array();
  for (const server::TokenInfo& token : store->List()) {
    Json grants = Json::array();
    std::string line = token.name;
    for (const auto& [collection, right] : token.grants) {
      grants.push_back({{"collection", collection}, {"right", server::RightName(right)}});
      line += "  " + collection + ":" + server::RightName(right);
    }
    listed.push_back(
        {{"name", token.name}, {"created_at", token.created_at}, {"grants", std::move(grants)}});
    if (!out.json()) out.Text(line + "\n");
  }
  if (out.json()) out.Value({{"tokens", std::move(listed)}});
  return kExitOk;
}

void AddTokenFileOption(CLI::App* verb, TokenFileArgs* args) {
  verb->add_option("--tokens", args->tokens, "Token file; default tokens.json in DIR");
}

void AddTokensVerbs(CLI::App& app, Chosen* chosen) {
  CLI::App* group = app.add_subcommand("tokens", "Who may call the server");
  group->footer(
      "A token has a right for each collection it is given: read (get, list, search, ask), write\n"
      "(also insert and delete) or admin (also create and drop). \"*\" stands for every\n"
      "collection. The file keeps hashes only; a running server notices changes.\n\n"
      "Examples:\n"
      "  msadb tokens add notes agent work:write diary:read\n"
      "  msadb tokens add notes monitoring '*:read'\n"
      "  msadb tokens revoke notes agent");
  group->require_subcommand(1);

  auto add = std::make_shared<TokenArgs>();
  CLI::App* add_verb = AddVerb(*group, "add", "Make a token and print it", "", add.get());
  add_verb->add_option("NAME", add->name, "What logs call it")->required();
  add_verb->add_option("GRANT", add->grants, "COLLECTION:RIGHT")->required();
  AddTokenFileOption(add_verb, add.get());
  OnChosen(add_verb, chosen, add, AddToken);

  auto revoke = std::make_shared<TokenArgs>();
  CLI::App* revoke_verb = AddVerb(*group, "revoke", "End a token", "", revoke.get());
  revoke_verb->add_option("NAME", revoke->name, "Which one")->required();
  AddTokenFileOption(revoke_verb, revoke.get());
  OnChosen(revoke_verb, chosen, revoke, RevokeToken);

  auto list = std::make_shared<TokenArgs>();
  CLI::App* list_verb = AddVerb(*group, "list", "Names and rights", "", list.get());
  AddTokenFileOption(list_verb, list.get());
  OnChosen(list_verb, chosen, list, ListTokens);
}

}  // namespace

void AddServeVerbs(CLI::App& app, Chosen* chosen) {
  auto args = std::make_shared<ServeArgs>();
  CLI::App* verb = AddVerb(
      app, "serve", "Serve a database over HTTP",
      "REST with JSON, an API for OpenAI's clients, MCP, and a page for people at /. What can be\n"
      "called: GET /openapi.json, docs/server.md. The first start prints a token that may do\n"
      "everything; `msadb tokens` makes others. SIGTERM ends it after the calls under way.\n\n"
      "Examples:\n"
      "  msadb serve notes\n"
      "  msadb serve notes --listen 0.0.0.0:7700 --tls-cert cert.pem --tls-key key.pem \\\n"
      "      --allow-host memory.example.org",
      args.get());
  verb->add_option("--listen", args->listen, "Address and port; port 0: any")
      ->capture_default_str();
  verb->add_option("--binary-listen", args->binary_listen,
                   "Also serve the binary protocol there, for msadb::client");
  AddTokenFileOption(verb, args.get());
  verb->add_option("--tls-cert", args->certificate, "Certificate chain, PEM");
  verb->add_option("--tls-key", args->key, "Its private key, PEM");
  verb->add_option("--allow-host", args->hosts, "A name clients call it by; repeatable");
  verb->add_flag("--insecure", args->insecure, "Listen beyond this machine without TLS");
  verb->add_flag("--no-log", args->no_log, "No line on stderr for every request");
  verb->add_option("--model-workers", args->model_workers, "Questions and inserts at one time")
      ->capture_default_str()
      ->check(CLI::Range(1, 256));
  verb->add_option("--storage-workers", args->storage_workers, "Other calls at one time")
      ->capture_default_str()
      ->check(CLI::Range(1, 256));
  verb->add_option("--queue", args->queue, "Questions and inserts that wait, at most")
      ->capture_default_str()
      ->check(CLI::Range(1, 100'000));
  verb->add_option("--connections", args->connections, "Open connections at most")
      ->capture_default_str()
      ->check(CLI::Range(1, 100'000));
  verb->add_option("--call-time", args->call_time, "Of one call at most")->capture_default_str();
  verb->add_option("--drain-time", args->drain_time, "For calls under way when it ends")
      ->capture_default_str();
  OnChosen(verb, chosen, args, Serve);
  AddTokensVerbs(app, chosen);
}

}  // namespace msadb::cli
