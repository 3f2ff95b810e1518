// Both engines on GPUs. As on the CPU (search.h), a first step finds every document that can be in
// the answer from approximate scores with an error bound, a second scores those exactly.
//
// First step: the queries, scaled by a power of two and rounded to float16, against the keys on the
// tensor cores. kFused reduces to documents at once and takes all chunks within the bound of the
// k-th best document; kFaiss enlarges its lists until no unseen row can matter. Second step:
// kernels/route_topk_exact.h, in float64 with the float32 queries as they came. Only rows of the
// answer, a few dozen, leave the GPU; ranking them is the host's.
//
// Every GPU does this for its own segments at the same time, and the final rows are merged. kFused
// takes the k best documents of each GPU, so that both steps are enqueued at once; only for more
// documents than the kernel selects does the host look at the scores between the two.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <unordered_set>

#include "index/device_context.h"
#include "index/device_faiss.h"
#include "index/search.h"
#include "kernels/route_topk.h"
#include "kernels/route_topk_exact.h"

namespace msadb::index::internal {
namespace {

using kernels::RoutedOrdinal;
using kernels::RouteRow;
using kernels::RouteSegment;

constexpr size_t kDimMax = 1024;
constexpr uint32_t kRowsFirst = 4096;  // rows of the second step that there is room for at first
constexpr size_t kHeader = 256;        // bytes before the results, for their count

size_t Aligned(size_t bytes) { return (bytes + 255) / 256 * 256; }

// Bound on |approximate - exact| for queries of 2-norm at most query_norm, rounded to float16 after
// scaling, and keys of 2-norm at most key_norm. Three sources:
//   rounding the queries: 2^-11 of each value, 2^-25 for subnormal ones;
//   the products (exact) are summed in float32 by the tensor cores, in groups of 16 aligned to the
//   largest and cut off rather than rounded: at most 2^-23 of the largest partial sum, which is at
//   most |q||k|, for each of 17 terms a group, here rounded up to 2 for each dimension;
//   the rounding of the exact score to float32; for int8 keys those of the product with the scale
//   and of the key's values to float32: 2^-24 of the score or of each value, in the 40 below.
double ApproximationErrorMax(size_t dim, double query_norm, double key_norm) {
  const double rounding = query_norm * 0x1p-11 + std::sqrt(static_cast<double>(dim)) * 0x1p-25;
  const double sums = (2.0 * static_cast<double>(dim) + 40) * 0x1p-23 * (query_norm * 1.001);
  return (rounding + sums) * key_norm + 1e-30;
}

// The work of one search on one GPU. Everything is enqueued on one stream; Wait() ends a step.
class ShardSearch {
 public:
  struct Part {
    uint32_t segment = 0;  // of the version
    const SegmentView* view = nullptr;
  };

  ShardSearch(const SearchRequest& request, uint32_t shard, float scale)
      : request_(request),
        device_(request.version->config.devices[shard]),
        key_type_(request.version->config.key_type == KeyType::kInt8
                      ? kernels::RouteKeyType::kInt8
                      : kernels::RouteKeyType::kFloat16),
        dim_(request.version->config.dim),
        padded_dim_(DeviceRows::PaddedDim(dim_, request.version->config.key_type)) {
    for (uint32_t s = 0; s < request.version->segments.size(); ++s) {
      const SegmentView& view = request.version->segments[s];
      if (view.segment->shard() != shard || view.live_documents() == 0) continue;
      if (request.selection != nullptr) {
        const Bits& allowed = request.selection->allowed[s];
        if (std::all_of(allowed.begin(), allowed.end(), [](uint64_t w) { return w == 0; })) {
          continue;
        }
      }
      parts_.push_back({s, &view});
    }
    if (parts_.empty()) return;
    workspace_ = DeviceContext::Get(device_).TakeWorkspace();
    const DeviceScope scope(device_);
    Upload(scale);
  }
  ~ShardSearch() {
    if (workspace_ != nullptr) DeviceContext::Get(device_).Return(std::move(workspace_));
  }
  ShardSearch(ShardSearch&& other) = default;

  const std::vector<Part>& parts() const { return parts_; }
  int device() const { return device_; }
  const void* packed_queries() const { return workspace_->packed.as<void>(); }
  size_t padded_dim() const { return padded_dim_; }

  void Wait() {
    if (parts_.empty()) return;
    const DeviceScope scope(device_);
    CheckCuda(cudaStreamSynchronize(workspace_->stream), "searching the index");
  }

  // Enqueues the scores of all chunks and, for k that the kernel can select, the best k documents.
  void Score(size_t k) {
    if (parts_.empty()) return;
    const DeviceScope scope(device_);
    const bool selects = k <= kernels::kRouteTopKMax;
    DeviceWorkspace& w = *workspace_;
    w.scores.Reserve(n_scores_ * sizeof(float));
    kernels::RouteParams p;
    p.key_type = key_type_;
    p.segments = segments_.data();
    p.device_segments = Uploaded<RouteSegment>(segments_at_);
    p.n_segments = segments_.size();
    p.dim = static_cast<int>(padded_dim_);
    p.columns.n_questions = 1;
    p.top_k = selects ? static_cast<int>(k) : 1;
    p.chunk_scores = w.scores.as<float>();
    p.n_scores = n_scores_;
    p.counters = Uploaded<uint32_t>(counters_at_);
    if (selects) {
      w.candidates.Reserve(kernels::RouteCandidateBytes(1, p.top_k));
      w.top.Reserve(k * sizeof(RoutedOrdinal));
      p.candidates = w.candidates.as<void>();
      p.results = w.top.as<RoutedOrdinal>();
    }
    for (size_t token = 0; token < request_.n_tokens; token += kernels::kRouteColumns) {
      const size_t tokens = std::min<size_t>(kernels::kRouteColumns, request_.n_tokens - token);
      for (size_t block = 0; block < kernels::kRouteColumns / 8; ++block) {
        p.columns.block_question[block] = block * 8 < tokens ? 0 : -1;
      }
      p.queries = w.packed.as<uint16_t>() + token * PackedDim();
      p.accumulate = token > 0;
      p.more_columns = !selects || token + tokens < request_.n_tokens;
      CheckCuda(kernels::RouteTopKCuda(p, w.stream), "scoring routing keys");
    }
  }

  // After Score: waits, and appends approximate scores of all admissible documents.
  void AppendScores(std::vector<float>* out) {
    if (parts_.empty()) return;
    const DeviceScope scope(device_);
    std::vector<float> scores(n_scores_);
    CheckCuda(cudaMemcpyAsync(scores.data(), workspace_->scores.as<float>(),
                              n_scores_ * sizeof(float), cudaMemcpyDeviceToHost,
                              workspace_->stream),
              "reading scores");
    Wait();
    for (size_t i = 0; i < parts_.size(); ++i) {
      const SegmentView& view = *parts_[i].view;
      const float* of = scores.data() + segments_[i].first_score;
      for (uint32_t d = 0; d < view.n_documents; ++d) {
        if (!IsAdmissible(parts_[i], d)) continue;
        out->push_back(*std::max_element(of + view.row_begin(d), of + view.row_begin(d + 1)));
      }
    }
  }

  // Enqueues the exact scores of every admissible chunk that scored at least `threshold`.
  void Collect(float threshold) {
    if (parts_.empty()) return;
    collect_.margin = threshold;
    collect_.kth = nullptr;
    Collect();
  }
  // The same of chunks that scored at most `distance` less than the k-th best document of this GPU,
  // or of all when there are fewer documents. After Score(k), k <= kRouteTopKMax.
  void CollectBelowBest(size_t k, double distance) {
    if (parts_.empty()) return;
    collect_.margin = -distance;
    collect_.kth = workspace_->top.as<RoutedOrdinal>() + (k - 1);
    Collect();
  }

  // Enqueues the exact scores of `rows`, whose segment counts parts().
  void RescoreRows(const std::vector<RouteRow>& rows) {
    if (parts_.empty()) return;
    const DeviceScope scope(device_);
    DeviceWorkspace& w = *workspace_;
    const auto n = static_cast<uint32_t>(rows.size());
    ReserveRows(std::max(n, kRowsFirst));
    CheckCuda(cudaMemcpyAsync(Count(), &n, sizeof n, cudaMemcpyHostToDevice, w.stream),
              "sending rows");
    CheckCuda(cudaMemcpyAsync(w.rows.as<char>(), rows.data(), n * sizeof(RouteRow),
                              cudaMemcpyHostToDevice, w.stream),
              "sending rows");
    Rescore();
  }

  // After Collect or RescoreRows: waits, and appends the rows; their segment counts the version's.
  void AppendRows(std::vector<RouteRow>* out) {
    if (parts_.empty()) return;
    Wait();
    uint32_t n = *workspace_->results.as<uint32_t>();
    if (n > capacity_) {  // more rows than there was room for: again, with room
      capacity_ = n;
      const DeviceScope scope(device_);
      CheckCuda(cudaMemsetAsync(Count(), 0, sizeof(uint32_t), workspace_->stream),
                "cudaMemsetAsync");
      Collect();
      Wait();
      n = *workspace_->results.as<uint32_t>();
    }
    const auto* rows = reinterpret_cast<RouteRow*>(workspace_->results.as<char>() + kHeader);
    for (uint32_t i = 0; i < n; ++i) {
      out->push_back({parts_[rows[i].segment].segment, rows[i].row, rows[i].score});
    }
  }

  bool IsAdmissible(const Part& part, uint32_t ordinal) const {
    return request_.selection ? TestBit(request_.selection->allowed[part.segment], ordinal)
                              : !part.view->IsDead(ordinal);
  }

 private:
  // Queries, the table of segments, zeros and masks go up in one copy.
  void Upload(float scale) {
    DeviceWorkspace& w = *workspace_;
    segments_at_ = Aligned(request_.n_tokens * padded_dim_ * sizeof(float));
    counters_at_ = Aligned(segments_at_ + parts_.size() * sizeof(RouteSegment));
    count_at_ = counters_at_ + kernels::kRouteCounters * sizeof(uint32_t);
    size_t bytes = Aligned(count_at_ + sizeof(uint32_t));
    const size_t masks_at = bytes;
    for (const Part& part : parts_) {
      if (IsMasked(part)) bytes += MaskBytes(part);
    }
    w.upload.Reserve(bytes);
    w.uploaded.Reserve(bytes);
    char* host = w.upload.as<char>();
    for (size_t t = 0; t < request_.n_tokens; ++t) {
      auto* row = reinterpret_cast<float*>(host) + t * padded_dim_;
      std::copy_n(request_.queries + t * dim_, dim_, row);
      std::fill_n(row + dim_, padded_dim_ - dim_, 0.0f);
    }
    std::memset(host + counters_at_, 0, masks_at - counters_at_);
    size_t mask_at = masks_at;
    size_t n_documents = 0;
    for (const Part& part : parts_) {
      const DeviceRows& rows = *part.view->segment->device_rows();
      RouteSegment segment;
      segment.keys = rows.keys(request_.layer);
      segment.scales = rows.scales(request_.layer);
      segment.n_chunks = part.view->n_rows;
      segment.document_begin = rows.row_begin();
      segment.n_documents = part.view->n_documents;
      segment.first_score = n_scores_;
      segment.first_document = n_documents;
      if (IsMasked(part)) {
        FillMask(part, reinterpret_cast<uint64_t*>(host + mask_at));
        segment.allowed = Uploaded<uint32_t>(mask_at);
        mask_at += MaskBytes(part);
      }
      segments_.push_back(segment);
      n_scores_ += (segment.n_chunks + 31) / 32 * 32;
      n_documents += segment.n_documents;
    }
    std::copy(segments_.begin(), segments_.end(),
              reinterpret_cast<RouteSegment*>(host + segments_at_));
    CheckCuda(cudaMemcpyAsync(w.uploaded.as<char>(), host, bytes, cudaMemcpyHostToDevice, w.stream),
              "sending queries");
    const size_t n_packed = (request_.n_tokens + kernels::kRouteColumns - 1) /
                            kernels::kRouteColumns * kernels::kRouteColumns;
    w.packed.Reserve(n_packed * PackedDim() * sizeof(uint16_t));
    CheckCuda(kernels::PackRouteQueriesCuda(key_type_, Uploaded<float>(0), request_.n_tokens,
                                            static_cast<int>(padded_dim_), scale,
                                            w.packed.as<void>(), n_packed, w.stream),
              "rounding queries");
  }

  bool IsMasked(const Part& part) const {
    return request_.selection != nullptr || part.view->dead_documents > 0;
  }
  static size_t MaskWords(const Part& part) { return (size_t{part.view->n_documents} + 63) / 64; }
  static size_t MaskBytes(const Part& part) { return Aligned(MaskWords(part) * sizeof(uint64_t)); }
  void FillMask(const Part& part, uint64_t* mask) const {
    if (request_.selection != nullptr) {
      std::copy_n(request_.selection->allowed[part.segment].begin(), MaskWords(part), mask);
      return;
    }
    const Bits& dead = *part.view->dead;
    for (size_t i = 0; i < MaskWords(part); ++i) {
      mask[i] = i < dead.size() ? ~dead[i] : ~uint64_t{0};
    }
  }

  template <typename T>
  T* Uploaded(size_t offset) const {
    return reinterpret_cast<T*>(workspace_->uploaded.as<char>() + offset);
  }
  uint32_t* Count() const { return Uploaded<uint32_t>(count_at_); }
  size_t PackedDim() const {
    return static_cast<size_t>(kernels::RoutePackedDim(key_type_, static_cast<int>(padded_dim_)));
  }

  void ReserveRows(uint32_t capacity) {
    capacity_ = capacity;
    workspace_->rows.Reserve(capacity * sizeof(RouteRow));
    workspace_->results.Reserve(kHeader + capacity * sizeof(RouteRow));
  }

  // *Count() is 0.
  void Collect() {
    const DeviceScope scope(device_);
    ReserveRows(std::max(capacity_, kRowsFirst));
    collect_.segments = Uploaded<RouteSegment>(segments_at_);
    collect_.n_segments = segments_.size();
    collect_.n_documents = segments_.back().first_document + segments_.back().n_documents;
    collect_.chunk_scores = workspace_->scores.as<float>();
    collect_.rows = workspace_->rows.as<RouteRow>();
    collect_.capacity = capacity_;
    collect_.count = Count();
    CheckCuda(kernels::CollectRowsCuda(collect_, workspace_->stream), "collecting rows");
    Rescore();
  }

  void Rescore() {
    DeviceWorkspace& w = *workspace_;
    auto* results = w.results.as<char>();
    kernels::RescoreParams p;
    p.key_type = key_type_;
    p.segments = Uploaded<RouteSegment>(segments_at_);
    p.dim = static_cast<int>(padded_dim_);
    p.queries = Uploaded<float>(0);
    p.n_tokens = request_.n_tokens;
    p.rows = w.rows.as<RouteRow>();
    p.count = Count();
    p.capacity = capacity_;
    p.results = reinterpret_cast<RouteRow*>(results + kHeader);
    p.result_count = reinterpret_cast<uint32_t*>(results);
    CheckCuda(kernels::RescoreRowsCuda(p, w.stream), "scoring rows exactly");
  }

  const SearchRequest& request_;
  int device_;
  kernels::RouteKeyType key_type_;
  size_t dim_;
  size_t padded_dim_;
  std::vector<Part> parts_;
  std::vector<RouteSegment> segments_;  // of parts_
  std::unique_ptr<DeviceWorkspace> workspace_;  // null without parts
  // Offsets in what was uploaded; the queries are at 0.
  size_t segments_at_ = 0;
  size_t counters_at_ = 0;
  size_t count_at_ = 0;  // of rows
  size_t n_scores_ = 0;
  kernels::CollectParams collect_;
  uint32_t capacity_ = 0;
};

uint32_t OrdinalOf(const SegmentView& view, uint32_t row) {
  const uint32_t* begin = view.segment->row_begin();
  return static_cast<uint32_t>(std::upper_bound(begin, begin + view.n_documents + 1, row) - begin) -
         1;
}

// The best request.k documents of exactly scored rows.
std::vector<RoutedDocument> Rank(const SearchRequest& request, std::vector<RouteRow> rows) {
  std::sort(rows.begin(), rows.end(), [](const RouteRow& a, const RouteRow& b) {
    return a.segment != b.segment ? a.segment < b.segment : a.row < b.row;
  });
  std::vector<RoutedDocument> ranked;
  uint32_t segment = UINT32_MAX, ordinal = 0;
  for (const RouteRow& row : rows) {
    const SegmentView& view = request.version->segments[row.segment];
    if (row.segment == segment && row.row < view.row_begin(ordinal + 1)) {
      ranked.back().score = std::max(ranked.back().score, row.score);
      continue;
    }
    segment = row.segment;
    ordinal = OrdinalOf(view, row.row);
    ranked.push_back({view.number(ordinal), row.score});
  }
  const size_t wanted = std::min(request.k, ranked.size());
  std::partial_sort(ranked.begin(), ranked.begin() + wanted, ranked.end(),
                    [](const RoutedDocument& a, const RoutedDocument& b) {
                      return a.score != b.score ? a.score > b.score : a.number < b.number;
                    });
  ranked.resize(wanted);
  return ranked;
}

std::vector<RoutedDocument> RankFused(const SearchRequest& request, double error_max,
                                      std::vector<ShardSearch>& shards) {
  for (ShardSearch& shard : shards) shard.Score(request.k);
  if (request.k <= kernels::kRouteTopKMax) {
    for (ShardSearch& shard : shards) shard.CollectBelowBest(request.k, 2 * error_max);
  } else {
    std::vector<float> scores;
    for (ShardSearch& shard : shards) shard.AppendScores(&scores);
    float threshold = -std::numeric_limits<float>::infinity();
    if (scores.size() >= request.k) {
      std::nth_element(scores.begin(), scores.begin() + (request.k - 1), scores.end(),
                       std::greater<>());
      // Rounded down.
      threshold =
          std::nextafter(static_cast<float>(scores[request.k - 1] - 2 * error_max), threshold);
    }
    for (ShardSearch& shard : shards) shard.Collect(threshold);
  }
  std::vector<RouteRow> rows;
  for (ShardSearch& shard : shards) shard.AppendRows(&rows);
  return Rank(request, std::move(rows));
}

// Rows [first, first + n_rows) of one segment, and the list that FAISS made of them.
struct Block {
  size_t shard = 0;
  size_t part = 0;
  size_t first = 0;
  size_t n_rows = 0;
  size_t n_listed = 0;
  double unseen = -std::numeric_limits<double>::infinity();  // no row outside the list scores more
  std::unordered_set<uint32_t> rows;
};

std::vector<RoutedDocument> RankFaiss(const SearchRequest& request, double error_max, double scale,
                                      std::vector<ShardSearch>& shards) {
  std::vector<Block> blocks;
  for (size_t s = 0; s < shards.size(); ++s) {
    shards[s].Wait();  // FAISS works on a stream of its own
    const size_t block_rows = (size_t{1} << 31) / shards[s].padded_dim() - 1;
    for (size_t p = 0; p < shards[s].parts().size(); ++p) {
      const size_t n_rows = shards[s].parts()[p].view->n_rows;
      for (size_t row = 0; row < n_rows; row += block_rows) {
        blocks.push_back({s, p, row, std::min(block_rows, n_rows - row)});
      }
    }
  }
  std::vector<float> scores;
  std::vector<int64_t> listed;
  for (size_t wanted = 2 * std::min<size_t>(request.k, 1'000'000) + 16;; wanted *= 4) {
    for (Block& block : blocks) {
      const size_t n_listed = std::min(wanted, block.n_rows);
      if (n_listed <= block.n_listed) continue;
      block.n_listed = n_listed;
      block.unseen = -std::numeric_limits<double>::infinity();
      if (n_listed > kDeviceFaissListMax) {
        block.n_listed = block.n_rows;
        for (size_t i = 0; i < block.n_rows; ++i) {
          block.rows.insert(static_cast<uint32_t>(block.first + i));
        }
        continue;
      }
      const ShardSearch& shard = shards[block.shard];
      const auto* keys = static_cast<const uint16_t*>(
          shard.parts()[block.part].view->segment->device_rows()->keys(request.layer));
      scores.resize(request.n_tokens * n_listed);
      listed.resize(request.n_tokens * n_listed);
      DeviceFaissSearch(shard.device(), keys + block.first * shard.padded_dim(), block.n_rows,
                        shard.padded_dim(), shard.packed_queries(), request.n_tokens, n_listed,
                        scores.data(), listed.data());
      for (const int64_t row : listed) block.rows.insert(static_cast<uint32_t>(block.first + row));
      if (n_listed == block.n_rows) continue;
      for (size_t t = 1; t <= request.n_tokens; ++t) {
        block.unseen = std::max<double>(block.unseen, scores[t * n_listed - 1]);
      }
    }
    std::vector<RouteRow> exact;
    for (size_t s = 0; s < shards.size(); ++s) {
      std::vector<RouteRow> rows;
      for (const Block& block : blocks) {
        if (block.shard != s) continue;
        const ShardSearch::Part& part = shards[s].parts()[block.part];
        for (const uint32_t row : block.rows) {
          if (!shards[s].IsAdmissible(part, OrdinalOf(*part.view, row))) continue;
          rows.push_back({static_cast<uint32_t>(block.part), row, 0.0f});
        }
      }
      shards[s].RescoreRows(rows);
      shards[s].AppendRows(&exact);
    }
    std::vector<RoutedDocument> ranked = Rank(request, std::move(exact));
    bool proven = true;
    for (const Block& block : blocks) {
      if (block.unseen == -std::numeric_limits<double>::infinity()) continue;
      // Strictly: an unseen document of equal score and smaller number would go before the k-th.
      proven = proven && ranked.size() == request.k &&
               block.unseen + error_max < ranked.back().score * scale;
    }
    if (proven) return ranked;
  }
}

}  // namespace

Status CheckDevices(const IndexConfig& config) {
  if (config.devices.empty()) return Status::Ok();
  int n_devices = 0;
  if (cudaGetDeviceCount(&n_devices) != cudaSuccess) {
    (void)cudaGetLastError();
    n_devices = 0;
  }
  for (const int device : config.devices) {
    if (device < 0 || device >= n_devices) {
      return Status::Unsupported("IndexConfig::devices names GPU " + std::to_string(device) +
                                 ", this process can use " + std::to_string(n_devices) +
                                 "; leave it empty to keep keys in host memory");
    }
  }
  if (config.dim > kDimMax) {
    return Status::InvalidArgument("IndexConfig::dim must be 1 to " + std::to_string(kDimMax) +
                                   " on a GPU, is " + std::to_string(config.dim));
  }
  try {
    for (const int device : config.devices) {
      const DeviceScope scope(device);
      CheckCuda(kernels::RouteTopKSupported(), "the routing kernel");
    }
  } catch (const DeviceFailure& e) {
    return e.status();
  }
  return config.engine == Engine::kFaiss ? CheckDeviceFaiss() : Status::Ok();
}

std::vector<RoutedDocument> SearchDevices(const SearchRequest& request) {
  const IndexConfig& config = request.version->config;
  // Powers of two change no digit. The largest query is of length 1 to 2 then, far from float16's
  // limits. (The norm is not 0: MaxRowNorm rounds up.)
  const float scale = std::ldexp(1.0f, -std::ilogb(request.query_norm_max));
  const double error_max = ApproximationErrorMax(
      DeviceRows::PaddedDim(config.dim, config.key_type),
      static_cast<double>(request.query_norm_max) * static_cast<double>(scale),
      request.version->key_norm_max[request.layer]);
  std::vector<ShardSearch> shards;
  shards.reserve(config.devices.size());
  for (uint32_t i = 0; i < config.devices.size(); ++i) shards.emplace_back(request, i, scale);
  return config.engine == Engine::kFaiss ? RankFaiss(request, error_max, scale, shards)
                                         : RankFused(request, error_max, shards);
}

}  // namespace msadb::index::internal
