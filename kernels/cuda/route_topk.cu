// Fused routing for Hopper. Three launches over all segments:
//
// 1. route_scores: a persistent grid, one block per multiprocessor. The queries (64 columns) stay
// in
//    shared memory for the whole launch. One producer thread streams tiles of 128 keys x 128 bytes
//    through a ring of stages with the tensor copy engine; two consumer warpgroups multiply 64 keys
//    each by all columns with wgmma, accumulate over dim in registers, reduce over columns by quad
//    shuffles, and write one float per (question, chunk). Every key byte is read once, and the ring
//    keeps about 80 KB per multiprocessor in flight, so the launch runs at memory bandwidth. Blocks
//    take tiles of 128 keys from one counter: a multiprocessor that gets less bandwidth takes
//    fewer.
// 2. route_documents: each warp reduces the chunks of 64 documents at a time to documents and keeps
//    the best 64 in registers; a batch without a document better than the warp's k-th costs nothing
//    more. The warps of a block merge.
// 3. route_merge: one block per question merges the blocks' lists.
#include <cstdint>

#include "kernels/cuda/device.cuh"
#include "kernels/cuda/route_segments.cuh"
#include "kernels/cuda/tensor_tiles.cuh"
#include "kernels/route_topk.h"

namespace msadb::kernels {
namespace {

using namespace cuda;

constexpr int kTileRows = 128;  // keys per stage: 64 per consumer warpgroup
constexpr int kStages = 5;
constexpr int kStageBytes = kTileRows * kTileRowBytes;          // 16 KiB
constexpr int kQueryTileBytes = kRouteColumns * kTileRowBytes;  // 8 KiB: 64 dimensions
constexpr int kConsumerThreads = 256;
constexpr int kThreads = kConsumerThreads + 32;  // the producer's warp uses one thread
constexpr int kDimMax = 1024;

constexpr int kSelectWarps = 16;
constexpr int kSelectBlocks = 192;
constexpr int kListsPerWarp = kSelectBlocks / kSelectWarps;

struct ScoreParams {
  TileMap keys[kRouteSegmentsMax];
  TileMap queries;
  const float* scales[kRouteSegmentsMax];
  float* scores[kRouteSegmentsMax];  // of the first question
  int n_chunks[kRouteSegmentsMax];
  int first_tile[kRouteSegmentsMax +
                 1];  // tiles of the segments before; past the last segment: of all
  RouteColumns columns;
  int n_tiles;
  int n_stages;       // of a tile: 128 bytes of its keys each
  int n_query_tiles;  // 64 dimensions each
  bool accumulate;
  size_t n_scores;
  uint32_t* next_tile;
  uint32_t* blocks_done;
};
static_assert(sizeof(ScoreParams) <= 32764, "the most that a launch takes");

// The stages of the ring, one after the other.
struct RingPosition {
  int stage = 0;
  uint32_t parity = 0;
  __device__ void Advance() {
    if (++stage == kStages) {
      stage = 0;
      parity ^= 1;
    }
  }
};

// Two int8 of a word, biased by 128, as float16: 0x6400 + x is 1024 + x.
__device__ __forceinline__ uint32_t HalvesOf(uint32_t biased, uint32_t selector) {
  const uint32_t bits = __byte_perm(biased, 0x64646464u, selector);
  const __half2 halves = __hsub2(*reinterpret_cast<const __half2*>(&bits),
                                 __half2half2(__ushort_as_half(0x6480)));  // 1024 + 128
  return *reinterpret_cast<const uint32_t*>(&halves);
}

// fragment = 4 dimensions of a row and of the row 8 below.
__device__ __forceinline__ void Fragment(uint32_t (&fragment)[4], uint32_t low, uint32_t high) {
  low ^= 0x80808080u;
  high ^= 0x80808080u;
  fragment[0] = HalvesOf(low, 0x4140);
  fragment[1] = HalvesOf(high, 0x4140);
  fragment[2] = HalvesOf(low, 0x4342);
  fragment[3] = HalvesOf(high, 0x4342);
}

template <RouteKeyType kType>
__global__ void __launch_bounds__(kThreads, 1) route_scores(const __grid_constant__ ScoreParams p) {
  auto* shared = DynamicShared<uint8_t>();
  shared += -reinterpret_cast<uintptr_t>(shared) % 1024;  // tiles
  uint8_t* const queries = shared;
  uint8_t* const stages = shared + p.n_query_tiles * kQueryTileBytes;
  __shared__ uint64_t full[kStages];
  __shared__ uint64_t empty[kStages];
  __shared__ int tiles[kStages];  // the tile that begins in a stage; ~tile: the block's last
  __shared__ uint64_t queries_ready;

  if (threadIdx.x == 0) {
    for (int s = 0; s < kStages; ++s) {
      BarrierInit(&full[s], 1);
      BarrierInit(&empty[s], kConsumerThreads / 32);
    }
    BarrierInit(&queries_ready, 1);
    BarrierInitFence();
  }
  __syncthreads();
  GridRelease();
  GridWait();

  RingPosition ring;
  int segment = 0;
  if (threadIdx.x >= kConsumerThreads) {
    if (threadIdx.x > kConsumerThreads) return;
    BarrierExpect(&queries_ready, p.n_query_tiles * kQueryTileBytes);
    for (int i = 0; i < p.n_query_tiles; ++i) {
      LoadTile(queries + i * kQueryTileBytes, &p.queries, i * (kTileRowBytes / 2), 0,
               &queries_ready);
    }
    ring.parity = 1;  // a fresh barrier counts as having completed the phase before
    constexpr int kStageDims = kType == RouteKeyType::kInt8 ? kTileRowBytes : kTileRowBytes / 2;
    const auto ask = [&] { return static_cast<int>(gridDim.x + atomicAdd(p.next_tile, 1u)); };
    int next = ask();
    for (int tile = blockIdx.x;;) {
      const bool last = next >= p.n_tiles;
      const int after = last ? next : ask();  // used after this tile's loads
      while (tile >= p.first_tile[segment + 1]) ++segment;
      const int row = (tile - p.first_tile[segment]) * kTileRows;
      for (int i = 0; i < p.n_stages; ++i, ring.Advance()) {
        BarrierWait(&empty[ring.stage], ring.parity);
        if (i == 0) tiles[ring.stage] = last ? ~tile : tile;
        BarrierExpect(&full[ring.stage], kStageBytes);
        LoadTile(stages + ring.stage * kStageBytes, &p.keys[segment], i * kStageDims, row,
                 &full[ring.stage]);
      }
      if (last) break;
      tile = next;
      next = after;
    }
    if (atomicAdd(p.blocks_done, 1u) == gridDim.x - 1) {
      *p.next_tile = 0;
      *p.blocks_done = 0;
    }
    return;
  }

  BarrierWait(&queries_ready, 0);
  const int lane = threadIdx.x % 32;
  const int warpgroup_row = threadIdx.x / 128 * 64;
  const int row_in_tile = threadIdx.x / 32 * 16 + lane / 4;
  for (;;) {
    BarrierWait(&full[ring.stage], ring.parity);
    const int mark = tiles[ring.stage], tile = mark < 0 ? ~mark : mark;
    while (tile >= p.first_tile[segment + 1]) ++segment;
    const int row = (tile - p.first_tile[segment]) * kTileRows + row_in_tile;
    const bool has_low = row < p.n_chunks[segment];
    const bool has_high = row + 8 < p.n_chunks[segment];
    [[maybe_unused]] float scale_low = 1, scale_high = 1;
    if constexpr (kType == RouteKeyType::kInt8) {
      if (has_low) scale_low = p.scales[segment][row];
      if (has_high) scale_high = p.scales[segment][row + 8];
    }

    float acc[32];
    if constexpr (kType == RouteKeyType::kFloat16) {
      int previous = -1;
      for (int i = 0; i < p.n_stages; ++i, ring.Advance()) {
        BarrierWait(&full[ring.stage], ring.parity);
        const uint8_t* const keys =
            stages + ring.stage * kStageBytes + warpgroup_row * kTileRowBytes;
        TilesBegin(acc);
#pragma unroll
        for (int step = 0; step < 4; ++step) {
          MultiplyTiles(acc, OperandOf(keys, step), OperandOf(queries + i * kQueryTileBytes, step),
                        i > 0 || step > 0);
        }
        TilesCommit(acc);
        // The products of the stage before have been read: hand it back to the producer.
        TilesWait<1>(acc);
        __syncwarp();  // all lanes have read tiles[]
        if (previous >= 0 && lane == 0) BarrierArrive(&empty[previous]);
        previous = ring.stage;
      }
      TilesWait<0>(acc);
      __syncwarp();
      if (lane == 0) BarrierArrive(&empty[previous]);
    } else {
      uint32_t fragments[2][4][4];
      for (int i = 0; i < p.n_stages; ++i, ring.Advance()) {
        BarrierWait(&full[ring.stage], ring.parity);
        // Thread t of a quad has dimensions 32 t to 32 t + 31 of the 128 (RoutePackedColumn). Lanes
        // 0 to 7 read from two rows at a time, and the swizzle sends them to different banks.
        const uint8_t* const rows = stages + ring.stage * kStageBytes + row_in_tile * kTileRowBytes;
        uint4 low[2], high[2];
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int at = ((2 * (lane % 4) + half) ^ (lane / 4)) * 16;
          low[half] = *reinterpret_cast<const uint4*>(rows + at);
          high[half] = *reinterpret_cast<const uint4*>(rows + 8 * kTileRowBytes + at);
        }
        __syncwarp();
        if (lane == 0) BarrierArrive(&empty[ring.stage]);
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          TilesWait<1>(acc);  // the group that read these fragments is finished
          Fragment(fragments[half][0], low[half].x, high[half].x);
          Fragment(fragments[half][1], low[half].y, high[half].y);
          Fragment(fragments[half][2], low[half].z, high[half].z);
          Fragment(fragments[half][3], low[half].w, high[half].w);
          TilesBegin(acc);
          const uint8_t* const query_tile = queries + (2 * i + half) * kQueryTileBytes;
#pragma unroll
          for (int step = 0; step < 4; ++step) {
            MultiplyTiles(acc, fragments[half][step], OperandOf(query_tile, step),
                          i > 0 || half > 0 || step > 0);
          }
          TilesCommit(acc);
        }
      }
      TilesWait<0>(acc);
    }

    float best_low = -INFINITY;
    float best_high = -INFINITY;
#pragma unroll
    for (int j = 0; j < kRouteColumns / 8; ++j) {
      const int question = p.columns.block_question[j];
      if (question < 0) break;
      best_low = fmaxf(best_low, fmaxf(acc[4 * j], acc[4 * j + 1]));
      best_high = fmaxf(best_high, fmaxf(acc[4 * j + 2], acc[4 * j + 3]));
      if (j + 1 < kRouteColumns / 8 && p.columns.block_question[j + 1] == question) continue;
#pragma unroll
      for (int offset = 1; offset <= 2; offset *= 2) {
        best_low = fmaxf(best_low, __shfl_xor_sync(~0u, best_low, offset));
        best_high = fmaxf(best_high, __shfl_xor_sync(~0u, best_high, offset));
      }
      if (lane % 4 == 0) {
        float* const out = p.scores[segment] + question * p.n_scores + row;
        if constexpr (kType == RouteKeyType::kInt8) {
          best_low *= scale_low;
          best_high *= scale_high;
        }
        if (has_low) out[0] = p.accumulate ? fmaxf(out[0], best_low) : best_low;
        if (has_high) out[8] = p.accumulate ? fmaxf(out[8], best_high) : best_high;
      }
      best_low = -INFINITY;
      best_high = -INFINITY;
    }
    if (mark < 0) return;
  }
}

// Larger key = better: score first, then the smaller ordinal. 0 is below every real candidate.
__device__ __forceinline__ uint64_t CandidateKey(float score, uint32_t document) {
  const uint32_t bits = __float_as_uint(score + 0.0f);  // -0 and 0 are equal
  const uint32_t ordered = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
  return static_cast<uint64_t>(ordered) << 32 | static_cast<uint32_t>(~document);
}

__device__ __forceinline__ RoutedOrdinal FromCandidateKey(uint64_t key) {
  if (key == 0) return {-INFINITY, UINT32_MAX};
  const auto ordered = static_cast<uint32_t>(key >> 32);
  return {__uint_as_float(ordered & 0x80000000u ? ordered & 0x7FFFFFFFu : ~ordered),
          ~static_cast<uint32_t>(key)};
}

// 64 keys of a warp, descending: lane l has places l and 32 + l. A warp calls together.
struct BestKeys {
  uint64_t keys[2] = {0, 0};

  // One step of a bitonic sort of elements 32 i + lane: pairs `stride` apart descend where bit
  // `size` of the element's number is 0.
  __device__ __forceinline__ void Step(int size, int stride) {
    if (stride == 32) {
      const uint64_t first = keys[0];
      keys[0] = max(first, keys[1]);
      keys[1] = min(first, keys[1]);
      return;
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int element = 32 * i + static_cast<int>(threadIdx.x % 32);
      const uint64_t other = __shfl_xor_sync(~0u, keys[i], stride);
      const bool larger = ((element & size) == 0) == ((element & stride) == 0);
      keys[i] = larger ? max(keys[i], other) : min(keys[i], other);
    }
  }

  __device__ __forceinline__ void Sort() {
#pragma unroll
    for (int size = 2; size <= 64; size *= 2) {
#pragma unroll
      for (int stride = size / 2; stride > 0; stride /= 2) Step(size, stride);
    }
  }

  // The best 64 of both.
  __device__ __forceinline__ void Merge(const BestKeys& other) {
    const uint64_t reversed[2] = {__shfl_xor_sync(~0u, other.keys[1], 31),
                                  __shfl_xor_sync(~0u, other.keys[0], 31)};
    keys[0] = max(keys[0], reversed[0]);
    keys[1] = max(keys[1], reversed[1]);
#pragma unroll
    for (int stride = 32; stride > 0; stride /= 2) Step(64, stride);
  }

  __device__ __forceinline__ bool AnyAbove(uint64_t key) const {
    return __any_sync(~0u, keys[0] > key || keys[1] > key);
  }

  // 1 <= k <= 64.
  __device__ __forceinline__ uint64_t Kth(int k) const {
    return __shfl_sync(~0u, k > 32 ? keys[1] : keys[0], (k - 1) % 32);
  }
};

// The best of all warps of a block of kSelectWarps, for the first one.
__device__ __forceinline__ void MergeWarps(BestKeys& best, uint64_t (&shared)[kSelectWarps][64]) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
#pragma unroll
  for (int n = kSelectWarps / 2; n > 0; n /= 2) {
    if (warp >= n && warp < 2 * n) {
      shared[warp][lane] = best.keys[0];
      shared[warp][32 + lane] = best.keys[1];
    }
    __syncthreads();
    if (warp < n) best.Merge({{shared[warp + n][lane], shared[warp + n][32 + lane]}});
  }
}

// candidates [questions, gridDim.x, k]: the blocks' best, descending, 0 past the last.
__global__ void __launch_bounds__(kSelectWarps * 32)
    route_documents(const RouteSegment* segments, size_t n_documents, const float* chunk_scores,
                    size_t n_scores, int k, uint64_t* candidates) {
  __shared__ uint64_t merged[kSelectWarps][64];
  GridRelease();
  GridWait();
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const float* const scores = chunk_scores + blockIdx.y * n_scores;
  DocumentCursor documents(segments, n_documents);
  BestKeys best;
  uint64_t kth = 0;
  const size_t step = size_t{gridDim.x} * kSelectWarps * 64;
  for (size_t base = (blockIdx.x * kSelectWarps + warp) * size_t{64}; base < n_documents;
       base += step) {
    BestKeys batch;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const size_t document = base + 32 * i + lane;
      const DocumentScores own = documents.Seek(document);
      const bool shares = own.end - own.begin > kOwnChunksMax;
      float score = -INFINITY;
      if (!shares) {
#pragma unroll 4
        for (size_t c = own.begin; c < own.end; ++c) score = fmaxf(score, scores[c]);
      }
      for (unsigned shared = __ballot_sync(~0u, shares); shared != 0; shared &= shared - 1) {
        const int owner = __ffs(shared) - 1;
        const size_t end = __shfl_sync(~0u, own.end, owner);
        float of = -INFINITY;
        for (size_t c = __shfl_sync(~0u, own.begin, owner) + lane; c < end; c += 32) {
          of = fmaxf(of, scores[c]);
        }
#pragma unroll
        for (int offset = 16; offset > 0; offset /= 2) {
          of = fmaxf(of, __shfl_xor_sync(~0u, of, offset));
        }
        if (lane == owner) score = of;
      }
      if (score > -INFINITY) batch.keys[i] = CandidateKey(score, static_cast<uint32_t>(document));
    }
    if (!batch.AnyAbove(kth)) continue;
    batch.Sort();
    best.Merge(batch);
    kth = best.Kth(k);
  }
  MergeWarps(best, merged);
  if (warp > 0) return;
  uint64_t* const out = candidates + (blockIdx.y * size_t{gridDim.x} + blockIdx.x) * k;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    if (32 * i + lane < k) out[32 * i + lane] = best.keys[i];
  }
}

// One block a question.
__global__ void __launch_bounds__(kSelectWarps * 32)
    route_merge(const uint64_t* candidates, int n_lists, int k, RoutedOrdinal* results) {
  __shared__ uint64_t merged[kSelectWarps][64];
  GridRelease();
  GridWait();
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const uint64_t* const in = candidates + size_t{blockIdx.x} * n_lists * k;
  BestKeys lists[kListsPerWarp];
#pragma unroll
  for (int j = 0; j < kListsPerWarp; ++j) {
    const int list = j * kSelectWarps + warp;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int place = 32 * i + lane;
      if (list < n_lists && place < k) lists[j].keys[i] = in[list * k + place];
    }
  }
  BestKeys best = lists[0];
#pragma unroll
  for (int j = 1; j < kListsPerWarp; ++j) {
    if (lists[j].AnyAbove(best.Kth(k))) best.Merge(lists[j]);
  }
  MergeWarps(best, merged);
  if (warp > 0) return;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    if (32 * i + lane < k) {
      results[size_t{blockIdx.x} * k + 32 * i + lane] = FromCandidateKey(best.keys[i]);
    }
  }
}

size_t ElementBytes(RouteKeyType type) { return type == RouteKeyType::kInt8 ? 1 : 2; }

bool IsValid(const RouteParams& p) {
  if (p.key_type != RouteKeyType::kFloat16 && p.key_type != RouteKeyType::kInt8) return false;
  const int row_bytes = p.dim * static_cast<int>(ElementBytes(p.key_type));
  if (p.dim < 1 || p.dim > kDimMax || row_bytes % 16 != 0 || p.n_segments == 0 ||
      p.columns.n_questions < 1 || p.columns.n_questions > kRouteQuestionsMax || p.top_k < 1 ||
      p.top_k > kRouteTopKMax) {
    return false;
  }
  size_t n_documents = 0;
  for (size_t s = 0; s < p.n_segments; ++s) {
    const RouteSegment& segment = p.segments[s];
    if (segment.n_chunks == 0 || segment.n_chunks >= (size_t{1} << 31) - kTileRows ||
        segment.n_documents == 0 || segment.first_document != n_documents ||
        (p.key_type == RouteKeyType::kInt8 && segment.scales == nullptr) ||
        segment.first_score + segment.n_chunks > p.n_scores) {
      return false;
    }
    n_documents += segment.n_documents;
    if (n_documents >= UINT32_MAX) return false;
  }
  return true;
}

// The scores of segments [first, end), at most kRouteSegmentsMax of them.
template <RouteKeyType kType>
cudaError_t LaunchScores(const RouteParams& p, size_t first, size_t end, int processors,
                         cudaStream_t stream) {
  const int element_bytes = static_cast<int>(ElementBytes(kType));
  const int packed_dim = RoutePackedDim(kType, p.dim);
  ScoreParams scores;
  cudaError_t error =
      EncodeTileMap(&scores.queries, p.queries, kRouteColumns, packed_dim, 2, kRouteColumns);
  if (error != cudaSuccess) return error;
  scores.n_tiles = 0;
  for (size_t s = first; s < end; ++s) {
    const RouteSegment& segment = p.segments[s];
    const size_t i = s - first;
    error = EncodeTileMap(&scores.keys[i], segment.keys, segment.n_chunks, p.dim, element_bytes,
                          kTileRows);
    if (error != cudaSuccess) return error;
    scores.scales[i] = segment.scales;
    scores.scores[i] = p.chunk_scores + segment.first_score;
    scores.n_chunks[i] = static_cast<int>(segment.n_chunks);
    scores.first_tile[i] = scores.n_tiles;
    scores.n_tiles += static_cast<int>(CeilDiv(segment.n_chunks, kTileRows));
  }
  scores.first_tile[end - first] = scores.n_tiles;
  scores.columns = p.columns;
  scores.n_stages = static_cast<int>(CeilDiv(p.dim * element_bytes, kTileRowBytes));
  scores.n_query_tiles = static_cast<int>(CeilDiv(packed_dim * 2, kTileRowBytes));
  scores.accumulate = p.accumulate;
  scores.n_scores = p.n_scores;
  scores.next_tile = p.counters;
  scores.blocks_done = p.counters + 1;
  const size_t shared = scores.n_query_tiles * kQueryTileBytes + kStages * kStageBytes + 1024;
  error = AllowShared(route_scores<kType>, shared);
  if (error != cudaSuccess) return error;
  return Launch(route_scores<kType>, dim3(std::min(scores.n_tiles, processors)), kThreads, shared,
                stream, scores);
}

}  // namespace

size_t RouteCandidateBytes(int n_questions, int top_k) {
  return static_cast<size_t>(n_questions) * kSelectBlocks * top_k * sizeof(uint64_t);
}

int RouteTopKSupported() {
  return FindCode(route_scores<RouteKeyType::kFloat16>);
}

int RouteTopKCuda(const RouteParams& p, cudaStream_t stream) {
  if (!IsValid(p)) return cudaErrorInvalidValue;
  int device = 0;
  int processors = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error != cudaSuccess) return error;
  error = cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device);
  if (error != cudaSuccess) return error;
  for (size_t first = 0; first < p.n_segments; first += kRouteSegmentsMax) {
    const size_t end = std::min(p.n_segments, first + kRouteSegmentsMax);
    error = p.key_type == RouteKeyType::kInt8
                ? LaunchScores<RouteKeyType::kInt8>(p, first, end, processors, stream)
                : LaunchScores<RouteKeyType::kFloat16>(p, first, end, processors, stream);
    if (error != cudaSuccess) return error;
  }
  if (p.more_columns) return cudaSuccess;

  const RouteSegment& last = p.segments[p.n_segments - 1];
  const size_t n_documents = last.first_document + last.n_documents;
  const unsigned lists = std::min<unsigned>(kSelectBlocks, CeilDiv(n_documents, kSelectWarps * 64));
  const auto questions = static_cast<unsigned>(p.columns.n_questions);
  auto* const candidates = static_cast<uint64_t*>(p.candidates);
  error = Launch(route_documents, dim3(lists, questions), kSelectWarps * 32, 0, stream,
                 p.device_segments, n_documents, p.chunk_scores, p.n_scores, p.top_k, candidates);
  if (error != cudaSuccess) return error;
  return Launch(route_merge, dim3(questions), kSelectWarps * 32, 0, stream, candidates,
                static_cast<int>(lists), p.top_k, p.results);
}

}  // namespace msadb::kernels
