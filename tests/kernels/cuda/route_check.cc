#include "tests/kernels/cuda/route_check.h"

#include <cuda_fp16.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <tuple>

#include "kernels/route_topk_exact.h"

namespace msadb::kernels {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr uint32_t kMark = 0xffffff01;  // a NaN that is not written by anybody

void Must(int error, const char* what) {
  if (error == 0) return;
  std::fprintf(stderr, "%s: %s\n", what, cudaGetErrorString(static_cast<cudaError_t>(error)));
  std::exit(2);
}
#define MUST(call) Must(call, #call)

// An array on the device, kMark behind it.
template <typename T>
class DeviceArray {
 public:
  explicit DeviceArray(const std::vector<T>& values) : size_(values.size()) {
    std::vector<char> bytes(size_ * sizeof(T) + kGuardBytes);
    if (size_ > 0) std::memcpy(bytes.data(), values.data(), size_ * sizeof(T));
    for (size_t i = 0; i < kGuardBytes; i += 4) {
      std::memcpy(bytes.data() + size_ * sizeof(T) + i, &kMark, 4);
    }
    MUST(cudaMalloc(&data_, bytes.size()));
    MUST(cudaMemcpy(data_, bytes.data(), bytes.size(), cudaMemcpyHostToDevice));
  }
  ~DeviceArray() { (void)cudaFree(data_); }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;

  T* data() const { return static_cast<T*>(data_); }
  std::vector<T> Read(bool* intact) const {
    std::vector<char> bytes(size_ * sizeof(T) + kGuardBytes);
    MUST(cudaMemcpy(bytes.data(), data_, bytes.size(), cudaMemcpyDeviceToHost));
    for (size_t i = 0; i < kGuardBytes; i += 4) {
      *intact = *intact && std::memcmp(bytes.data() + size_ * sizeof(T) + i, &kMark, 4) == 0;
    }
    std::vector<T> values(size_);
    if (size_ > 0) std::memcpy(values.data(), bytes.data(), size_ * sizeof(T));
    return values;
  }

 private:
  static constexpr size_t kGuardBytes = 64;
  size_t size_;
  void* data_ = nullptr;
};

template <typename T>
std::vector<T> Marks(size_t n) {
  std::vector<T> values(n);
  for (T& value : values) {
    for (size_t i = 0; i < sizeof(T); i += 4) {
      std::memcpy(reinterpret_cast<char*>(&value) + i, &kMark, 4);
    }
  }
  return values;
}

bool IsMark(float value) { return std::memcmp(&value, &kMark, 4) == 0; }

uint16_t HalfBits(float value) { return __half_as_ushort(__float2half_rn(value)); }

float FromHalfBits(uint16_t bits) { return __half2float(__ushort_as_half(bits)); }

struct HostSegment {
  std::vector<uint16_t> half_keys;
  std::vector<int8_t> int8_keys;
  std::vector<float> scales;
  std::vector<uint32_t> document_begin = {0};
  std::vector<uint32_t> allowed;  // empty: all
  size_t n_chunks() const { return document_begin.back(); }
  bool IsAllowed(size_t d) const { return allowed.empty() || (allowed[d / 32] >> (d % 32) & 1); }
};

struct DeviceSegment {
  explicit DeviceSegment(const HostSegment& host)
      : half_keys(host.half_keys),
        int8_keys(host.int8_keys),
        scales(host.scales),
        document_begin(host.document_begin),
        allowed(host.allowed) {}
  DeviceArray<uint16_t> half_keys;
  DeviceArray<int8_t> int8_keys;
  DeviceArray<float> scales;
  DeviceArray<uint32_t> document_begin;
  DeviceArray<uint32_t> allowed;
};

class Check {
 public:
  explicit Check(const RouteCase& route)
      : route_(route), random_(route.seed), int8_(route.key_type == RouteKeyType::kInt8) {
    for (const int tokens : route.tokens) n_tokens_ += static_cast<size_t>(tokens);
    MakeSegments();
    MakeQueries();
  }

  std::string Run() {
    Pack();
    Score();
    if (errors_.empty()) Select();
    if (errors_.empty() && route_.tokens.size() == 1) {
      Collect(results_.data() + (route_.top_k - 1), -0.1);
      Collect(nullptr, 0.5);
    }
    return errors_;
  }

 private:
  void Fail(const std::string& what) {
    if (errors_.empty()) errors_ = what;
  }

  void AppendKey(float length, HostSegment* host) {
    if (int8_) {
      // Other lengths for other rows, so that the scales matter.
      host->scales.push_back(
          std::ldexp(length * (1.0f + static_cast<float>(random_() % 1000) / 1000), -11));
      for (int i = 0; i < route_.dim; ++i) {
        host->int8_keys.push_back(static_cast<int8_t>(static_cast<int>(random_() % 255) - 127));
      }
      return;
    }
    std::normal_distribution<float> normal(0, length / std::sqrt(static_cast<float>(route_.dim)));
    for (int i = 0; i < route_.dim; ++i) host->half_keys.push_back(HalfBits(normal(random_)));
  }

  void MakeSegments() {
    size_t documents = 0;
    for (const RouteCase::Segment& shape : route_.segments) {
      HostSegment host;
      for (size_t d = 0; d < shape.documents; ++d) {
        host.document_begin.push_back(host.document_begin.back() + 1 +
                                      static_cast<uint32_t>(random_() % shape.chunks_max));
      }
      for (size_t d = 0; d < shape.documents; ++d) {
        const bool strong = shape.strong_period > 0 && d % shape.strong_period < 64;
        for (uint32_t c = host.document_begin[d]; c < host.document_begin[d + 1]; ++c) {
          AppendKey(strong ? 8.0f : 1.0f, &host);
        }
      }
      if (shape.mask != RouteCase::Mask::kNone) {
        host.allowed.resize((shape.documents + 31) / 32);
        if (shape.mask == RouteCase::Mask::kHalf) {
          for (uint32_t& word : host.allowed) word = static_cast<uint32_t>(random_());
        }
      }
      host_.push_back(std::move(host));
      const HostSegment& kept = host_.back();
      device_.push_back(std::make_unique<DeviceSegment>(kept));
      RouteSegment segment;
      segment.keys =
          int8_ ? static_cast<const void*>(kept.int8_keys.data()) : kept.half_keys.data();
      segment.scales = int8_ ? kept.scales.data() : nullptr;
      segment.n_chunks = kept.n_chunks();
      segment.n_documents = shape.documents;
      segment.first_score = n_scores_;
      segment.first_document = documents;
      n_scores_ += segment.n_chunks + random_() % 40;
      documents += shape.documents;
      segments_.push_back(segment);
    }
    // The vectors of host_ have moved to their place.
    for (size_t s = 0; s < segments_.size(); ++s) {
      segments_[s].document_begin = host_[s].document_begin.data();
      segments_[s].allowed = host_[s].allowed.empty() ? nullptr : host_[s].allowed.data();
      RouteSegment segment = segments_[s];
      segment.keys = int8_ ? static_cast<const void*>(device_[s]->int8_keys.data())
                           : device_[s]->half_keys.data();
      segment.scales = int8_ ? device_[s]->scales.data() : nullptr;
      segment.document_begin = device_[s]->document_begin.data();
      segment.allowed = host_[s].allowed.empty() ? nullptr : device_[s]->allowed.data();
      on_device_.push_back(segment);
    }
    device_segments_ = std::make_unique<DeviceArray<RouteSegment>>(on_device_);
    n_documents_ = documents;
  }

  // One question has its tokens as they are; several have theirs laid out in columns.
  void MakeQueries() {
    std::normal_distribution<float> normal;
    std::vector<float> queries(n_tokens_ * route_.dim);
    for (float& value : queries) value = normal(random_);
    if (route_.tokens.size() == 1) {
      n_packed_ = (n_tokens_ + kRouteColumns - 1) / kRouteColumns * kRouteColumns;
      queries_ = std::move(queries);
      return;
    }
    n_packed_ = kRouteColumns;
    std::vector<int> column_token;
    columns_ = LayOutColumns(route_.tokens, &column_token);
    queries_.assign(size_t{kRouteColumns} * route_.dim, 0.0f);
    for (size_t column = 0; column < kRouteColumns; ++column) {
      if (column_token[column] < 0) continue;
      std::copy_n(&queries[static_cast<size_t>(column_token[column]) * route_.dim], route_.dim,
                  &queries_[column * route_.dim]);
    }
    n_tokens_ = kRouteColumns;
  }

  void Pack() {
    const auto dim = static_cast<size_t>(route_.dim);
    const auto packed_dim = static_cast<size_t>(RoutePackedDim(route_.key_type, route_.dim));
    packed_.assign(n_packed_ * packed_dim, 0);
    for (size_t row = 0; row < n_packed_; ++row) {
      for (size_t i = 0; i < dim; ++i) {
        const size_t column =
            static_cast<size_t>(RoutePackedColumn(route_.key_type, static_cast<int>(i)));
        packed_[row * packed_dim + column] =
            HalfBits(queries_[std::min(row, n_tokens_ - 1) * dim + i] * 0.5f);
      }
    }
    device_queries_ = std::make_unique<DeviceArray<float>>(queries_);
    device_packed_ = std::make_unique<DeviceArray<uint16_t>>(
        std::vector<uint16_t>(n_packed_ * packed_dim, 0x7e01));
    MUST(PackRouteQueriesCuda(route_.key_type, device_queries_->data(), n_tokens_, route_.dim, 0.5f,
                              device_packed_->data(), n_packed_, nullptr));
    MUST(cudaDeviceSynchronize());
    bool intact = true;
    if (device_packed_->Read(&intact) != packed_) Fail("packed queries differ");
    if (!intact) Fail("packed queries are longer than they should be");
  }

  template <typename F>
  void ForPasses(RouteParams p, const uint16_t* packed, const F& run) {
    const auto packed_dim = static_cast<size_t>(RoutePackedDim(route_.key_type, route_.dim));
    for (size_t token = 0; token < n_tokens_; token += kRouteColumns) {
      if (route_.tokens.size() == 1) {
        const size_t tokens = std::min<size_t>(kRouteColumns, n_tokens_ - token);
        p.columns.n_questions = 1;
        for (size_t block = 0; block < kRouteColumns / 8; ++block) {
          p.columns.block_question[block] = block * 8 < tokens ? 0 : -1;
        }
      }
      p.queries = packed + token * packed_dim;
      p.accumulate = token > 0;
      p.more_columns = token + kRouteColumns < n_tokens_;
      run(p);
    }
  }

  void Score() {
    const size_t questions = route_.tokens.size();
    const auto k = static_cast<size_t>(route_.top_k);
    RouteParams p;
    p.key_type = route_.key_type;
    p.segments = segments_.data();
    p.n_segments = segments_.size();
    p.dim = route_.dim;
    p.columns = columns_;
    p.top_k = route_.top_k;
    p.n_scores = n_scores_;

    std::vector<float> expected(questions * n_scores_);
    std::vector<RoutedOrdinal> reference(questions * k);
    p.chunk_scores = expected.data();
    p.results = reference.data();
    ForPasses(p, packed_.data(), [](const RouteParams& pass) { RouteTopKReference(pass); });

    device_scores_ = std::make_unique<DeviceArray<float>>(Marks<float>(questions * n_scores_));
    device_results_ =
        std::make_unique<DeviceArray<RoutedOrdinal>>(Marks<RoutedOrdinal>(questions * k));
    const DeviceArray<uint64_t> candidates(Marks<uint64_t>(
        RouteCandidateBytes(static_cast<int>(questions), route_.top_k) / sizeof(uint64_t)));
    const DeviceArray<uint32_t> counters(std::vector<uint32_t>(kRouteCounters, 0));
    p.segments = on_device_.data();
    p.device_segments = device_segments_->data();
    p.chunk_scores = device_scores_->data();
    p.candidates = candidates.data();
    p.counters = counters.data();
    p.results = device_results_->data();
    ForPasses(p, device_packed_->data(),
              [](const RouteParams& pass) { MUST(RouteTopKCuda(pass, nullptr)); });
    MUST(cudaDeviceSynchronize());
    bool intact = true;
    scores_ = device_scores_->Read(&intact);
    results_ = device_results_->Read(&intact);
    candidates.Read(&intact);
    if (counters.Read(&intact) != std::vector<uint32_t>(kRouteCounters)) Fail("counters are not 0");
    if (!intact) Fail("something past the end of a workspace was written");

    std::vector<bool> belongs(n_scores_);
    for (const RouteSegment& segment : segments_) {
      std::fill_n(belongs.begin() + static_cast<std::ptrdiff_t>(segment.first_score),
                  segment.n_chunks, true);
    }
    // float32 sums of `dim` products of magnitude 1 / sqrt(dim), int8 keys up to 5 times longer.
    float tolerance = int8_ ? 2e-4f : 2e-5f;
    for (const RouteCase::Segment& shape : route_.segments) {
      if (shape.strong_period > 0) tolerance *= 8;
    }
    for (size_t i = 0; i < scores_.size(); ++i) {
      if (!belongs[i % n_scores_]) {
        if (!IsMark(scores_[i])) Fail("a score outside the segments was written");
      } else if (!(std::abs(scores_[i] - expected[i]) <= tolerance)) {
        Fail("score " + std::to_string(i) + " is " + std::to_string(scores_[i]) + ", not " +
             std::to_string(expected[i]));
      }
    }
  }

  // The kernels' choice from their own scores, which must be exactly the best.
  void Select() {
    const auto k = static_cast<size_t>(route_.top_k);
    for (size_t q = 0; q < route_.tokens.size(); ++q) {
      std::vector<RoutedOrdinal> best;
      for (size_t s = 0; s < host_.size(); ++s) {
        const float* scores = scores_.data() + q * n_scores_ + segments_[s].first_score;
        for (size_t d = 0; d < segments_[s].n_documents; ++d) {
          if (!host_[s].IsAllowed(d)) continue;
          best.push_back({*std::max_element(scores + host_[s].document_begin[d],
                                            scores + host_[s].document_begin[d + 1]),
                          static_cast<uint32_t>(segments_[s].first_document + d)});
        }
      }
      std::sort(best.begin(), best.end(), [](const RoutedOrdinal& a, const RoutedOrdinal& b) {
        return a.score != b.score ? a.score > b.score : a.document < b.document;
      });
      best.resize(std::max(best.size(), k), {-kInfinity, UINT32_MAX});
      for (size_t i = 0; i < k; ++i) {
        const RoutedOrdinal& found = results_[q * k + i];
        if (found.score != best[i].score || found.document != best[i].document) {
          Fail("result " + std::to_string(i) + " of question " + std::to_string(q) +
               " is document " + std::to_string(found.document) + ", not " +
               std::to_string(best[i].document));
        }
      }
    }
  }

  float ExactScore(size_t s, size_t row) const {
    const auto dim = static_cast<size_t>(route_.dim);
    double best = -std::numeric_limits<double>::infinity();
    for (size_t t = 0; t < n_tokens_; ++t) {
      double sum = 0;
      for (size_t i = 0; i < dim; ++i) {
        const size_t at = row * dim + i;
        const float key = int8_ ? host_[s].scales[row] * static_cast<float>(host_[s].int8_keys[at])
                                : FromHalfBits(host_[s].half_keys[at]);
        sum += static_cast<double>(queries_[t * dim + i]) * static_cast<double>(key);
      }
      best = std::max(best, sum);
    }
    return static_cast<float>(best);
  }

  void Collect(const RoutedOrdinal* kth, double margin) {
    float threshold = static_cast<float>(margin);
    if (kth != nullptr) {
      threshold = -kInfinity;
      if (kth->document != UINT32_MAX) {
        const double sum = kth->score + margin;
        threshold = static_cast<float>(sum);
        if (threshold > sum) threshold = std::nextafter(threshold, -kInfinity);
      }
    }
    std::vector<std::pair<uint32_t, uint32_t>> expected;
    for (size_t s = 0; s < host_.size(); ++s) {
      for (size_t d = 0; d < segments_[s].n_documents; ++d) {
        if (!host_[s].IsAllowed(d)) continue;
        for (uint32_t c = host_[s].document_begin[d]; c < host_[s].document_begin[d + 1]; ++c) {
          if (scores_[segments_[s].first_score + c] >= threshold) {
            expected.emplace_back(static_cast<uint32_t>(s), c);
          }
        }
      }
    }

    const uint32_t capacity = route_.rows_capacity;
    const DeviceArray<RouteRow> rows(Marks<RouteRow>(capacity));
    const DeviceArray<RouteRow> results(Marks<RouteRow>(capacity));
    const DeviceArray<uint32_t> count(std::vector<uint32_t>{0});
    const DeviceArray<uint32_t> result_count(std::vector<uint32_t>{kMark});
    CollectParams c;
    c.segments = device_segments_->data();
    c.n_segments = segments_.size();
    c.n_documents = n_documents_;
    c.chunk_scores = device_scores_->data();
    c.margin = margin;
    c.kth = kth == nullptr ? nullptr : device_results_->data() + (route_.top_k - 1);
    c.rows = rows.data();
    c.capacity = capacity;
    c.count = count.data();
    MUST(CollectRowsCuda(c, nullptr));
    RescoreParams r;
    r.key_type = route_.key_type;
    r.segments = device_segments_->data();
    r.dim = route_.dim;
    r.queries = device_queries_->data();
    r.n_tokens = n_tokens_;
    r.rows = rows.data();
    r.count = count.data();
    r.capacity = capacity;
    r.results = results.data();
    r.result_count = result_count.data();
    MUST(RescoreRowsCuda(r, nullptr));
    MUST(cudaDeviceSynchronize());
    bool intact = true;
    rows.Read(&intact);
    const std::vector<RouteRow> found = results.Read(&intact);
    const uint32_t n = result_count.Read(&intact)[0];
    if (!intact) Fail("something past the end of the rows was written");
    if (n != expected.size() || count.Read(&intact)[0] != n) {
      Fail(std::to_string(n) + " rows are collected, not " + std::to_string(expected.size()));
      return;
    }
    std::vector<std::pair<uint32_t, uint32_t>> listed;
    for (uint32_t i = 0; i < std::min(n, capacity); ++i) {
      listed.emplace_back(found[i].segment, found[i].row);
      if (!std::binary_search(expected.begin(), expected.end(), listed.back())) {
        Fail("a row that should not be is collected");
        return;
      }
      if (found[i].score != ExactScore(found[i].segment, found[i].row)) {
        Fail("an exact score is " + std::to_string(found[i].score) + ", not " +
             std::to_string(ExactScore(found[i].segment, found[i].row)));
      }
    }
    std::sort(listed.begin(), listed.end());
    if (std::adjacent_find(listed.begin(), listed.end()) != listed.end()) {
      Fail("a row is collected twice");
    }
  }

  const RouteCase& route_;
  std::mt19937 random_;
  const bool int8_;
  size_t n_tokens_ = 0;  // rows of queries_
  size_t n_packed_ = 0;
  size_t n_scores_ = 0;
  size_t n_documents_ = 0;
  std::vector<HostSegment> host_;
  std::vector<std::unique_ptr<DeviceSegment>> device_;
  std::vector<RouteSegment> segments_;   // with host addresses
  std::vector<RouteSegment> on_device_;  // with device addresses
  RouteColumns columns_;                 // of several questions
  std::vector<float> queries_;           // [n_tokens_, dim]
  std::vector<uint16_t> packed_;
  std::unique_ptr<DeviceArray<RouteSegment>> device_segments_;
  std::unique_ptr<DeviceArray<float>> device_queries_;
  std::unique_ptr<DeviceArray<uint16_t>> device_packed_;
  std::unique_ptr<DeviceArray<float>> device_scores_;
  std::unique_ptr<DeviceArray<RoutedOrdinal>> device_results_;
  std::vector<float> scores_;
  std::vector<RoutedOrdinal> results_;
  std::string errors_;
};

}  // namespace

RouteColumns LayOutColumns(const std::vector<int>& tokens, std::vector<int>* column_token) {
  RouteColumns columns;
  columns.n_questions = static_cast<int>(tokens.size());
  std::fill_n(columns.block_question, kRouteColumns / 8, -1);
  column_token->assign(kRouteColumns, -1);
  int block = 0;
  int first = 0;
  for (size_t q = 0; q < tokens.size(); ++q) {
    const int blocks = (tokens[q] + 7) / 8;
    for (int i = 0; i < blocks * 8; ++i) {
      (*column_token)[static_cast<size_t>(block * 8 + i)] = first + std::min(i, tokens[q] - 1);
    }
    for (int b = 0; b < blocks; ++b) columns.block_question[block++] = static_cast<int>(q);
    first += tokens[q];
  }
  return columns;
}

RouteCase RandomRouteCase(uint32_t seed, bool small) {
  std::mt19937 random(seed);
  const auto below = [&](size_t n) { return random() % n; };
  RouteCase route;
  route.seed = seed;
  route.key_type = below(2) == 0 ? RouteKeyType::kFloat16 : RouteKeyType::kInt8;
  const size_t multiple = route.key_type == RouteKeyType::kInt8 ? 16 : 8;
  route.dim = static_cast<int>(multiple * (1 + below((small ? 320 : 1024) / multiple)));
  route.top_k = static_cast<int>(1 + below(kRouteTopKMax));
  if (below(3) == 0) {  // several questions
    route.tokens.clear();
    for (int blocks = kRouteColumns / 8; blocks > 0;) {
      const int taken = static_cast<int>(1 + below(static_cast<size_t>(blocks)));
      route.tokens.push_back(static_cast<int>(taken * 8 - below(8)));
      blocks -= taken;
      if (below(4) == 0) break;
    }
  } else {
    route.tokens = {static_cast<int>(1 + below(below(3) == 0 ? 256 : 64))};
  }
  const size_t n_segments = below(4) == 0 ? 1 + below(small ? 12 : 150) : 1 + below(4);
  for (size_t s = 0; s < n_segments; ++s) {
    RouteCase::Segment segment;
    segment.documents = 1 + below((small ? 600 : 2000) / n_segments + 1);
    segment.chunks_max = below(6) == 0 ? 200 : static_cast<uint32_t>(1 + below(6));
    if (segment.chunks_max > 6) segment.documents = 1 + segment.documents / 40;
    segment.mask = static_cast<RouteCase::Mask>(below(3));
    route.segments.push_back(segment);
  }
  route.rows_capacity = below(5) == 0 ? 8 : 4096;
  return route;
}

std::string CheckRouting(const RouteCase& route) { return Check(route).Run(); }

}  // namespace msadb::kernels
