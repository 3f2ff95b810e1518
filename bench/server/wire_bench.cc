// What a call costs embedded and over the binary port, on one machine.
//
//   wire_bench --model FOLDER [--server PORT --token TOKEN] [--connections 1,16,256] [--seconds 2]
//              [--verb get] [--documents 200] [--tiny]
//
// For each verb and each number of callers one line for each way in:
//
//   RESULT verb callers way requests/s p50_us p99_us
//
//   embedded  threads that call the database in this process
//   client    threads that call it through the client library, with a connection each
//   binary    connections without the client library, driven by events from at most two threads, as
//             wrk drives HTTP: what the port gives, next to what client and port give together
//
// The server is `msadb serve` at PORT of this machine, or one in this process. A caller calls again
// as soon as it has its answer; calls under way at the end are waited for. Get and search check
// what they got; an error ends the program. `ping` is the floor of a round trip: protocol and
// threads without any database. Insert is durable (fsync) everywhere. bench/server/run.py puts HTTP
// beside it.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <future>
#include <string>
#include <thread>
#include <vector>

#include "client/codec.h"
#include "client/frame.h"
#include "msadb/client.h"
#include "msadb/msadb.h"
#include "server/wire_server.h"

namespace msadb::bench {
namespace {

namespace fb = wire::fb;
using Clock = std::chrono::steady_clock;

[[noreturn]] void Fail(const std::string& what) {
  std::fprintf(stderr, "wire_bench: %s\n", what.c_str());
  std::exit(1);
}

template <typename T>
T Value(Result<T> result) {
  if (!result.ok()) Fail(result.status().ToString());
  return std::move(*result);
}

struct Settings {
  std::string model;
  uint16_t port = 0;  // of a server that runs; 0: one of our own
  std::string token;
  std::string verb;  // empty: all
  std::vector<int> callers = {1, 16, 256};
  double seconds = 2;
  int documents = 200;
};

// One caller's way to the memory.
struct Caller {
  std::shared_ptr<Database> database;
  std::shared_ptr<Collection> notes;
  std::shared_ptr<Collection> grows;  // takes the inserts, so that searches see the same memory
};

struct Measured {
  double per_second = 0;
  double p50_us = 0;
  double p99_us = 0;
};

// Runs `work(i, &times)` in `threads` threads at once. Each calls until `end` and adds what its
// calls took, in microseconds.
Measured Measure(
    size_t threads, double seconds,
    const std::function<void(size_t i, Clock::time_point end, std::vector<double>* times)>& work) {
  std::vector<std::vector<double>> times(threads);
  std::atomic<bool> go{false};
  Clock::time_point end;
  std::vector<std::thread> running;
  for (size_t i = 0; i < threads; ++i) {
    running.emplace_back([&, i] {
      go.wait(false);
      work(i, end, &times[i]);
    });
  }
  const auto begin = Clock::now();
  end = begin + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
  go = true;
  go.notify_all();
  for (std::thread& thread : running) thread.join();
  const double took = std::chrono::duration<double>(Clock::now() - begin).count();
  std::vector<double> all;
  for (const auto& some : times) all.insert(all.end(), some.begin(), some.end());
  std::sort(all.begin(), all.end());
  return {.per_second = static_cast<double>(all.size()) / took,
          .p50_us = all[all.size() / 2],
          .p99_us = all[all.size() * 99 / 100]};
}

double Microseconds(Clock::duration time) {
  return std::chrono::duration<double, std::micro>(time).count();
}

std::string Text(uint64_t i) {
  return "Document number " + std::to_string(i) + " says that the answer is " +
         std::to_string(i * 7 % 100) + ".";
}

// The calls that are measured, in both languages: of the library and of the wire.
struct Verb {
  const char* name;
  std::function<void(Caller& caller, uint64_t i)> call;
  std::function<std::vector<uint8_t>(wire::Builder& b, uint64_t i)> request;
  std::function<bool(const fb::Reply& reply, uint64_t i)> is_right;
};

std::vector<Verb> Verbs(uint64_t documents) {
  constexpr int kAnswerTokens = 8;
  std::vector<Verb> verbs;
  verbs.push_back(
      {"ping",
       [](Caller& caller, uint64_t) {
         std::promise<Status> done;
         client::AsyncDatabase::Of(caller.database)->Ping([&](const Status& status) {
           done.set_value(status);
         });
         const Status status = done.get_future().get();
         if (!status.ok()) Fail(status.ToString());
       },
       [](wire::Builder& b, uint64_t) { return wire::FinishRequest(&b, fb::CreatePing(b)); },
       [](const fb::Reply& reply, uint64_t) { return reply.body_as_Done() != nullptr; }});
  verbs.push_back({"get",
                   [documents](Caller& caller, uint64_t i) {
                     const auto got =
                         Value(caller.notes->GetByKey("k" + std::to_string(i % documents)));
                     if (got.text != Text(i % documents)) Fail("a get brought another text");
                   },
                   [documents](wire::Builder& b, uint64_t i) {
                     const auto name = wire::EncodeText(&b, "notes");
                     const auto key = wire::EncodeText(&b, "k" + std::to_string(i % documents));
                     return wire::FinishRequest(&b, fb::CreateGet(b, name, 0, 0, key));
                   },
                   [documents](const fb::Reply& reply, uint64_t i) {
                     const auto* got = reply.body_as_Documents();
                     return got != nullptr && got->documents() != nullptr &&
                            got->documents()->size() == 1 &&
                            got->documents()->Get(0)->text()->string_view() == Text(i % documents);
                   }});
  verbs.push_back(
      {"insert",
       [](Caller& caller, uint64_t i) {
         Value(caller.grows->Insert({.text = "Written meanwhile, number " + std::to_string(i)}));
       },
       [](wire::Builder& b, uint64_t i) {
         const auto name = wire::EncodeText(&b, "grows");
         NewDocument document;
         document.text = "Written meanwhile, number " + std::to_string(i);
         const auto offset = wire::Encode(&b, document);
         return wire::FinishRequest(&b, fb::CreatePut(b, name, 0, offset, false));
       },
       [](const fb::Reply& reply, uint64_t) { return reply.body_as_Number() != nullptr; }});
  verbs.push_back(
      {"search",
       [](Caller& caller, uint64_t i) {
         const auto hits = Value(caller.notes->Search("number " + std::to_string(i % 50)));
         if (hits.size() != 10) Fail("a search found less than ten documents");
       },
       [](wire::Builder& b, uint64_t i) {
         const auto name = wire::EncodeText(&b, "notes");
         const auto query = wire::EncodeText(&b, "number " + std::to_string(i % 50));
         return wire::FinishRequest(&b, fb::CreateSearch(b, name, 0, query));
       },
       [](const fb::Reply& reply, uint64_t) {
         const auto* hits = reply.body_as_Hits();
         return hits != nullptr && hits->hits() != nullptr && hits->hits()->size() == 10;
       }});
  verbs.push_back(
      {"ask",
       [](Caller& caller, uint64_t i) {
         AskOptions options;
         options.answer_tokens_max = kAnswerTokens;
         options.rounds_max = 1;
         Value(caller.notes->Ask("What is number " + std::to_string(i % 50) + "?", options));
       },
       [](wire::Builder& b, uint64_t i) {
         const auto name = wire::EncodeText(&b, "notes");
         const auto question =
             wire::EncodeText(&b, "What is number " + std::to_string(i % 50) + "?");
         return wire::FinishRequest(
             &b, fb::CreateAsk(b, name, 0, question, 0, false, false, 1, kAnswerTokens));
       },
       [](const fb::Reply& reply, uint64_t) { return reply.body_as_Answer() != nullptr; }});
  return verbs;
}

// ---- Connections without the client library

class Connection {
 public:
  Connection(uint16_t port, const std::string& token) {
    fd_ = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const int on = 1;
    ::setsockopt(fd_, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (::connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0) {
      Fail("cannot connect");
    }
    wire::Builder b;
    const auto token_offset = wire::EncodeText(&b, token);
    const auto preface = wire::Preface();
    Send(std::string(preface.begin(), preface.end()) +
         wire::EncodeFrame(0, true, wire::FinishRequest(&b, fb::CreateHello(b, token_offset))));
    wire::Frame welcome;
    while (!Receive(&welcome)) {
    }
    const auto reply = wire::VerifyReply(welcome.payload);
    if (!reply.ok() || (*reply)->body_as_Welcome() == nullptr) Fail("the server did not greet");
  }
  ~Connection() { ::close(fd_); }
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  int fd() const { return fd_; }

  void Begin(const Verb& verb, uint64_t i) {
    i_ = i;
    began_ = Clock::now();
    wire::Builder b(256);
    Send(wire::EncodeFrame(i + 1, true, verb.request(b, i)));
  }
  // Takes what has arrived. True: the call is over.
  bool Finish(const Verb& verb, std::vector<double>* times) {
    wire::Frame frame;
    if (!Receive(&frame)) return false;
    times->push_back(Microseconds(Clock::now() - began_));
    const auto reply = wire::VerifyReply(frame.payload);
    if (!reply.ok()) Fail(reply.status().ToString());
    if (const auto* error = (*reply)->body_as_Error()) Fail(wire::ReadError(*error).ToString());
    if (frame.request != i_ + 1 || !frame.last || !verb.is_right(**reply, i_)) {
      Fail(std::string(verb.name) + " was answered wrongly");
    }
    return true;
  }

 private:
  void Send(std::string_view bytes) {
    while (!bytes.empty()) {
      const ssize_t n = ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (n <= 0) Fail("the server closed a connection");
      bytes.remove_prefix(static_cast<size_t>(n));
    }
  }
  // One read, which waits if nothing is there. There is one call at a time, so one frame at most.
  bool Receive(wire::Frame* frame) {
    const ssize_t n = ::recv(fd_, buffer_.data(), buffer_.size(), 0);
    if (n <= 0) Fail("the server closed a connection");
    std::span<const uint8_t> bytes(buffer_.data(), static_cast<size_t>(n));
    const bool complete = Value(reader_.Next(&bytes, frame));
    if (!bytes.empty()) Fail("more than one reply to a call");
    return complete;
  }

  int fd_ = -1;
  wire::FrameReader reader_{64u << 20};
  std::vector<uint8_t> buffer_ = std::vector<uint8_t>(64u << 10);
  uint64_t i_ = 0;
  Clock::time_point began_;
};

// One thread's part of the connections, until `end`.
void Drive(std::span<const std::unique_ptr<Connection>> connections, const Verb& verb,
           Clock::time_point end, std::atomic<uint64_t>* next, std::vector<double>* times) {
  const int epoll = ::epoll_create1(EPOLL_CLOEXEC);
  for (size_t i = 0; i < connections.size(); ++i) {
    epoll_event event{.events = EPOLLIN, .data = {.u64 = i}};
    ::epoll_ctl(epoll, EPOLL_CTL_ADD, connections[i]->fd(), &event);
    connections[i]->Begin(verb, (*next)++);
  }
  size_t active = connections.size();
  epoll_event events[64];
  while (active > 0) {
    const int count = ::epoll_wait(epoll, events, std::size(events), -1);
    for (int k = 0; k < count; ++k) {
      Connection& connection = *connections[events[k].data.u64];
      if (!connection.Finish(verb, times)) continue;
      if (Clock::now() < end) {
        connection.Begin(verb, (*next)++);
      } else {
        --active;
      }
    }
  }
  ::close(epoll);
}

class Bench {
 public:
  explicit Bench(const Settings& settings)
      : settings_(settings), verbs_(Verbs(static_cast<uint64_t>(settings.documents))) {
    folder_ =
        (std::filesystem::temp_directory_path() / ("wire-bench-" + std::to_string(::getpid())))
            .string();
    Options options;
    options.model_path = settings.model;
    database_ = Value(Database::Open(folder_, options));
    Fill(*database_);
    port_ = settings.port;
    if (port_ != 0) {
      Fill(*Value(client::Connect({.port = port_, .token = settings.token})));
      return;
    }
    admission_ = std::make_unique<server::Admission>(
        server::AdmissionOptions{.queued_max = {4096, 4096}, .queued_per_collection_max = 4096});
    server::WireServerOptions server_options;
    server_options.insecure = true;
    server_ = Value(server::StartWireServer(
        server_options,
        {.database = database_, .admission = admission_.get(), .limits = options.limits}));
    port_ = server_->port();
  }
  ~Bench() {
    server_.reset();
    admission_.reset();
    database_.reset();
    std::error_code ignored;
    std::filesystem::remove_all(folder_, ignored);
  }

  void Run() {
    for (const int n : settings_.callers) {
      const auto callers = static_cast<size_t>(n);
      std::vector<Caller> remote;
      std::vector<std::unique_ptr<Connection>> connections;
      for (size_t i = 0; i < callers; ++i) {
        remote.push_back(Called(Value(client::Connect({.port = port_, .token = settings_.token}))));
        connections.push_back(std::make_unique<Connection>(port_, settings_.token));
      }
      for (const Verb& verb : verbs_) {
        if (!settings_.verb.empty() && settings_.verb != verb.name) continue;
        if (std::string_view(verb.name) != "ping") {
          RunLibrary("embedded", verb, {callers, Called(database_)});
        }
        RunLibrary("client", verb, remote);
        RunWire(verb, connections);
      }
    }
  }

 private:
  void Fill(Database& database) {
    auto notes = Value(database.GetOrCreateCollection("notes"));
    Value(database.GetOrCreateCollection("grows"));
    std::vector<NewDocument> documents;
    for (uint64_t i = 0; i < static_cast<uint64_t>(settings_.documents); ++i) {
      documents.push_back({.text = Text(i), .key = "k" + std::to_string(i)});
    }
    Value(notes->InsertMany(documents));
  }

  static Caller Called(const std::shared_ptr<Database>& database) {
    return {database, Value(database->OpenCollection("notes")),
            Value(database->OpenCollection("grows"))};
  }

  void RunLibrary(const char* way, const Verb& verb, std::vector<Caller> callers) {
    std::atomic<uint64_t> next{0};
    Print(way, verb, callers.size(),
          Measure(callers.size(), settings_.seconds,
                  [&](size_t i, Clock::time_point end, std::vector<double>* times) {
                    // At least one call each, however slow the verb is.
                    do {
                      const auto begin = Clock::now();
                      verb.call(callers[i], next++);
                      times->push_back(Microseconds(Clock::now() - begin));
                    } while (Clock::now() < end);
                  }));
  }

  void RunWire(const Verb& verb, const std::vector<std::unique_ptr<Connection>>& connections) {
    std::atomic<uint64_t> next{0};
    const std::span all(connections);
    const size_t threads = std::min<size_t>(2, all.size());
    Print("binary", verb, all.size(),
          Measure(threads, settings_.seconds,
                  [&](size_t i, Clock::time_point end, std::vector<double>* times) {
                    const size_t from = i * all.size() / threads;
                    const size_t to = (i + 1) * all.size() / threads;
                    Drive(all.subspan(from, to - from), verb, end, &next, times);
                  }));
  }

  static void Print(const char* way, const Verb& verb, size_t callers, const Measured& measured) {
    std::printf("RESULT %-8s %4zu %-8s %10.0f %10.1f %10.1f\n", verb.name, callers, way,
                measured.per_second, measured.p50_us, measured.p99_us);
    std::fflush(stdout);
  }

  const Settings settings_;
  const std::vector<Verb> verbs_;
  std::string folder_;
  uint16_t port_ = 0;
  std::shared_ptr<Database> database_;
  std::unique_ptr<server::Admission> admission_;
  std::unique_ptr<server::WireServer> server_;
};

}  // namespace
}  // namespace msadb::bench

int main(int count, char** arguments) {
  using namespace msadb::bench;
  Settings settings;
  for (int i = 1; i < count; ++i) {
    const std::string name = arguments[i];
    if (name == "--tiny") {
      settings.callers = {1, 4};
      settings.seconds = 0.05;
      settings.documents = 20;
    } else if (i + 1 < count && name == "--model") {
      settings.model = arguments[++i];
    } else if (i + 1 < count && name == "--server") {
      settings.port = static_cast<uint16_t>(std::atoi(arguments[++i]));
    } else if (i + 1 < count && name == "--token") {
      settings.token = arguments[++i];
    } else if (i + 1 < count && name == "--verb") {
      settings.verb = arguments[++i];
    } else if (i + 1 < count && name == "--seconds") {
      settings.seconds = std::atof(arguments[++i]);
    } else if (i + 1 < count && name == "--documents") {
      settings.documents = std::max(10, std::atoi(arguments[++i]));
    } else if (i + 1 < count && name == "--connections") {
      settings.callers.clear();
      const std::string list = arguments[++i];
      for (size_t at = 0; at < list.size(); at = list.find(',', at) + 1) {
        settings.callers.push_back(std::max(1, std::atoi(list.c_str() + at)));
        if (list.find(',', at) == std::string::npos) break;
      }
    } else {
      Fail("unknown argument " + name);
    }
  }
  if (settings.model.empty()) Fail("--model FOLDER is needed");
  Bench(settings).Run();
  return 0;
}
