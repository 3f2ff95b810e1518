// What storage costs: commits, opening, reading routing keys in order, and the block cache.
//
//   storage_bench --folder /data/bench --documents 10000
//
// Content is random bytes in the shape of a model's memory; every read is checked. Figures are
// medians (and 99th percentiles) of single calls, or rates over a whole pass. The page cache is
// warm.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <random>
#include <string>
#include <vector>

#include "storage/block_cache.h"
#include "storage/store.h"

namespace {

using msadb::Result;
using msadb::Status;
using namespace msadb::storage;  // NOLINT: a program of its own
using Clock = std::chrono::steady_clock;

double Microseconds(Clock::time_point since) {
  return std::chrono::duration<double, std::micro>(Clock::now() - since).count();
}

void Check(const Status& status, const char* what) {
  if (status.ok()) return;
  std::fprintf(stderr, "%s: %s\n", what, status.ToString().c_str());
  std::exit(1);
}

template <typename T>
T Must(Result<T> result, const char* what) {
  Check(result.status(), what);
  return std::move(result).value();
}

void Expect(bool right, const char* what) {
  if (right) return;
  std::fprintf(stderr, "wrong answer: %s\n", what);
  std::exit(1);
}

void PrintLatency(const char* what, std::vector<double> us) {
  std::sort(us.begin(), us.end());
  std::printf("%-34s median %9.1f us   p99 %9.1f us   n %zu\n", what, us[us.size() / 2],
              us[us.size() * 99 / 100], us.size());
}

void PrintRate(const char* what, double us, double bytes, size_t count) {
  std::printf("%-34s %9.1f ms   %7.2f GB/s   %9.0f parts/s\n", what, us / 1e3, bytes / us / 1e3,
              static_cast<double>(count) / us * 1e6);
}

// The same bytes for all, so that making them costs nothing; the first eight are the number.
struct Content {
  TensorShape routing_shape, blocks_shape;
  std::string routing, blocks, text;
};

Content MakeContent(uint32_t layers, uint32_t chunks, uint32_t dim) {
  Content c;
  c.routing_shape = {DataType::kF16, layers, chunks, dim};
  c.blocks_shape = {DataType::kBF16, layers, chunks, dim};
  std::mt19937_64 rng(1);
  const auto fill = [&](std::string* bytes, size_t size) {
    bytes->resize(size);
    for (char& b : *bytes) b = static_cast<char>(rng());
  };
  fill(&c.routing, Must(RoutingBytes(c.routing_shape), "shape"));
  fill(&c.blocks, Must(BlocksBytes(c.blocks_shape), "shape"));
  c.text.resize(size_t{chunks} * 250);
  for (char& b : c.text) b = static_cast<char>('a' + rng() % 26);
  return c;
}

void Stamp(std::string* bytes, Number number) {
  std::copy_n(reinterpret_cast<const char*>(&number), sizeof(number), bytes->data());
}

bool Stamped(const std::byte* bytes, Number number) {
  return std::equal(bytes, bytes + sizeof(number), reinterpret_cast<const std::byte*>(&number));
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Storage benchmark");
  std::string folder;
  size_t documents = 2000, sync_commits = 200, cache_mib = 64;
  uint32_t layers = 15, chunks = 8, dim = 192;  // the default model's; MSA-4B: 18, 8, 1024
  bool tiny = false;
  app.add_option("--folder", folder, "where to put the database (default: a temporary folder)");
  app.add_option("--documents", documents, "documents in all")->check(CLI::Range(100, 100'000'000));
  app.add_option("--sync-commits", sync_commits, "of them, committed one by one and synced");
  app.add_option("--cache-mib", cache_mib, "budget of the block cache");
  app.add_option("--layers", layers)->check(CLI::Range(1, 1024));
  app.add_option("--chunks", chunks, "in each document")->check(CLI::Range(1, 4096));
  app.add_option("--dim", dim)->check(CLI::Range(4, 65536));
  app.add_flag("--tiny", tiny, "a few documents, to see that it runs");
  CLI11_PARSE(app, argc, argv);
  if (tiny) {
    documents = 200;
    sync_commits = 20;
    cache_mib = 2;
  }
  sync_commits = std::min(sync_commits, documents / 2);
  const bool temporary = folder.empty();
  if (temporary) {
    std::string pattern =
        (std::filesystem::temp_directory_path() / "storage_bench_XXXXXX").string();
    if (::mkdtemp(pattern.data()) == nullptr) {
      std::perror("mkdtemp");
      return 1;
    }
    folder = pattern;
  }
  folder += "/db";

  Content content = MakeContent(layers, chunks, dim);
  std::printf(
      "%zu documents of %u chunks, %u layers, dim %u: %zu KiB routing, %zu KiB blocks each\n",
      documents, chunks, layers, dim, content.routing.size() / 1024, content.blocks.size() / 1024);
  StoreOptions options;
  options.error_if_exists = true;
  CollectionId collection = 0;
  {
    const auto store = Must(Store::Open(folder, options), "create");
    collection = Must(store->CreateCollection("bench"), "collection");
    const auto put = [&](WriteSet& set, Number number) {
      Stamp(&content.routing, number);
      Stamp(&content.blocks, number);
      PartRecord record;
      record.first_number = number;
      record.text = content.text;
      record.chunk_count = chunks;
      Check(set.PutPart(collection, number, record,
                        {content.routing_shape, std::as_bytes(std::span(content.routing))},
                        {content.blocks_shape, std::as_bytes(std::span(content.blocks))}),
            "put");
    };
    std::vector<double> latencies;
    for (size_t i = 0; i < sync_commits; ++i) {
      const auto begin = Clock::now();
      WriteSet set = store->NewWriteSet();
      put(set, Must(store->ReserveNumbers(collection, 1), "reserve"));
      Check(store->Commit(std::move(set)), "commit");
      latencies.push_back(Microseconds(begin));
    }
    PrintLatency("commit of one document, synced", latencies);
    constexpr size_t kBatch = 64;
    const auto begin = Clock::now();
    for (size_t done = sync_commits; done < documents;) {
      const size_t count = std::min(kBatch, documents - done);
      const Number first = Must(store->ReserveNumbers(collection, count), "reserve");
      WriteSet set = store->NewWriteSet();
      for (Number n = first; n < first + count; ++n) put(set, n);
      Check(store->Commit(std::move(set)), "commit");
      done += count;
    }
    const size_t loaded = documents - sync_commits;
    PrintRate("bulk load, 64 a commit", Microseconds(begin),
              static_cast<double>(loaded) *
                  static_cast<double>(content.routing.size() + content.blocks.size()),
              loaded);
  }

  options.error_if_exists = false;
  auto begin = Clock::now();
  auto store = Must(Store::Open(folder, options), "open");
  std::printf("%-34s %9.1f ms\n", "open, with a log to replay", Microseconds(begin) / 1e3);
  store.reset();
  begin = Clock::now();
  store = Must(Store::Open(folder, options), "open");
  std::printf("%-34s %9.1f ms\n", "open, with none", Microseconds(begin) / 1e3);

  size_t seen = 0;
  begin = Clock::now();
  Check(store->ScanRouting(collection, 1, UINT64_MAX,
                           [&](Number number, const TensorView& tensor) {
                             Expect(Stamped(tensor.bytes.data(), number), "routing");
                             ++seen;
                             return true;
                           }),
        "scan");
  PrintRate("all routing keys, in order", Microseconds(begin),
            static_cast<double>(seen) * static_cast<double>(content.routing.size()), seen);
  Expect(seen == documents, "documents in a scan");

  BlockCacheOptions cache_options;
  cache_options.bytes = cache_mib << 20;
  cache_options.shape = content.blocks_shape;
  const auto cache = Must(BlockCache::Create(store, cache_options), "cache");
  std::mt19937_64 rng(2);
  std::vector<double> hits, misses;
  const size_t hot = std::max<size_t>(1, (cache_mib << 20) / content.blocks.size() / 4);
  uint64_t reader = 0;
  for (size_t i = 0; i < std::max<size_t>(2000, documents); ++i) {
    // Four in five questions are about the hot documents, which fill a quarter of the cache.
    const Number number =
        1 + (rng() % 5 != 0 ? rng() % std::min(hot, documents) : rng() % documents);
    const uint64_t missed = cache->Stats().misses;
    const auto start = Clock::now();
    const BlockHandle handle = Must(cache->Get(collection, number, nullptr, ++reader), "get");
    const double us = Microseconds(start);
    Expect(Stamped(handle.slot(0), number), "blocks");
    (cache->Stats().misses == missed ? hits : misses).push_back(us);
  }
  const BlockCacheStats cache_stats = cache->Stats();
  if (!hits.empty()) PrintLatency("block cache hit", hits);
  if (!misses.empty()) PrintLatency("block cache miss (read, checked)", misses);
  std::printf("%-34s %9.1f %%\n", "block cache hit rate",
              100.0 * static_cast<double>(cache_stats.hits) /
                  static_cast<double>(cache_stats.hits + cache_stats.misses));

  begin = Clock::now();
  const StoreVerifyReport report = Must(store->Verify(), "verify");
  const double verify_us = Microseconds(begin);
  Expect(report.ok() && report.parts_checked == documents, "verify");
  PrintRate("verify, every byte twice", verify_us, static_cast<double>(report.bytes_checked),
            documents);
  const StoreStats stats = Must(store->Stats(), "stats");
  std::printf("%-34s %9.0f bytes/document on disk, %.0f of them content\n", "size",
              static_cast<double>(stats.disk_bytes) / static_cast<double>(documents),
              static_cast<double>(content.routing.size() + content.blocks.size()));
  if (temporary) {
    std::error_code ignored;
    std::filesystem::remove_all(std::filesystem::path(folder).parent_path(), ignored);
  }
  return 0;
}
