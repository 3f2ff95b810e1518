// Routing one layer of a growing memory on GPUs, beside its floor and FAISS, on the same data in
// one run; the rate at which keys go into GPU memory; one GPU beside several.
//
//   gpu_search_bench [--rows 195312,390625,781250,1562500] [--devices 0] [--devices 0,1] ...
//                    [--dim 1024] [--chunks 8] [--layers 1] [--no-faiss] [--int8]
//
// Columns, median milliseconds: read = a kernel that only reads the keys of the layer once; search
// = Snapshot::Search, exact top 16 documents, wall clock, queries and answer in host memory; faiss
// = its brute-force search (bfKnn) of the same memory for the 16 best rows of each token: no
// documents, no maximum over tokens, no proof. With more than one --devices the answers of all must
// be equal. With --layers, "question" is one search of every layer, one after the other, as a
// question makes. --int8: keys of KeyType::kInt8, which FAISS does not read. Skips without a GPU.
#include <cuda_runtime.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "index/device_faiss.h"
#include "index/device_rows.h"
#include "index/routing_index.h"
#include "kernels/route_topk_exact.h"

namespace msadb::index {
namespace {

constexpr size_t kTopK = 16;
constexpr size_t kBatchFloats = size_t{40'000} * 1024;

__global__ void ReadOnce(const uint4* data, size_t n, uint32_t* sink) {
  uint32_t sum = 0;
  const size_t step = static_cast<size_t>(gridDim.x) * blockDim.x;
  for (size_t i = static_cast<size_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < n; i += step) {
    const uint4 v = __ldcs(data + i);
    sum ^= v.x ^ v.y ^ v.z ^ v.w;
  }
  if (sum == 0x12345678) *sink = sum;
}

void Check(cudaError_t error) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "CUDA: %s\n", cudaGetErrorString(error));
  std::exit(2);
}

template <typename T>
T Must(Result<T> result) {
  if (result.ok()) return std::move(result).value();
  std::fprintf(stderr, "%s\n", result.status().ToString().c_str());
  std::exit(2);
}

double Seconds(const std::function<void()>& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

double MedianMs(int repeat, const std::function<void()>& work) {
  work();
  work();
  std::vector<double> times;
  for (int i = 0; i < repeat; ++i) times.push_back(Seconds(work) * 1e3);
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

// Rows are windows of one pool of random numbers of variance 1/dim: different rows are independent
// unless their windows meet, and making 6 GB takes no time.
class Data {
 public:
  explicit Data(size_t dim) : dim_(dim), pool_(size_t{1} << 24) {
    std::mt19937_64 rng(7);
    std::uniform_real_distribution<float> uniform(-1, 1);
    const float scale = std::sqrt(3.0f / static_cast<float>(dim));
    for (float& v : pool_) v = uniform(rng) * scale;
  }
  void Rows(size_t first, size_t n, float* out) const {
    std::vector<std::jthread> threads;
    const size_t n_threads = 8;
    for (size_t t = 0; t < n_threads; ++t) {
      threads.emplace_back([=, this] {
        for (size_t i = n * t / n_threads; i < n * (t + 1) / n_threads; ++i) {
          uint64_t h = (first + i + 1) * 0x9E3779B97F4A7C15ull;
          h ^= h >> 31;
          h *= 0xBF58476D1CE4E5B9ull;
          h ^= h >> 29;
          std::memcpy(out + i * dim_, pool_.data() + h % (pool_.size() - dim_),
                      dim_ * sizeof(float));
        }
      });
    }
  }

 private:
  size_t dim_;
  std::vector<float> pool_;
};

struct Settings {
  size_t dim = 1024;
  uint32_t chunks = 8;
  int layers = 1;
  std::vector<size_t> rows = {195'312, 390'624, 781'248, 1'562'496};
  std::vector<std::vector<int>> devices;
  KeyType key_type = KeyType::kFloat;
  bool faiss = true;
};

int Run(const Settings& s) {
  const Data data(s.dim);
  const size_t n_layers = static_cast<size_t>(s.layers);
  const size_t batch_rows = kBatchFloats / s.dim / n_layers / s.chunks * s.chunks;
  std::vector<float> batch(batch_rows * n_layers * s.dim);
  std::vector<std::unique_ptr<RoutingIndex>> indexes;
  std::vector<double> fill_seconds(s.devices.size());
  for (const std::vector<int>& devices : s.devices) {
    IndexConfig config;
    config.n_layers = s.layers;
    config.dim = s.dim;
    config.key_type = s.key_type;
    config.devices = devices;
    config.segment_rows_min = 65'536;
    config.segment_rows_max = size_t{1} << 22;
    indexes.push_back(Must(RoutingIndex::Create(config)));
  }
  // Without the scales of int8 rows, 4 bytes each.
  const size_t row_bytes = internal::DeviceRows::PaddedDim(s.dim, s.key_type) *
                           (s.key_type == KeyType::kInt8 ? sizeof(int8_t) : sizeof(uint16_t));
  const bool faiss = s.faiss && s.key_type == KeyType::kFloat && internal::CheckDeviceFaiss().ok();
  const size_t rows_max = s.rows.back();
  internal::DeviceRows plain(s.devices[0][0], 1, s.dim, s.key_type,
                             static_cast<uint32_t>(rows_max));
  Check(cudaSetDevice(s.devices[0][0]));
  uint32_t* sink;
  Check(cudaMalloc(&sink, 4));
  cudaDeviceProp properties;
  Check(cudaGetDeviceProperties(&properties, s.devices[0][0]));
  std::printf("%s; dim %zu %s, %u chunks a document, top %zu\n", properties.name, s.dim,
              s.key_type == KeyType::kInt8 ? "int8" : "float16", s.chunks, kTopK);

  bool same = true;
  size_t filled = 0;
  for (const size_t n_rows : s.rows) {
    const size_t before = filled;
    std::fill(fill_seconds.begin(), fill_seconds.end(), 0.0);
    while (filled < n_rows) {
      const size_t n = std::min(batch_rows, n_rows - filled);
      data.Rows(filled * n_layers, n * n_layers, batch.data());
      std::vector<DocumentKeys> documents;
      for (size_t row = 0; row < n; row += s.chunks) {
        documents.push_back({(filled + row) / s.chunks + 1,
                             static_cast<uint32_t>(std::min<size_t>(s.chunks, n - row)),
                             batch.data() + row * n_layers * s.dim});
      }
      for (size_t i = 0; i < indexes.size(); ++i) {
        fill_seconds[i] += Seconds([&] { Must(indexes[i]->Prepare(documents, {})).Publish(); });
      }
      const float* layer = batch.data();
      // With several layers it holds the first rows of the batch: the same number, other ones.
      plain.Append(static_cast<uint32_t>(filled), static_cast<uint32_t>(n), {&layer, 1});
      filled += n;
    }
    const uint32_t table[] = {0, 0};
    plain.Flush(table, 0, 1);
    const double gigabytes = static_cast<double>(n_rows * row_bytes) / 1e9;
    const double read = MedianMs(30, [&] {
      ReadOnce<<<132 * 8, 512>>>(static_cast<const uint4*>(plain.keys(0)),
                                 n_rows * row_bytes / sizeof(uint4), sink);
      Check(cudaDeviceSynchronize());
    });
    std::printf("\n%zu chunks, %.2f GB; read %.3f ms (%.0f GB/s)", n_rows, gigabytes, read,
                gigabytes / read * 1e3);
    for (size_t i = 0; i < indexes.size(); ++i) {
      std::printf(
          "; filled %zu GPU(s) at %.2f GB/s, %zu segments", s.devices[i].size(),
          static_cast<double>((n_rows - before) * n_layers * row_bytes) / 1e9 / fill_seconds[i],
          indexes[i]->Stats().segments);
    }
    size_t free = 0, total = 0;
    Check(cudaMemGetInfo(&free, &total));
    std::printf(
        "\nof index 1: %.2f GB of keys and tables; GPU memory in use, all of it: %.2f GB\n%8s",
        static_cast<double>(indexes[0]->Stats().bytes_used) / 1e9,
        static_cast<double>(total - free) / 1e9, "tokens");
    for (const auto& devices : s.devices) {
      std::printf(" %8s%zu", "search x", devices.size());
      if (s.layers > 1) std::printf(" %10s", "question");
    }
    std::printf(" %10s\n", "faiss");
    for (const size_t n_tokens : {1, 16, 64, 256}) {
      std::vector<float> queries(n_tokens * s.dim);
      data.Rows(size_t{1} << 40, n_tokens, queries.data());
      std::printf("%8zu", n_tokens);
      std::vector<RoutedDocument> first;
      for (size_t i = 0; i < indexes.size(); ++i) {
        const Snapshot snapshot = indexes[i]->TakeSnapshot();
        std::vector<RoutedDocument> found;
        std::printf(" %9.3f", MedianMs(30, [&] {
                      found = Must(snapshot.Search(0, queries.data(), n_tokens, kTopK));
                    }));
        if (s.layers > 1) {
          std::printf(" %10.3f", MedianMs(15, [&] {
                        for (int layer = 0; layer < s.layers; ++layer) {
                          Must(snapshot.Search(layer, queries.data(), n_tokens, kTopK));
                        }
                      }));
        }
        if (i == 0) first = found;
        same = same && found.size() == kTopK && found == first;
      }
      if (faiss) {
        float* device_queries;
        void* packed;
        Check(cudaMalloc(&device_queries, queries.size() * sizeof(float)));
        Check(cudaMalloc(&packed, queries.size() * 2));
        Check(cudaMemcpy(device_queries, queries.data(), queries.size() * sizeof(float),
                         cudaMemcpyHostToDevice));
        Check(static_cast<cudaError_t>(
            kernels::PackRouteQueriesCuda(kernels::RouteKeyType::kFloat16, device_queries, n_tokens,
                                          static_cast<int>(s.dim), 1.0f, packed, n_tokens, nullptr)));
        Check(cudaDeviceSynchronize());
        std::vector<float> scores(n_tokens * kTopK);
        std::vector<int64_t> rows(n_tokens * kTopK);
        std::printf(" %10.3f", MedianMs(10, [&] {
                      internal::DeviceFaissSearch(s.devices[0][0], plain.keys(0), n_rows, s.dim,
                                                  packed, n_tokens, kTopK, scores.data(),
                                                  rows.data());
                    }));
        // FAISS's best row belongs to our best document, where it has our layer.
        const auto best = std::max_element(scores.begin(), scores.end()) - scores.begin();
        const DocumentNumber number = static_cast<DocumentNumber>(rows[best]) / s.chunks + 1;
        same = same && (s.layers > 1 || number == first[0].number ||
                        std::abs(scores[best] - first[0].score) < 1e-3f);
        Check(cudaFree(device_queries));
        Check(cudaFree(packed));
      }
      std::printf("\n");
      std::fflush(stdout);
    }
  }
  std::printf("\nanswers: %s\n", same ? "equal" : "DIFFER");
  return same ? 0 : 1;
}

template <typename T>
std::vector<T> List(const char* text) {
  std::vector<T> values;
  for (char* end = nullptr; *text != 0; text = *end == ',' ? end + 1 : end) {
    values.push_back(static_cast<T>(std::strtoull(text, &end, 10)));
  }
  return values;
}

}  // namespace
}  // namespace msadb::index

int main(int argc, char** argv) {
  msadb::index::Settings settings;
  for (int i = 1; i < argc; ++i) {
    const std::string option = argv[i];
    if (option == "--no-faiss") {
      settings.faiss = false;
    } else if (option == "--int8") {
      settings.key_type = msadb::index::KeyType::kInt8;
    } else if (i + 1 < argc && option == "--devices") {
      settings.devices.push_back(msadb::index::List<int>(argv[++i]));
    } else if (i + 1 < argc && option == "--rows") {
      settings.rows = msadb::index::List<size_t>(argv[++i]);
    } else if (i + 1 < argc && option == "--dim") {
      settings.dim = std::strtoull(argv[++i], nullptr, 10);
    } else if (i + 1 < argc && option == "--layers") {
      settings.layers = std::atoi(argv[++i]);
    } else if (i + 1 < argc && option == "--chunks") {
      settings.chunks = static_cast<uint32_t>(std::strtoul(argv[++i], nullptr, 10));
    } else {
      std::fprintf(stderr, "unknown option %s; see the head of the source file\n", argv[i]);
      return 2;
    }
  }
  if (settings.devices.empty()) settings.devices = {{0}};
  int n_devices = 0;
  if (cudaGetDeviceCount(&n_devices) != cudaSuccess || n_devices == 0) {
    std::printf("skipped: no GPU\n");
    return 0;
  }
  return msadb::index::Run(settings);
}
