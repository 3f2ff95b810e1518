// Launchers of the GPU kernels behind kernels/cuda_backend.h: the same operations as the CPU
// headers specify, on device memory. They take raw pointers, sizes and a stream, never allocate and
// never synchronise. An error of the launch is returned; one of the run shows at the next
// synchronisation.
//
// Element types: "activations" are bfloat16 or float32, told apart by Rows::bytes (2 or 4). All
// arithmetic is float32. Strides count elements.
#ifndef MSADB_KERNELS_CUDA_LAUNCH_H_
#define MSADB_KERNELS_CUDA_LAUNCH_H_

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "kernels/matmul_slices.h"

namespace msadb::kernels::cuda {

// Rows of activations in device memory.
struct Rows {
  void* data = nullptr;
  size_t stride = 0;
  size_t bytes = 2;  // of an element
};

// A part of a weight matrix, as the file holds it (kernels/weight_matrix.h, WeightSource).
struct DeviceWeight {
  WeightType type = WeightType::kBF16;  // kBF16, kInt8 or kInt4
  const void* data = nullptr;           // [rows, cols]; int4: [rows, cols / 2]
  const uint16_t* scale = nullptr;      // float16 [rows, cols / group]
  const uint16_t* min = nullptr;        // float16 [rows, cols / group]; int4 only
  size_t row_begin = 0;                 // in the stacked matrix
  size_t rows = 0;
  size_t cols = 0;
  size_t group = 0;
};

cudaError_t LaunchRmsNorm(Rows x, size_t tokens, size_t heads, size_t width, const float* weight,
                          float epsilon, Rows y, cudaStream_t stream);
inline constexpr size_t kDecodeSegmentsMax = 32;  // sequences of one launch of a decoding step
// Queries and keys are normalised (norms may be null) and rotated in place.
struct NormRopeParams {
  Rows q, k;  // of the same type
  Rows v;     // read when rows are appended
  unsigned tokens = 0;
  unsigned heads = 0;
  unsigned kv_heads = 0;
  unsigned head_dim = 0;  // at most 512
  const float* q_norm = nullptr;
  const float* k_norm = nullptr;
  float epsilon = 0;
  const float* cosines = nullptr;  // [tokens, head_dim / 2]
  const float* sines = nullptr;
};
// Where the finished key and the value of each token go as well: [kv_heads * head_dim], in the type
// of k.
struct AppendRows {
  void* k[kDecodeSegmentsMax] = {};
  void* v[kDecodeSegmentsMax] = {};
};
// With `append` (may be null) at most kDecodeSegmentsMax tokens.
cudaError_t LaunchNormRope(const NormRopeParams& p, const AppendRows* append, cudaStream_t stream);
// frequencies: [half]
cudaError_t LaunchAngles(const int32_t* positions, size_t tokens, const float* frequencies,
                         size_t half, float* cosines, float* sines, cudaStream_t stream);
cudaError_t LaunchSiluMul(Rows gate_up, size_t tokens, size_t width, Rows out, cudaStream_t stream);
cudaError_t LaunchEmbed(const DeviceWeight& part, const int32_t* ids, size_t tokens, Rows out,
                        cudaStream_t stream);
// Rows from one place to another, converting; b may have no data. Either side may be page-locked
// host memory.
cudaError_t LaunchCopy(Rows from_a, Rows to_a, Rows from_b, Rows to_b, size_t rows, size_t width,
                       cudaStream_t stream);
// Row i of `to` from the bfloat16 row pointers[i] (device-readable); the second half of `pointers`
// goes to `to_b`. Pointers are read by the kernel.
cudaError_t LaunchGather(const uint16_t* const* pointers, size_t rows, Rows to_a, Rows to_b,
                         size_t width, cudaStream_t stream);
struct PoolChunk {
  uint32_t row_begin = 0;
  uint32_t row_count = 0;
};
// out: [chunks, width] float32
cudaError_t LaunchChunkPool(Rows x, const PoolChunk* chunks, size_t count, size_t width, float* out,
                            cudaStream_t stream);
cudaError_t LaunchRouterFold(Rows q, size_t tokens, size_t heads, size_t kv_heads, size_t head_dim,
                             bool cosine, float* out, cudaStream_t stream);
// A quantised part as bfloat16 [rows, cols].
cudaError_t LaunchDequantize(const DeviceWeight& part, void* out, cudaStream_t stream);

// --- Products of few tokens (gemv.cu) ---
inline constexpr size_t kGemvTokensMax = 8;
struct GemvParams {
  DeviceWeight weight;
  Rows x;                       // [tokens, cols]
  const float* norm = nullptr;  // [cols]: x is normalised first; null: not
  float epsilon = 0;
  void* normed = nullptr;  // bfloat16 [tokens, cols], written when norm is given; may be null
  size_t normed_stride = 0;
  Rows y;  // the part's first output: [tokens, rows], or [tokens, rows / 2] with `gated`
  size_t tokens = 0;
  bool accumulate = false;
  bool gated = false;  // y = silu(first half of the outputs) * second half
};
// Whether the shapes suit LaunchGemv.
bool GemvFits(const GemvParams& p);
cudaError_t LaunchGemv(const GemvParams& p, size_t multiprocessors, cudaStream_t stream);

// --- Attention ---
struct AttentionShape {
  Rows q, k, v, out;
  size_t heads = 0;
  size_t kv_heads = 0;
  size_t head_dim = 0;  // at most 256
  float scale = 0;
};
struct PrefillSegment {
  int32_t query_begin = 0;
  int32_t query_count = 0;
  int32_t key_begin = 0;
  int32_t visible_before = 0;
  int32_t tile_begin = 0;  // tiles before this segment
};
// Queries of a tile; the last one of a segment may have fewer.
size_t PrefillTileQueries(const AttentionShape& shape);
// segments in device memory, none of them without queries; `tiles` of all of them.
cudaError_t LaunchAttentionPrefill(const AttentionShape& shape, const PrefillSegment* segments,
                                   size_t segment_count, size_t tiles, cudaStream_t stream);

// One query over keys and values of its own.
struct DecodeSegment {
  const void* k = nullptr;  // bfloat16 [keys, kv_heads * head_dim]
  const void* v = nullptr;
  size_t k_stride = 0;
  size_t v_stride = 0;
  uint32_t query = 0;  // row of q and out
  uint32_t keys = 0;   // at least 1
};
struct DecodeShape {
  Rows q, out;
  size_t heads = 0;
  size_t kv_heads = 0;
  size_t head_dim = 0;  // at most 256
  float scale = 0;
};
struct DecodeWorkspace {
  float* partial = nullptr;      // DecodePartialFloats
  uint32_t* counters = nullptr;  // [2 * multiprocessors], zero before and after
};
inline constexpr size_t kDecodeSplitsMax = 64;
size_t DecodePartialFloats(size_t multiprocessors);
// The newest token's key and value of each query as they were projected, and how they and the queries
// are normalised (norms may be null) and rotated. Row i belongs to query i.
struct RotateParams {
  Rows k, v;
  const float* q_norm = nullptr;
  const float* k_norm = nullptr;
  float epsilon = 0;
  const float* cosines = nullptr;  // [queries, head_dim / 2]
  const float* sines = nullptr;
};
// Whether LaunchAttentionDecode can rotate at these shapes.
bool DecodeRotates(const DecodeShape& shape, const DecodeSegment* segments, size_t segment_count,
                   const RotateParams& rotate);
// With `rotate` (may be null) q and rotate->k are not rotated yet, the last of a segment's keys and
// values is written to its place first, and q and rotate->k stay as they were.
cudaError_t LaunchAttentionDecode(const DecodeShape& shape, const DecodeSegment* segments,
                                  size_t segment_count, const RotateParams* rotate,
                                  size_t multiprocessors, const DecodeWorkspace& workspace,
                                  cudaStream_t stream);

// --- A whole decoding step of one sequence in one launch (decode_step.cu) ---
inline constexpr size_t kDecodeStepLayersMax = 128;
inline constexpr size_t kDecodeStepKeysMax = 8192;  // more are worth a kernel of their own
// Weights are bfloat16 in device memory, norms float32; those of queries and keys may be null.
struct DecodeStepLayer {
  const float* input_norm = nullptr;  // [hidden]
  const void* qkv = nullptr;          // [(heads + 2 kv_heads) * head_dim, hidden]
  const float* q_norm = nullptr;      // [head_dim]
  const float* k_norm = nullptr;
  const void* output = nullptr;                // [hidden, heads * head_dim]
  const float* post_attention_norm = nullptr;  // [hidden]
  const void* gate_up = nullptr;               // [2 * inner, hidden]
  const void* down = nullptr;                  // [hidden, inner]
  void* k = nullptr;  // bfloat16 [keys, kv_heads * head_dim]; the last row is written
  void* v = nullptr;
  uint32_t k_stride = 0;
  uint32_t v_stride = 0;
  uint32_t keys = 0;
};
struct DecodeStepParams {
  const void* state = nullptr;        // bfloat16 [hidden]: the token's embedding
  const float* final_norm = nullptr;  // [hidden]
  const void* head = nullptr;         // [vocab, hidden]
  float* logits = nullptr;            // [vocab]; may be page-locked host memory
  size_t vocab = 0;
  size_t hidden = 0;
  size_t inner = 0;
  size_t heads = 0;
  size_t kv_heads = 0;
  size_t head_dim = 0;
  float epsilon = 0;
  float scale = 0;
  const float* cosines = nullptr;  // [head_dim / 2]
  const float* sines = nullptr;
  const DecodeStepLayer* layers = nullptr;
  size_t layer_count = 0;
  size_t multiprocessors = 0;
};
// Whether the shapes suit LaunchDecodeStep.
bool DecodeStepFits(const DecodeStepParams& p);
// How many words its blocks exchange; zero before the first launch.
size_t DecodeStepWords(const DecodeStepParams& p);
// `epoch` and the layer_count - 1 numbers after it are not 0 and were not used with these words since they were
// zero. cudaErrorInvalidConfiguration and cudaErrorCooperativeLaunchTooLarge: the device cannot hold all
// blocks at once.
cudaError_t LaunchDecodeStep(const DecodeStepParams& p, uint64_t* words, uint32_t epoch,
                             cudaStream_t stream);

}  // namespace msadb::kernels::cuda

#endif  // MSADB_KERNELS_CUDA_LAUNCH_H_
