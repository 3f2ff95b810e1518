// What the database itself costs, next to the floors of the machine, in one run.
//
//   db_bench [--folder DIR] [--model FOLDER] [--documents 1000,10000,100000] [--layers 15]
//            [--dim 192] [--chunks 1] [--query-tokens 16] [--repeat 15] [--device auto]
//            [--routing-keys float] [--index-gib 16] [--tiny]
//
// insert: one document at a time with a real model (--model), median milliseconds
//   encode   tokenize, divide, run the model, round to stored precision
//   commit   conflict check, index room, storage commit with fsync, publish
//   fsync    the floor of a durable commit: appending the same bytes to a file and syncing it
// scale: synthetic documents of the given shape
//   load     InsertMany, documents per second, memory made up rather than encoded
//   open     Database::Open, milliseconds (the index is not loaded yet)
//   first    the first search: reads all routing keys from storage and builds the index
//   search   median of --repeat searches: --query-tokens tokens routed in every layer, top 10
//   read     the floor of a search on a CPU: reading the keys of all layers once as float32, all
//            cores; the time of more than 4 GiB is extrapolated from 4
//   get      one document by id, microseconds
//   disk, index   bytes per document; the index is in GPU memory when --device has one
//   tiers    megabytes of each tier after loading, and after opening again and the first search:
//            files (the whole folder), index (routing keys and document tables; 0: not loaded),
//            cache (K/V blocks in use, of its capacity; page-locked beside a GPU unless the system
//            refuses), and the host memory of the process as the kernel counts it: resident, and
//            the most since loading or opening began (page-locked memory may not be counted in
//            these)
//   open     opening and the first search together, for each GB of routing keys as stored
//   busy     of one document while another thread searches without a pause: insert and delete,
//            median and longest milliseconds, and the median of those searches
// Every search is checked to return ten documents with descending scores, every get its text.
//
// Disk, per document: 6 bytes for each of layers * dim * chunks values (routing key, K and V of 16
// bits) and about 300 for the text; while loading about 5% more (seen: 3.11 GB where 2.95 stayed).
// Host memory: below 1 GiB, the block cache, the read floor's 4 GiB, and without a GPU the index, 4
// bytes for each of those values. For example
//   db_bench --documents 195312 --chunks 8 --dim 1024 --layers 3 --query-tokens 64 --device cuda:0
// has 147,750 bytes a document: 29 GB of files, 9.6 GB of keys in GPU memory as float16,
// 4.8 as int8.
#include <fcntl.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <functional>
#include <latch>
#include <stop_token>
#include <string>
#include <thread>
#include <vector>

#include "bench/db/synthetic_model.h"
#include "db/collection_state.h"
#include "db/device.h"
#include "db/encoder.h"
#include "db/open.h"
#include "kernels/cuda_backend.h"
#include "msadb/msadb.h"

namespace msadb::bench {
namespace {

namespace fs = std::filesystem;

struct Settings {
  std::string folder;
  std::string model;
  std::vector<size_t> documents = {1000, 10'000, 100'000};
  SyntheticShape shape;
  std::string device = "auto";
  std::string routing_keys = "float";
  double index_gib = 16;
  int repeat = 15;
  bool tiny = false;
};

[[noreturn]] void Fail(const std::string& what) {
  std::fprintf(stderr, "db_bench: %s\n", what.c_str());
  std::exit(1);
}

void Check(const Status& status) {
  if (!status.ok()) Fail(status.ToString());
}

template <typename T>
T Value(Result<T> result) {
  if (!result.ok()) Fail(result.status().ToString());
  return std::move(result).value();
}

double Milliseconds(const std::function<void()>& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start)
      .count();
}

double Median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + values.size() / 2, values.end());
  return values[values.size() / 2];
}

std::string Text(size_t i, size_t words) {
  static const char* const kWords[] = {"the",   "spare", "key",   "lies", "under", "a",     "blue",
                                       "pot",   "near",  "north", "door", "of",    "old",   "house",
                                       "where", "anna",  "left",  "it",   "on",    "friday"};
  std::string text = "Note " + std::to_string(i) + ":";
  for (size_t w = 0; w < words; ++w) {
    text += std::string(" ") + kWords[(i * 7919 + w * 104729 + w * w * 31) % std::size(kWords)];
  }
  return text + ".";
}

// Appends `bytes` to a file and syncs it, as a log does.
double FsyncMilliseconds(const Settings& settings, size_t bytes, int repeat) {
  const std::string path = settings.folder + "/fsync";
  const int fd = open(path.c_str(), O_CREAT | O_WRONLY | O_TRUNC, 0600);
  if (fd < 0) Fail("cannot write " + path);
  const std::string data(bytes, 'x');
  std::vector<double> times;
  for (int i = 0; i < repeat; ++i) {
    times.push_back(Milliseconds([&] {
      if (write(fd, data.data(), data.size()) != static_cast<ssize_t>(data.size()) ||
          fdatasync(fd) != 0) {
        Fail("cannot write " + path);
      }
    }));
  }
  close(fd);
  fs::remove(path);
  return Median(times);
}

void BenchInsert(const Settings& settings) {
  Options options;
  options.model_path = settings.model;
  const db::ResolvedModel resolved = Value(db::ResolveModel(options, ""));
  storage::StoreOptions store_options = db::ToStoreOptions(options);
  store_options.fingerprint = resolved.model->fingerprint();
  auto store = Value(storage::Store::Open(settings.folder + "/insert", store_options));
  db::Engine engine(options, resolved.model, store);
  engine.cache = Value(db::MakeBlockCache(options, resolved.model->model(), store));
  db::CollectionState state(&engine, Value(store->CreateCollection("bench")), "bench");
  (void)Value(state.LoadedView());

  std::printf("insert, %s\n", resolved.model->description().c_str());
  std::printf("%8s %8s %10s %10s %10s %10s\n", "words", "tokens", "bytes", "encode ms", "commit ms",
              "fsync ms");
  for (const size_t words : {size_t{12}, size_t{50}, size_t{200}, size_t{800}}) {
    std::vector<double> encode_ms, commit_ms;
    size_t tokens = 0, bytes = 0;
    for (int i = 0; i < settings.repeat; ++i) {
      const NewDocument document{.text = Text(i, words)};
      std::vector<db::PendingDocument> encoded;
      encode_ms.push_back(Milliseconds([&] {
        const db::PlannedDocument planned = Value(db::PlanDocument(engine, document));
        const auto ids = Value(db::ReserveIds(engine, state.id(), {&planned, 1}));
        encoded = Value(db::EncodeDocuments(engine, {&planned, 1}, ids));
      }));
      db::CommitRequest request;
      request.puts.push_back({&encoded[0], db::PutMode::kInsert});
      commit_ms.push_back(Milliseconds([&] { (void)Value(state.Commit(request)); }));
      tokens = 0;
      for (const db::PendingPart& part : encoded[0].parts) tokens += part.record.token_count;
      bytes = encoded[0].bytes();
    }
    std::printf("%8zu %8zu %10zu %10.2f %10.2f %10.2f\n", words, tokens, bytes, Median(encode_ms),
                Median(commit_ms), FsyncMilliseconds(settings, bytes, settings.repeat));
  }
}

// Sums `bytes` of floats on all cores: what any exact search must read. Beyond kReadBytesMax, which
// no cache holds a part of worth mentioning, the time of so many is multiplied.
constexpr size_t kReadBytesMax = size_t{4} << 30;
double ReadMilliseconds(size_t bytes, int repeat) {
  const size_t bytes_read = std::min(bytes, kReadBytesMax);
  const std::vector<float> memory(bytes_read / sizeof(float) + 1, 1.0f);
  std::vector<double> times;
  volatile float sink = 0;
  for (int i = 0; i < repeat; ++i) {
    times.push_back(Milliseconds([&] {
      float sum = 0;
#pragma omp parallel for simd reduction(+ : sum)
      for (size_t j = 0; j < memory.size(); ++j) sum += memory[j];
      sink = sum;
    }));
  }
  (void)sink;
  return Median(times) * static_cast<double>(bytes) / static_cast<double>(bytes_read);
}

// Whether routing keys go to GPU memory; with "auto" only as long as they fit there.
bool IndexOnGpu(const std::string& device) {
  const db::DeviceChoice choice = Value(db::ParseDevice(device));
  return choice.automatic ? kernels::CudaDeviceCount() > 0 : !choice.gpus.empty();
}

// Bytes of a line of /proc/self/status, such as "VmRSS"; 0 without such a line.
uint64_t StatusBytes(const std::string& name) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with(name + ":")) return std::stoull(line.substr(name.size() + 1)) * 1024;
  }
  return 0;
}

// VmHWM begins again at what is resident now. Where the kernel refuses, it stays that of the whole
// process.
void ResetResidentPeak() { std::ofstream("/proc/self/clear_refs") << "5"; }

struct Tiers {
  DatabaseStats stats;
  uint64_t resident = 0;
  uint64_t resident_most = 0;
};

Tiers MeasureTiers(Database& db) {
  return {Value(db.Stats()), StatusBytes("VmRSS"), StatusBytes("VmHWM")};
}

void PrintTiers(const char* when, const Settings& settings, const Tiers& tiers) {
  const auto mb = [](uint64_t bytes) { return static_cast<double>(bytes) / 1e6; };
  std::printf(
      "%10s %s: files %.1f, index %.1f (%s), cache %.1f of %.1f, resident %.1f (most %.1f)\n",
      "tiers, MB,", when, mb(tiers.stats.disk_bytes), mb(tiers.stats.index_bytes),
      IndexOnGpu(settings.device) ? "GPU" : "host", mb(tiers.stats.block_cache_bytes),
      mb(tiers.stats.block_cache_capacity), mb(tiers.resident), mb(tiers.resident_most));
}

void CheckHits(const std::vector<SearchHit>& hits, size_t documents) {
  if (hits.size() != std::min<size_t>(10, documents)) Fail("a search returned too few documents");
  for (size_t i = 1; i < hits.size(); ++i) {
    if (hits[i].score > hits[i - 1].score) Fail("a search returned documents out of order");
  }
}

// Inserts and deletes one document at a time while another thread searches.
void BenchBusy(const Settings& settings, Collection& collection, size_t n_documents) {
  std::vector<double> search_ms, insert_ms, delete_ms;
  {
    std::latch searched(1);  // a memory can be written to sooner than the other thread starts
    std::jthread searching([&](const std::stop_token& stop) {
      do {
        std::vector<SearchHit> hits;
        search_ms.push_back(Milliseconds([&] { hits = Value(collection.Search("query")); }));
        CheckHits(hits, n_documents);
        if (search_ms.size() == 1) searched.count_down();
      } while (!stop.stop_requested());
    });
    searched.wait();
    for (int i = 0; i < 2 * settings.repeat; ++i) {
      DocumentId id = 0;
      insert_ms.push_back(
          Milliseconds([&] { id = Value(collection.Insert({.text = Text(i, 40)})); }));
      delete_ms.push_back(Milliseconds([&] { Check(collection.Delete(id)); }));
    }
  }
  const auto longest = [](const std::vector<double>& values) {
    return *std::max_element(values.begin(), values.end());
  };
  std::printf(
      "%10s insert %.2f (longest %.2f), delete %.2f (longest %.2f), search %.2f (longest %.2f)\n",
      "busy, ms:", Median(insert_ms), longest(insert_ms), Median(delete_ms), longest(delete_ms),
      Median(search_ms), longest(search_ms));
}

void BenchScale(const Settings& settings, size_t n_documents) {
  Options options;
  options.device = settings.device;
  options.routing_keys = settings.routing_keys == "int8" ? RoutingKeys::kInt8 : RoutingKeys::kFloat;
  options.index_bytes_max = static_cast<size_t>(settings.index_gib * (size_t{1} << 30));
  options.model = std::make_shared<db::LoadedModelImpl>(
      MakeSyntheticModel(settings.shape, /*wants_pinned_content=*/IndexOnGpu(settings.device)));
  options.encode_batch_tokens = 1000 * 64 * settings.shape.n_chunks;
  const std::string folder = settings.folder + "/scale-" + std::to_string(n_documents);
  double load_ms = 0;
  Tiers loaded;
  ResetResidentPeak();
  {
    auto db = Value(Database::Open(folder, options));
    auto collection = Value(db->CreateCollection("bench"));
    load_ms = Milliseconds([&] {
      std::vector<NewDocument> documents;
      for (size_t i = 0; i < n_documents; ++i) {
        documents.push_back({.text = Text(i, 40), .metadata = {{"i", static_cast<int64_t>(i)}}});
        if (documents.size() == 1000 || i + 1 == n_documents) {
          (void)Value(collection->InsertMany(documents));
          documents.clear();
        }
      }
    });
    loaded = MeasureTiers(*db);
  }
  ResetResidentPeak();
  std::shared_ptr<Database> db;
  const double open_ms = Milliseconds([&] { db = Value(Database::Open(folder, options)); });
  auto collection = Value(db->OpenCollection("bench"));
  const double first_ms = Milliseconds([&] { (void)Value(collection->Search("query")); });
  const Tiers reopened = MeasureTiers(*db);
  std::vector<double> search_ms, get_us;
  for (int i = 0; i < settings.repeat; ++i) {
    std::vector<SearchHit> hits;
    search_ms.push_back(Milliseconds([&] { hits = Value(collection->Search("query")); }));
    CheckHits(hits, n_documents);
    const size_t which = static_cast<size_t>(i) * 7919 % n_documents;
    Document document;
    get_us.push_back(1000 * Milliseconds([&] { document = Value(collection->Get(which + 1)); }));
    if (document.text != Text(which, 40)) Fail("a document came back with another text");
  }
  const size_t key_bytes = n_documents * settings.shape.n_chunks * settings.shape.n_layers *
                           settings.shape.dim * sizeof(float);
  std::printf("%10zu %10.0f %9.1f %9.1f %9.2f %9.2f %8.1f %9.0f %9.0f\n", n_documents,
              1000.0 * static_cast<double>(n_documents) / load_ms, open_ms, first_ms,
              Median(search_ms), ReadMilliseconds(key_bytes, settings.repeat), Median(get_us),
              static_cast<double>(reopened.stats.disk_bytes) / static_cast<double>(n_documents),
              static_cast<double>(reopened.stats.index_bytes) / static_cast<double>(n_documents));
  PrintTiers("loaded", settings, loaded);
  PrintTiers("opened again", settings, reopened);
  const double key_gb = static_cast<double>(Value(collection->Stats()).routing_bytes) / 1e9;
  std::printf("%10s %.2f s for %.3f GB of routing keys as stored: %.2f s per GB\n",
              "open:", (open_ms + first_ms) / 1e3, key_gb, (open_ms + first_ms) / 1e3 / key_gb);
  BenchBusy(settings, *collection, n_documents);
  std::fflush(stdout);
  collection.reset();
  db.reset();
  fs::remove_all(folder);
}

int Main(int argc, char** argv) {
  Settings settings;
  CLI::App app("What the database itself costs.");
  app.add_option("--folder", settings.folder, "where the databases are made; default: a temporary");
  app.add_option("--model", settings.model, "model folder for the insert part");
  app.add_option("--documents", settings.documents)->delimiter(',');
  app.add_option("--layers", settings.shape.n_layers);
  app.add_option("--dim", settings.shape.dim);
  app.add_option("--chunks", settings.shape.n_chunks);
  app.add_option("--query-tokens", settings.shape.query_tokens);
  app.add_option("--device", settings.device, "auto, cpu or cuda:N, for the index");
  app.add_option("--routing-keys", settings.routing_keys, "Options::routing_keys")
      ->check(CLI::IsMember({"float", "int8"}));
  app.add_option("--index-gib", settings.index_gib, "Options::index_bytes_max");
  app.add_option("--repeat", settings.repeat)->check(CLI::Range(1, 10'000));
  app.add_flag("--tiny", settings.tiny, "seconds, for ctest");
  CLI11_PARSE(app, argc, argv);
  if (settings.tiny) {
    settings.documents = {100, 1000};
    settings.shape = {.n_layers = 2, .dim = 32, .n_chunks = 2, .query_tokens = 4};
    settings.repeat = 3;
  }
  std::string pattern =
      (settings.folder.empty() ? fs::temp_directory_path() : fs::path(settings.folder)).string() +
      "/msadb-bench-XXXXXX";
  if (mkdtemp(pattern.data()) == nullptr) Fail("cannot make a folder like " + pattern);
  settings.folder = pattern;
  if (!settings.model.empty()) BenchInsert(settings);
  std::printf("scale, %zu layers of %zu, %u chunks a document, %zu query tokens\n",
              settings.shape.n_layers, settings.shape.dim, settings.shape.n_chunks,
              settings.shape.query_tokens);
  std::printf("%10s %10s %9s %9s %9s %9s %8s %9s %9s\n", "documents", "load/s", "open ms",
              "first ms", "search ms", "read ms", "get us", "disk B", "index B");
  for (const size_t documents : settings.documents) BenchScale(settings, documents);
  fs::remove_all(settings.folder);
  return 0;
}

}  // namespace
}  // namespace msadb::bench

int main(int argc, char** argv) { return msadb::bench::Main(argc, argv); }
