// One decoding step of one sequence in one launch: the embedding's row in, logits out.
//
// A step's products are bound by memory, which delivers only while enough of it is asked for.
// Launched one by one, each product waits for the last block of the one before; here nothing ever
// ends. The weights of a step are known from the start, so one warp of every block asks for the
// block's rows of all products, one after the other, into a ring in shared memory, and waits for
// nothing but room in it. A multiprocessor has some 180 KB under way or ready, 6 us of its part of
// the bandwidth, which is what passes between two products without the memory standing still. The
// other warps take what is ready several times faster than memory delivers.
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

// A row of weights comes in chunks of equal length (the last may be shorter), at most kChunkSteps
// times kStepBytes. A tile is one chunk of kTileRows rows, the n of a matrix instruction; the k of
// two such instructions is one step.
constexpr unsigned kTileRows = 8;
constexpr unsigned kStepBytes = 64;
constexpr unsigned kStepCols = kStepBytes / sizeof(bf16);
constexpr unsigned kChunkSteps = 40;
constexpr unsigned kStepsHeld = CeilDiv(kChunkSteps, kWarps);  // of a tile, by a warp
constexpr unsigned kSlotsMax = 16;
constexpr size_t kDynamicShared = 222 * 1024;
constexpr int kHeld = 13;   // values of a normalised row that a thread holds
constexpr int kAtOnce = 8;  // words that a thread waits for together
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

// Waits for the words place(i), i = begin + j * kEvery, j < kCount, as far as i is below `count`
// (begin is), and calls use(j, i, value) for each.
template <int kCount, unsigned kEvery, typename Place, typename Use>
__device__ __forceinline__ void AwaitSome(const uint64_t* words, unsigned begin, unsigned count,
                                          uint32_t epoch, const Place& place, const Use& use) {
  const auto there = [&](uint64_t word) { return static_cast<uint32_t>(word >> 32) == epoch; };
  uint64_t word[kCount];
  // One of them first, so that waiting asks little of the memory.
  while (!there(word[0] = LoadWord(words + place(begin)))) Pause();
#pragma unroll
  for (int j = 1; j < kCount; ++j) {
    const unsigned i = begin + j * kEvery;
    word[j] = i < count ? LoadWord(words + place(i)) : word[0];
  }
  for (;;) {
    bool all = true;
#pragma unroll
    for (int j = 1; j < kCount; ++j) {
      if (!there(word[j])) {
        all = false;
        word[j] = LoadWord(words + place(begin + j * kEvery));
      }
    }
    if (all) break;
    Pause();
  }
#pragma unroll
  for (int j = 0; j < kCount; ++j) {
    const unsigned i = begin + j * kEvery;
    if (i < count) use(j, i, static_cast<uint32_t>(word[j]));
  }
}

// use(i, value) of the words place(i) of i = thread, thread + kThreads, ... below `count`.
template <typename Place, typename Use>
__device__ __forceinline__ void Await(const uint64_t* words, unsigned count, uint32_t epoch,
                                      const Place& place, const Use& use) {
  for (unsigned begin = threadIdx.x; begin < count; begin += kAtOnce * kThreads) {
    AwaitSome<kAtOnce, kThreads>(words, begin, count, epoch, place,
                                 [&](int, unsigned i, uint32_t value) { use(i, value); });
  }
}

struct InPlace {
  __device__ __forceinline__ unsigned operator()(unsigned i) const { return i; }
};

// --- Products ---

__device__ __forceinline__ unsigned RowOfBlock(unsigned rows, unsigned block) {
  return rows * block / gridDim.x;
}

// The kinds of products: those of a layer, then the parts of the head.
constexpr unsigned kKinds = kLayerProducts + kHeadParts;

// A block's rows of products of a kind, and the tiles that they are read in.
struct Share {
  unsigned row_bytes;
  unsigned first_row;
  unsigned n_rows;
  unsigned all_rows;  // gated: those of the gate, then as many of the up projection
  unsigned chunks;    // of a row
  unsigned chunk_bytes;
  unsigned stride;  // of a tile's rows in shared memory
};

// How rows of `cols` weights are cut. Rows of a tile lie half of the banks apart from each other.
struct Cut {
  unsigned chunks, chunk_bytes, stride;
};
__host__ __device__ constexpr Cut CutOf(size_t cols) {
  const unsigned steps = CeilDiv(cols, kStepCols);
  const unsigned chunks = CeilDiv(steps, kChunkSteps);
  const unsigned bytes = CeilDiv(steps, chunks) * kStepBytes;
  return {CeilDiv(steps * kStepBytes, bytes), bytes, bytes % 128 == 0 ? bytes + 64 : bytes};
}

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
  const Cut cut = CutOf(cols);
  return {cols * unsigned{sizeof(bf16)},
          begin + first,
          n_rows,
          kind == 2 ? 2 * n_rows : n_rows,
          cut.chunks,
          cut.chunk_bytes,
          cut.stride};
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
    BarrierInit(&emptied[thread], kWarps);
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
    for (unsigned product = 0; product < kLayerProducts * p.layers + kHeadParts; ++product) {
      const unsigned kind = KindOf(p, product);
      const Share share = shares[kind];
      const uint8_t* const low = WeightsOf(p, product) + size_t{share.first_row} * share.row_bytes;
      // Gated: where the up projection's rows would begin if they followed the gate's at once.
      const size_t skipped = kind == 2 ? p.inner - share.n_rows : 0;
      const uint8_t* const high = low + skipped * share.row_bytes;
      for (unsigned first = 0; first < share.all_rows; first += kTileRows) {
        const unsigned row = first + lane, n = min(kTileRows, share.all_rows - first);
        const uint8_t* from = (row < share.n_rows ? low : high) + size_t{row} * share.row_bytes;
        for (unsigned begin = 0; begin < share.row_bytes; begin += share.chunk_bytes) {
          const unsigned bytes = min(share.chunk_bytes, share.row_bytes - begin);
          BarrierWait(&emptied[slot], parity ^ 1);
          if (lane == 0) BarrierExpect(&filled[slot], n * bytes);
          __syncwarp();
          if (lane < n) {
            CopyBulk(ring + slot * p.slot_bytes + lane * share.stride, from + begin, bytes,
                     &filled[slot]);
          }
          next_slot();
        }
      }
    }
    return;
  }
  const auto sync = [] { SyncSome<1>(kThreads); };

  const unsigned own_first = RowOfBlock(p.hidden, blockIdx.x);
  const unsigned own_rows = RowOfBlock(p.hidden, blockIdx.x + 1) - own_first;
  for (unsigned i = thread; i < own_rows; i += kThreads) {
    residual[i] = ToFloat(p.state[own_first + i]);
  }

  // The normalised hidden state. Without words it is the embedding's row.
  const auto stage_norm = [&](const float* norm, const uint64_t* words, uint32_t epoch) {
    float factors[kHeld], held[kHeld];
#pragma unroll
    for (int j = 0; j < kHeld; ++j) {
      const unsigned i = thread + j * kThreads;
      factors[j] = i < p.hidden ? __ldg(norm + i) : 0.0f;
      held[j] = words == nullptr && i < p.hidden ? ToFloat(p.state[i]) : 0.0f;
    }
    if (words != nullptr && thread < p.hidden) {
      AwaitSome<kHeld, kThreads>(
          words, thread, p.hidden, epoch, InPlace(),
          [&](int j, unsigned, uint32_t value) { held[j] = __uint_as_float(value); });
    }
    float squares = 0;
#pragma unroll
    for (int j = 0; j < kHeld; ++j) squares += held[j] * held[j];
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
      if (i < p.hidden) staged[i] = FromFloat<bf16>(held[j] * scale * factors[j]);
    }
    sync();
  };
  const auto stage_pairs = [&](const uint64_t* words, unsigned values, uint32_t epoch) {
    Await(words, values / 2, epoch, InPlace(),
          [&](unsigned i, uint32_t pair) { reinterpret_cast<uint32_t*>(staged)[i] = pair; });
    sync();
  };

  // The block's rows of a product. Weights are the second operand of the matrix instructions, a row
  // a column; the inputs are the first row of the first, the rest of which is zero. A lane reads 16
  // bytes of a row at a time, for two instructions: in both operands the order of k is that of what
  // the lanes read. Warps divide the steps of a tile; sums[row][warp] are their parts.
  const auto multiply = [&](unsigned kind) -> const Share& {
    const Share& share = shares[kind];
    const unsigned n_rows = share.all_rows, row_bytes = share.row_bytes;
    const unsigned chunk_bytes = share.chunk_bytes;
    const unsigned from_row = lane / 4 * share.stride, column = lane % 4 * 16;
    for (unsigned first = 0; first < n_rows; first += kTileRows) {
      float acc[4][4] = {};
      for (unsigned begin = 0; begin < row_bytes; begin += chunk_bytes) {
        const unsigned steps = min(chunk_bytes, row_bytes - begin) / kStepBytes;
        const uint8_t* const tile = ring + slot * p.slot_bytes + from_row + column;
        const uint8_t* const inputs = shared + begin + column;
        uint4 words[kStepsHeld], given[kStepsHeld];
#pragma unroll
        for (unsigned i = 0; i < kStepsHeld; ++i) {
          given[i] = {};
          if (warp + i * kWarps < steps && lane < 4) {
            given[i] = *reinterpret_cast<const uint4*>(inputs + (warp + i * kWarps) * kStepBytes);
          }
        }
        BarrierWait(&filled[slot], parity);
#pragma unroll
        for (unsigned i = 0; i < kStepsHeld; ++i) {
          if (warp + i * kWarps < steps) {
            words[i] = *reinterpret_cast<const uint4*>(tile + (warp + i * kWarps) * kStepBytes);
          }
        }
        __syncwarp();  // all lanes have read theirs
        if (lane == 0) BarrierArrive(&emptied[slot]);
        next_slot();
#pragma unroll
        for (unsigned i = 0; i < kStepsHeld; ++i) {
          if (warp + i * kWarps < steps) {
            Multiply(acc[i % 2 * 2], {given[i].x, 0, given[i].y, 0}, words[i].x, words[i].y);
            Multiply(acc[i % 2 * 2 + 1], {given[i].z, 0, given[i].w, 0}, words[i].z, words[i].w);
          }
        }
      }
      if (lane < 4) {
#pragma unroll
        for (unsigned i = 0; i < 2; ++i) {
          const unsigned row = first + 2 * lane + i;
          if (row < n_rows) {
            sums[row * kWarps + warp] = (acc[0][i] + acc[1][i]) + (acc[2][i] + acc[3][i]);
          }
        }
      }
    }
    sync();
    return share;
  };
  const auto sum_of = [&](unsigned i) {
    float sum = 0;
#pragma unroll
    for (unsigned w = 0; w < kWarps; ++w) sum += sums[i * kWarps + w];
    return sum;
  };
  const auto add_to_residual = [&](uint64_t* words, uint32_t epoch) {
    for (unsigned i = thread; i < own_rows; i += kThreads) {
      const float value = residual[i] + sum_of(i);
      residual[i] = value;
      StoreWord(words + own_first + i, Word(__float_as_uint(value), epoch));
    }
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
        return i < n_queries ? first_head * kHeadDim + i
               : i < n_queries + kHeadDim
                   ? (p.heads + kv_head) * kHeadDim + i - n_queries
                   : (p.heads + p.kv_heads + kv_head) * kHeadDim + i - n_queries - kHeadDim;
      };
      Await(p.projected, n_queries + 2 * kHeadDim, epoch, place, [&](unsigned i, uint32_t value) {
        projected[i] = FromFloat<bf16>(__uint_as_float(value));
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
            AwaitSome<16, 1>(
                all, 0, 4 * n, epoch,
                [&](unsigned j) {
                  const unsigned column = j % 4 < 2 ? d + j % 4 : kHeadDim + j % 4 - 2;
                  return ((from + j / 4) * kGroupMax + h) * kRow + column;
                },
                [&](int j, unsigned, uint32_t value) {
                  values[j / 4][j % 4] = __uint_as_float(value);
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

  for (unsigned l = 0; l < p.layers; ++l) {
    const DecodeStepLayer& layer = p.layer[l];
    const uint32_t epoch = p.epoch + l;
    stage_norm(layer.input_norm, l == 0 ? nullptr : p.output, epoch - 1);
    const Share& projections = multiply(0);
    for (unsigned i = thread; i < projections.n_rows; i += kThreads) {
      const float value = ToFloat(FromFloat<bf16>(sum_of(i)));
      StoreWord(p.projected + projections.first_row + i, Word(__float_as_uint(value), epoch));
    }
    attend(layer, epoch);

    stage_pairs(p.attended, p.heads * kHeadDim, epoch);
    multiply(1);
    add_to_residual(p.middle, epoch);

    stage_norm(layer.post_attention_norm, p.middle, epoch);
    const Share& gates = multiply(2);
    for (unsigned first = 0; first < gates.n_rows; first += kThreads) {
      const unsigned i = first + thread;
      float value = 0;
      if (i < gates.n_rows) {
        // Rounded as if both halves had been stored in between.
        const float gate = ToFloat(FromFloat<bf16>(sum_of(i)));
        const float up = ToFloat(FromFloat<bf16>(sum_of(gates.n_rows + i)));
        value = gate / (1.0f + __expf(-gate)) * up;
      }
      const float next = __shfl_xor_sync(~0u, value, 1);
      if (i < gates.n_rows && i % 2 == 0) {
        StoreWord(p.gated + (gates.first_row + i) / 2, Word(Pack(value, next), epoch));
      }
    }

    stage_pairs(p.gated, p.inner, epoch);
    multiply(3);
    add_to_residual(p.output, epoch);
  }
  stage_norm(p.final_norm, p.output, p.epoch + p.layers - 1);
  for (unsigned part = 0; part < kHeadParts; ++part) {
    const Share& rows = multiply(kLayerProducts + part);
    for (unsigned i = thread; i < rows.n_rows; i += kThreads) {
      p.logits[rows.first_row + i] = sum_of(i);
    }
    sync();  // before the next part's sums
  }
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
  plan->sums =
      kWarps * std::max({CeilDiv(qkv, blocks), 4 * CeilDiv(s.inner / 2, blocks),
                         CeilDiv(CeilDiv(s.vocab, kHeadParts), blocks), CeilDiv(s.hidden, blocks)});
  const size_t residual = CeilDiv(s.hidden, blocks);
  const size_t stride =
      std::max({CutOf(s.hidden).stride, CutOf(s.heads * kHeadDim).stride, CutOf(s.inner).stride});
  plan->slot_bytes = CeilDiv(kTileRows * stride, 128) * 128;
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
      s.hidden > kHeld * kThreads || s.hidden < s.multiprocessors ||
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
