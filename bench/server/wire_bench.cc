// What a call costs embedded and over the binary port, side by side, in one process on one machine.
//
//   wire_bench --model FOLDER [--connections 1,16,256] [--seconds 2] [--documents 200] [--tiny]
//
// For each verb and each number of callers: requests per second, and the median and the 99th
// percentile of a call in microseconds. A caller is a thread; over the binary port each has a
// connection of its own. Get and ask check what they got. `ping` is the floor of a round trip:
// protocol and threads without any database. Insert is durable (fsync) in both columns.
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

#include "msadb/client.h"
#include "msadb/msadb.h"
#include "server/wire_server.h"

namespace msadb::bench {
namespace {

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

Measured Measure(std::vector<Caller>& callers, double seconds,
                 const std::function<void(Caller&, uint64_t)>& call) {
  std::vector<std::vector<double>> times(callers.size());
  std::atomic<bool> go{false};
  std::atomic<uint64_t> next{0};
  Clock::time_point end;
  std::vector<std::thread> threads;
  for (size_t i = 0; i < callers.size(); ++i) {
    threads.emplace_back([&, i] {
      while (!go) std::this_thread::yield();
      // At least one call each, however slow the verb is.
      do {
        const auto begin = Clock::now();
        call(callers[i], next++);
        times[i].push_back(std::chrono::duration<double, std::micro>(Clock::now() - begin).count());
      } while (Clock::now() < end);
    });
  }
  const auto begin = Clock::now();
  end = begin + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
  go = true;
  for (std::thread& thread : threads) thread.join();
  const double took = std::chrono::duration<double>(Clock::now() - begin).count();
  std::vector<double> all;
  for (const auto& some : times) all.insert(all.end(), some.begin(), some.end());
  std::sort(all.begin(), all.end());
  return {static_cast<double>(all.size()) / took, all[all.size() / 2], all[all.size() * 99 / 100]};
}

class Bench {
 public:
  explicit Bench(const Settings& settings) : settings_(settings) {
    folder_ =
        (std::filesystem::temp_directory_path() / ("wire-bench-" + std::to_string(::getpid())))
            .string();
    Options options;
    options.model_path = settings.model;
    database_ = Value(Database::Open(folder_, options));
    notes_ = Value(database_->GetOrCreateCollection("notes"));
    grows_ = Value(database_->GetOrCreateCollection("grows"));
    std::vector<NewDocument> documents;
    for (int i = 0; i < settings.documents; ++i) {
      documents.push_back({.text = Text(i), .key = "k" + std::to_string(i)});
    }
    Value(notes_->InsertMany(documents));
    admission_ = std::make_unique<server::Admission>(
        server::AdmissionOptions{.queued_max = {4096, 4096}, .queued_per_collection_max = 4096});
    server::WireServerOptions server_options;
    server_options.insecure = true;
    server_ = Value(server::StartWireServer(
        server_options,
        {.database = database_, .admission = admission_.get(), .limits = options.limits}));
  }
  ~Bench() {
    server_.reset();
    admission_.reset();
    grows_.reset();
    notes_.reset();
    database_.reset();
    std::error_code ignored;
    std::filesystem::remove_all(folder_, ignored);
  }

  void Run() {
    std::printf("%d documents, %u hardware threads, %.1f s a cell\n", settings_.documents,
                std::thread::hardware_concurrency(), settings_.seconds);
    std::printf("%-8s %8s | %12s %10s %10s | %12s %10s %10s\n", "verb", "callers", "embedded/s",
                "p50 us", "p99 us", "binary/s", "p50 us", "p99 us");
    for (const int n : settings_.callers) {
      std::vector<Caller> embedded(static_cast<size_t>(n), Caller{database_, notes_, grows_});
      std::vector<Caller> remote;
      for (int i = 0; i < n; ++i) {
        auto database = Value(client::Connect({.port = server_->port()}));
        auto notes = Value(database->OpenCollection("notes"));
        auto grows = Value(database->OpenCollection("grows"));
        remote.push_back({std::move(database), std::move(notes), std::move(grows)});
      }
      Line("ping", n, nullptr, &remote, [](Caller& caller, uint64_t) {
        std::promise<Status> done;
        client::AsyncDatabase::Of(caller.database)->Ping([&](const Status& status) {
          done.set_value(status);
        });
        if (const Status status = done.get_future().get(); !status.ok()) Fail(status.ToString());
      });
      Line("get", n, &embedded, &remote, [this](Caller& caller, uint64_t i) {
        const int document = static_cast<int>(i % static_cast<uint64_t>(settings_.documents));
        const Document got = Value(caller.notes->GetByKey("k" + std::to_string(document)));
        if (got.text != Text(document)) Fail("a get brought another text");
      });
      Line("insert", n, &embedded, &remote, [](Caller& caller, uint64_t i) {
        Value(caller.grows->Insert({.text = "Written meanwhile, number " + std::to_string(i)}));
      });
      Line("search", n, &embedded, &remote, [](Caller& caller, uint64_t i) {
        const auto hits = Value(caller.notes->Search("number " + std::to_string(i % 50)));
        if (hits.size() != 10) Fail("a search found less than ten documents");
      });
      Line("ask", n, &embedded, &remote, [](Caller& caller, uint64_t i) {
        AskOptions options;
        options.answer_tokens_max = 8;
        options.rounds_max = 1;
        Value(caller.notes->Ask("What is number " + std::to_string(i % 50) + "?", options));
      });
    }
  }

 private:
  static std::string Text(int i) {
    return "Document number " + std::to_string(i) + " says that the answer is " +
           std::to_string(i * 7 % 100) + ".";
  }

  void Line(const char* verb, int n, std::vector<Caller>* embedded, std::vector<Caller>* remote,
            const std::function<void(Caller&, uint64_t)>& call) {
    std::printf("%-8s %8d |", verb, n);
    for (auto* callers : {embedded, remote}) {
      if (callers == nullptr) {
        std::printf(" %12s %10s %10s |", "-", "-", "-");
        continue;
      }
      const Measured measured = Measure(*callers, settings_.seconds, call);
      std::printf(" %12.0f %10.0f %10.0f%s", measured.per_second, measured.p50_us, measured.p99_us,
                  callers == embedded ? " |" : "\n");
      std::fflush(stdout);
    }
  }

  const Settings settings_;
  std::string folder_;
  std::shared_ptr<Database> database_;
  std::shared_ptr<Collection> notes_;
  std::shared_ptr<Collection> grows_;
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
