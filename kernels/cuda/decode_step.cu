// One decoding step of one sequence in one launch: the embedding's row in, logits out.
//
// A step's products are bound by memory, which delivers only while enough of it is asked for.
// Launched one by one, each product waits for the last block of the one before; here nothing ever
// ends. The weights of a step are known from the start, so one thread of every block asks for the
// block's rows of all products, one after the other, into a ring in shared memory. It has room for
// some 180 KB a multiprocessor, 6 us of its part of the bandwidth, which is what passes between two
// products without the memory standing still. No more of it is asked for at once than keeps the
// memory busy: whatever blocks exchange meanwhile waits behind that. The other warps take what is
// ready several times faster than memory delivers.
//
// Between products every block needs every other's results. They travel in words of 64 bits, a
// value and the number of the layer since the start (`epoch`), written and read whole: whoever
// finds the epoch has the value. So a result is one write and one read away, without barriers or
// fences. A word is written again one layer later, when all blocks have published something that
// they computed after reading it (every block has rows of every product).
//
// All blocks are on the device together, one on each multiprocessor. Residual sums stay in the
// block that owns their rows. The last token's key and value go to the cache on the way.
#include <algorithm>
#include <type_traits>

#include "kernels/cuda/attention_query.cuh"
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/launch.h"

namespace msadb::kernels::cuda {
namespace {

constexpr unsigned kWarps = 10;  // that compute
constexpr unsigned kThreads = 32 * kWarps;
constexpr unsigned kLaunched = kThreads + 32;  // and one that asks for weights
constexpr int kGroupMax = 2;                   // query heads that share a reading of the keys
constexpr unsigned kKeysPerSplit = 64;

// Eight parts of rows of weights go through a matrix instruction together: a group of one, two or
// four rows, each in as many segments of its columns as make it eight (Cut). A step is 64 bytes of
// each. A tile is about kTileBytes of whole groups, rows that follow each other: one copy, since
// asking for one takes as long for 64 bytes as for 20 KB.
constexpr unsigned kParts = 8;
constexpr unsigned kStepBytes = 64;
constexpr unsigned kStepCols = kStepBytes / sizeof(bf16);
constexpr unsigned kTileBytes = 20 * 1024;
constexpr unsigned kStepsHeld = 4;  // of a segment, by a warp at a time
constexpr unsigned kSlotsMax = 16;
// Tiles under way at once. What blocks exchange would queue behind more of them.
constexpr unsigned kUnderWay = 2;
constexpr size_t kDynamicShared = 222 * 1024;
constexpr int kHeld = 7;    // pairs of a normalised row that a thread holds
constexpr int kAtOnce = 8;  // pairs of words that a thread waits for together
// The head is as many products, so that logits leave while others are computed.
constexpr unsigned kHeadParts = 8;
constexpr unsigned kLayerProducts = 4;

struct Params {
  const bf16* state;  // [hidden]: the embedding's row
  const float* final_norm;
  const uint8_t* head;
  float* logits;
  unsigned vocab, hidden, inner, heads, kv_heads, layers;
  unsigned group;  // query heads of a kv head
  unsigned sets;   // of kGroupMax heads, of a kv head
  float epsilon;
  float scale_log2;      // attention's, times log2(e)
  const float* cosines;  // [head_dim / 2]
  const float* sines;
  // Words: the projections as they are; attention's outputs and the MLP's gated ones as pairs of
  // bfloat16; residual sums after the attention and after the MLP.
  uint64_t *projected, *attended, *middle, *gated, *output;
  uint64_t*
      partial;  // attention over a part of the keys: [item][split][kGroupMax][head_dim + 2] float32
  uint32_t epoch;  // of the first layer; not 0
  unsigned staged_bytes;
  unsigned slots;
  unsigned slot_bytes;
  unsigned sums;
  DecodeStepLayer layer[kDecodeStepLayersMax];
};

// --- Words ---

__device__ __forceinline__ uint64_t Word(uint32_t value, uint32_t epoch) {
  return uint64_t{epoch} << 32 | value;
}

// Waits for the pairs of words place(i) and place(i) + 1, i = begin + j * kEvery, j < kCount, as
// far as i is below `count`, and calls use(j, i, value, value) for each. place(i) is even.
template <int kCount, unsigned kEvery, typename Place, typename Use>
__device__ __forceinline__ void AwaitSome(const uint64_t* words, unsigned begin, unsigned count,
                                          uint32_t epoch, const Place& place, const Use& use) {
  ulonglong2 pair[kCount];
#pragma unroll
  for (int j = 0; j < kCount; ++j) {
    const unsigned i = begin + j * kEvery;
    pair[j] = {};
    if (i < count) pair[j] = LoadWords(words + place(i));
  }
  const auto there = [&](uint64_t word) { return static_cast<uint32_t>(word >> 32) == epoch; };
  for (bool all = false; !all;) {
    all = true;
#pragma unroll
    for (int j = 0; j < kCount; ++j) {
      const unsigned i = begin + j * kEvery;
      if (i < count && !(there(pair[j].x) && there(pair[j].y))) {
        all = false;
        pair[j] = LoadWords(words + place(i));
      }
    }
    if (!all) Pause();
  }
#pragma unroll
  for (int j = 0; j < kCount; ++j) {
    const unsigned i = begin + j * kEvery;
    if (i < count) use(j, i, static_cast<uint32_t>(pair[j].x), static_cast<uint32_t>(pair[j].y));
  }
}

// use(i, value, value) of the pairs place(i) of i = thread, thread + kThreads, ... below `count`,
// kCount at once.
template <int kCount, typename Place, typename Use>
__device__ __forceinline__ void Await(const uint64_t* words, unsigned count, uint32_t epoch,
                                      const Place& place, const Use& use) {
  for (unsigned begin = threadIdx.x; begin < count; begin += kCount * kThreads) {
    AwaitSome<kCount, kThreads>(
        words, begin, count, epoch, place,
        [&](int, unsigned i, uint32_t low, uint32_t high) { use(i, low, high); });
  }
}

struct InPlace {
  __device__ __forceinline__ unsigned operator()(unsigned i) const { return 2 * i; }
};

// --- Products ---

__device__ __forceinline__ unsigned RowOfBlock(unsigned rows, unsigned block) {
  return rows * block / gridDim.x;
}

// The kinds of products: those of a layer, then the parts of the head.
constexpr unsigned kKinds = kLayerProducts + kHeadParts;

// How rows of weights are cut. All segments are `steps` steps long, but for the last ones, where
// the row ends.
struct Cut {
  unsigned segments;  // of a row: 2, 4 or 8
  unsigned steps;
  unsigned groups;  // of a tile
  __host__ __device__ constexpr unsigned group_rows() const { return kParts / segments; }
  __host__ __device__ constexpr unsigned tile_rows() const { return groups * group_rows(); }
  // Of a row's sums in shared memory: one for each segment and warp, and such that eight rows'
  // begin in different banks.
  __host__ __device__ constexpr unsigned sums() const {
    return segments * kWarps + (segments > 2 ? 4 : 0);
  }
};
__host__ __device__ constexpr Cut CutOf(size_t cols) {
  const size_t row_bytes = cols * sizeof(bf16);
  unsigned segments = 2;
  while (segments < kParts && kParts / segments * row_bytes > kTileBytes) segments *= 2;
  const auto groups = static_cast<unsigned>(kTileBytes / (kParts / segments * row_bytes));
  return {segments, CeilDiv(cols, kStepCols * segments), groups > 0 ? groups : 1};
}

// A block's rows of products of a kind.
struct Share {
  unsigned row_bytes;
  unsigned first_row;
  unsigned n_rows;
  unsigned all_rows;  // gated: those of the gate, then as many of the up projection
  Cut cut;
};

template <unsigned kHeadDim>
__device__ __forceinline__ Share ShareOf(const Params& p, unsigned kind) {
  unsigned rows = p.hidden, cols = p.hidden, begin = 0, unit = 1;
  switch (kind) {
    case 0:
      rows = (p.heads + 2 * p.kv_heads) * kHeadDim;
      break;
    case 1:
      cols = p.heads * kHeadDim;
      break;
    case 2:
      rows = p.inner;
      unit = 2;  // outputs leave in pairs
      break;
    case 3:
      cols = p.inner;
      break;
    default: {
      const unsigned part = kind - kLayerProducts;
      begin = static_cast<unsigned>(uint64_t{p.vocab} * part / kHeadParts);
      rows = static_cast<unsigned>(uint64_t{p.vocab} * (part + 1) / kHeadParts) - begin;
    }
  }
  const unsigned first = RowOfBlock(rows / unit, blockIdx.x) * unit;
  const unsigned n_rows = RowOfBlock(rows / unit, blockIdx.x + 1) * unit - first;
  return {cols * unsigned{sizeof(bf16)}, begin + first, n_rows, kind == 2 ? 2 * n_rows : n_rows,
          CutOf(cols)};
}

__device__ __forceinline__ unsigned KindOf(const Params& p, unsigned product) {
  return product < kLayerProducts * p.layers ? product % kLayerProducts
                                             : product - kLayerProducts * (p.layers - 1);
}

__device__ __forceinline__ const uint8_t* WeightsOf(const Params& p, unsigned product) {
  if (product >= kLayerProducts * p.layers) return p.head;
  const DecodeStepLayer& layer = p.layer[product / kLayerProducts];
  const unsigned kind = product % kLayerProducts;
  return static_cast<const uint8_t*>(kind == 0   ? layer.qkv
                                     : kind == 1 ? layer.output
                                     : kind == 2 ? layer.gate_up
                                                 : layer.down);
}

template <unsigned kHeadDim>
__global__ void __launch_bounds__(kLaunched, 1) DecodeStepKernel(const __grid_constant__ Params p) {
  auto* const shared = DynamicShared<uint8_t>();
  __shared__ uint64_t filled[kSlotsMax];   // by copies
  __shared__ uint64_t emptied[kSlotsMax];  // by the warps that compute
  __shared__ Share shares[kKinds];
  __shared__ float norm_sums[kWarps];
  auto* const staged = reinterpret_cast<bf16*>(shared);  // a product's inputs
  uint8_t* const ring = shared + p.staged_bytes;
  auto* const sums = reinterpret_cast<float*>(ring + p.slots * p.slot_bytes);
  float* const residual = sums + p.sums;  // of this block's rows of the hidden state
  const unsigned thread = threadIdx.x, warp = thread / 32, lane = thread % 32;

  if (thread < p.slots) {
    BarrierInit(&filled[thread], 1);
    BarrierInit(&emptied[thread], kThreads);
    BarrierInitFence();
  }
  if (thread < kKinds) shares[thread] = ShareOf<kHeadDim>(p, thread);
  __syncthreads();
  unsigned slot = 0;
  uint32_t parity = 0;
  const auto next_slot = [&] {
    if (++slot == p.slots) {
      slot = 0;
      parity ^= 1;
    }
  };

  if (warp == kWarps) {
    const unsigned products = lane == 0 ? kLayerProducts * p.layers + kHeadParts : 0;
    unsigned under_way = 0;
    unsigned awaited = 0;  // the slot of the first of these
    uint32_t awaited_parity = 0;
    for (unsigned product = 0; product < products; ++product) {
      const unsigned kind = KindOf(p, product);
      const Share share = shares[kind];
      const unsigned tile_rows = share.cut.tile_rows();
      const uint8_t* from = WeightsOf(p, product) + size_t{share.first_row} * share.row_bytes;
      // Gated: what lies between the gate's rows and those of the up projection.
      const size_t skipped = kind == 2 ? size_t{p.inner - share.n_rows} * share.row_bytes : 0;
      for (unsigned row = 0; row < share.all_rows; row += tile_rows) {
        const unsigned rows = min(tile_rows, share.all_rows - row);
        const unsigned bytes = rows * share.row_bytes;
        const unsigned low = min(rows, max(row, share.n_rows) - row) * share.row_bytes;
        if (under_way < min(kUnderWay, p.slots)) {
          ++under_way;
        } else {
          BarrierWait(&filled[awaited], awaited_parity);
          if (++awaited == p.slots) {
            awaited = 0;
            awaited_parity ^= 1;
          }
        }
        BarrierWait(&emptied[slot], parity ^ 1);
        BarrierExpect(&filled[slot], bytes);
        uint8_t* const to = ring + slot * p.slot_bytes;
        if (low > 0) CopyBulk(to, from, low, &filled[slot]);
        if (low < bytes) CopyBulk(to + low, from + low + skipped, bytes - low, &filled[slot]);
        from += bytes;
        next_slot();
      }
    }
    __syncthreads();  // stays until what it asked for has been read
    return;
  }
  const auto sync = [] { SyncSome<1>(kThreads); };

  for (unsigned i = thread; i < shares[1].n_rows; i += kThreads) {
    residual[i] = ToFloat(p.state[shares[1].first_row + i]);
  }

  // The normalised hidden state. Without words it is the embedding's row.
  const auto stage_norm = [&](const float* norm, const uint64_t* words, uint32_t epoch) {
    const unsigned pairs = p.hidden / 2;
    float2 factors[kHeld], held[kHeld];
#pragma unroll
    for (int j = 0; j < kHeld; ++j) {
      const unsigned i = thread + j * kThreads;
      factors[j] = held[j] = {};
      if (i < pairs) factors[j] = __ldg(reinterpret_cast<const float2*>(norm) + i);
      if (i < pairs && words == nullptr) {
        const uint32_t pair = reinterpret_cast<const uint32_t*>(p.state)[i];
        held[j] = {Low(pair), High(pair)};
      }
    }
    if (words != nullptr) {
      AwaitSome<kHeld, kThreads>(words, thread, pairs, epoch, InPlace(),
                                 [&](int j, unsigned, uint32_t low, uint32_t high) {
                                   held[j] = {__uint_as_float(low), __uint_as_float(high)};
                                 });
    }
    float squares = 0;
#pragma unroll
    for (int j = 0; j < kHeld; ++j) squares += held[j].x * held[j].x + held[j].y * held[j].y;
    squares = WarpSum(squares);
    if (lane == 0) norm_sums[warp] = squares;
    sync();
    float sum = 0;
#pragma unroll
    for (unsigned w = 0; w < kWarps; ++w) sum += norm_sums[w];
    const float scale = rsqrtf(sum / static_cast<float>(p.hidden) + p.epsilon);
#pragma unroll
    for (int j = 0; j < kHeld; ++j) {
      const unsigned i = thread + j * kThreads;
      if (i < pairs) {
        reinterpret_cast<uint32_t*>(staged)[i] =
            Pack(held[j].x * scale * factors[j].x, held[j].y * scale * factors[j].y);
      }
    }
    sync();
  };
  const auto stage_pairs = [&](const uint64_t* words, unsigned values, uint32_t epoch) {
    Await<kAtOnce>(words, values / 4, epoch, InPlace(),
                   [&](unsigned i, uint32_t low, uint32_t high) {
                     reinterpret_cast<uint2*>(staged)[i] = {low, high};
                   });
    sync();
  };

  // The block's rows of a product. Weights are the first operand of the matrix instructions: a lane
  // reads 16 bytes of a part, of which the first and third word stand for a row of it, the others
  // for the row 8 below. Inputs are the second operand: a segment has two columns, one for each
  // half of the words. So a part's sum is that of two results, which the same lane has. There is
  // room for the columns of four segments; kHalves: 2 for eight. Warps divide the steps of a
  // segment; sums[row][segment][warp] are their parts. kOnce: a warp holds its inputs while the
  // rows pass.
  constexpr unsigned kPass = kStepsHeld * kWarps;
  const auto multiply_as = [&](const Share& share, auto halves, auto once) {
    constexpr unsigned kHalves = decltype(halves)::value;
    constexpr bool kOnce = decltype(once)::value;
    constexpr unsigned kApart = kWarps * kStepBytes;  // the steps of a warp
    static_assert(kWarps % 2 == 0);
    const unsigned segments = share.cut.segments, steps = share.cut.steps;
    const unsigned row_bytes = share.row_bytes, row_sums = share.cut.sums();
    const unsigned group_rows = share.cut.group_rows(), tile_groups = share.cut.groups;
    // Where this lane begins to read a segment, and where the segment ends. Neighbours would meet
    // in the same banks when an even number of steps lies between them: of two steps the odd ones
    // read the second first.
    const auto begin_of = [&](unsigned segment) {
      const unsigned first = warp ^ (steps % 2 == 0 ? segment % 2 : 0);
      return (segment * steps + first) * kStepBytes + lane % 4 * 16;
    };
    const auto end_of = [&](unsigned segment) {
      return min((segment + 1) * steps * kStepBytes, row_bytes);
    };
    uint2 given[kHalves][kStepsHeld] = {};
    const auto load_inputs = [&](unsigned passed) {
#pragma unroll
      for (unsigned half = 0; half < kHalves; ++half) {
        const unsigned segment = half * 4 + lane / 8;
        const unsigned begin = begin_of(segment) + passed;
        const unsigned end = segment < segments ? end_of(segment) : 0;
#pragma unroll
        for (unsigned i = 0; i < kStepsHeld; ++i) {
          given[half][i] = {};
          if (begin + i * kApart < end) {
            const uint4 all = *reinterpret_cast<const uint4*>(shared + begin + i * kApart);
            given[half][i] = lane / 4 % 2 == 0 ? uint2{all.x, all.z} : uint2{all.y, all.w};
          }
        }
      }
    };
    if (kOnce) load_inputs(0);

    const unsigned segment = lane / 4 % segments, row_of_group = lane / 4 / segments;
    const unsigned begin = begin_of(segment), end = end_of(segment);
    const unsigned offset = row_of_group * row_bytes + begin;
    float* sum = sums + row_of_group * row_sums + segment * kWarps + warp;
    // Rows that this lane has a sum of, those before it in their groups counted too.
    const unsigned rows = lane % 4 == segment % 4 ? share.all_rows : 0;
    uint4 words[kStepsHeld] = {};  // where a segment has no such step, they stay zero
    unsigned row = row_of_group;
    for (unsigned left = CeilDiv(share.all_rows, group_rows); left > 0;) {
      unsigned groups = min(left, tile_groups);
      left -= groups;
      const uint8_t* tile = ring + slot * p.slot_bytes + offset;
      BarrierWait(&filled[slot], parity);
#pragma unroll 1
      for (; groups > 0; --groups) {
        // A row that is not there has no weights in this tile.
        const unsigned row_end = row < share.all_rows ? end : 0;
        float acc[kHalves][2][4] = {};
        for (unsigned passed = 0; passed < (kOnce ? 1 : steps * kStepBytes);
             passed += kPass * kStepBytes) {
          if (!kOnce) load_inputs(passed);
#pragma unroll
          for (unsigned i = 0; i < kStepsHeld; ++i) {
            if (!kOnce) words[i] = {};
            if (begin + passed + i * kApart < row_end) {
              words[i] = *reinterpret_cast<const uint4*>(tile + passed + i * kApart);
            }
          }
          if (groups == 1 && (kOnce || passed + kPass * kStepBytes >= steps * kStepBytes)) {
            // Each lane for what it read itself.
            BarrierArrive(&emptied[slot]);
          }
#pragma unroll
          for (unsigned i = 0; i < kStepsHeld; ++i) {
#pragma unroll
            for (unsigned half = 0; half < kHalves; ++half) {
              Multiply(acc[half][i % 2], {words[i].x, words[i].y, words[i].z, words[i].w},
                       given[half][i].x, given[half][i].y);
            }
          }
        }
        float results[kHalves];
#pragma unroll
        for (unsigned half = 0; half < kHalves; ++half) {
          results[half] = (acc[half][0][0] + acc[half][1][0]) + (acc[half][0][3] + acc[half][1][3]);
        }
        if (row < rows) *sum = segment < 4 ? results[0] : results[kHalves - 1];
        row += group_rows;
        sum += group_rows * row_sums;
        tile += group_rows * row_bytes;
      }
      next_slot();
    }
    sync();
  };
  const auto multiply = [&](const Share& share) {
    constexpr std::integral_constant<unsigned, 1> kOne;
    constexpr std::integral_constant<unsigned, 2> kTwo;
    if (share.cut.steps > kPass) {
      multiply_as(share, kTwo, std::false_type());
    } else if (share.cut.segments > 4) {
      multiply_as(share, kTwo, std::true_type());
    } else {
      multiply_as(share, kOne, std::true_type());
    }
  };
  const auto sum_of = [&](const Share& share, unsigned row) {
    const auto* const parts = reinterpret_cast<const float4*>(sums + row * share.cut.sums());
    float4 sum = {};
    for (unsigned i = 0; i < share.cut.segments * kWarps / 4; i += kWarps / 2) {
#pragma unroll
      for (unsigned j = 0; j < kWarps / 2; ++j) {
        const float4 part = parts[i + j];
        sum.x += part.x;
        sum.y += part.y;
        sum.z += part.z;
        sum.w += part.w;
      }
    }
    return (sum.x + sum.y) + (sum.z + sum.w);
  };

  // Attention. The keys of a kv head and a set of its query heads are divided among `splits`
  // blocks. Within a warp, kLanes lanes hold one key's dimensions, 8 each; keys are dealt out to
  // these lane groups, each of which keeps its own running softmax. They merge by (maximum, sum,
  // weighted values): lane groups, warps, blocks.
  const auto attend = [&](const DecodeStepLayer& layer, uint32_t epoch) {
    constexpr unsigned kLanes = kHeadDim / 8;
    constexpr unsigned kKeysPerWarp = 32 / kLanes;  // at a time
    constexpr unsigned kStep = kWarps * kKeysPerWarp;
    constexpr unsigned kRow = kHeadDim + 2;
    constexpr int kUnroll = 4;  // keys and values of a lane under way
    // In the place of a product's inputs.
    float(*const merged)[kGroupMax][kRow] = reinterpret_cast<float(*)[kGroupMax][kRow]>(shared);
    auto* const projected =
        reinterpret_cast<bf16*>(shared + sizeof(float) * kWarps * kGroupMax * kRow);
    const unsigned slot = lane / kLanes, begin = lane % kLanes * 8;
    const auto* const all_keys = static_cast<const bf16*>(layer.k);
    const auto* const all_values = static_cast<const bf16*>(layer.v);
    const unsigned keys = layer.keys, stored = keys - 1;  // the last one is this step's
    const unsigned items = p.kv_heads * p.sets;
    const unsigned splits =
        max(1u, min(gridDim.x / items, (keys + kKeysPerSplit - 1) / kKeysPerSplit));
    const unsigned share = (keys + splits - 1) / splits;
    for (unsigned part = blockIdx.x; part < items * splits; part += gridDim.x) {
      const unsigned item = part / splits, split = part % splits;
      const unsigned key_begin = min(keys, split * share), key_end = min(keys, key_begin + share);
      const unsigned kv_head = item / p.sets, set = item % p.sets;
      const unsigned first_head = kv_head * p.group + set * kGroupMax;
      const unsigned n_heads = min(unsigned{kGroupMax}, p.group - set * kGroupMax);
      const size_t head_offset = kv_head * size_t{kHeadDim} + begin;
      uint4 key_words[kUnroll], value_words[kUnroll];
      const auto load = [&](unsigned base) {
#pragma unroll
        for (int u = 0; u < kUnroll; ++u) {
          const unsigned at = base + u * kStep + warp * kKeysPerWarp + slot;
          if (at < min(key_end, stored)) {
            key_words[u] = *reinterpret_cast<const uint4*>(all_keys + at * size_t{layer.k_stride} +
                                                           head_offset);
            value_words[u] = *reinterpret_cast<const uint4*>(
                all_values + at * size_t{layer.v_stride} + head_offset);
          }
        }
      };
      load(key_begin);
      float cosine[8], sine[8];
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        cosine[i] = __ldg(p.cosines + begin % (kHeadDim / 2) + i);
        sine[i] = __ldg(p.sines + begin % (kHeadDim / 2) + i);
      }
      float q_factors[8], k_factors[8];
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        q_factors[i] = layer.q_norm != nullptr ? __ldg(layer.q_norm + begin + i) : 1.0f;
        k_factors[i] = layer.k_norm != nullptr ? __ldg(layer.k_norm + begin + i) : 1.0f;
      }
      // The set's queries, the key and the value, as they were projected.
      const unsigned n_queries = n_heads * kHeadDim;
      const auto place = [&](unsigned i) {
        i *= 2;
        return i < n_queries ? first_head * kHeadDim + i
               : i < n_queries + kHeadDim
                   ? (p.heads + kv_head) * kHeadDim + i - n_queries
                   : (p.heads + p.kv_heads + kv_head) * kHeadDim + i - n_queries - kHeadDim;
      };
      Await<1>(p.projected, n_queries / 2 + kHeadDim, epoch, place,
               [&](unsigned i, uint32_t low, uint32_t high) {
                 reinterpret_cast<uint32_t*>(projected)[i] =
                     Pack(__uint_as_float(low), __uint_as_float(high));
               });
      sync();
      const auto head_of = [&](unsigned h) {
        return *reinterpret_cast<const uint4*>(projected + h * kHeadDim + begin);
      };
      const uint4 new_value = head_of(n_heads + 1);
      const uint4 new_key = Rotated<kLanes>(head_of(n_heads), layer.k_norm != nullptr, k_factors,
                                            begin, p.epsilon, cosine, sine);
      if (key_end == keys && key_begin < keys && set == 0 && warp == 0 && slot == 0) {
        auto* const to_k = static_cast<bf16*>(layer.k) + stored * size_t{layer.k_stride};
        auto* const to_v = static_cast<bf16*>(layer.v) + stored * size_t{layer.v_stride};
        *reinterpret_cast<uint4*>(to_k + head_offset) = new_key;
        *reinterpret_cast<uint4*>(to_v + head_offset) = new_value;
      }
      float q[kGroupMax][8];
      Softmax<kGroupMax, kLanes> softmax;
      softmax.Clear();
#pragma unroll
      for (int h = 0; h < kGroupMax; ++h) {
        const uint4 query =
            Rotated<kLanes>(head_of(min(unsigned(h), n_heads - 1)), layer.q_norm != nullptr,
                            q_factors, begin, p.epsilon, cosine, sine);
        Unpack8(query, q[h]);
#pragma unroll
        for (int i = 0; i < 8; ++i) q[h][i] *= p.scale_log2;
      }
      for (unsigned base = key_begin; base < key_end; base += kStep * kUnroll) {
        if (base > key_begin) load(base);
#pragma unroll
        for (int u = 0; u < kUnroll; ++u) {
          const unsigned first = base + u * kStep + warp * kKeysPerWarp;
          if (first >= key_end) break;
          const bool valid = first + slot < key_end;
          if (first + slot == stored) {
            key_words[u] = new_key;
            value_words[u] = new_value;
          }
          softmax.Add(q, key_words[u], value_words[u], valid);
        }
      }
      softmax.Leave(merged[warp]);
      sync();
      uint64_t* const to_attended = p.attended + first_head * kHeadDim / 2;
      uint64_t* const to_partial = p.partial + size_t{part} * kGroupMax * kRow;
      for (unsigned i = thread; i < n_queries / 2; i += kThreads) {
        const unsigned h = 2 * i / kHeadDim, d = 2 * i % kHeadDim;
        float top = -INFINITY, sum = 0, low = 0, high = 0;
#pragma unroll
        for (unsigned w = 0; w < kWarps; ++w) top = fmaxf(top, merged[w][h][kHeadDim]);
#pragma unroll
        for (unsigned w = 0; w < kWarps; ++w) {
          const float warp_m = merged[w][h][kHeadDim];
          const float weight = warp_m == -INFINITY ? 0.0f : exp2f(warp_m - top);
          sum += weight * merged[w][h][kHeadDim + 1];
          low += weight * merged[w][h][d];
          high += weight * merged[w][h][d + 1];
        }
        if (splits == 1) {
          StoreWord(to_attended + i, Word(Pack(low / sum, high / sum), epoch));
          continue;
        }
        const auto publish = [&](unsigned at, float value) {
          StoreWord(to_partial + h * kRow + at, Word(__float_as_uint(value), epoch));
        };
        publish(d, low);
        publish(d + 1, high);
        if (d == 0) {
          publish(kHeadDim, top);
          publish(kHeadDim + 1, sum);
        }
      }
      if (splits > 1) {
        // Each block finishes a share of the values, a thread one word of all blocks.
        const unsigned pairs = n_queries / 2, pairs_share = (pairs + splits - 1) / splits;
        const unsigned pair_end = min(pairs, (split + 1) * pairs_share);
        const uint64_t* const all = p.partial + size_t{part - split} * kGroupMax * kRow;
        for (unsigned i = split * pairs_share + thread; i < pair_end; i += kThreads) {
          const unsigned h = 2 * i / kHeadDim, d = 2 * i % kHeadDim;
          float top = -INFINITY, sum = 0, low = 0, high = 0;
          for (unsigned from = 0; from < splits; from += 4) {
            float values[4][4];  // low, high, maximum, sum
            const unsigned n = min(4u, splits - from);
            AwaitSome<8, 1>(
                all, 0, 2 * n, epoch,
                [&](unsigned j) {
                  return ((from + j / 2) * kGroupMax + h) * kRow + (j % 2 == 0 ? d : kHeadDim);
                },
                [&](int j, unsigned, uint32_t a, uint32_t b) {
                  values[j / 2][j % 2 * 2] = __uint_as_float(a);
                  values[j / 2][j % 2 * 2 + 1] = __uint_as_float(b);
                });
#pragma unroll
            for (unsigned s = 0; s < 4; ++s) {
              if (s >= n) break;
              float mine, other;
              MergeWeights(top, values[s][2], mine, other);
              sum = sum * mine + values[s][3] * other;
              low = low * mine + values[s][0] * other;
              high = high * mine + values[s][1] * other;
            }
          }
          StoreWord(to_attended + i, Word(Pack(low / sum, high / sum), epoch));
        }
      }
      sync();  // before another part's projections
    }
  };

  // One place for each kind of code: all of it together must stay near the multiprocessor.
  for (unsigned product = 0; product < kLayerProducts * p.layers + kHeadParts; ++product) {
    const unsigned kind = KindOf(p, product);
    const unsigned l = min(product / kLayerProducts, p.layers - 1);
    const DecodeStepLayer& layer = p.layer[l];
    const uint32_t epoch = p.epoch + l;
    if (kind == 1) attend(layer, epoch);
    if (kind == 1 || kind == 3) {
      stage_pairs(kind == 1 ? p.attended : p.gated, kind == 1 ? p.heads * kHeadDim : p.inner,
                  epoch);
    } else if (kind <= kLayerProducts) {  // of the head's parts the first
      const float* const norm = kind == 0   ? layer.input_norm
                                : kind == 2 ? layer.post_attention_norm
                                            : p.final_norm;
      stage_norm(norm,
                 product == 0 ? nullptr
                 : kind == 2  ? p.middle
                              : p.output,
                 kind == 0 ? epoch - 1 : epoch);
    }
    const Share& share = shares[kind];
    multiply(share);
    for (unsigned first = 0; first < share.n_rows; first += kThreads) {
      const unsigned i = first + thread, row = share.first_row + i;
      const bool own = i < share.n_rows;
      float value = own ? sum_of(share, i) : 0.0f;
      if (kind == 2) {
        // Rounded as if both halves had been stored in between.
        const float gate = ToFloat(FromFloat<bf16>(value));
        const float up = own ? ToFloat(FromFloat<bf16>(sum_of(share, share.n_rows + i))) : 0.0f;
        value = gate / (1.0f + __expf(-gate)) * up;
        const float next = __shfl_xor_sync(~0u, value, 1);
        if (own && i % 2 == 0) StoreWord(p.gated + row / 2, Word(Pack(value, next), epoch));
      } else if (own && kind == 0) {
        value = ToFloat(FromFloat<bf16>(value));
        StoreWord(p.projected + row, Word(__float_as_uint(value), epoch));
      } else if (own && kind < kLayerProducts) {
        value = residual[i] += value;
        StoreWord((kind == 1 ? p.middle : p.output) + row, Word(__float_as_uint(value), epoch));
      } else if (own) {
        p.logits[row] = value;
      }
    }
    if (kind >= kLayerProducts) sync();  // before the next part's sums
  }
  __syncthreads();
}

// What a launch needs, and the kernel for it.
struct Plan {
  void (*kernel)(Params) = nullptr;
  unsigned staged_bytes = 0, slots = 0, slot_bytes = 0, sums = 0;
  size_t shared = 0;
};

template <unsigned kHeadDim>
cudaError_t MakePlan(const DecodeStepParams& s, Plan* plan) {
  plan->kernel = DecodeStepKernel<kHeadDim>;
  const size_t inputs = std::max({s.hidden, s.inner, s.heads * kHeadDim}) * sizeof(bf16);
  const size_t attention = sizeof(float) * kWarps * kGroupMax * (kHeadDim + 2) +
                           sizeof(bf16) * (kGroupMax + 2) * kHeadDim;
  plan->staged_bytes = CeilDiv(std::max(inputs, attention), 128) * 128;
  const size_t blocks = s.multiprocessors;
  const size_t qkv = (s.heads + 2 * s.kv_heads) * kHeadDim;
  const size_t residual = CeilDiv(s.hidden, blocks);
  const Cut of_hidden = CutOf(s.hidden), of_heads = CutOf(s.heads * kHeadDim),
            of_inner = CutOf(s.inner);
  plan->sums = static_cast<unsigned>(std::max(
      {of_hidden.sums() * std::max({CeilDiv(qkv, blocks), 4 * CeilDiv(s.inner / 2, blocks),
                                    CeilDiv(CeilDiv(s.vocab, kHeadParts), blocks)}),
       of_heads.sums() * CeilDiv(s.hidden, blocks), of_inner.sums() * CeilDiv(s.hidden, blocks)}));
  const size_t tile = sizeof(bf16) * std::max({of_hidden.tile_rows() * s.hidden,
                                               of_heads.tile_rows() * s.heads * kHeadDim,
                                               of_inner.tile_rows() * s.inner});
  plan->slot_bytes = CeilDiv(tile, 128) * 128;
  const size_t others = plan->staged_bytes + (plan->sums + residual) * sizeof(float);
  if (others + 2 * size_t{plan->slot_bytes} > kDynamicShared) return cudaErrorInvalidConfiguration;
  plan->slots = static_cast<unsigned>(
      std::min<size_t>((kDynamicShared - others) / plan->slot_bytes, kSlotsMax));
  plan->shared = others + size_t{plan->slots} * plan->slot_bytes;
  const bool allowed = AllowShared(plan->kernel, plan->shared) == cudaSuccess;
  return allowed ? cudaSuccess : cudaErrorInvalidConfiguration;
}

// Parts of the attention that there may be at once.
size_t Parts(const DecodeStepParams& s) {
  const size_t items = s.kv_heads * CeilDiv(s.heads / s.kv_heads, kGroupMax);
  return std::max(items, s.multiprocessors);
}

}  // namespace

size_t DecodeStepWords(const DecodeStepParams& s) {
  const size_t q_dim = s.heads * s.head_dim;
  return q_dim + 2 * s.kv_heads * s.head_dim + q_dim / 2 + 2 * s.hidden + s.inner / 2 +
         Parts(s) * kGroupMax * (s.head_dim + 2);
}

bool DecodeStepFits(const DecodeStepParams& s) {
  const size_t q_dim = s.heads * s.head_dim;
  const auto whole_steps = [](size_t cols) { return cols > 0 && cols % kStepCols == 0; };
  if (s.layer_count == 0 || s.layer_count > kDecodeStepLayersMax || s.kv_heads == 0 ||
      s.heads % s.kv_heads != 0 || (s.head_dim != 64 && s.head_dim != 128) ||
      !whole_steps(s.hidden) || !whole_steps(s.inner) || !whole_steps(q_dim) ||
      s.hidden > 2 * kHeld * kThreads || s.hidden < s.multiprocessors ||
      s.inner / 2 < s.multiprocessors || q_dim < s.multiprocessors || s.vocab > (1u << 30)) {
    return false;
  }
  const auto aligned = [](const void* data, size_t stride) {
    return reinterpret_cast<uintptr_t>(data) % 16 == 0 && stride % 8 == 0;
  };
  return std::all_of(s.layers, s.layers + s.layer_count, [&](const DecodeStepLayer& layer) {
    return layer.keys > 0 && layer.keys <= kDecodeStepKeysMax && aligned(layer.k, layer.k_stride) &&
           aligned(layer.v, layer.v_stride);
  });
}

cudaError_t LaunchDecodeStep(const DecodeStepParams& s, uint64_t* words, uint32_t epoch,
                             cudaStream_t stream) {
  Plan plan;
  const cudaError_t error = s.head_dim == 64 ? MakePlan<64>(s, &plan) : MakePlan<128>(s, &plan);
  if (error != cudaSuccess) return error;
  Params p = {};
  p.state = static_cast<const bf16*>(s.state);
  p.final_norm = s.final_norm;
  p.head = static_cast<const uint8_t*>(s.head);
  p.logits = s.logits;
  p.vocab = static_cast<unsigned>(s.vocab);
  p.hidden = static_cast<unsigned>(s.hidden);
  p.inner = static_cast<unsigned>(s.inner);
  p.heads = static_cast<unsigned>(s.heads);
  p.kv_heads = static_cast<unsigned>(s.kv_heads);
  p.layers = static_cast<unsigned>(s.layer_count);
  p.group = p.heads / p.kv_heads;
  p.sets = CeilDiv(p.group, kGroupMax);
  p.epsilon = s.epsilon;
  p.scale_log2 = s.scale * 1.4426950408889634f;
  p.cosines = s.cosines;
  p.sines = s.sines;
  const size_t q_dim = s.heads * s.head_dim;
  p.projected = words;
  p.attended = p.projected + q_dim + 2 * s.kv_heads * s.head_dim;
  p.middle = p.attended + q_dim / 2;
  p.output = p.middle + s.hidden;
  p.gated = p.output + s.hidden;
  p.partial = p.gated + s.inner / 2;
  p.epoch = epoch;
  p.staged_bytes = plan.staged_bytes;
  p.slots = plan.slots;
  p.slot_bytes = plan.slot_bytes;
  p.sums = plan.sums;
  std::copy_n(s.layers, s.layer_count, p.layer);
  return LaunchTogether(plan.kernel, static_cast<unsigned>(s.multiprocessors), kLaunched,
                        plan.shared, stream, p);
}

}  // namespace msadb::kernels::cuda
