// The op table on a GPU. Everything goes to one stream; host inputs are copied to page-locked
// memory that kernels read themselves, host outputs are written there by kernels and handed over by
// Synchronize.
#include "kernels/cuda_backend.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <new>
#include <vector>

#include "kernels/cuda/cublas.h"
#include "kernels/cuda/device_memory.h"
#include "kernels/cuda/launch.h"
#include "kernels/dtype.h"

namespace msadb::kernels {
namespace cuda {
namespace {

constexpr size_t kActivationBytes = 2;  // bfloat16
constexpr size_t kSumBytes = 4;         // float32
constexpr size_t kCublasWorkspaceBytes = size_t{32} << 20;
constexpr size_t kInputAreaBytes = size_t{16} << 20;
constexpr size_t kOutputAreaBytes = size_t{96} << 20;
// From here on the copy engine is faster than a kernel that writes to the host.
constexpr size_t kCopyEngineBytes = size_t{64} << 10;

class CudaActivations : public Activations {
 public:
  CudaActivations(DeviceBuffer buffer, size_t rows, size_t width, size_t element_bytes)
      : buffer_(std::move(buffer)) {
    tensor_ = {buffer_.as<void>(), width, element_bytes};
    rows_ = rows;
  }

 private:
  DeviceBuffer buffer_;
};

class CudaMatrix : public Matrix {
 public:
  size_t rows() const override { return rows_; }
  size_t cols() const override { return cols_; }
  size_t bytes() const override { return bytes_; }
  const std::vector<DeviceWeight>& parts() const { return parts_; }

 private:
  friend class CudaBackend;
  size_t rows_ = 0;
  size_t cols_ = 0;
  size_t bytes_ = 0;
  std::vector<DeviceWeight> parts_;
  std::vector<DeviceBuffer> buffers_;
};

class CudaVector : public Vector {
 public:
  explicit CudaVector(DeviceBuffer buffer) : buffer_(std::move(buffer)) {}
  const float* data() const { return buffer_.as<float>(); }

 private:
  DeviceBuffer buffer_;
};

class CudaAngles : public Angles {
 public:
  CudaAngles(DeviceBuffer buffer, size_t size) : buffer_(std::move(buffer)), size_(size) {}
  float* cosines() const { return buffer_.as<float>(); }
  float* sines() const { return buffer_.as<float>() + size_; }

 private:
  DeviceBuffer buffer_;
  size_t size_;
};

Rows ToRows(const Tensor& t) { return {t.data, t.stride, t.element_bytes}; }

const std::vector<DeviceWeight>& Parts(const Matrix& m) {
  return static_cast<const CudaMatrix&>(m).parts();
}

const float* Values(const Vector* v) {
  return v == nullptr ? nullptr : static_cast<const CudaVector*>(v)->data();
}

bool IsQuantized(WeightType type) { return type == WeightType::kInt8 || type == WeightType::kInt4; }

// A table that kernels read, uploaded only when it differs from the last one: every layer of a pass
// has the same.
template <typename T>
struct Table {
  std::vector<T> host;
  DeviceBuffer device;
};

class CudaBackend : public Backend {
 public:
  static Result<std::unique_ptr<Backend>> Make(int device) {
    auto backend = std::unique_ptr<CudaBackend>(new CudaBackend);
    MSADB_RETURN_IF_ERROR(backend->Start(device));
    return std::unique_ptr<Backend>(std::move(backend));
  }

  ~CudaBackend() override {
    if (stream_) {
      (void)cudaSetDevice(stream_->device);
      (void)cudaStreamSynchronize(stream_->stream);
    }
    for (cudaEvent_t event : marks_) (void)cudaEventDestroy(event);
    if (cublas_ != nullptr) (void)library_->destroy(cublas_);
  }

  std::string description() const override { return description_; }

  Result<std::unique_ptr<Activations>> Allocate(size_t rows, size_t width) override {
    return AllocateOf(rows, width, kActivationBytes);
  }
  Result<std::unique_ptr<Activations>> AllocateSums(size_t rows, size_t width) override {
    return AllocateOf(rows, width, kSumBytes);
  }
  bool reads_pinned_memory() const override { return true; }
  size_t mlp_tile() const override { return 8192; }

  Result<std::unique_ptr<Matrix>> LoadMatrix(std::span<const WeightSource> stacked) override try {
    auto matrix = std::make_unique<CudaMatrix>();
    if (!stacked.empty()) matrix->cols_ = stacked[0].cols;
    for (size_t first = 0; first < stacked.size();) {
      MSADB_RETURN_IF_ERROR(LoadPart(stacked, &first, matrix.get()));
    }
    return std::unique_ptr<Matrix>(std::move(matrix));
  } catch (const std::bad_alloc&) {
    return Status::ResourceExhausted("out of memory while loading weights");
  }

  Result<std::unique_ptr<Vector>> LoadVector(std::span<const float> values) override {
    MSADB_ASSIGN_OR_RETURN(DeviceBuffer buffer,
                           DeviceBuffer::Allocate(stream_, values.size_bytes()));
    MSADB_RETURN_IF_ERROR(ToDevice(buffer.as<void>(), values.data(), values.size_bytes()));
    return std::unique_ptr<Vector>(std::make_unique<CudaVector>(std::move(buffer)));
  }

  Result<std::unique_ptr<Angles>> LoadAngles(std::span<const int32_t> positions, size_t head_dim,
                                             double theta) override {
    const size_t half = head_dim / 2;
    MSADB_RETURN_IF_ERROR(SetFrequencies(head_dim, theta));
    const size_t size = positions.size() * half;
    MSADB_ASSIGN_OR_RETURN(DeviceBuffer buffer,
                           DeviceBuffer::Allocate(stream_, 2 * size * sizeof(float)));
    MSADB_ASSIGN_OR_RETURN(const int32_t* staged, Stage(positions));
    auto angles = std::make_unique<CudaAngles>(std::move(buffer), size);
    MSADB_CUDA_RETURN_IF_ERROR(LaunchAngles(staged, positions.size(), frequencies_.as<float>(),
                                            half, angles->cosines(), angles->sines(), stream()));
    return std::unique_ptr<Angles>(std::move(angles));
  }

  Status CopyRows(Tensor from, Tensor to, size_t rows, size_t width) override {
    MSADB_RETURN_IF_ERROR(Use());
    MSADB_CUDA_RETURN_IF_ERROR(LaunchCopy(ToRows(from), ToRows(to), {}, {}, rows, width, stream()));
    return Status::Ok();
  }

  Status CopyPair(Tensor from_a, Tensor to_a, Tensor from_b, Tensor to_b, size_t rows,
                  size_t width) override {
    MSADB_RETURN_IF_ERROR(Use());
    MSADB_CUDA_RETURN_IF_ERROR(LaunchCopy(ToRows(from_a), ToRows(to_a), ToRows(from_b),
                                          ToRows(to_b), rows, width, stream()));
    return Status::Ok();
  }

  Status Upload(const float* from, Tensor to, size_t rows, size_t width) override {
    // In pieces that leave the area usable for others.
    const size_t rows_max = std::max<size_t>(1, kInputAreaBytes / 4 / (width * sizeof(float) + 1));
    for (size_t begin = 0; begin < rows; begin += rows_max) {
      const size_t count = std::min(rows_max, rows - begin);
      MSADB_ASSIGN_OR_RETURN(const float* staged,
                             Stage(std::span(from + begin * width, count * width)));
      MSADB_CUDA_RETURN_IF_ERROR(LaunchCopy({const_cast<float*>(staged), width, sizeof(float)},
                                            ToRows(to.At(begin)), {}, {}, count, width, stream()));
    }
    return Status::Ok();
  }

  Status UploadRows(std::span<const uint16_t* const> a, Tensor to_a,
                    std::span<const uint16_t* const> b, Tensor to_b, size_t width) override {
    const size_t row_bytes = width * sizeof(uint16_t);
    // Rows elsewhere than in page-locked memory pass through the input area: bound them.
    const size_t rows_max = std::max<size_t>(1, kInputAreaBytes / 4 / (row_bytes + 16));
    for (size_t begin = 0; begin < a.size(); begin += rows_max) {
      const size_t count = std::min(rows_max, a.size() - begin);
      MSADB_ASSIGN_OR_RETURN(void* const area,
                             StageBytes(2 * count * (sizeof(void*) + row_bytes + 16)));
      auto* const pointers = static_cast<const uint16_t**>(area);
      auto* spare = reinterpret_cast<uint16_t*>(pointers + 2 * count);
      PinnedRanges pinned;
      for (size_t i = 0; i < 2 * count; ++i) {
        const uint16_t* row = i < count ? a[begin + i] : b[begin + i - count];
        if (!pinned.Contain(row, row_bytes)) {
          std::memcpy(spare, row, row_bytes);
          row = spare;
          spare += width;
        }
        pointers[i] = row;
      }
      MSADB_CUDA_RETURN_IF_ERROR(LaunchGather(pointers, count, ToRows(to_a.At(begin)),
                                              ToRows(to_b.At(begin)), width, stream()));
    }
    return Status::Ok();
  }

  Status Download(Tensor from, float* to, size_t rows, size_t width) override {
    const size_t rows_max = std::max<size_t>(1, kOutputAreaBytes / 8 / (width * sizeof(float) + 1));
    for (size_t begin = 0; begin < rows; begin += rows_max) {
      const size_t count = std::min(rows_max, rows - begin);
      MSADB_ASSIGN_OR_RETURN(float* const area, HostResult(to + begin * width, count * width));
      const Tensor rows_from = from.At(begin);
      const size_t bytes = count * width * sizeof(float);
      const bool contiguous = count == 1 || rows_from.stride == width;
      if (bytes >= kCopyEngineBytes && contiguous && rows_from.element_bytes == sizeof(float)) {
        MSADB_CUDA_RETURN_IF_ERROR(
            cudaMemcpyAsync(area, rows_from.data, bytes, cudaMemcpyDeviceToHost, stream()));
        continue;
      }
      MSADB_CUDA_RETURN_IF_ERROR(LaunchCopy(ToRows(rows_from), {area, width, sizeof(float)}, {}, {},
                                            count, width, stream()));
    }
    return Status::Ok();
  }

  Status Synchronize() override {
    MSADB_RETURN_IF_ERROR(Use());
    const cudaError_t error = cudaStreamSynchronize(stream());
    inputs_.Reset();
    outputs_.Reset();
    if (error == cudaSuccess) HandOver(results_.size());
    results_.clear();
    handed_over_ = 0;
    ++epoch_;
    marks_used_ = 0;
    return FromCuda(error, "cudaStreamSynchronize");
  }

  Result<Mark> SetMark() override {
    MSADB_RETURN_IF_ERROR(Use());
    if (marks_used_ == marks_.size()) {
      cudaEvent_t event = nullptr;
      MSADB_CUDA_RETURN_IF_ERROR(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
      marks_.push_back(event);
      mark_results_.push_back(0);
    }
    MSADB_CUDA_RETURN_IF_ERROR(cudaEventRecord(marks_[marks_used_], stream()));
    mark_results_[marks_used_] = results_.size();
    return Mark{epoch_, marks_used_++};
  }

  Status WaitFor(Mark mark) override {
    if (mark.epoch != epoch_) return Status::Ok();  // a Synchronize since then waited for all
    MSADB_RETURN_IF_ERROR(Use());
    MSADB_CUDA_RETURN_IF_ERROR(cudaEventSynchronize(marks_[mark.index]));
    HandOver(mark_results_[mark.index]);
    return Status::Ok();
  }

  Status Embed(const Matrix& embedding, std::span<const int32_t> ids, Tensor out) override {
    MSADB_ASSIGN_OR_RETURN(const int32_t* staged, Stage(ids));
    for (const DeviceWeight& part : Parts(embedding)) {
      MSADB_CUDA_RETURN_IF_ERROR(LaunchEmbed(part, staged, ids.size(), ToRows(out), stream()));
    }
    return Status::Ok();
  }

  Status RmsNorm(Tensor x, size_t tokens, size_t heads, size_t width, const Vector& weight,
                 float epsilon, Tensor y) override {
    MSADB_RETURN_IF_ERROR(Use());
    MSADB_CUDA_RETURN_IF_ERROR(LaunchRmsNorm(ToRows(x), tokens, heads, width, Values(&weight),
                                             epsilon, ToRows(y), stream()));
    return Status::Ok();
  }

  Status Matmul(Tensor x, size_t tokens, const Matrix& weight, Tensor y, bool accumulate) override {
    MSADB_RETURN_IF_ERROR(Use());
    if (tokens == 0) return Status::Ok();
    for (const DeviceWeight& part : Parts(weight)) {
      GemvParams p;
      p.weight = part;
      p.x = ToRows(x);
      p.y = ToRows(y.At(0, part.row_begin));
      p.tokens = tokens;
      p.accumulate = accumulate;
      if (GemvFits(p)) {
        MSADB_CUDA_RETURN_IF_ERROR(LaunchGemv(p, multiprocessors_, stream()));
      } else {
        MSADB_RETURN_IF_ERROR(LargeProduct(p));
      }
    }
    return Status::Ok();
  }

  Status NormMatmul(Tensor x, size_t tokens, const Vector& norm, float epsilon,
                    const Matrix& weight, Tensor normed, Tensor y) override {
    MSADB_RETURN_IF_ERROR(Use());
    std::vector<GemvParams> products = NormProducts(x, tokens, norm, epsilon, weight, normed);
    for (size_t i = 0; i < products.size(); ++i) {
      products[i].y = ToRows(y.At(0, products[i].weight.row_begin));
      if (!GemvFits(products[i])) {
        return Backend::NormMatmul(x, tokens, norm, epsilon, weight, normed, y);
      }
    }
    for (const GemvParams& p : products) MSADB_CUDA_RETURN_IF_ERROR(LaunchGemv(p, multiprocessors_, stream()));
    return Status::Ok();
  }

  Status NormMatmulSiluMul(Tensor x, size_t tokens, const Vector& norm, float epsilon,
                           const Matrix& gate_up_weight, Tensor normed, Tensor gate_up,
                           Tensor out) override {
    MSADB_RETURN_IF_ERROR(Use());
    std::vector<GemvParams> products =
        NormProducts(x, tokens, norm, epsilon, gate_up_weight, normed);
    if (products.size() != 1 || !GemvFits(products[0])) {
      return Backend::NormMatmulSiluMul(x, tokens, norm, epsilon, gate_up_weight, normed, gate_up,
                                        out);
    }
    products[0].y = ToRows(out);
    products[0].gated = true;
    MSADB_CUDA_RETURN_IF_ERROR(LaunchGemv(products[0], multiprocessors_, stream()));
    return Status::Ok();
  }

  Status Rope(Tensor x, size_t tokens, size_t heads, size_t head_dim,
              const Angles& angles) override {
    return NormRope(x, {}, tokens, heads, 0, head_dim, nullptr, nullptr, 0, angles);
  }

  Status NormRope(Tensor q, Tensor k, size_t tokens, size_t heads, size_t kv_heads, size_t head_dim,
                  const Vector* q_norm, const Vector* k_norm, float epsilon,
                  const Angles& angles) override {
    MSADB_RETURN_IF_ERROR(Use());
    MSADB_CUDA_RETURN_IF_ERROR(LaunchNormRope(
        ToParams(q, k, tokens, heads, kv_heads, head_dim, q_norm, k_norm, epsilon, angles), nullptr,
        stream()));
    return Status::Ok();
  }

  Status NormRopeAppend(Tensor q, Tensor k, Tensor v, std::span<const OwnKeys> keys, size_t heads,
                        size_t kv_heads, size_t head_dim, const Vector* q_norm,
                        const Vector* k_norm, float epsilon, const Angles& angles) override {
    const bool same_type = std::all_of(keys.begin(), keys.end(), [&](const OwnKeys& own) {
      return own.k.element_bytes == k.element_bytes && own.v.element_bytes == k.element_bytes;
    });
    if (keys.size() > kDecodeSegmentsMax || !same_type || v.element_bytes != k.element_bytes) {
      return Backend::NormRopeAppend(q, k, v, keys, heads, kv_heads, head_dim, q_norm, k_norm,
                                     epsilon, angles);
    }
    MSADB_RETURN_IF_ERROR(Use());
    NormRopeParams p =
        ToParams(q, k, keys.size(), heads, kv_heads, head_dim, q_norm, k_norm, epsilon, angles);
    p.v = ToRows(v);
    AppendRows append;
    for (size_t i = 0; i < keys.size(); ++i) {
      append.k[i] = keys[i].k.At(keys[i].rows - 1).data;
      append.v[i] = keys[i].v.At(keys[i].rows - 1).data;
    }
    MSADB_CUDA_RETURN_IF_ERROR(LaunchNormRope(p, &append, stream()));
    return Status::Ok();
  }

  Status Attention(Tensor q, Tensor k, Tensor v, Tensor out,
                   std::span<const AttentionSegment> segments, size_t heads, size_t kv_heads,
                   size_t head_dim) override {
    MSADB_RETURN_IF_ERROR(Use());
    MSADB_RETURN_IF_ERROR(CheckHeadDim(head_dim));
    const float scale = 1.0f / std::sqrt(static_cast<float>(head_dim));
    const bool decode = std::all_of(segments.begin(), segments.end(),
                                    [](const auto& segment) { return segment.query_count <= 1; });
    if (!decode) {
      return AttendPrefill(
          {ToRows(q), ToRows(k), ToRows(v), ToRows(out), heads, kv_heads, head_dim, scale},
          segments);
    }
    std::vector<DecodeSegment> queries;
    for (const AttentionSegment& s : segments) {
      if (s.query_count == 0) continue;
      queries.push_back({k.At(s.key_begin).data, v.At(s.key_begin).data, k.stride, v.stride,
                         static_cast<uint32_t>(s.query_begin),
                         static_cast<uint32_t>(s.visible_before + 1)});
    }
    return AttendDecode({ToRows(q), ToRows(out), heads, kv_heads, head_dim, scale}, queries);
  }

  Status AttentionEach(Tensor q, std::span<const OwnKeys> keys, Tensor out, size_t heads,
                       size_t kv_heads, size_t head_dim) override {
    MSADB_RETURN_IF_ERROR(Use());
    MSADB_RETURN_IF_ERROR(CheckHeadDim(head_dim));
    const float scale = 1.0f / std::sqrt(static_cast<float>(head_dim));
    return AttendDecode({ToRows(q), ToRows(out), heads, kv_heads, head_dim, scale},
                        ToSegments(keys));
  }

  Status RotateAttentionEach(Tensor q, Tensor k, Tensor v, std::span<const OwnKeys> keys,
                             Tensor out, size_t heads, size_t kv_heads, size_t head_dim,
                             const Vector* q_norm, const Vector* k_norm, float epsilon,
                             const Angles& angles) override {
    MSADB_RETURN_IF_ERROR(Use());
    const float scale = 1.0f / std::sqrt(static_cast<float>(head_dim));
    const DecodeShape shape = {ToRows(q), ToRows(out), heads, kv_heads, head_dim, scale};
    const std::vector<DecodeSegment> segments = ToSegments(keys);
    const auto& table = static_cast<const CudaAngles&>(angles);
    const RotateParams rotate = {ToRows(k), ToRows(v),       Values(q_norm), Values(k_norm),
                                 epsilon,   table.cosines(), table.sines()};
    if (!DecodeRotates(shape, segments.data(), segments.size(), rotate)) {
      return Backend::RotateAttentionEach(q, k, v, keys, out, heads, kv_heads, head_dim, q_norm,
                                          k_norm, epsilon, angles);
    }
    return AttendDecode(shape, segments, &rotate);
  }

  Result<bool> DecodeStep(const DecodeInput& input, float* logits) override {
    const auto weights = [](const Matrix* m) -> const DeviceWeight* {
      const std::vector<DeviceWeight>& parts = Parts(*m);
      return parts.size() == 1 && parts[0].type == WeightType::kBF16 ? parts.data() : nullptr;
    };
    const DeviceWeight *const embedding = weights(input.embedding), *const head = weights(input.head);
    if (embedding == nullptr || head == nullptr || input.layers.empty()) return false;
    const auto& angles = static_cast<const CudaAngles&>(*input.angles);
    std::vector<DecodeStepLayer> layers;
    for (const DecodeLayer& l : input.layers) {
      const DeviceWeight *const qkv = weights(l.qkv), *const output = weights(l.output),
                         *const gate_up = weights(l.gate_up), *const down = weights(l.down);
      if (!qkv || !output || !gate_up || !down) return false;
      layers.push_back({Values(l.input_norm), qkv->data, Values(l.q_norm), Values(l.k_norm),
                        output->data, Values(l.post_attention_norm), gate_up->data, down->data,
                        l.keys.k.data, l.keys.v.data, static_cast<uint32_t>(l.keys.k.stride),
                        static_cast<uint32_t>(l.keys.v.stride),
                        static_cast<uint32_t>(l.keys.rows)});
    }
    DecodeStepParams p;
    p.state = static_cast<const char*>(embedding->data) +
              static_cast<size_t>(input.token) * embedding->cols * kActivationBytes;
    p.final_norm = Values(input.final_norm);
    p.head = head->data;
    p.vocab = head->rows;
    p.hidden = head->cols;
    p.inner = input.layers[0].down->cols();
    p.heads = input.heads;
    p.kv_heads = input.kv_heads;
    p.head_dim = input.head_dim;
    p.epsilon = input.epsilon;
    p.scale = 1.0f / std::sqrt(static_cast<float>(input.head_dim));
    p.cosines = angles.cosines();
    p.sines = angles.sines();
    p.layers = layers.data();
    p.layer_count = layers.size();
    p.multiprocessors = multiprocessors_;
    if (no_decode_step_ || !DecodeStepFits(p)) return false;
    MSADB_RETURN_IF_ERROR(Use());
    const size_t words = DecodeStepWords(p);
    if (words != step_words_count_ || UINT32_MAX - step_epoch_ <= layers.size()) {
      MSADB_RETURN_IF_ERROR(step_words_.Reserve(stream_, words * sizeof(uint64_t)));
      MSADB_CUDA_RETURN_IF_ERROR(cudaMemsetAsync(step_words_.as<void>(), 0,
                                                 words * sizeof(uint64_t), stream()));
      step_words_count_ = words;
      step_epoch_ = 0;
    }
    MSADB_ASSIGN_OR_RETURN(p.logits, HostResult(logits, p.vocab));
    const cudaError_t error =
        LaunchDecodeStep(p, step_words_.as<uint64_t>(), step_epoch_ + 1, stream());
    if (error == cudaErrorInvalidConfiguration || error == cudaErrorCooperativeLaunchTooLarge ||
        error == cudaErrorNotSupported) {
      (void)cudaGetLastError();
      results_.pop_back();
      no_decode_step_ = true;  // nor will it take the next one
      return false;
    }
    MSADB_CUDA_RETURN_IF_ERROR(error);
    step_epoch_ += static_cast<uint32_t>(layers.size());
    return true;
  }

  Status SiluMul(Tensor gate_up, size_t tokens, size_t width, Tensor out) override {
    MSADB_RETURN_IF_ERROR(Use());
    MSADB_CUDA_RETURN_IF_ERROR(
        LaunchSiluMul(ToRows(gate_up), tokens, width, ToRows(out), stream()));
    return Status::Ok();
  }

  Status ChunkPool(Tensor x, std::span<const size_t> lengths, size_t chunk, size_t width,
                   float* out) override {
    std::vector<PoolChunk> chunks;
    size_t row = 0;
    for (const size_t length : lengths) {
      for (size_t begin = 0; begin < length; begin += chunk) {
        chunks.push_back({static_cast<uint32_t>(row + begin),
                          static_cast<uint32_t>(std::min(chunk, length - begin))});
      }
      row += length;
    }
    if (chunks.empty()) return Status::Ok();
    MSADB_ASSIGN_OR_RETURN(const PoolChunk* const table,
                           SetTable(std::move(chunks), &pool_chunks_));
    const size_t count = pool_chunks_.host.size();
    const size_t share = std::max<size_t>(1, kOutputAreaBytes / 8 / (width * sizeof(float) + 1));
    for (size_t begin = 0; begin < count; begin += share) {
      const size_t n = std::min(share, count - begin);
      MSADB_ASSIGN_OR_RETURN(float* const area, HostResult(out + begin * width, n * width));
      MSADB_CUDA_RETURN_IF_ERROR(
          LaunchChunkPool(ToRows(x), table + begin, n, width, area, stream()));
    }
    return Status::Ok();
  }

  Status RouterFold(Tensor q, size_t tokens, size_t heads, size_t kv_heads, size_t head_dim,
                    bool cosine, float* out) override {
    const size_t width = kv_heads * head_dim;
    MSADB_ASSIGN_OR_RETURN(DeviceBuffer folded,
                           DeviceBuffer::Allocate(stream_, tokens * width * sizeof(float)));
    MSADB_CUDA_RETURN_IF_ERROR(LaunchRouterFold(ToRows(q), tokens, heads, kv_heads, head_dim,
                                                cosine, folded.as<float>(), stream()));
    return Download({folded.as<void>(), width, sizeof(float)}, out, tokens, width);
  }

 private:
  struct HostCopy {
    void* to;
    const void* from;
    size_t bytes;
  };

  CudaBackend() = default;

  // Copies the results before `end` to where they were asked for.
  void HandOver(size_t end) {
    for (; handed_over_ < end; ++handed_over_) {
      const HostCopy& copy = results_[handed_over_];
      std::memcpy(copy.to, copy.from, copy.bytes);
    }
  }

  cudaStream_t stream() const { return stream_->stream; }

  // CUDA keeps the current device per thread; calls may come from any.
  Status Use() {
    MSADB_CUDA_RETURN_IF_ERROR(cudaSetDevice(stream_->device));
    return Status::Ok();
  }

  Status Start(int device) {
    cudaDeviceProp properties;
    MSADB_CUDA_RETURN_IF_ERROR(cudaGetDeviceProperties(&properties, device));
    multiprocessors_ = static_cast<size_t>(properties.multiProcessorCount);
    description_ = std::string(properties.name) + ", " +
                   std::to_string(properties.totalGlobalMem >> 30) + " GiB";
    MSADB_ASSIGN_OR_RETURN(library_, CublasLibrary::Get());
    MSADB_ASSIGN_OR_RETURN(stream_, Stream::Create(device));
    MSADB_RETURN_IF_ERROR(FromCublas(library_->create(&cublas_), "cublasCreate"));
    MSADB_RETURN_IF_ERROR(FromCublas(library_->set_stream(cublas_, stream()), "cublasSetStream"));
    MSADB_ASSIGN_OR_RETURN(cublas_workspace_,
                           DeviceBuffer::Allocate(stream_, kCublasWorkspaceBytes));
    MSADB_RETURN_IF_ERROR(FromCublas(
        library_->set_workspace(cublas_, cublas_workspace_.as<void>(), kCublasWorkspaceBytes),
        "cublasSetWorkspace"));
    MSADB_RETURN_IF_ERROR(inputs_.Resize(kInputAreaBytes));
    MSADB_RETURN_IF_ERROR(outputs_.Resize(kOutputAreaBytes));
    MSADB_ASSIGN_OR_RETURN(
        decode_partial_,
        DeviceBuffer::Allocate(stream_, DecodePartialFloats(multiprocessors_) * sizeof(float)));
    const size_t counter_bytes = 2 * multiprocessors_ * sizeof(uint32_t);
    MSADB_ASSIGN_OR_RETURN(decode_counters_, DeviceBuffer::Allocate(stream_, counter_bytes));
    MSADB_CUDA_RETURN_IF_ERROR(
        cudaMemsetAsync(decode_counters_.as<void>(), 0, counter_bytes, stream()));
    // Any kernel: whether this build has code for the device.
    MSADB_CUDA_RETURN_IF_ERROR(LaunchCopy({decode_partial_.as<void>(), 1, 4},
                                          {decode_partial_.as<float>() + 64, 1, 4}, {}, {}, 1, 1,
                                          stream()));
    return Synchronize();
  }

  static Status FromCublas(cublasStatus_t status, const char* what) {
    if (status == CUBLAS_STATUS_SUCCESS) return Status::Ok();
    if (status == CUBLAS_STATUS_ALLOC_FAILED) {
      return Status::ResourceExhausted(std::string("out of GPU memory in ") + what);
    }
    return Status::Unavailable(std::string(what) + " failed with code " +
                               std::to_string(static_cast<int>(status)));
  }

  Result<std::unique_ptr<Activations>> AllocateOf(size_t rows, size_t width, size_t element_bytes) {
    if (width != 0 && rows > SIZE_MAX / element_bytes / width) {
      return Status::ResourceExhausted("more activations than memory has addresses");
    }
    MSADB_ASSIGN_OR_RETURN(DeviceBuffer buffer,
                           DeviceBuffer::Allocate(stream_, rows * width * element_bytes));
    return std::unique_ptr<Activations>(
        std::make_unique<CudaActivations>(std::move(buffer), rows, width, element_bytes));
  }

  // Loads the sources from *first on that share a type, and moves *first past them.
  Status LoadPart(std::span<const WeightSource> stacked, size_t* first, CudaMatrix* matrix) {
    const auto stored = [](const WeightSource& s) {
      return IsQuantized(s.type) ? s.type : WeightType::kBF16;
    };
    DeviceWeight part;
    part.type = stored(stacked[*first]);
    part.row_begin = matrix->rows_;
    part.cols = matrix->cols_;
    part.group = IsQuantized(part.type) ? stacked[*first].group : 0;
    size_t last = *first;
    for (; last < stacked.size(); ++last) {
      const WeightSource& source = stacked[last];
      if (stored(source) != part.type || (IsQuantized(part.type) && source.group != part.group)) {
        break;
      }
      if (source.cols != part.cols) {
        return Status::InvalidArgument(
            "stacked matrices differ in columns: " + std::to_string(source.cols) + " and " +
            std::to_string(part.cols));
      }
      if (IsQuantized(part.type) &&
          (part.group == 0 || part.group % kColBlock != 0 || part.cols % part.group != 0)) {
        return Status::InvalidArgument("a quantisation group of " + std::to_string(part.group) +
                                       " does not fit " + std::to_string(part.cols) +
                                       " columns; it must be a multiple of 32 that divides them");
      }
      part.rows += source.rows;
    }
    const size_t row_bytes = part.type == WeightType::kBF16   ? part.cols * 2
                             : part.type == WeightType::kInt8 ? part.cols
                                                              : part.cols / 2;
    const size_t groups = part.group == 0 ? 0 : part.cols / part.group;
    const size_t factor_bytes = groups * sizeof(uint16_t);
    MSADB_ASSIGN_OR_RETURN(DeviceBuffer data,
                           DeviceBuffer::Allocate(stream_, part.rows * row_bytes));
    MSADB_ASSIGN_OR_RETURN(DeviceBuffer scale,
                           DeviceBuffer::Allocate(stream_, part.rows * factor_bytes));
    const size_t min_bytes = part.type == WeightType::kInt4 ? factor_bytes : 0;
    MSADB_ASSIGN_OR_RETURN(DeviceBuffer min,
                           DeviceBuffer::Allocate(stream_, part.rows * min_bytes));
    size_t row = 0;
    for (; *first < last; ++*first) {
      const WeightSource& source = stacked[*first];
      MSADB_RETURN_IF_ERROR(LoadRows(source, data.as<char>() + row * row_bytes, row_bytes));
      MSADB_RETURN_IF_ERROR(ToDevice(scale.as<char>() + row * factor_bytes, source.scale,
                                     source.rows * factor_bytes));
      MSADB_RETURN_IF_ERROR(
          ToDevice(min.as<char>() + row * min_bytes, source.min, source.rows * min_bytes));
      row += source.rows;
    }
    part.data = data.as<void>();
    part.scale = scale.as<uint16_t>();
    part.min = min.as<uint16_t>();
    matrix->rows_ += part.rows;
    matrix->bytes_ += part.rows * (row_bytes + factor_bytes + min_bytes);
    matrix->parts_.push_back(part);
    matrix->buffers_.push_back(std::move(data));
    matrix->buffers_.push_back(std::move(scale));
    matrix->buffers_.push_back(std::move(min));
    return Status::Ok();
  }

  // The elements of a source; float32 and float16 as bfloat16, some rows at a time.
  Status LoadRows(const WeightSource& source, char* to, size_t row_bytes) {
    if (source.type != WeightType::kF32 && source.type != WeightType::kF16) {
      return ToDevice(to, source.data, source.rows * row_bytes);
    }
    const size_t rows_max =
        std::max<size_t>(1, (size_t{1} << 22) / std::max<size_t>(1, source.cols));
    std::vector<float> floats;
    std::vector<uint16_t> rounded;
    for (size_t begin = 0; begin < source.rows; begin += rows_max) {
      const size_t rows = std::min(rows_max, source.rows - begin);
      const size_t count = rows * source.cols;
      rounded.resize(count);
      const float* values = static_cast<const float*>(source.data) + begin * source.cols;
      if (source.type == WeightType::kF16) {
        floats.resize(count);
        ConvertF16ToF32(static_cast<const uint16_t*>(source.data) + begin * source.cols,
                        floats.data(), count);
        values = floats.data();
      }
      ConvertF32ToBf16(values, rounded.data(), count);
      MSADB_RETURN_IF_ERROR(ToDevice(to + begin * row_bytes, rounded.data(), rows * row_bytes));
    }
    return Status::Ok();
  }

  // Host memory to the device; done when it returns.
  Status ToDevice(void* to, const void* from, size_t bytes) {
    if (bytes == 0) return Status::Ok();
    MSADB_RETURN_IF_ERROR(Use());
    MSADB_CUDA_RETURN_IF_ERROR(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, stream()));
    MSADB_CUDA_RETURN_IF_ERROR(cudaStreamSynchronize(stream()));
    return Status::Ok();
  }

  Status SetFrequencies(size_t head_dim, double theta) {
    if (head_dim == frequencies_head_dim_ && theta == frequencies_theta_) return Status::Ok();
    std::vector<float> frequencies(head_dim / 2);
    for (size_t j = 0; j < frequencies.size(); ++j) {
      const float exponent = static_cast<float>(2 * j) / static_cast<float>(head_dim);
      frequencies[j] = 1.0f / std::pow(static_cast<float>(theta), exponent);
    }
    MSADB_RETURN_IF_ERROR(frequencies_.Reserve(stream_, frequencies.size() * sizeof(float)));
    MSADB_RETURN_IF_ERROR(
        ToDevice(frequencies_.as<void>(), frequencies.data(), frequencies.size() * sizeof(float)));
    frequencies_head_dim_ = head_dim;
    frequencies_theta_ = theta;
    return Status::Ok();
  }

  // Page-locked memory for inputs of what is launched next.
  Result<void*> StageBytes(size_t bytes) {
    MSADB_RETURN_IF_ERROR(Use());
    void* area = inputs_.Take(bytes);
    if (area != nullptr) return area;
    MSADB_RETURN_IF_ERROR(Synchronize());
    if (bytes > inputs_.size()) MSADB_RETURN_IF_ERROR(inputs_.Resize(2 * bytes));
    return inputs_.Take(bytes);
  }

  template <typename T>
  Result<const std::remove_const_t<T>*> Stage(std::span<T> values) {
    MSADB_ASSIGN_OR_RETURN(void* const area, StageBytes(values.size_bytes()));
    if (!values.empty()) std::memcpy(area, values.data(), values.size_bytes());
    return static_cast<const std::remove_const_t<T>*>(area);
  }

  // Page-locked memory that a kernel may fill and that goes to `to` at the next Synchronize.
  Result<float*> HostResult(float* to, size_t count) {
    MSADB_RETURN_IF_ERROR(Use());
    const size_t bytes = count * sizeof(float);
    void* area = outputs_.Take(bytes);
    if (area == nullptr) {
      MSADB_RETURN_IF_ERROR(Synchronize());
      if (bytes > outputs_.size()) MSADB_RETURN_IF_ERROR(outputs_.Resize(2 * bytes));
      area = outputs_.Take(bytes);
    }
    results_.push_back({to, area, bytes});
    return static_cast<float*>(area);
  }

  template <typename T>
  Result<const T*> SetTable(std::vector<T> values, Table<T>* table) {
    const size_t bytes = values.size() * sizeof(T);
    if (values.size() != table->host.size() ||
        std::memcmp(values.data(), table->host.data(), bytes) != 0) {
      table->host.clear();
      MSADB_RETURN_IF_ERROR(table->device.Reserve(stream_, bytes));
      MSADB_ASSIGN_OR_RETURN(const T* const staged, Stage(std::span(values)));
      MSADB_CUDA_RETURN_IF_ERROR(cudaMemcpyAsync(table->device.template as<void>(), staged, bytes,
                                                 cudaMemcpyHostToDevice, stream()));
      table->host = std::move(values);
    }
    return static_cast<const T*>(table->device.template as<T>());
  }

  std::vector<GemvParams> NormProducts(Tensor x, size_t tokens, const Vector& norm, float epsilon,
                                       const Matrix& weight, Tensor normed) {
    std::vector<GemvParams> products;
    for (const DeviceWeight& part : Parts(weight)) {
      GemvParams p;
      p.weight = part;
      p.x = ToRows(x);
      p.norm = Values(&norm);
      p.epsilon = epsilon;
      p.tokens = tokens;
      if (products.empty()) {
        p.normed = normed.data;
        p.normed_stride = normed.stride;
      }
      products.push_back(p);
    }
    return products;
  }

  // y (+)= x W^T of one part by cuBLAS. Row-major matrices are its column-major transposes:
  // y^T [rows, tokens] = W x^T.
  Status LargeProduct(const GemvParams& p) {
    const DeviceWeight& w = p.weight;
    const void* data = w.data;
    if (w.type != WeightType::kBF16) {
      MSADB_RETURN_IF_ERROR(dequantized_.Reserve(stream_, w.rows * w.cols * kActivationBytes));
      MSADB_CUDA_RETURN_IF_ERROR(LaunchDequantize(w, dequantized_.as<void>(), stream()));
      data = dequantized_.as<void>();
    }
    const float one = 1, beta = p.accumulate ? 1 : 0;
    return FromCublas(
        library_->gemm(cublas_, CUBLAS_OP_T, CUBLAS_OP_N, static_cast<int>(w.rows),
                       static_cast<int>(p.tokens), static_cast<int>(w.cols), &one, data,
                       CUDA_R_16BF, static_cast<int>(w.cols), p.x.data, CUDA_R_16BF,
                       static_cast<int>(p.x.stride), &beta, p.y.data,
                       p.y.bytes == kSumBytes ? CUDA_R_32F : CUDA_R_16BF,
                       static_cast<int>(p.y.stride), CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT),
        "cublasGemmEx");
  }

  static NormRopeParams ToParams(Tensor q, Tensor k, size_t tokens, size_t heads, size_t kv_heads,
                                 size_t head_dim, const Vector* q_norm, const Vector* k_norm,
                                 float epsilon, const Angles& angles) {
    const auto& table = static_cast<const CudaAngles&>(angles);
    NormRopeParams p;
    p.q = ToRows(q);
    p.k = ToRows(k);
    p.tokens = static_cast<unsigned>(tokens);
    p.heads = static_cast<unsigned>(heads);
    p.kv_heads = static_cast<unsigned>(kv_heads);
    p.head_dim = static_cast<unsigned>(head_dim);
    p.q_norm = Values(q_norm);
    p.k_norm = Values(k_norm);
    p.epsilon = epsilon;
    p.cosines = table.cosines();
    p.sines = table.sines();
    return p;
  }

  static Status CheckHeadDim(size_t head_dim) {
    if (head_dim <= 256) return Status::Ok();
    return Status::Unsupported("the GPU code attends over heads of up to 256 dimensions, not " +
                               std::to_string(head_dim) + "; use device \"cpu\"");
  }

  static std::vector<DecodeSegment> ToSegments(std::span<const OwnKeys> keys) {
    std::vector<DecodeSegment> segments;
    for (const OwnKeys& own : keys) {
      segments.push_back({own.k.data, own.v.data, own.k.stride, own.v.stride,
                          static_cast<uint32_t>(segments.size()), static_cast<uint32_t>(own.rows)});
    }
    return segments;
  }

  Status AttendDecode(const DecodeShape& shape, std::span<const DecodeSegment> queries,
                      const RotateParams* rotate = nullptr) {
    for (; !queries.empty();
         queries = queries.subspan(std::min(kDecodeSegmentsMax, queries.size()))) {
      MSADB_CUDA_RETURN_IF_ERROR(LaunchAttentionDecode(
          shape, queries.data(), std::min(kDecodeSegmentsMax, queries.size()), rotate,
          multiprocessors_,
          {decode_partial_.as<float>(), decode_counters_.as<uint32_t>()}, stream()));
    }
    return Status::Ok();
  }

  Status AttendPrefill(const AttentionShape& shape, std::span<const AttentionSegment> segments) {
    std::vector<PrefillSegment> table;
    size_t tiles = 0;
    const size_t tile = PrefillTileQueries(shape);
    for (const AttentionSegment& s : segments) {
      if (s.query_count == 0) continue;
      table.push_back({static_cast<int32_t>(s.query_begin), static_cast<int32_t>(s.query_count),
                       static_cast<int32_t>(s.key_begin), static_cast<int32_t>(s.visible_before),
                       static_cast<int32_t>(tiles)});
      tiles += (s.query_count + tile - 1) / tile;
    }
    if (table.empty()) return Status::Ok();
    MSADB_ASSIGN_OR_RETURN(const PrefillSegment* const device,
                           SetTable(std::move(table), &prefill_segments_));
    MSADB_CUDA_RETURN_IF_ERROR(
        LaunchAttentionPrefill(shape, device, prefill_segments_.host.size(), tiles, stream()));
    return Status::Ok();
  }

  std::string description_;
  size_t multiprocessors_ = 0;
  const CublasLibrary* library_ = nullptr;
  std::shared_ptr<Stream> stream_;
  cublasHandle_t cublas_ = nullptr;
  DeviceBuffer cublas_workspace_;
  DeviceBuffer dequantized_;  // of one part
  DeviceBuffer decode_partial_;
  DeviceBuffer decode_counters_;
  DeviceBuffer step_words_;  // of decoding steps in one launch
  size_t step_words_count_ = 0;
  uint32_t step_epoch_ = 0;      // the last one used
  bool no_decode_step_ = false;  // the device does not take them
  DeviceBuffer frequencies_;     // of the last head_dim and theta
  size_t frequencies_head_dim_ = 0;
  double frequencies_theta_ = 0;
  Table<PrefillSegment> prefill_segments_;
  Table<PoolChunk> pool_chunks_;
  PinnedArea inputs_;
  PinnedArea outputs_;
  std::vector<HostCopy> results_;  // since the last Synchronize
  size_t handed_over_ = 0;         // of them
  uint64_t epoch_ = 0;             // Synchronizes so far
  std::vector<cudaEvent_t> marks_;
  std::vector<size_t> mark_results_;  // results before each mark
  size_t marks_used_ = 0;             // in this epoch
};

}  // namespace
}  // namespace cuda

Result<std::unique_ptr<Backend>> MakeCudaBackend(int device) try {
  const int count = CudaDeviceCount();
  if (device < 0 || device >= count) {
    return Status::Unsupported("there is no GPU " + std::to_string(device) +
                               ": this process sees " + std::to_string(count) +
                               " of them; use device \"cpu\" or \"auto\"");
  }
  return cuda::CudaBackend::Make(device);
} catch (const std::bad_alloc&) {
  return Status::ResourceExhausted("out of memory while starting the GPU");
}

}  // namespace msadb::kernels
