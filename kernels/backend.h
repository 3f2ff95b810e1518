// The op table: everything the model computes, as calls on a device. The CPU fills it here; another
// device fills it in its own files, and model/ runs unchanged on either.
//
// Memory. Activations live in backend memory, in the backend's own element types: one for
// activations (float32 on the CPU, bfloat16 on a GPU) and one for sums, which gather small addends
// over many layers (float32). A Tensor says which it is by its element size; every operation takes
// either. Whatever memory or sampling needs comes back to the host as float32. Calls may run behind
// the caller's back: host results are valid after Synchronize(), and host inputs of Upload and
// UploadRows must stay unchanged until then. On the CPU every call is finished when it returns.
//
// Fused operations. Those named after several steps are those steps in one call, for a device on
// which the passage between two steps costs; the versions here are the plain steps.
//
// Checks. Shapes are the model's business (it derives all of them from one checked configuration);
// a Status reports what a device can fail at: memory, or the device itself. ResourceExhausted
// leaves the backend usable.
//
// Threads. One call at a time; the model serialises.
#ifndef MSADB_KERNELS_BACKEND_H_
#define MSADB_KERNELS_BACKEND_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "kernels/attention.h"
#include "kernels/matmul.h"
#include "kernels/weight_matrix.h"
#include "msadb/status.h"

namespace msadb::kernels {

// Rows of activations in backend memory, or a window into such rows. Does not own.
struct Tensor {
  void* data = nullptr;
  size_t stride = 0;         // elements between rows
  size_t element_bytes = 0;  // of the backend's activation type

  // The window that starts at (row, column).
  Tensor At(size_t row, size_t column = 0) const {
    return {static_cast<char*>(data) + (row * stride + column) * element_bytes, stride,
            element_bytes};
  }
};

// Activations owned by a backend.
class Activations {
 public:
  virtual ~Activations() = default;
  Tensor tensor() const { return tensor_; }
  size_t rows() const { return rows_; }

 protected:
  Tensor tensor_;
  size_t rows_ = 0;
};

// Keys and values that one query alone attends to: its first `rows` rows.
struct OwnKeys {
  Tensor k, v;  // [rows, kv_heads * head_dim], of equal stride
  size_t rows = 0;
};

// A loaded weight matrix [outputs, inputs].
class Matrix {
 public:
  virtual ~Matrix() = default;
  virtual size_t rows() const = 0;
  virtual size_t cols() const = 0;
  virtual size_t bytes() const = 0;  // memory, which is what a batch-1 product reads
};

// A loaded vector of float32 weights (norms).
class Vector {
 public:
  virtual ~Vector() = default;
};

// Cosines and sines of a batch's positions.
class Angles {
 public:
  virtual ~Angles() = default;
};

// What a decoding step of one sequence reads. Pointers as in the operations of its parts.
struct DecodeLayer {
  const Vector* input_norm = nullptr;
  const Matrix* qkv = nullptr;
  const Vector* q_norm = nullptr;  // null: none
  const Vector* k_norm = nullptr;
  const Matrix* output = nullptr;
  const Vector* post_attention_norm = nullptr;
  const Matrix* gate_up = nullptr;
  const Matrix* down = nullptr;
  OwnKeys keys;  // the token's own key and value become the last row
};
struct DecodeInput {
  const Matrix* embedding = nullptr;
  int32_t token = 0;
  const Angles* angles = nullptr;  // of the token's position
  std::span<const DecodeLayer> layers;
  const Vector* final_norm = nullptr;
  const Matrix* head = nullptr;
  size_t heads = 0;
  size_t kv_heads = 0;
  size_t head_dim = 0;
  float epsilon = 0;
};

class Backend {
 public:
  virtual ~Backend() = default;
  virtual std::string description() const = 0;  // "CPU, AVX2, 2 threads"

  // --- Memory ---
  virtual Result<std::unique_ptr<Activations>> Allocate(size_t rows, size_t width) = 0;
  // The same in the type of sums: for the states that every layer adds to, and for logits.
  virtual Result<std::unique_ptr<Activations>> AllocateSums(size_t rows, size_t width) {
    return Allocate(rows, width);
  }
  // Whether UploadRows is faster from page-locked memory.
  virtual bool reads_pinned_memory() const { return false; }
  // Tokens that should go through an MLP together: enough to keep the device busy, few enough that
  // their inner states stay near it.
  virtual size_t mlp_tile() const { return 512; }
  // Matrices must not outlive their backend.
  virtual Result<std::unique_ptr<Matrix>> LoadMatrix(std::span<const WeightSource> stacked) = 0;
  virtual Result<std::unique_ptr<Vector>> LoadVector(std::span<const float> values) = 0;
  // kernels/rope.h
  virtual Result<std::unique_ptr<Angles>> LoadAngles(std::span<const int32_t> positions,
                                                     size_t head_dim, double theta) = 0;
  virtual Status CopyRows(Tensor from, Tensor to, size_t rows, size_t width) = 0;  // no overlap
  virtual Status Upload(const float* from, Tensor to, size_t rows, size_t width) = 0;
  // Row i of to_a is the bfloat16 row a[i] [width], anywhere in host memory; the same for b, of
  // equal length. A GPU gathers rows that lie in page-locked memory (kernels/cuda_backend.h) itself,
  // all in one step.
  virtual Status UploadRows(std::span<const uint16_t* const> a, Tensor to_a,
                            std::span<const uint16_t* const> b, Tensor to_b, size_t width) = 0;
  virtual Status Download(Tensor from, float* to, size_t rows, size_t width) = 0;
  virtual Status Synchronize() = 0;
  // A place in the order of calls, to wait for while later ones go on: results of calls before it
  // are valid after WaitFor(mark), or after Synchronize().
  struct Mark {
    uint64_t epoch = 0;
    size_t index = 0;
  };
  virtual Result<Mark> SetMark() { return Mark{}; }
  virtual Status WaitFor(Mark mark) { return Synchronize(); }

  // --- Operations; each is specified by the header of its name ---
  virtual Status Embed(const Matrix& embedding, std::span<const int32_t> ids, Tensor out) = 0;
  virtual Status RmsNorm(Tensor x, size_t tokens, size_t heads, size_t width, const Vector& weight,
                         float epsilon, Tensor y) = 0;
  // y (+)= x W^T
  virtual Status Matmul(Tensor x, size_t tokens, const Matrix& weight, Tensor y,
                        bool accumulate) = 0;
  virtual Status Rope(Tensor x, size_t tokens, size_t heads, size_t head_dim,
                      const Angles& angles) = 0;
  virtual Status Attention(Tensor q, Tensor k, Tensor v, Tensor out,
                           std::span<const AttentionSegment> segments, size_t heads,
                           size_t kv_heads, size_t head_dim) = 0;
  // Row i of q over keys[i]: one decoding step of several sequences. A row's result does not depend
  // on the others.
  virtual Status AttentionEach(Tensor q, std::span<const OwnKeys> keys, Tensor out, size_t heads,
                               size_t kv_heads, size_t head_dim) {
    for (size_t i = 0; i < keys.size(); ++i) {
      const AttentionSegment segment{0, 1, 0, keys[i].rows - 1};
      MSADB_RETURN_IF_ERROR(Attention(q.At(i), keys[i].k, keys[i].v, out.At(i), {&segment, 1},
                                      heads, kv_heads, head_dim));
    }
    return Status::Ok();
  }
  virtual Status SiluMul(Tensor gate_up, size_t tokens, size_t width, Tensor out) = 0;
  // normed = RmsNorm(x) over one head of the weight's columns, then y = normed W^T.
  virtual Status NormMatmul(Tensor x, size_t tokens, const Vector& norm, float epsilon,
                            const Matrix& weight, Tensor normed, Tensor y) {
    MSADB_RETURN_IF_ERROR(RmsNorm(x, tokens, 1, weight.cols(), norm, epsilon, normed));
    return Matmul(normed, tokens, weight, y, false);
  }
  // The gated half of an MLP: normed and gate_up are scratch, out = SiluMul(NormMatmul(x)).
  virtual Status NormMatmulSiluMul(Tensor x, size_t tokens, const Vector& norm, float epsilon,
                                   const Matrix& gate_up_weight, Tensor normed, Tensor gate_up,
                                   Tensor out) {
    MSADB_RETURN_IF_ERROR(
        NormMatmul(x, tokens, norm, epsilon, gate_up_weight, normed, gate_up));
    return SiluMul(gate_up, tokens, gate_up_weight.rows() / 2, out);
  }
  // Norms (when there are any) and rotation of queries and keys, in place.
  virtual Status NormRope(Tensor q, Tensor k, size_t tokens, size_t heads, size_t kv_heads,
                          size_t head_dim, const Vector* q_norm, const Vector* k_norm,
                          float epsilon, const Angles& angles) {
    if (q_norm != nullptr) {
      MSADB_RETURN_IF_ERROR(RmsNorm(q, tokens, heads, head_dim, *q_norm, epsilon, q));
    }
    if (k_norm != nullptr) {
      MSADB_RETURN_IF_ERROR(RmsNorm(k, tokens, kv_heads, head_dim, *k_norm, epsilon, k));
    }
    MSADB_RETURN_IF_ERROR(Rope(q, tokens, heads, head_dim, angles));
    return Rope(k, tokens, kv_heads, head_dim, angles);
  }
  // NormRope of one token of each of several sequences, after which row i of k and of v is also the
  // last row of keys[i].
  virtual Status NormRopeAppend(Tensor q, Tensor k, Tensor v, std::span<const OwnKeys> keys,
                                size_t heads, size_t kv_heads, size_t head_dim,
                                const Vector* q_norm, const Vector* k_norm, float epsilon,
                                const Angles& angles) {
    MSADB_RETURN_IF_ERROR(NormRope(q, k, keys.size(), heads, kv_heads, head_dim, q_norm, k_norm,
                                   epsilon, angles));
    for (size_t i = 0; i < keys.size(); ++i) {
      MSADB_RETURN_IF_ERROR(CopyPair(k.At(i), keys[i].k.At(keys[i].rows - 1), v.At(i),
                                     keys[i].v.At(keys[i].rows - 1), 1, kv_heads * head_dim));
    }
    return Status::Ok();
  }
  // NormRopeAppend, then AttentionEach: what a decoding step does with what it projected. Whether q
  // and k are rotated afterwards is open.
  virtual Status RotateAttentionEach(Tensor q, Tensor k, Tensor v, std::span<const OwnKeys> keys,
                                     Tensor out, size_t heads, size_t kv_heads, size_t head_dim,
                                     const Vector* q_norm, const Vector* k_norm, float epsilon,
                                     const Angles& angles) {
    MSADB_RETURN_IF_ERROR(NormRopeAppend(q, k, v, keys, heads, kv_heads, head_dim, q_norm, k_norm,
                                         epsilon, angles));
    return AttentionEach(q, keys, out, heads, kv_heads, head_dim);
  }
  // A whole decoding step of one sequence: embedding, all layers, the head; logits [vocab] to the host.
  // False, and nothing was done: this device has no way for these shapes that is faster than the steps
  // one by one.
  virtual Result<bool> DecodeStep(const DecodeInput& input, float* logits) { return false; }
  // Two copies of the same shape and types: keys and values.
  virtual Status CopyPair(Tensor from_a, Tensor to_a, Tensor from_b, Tensor to_b, size_t rows,
                          size_t width) {
    MSADB_RETURN_IF_ERROR(CopyRows(from_a, to_a, rows, width));
    return CopyRows(from_b, to_b, rows, width);
  }
  // To the host: [sum of ceil(length / chunk), width].
  virtual Status ChunkPool(Tensor x, std::span<const size_t> lengths, size_t chunk, size_t width,
                           float* out) = 0;
  // To the host: [tokens, kv_heads * head_dim].
  virtual Status RouterFold(Tensor q, size_t tokens, size_t heads, size_t kv_heads, size_t head_dim,
                            bool cosine, float* out) = 0;
};

struct CpuBackendOptions {
  int threads = 0;                         // 0: one per core this process may use
  Precision precision = Precision::kFine;  // of products with quantised weights (kernels/matmul.h)
};

std::unique_ptr<Backend> MakeCpuBackend(const CpuBackendOptions& options);

}  // namespace msadb::kernels

#endif  // MSADB_KERNELS_BACKEND_H_
