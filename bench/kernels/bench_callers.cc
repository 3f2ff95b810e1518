// What callers that ask at once gain from sharing passes (model/scheduler.h).
//
//   bench_callers FOLDER [--threads N] [--answer-tokens N] [--repeat N]
//
// Callers ask a question each over the same 24 documents. Printed for 1, 2, 4 and 8 of them:
// answers per second when they take turns, a whole answer each, and when they share passes; medians
// over `repeat` pairs of runs, one of each, so that both see the same machine. The gain is the
// median of the pairs' (lowest to highest); for one caller both ways are the same, so that line
// shows the noise. Every answer is compared with the one its question gets alone.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "model/model.h"
#include "tests/model/vector_bank.h"

namespace msadb::model {
namespace {

constexpr size_t kCallersMax = 8;
const char* const kNames[kCallersMax] = {"Mara",  "Otis", "Ivo",  "Lena",
                                         "Pavel", "Nora", "Hugo", "Edith"};
const char* const kThings[] = {"spare key", "violin", "map of the coast"};
const char* const kPlaces[] = {"cellar", "chapel", "blue flowerpot", "orchard", "old mill"};

[[noreturn]] void Fail(const std::string& message) {
  std::fprintf(stderr, "bench_callers: %s\n", message.c_str());
  std::exit(1);
}

VectorBank MakeBank(Model& model) {
  VectorBank bank(model.kv_dim());
  DocumentNumber number = 0;
  for (const char* name : kNames) {
    for (const char* thing : kThings) {
      const std::string text = std::string(name) + " keeps the " + thing + " in the " +
                               kPlaces[number % std::size(kPlaces)] + ".";
      const DocumentInput input{++number, text};
      auto encoded = model.EncodeDocuments({&input, 1});
      if (!encoded.ok()) Fail(encoded.status().ToString());
      bank.Add(number, std::move((*encoded)[0]), text);
    }
  }
  return bank;
}

std::string Ask(Model& model, const VectorBank& bank, size_t caller, int answer_tokens) {
  VectorBank own = bank;  // it notes its calls
  const std::string question = std::string("Where does ") + kNames[caller] + " keep the spare key?";
  const auto answer =
      model.Answer(question, own, {.rounds_max = 2, .answer_tokens_max = answer_tokens});
  if (!answer.ok()) Fail(answer.status().ToString());
  return answer->text;
}

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

int Main(int argc, char** argv) {
  std::string folder;
  int threads = 0, answer_tokens = 32, repeat = 5;
  for (int i = 1; i < argc; ++i) {
    const std::string arg = argv[i];
    if (arg == "--threads" && i + 1 < argc) {
      threads = std::atoi(argv[++i]);
    } else if (arg == "--answer-tokens" && i + 1 < argc) {
      answer_tokens = std::max(std::atoi(argv[++i]), 1);
    } else if (arg == "--repeat" && i + 1 < argc) {
      repeat = std::max(std::atoi(argv[++i]), 1);
    } else if (folder.empty() && !arg.starts_with("-")) {
      folder = arg;
    } else {
      Fail("unknown argument " + arg);
    }
  }
  if (folder.empty()) Fail("usage: bench_callers FOLDER [--threads N] ... (see the source)");
  auto loaded = Model::Load(folder, {.threads = threads});
  if (!loaded.ok()) Fail(loaded.status().ToString());
  Model& model = **loaded;
  const VectorBank bank = MakeBank(model);
  std::vector<std::string> expected;
  for (size_t i = 0; i < kCallersMax; ++i) {
    expected.push_back(Ask(model, bank, i, answer_tokens));
  }
  std::printf("%s\n", model.description().c_str());
  std::printf("callers   taking turns   sharing passes   gain        (answers/s)\n");
  for (size_t callers = 1; callers <= kCallersMax; callers *= 2) {
    std::vector<double> rates[2];
    for (int run = 0; run < 2 * repeat; ++run) {
      const bool share = run % 2 == 1;
      std::mutex turn;
      const auto start = std::chrono::steady_clock::now();
      {
        std::vector<std::jthread> all;
        for (size_t i = 0; i < callers; ++i) {
          all.emplace_back([&, i] {
            std::unique_lock lock(turn, std::defer_lock);
            if (!share) lock.lock();
            if (Ask(model, bank, i, answer_tokens) != expected[i]) {
              Fail("question " + std::to_string(i) + " was answered differently");
            }
          });
        }
      }
      const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
      rates[share].push_back(static_cast<double>(callers) / took.count());
    }
    std::vector<double> gains;
    for (size_t i = 0; i < rates[0].size(); ++i) gains.push_back(rates[1][i] / rates[0][i]);
    std::sort(gains.begin(), gains.end());
    std::printf("%7zu %14.2f %16.2f   x%.2f (%.2f to %.2f)\n", callers, Median(rates[0]),
                Median(rates[1]), Median(gains), gains.front(), gains.back());
  }
  return 0;
}

}  // namespace
}  // namespace msadb::model

int main(int argc, char** argv) { return msadb::model::Main(argc, argv); }
