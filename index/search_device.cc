// Both engines on GPUs. As on the CPU (search.h), a first step finds every document that can be in
// the answer from approximate scores with an error bound, a second scores those exactly.
//
// First step: the queries, scaled by a power of two and rounded to float16, against the float16
// keys on the tensor cores. kFused reduces to documents at once and takes all chunks within the
// bound of the k-th best document; kFaiss enlarges its lists until no unseen row can matter. Second
// step: kernels/route_topk_exact.h, in float64 with the float32 queries as they came. Only rows of
// the answer, a few dozen, leave the GPU; ranking them is the host's.
//
// Every GPU does this for its own segments at the same time; the k-th best score is taken over all
// of them between the two steps, and the final rows are merged.
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

constexpr size_t kDimMax = 1024;
constexpr uint32_t kRowsFirst = 4096;  // rows of the second step that there is room for at first
constexpr size_t kHeader = 256;        // bytes before the rows, for their count
constexpr size_t kNoMask = SIZE_MAX;

size_t Aligned(size_t bytes) { return (bytes + 255) / 256 * 256; }

// Bound on |approximate - exact| for queries of 2-norm at most query_norm, rounded to float16 after
// scaling, and keys of 2-norm at most key_norm. Three sources:
//   rounding the queries: 2^-11 of each value, 2^-25 for subnormal ones;
//   the products (exact) are summed in float32 by the tensor cores, in groups of 16 aligned to the
//   largest and cut off rather than rounded: at most 2^-23 of the largest partial sum, which is at
//   most |q||k|, for each of 17 terms a group, here rounded up to 2 for each dimension;
//   the rounding of the exact score to float32.
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
    size_t mask = kNoMask;  // offset in the upload
    size_t first_score = 0;
  };

  ShardSearch(const SearchRequest& request, uint32_t shard, float scale)
      : request_(request),
        device_(request.version->config.devices[shard]),
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

  // Enqueues the scores of all chunks and, for k that the kernel can select, the best documents of
  // every segment.
  void Score(size_t k) {
    if (parts_.empty()) return;
    const DeviceScope scope(device_);
    top_k_ = static_cast<int>(std::min<size_t>(k, kernels::kRouteTopKMax));
    selects_ = k <= kernels::kRouteTopKMax;
    n_scores_ = 0;
    for (Part& part : parts_) {
      part.first_score = n_scores_;
      n_scores_ += (part.view->n_rows + 31) / 32 * 32;
    }
    DeviceWorkspace& w = *workspace_;
    w.scores.Reserve(n_scores_ * sizeof(float));
    w.candidates.Reserve(kernels::RouteCandidateBytes(1, top_k_));
    w.top.Reserve(parts_.size() * top_k_ * sizeof(RoutedOrdinal));
    for (size_t i = 0; i < parts_.size(); ++i) {
      const Part& part = parts_[i];
      kernels::RouteParams p;
      p.keys = part.view->segment->device_rows()->keys(request_.layer);
      p.n_chunks = part.view->n_rows;
      p.dim = static_cast<int>(padded_dim_);
      p.document_begin = part.view->segment->device_rows()->row_begin();
      p.n_documents = part.view->n_documents;
      p.allowed = Mask(part);
      p.top_k = top_k_;
      p.chunk_scores = w.scores.as<float>() + part.first_score;
      p.candidates = w.candidates.as<void>();
      p.results = w.top.as<RoutedOrdinal>() + i * top_k_;
      p.columns.n_questions = 1;
      for (size_t token = 0; token < request_.n_tokens; token += kernels::kRouteColumns) {
        const size_t tokens = std::min<size_t>(kernels::kRouteColumns, request_.n_tokens - token);
        for (size_t block = 0; block < kernels::kRouteColumns / 8; ++block) {
          p.columns.block_question[block] = block * 8 < tokens ? 0 : -1;
        }
        p.queries = w.packed.as<uint16_t>() + token * padded_dim_;
        p.accumulate = token > 0;
        p.more_columns = !selects_ || token + tokens < request_.n_tokens;
        CheckCuda(kernels::RouteTopKCuda(p, w.stream), "scoring routing keys");
      }
    }
  }

  // After Score and Wait: appends approximate document scores that include the k best of this GPU.
  void AppendTopScores(std::vector<float>* out) {
    if (parts_.empty()) return;
    if (selects_) {
      const auto* top = workspace_->top.as<RoutedOrdinal>();
      for (size_t i = 0; i < parts_.size() * top_k_; ++i) {
        if (top[i].document != UINT32_MAX) out->push_back(top[i].score);
      }
      return;
    }
    const DeviceScope scope(device_);
    std::vector<float> scores(n_scores_);
    CheckCuda(cudaMemcpy(scores.data(), workspace_->scores.as<float>(), n_scores_ * sizeof(float),
                         cudaMemcpyDeviceToHost),
              "reading scores");
    for (const Part& part : parts_) {
      const SegmentView& view = *part.view;
      const float* of = scores.data() + part.first_score;
      for (uint32_t i = 0; i < view.n_documents; ++i) {
        if (!IsAdmissible(part, i)) continue;
        out->push_back(*std::max_element(of + view.row_begin(i), of + view.row_begin(i + 1)));
      }
    }
  }

  // Enqueues the exact scores of every admissible chunk that scored at least `threshold`.
  void Collect(float threshold) {
    if (parts_.empty()) return;
    const DeviceScope scope(device_);
    threshold_ = threshold;
    DeviceWorkspace& w = *workspace_;
    ReserveRows(std::max(capacity_, kRowsFirst));
    CheckCuda(cudaMemsetAsync(w.rows.as<char>(), 0, kHeader, w.stream), "cudaMemsetAsync");
    for (size_t i = 0; i < parts_.size(); ++i) {
      const Part& part = parts_[i];
      CheckCuda(kernels::CollectRowsCuda(w.scores.as<float>() + part.first_score,
                                         part.view->segment->device_rows()->row_begin(),
                                         part.view->n_documents, Mask(part), threshold,
                                         static_cast<uint32_t>(i), Rows(), capacity_,
                                         w.rows.as<uint32_t>(), w.stream),
                "collecting rows");
    }
    Rescore();
  }

  // Enqueues the exact scores of `rows`, whose segment counts parts().
  void RescoreRows(const std::vector<RouteRow>& rows) {
    if (parts_.empty()) return;
    const DeviceScope scope(device_);
    DeviceWorkspace& w = *workspace_;
    const auto n = static_cast<uint32_t>(rows.size());
    ReserveRows(std::max(n, kRowsFirst));
    CheckCuda(cudaMemcpyAsync(w.rows.as<char>(), &n, sizeof n, cudaMemcpyHostToDevice, w.stream),
              "sending rows");
    CheckCuda(cudaMemcpyAsync(Rows(), rows.data(), n * sizeof(RouteRow), cudaMemcpyHostToDevice,
                              w.stream),
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
      Collect(threshold_);
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
  // Queries, addresses of the segments and masks go up in one copy.
  void Upload(float scale) {
    DeviceWorkspace& w = *workspace_;
    const size_t query_bytes = request_.n_tokens * dim_ * sizeof(float);
    const size_t keys_at = Aligned(query_bytes);
    size_t bytes = Aligned(keys_at + parts_.size() * sizeof(void*));
    for (Part& part : parts_) {
      if (request_.selection == nullptr && part.view->dead_documents == 0) continue;
      part.mask = bytes;
      bytes += Aligned((size_t{part.view->n_documents} + 63) / 64 * sizeof(uint64_t));
    }
    w.upload.Reserve(bytes);
    w.uploaded.Reserve(bytes);
    char* host = w.upload.as<char>();
    std::memcpy(host, request_.queries, query_bytes);
    for (size_t i = 0; i < parts_.size(); ++i) {
      const Part& part = parts_[i];
      const void* keys = part.view->segment->device_rows()->keys(request_.layer);
      std::memcpy(host + keys_at + i * sizeof keys, &keys, sizeof keys);
      if (part.mask == kNoMask) continue;
      const size_t words = (size_t{part.view->n_documents} + 63) / 64;
      auto* mask = reinterpret_cast<uint64_t*>(host + part.mask);
      if (request_.selection != nullptr) {
        std::copy_n(request_.selection->allowed[part.segment].begin(), words, mask);
        continue;
      }
      const Bits& dead = *part.view->dead;
      for (size_t i_word = 0; i_word < words; ++i_word) {
        mask[i_word] = i_word < dead.size() ? ~dead[i_word] : ~uint64_t{0};
      }
    }
    keys_at_ = keys_at;
    CheckCuda(cudaMemcpyAsync(w.uploaded.as<char>(), host, bytes, cudaMemcpyHostToDevice, w.stream),
              "sending queries");
    const size_t n_packed = (request_.n_tokens + kernels::kRouteColumns - 1) /
                            kernels::kRouteColumns * kernels::kRouteColumns;
    w.packed.Reserve(n_packed * padded_dim_ * sizeof(uint16_t));
    CheckCuda(kernels::PackRouteQueriesCuda(w.uploaded.as<float>(), request_.n_tokens,
                                            static_cast<int>(dim_), scale, w.packed.as<void>(),
                                            n_packed, static_cast<int>(padded_dim_), w.stream),
              "rounding queries");
  }

  const uint32_t* Mask(const Part& part) const {
    if (part.mask == kNoMask) return nullptr;
    return reinterpret_cast<const uint32_t*>(workspace_->uploaded.as<char>() + part.mask);
  }

  RouteRow* Rows() const {
    return reinterpret_cast<RouteRow*>(workspace_->rows.as<char>() + kHeader);
  }

  void ReserveRows(uint32_t capacity) {
    capacity_ = capacity;
    workspace_->rows.Reserve(kHeader + capacity * sizeof(RouteRow));
    workspace_->results.Reserve(kHeader + capacity * sizeof(RouteRow));
  }

  void Rescore() {
    DeviceWorkspace& w = *workspace_;
    auto* results = w.results.as<char>();
    CheckCuda(kernels::RescoreRowsCuda(
                  Rows(), w.rows.as<uint32_t>(), capacity_,
                  reinterpret_cast<const void* const*>(w.uploaded.as<char>() + keys_at_),
                  w.uploaded.as<float>(), request_.n_tokens, static_cast<int>(dim_),
                  static_cast<int>(padded_dim_), reinterpret_cast<RouteRow*>(results + kHeader),
                  reinterpret_cast<uint32_t*>(results), w.stream),
              "scoring rows exactly");
  }

  const SearchRequest& request_;
  int device_;
  size_t dim_;
  size_t padded_dim_;
  std::vector<Part> parts_;
  std::unique_ptr<DeviceWorkspace> workspace_;  // null without parts
  size_t keys_at_ = 0;
  int top_k_ = 0;
  bool selects_ = false;
  size_t n_scores_ = 0;
  float threshold_ = 0;
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
  std::vector<float> scores;
  for (ShardSearch& shard : shards) {
    shard.Wait();
    shard.AppendTopScores(&scores);
  }
  float threshold = -std::numeric_limits<float>::infinity();
  if (scores.size() >= request.k) {
    std::nth_element(scores.begin(), scores.begin() + (request.k - 1), scores.end(),
                     std::greater<>());
    // Rounded down.
    threshold =
        std::nextafter(static_cast<float>(scores[request.k - 1] - 2 * error_max), threshold);
  }
  for (ShardSearch& shard : shards) shard.Collect(threshold);
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
