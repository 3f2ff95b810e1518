// Checks the routing kernels against plain loops on random inputs, then times one layer of a
// 100M-token memory beside its floor: reading the keys once, measured by a read-only kernel and by
// a device-to-device copy in the same run.
//
//   route_topk_bench [--tiny | --sanitize]
//
// --tiny times a small memory; --sanitize only checks, a few small shapes, for compute-sanitizer.
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "kernels/route_topk_exact.h"
#include "tests/kernels/cuda/route_check.h"

namespace {

using namespace msadb::kernels;

#define CHECK_CUDA(call)                                                                        \
  do {                                                                                          \
    const cudaError_t check_error = static_cast<cudaError_t>(call);                             \
    if (check_error != cudaSuccess) {                                                           \
      std::fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, cudaGetErrorString(check_error)); \
      std::exit(1);                                                                             \
    }                                                                                           \
  } while (0)

template <typename T>
T* DeviceCopy(const std::vector<T>& host) {
  T* device = nullptr;
  CHECK_CUDA(cudaMalloc(&device, std::max<size_t>(1, host.size()) * sizeof(T)));
  CHECK_CUDA(cudaMemcpy(device, host.data(), host.size() * sizeof(T), cudaMemcpyHostToDevice));
  return device;
}

__global__ void FillRandom(__half* out, size_t n, uint32_t seed, float scale) {
  for (size_t i = blockIdx.x * size_t{blockDim.x} + threadIdx.x; i < n;
       i += size_t{gridDim.x} * blockDim.x) {
    uint64_t x = (i + 1) * 0x9E3779B97F4A7C15ull + seed * 0xD1B54A32D192ED03ull;
    x ^= x >> 32;
    x *= 0xD6E8FEB86659FD93ull;
    x ^= x >> 32;
    x *= 0xD6E8FEB86659FD93ull;
    x ^= x >> 32;
    out[i] = __float2half((static_cast<float>(x & 0xFFFFFF) / 0x1000000 - 0.5f) * scale);
  }
}

__global__ void FillBytes(uint32_t* out, size_t n) {
  for (size_t i = blockIdx.x * size_t{blockDim.x} + threadIdx.x; i < n;
       i += size_t{gridDim.x} * blockDim.x) {
    uint64_t x = (i + 1) * 0x9E3779B97F4A7C15ull;
    x ^= x >> 29;
    x *= 0xD6E8FEB86659FD93ull;
    out[i] = static_cast<uint32_t>(x >> 32);
  }
}

__global__ void ReadOnce(const uint4* in, size_t n, uint32_t* sink) {
  uint32_t sum = 0;
  const size_t step = size_t{gridDim.x} * blockDim.x;
  size_t i = blockIdx.x * size_t{blockDim.x} + threadIdx.x;
  for (; i + 7 * step < n; i += 8 * step) {
    uint4 v[8];
#pragma unroll
    for (int u = 0; u < 8; ++u) v[u] = __ldcs(in + i + u * step);
#pragma unroll
    for (int u = 0; u < 8; ++u) sum ^= v[u].x ^ v[u].y ^ v[u].z ^ v[u].w;
  }
  for (; i < n; i += step) sum ^= in[i].x;
  if (sum == 0x12345678) *sink = sum;
}

template <typename F>
float MedianMilliseconds(int repeats, F&& f) {
  std::vector<float> times;
  cudaEvent_t start, stop;
  CHECK_CUDA(cudaEventCreate(&start));
  CHECK_CUDA(cudaEventCreate(&stop));
  for (int i = 0; i < repeats + 3; ++i) {
    CHECK_CUDA(cudaEventRecord(start));
    f();
    CHECK_CUDA(cudaEventRecord(stop));
    CHECK_CUDA(cudaEventSynchronize(stop));
    float ms;
    CHECK_CUDA(cudaEventElapsedTime(&ms, start, stop));
    if (i >= 3) times.push_back(ms);
  }
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

// One layer of a memory: its rows in segments, and everything a search needs.
class Memory {
 public:
  static constexpr int kDim = 1024;
  static constexpr int kTopK = 16;
  static constexpr size_t kChunksPerDocument = 8;
  static constexpr uint32_t kRowsMax = 4096;

  // `keys` [documents * kChunksPerDocument, kDim] of the type.
  Memory(RouteKeyType type, const void* keys, const float* scales, size_t documents,
         size_t n_segments)
      : type_(type) {
    const size_t row_bytes = kDim * (type == RouteKeyType::kInt8 ? 1 : 2);
    std::vector<uint32_t> begin;
    for (size_t d = 0; d <= documents; ++d) {
      begin.push_back(static_cast<uint32_t>(d * kChunksPerDocument));
    }
    document_begin_ = DeviceCopy(begin);
    for (size_t s = 0, first = 0; s < n_segments; ++s) {
      // Each twice as large as the next, as an index's become.
      const size_t end = s + 1 == n_segments ? documents : documents - (documents >> (s + 1));
      RouteSegment segment;
      segment.keys = static_cast<const char*>(keys) + first * kChunksPerDocument * row_bytes;
      segment.scales = type == RouteKeyType::kInt8 ? scales + first * kChunksPerDocument : nullptr;
      segment.n_chunks = (end - first) * kChunksPerDocument;
      segment.document_begin = document_begin_;
      segment.n_documents = end - first;
      segment.first_score = first * kChunksPerDocument;
      segment.first_document = first;
      segments_.push_back(segment);
      first = end;
    }
    p_.key_type = type;
    p_.segments = segments_.data();
    p_.device_segments = device_segments_ = DeviceCopy(segments_);
    p_.n_segments = n_segments;
    p_.dim = kDim;
    p_.top_k = kTopK;
    p_.n_scores = documents * kChunksPerDocument;
    CHECK_CUDA(cudaMalloc(&p_.chunk_scores, kRouteQuestionsMax * p_.n_scores * sizeof(float)));
    CHECK_CUDA(cudaMalloc(&p_.candidates, RouteCandidateBytes(kRouteQuestionsMax, kTopK)));
    CHECK_CUDA(cudaMalloc(&p_.results, kRouteQuestionsMax * kTopK * sizeof(RoutedOrdinal)));
    p_.counters = DeviceCopy(std::vector<uint32_t>(kRouteCounters + 2, 0));
    CHECK_CUDA(cudaMalloc(&packed_, size_t{kRouteColumns} * kDim * 2));
    CHECK_CUDA(cudaMalloc(&rows_, kRowsMax * sizeof(RouteRow)));
    CHECK_CUDA(cudaMalloc(&exact_rows_, kRowsMax * sizeof(RouteRow)));
    p_.queries = packed_;
  }
  ~Memory() {
    for (const void* memory :
         {static_cast<const void*>(document_begin_), static_cast<const void*>(device_segments_),
          static_cast<const void*>(p_.chunk_scores), static_cast<const void*>(p_.candidates),
          static_cast<const void*>(p_.results), static_cast<const void*>(p_.counters),
          static_cast<const void*>(packed_), static_cast<const void*>(rows_),
          static_cast<const void*>(exact_rows_)}) {
      CHECK_CUDA(cudaFree(const_cast<void*>(memory)));
    }
  }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  // queries: device, [kRouteColumns, kDim] float32.
  void Ask(const std::vector<int>& tokens, const float* queries) {
    std::vector<int> ignored;
    p_.columns = LayOutColumns(tokens, &ignored);
    n_tokens_ = static_cast<size_t>(tokens[0]);
    queries_ = queries;
    Pack();
  }

  void Score() { Route(true); }
  void ScoreAndSelect() { Route(false); }

  // All that one question costs on the GPU.
  void Search() {
    uint32_t* const count = p_.counters + kRouteCounters;
    CHECK_CUDA(cudaMemsetAsync(count, 0, sizeof *count));
    Pack();
    Route(false);
    CollectParams c;
    c.segments = device_segments_;
    c.n_segments = segments_.size();
    c.n_documents = segments_.back().first_document + segments_.back().n_documents;
    c.chunk_scores = p_.chunk_scores;
    c.margin = -1e-3;
    c.kth = p_.results + (kTopK - 1);
    c.rows = rows_;
    c.capacity = kRowsMax;
    c.count = count;
    CHECK_CUDA(CollectRowsCuda(c, nullptr));
    RescoreParams r;
    r.key_type = type_;
    r.segments = device_segments_;
    r.dim = kDim;
    r.queries = queries_;
    r.n_tokens = n_tokens_;
    r.rows = rows_;
    r.count = count;
    r.capacity = kRowsMax;
    r.results = exact_rows_;
    r.result_count = count + 1;
    CHECK_CUDA(RescoreRowsCuda(r, nullptr));
  }

  uint32_t rows_found() const {
    uint32_t n = 0;
    CHECK_CUDA(cudaMemcpy(&n, p_.counters + kRouteCounters, sizeof n, cudaMemcpyDeviceToHost));
    return n;
  }

 private:
  void Pack() {
    CHECK_CUDA(PackRouteQueriesCuda(type_, queries_, kRouteColumns, kDim, 1.0f, packed_,
                                    kRouteColumns, nullptr));
  }
  void Route(bool scores_only) {
    p_.more_columns = scores_only;
    CHECK_CUDA(RouteTopKCuda(p_, nullptr));
  }

  RouteKeyType type_;
  std::vector<RouteSegment> segments_;
  RouteSegment* device_segments_ = nullptr;
  uint32_t* document_begin_ = nullptr;
  RouteParams p_;
  const float* queries_ = nullptr;
  size_t n_tokens_ = 0;
  void* packed_ = nullptr;
  RouteRow* rows_ = nullptr;
  RouteRow* exact_rows_ = nullptr;
};

void Time(RouteKeyType type, void* memory, const float* scales, const float* queries,
          size_t documents) {
  const size_t n = documents * Memory::kChunksPerDocument;
  const size_t bytes = n * Memory::kDim * (type == RouteKeyType::kInt8 ? 1 : 2);
  if (type == RouteKeyType::kInt8) {
    FillBytes<<<1024, 256>>>(static_cast<uint32_t*>(memory), bytes / 4);
  } else {
    FillRandom<<<1024, 256>>>(static_cast<__half*>(memory), bytes / 2, 1, 0.1f);
  }
  CHECK_CUDA(cudaDeviceSynchronize());
  uint32_t* sink;
  CHECK_CUDA(cudaMalloc(&sink, 4));
  const double gigabytes = static_cast<double>(bytes) / 1e9;
  const float read_ms = MedianMilliseconds(30, [&] {
    ReadOnce<<<132 * 8, 512>>>(static_cast<uint4*>(memory), bytes / sizeof(uint4), sink);
  });
  std::printf("\n%zu chunks x %d %s = %.2f GB; floor: read once %.3f ms, %.0f GB/s\n", n,
              Memory::kDim, type == RouteKeyType::kInt8 ? "int8" : "float16", gigabytes, read_ms,
              gigabytes / read_ms * 1e3);
  std::printf("%-9s %-22s %10s %10s %10s %8s %6s\n", "segments", "questions x tokens", "scores",
              "+ select", "+ exact", "floor", "rows");
  for (const size_t n_segments : {1, 6}) {
    Memory layer(type, memory, scales, documents, n_segments);
    for (const std::vector<int>& tokens :
         {std::vector<int>{1}, {8}, {32}, {64}, {8, 8, 8, 8, 8, 8, 8, 8}}) {
      layer.Ask(tokens, queries);
      const float scores_ms = MedianMilliseconds(30, [&] { layer.Score(); });
      const float select_ms = MedianMilliseconds(30, [&] { layer.ScoreAndSelect(); });
      std::printf("%-9zu %zu x %-18d %10.3f %10.3f", n_segments, tokens.size(), tokens[0],
                  scores_ms, select_ms);
      if (tokens.size() > 1) {
        std::printf(" %10s %7.0f%%\n", "", 100 * read_ms / select_ms);
        continue;
      }
      const float exact_ms = MedianMilliseconds(30, [&] { layer.Search(); });
      std::printf(" %10.3f %7.0f%% %6u\n", exact_ms, 100 * read_ms / exact_ms, layer.rows_found());
    }
  }
  CHECK_CUDA(cudaFree(sink));
}

}  // namespace

int main(int argc, char** argv) {
  const std::string mode = argc > 1 ? argv[1] : "";
  const bool tiny = mode == "--tiny";
  const bool sanitize = mode == "--sanitize";
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
    std::printf("skipped: no CUDA device\n");
    return 0;
  }
  int checked = 0;
  int failed = 0;
  for (uint32_t seed = 1; seed <= (sanitize ? 16 : 60); ++seed) {
    const std::string wrong = CheckRouting(RandomRouteCase(seed, sanitize || seed % 2 == 0));
    if (!wrong.empty()) std::printf("MISMATCH seed %u: %s\n", seed, wrong.c_str());
    failed += !wrong.empty();
    ++checked;
  }
  std::printf("checked %d shapes against plain loops, %d mismatches\n", checked, failed);
  if (failed || sanitize) return failed ? 1 : 0;

  const size_t documents = tiny ? 1250 : 195'312;
  const size_t n = documents * Memory::kChunksPerDocument;
  const size_t bytes = n * Memory::kDim * 2;
  void* keys;
  void* copy;
  CHECK_CUDA(cudaMalloc(&keys, bytes));
  CHECK_CUDA(cudaMalloc(&copy, bytes));
  std::mt19937 random(2);
  std::uniform_real_distribution<float> uniform(0.0f, 1.0f);
  std::vector<float> queries(size_t{kRouteColumns} * Memory::kDim);
  for (float& value : queries) value = (uniform(random) - 0.5f) * 0.1f;
  std::vector<float> scales(n);
  for (float& value : scales) value = (1 + uniform(random)) * 0.0003f;
  float* const device_queries = DeviceCopy(queries);
  float* const device_scales = DeviceCopy(scales);

  cudaDeviceProp properties;
  CHECK_CUDA(cudaGetDeviceProperties(&properties, 0));
  std::printf("%s; k = %d, %zu chunks per document, median milliseconds of 30\n", properties.name,
              Memory::kTopK, Memory::kChunksPerDocument);
  const float copy_ms = MedianMilliseconds(
      10, [&] { CHECK_CUDA(cudaMemcpyAsync(copy, keys, bytes, cudaMemcpyDeviceToDevice)); });
  std::printf("device-to-device copy %.0f GB/s (read + write)\n",
              2 * static_cast<double>(bytes) / 1e9 / copy_ms * 1e3);
  CHECK_CUDA(cudaFree(copy));
  Time(RouteKeyType::kFloat16, keys, nullptr, device_queries, documents);
  Time(RouteKeyType::kInt8, keys, device_scales, device_queries, documents);
  CHECK_CUDA(cudaFree(device_queries));
  CHECK_CUDA(cudaFree(device_scales));
  CHECK_CUDA(cudaFree(keys));
  return 0;
}
