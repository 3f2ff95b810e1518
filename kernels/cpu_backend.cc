// The CPU's side of the op table: picks the vectorised form of an operation when the processor has
// it, and splits large calls over threads.
#include <algorithm>
#include <cmath>
#include <new>
#include <vector>

#include "kernels/backend.h"
#include "kernels/chunk_pool.h"
#include "kernels/cpu_features.h"
#include "kernels/dtype.h"
#include "kernels/embedding.h"
#include "kernels/matmul.h"
#include "kernels/rms_norm.h"
#include "kernels/rope.h"
#include "kernels/router_fold.h"
#include "kernels/silu_mul.h"

namespace msadb::kernels {
namespace {

#if MSADB_KERNELS_AVX2
#define MSADB_PICK(name) (CpuHasAvx2() ? name##Avx2 : name##Ref)
#else
#define MSADB_PICK(name) (name##Ref)
#endif

// Below this many elements an element-wise operation stays on the calling thread.
constexpr size_t kParallelElementsMin = 16 * 1024;

class CpuActivations : public Activations {
 public:
  CpuActivations(size_t rows, size_t width) : buffer_(rows * width * sizeof(float)) {
    tensor_ = {buffer_.as<void>(), width, sizeof(float)};
    rows_ = rows;
  }

 private:
  AlignedBuffer buffer_;
};

class CpuMatrix : public Matrix {
 public:
  explicit CpuMatrix(WeightMatrix weights) : weights_(std::move(weights)) {}
  size_t rows() const override { return weights_.rows(); }
  size_t cols() const override { return weights_.cols(); }
  size_t bytes() const override { return weights_.bytes(); }
  const WeightMatrix& weights() const { return weights_; }

 private:
  WeightMatrix weights_;
};

class CpuVector : public Vector {
 public:
  explicit CpuVector(std::span<const float> values) : values_(values.begin(), values.end()) {}
  const float* data() const { return values_.data(); }

 private:
  std::vector<float> values_;
};

class CpuAngles : public Angles {
 public:
  explicit CpuAngles(size_t size) : cosines(size), sines(size) {}
  std::vector<float> cosines, sines;
};

float* Floats(Tensor t) { return static_cast<float*>(t.data); }

const WeightMatrix& Weights(const Matrix& m) { return static_cast<const CpuMatrix&>(m).weights(); }

class CpuBackend : public Backend {
 public:
  explicit CpuBackend(const CpuBackendOptions& options)
      : threads_(CpuThreads(options.threads)), precision_(options.precision) {}

  std::string description() const override {
    return std::string("CPU, ") + (CpuHasAvx2() ? "AVX2, " : "generic, ") +
           std::to_string(threads_) + (threads_ == 1 ? " thread" : " threads");
  }

  Result<std::unique_ptr<Activations>> Allocate(size_t rows, size_t width) override try {
    if (width != 0 && rows > SIZE_MAX / sizeof(float) / width) throw std::bad_alloc();
    return std::unique_ptr<Activations>(std::make_unique<CpuActivations>(rows, width));
  } catch (const std::bad_alloc&) {
    return OutOfMemory();
  }

  Result<std::unique_ptr<Matrix>> LoadMatrix(std::span<const WeightSource> stacked) override try {
    MSADB_ASSIGN_OR_RETURN(WeightMatrix weights, WeightMatrix::Make(stacked, &arena_));
    return std::unique_ptr<Matrix>(std::make_unique<CpuMatrix>(std::move(weights)));
  } catch (const std::bad_alloc&) {
    return OutOfMemory();
  }

  Result<std::unique_ptr<Vector>> LoadVector(std::span<const float> values) override try {
    return std::unique_ptr<Vector>(std::make_unique<CpuVector>(values));
  } catch (const std::bad_alloc&) {
    return OutOfMemory();
  }

  Result<std::unique_ptr<Angles>> LoadAngles(std::span<const int32_t> positions, size_t head_dim,
                                             double theta) override try {
    auto angles = std::make_unique<CpuAngles>(positions.size() * head_dim / 2);
    RopeAngles(positions.data(), positions.size(), head_dim, theta, angles->cosines.data(),
               angles->sines.data());
    return std::unique_ptr<Angles>(std::move(angles));
  } catch (const std::bad_alloc&) {
    return OutOfMemory();
  }

  Status CopyRows(Tensor from, Tensor to, size_t rows, size_t width) override {
    for (size_t i = 0; i < rows; ++i) {
      std::copy_n(Floats(from) + i * from.stride, width, Floats(to) + i * to.stride);
    }
    return Status::Ok();
  }

  Status Upload(const float* from, Tensor to, size_t rows, size_t width) override {
    for (size_t i = 0; i < rows; ++i) std::copy_n(from + i * width, width, Floats(to.At(i)));
    return Status::Ok();
  }

  Status UploadRows(std::span<const uint16_t* const> a, Tensor to_a,
                    std::span<const uint16_t* const> b, Tensor to_b, size_t width) override {
    for (size_t i = 0; i < a.size(); ++i) ConvertBf16ToF32(a[i], Floats(to_a.At(i)), width);
    for (size_t i = 0; i < b.size(); ++i) ConvertBf16ToF32(b[i], Floats(to_b.At(i)), width);
    return Status::Ok();
  }

  Status Download(Tensor from, float* to, size_t rows, size_t width) override {
    for (size_t i = 0; i < rows; ++i) std::copy_n(Floats(from.At(i)), width, to + i * width);
    return Status::Ok();
  }

  Status Synchronize() override { return Status::Ok(); }

  Status Embed(const Matrix& embedding, std::span<const int32_t> ids, Tensor out) override {
    EmbeddingRef({&Weights(embedding), ids.data(), ids.size(), Floats(out), out.stride});
    return Status::Ok();
  }

  Status RmsNorm(Tensor x, size_t tokens, size_t heads, size_t width, const Vector& weight,
                 float epsilon, Tensor y) override {
    const float* values = static_cast<const CpuVector&>(weight).data();
    ForTokens(tokens, heads * width, [&](size_t begin, size_t count) {
      RmsNormParams p;
      p.x = Floats(x.At(begin));
      p.x_stride = x.stride;
      p.weight = values;
      p.y = Floats(y.At(begin));
      p.y_stride = y.stride;
      p.tokens = count;
      p.heads = heads;
      p.width = width;
      p.epsilon = epsilon;
      MSADB_PICK(RmsNorm)(p);
    });
    return Status::Ok();
  }

  Status Matmul(Tensor x, size_t tokens, const Matrix& weight, Tensor y, bool accumulate) override
      try {
    MatmulParams p;
    p.weight = &Weights(weight);
    p.x = Floats(x);
    p.x_stride = x.stride;
    p.y = Floats(y);
    p.y_stride = y.stride;
    p.tokens = tokens;
    p.accumulate = accumulate;
    p.precision = precision_;
    kernels::Matmul(p, threads_, &matmul_workspace_);
    return Status::Ok();
  } catch (const std::bad_alloc&) {
    return OutOfMemory();
  }

  Status Rope(Tensor x, size_t tokens, size_t heads, size_t head_dim,
              const Angles& angles) override {
    const auto& table = static_cast<const CpuAngles&>(angles);
    ForTokens(tokens, heads * head_dim, [&](size_t begin, size_t count) {
      RopeParams p;
      p.x = Floats(x.At(begin));
      p.x_stride = x.stride;
      p.cosines = table.cosines.data() + begin * head_dim / 2;
      p.sines = table.sines.data() + begin * head_dim / 2;
      p.tokens = count;
      p.heads = heads;
      p.head_dim = head_dim;
      MSADB_PICK(Rope)(p);
    });
    return Status::Ok();
  }

  Status Attention(Tensor q, Tensor k, Tensor v, Tensor out,
                   std::span<const AttentionSegment> segments, size_t heads, size_t kv_heads,
                   size_t head_dim) override try {
    const AttentionParams p =
        Attending(q, k, v, out, segments.data(), segments.size(), heads, kv_heads, head_dim);
    const bool decode = std::all_of(segments.begin(), segments.end(),
                                    [](const auto& segment) { return segment.query_count <= 1; });
    if (decode) {
      AttentionDecode({&p, 1}, threads_, &attention_workspace_);
    } else {
      AttentionPrefill(p, threads_, &attention_workspace_);
    }
    return Status::Ok();
  } catch (const std::bad_alloc&) {
    return OutOfMemory();
  }

  Status AttentionEach(Tensor q, std::span<const OwnKeys> keys, Tensor out, size_t heads,
                       size_t kv_heads, size_t head_dim) override try {
    std::vector<AttentionSegment> segments(keys.size());
    std::vector<AttentionParams> calls(keys.size());
    for (size_t i = 0; i < keys.size(); ++i) {
      segments[i] = {0, 1, 0, keys[i].rows - 1};
      calls[i] = Attending(q.At(i), keys[i].k, keys[i].v, out.At(i), &segments[i], 1, heads,
                           kv_heads, head_dim);
    }
    AttentionDecode(calls, threads_, &attention_workspace_);
    return Status::Ok();
  } catch (const std::bad_alloc&) {
    return OutOfMemory();
  }

  Status SiluMul(Tensor gate_up, size_t tokens, size_t width, Tensor out) override {
    ForTokens(tokens, width, [&](size_t begin, size_t count) {
      MSADB_PICK(SiluMul)({Floats(gate_up.At(begin)), Floats(out.At(begin)), count, width});
    });
    return Status::Ok();
  }

  Status ChunkPool(Tensor x, std::span<const size_t> lengths, size_t chunk, size_t width,
                   float* out) override {
    ChunkPoolParams p;
    p.x = Floats(x);
    p.x_stride = x.stride;
    p.lengths = lengths.data();
    p.documents = lengths.size();
    p.chunk = chunk;
    p.width = width;
    p.out = out;
    ChunkPoolRef(p);
    return Status::Ok();
  }

  Status RouterFold(Tensor q, size_t tokens, size_t heads, size_t kv_heads, size_t head_dim,
                    bool cosine, float* out) override {
    RouterFoldParams p;
    p.q = Floats(q);
    p.q_stride = q.stride;
    p.out = out;
    p.tokens = tokens;
    p.heads = heads;
    p.kv_heads = kv_heads;
    p.head_dim = head_dim;
    p.cosine = cosine;
    RouterFoldRef(p);
    return Status::Ok();
  }

 private:
  static Status OutOfMemory() {
    return Status::ResourceExhausted(
        "out of memory for the model's mathematics; use shorter documents or fewer at a time");
  }

  static AttentionParams Attending(Tensor q, Tensor k, Tensor v, Tensor out,
                                   const AttentionSegment* segments, size_t segment_count,
                                   size_t heads, size_t kv_heads, size_t head_dim) {
    AttentionParams p;
    p.q = Floats(q);
    p.q_stride = q.stride;
    p.k = Floats(k);
    p.v = Floats(v);
    p.kv_stride = k.stride;
    p.out = Floats(out);
    p.out_stride = out.stride;
    p.segments = segments;
    p.segment_count = segment_count;
    p.heads = heads;
    p.kv_heads = kv_heads;
    p.head_dim = head_dim;
    p.scale = 1.0f / std::sqrt(static_cast<float>(head_dim));
    return p;
  }

  // Runs slice(first token, tokens) over all tokens, on several threads when there is enough to do.
  template <typename Slice>
  void ForTokens(size_t tokens, size_t elements_per_token, const Slice& slice) {
    const bool parallel = threads_ > 1 && tokens * elements_per_token >= kParallelElementsMin;
    if (!parallel) return slice(0, tokens);
    const size_t tasks = std::min<size_t>(static_cast<size_t>(threads_), tokens);
    const size_t share = (tokens + tasks - 1) / tasks;
#pragma omp parallel for schedule(static, 1) num_threads(threads_)
    for (size_t task = 0; task < tasks; ++task) {
      const size_t begin = std::min(task * share, tokens);
      slice(begin, std::min(share, tokens - begin));
    }
  }

  const int threads_;
  const Precision precision_;
  WeightArena arena_;  // of all matrices
  MatmulWorkspace matmul_workspace_;
  AttentionWorkspace attention_workspace_;
};

}  // namespace

std::unique_ptr<Backend> MakeCpuBackend(const CpuBackendOptions& options) {
  return std::make_unique<CpuBackend>(options);
}

}  // namespace msadb::kernels
