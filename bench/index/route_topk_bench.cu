// Checks the fused routing kernel against plain loops on random inputs, then times one layer of a
// 100M-token memory beside its floor: reading the keys once, measured by a read-only kernel and by a
// device-to-device copy in the same run.
//
//   route_topk_bench [--tiny]
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

#include "kernels/route_topk.h"

using msadb::kernels::RouteColumns;
using msadb::kernels::RoutedOrdinal;
using msadb::kernels::RouteParams;

#define CHECK_CUDA(call)                                                              \
  do {                                                                                \
    const cudaError_t check_error = static_cast<cudaError_t>(call);                   \
    if (check_error != cudaSuccess) {                                                 \
      std::fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__,                         \
                   cudaGetErrorString(check_error));                                  \
      std::exit(1);                                                                   \
    }                                                                                 \
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

// The columns of `tokens[q]` tokens for each question, each padded by its last token.
RouteColumns Layout(const std::vector<int>& tokens, std::vector<int>* column_token) {
  RouteColumns columns;
  columns.n_questions = static_cast<int>(tokens.size());
  std::fill_n(columns.block_question, 8, -1);
  int block = 0;
  column_token->assign(64, -1);
  int first = 0;
  for (size_t q = 0; q < tokens.size(); ++q) {
    const int blocks = (tokens[q] + 7) / 8;
    for (int i = 0; i < blocks * 8; ++i) {
      (*column_token)[block * 8 + i] = first + std::min(i, tokens[q] - 1);
    }
    for (int b = 0; b < blocks; ++b) columns.block_question[block++] = static_cast<int>(q);
    first += tokens[q];
  }
  return columns;
}

bool CheckShape(size_t n_documents, int chunks_max, int dim, std::vector<int> tokens, int k,
                bool filtered, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<uint32_t> begin = {0};
  for (size_t d = 0; d < n_documents; ++d) begin.push_back(begin.back() + 1 + random() % chunks_max);
  const size_t n_chunks = begin.back();
  std::normal_distribution<float> normal;
  std::vector<__half> keys(n_chunks * dim);
  for (auto& x : keys) x = __float2half(normal(random) / std::sqrt(static_cast<float>(dim)));
  std::vector<int> column_token;
  RouteParams p;
  p.columns = Layout(tokens, &column_token);
  int n_tokens = 0;
  for (int t : tokens) n_tokens += t;
  std::vector<__half> token_queries(static_cast<size_t>(n_tokens) * dim);
  for (auto& x : token_queries) x = __float2half(normal(random));
  std::vector<__half> queries(static_cast<size_t>(64) * dim, __float2half(0.f));
  for (int c = 0; c < 64; ++c) {
    if (column_token[c] < 0) continue;
    std::copy_n(&token_queries[static_cast<size_t>(column_token[c]) * dim], dim,
                &queries[static_cast<size_t>(c) * dim]);
  }
  std::vector<uint32_t> allowed((n_documents + 31) / 32);
  for (auto& word : allowed) word = random();

  p.n_chunks = n_chunks;
  p.dim = dim;
  p.n_documents = n_documents;
  p.top_k = k;
  const int n_questions = p.columns.n_questions;

  std::vector<float> host_scores(n_questions * n_chunks);
  std::vector<RoutedOrdinal> expected(n_questions * k);
  p.keys = keys.data();
  p.queries = queries.data();
  p.document_begin = begin.data();
  p.allowed = filtered ? allowed.data() : nullptr;
  p.chunk_scores = host_scores.data();
  p.results = expected.data();
  RouteTopKReference(p);

  std::vector<RoutedOrdinal> found(n_questions * k, RoutedOrdinal{NAN, 7});
  p.keys = DeviceCopy(keys);
  p.queries = DeviceCopy(queries);
  p.document_begin = DeviceCopy(begin);
  p.allowed = filtered ? DeviceCopy(allowed) : nullptr;
  std::vector<float> poison(n_questions * n_chunks, NAN);
  p.chunk_scores = DeviceCopy(poison);
  std::vector<char> candidate_bytes(msadb::kernels::RouteCandidateBytes(n_questions, k));
  p.candidates = DeviceCopy(candidate_bytes);
  p.results = DeviceCopy(found);
  CHECK_CUDA(RouteTopKCuda(p, nullptr));
  CHECK_CUDA(cudaDeviceSynchronize());
  std::vector<float> scores(host_scores.size());
  CHECK_CUDA(cudaMemcpy(scores.data(), p.chunk_scores, scores.size() * 4, cudaMemcpyDeviceToHost));
  CHECK_CUDA(cudaMemcpy(found.data(), p.results, found.size() * sizeof(RoutedOrdinal),
                        cudaMemcpyDeviceToHost));
  double worst = 0;
  for (size_t i = 0; i < scores.size(); ++i) {
    const double error = std::abs(scores[i] - host_scores[i]);
    worst = std::isnan(error) ? INFINITY : std::max(worst, error);
  }
  // Rounding of float32 sums of `dim` products of magnitude about 1/sqrt(dim).
  const double tolerance = 2e-5;
  bool same = worst < tolerance;
  for (int q = 0; q < n_questions; ++q) {
    for (int i = 0; i < k; ++i) {
      const auto& e = expected[q * k + i];
      const auto& f = found[q * k + i];
      if (e.document == UINT32_MAX || f.document == UINT32_MAX) {
        same = same && e.document == f.document;
        continue;
      }
      same = same && std::abs(e.score - f.score) < tolerance;  // near ties may swap documents
      if (filtered && !(allowed[f.document / 32] >> (f.document % 32) & 1)) same = false;
    }
  }
  for (const void* pointer : {p.keys, p.queries, static_cast<const void*>(p.document_begin),
                              static_cast<const void*>(p.allowed),
                              static_cast<const void*>(p.chunk_scores),
                              static_cast<const void*>(p.candidates),
                              static_cast<const void*>(p.results)}) {
    CHECK_CUDA(cudaFree(const_cast<void*>(pointer)));
  }
  if (!same) {
    std::printf("MISMATCH documents %zu chunks %zu dim %d questions %d k %d filtered %d seed %u error %g\n",
                n_documents, n_chunks, dim, n_questions, k, filtered, seed, worst);
  }
  return same;
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
  uint32_t seed = 1;
  const std::vector<size_t> sizes =
      sanitize ? std::vector<size_t>{1, 129, 700} : std::vector<size_t>{1, 2, 127, 128, 129, 700};
  const std::vector<int> dims =
      sanitize ? std::vector<int>{8, 192} : std::vector<int>{8, 64, 96, 192, 512, 1024};
  for (size_t n_documents : sizes) {
    for (int dim : dims) {
      for (const std::vector<int>& tokens :
           {std::vector<int>{1}, {7}, {8}, {9, 3}, {64}, {1, 1, 1, 1, 1, 1, 1, 1}, {20, 17, 8}}) {
        const int k = static_cast<int>(1 + seed * 7 % 64);
        failed += !CheckShape(n_documents, static_cast<int>(1 + seed % 5), dim, tokens, k,
                              seed % 3 == 0, seed);
        ++checked;
        ++seed;
      }
    }
  }
  std::printf("checked %d shapes against plain loops, %d mismatches\n", checked, failed);
  if (failed || sanitize) return failed ? 1 : 0;

  const int dim = 1024;
  const size_t n = tiny ? 10'000 : 1'562'500;
  __half* keys;
  __half* queries;
  float* scores;
  uint32_t* sink;
  CHECK_CUDA(cudaMalloc(&keys, n * dim * 2));
  CHECK_CUDA(cudaMalloc(&queries, 64 * dim * 2));
  CHECK_CUDA(cudaMalloc(&scores, n * 8 * 4));
  CHECK_CUDA(cudaMalloc(&sink, 4));
  FillRandom<<<1024, 256>>>(keys, n * dim, 1, 0.1f);
  FillRandom<<<64, 256>>>(queries, 64 * dim, 2, 0.1f);
  std::vector<uint32_t> begin;
  for (size_t c = 0; c < n; c += 8) begin.push_back(static_cast<uint32_t>(c));
  begin.push_back(static_cast<uint32_t>(n));
  RouteParams p;
  p.keys = keys;
  p.queries = queries;
  p.n_chunks = n;
  p.dim = dim;
  p.document_begin = DeviceCopy(begin);
  p.n_documents = begin.size() - 1;
  p.top_k = 16;
  p.chunk_scores = scores;
  CHECK_CUDA(cudaMalloc(&p.candidates, msadb::kernels::RouteCandidateBytes(8, 64)));
  CHECK_CUDA(cudaMalloc(&p.results, 8 * 64 * sizeof(RoutedOrdinal)));

  cudaDeviceProp properties;
  CHECK_CUDA(cudaGetDeviceProperties(&properties, 0));
  const double gigabytes = n * dim * 2.0 / 1e9;
  std::printf("%s, %zu chunks x %d float16 = %.2f GB, k = 16, 8 chunks per document, medians of 30\n",
              properties.name, n, dim, gigabytes);
  const float read_ms =
      MedianMilliseconds(30, [&] { ReadOnce<<<132 * 8, 512>>>(reinterpret_cast<uint4*>(keys), n * dim / 8, sink); });
  std::printf("%-34s %8.3f ms %8.0f GB/s\n", "floor: read the keys once", read_ms, gigabytes / read_ms * 1e3);
  __half* copy;
  CHECK_CUDA(cudaMalloc(&copy, n * dim * 2));
  const float copy_ms = MedianMilliseconds(10, [&] { cudaMemcpyAsync(copy, keys, n * dim * 2, cudaMemcpyDeviceToDevice); });
  std::printf("%-34s %8.3f ms %8.0f GB/s (read + write)\n", "device-to-device copy", copy_ms, 2 * gigabytes / copy_ms * 1e3);
  CHECK_CUDA(cudaFree(copy));
  for (const std::vector<int>& tokens :
       {std::vector<int>{1}, {8}, {32}, {64}, {8, 8, 8, 8, 8, 8, 8, 8}}) {
    std::vector<int> ignored;
    p.columns = Layout(tokens, &ignored);
    const float ms = MedianMilliseconds(30, [&] { CHECK_CUDA(RouteTopKCuda(p, nullptr)); });
    RouteParams scores_only = p;
    scores_only.more_columns = true;
    const float scores_ms = MedianMilliseconds(30, [&] { CHECK_CUDA(RouteTopKCuda(scores_only, nullptr)); });
    char label[64];
    std::snprintf(label, sizeof label, "fused, %zu question(s) x %d tokens", tokens.size(), tokens[0]);
    std::printf("%-34s %8.3f ms %8.0f GB/s, %.0f%% of the read floor (scores alone %.3f ms)\n", label,
                ms, gigabytes / ms * 1e3, 100 * read_ms / ms, scores_ms);
  }
  CHECK_CUDA(cudaDeviceSynchronize());
  return 0;
}
