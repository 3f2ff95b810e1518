// The operations that only move memory: each reads its input once (a norm's second pass hits the
// cache) and writes its output once.
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/launch.h"

namespace msadb::kernels::cuda {
namespace {

constexpr unsigned kThreads = 256;

// Calls f with null pointers of the element types of x and y.
template <typename F>
cudaError_t WithTypes(size_t x_bytes, size_t y_bytes, const F& f) {
  if (x_bytes == 4) {
    return y_bytes == 4 ? f((float*)nullptr, (float*)nullptr) : f((float*)nullptr, (bf16*)nullptr);
  }
  return y_bytes == 4 ? f((bf16*)nullptr, (float*)nullptr) : f((bf16*)nullptr, (bf16*)nullptr);
}

// One warp a row of one head, for q_norm and k_norm.
// One block a row, for the layer norms.
template <typename X, typename Y, bool kWarpRows>
__global__ void RmsNormKernel(const X* x, size_t x_stride, unsigned rows, unsigned heads,
                              unsigned width, const float* weight, float epsilon, Y* y,
                              size_t y_stride) {
  GridRelease();
  GridWait();
  __shared__ float shared[33];
  const unsigned row = kWarpRows ? blockIdx.x * (kThreads / 32) + threadIdx.x / 32 : blockIdx.x;
  const unsigned first = kWarpRows ? threadIdx.x % 32 : threadIdx.x;
  const unsigned step = kWarpRows ? 32 : kThreads;
  if (row >= rows) return;
  const unsigned token = row / heads, head = row % heads;
  x += token * x_stride + head * size_t{width};
  y += token * y_stride + head * size_t{width};
  float squares = 0;
  for (unsigned i = first; i < width; i += step) {
    const float value = ToFloat(x[i]);
    squares += value * value;
  }
  squares = kWarpRows ? WarpSum(squares) : BlockSum(squares, shared);
  const float scale = rsqrtf(squares / static_cast<float>(width) + epsilon);
  for (unsigned i = first; i < width; i += step) {
    y[i] = FromFloat<Y>(ToFloat(x[i]) * scale * weight[i]);
  }
}

// One warp a head of a token: queries, then keys, then, with kAppend, values. A lane holds the
// pairs (j, j + half) of j = lane, lane + 32, ...
constexpr int kPairsMax = 8;
template <typename Q, bool kAppend>
__global__ void NormRopeKernel(const __grid_constant__ NormRopeParams p,
                               const __grid_constant__ AppendRows append) {
  GridRelease();
  const unsigned item = blockIdx.x * (kThreads / 32) + threadIdx.x / 32;
  const unsigned lane = threadIdx.x % 32;
  const unsigned items = p.heads + p.kv_heads * (kAppend ? 2 : 1);
  const unsigned token = item / items;
  const unsigned head = item % items;
  if (token >= p.tokens) return;
  const bool is_key = head >= p.heads;
  const bool is_value = kAppend && head >= p.heads + p.kv_heads;
  const float* const norm = is_value ? nullptr : is_key ? p.k_norm : p.q_norm;
  const unsigned half = p.head_dim / 2;
  float low_norm[kPairsMax], high_norm[kPairsMax];  // weights: not the kernel before's
#pragma unroll
  for (int i = 0; i < kPairsMax; ++i) {
    const unsigned j = lane + 32 * i;
    if (j >= half || norm == nullptr) break;
    low_norm[i] = __ldg(norm + j);
    high_norm[i] = __ldg(norm + j + half);
  }
  GridWait();
  if (is_value) {
    const unsigned begin = (head - p.heads - p.kv_heads) * p.head_dim;
    const Q* const from = static_cast<const Q*>(p.v.data) + token * p.v.stride + begin;
    Q* const to = static_cast<Q*>(append.v[token]) + begin;
    for (unsigned i = lane; i < p.head_dim; i += 32) to[i] = from[i];
    return;
  }
  const unsigned begin = (is_key ? head - p.heads : head) * p.head_dim;
  const Rows& rows = is_key ? p.k : p.q;
  Q* const x = static_cast<Q*>(rows.data) + token * rows.stride + begin;
  float low[kPairsMax], high[kPairsMax], cosine[kPairsMax], sine[kPairsMax];
  float squares = 0;
#pragma unroll
  for (int i = 0; i < kPairsMax; ++i) {
    const unsigned j = lane + 32 * i;
    if (j >= half) break;
    low[i] = ToFloat(x[j]);
    high[i] = ToFloat(x[j + half]);
    cosine[i] = p.cosines[token * size_t{half} + j];
    sine[i] = p.sines[token * size_t{half} + j];
    squares += low[i] * low[i] + high[i] * high[i];
  }
  float scale = 1;
  if (norm != nullptr) {
    scale = rsqrtf(WarpSum(squares) / static_cast<float>(p.head_dim) + p.epsilon);
  }
#pragma unroll
  for (int i = 0; i < kPairsMax; ++i) {
    const unsigned j = lane + 32 * i;
    if (j >= half) break;
    const float a = norm != nullptr ? low[i] * scale * low_norm[i] : low[i];
    const float b = norm != nullptr ? high[i] * scale * high_norm[i] : high[i];
    const Q rotated_low = FromFloat<Q>(a * cosine[i] - b * sine[i]);
    const Q rotated_high = FromFloat<Q>(b * cosine[i] + a * sine[i]);
    x[j] = rotated_low;
    x[j + half] = rotated_high;
    if (kAppend && is_key) {
      Q* const to = static_cast<Q*>(append.k[token]) + begin;
      to[j] = rotated_low;
      to[j + half] = rotated_high;
    }
  }
}

__global__ void AnglesKernel(const int32_t* positions, unsigned tokens, const float* frequencies,
                             unsigned half, float* cosines, float* sines) {
  GridRelease();
  GridWait();
  const size_t i = blockIdx.x * size_t{kThreads} + threadIdx.x;
  if (i >= size_t{tokens} * half) return;
  const float angle = static_cast<float>(positions[i / half]) * frequencies[i % half];
  cosines[i] = cosf(angle);
  sines[i] = sinf(angle);
}

__device__ __forceinline__ float SiluTimes(float gate, float up) {
  return gate / (1.0f + __expf(-gate)) * up;
}

// kWide: 8 elements a thread.
template <bool kWide>
__global__ void SiluMulKernel(const bf16* gate_up, size_t stride, unsigned width, bf16* out,
                              size_t out_stride) {
  GridRelease();
  GridWait();
  const bf16* const gate = gate_up + blockIdx.y * stride;
  const bf16* const up = gate + width;
  out += blockIdx.y * out_stride;
  if (kWide) {
    const unsigned i = (blockIdx.x * kThreads + threadIdx.x) * 8;
    if (i >= width) return;
    const uint4 g = *reinterpret_cast<const uint4*>(gate + i);
    const uint4 u = *reinterpret_cast<const uint4*>(up + i);
    uint4 result;
    result.x = Pack(SiluTimes(Low(g.x), Low(u.x)), SiluTimes(High(g.x), High(u.x)));
    result.y = Pack(SiluTimes(Low(g.y), Low(u.y)), SiluTimes(High(g.y), High(u.y)));
    result.z = Pack(SiluTimes(Low(g.z), Low(u.z)), SiluTimes(High(g.z), High(u.z)));
    result.w = Pack(SiluTimes(Low(g.w), Low(u.w)), SiluTimes(High(g.w), High(u.w)));
    *reinterpret_cast<uint4*>(out + i) = result;
  } else {
    const unsigned i = blockIdx.x * kThreads + threadIdx.x;
    if (i < width) out[i] = FromFloat<bf16>(SiluTimes(ToFloat(gate[i]), ToFloat(up[i])));
  }
}

__device__ __forceinline__ float HalfAt(const uint16_t* values, size_t i) {
  return __half2float(__ushort_as_half(values[i]));
}

// Element (row, column) of a part.
__device__ __forceinline__ float WeightAt(const DeviceWeight& w, size_t row, size_t column) {
  if (w.type == WeightType::kBF16) {
    return ToFloat(static_cast<const bf16*>(w.data)[row * w.cols + column]);
  }
  const size_t factor = row * (w.cols / w.group) + column / w.group;
  const float scale = HalfAt(w.scale, factor);
  if (w.type == WeightType::kInt8) {
    return scale * static_cast<float>(static_cast<const int8_t*>(w.data)[row * w.cols + column]);
  }
  const unsigned within = column % 32;
  const uint8_t pair =
      static_cast<const uint8_t*>(w.data)[row * (w.cols / 2) + column / 32 * 16 + within % 16];
  const int value = within < 16 ? pair & 15 : pair >> 4;
  return scale * static_cast<float>(value) + HalfAt(w.min, factor);
}

// Tokens of other parts are left alone.
template <typename Y>
__global__ void EmbedKernel(const __grid_constant__ DeviceWeight w, const int32_t* ids, Y* out,
                            size_t stride) {
  GridRelease();
  GridWait();
  const auto id = static_cast<size_t>(ids[blockIdx.x]);
  if (id < w.row_begin || id >= w.row_begin + w.rows) return;
  for (unsigned i = threadIdx.x; i < w.cols; i += kThreads) {
    out[blockIdx.x * stride + i] = FromFloat<Y>(WeightAt(w, id - w.row_begin, i));
  }
}

__global__ void DequantizeKernel(const __grid_constant__ DeviceWeight w, bf16* out) {
  GridRelease();
  GridWait();
  const size_t i = (blockIdx.x * size_t{kThreads} + threadIdx.x) * 2;
  if (i >= w.rows * w.cols) return;
  const size_t row = i / w.cols, column = i % w.cols;  // cols is a multiple of 32
  *reinterpret_cast<uint32_t*>(out + i) =
      Pack(WeightAt(w, row, column), WeightAt(w, row, column + 1));
}

struct CopySide {
  const void* from = nullptr;
  size_t from_stride = 0;
  void* to = nullptr;
  size_t to_stride = 0;
};

// blockIdx.y picks the pair. Same types: words of 16 bytes where everything is aligned to them.
template <typename X, typename Y>
__global__ void CopyKernel(CopySide a, CopySide b, size_t rows, unsigned width) {
  GridRelease();
  GridWait();
  const CopySide side = blockIdx.y == 0 ? a : b;
  const size_t i = blockIdx.x * size_t{kThreads} + threadIdx.x;
  if (i >= rows * width) return;
  const size_t row = i / width, column = i % width;
  static_cast<Y*>(side.to)[row * side.to_stride + column] =
      FromFloat<Y>(ToFloat(static_cast<const X*>(side.from)[row * side.from_stride + column]));
}

__global__ void CopyWordsKernel(CopySide a, CopySide b, size_t rows, unsigned words) {
  GridRelease();
  GridWait();
  const CopySide side = blockIdx.y == 0 ? a : b;
  const size_t i = blockIdx.x * size_t{kThreads} + threadIdx.x;
  if (i >= rows * words) return;
  const size_t row = i / words, column = i % words;
  static_cast<uint4*>(side.to)[row * side.to_stride + column] =
      static_cast<const uint4*>(side.from)[row * side.from_stride + column];
}

// One warp a row. Rows and pointers lie in host memory, which no kernel writes: the first reads of
// a row are under way before the kernels before this one have finished, and all of a warp's before
// the first is used.
template <typename Y>
__global__ void GatherKernel(const uint16_t* const* pointers, unsigned rows, Y* a, size_t a_stride,
                             Y* b, size_t b_stride, unsigned width) {
  constexpr unsigned kAhead = 4;
  GridRelease();
  const unsigned item = blockIdx.x * (kThreads / 32) + threadIdx.x / 32;
  const unsigned lane = threadIdx.x % 32;
  const bf16* const from =
      item < 2 * rows ? reinterpret_cast<const bf16*>(pointers[item]) : nullptr;
  Y* const to = item < rows ? a + item * a_stride : b + (item - rows) * b_stride;
  const bool aligned = sizeof(Y) == 2 && reinterpret_cast<uintptr_t>(from) % 16 == 0 &&
                       reinterpret_cast<uintptr_t>(to) % 16 == 0 && width % 8 == 0;
  const unsigned words = from != nullptr && aligned ? width / 8 : 0;
  uint4 held[kAhead] = {};
  const auto read = [&](unsigned base) {
#pragma unroll
    for (unsigned j = 0; j < kAhead; ++j) {
      const unsigned i = base + 32 * j;
      if (i < words) held[j] = __ldcs(reinterpret_cast<const uint4*>(from) + i);
    }
  };
  read(lane);
  GridWait();
  if (from == nullptr) return;
  if constexpr (sizeof(Y) == 2) {
    if (aligned) {
      for (unsigned base = lane; base < words; base += 32 * kAhead) {
        if (base != lane) read(base);
#pragma unroll
        for (unsigned j = 0; j < kAhead; ++j) {
          const unsigned i = base + 32 * j;
          if (i < words) reinterpret_cast<uint4*>(to)[i] = held[j];
        }
      }
      return;
    }
  }
  for (unsigned i = lane; i < width; i += 32) to[i] = FromFloat<Y>(ToFloat(from[i]));
}

template <typename X>
__global__ void ChunkPoolKernel(const X* x, size_t stride, const PoolChunk* chunks, unsigned width,
                                float* out) {
  GridRelease();
  GridWait();
  const unsigned i = blockIdx.y * kThreads + threadIdx.x;
  if (i >= width) return;
  const PoolChunk chunk = chunks[blockIdx.x];
  x += chunk.row_begin * stride + i;
  float sum = 0;
  for (unsigned row = 0; row < chunk.row_count; ++row) sum += ToFloat(x[row * stride]);
  out[blockIdx.x * size_t{width} + i] = sum / static_cast<float>(chunk.row_count);
}

// One warp a (token, kv head).
template <typename X>
__global__ void RouterFoldKernel(const X* q, size_t stride, unsigned tokens, unsigned heads,
                                 unsigned kv_heads, unsigned head_dim, bool cosine, float* out) {
  GridRelease();
  GridWait();
  const unsigned item = blockIdx.x * (kThreads / 32) + threadIdx.x / 32;
  const unsigned lane = threadIdx.x % 32;
  const unsigned token = item / kv_heads, kv_head = item % kv_heads;
  if (token >= tokens) return;
  const unsigned group = heads / kv_heads;
  q += token * stride + kv_head * group * size_t{head_dim};
  out += item * size_t{head_dim};
  for (unsigned h = 0; h < group; ++h, q += head_dim) {
    float divisor = sqrtf(static_cast<float>(head_dim));
    if (cosine) {
      float squares = 0;
      for (unsigned i = lane; i < head_dim; i += 32) squares += ToFloat(q[i]) * ToFloat(q[i]);
      divisor = fmaxf(sqrtf(WarpSum(squares)), 1e-12f);
    }
    const float scale = 1.0f / (divisor * static_cast<float>(heads));
    for (unsigned i = lane; i < head_dim; i += 32) {
      out[i] = (h == 0 ? 0.0f : out[i]) + ToFloat(q[i]) * scale;
    }
  }
}

bool Aligned16(const Rows& rows) {
  return reinterpret_cast<uintptr_t>(rows.data) % 16 == 0 && rows.stride * rows.bytes % 16 == 0;
}

}  // namespace

cudaError_t LaunchRmsNorm(Rows x, size_t tokens, size_t heads, size_t width, const float* weight,
                          float epsilon, Rows y, cudaStream_t stream) {
  if (tokens == 0) return cudaSuccess;
  return WithTypes(x.bytes, y.bytes, [&](auto* x_type, auto* y_type) {
    using X = std::remove_pointer_t<decltype(x_type)>;
    using Y = std::remove_pointer_t<decltype(y_type)>;
    const auto rows = static_cast<unsigned>(tokens * heads);
    const bool warp_rows = width <= 512;
    return Launch(warp_rows ? RmsNormKernel<X, Y, true> : RmsNormKernel<X, Y, false>,
                  warp_rows ? CeilDiv(rows, kThreads / 32) : rows, kThreads, 0, stream,
                  static_cast<const X*>(x.data), x.stride, rows, static_cast<unsigned>(heads),
                  static_cast<unsigned>(width), weight, epsilon, static_cast<Y*>(y.data), y.stride);
  });
}

cudaError_t LaunchNormRope(const NormRopeParams& p, const AppendRows* append, cudaStream_t stream) {
  const size_t items = p.heads + p.kv_heads * size_t{append != nullptr ? 2u : 1u};
  if (p.tokens * items == 0) return cudaSuccess;
  if (p.head_dim / 2 > 32 * kPairsMax || (append != nullptr && p.tokens > kDecodeSegmentsMax)) {
    return cudaErrorInvalidValue;
  }
  return WithTypes(p.q.bytes, p.q.bytes, [&](auto* type, auto*) {
    using Q = std::remove_pointer_t<decltype(type)>;
    return Launch(append != nullptr ? NormRopeKernel<Q, true> : NormRopeKernel<Q, false>,
                  CeilDiv(p.tokens * items, kThreads / 32), kThreads, 0, stream, p,
                  append != nullptr ? *append : AppendRows{});
  });
}

cudaError_t LaunchAngles(const int32_t* positions, size_t tokens, const float* frequencies,
                         size_t half, float* cosines, float* sines, cudaStream_t stream) {
  if (tokens * half == 0) return cudaSuccess;
  return Launch(AnglesKernel, CeilDiv(tokens * half, kThreads), kThreads, 0, stream, positions,
                static_cast<unsigned>(tokens), frequencies, static_cast<unsigned>(half), cosines,
                sines);
}

cudaError_t LaunchSiluMul(Rows gate_up, size_t tokens, size_t width, Rows out,
                          cudaStream_t stream) {
  const bool wide = width % 8 == 0 && Aligned16(gate_up) && Aligned16(out);
  // The grid's second dimension ends at 65535.
  constexpr size_t kRowsMax = 32768;
  for (size_t begin = 0; begin < tokens; begin += kRowsMax) {
    const size_t count = std::min(kRowsMax, tokens - begin);
    const cudaError_t error =
        Launch(wide ? SiluMulKernel<true> : SiluMulKernel<false>,
               dim3(CeilDiv(width, kThreads * (wide ? 8 : 1)), static_cast<unsigned>(count)),
               kThreads, 0, stream, static_cast<const bf16*>(gate_up.data) + begin * gate_up.stride,
               gate_up.stride, static_cast<unsigned>(width),
               static_cast<bf16*>(out.data) + begin * out.stride, out.stride);
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

cudaError_t LaunchEmbed(const DeviceWeight& part, const int32_t* ids, size_t tokens, Rows out,
                        cudaStream_t stream) {
  if (tokens == 0) return cudaSuccess;
  return WithTypes(out.bytes, out.bytes, [&](auto*, auto* type) {
    using Y = std::remove_pointer_t<decltype(type)>;
    return Launch(EmbedKernel<Y>, static_cast<unsigned>(tokens), kThreads, 0, stream, part, ids,
                  static_cast<Y*>(out.data), out.stride);
  });
}

cudaError_t LaunchDequantize(const DeviceWeight& part, void* out, cudaStream_t stream) {
  const size_t count = part.rows * part.cols;
  if (count == 0) return cudaSuccess;
  return Launch(DequantizeKernel, CeilDiv(count, kThreads * 2), kThreads, 0, stream, part,
                static_cast<bf16*>(out));
}

cudaError_t LaunchCopy(Rows from_a, Rows to_a, Rows from_b, Rows to_b, size_t rows, size_t width,
                       cudaStream_t stream) {
  if (rows * width == 0) return cudaSuccess;
  const unsigned pairs = to_b.data == nullptr ? 1 : 2;
  CopySide a{from_a.data, from_a.stride, to_a.data, to_a.stride};
  CopySide b{from_b.data, from_b.stride, to_b.data, to_b.stride};
  const bool words = from_a.bytes == to_a.bytes && width * to_a.bytes % 16 == 0 &&
                     Aligned16(from_a) && Aligned16(to_a) && Aligned16(from_b) && Aligned16(to_b);
  if (words) {
    const size_t per_word = 16 / to_a.bytes;
    for (CopySide* side : {&a, &b}) {
      side->from_stride /= per_word;
      side->to_stride /= per_word;
    }
    return Launch(CopyWordsKernel, dim3(CeilDiv(rows * (width / per_word), kThreads), pairs),
                  kThreads, 0, stream, a, b, rows, static_cast<unsigned>(width / per_word));
  }
  return WithTypes(from_a.bytes, to_a.bytes, [&](auto* x_type, auto* y_type) {
    using X = std::remove_pointer_t<decltype(x_type)>;
    using Y = std::remove_pointer_t<decltype(y_type)>;
    return Launch(CopyKernel<X, Y>, dim3(CeilDiv(rows * width, kThreads), pairs), kThreads, 0,
                  stream, a, b, rows, static_cast<unsigned>(width));
  });
}

cudaError_t LaunchGather(const uint16_t* const* pointers, size_t rows, Rows to_a, Rows to_b,
                         size_t width, cudaStream_t stream) {
  if (rows * width == 0) return cudaSuccess;
  return WithTypes(to_a.bytes, to_a.bytes, [&](auto*, auto* type) {
    using Y = std::remove_pointer_t<decltype(type)>;
    return Launch(GatherKernel<Y>, CeilDiv(2 * rows, kThreads / 32), kThreads, 0, stream, pointers,
                  static_cast<unsigned>(rows), static_cast<Y*>(to_a.data), to_a.stride,
                  static_cast<Y*>(to_b.data), to_b.stride, static_cast<unsigned>(width));
  });
}

cudaError_t LaunchChunkPool(Rows x, const PoolChunk* chunks, size_t count, size_t width, float* out,
                            cudaStream_t stream) {
  if (count * width == 0) return cudaSuccess;
  return WithTypes(x.bytes, x.bytes, [&](auto* type, auto*) {
    using X = std::remove_pointer_t<decltype(type)>;
    return Launch(ChunkPoolKernel<X>, dim3(static_cast<unsigned>(count), CeilDiv(width, kThreads)),
                  kThreads, 0, stream, static_cast<const X*>(x.data), x.stride, chunks,
                  static_cast<unsigned>(width), out);
  });
}

cudaError_t LaunchRouterFold(Rows q, size_t tokens, size_t heads, size_t kv_heads, size_t head_dim,
                             bool cosine, float* out, cudaStream_t stream) {
  if (tokens * kv_heads == 0) return cudaSuccess;
  return WithTypes(q.bytes, q.bytes, [&](auto* type, auto*) {
    using X = std::remove_pointer_t<decltype(type)>;
    return Launch(RouterFoldKernel<X>, CeilDiv(tokens * kv_heads, kThreads / 32), kThreads, 0,
                  stream, static_cast<const X*>(q.data), q.stride, static_cast<unsigned>(tokens),
                  static_cast<unsigned>(heads), static_cast<unsigned>(kv_heads),
                  static_cast<unsigned>(head_dim), cosine, out);
  });
}

}  // namespace msadb::kernels::cuda
