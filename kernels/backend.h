// The op table: everything the model computes, as calls on a device. The CPU fills it here; another
// device fills it in its own files, and model/ runs unchanged on either.
//
// Memory. Activations live in backend memory, in the backend's own element type (float32 on the
// CPU). Whatever memory or sampling needs comes back to the host as float32. Calls may run behind
// the caller's back: host results are valid after Synchronize(), and host inputs must stay
// unchanged until then. On the CPU every call is finished when it returns.
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

class Backend {
 public:
  virtual ~Backend() = default;
  virtual std::string description() const = 0;  // "CPU, AVX2, 2 threads"

  // --- Memory ---
  virtual Result<std::unique_ptr<Activations>> Allocate(size_t rows, size_t width) = 0;
  // Matrices must not outlive their backend.
  virtual Result<std::unique_ptr<Matrix>> LoadMatrix(std::span<const WeightSource> stacked) = 0;
  virtual Result<std::unique_ptr<Vector>> LoadVector(std::span<const float> values) = 0;
  // kernels/rope.h
  virtual Result<std::unique_ptr<Angles>> LoadAngles(std::span<const int32_t> positions,
                                                     size_t head_dim, double theta) = 0;
  virtual Status CopyRows(Tensor from, Tensor to, size_t rows, size_t width) = 0;  // no overlap
  virtual Status Upload(const float* from, Tensor to, size_t rows, size_t width) = 0;
  virtual Status Download(Tensor from, float* to, size_t rows, size_t width) = 0;
  virtual Status Synchronize() = 0;

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
  virtual Status SiluMul(Tensor gate_up, size_t tokens, size_t width, Tensor out) = 0;
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
