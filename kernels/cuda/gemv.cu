// Products of few tokens: memory-bound, each weight is read once.
//
// A block has 8 warps and keeps the tokens' inputs in shared memory as bfloat16. A warp owns kRows
// outputs. A lane reads 16 bytes of a weight row at a time (8 bfloat16, 16 int8 or 32 int4), the
// warp 512 bytes in a row, and the first kAhead of these are under way before the block has the
// inputs: weights do not depend on the kernel before, so their latency overlaps with its end.
//
// With a norm, every block normalises the inputs for itself (a few KB from the L2 cache), which is
// cheaper than a kernel of its own. With `gated`, a warp owns output i of the gate and of the up
// projection.
//
// One token with bfloat16 weights, a decoding step's products, has a kernel of its own: one block a
// multiprocessor, whose warps each pull their rows through a ring in shared memory by bulk copies.
// The ring is filled before the inputs are there, so while the steps between two products run (the
// attention above all), the memory goes on delivering: up to 190 KB a multiprocessor, 25 MB in all.
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/launch.h"

namespace msadb::kernels::cuda {
namespace {

constexpr unsigned kWarps = 8;
constexpr unsigned kThreads = 32 * kWarps;
constexpr size_t kSharedMax = 96 * 1024;

struct KernelParams {
  const uint8_t* data;
  const uint16_t* scale;
  const uint16_t* min;
  unsigned rows;    // outputs of y
  unsigned second;  // weight row of output i's other half, less i (gated)
  unsigned cols;
  unsigned group;
  const void* x;
  size_t x_stride;
  bool x_wide;  // float32
  const float* norm;
  float epsilon;
  bf16* normed;
  size_t normed_stride;
  void* y;
  size_t y_stride;
  bool y_wide;  // float32
  unsigned tokens;
  bool accumulate;
};

// even + odd += the 8 bfloat16 of w times those of x
__device__ __forceinline__ void Dot8(const uint4& w, const uint4& x, float& even, float& odd) {
  even = fmaf(Low(w.x), Low(x.x), even);
  odd = fmaf(High(w.x), High(x.x), odd);
  even = fmaf(Low(w.y), Low(x.y), even);
  odd = fmaf(High(w.y), High(x.y), odd);
  even = fmaf(Low(w.z), Low(x.z), even);
  odd = fmaf(High(w.z), High(x.z), odd);
  even = fmaf(Low(w.w), Low(x.w), even);
  odd = fmaf(High(w.w), High(x.w), odd);
}

struct Bf16Format {
  static constexpr unsigned kElements = 8;  // in 16 bytes
  struct Factors {};
  static __device__ __forceinline__ Factors Load(const KernelParams&, unsigned, unsigned) {
    return {};
  }
  static __device__ __forceinline__ void Add(const uint4& w, const Factors&, const bf16* x,
                                             float& acc) {
    float odd = 0;
    Dot8(w, *reinterpret_cast<const uint4*>(x), acc, odd);
    acc += odd;
  }
};

struct Int8Format {
  static constexpr unsigned kElements = 16;
  struct Factors {
    float scale;
  };
  static __device__ __forceinline__ Factors Load(const KernelParams& p, unsigned row,
                                                 unsigned column) {
    return {__half2float(
        __ushort_as_half(__ldg(p.scale + size_t{row} * (p.cols / p.group) + column / p.group)))};
  }
  static __device__ __forceinline__ void Add(const uint4& w, const Factors& f, const bf16* x,
                                             float& acc) {
    const uint4 x0 = *reinterpret_cast<const uint4*>(x);
    const uint4 x1 = *reinterpret_cast<const uint4*>(x + 8);
    const uint32_t words[4] = {w.x, w.y, w.z, w.w};
    const uint32_t pairs[8] = {x0.x, x0.y, x0.z, x0.w, x1.x, x1.y, x1.z, x1.w};
    float sum = 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const auto v = static_cast<int32_t>(words[i]);
      sum = fmaf(static_cast<float>(v << 24 >> 24), Low(pairs[2 * i]), sum);
      sum = fmaf(static_cast<float>(v << 16 >> 24), High(pairs[2 * i]), sum);
      sum = fmaf(static_cast<float>(v << 8 >> 24), Low(pairs[2 * i + 1]), sum);
      sum = fmaf(static_cast<float>(v >> 24), High(pairs[2 * i + 1]), sum);
    }
    acc = fmaf(f.scale, sum, acc);
  }
};

struct Int4Format {
  static constexpr unsigned kElements = 32;
  struct Factors {
    float scale, min;
  };
  static __device__ __forceinline__ Factors Load(const KernelParams& p, unsigned row,
                                                 unsigned column) {
    const size_t i = size_t{row} * (p.cols / p.group) + column / p.group;
    return {__half2float(__ushort_as_half(__ldg(p.scale + i))),
            __half2float(__ushort_as_half(__ldg(p.min + i)))};
  }
  // Byte j holds element j in its low and element 16 + j in its high nibble.
  static __device__ __forceinline__ void Add(const uint4& w, const Factors& f, const bf16* x,
                                             float& acc) {
    const uint32_t words[4] = {w.x, w.y, w.z, w.w};
    float sum = 0, total = 0;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const uint4 x0 = *reinterpret_cast<const uint4*>(x + 16 * half);
      const uint4 x1 = *reinterpret_cast<const uint4*>(x + 16 * half + 8);
      const uint32_t pairs[8] = {x0.x, x0.y, x0.z, x0.w, x1.x, x1.y, x1.z, x1.w};
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const uint32_t nibbles = words[i] >> (4 * half);
        const float a = Low(pairs[2 * i]), b = High(pairs[2 * i]);
        const float c = Low(pairs[2 * i + 1]), d = High(pairs[2 * i + 1]);
        sum = fmaf(static_cast<float>(nibbles & 15), a, sum);
        sum = fmaf(static_cast<float>(nibbles >> 8 & 15), b, sum);
        sum = fmaf(static_cast<float>(nibbles >> 16 & 15), c, sum);
        sum = fmaf(static_cast<float>(nibbles >> 24 & 15), d, sum);
        total += (a + b) + (c + d);
      }
    }
    acc = fmaf(f.scale, sum, fmaf(f.min, total, acc));
  }
};

__device__ __forceinline__ float InputAt(const KernelParams& p, unsigned token, unsigned i) {
  const size_t at = token * p.x_stride + i;
  return p.x_wide ? static_cast<const float*>(p.x)[at] : ToFloat(static_cast<const bf16*>(p.x)[at]);
}

// A thread's first factors of the norm, which, like weights, do not depend on the kernel before.
constexpr int kHeld = 16;
struct HeldNorm {
  float factors[kHeld];

  __device__ __forceinline__ explicit HeldNorm(const KernelParams& p) {
#pragma unroll
    for (int j = 0; j < kHeld; ++j) {
      const unsigned i = threadIdx.x + j * kThreads;
      factors[j] = p.norm != nullptr && i < p.cols ? __ldg(p.norm + i) : 0.0f;
    }
  }
};

// Copies or normalises the inputs of all tokens into shared memory.
template <int kTokens>
__device__ __forceinline__ void StageInputs(const KernelParams& p, const HeldNorm& norm,
                                            bf16* staged) {
  __shared__ float sums[33];
  for (unsigned t = 0; t < kTokens; ++t) {
    bf16* const to = staged + t * p.cols;
    if (t >= p.tokens) {
      for (unsigned i = threadIdx.x; i < p.cols; i += kThreads) to[i] = FromFloat<bf16>(0);
      continue;
    }
    if (p.norm == nullptr) {
      const auto* const from = static_cast<const bf16*>(p.x) + t * p.x_stride;
      if (!p.x_wide && reinterpret_cast<uintptr_t>(from) % 16 == 0) {
#pragma unroll 8
        for (unsigned i = threadIdx.x; i < p.cols / 8; i += kThreads) {
          reinterpret_cast<uint4*>(to)[i] = reinterpret_cast<const uint4*>(from)[i];
        }
      } else {
        for (unsigned i = threadIdx.x; i < p.cols; i += kThreads) {
          to[i] = FromFloat<bf16>(InputAt(p, t, i));
        }
      }
      continue;
    }
    // Up to kHeld values a thread stay in registers between the two passes.
    float held[kHeld];
    float squares = 0;
#pragma unroll
    for (int j = 0; j < kHeld; ++j) {
      const unsigned i = threadIdx.x + j * kThreads;
      if (i < p.cols) {
        held[j] = InputAt(p, t, i);
        squares += held[j] * held[j];
      }
    }
    for (unsigned i = threadIdx.x + kHeld * kThreads; i < p.cols; i += kThreads) {
      const float value = InputAt(p, t, i);
      squares += value * value;
    }
    const float scale = rsqrtf(BlockSum(squares, sums) / static_cast<float>(p.cols) + p.epsilon);
#pragma unroll
    for (int j = 0; j < kHeld; ++j) {
      const unsigned i = threadIdx.x + j * kThreads;
      if (i < p.cols) to[i] = FromFloat<bf16>(held[j] * scale * norm.factors[j]);
    }
    for (unsigned i = threadIdx.x + kHeld * kThreads; i < p.cols; i += kThreads) {
      to[i] = FromFloat<bf16>(InputAt(p, t, i) * scale * p.norm[i]);
    }
    __syncthreads();  // before the next token's sums
    if (p.normed != nullptr && blockIdx.x == 0) {
      for (unsigned i = threadIdx.x; i < p.cols; i += kThreads) {
        p.normed[t * p.normed_stride + i] = to[i];
      }
    }
  }
  __syncthreads();
}

__device__ __forceinline__ float OutputAt(const KernelParams& p, size_t at) {
  return p.y_wide ? static_cast<const float*>(p.y)[at] : ToFloat(static_cast<const bf16*>(p.y)[at]);
}

__device__ __forceinline__ void StoreValue(const KernelParams& p, size_t at, float value) {
  if (p.y_wide) {
    static_cast<float*>(p.y)[at] = value;
  } else {
    static_cast<bf16*>(p.y)[at] = FromFloat<bf16>(value);
  }
}

__device__ __forceinline__ void Store(const KernelParams& p, size_t at, float value) {
  StoreValue(p, at, p.accumulate ? OutputAt(p, at) + value : value);
}

template <typename Format, int kTokens, int kRows, bool kGated>
__global__ void __launch_bounds__(kThreads) GemvKernel(const __grid_constant__ KernelParams p) {
  static_assert(!kGated || kRows == 2);
  auto* const staged = DynamicShared<bf16>();
  constexpr unsigned kStep = 32 * Format::kElements;  // columns of a warp's load
  constexpr int kAhead = 8 / kRows;
  GridRelease();
  const unsigned lane = threadIdx.x % 32;
  const unsigned first = (blockIdx.x * kWarps + threadIdx.x / 32) * (kGated ? 1 : kRows);
  const size_t row_bytes = size_t{p.cols} / Format::kElements * 16;
  const uint8_t* rows[kRows];
  unsigned row_of[kRows];
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    unsigned row = kGated ? first : first + r;
    row = min(row, p.rows - 1);  // rows past the end are read and thrown away
    if (kGated && r == 1) row += p.second;
    row_of[r] = row;
    rows[r] = p.data + row * row_bytes + lane * 16;
  }

  uint4 held[kAhead][kRows];
  const auto load = [&](unsigned column) {
#pragma unroll
    for (int j = 0; j < kAhead; ++j) {
      const unsigned at = column + j * kStep + lane * Format::kElements;
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        if (at < p.cols) {
          held[j][r] = LoadStreaming(rows[r] + size_t{column + j * kStep} / Format::kElements * 16);
        }
      }
    }
  };
  load(0);
  const HeldNorm norm(p);
  GridWait();
  StageInputs<kTokens>(p, norm, staged);

  float acc[kTokens][kRows] = {};
  for (unsigned column = 0; column < p.cols; column += kAhead * kStep) {
    if (column > 0) load(column);
#pragma unroll
    for (int j = 0; j < kAhead; ++j) {
      const unsigned at = column + j * kStep + lane * Format::kElements;
      if (at < p.cols) {
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
          const auto factors = Format::Load(p, row_of[r], at);
#pragma unroll
          for (int t = 0; t < kTokens; ++t) {
            Format::Add(held[j][r], factors, staged + t * p.cols + at, acc[t][r]);
          }
        }
      }
    }
  }
#pragma unroll
  for (int t = 0; t < kTokens; ++t) {
#pragma unroll
    for (int r = 0; r < kRows; ++r) acc[t][r] = WarpSum(acc[t][r]);
  }
  if (lane != 0) return;
#pragma unroll
  for (int t = 0; t < kTokens; ++t) {
    if (t >= p.tokens) break;
    const size_t at = t * p.y_stride + first;
    if (kGated) {
      // Rounded as if both halves had been stored in between.
      const float gate = ToFloat(FromFloat<bf16>(acc[t][0]));
      const float up = ToFloat(FromFloat<bf16>(acc[t][kRows - 1]));
      if (first < p.rows) Store(p, at, gate / (1.0f + __expf(-gate)) * up);
    } else {
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        if (first + r < p.rows) Store(p, at + r, acc[t][r]);
      }
    }
  }
}

// --- One token, bfloat16 weights ---

constexpr unsigned kLoadBytes = 512;    // what a warp reads at a time
constexpr unsigned kPieceBytes = 2048;  // of one bulk copy
constexpr unsigned kPieceLoads = kPieceBytes / kLoadBytes;
constexpr unsigned kStagesMax = 12;
// Nearly all of a multiprocessor's, for two reasons. The next product's blocks find room only where a
// block of this one has ended, so each gets a multiprocessor for itself (with room for two, blocks
// pair up on some and leave others idle); and what they request while the steps between run is a
// large part of their weights. The rest is for those steps.
constexpr size_t kBlockShared = 204 * 1024;

// A warp's share of its block's weights: bytes [at, end) of the block's rows one after the other
// (gated: all rows of the gate, then all of the up projection), in pieces that lie in one place.
struct Pieces {
  unsigned at;
  unsigned end;
  unsigned fold;  // where the second half of gated rows begins

  __device__ __forceinline__ bool Empty() const { return at >= end; }
  __device__ __forceinline__ unsigned Bytes() const {
    return min(kPieceBytes, (at < fold ? min(fold, end) : end) - at);
  }
};

// A block has a range of rows, and each of its warps an equal part of their bytes, whatever rows
// these belong to. So a row may have parts in several warps: the one with the row's first byte leaves
// its sum in `sums`, one that begins within a row leaves that part in `carries`.
template <bool kGated>
__global__ void __launch_bounds__(kThreads)
    StreamedKernel(const __grid_constant__ KernelParams p, unsigned staged_bytes, unsigned stages) {
  auto* const shared_bytes = DynamicShared<uint8_t>();
  __shared__ uint64_t arrived[kWarps][kStagesMax];
  __shared__ float carries[kWarps];
  __shared__ unsigned carry_rows[kWarps];
  GridRelease();
  auto* const staged = reinterpret_cast<bf16*>(shared_bytes);
  uint8_t* const rings = shared_bytes + staged_bytes;
  auto* const sums = reinterpret_cast<float*>(rings + kWarps * stages * kPieceBytes);
  const unsigned warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  uint8_t* const ring = rings + warp * stages * kPieceBytes;
  const unsigned row_bytes = p.cols * unsigned{sizeof(bf16)};
  const auto block_row = [&](unsigned block) {
    return static_cast<unsigned>(uint64_t{p.rows} * block / gridDim.x);
  };
  const unsigned first_row = block_row(blockIdx.x);
  const unsigned n_rows = block_row(blockIdx.x + 1) - first_row;
  const uint8_t* const low = p.data + size_t{first_row} * row_bytes;
  const uint8_t* const high = kGated ? low + size_t{p.second} * row_bytes : nullptr;
  const unsigned fold = kGated ? n_rows * row_bytes : ~0u;
  const unsigned loads = n_rows * (kGated ? 2 : 1) * (row_bytes / kLoadBytes);
  const auto warp_begin = [&](unsigned w) {
    return static_cast<unsigned>(uint64_t{loads} * w / kWarps) * kLoadBytes;
  };
  Pieces wanted = {warp_begin(warp), warp_begin(warp + 1), fold};
  Pieces mine = wanted;

  if (lane == 0) {
    for (unsigned s = 0; s < stages; ++s) BarrierInit(&arrived[warp][s], 1);
    BarrierInitFence();
  }
  __syncwarp();
  const auto request = [&](unsigned stage) {
    if (wanted.Empty()) return;
    const unsigned bytes = wanted.Bytes();
    if (lane == 0) {
      const uint8_t* const from =
          kGated && wanted.at >= fold ? high + (wanted.at - fold) : low + wanted.at;
      BarrierExpect(&arrived[warp][stage], bytes);
      CopyBulk(ring + stage * kPieceBytes, from, bytes, &arrived[warp][stage]);
    }
    wanted.at += bytes;
  };
  for (unsigned s = 0; s < stages; ++s) request(s);
  const HeldNorm norm(p);
  GridWait();
  const bool adds = p.accumulate && threadIdx.x < n_rows;
  const float before = adds ? OutputAt(p, first_row + threadIdx.x) : 0.0f;
  StageInputs<1>(p, norm, staged);

  unsigned row = mine.at / row_bytes;          // the part of a row that is being summed:
  unsigned column = mine.at - row * row_bytes;  // its next byte
  bool carries_row = column > 0;
  float even = 0, odd = 0;
  if (lane == 0) carry_rows[warp] = ~0u;
  const auto finish_row = [&] {
    const float sum = WarpSum(even + odd);
    if (lane == 0) {
      (carries_row ? carries[warp] : sums[row]) = sum;
      if (carries_row) carry_rows[warp] = row;
    }
    carries_row = false;
    even = odd = 0;
    ++row;
    column = 0;
  };
  unsigned stage = 0;
  uint32_t parity = 0;
  while (!mine.Empty()) {
    const unsigned bytes = mine.Bytes();
    BarrierWait(&arrived[warp][stage], parity);
    uint4 words[kPieceLoads], inputs[kPieceLoads];
    unsigned ahead = column;
#pragma unroll
    for (unsigned j = 0; j < kPieceLoads; ++j) {
      if (j * kLoadBytes < bytes) {
        words[j] = *reinterpret_cast<const uint4*>(ring + stage * kPieceBytes + j * kLoadBytes +
                                                   lane * 16);
        inputs[j] = *reinterpret_cast<const uint4*>(shared_bytes + ahead + lane * 16);
      }
      ahead += kLoadBytes;
      if (ahead == row_bytes) ahead = 0;
    }
    __syncwarp();  // all lanes have read the piece: its place is free
    request(stage);
#pragma unroll
    for (unsigned j = 0; j < kPieceLoads; ++j) {
      if (j * kLoadBytes < bytes) {
        Dot8(words[j], inputs[j], even, odd);
        column += kLoadBytes;
        if (column == row_bytes) finish_row();
      }
    }
    mine.at += bytes;
    if (++stage == stages) {
      stage = 0;
      parity ^= 1;
    }
  }
  if (column > 0) finish_row();  // the rest of it is another warp's, which carries it
  __syncthreads();

  const auto sum_of = [&](unsigned i) {
    float sum = sums[i];
#pragma unroll
    for (unsigned w = 0; w < kWarps; ++w) sum += carry_rows[w] == i ? carries[w] : 0.0f;
    return sum;
  };
  for (unsigned i = threadIdx.x; i < n_rows; i += kThreads) {
    float value = sum_of(i);
    if (kGated) {
      // Rounded as if both halves had been stored in between.
      const float gate = ToFloat(FromFloat<bf16>(value));
      const float up = ToFloat(FromFloat<bf16>(sum_of(n_rows + i)));
      value = gate / (1.0f + __expf(-gate)) * up;
    }
    const size_t at = first_row + i;
    if (p.accumulate) value += i < kThreads ? before : OutputAt(p, at);
    StoreValue(p, at, value);
  }
}

// Rows of whole loads, and a block's range addressable by 32 bits.
bool Streams(const KernelParams& k, size_t multiprocessors) {
  const size_t row_bytes = k.cols * sizeof(bf16);
  return k.tokens == 1 && row_bytes % kLoadBytes == 0 &&
         (k.rows / multiprocessors + 1) * 2 * row_bytes < (size_t{1} << 31);
}

cudaError_t RunStreamed(const KernelParams& k, bool gated, size_t multiprocessors,
                        cudaStream_t stream) {
  auto* const kernel = gated ? StreamedKernel<true> : StreamedKernel<false>;
  const size_t blocks = std::min<size_t>(k.rows, multiprocessors);
  const size_t sums = CeilDiv(k.rows, blocks) * (gated ? 2 : 1) * sizeof(float);
  const size_t staged = k.cols * sizeof(bf16);
  constexpr size_t kStageBytes = size_t{kWarps} * kPieceBytes;
  const size_t others = staged + sums;
  const size_t room = others < kBlockShared ? kBlockShared - others : 0;
  const size_t stages = std::clamp<size_t>(room / kStageBytes, 2, kStagesMax);
  const size_t shared = others + stages * kStageBytes;
  const cudaError_t error = AllowShared(kernel, shared);
  if (error != cudaSuccess) return error;
  return Launch(kernel, static_cast<unsigned>(blocks), kThreads, shared, stream, k,
                static_cast<unsigned>(staged), static_cast<unsigned>(stages));
}

// --- Launching ---

template <typename Format, int kTokens>
cudaError_t Run(const KernelParams& k, bool gated, cudaStream_t stream) {
  const size_t shared = kTokens * size_t{k.cols} * sizeof(bf16);
  // Two rows a warp amortise the inputs' staging and reading once there are enough warps anyway.
  const bool two = !gated && k.rows >= 16384;
  auto* const kernel = gated ? GemvKernel<Format, kTokens, 2, true>
                       : two ? GemvKernel<Format, kTokens, 2, false>
                             : GemvKernel<Format, kTokens, 1, false>;
  if (shared > 32 * 1024) {
    const cudaError_t error = AllowShared(kernel, kSharedMax);
    if (error != cudaSuccess) return error;
  }
  return Launch(kernel, CeilDiv(k.rows, kWarps * (two ? 2 : 1)), kThreads, shared, stream, k);
}

template <typename Format>
cudaError_t WithTokens(const KernelParams& k, bool gated, cudaStream_t stream) {
  if (k.tokens <= 1) return Run<Format, 1>(k, gated, stream);
  if (k.tokens <= 4) return Run<Format, 4>(k, gated, stream);
  return Run<Format, 8>(k, gated, stream);
}

size_t TokenSlots(size_t tokens) { return tokens <= 1 ? 1 : tokens <= 4 ? 4 : 8; }

}  // namespace

bool GemvFits(const GemvParams& p) {
  const size_t multiple = p.weight.type == WeightType::kBF16 ? 8 : 32;
  return p.tokens <= kGemvTokensMax && p.weight.cols % multiple == 0 && p.weight.cols > 0 &&
         reinterpret_cast<uintptr_t>(p.weight.data) % 16 == 0 &&
         TokenSlots(p.tokens) * p.weight.cols * sizeof(bf16) <= kSharedMax;
}

cudaError_t LaunchGemv(const GemvParams& p, size_t multiprocessors, cudaStream_t stream) {
  if (p.tokens == 0 || p.weight.rows == 0) return cudaSuccess;
  KernelParams k = {};
  k.data = static_cast<const uint8_t*>(p.weight.data);
  k.scale = p.weight.scale;
  k.min = p.weight.min;
  k.rows = static_cast<unsigned>(p.gated ? p.weight.rows / 2 : p.weight.rows);
  k.second = static_cast<unsigned>(p.weight.rows / 2);
  k.cols = static_cast<unsigned>(p.weight.cols);
  k.group = static_cast<unsigned>(p.weight.group);
  k.x = p.x.data;
  k.x_stride = p.x.stride;
  k.x_wide = p.x.bytes == 4;
  k.norm = p.norm;
  k.epsilon = p.epsilon;
  k.normed = static_cast<bf16*>(p.normed);
  k.normed_stride = p.normed_stride;
  k.y = p.y.data;
  k.y_stride = p.y.stride;
  k.y_wide = p.y.bytes == 4;
  k.tokens = static_cast<unsigned>(p.tokens);
  k.accumulate = p.accumulate;
  switch (p.weight.type) {
    case WeightType::kInt8:
      return WithTokens<Int8Format>(k, p.gated, stream);
    case WeightType::kInt4:
      return WithTokens<Int4Format>(k, p.gated, stream);
    default:
      if (Streams(k, multiprocessors)) return RunStreamed(k, p.gated, multiprocessors, stream);
      return WithTokens<Bf16Format>(k, p.gated, stream);
  }
}

}  // namespace msadb::kernels::cuda
