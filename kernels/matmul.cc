#include "kernels/matmul.h"

#include <cblas.h>
#include <omp.h>

#include <algorithm>
#include <cstdint>

#include "kernels/cpu_features.h"

namespace msadb::kernels {
namespace {

// Below this many multiplications a second thread costs more than it brings.
constexpr size_t kParallelWorkMin = 128 * 1024;

// One task of the integer product: 8 row blocks by as many tokens as keep their rounded activations
// in the second-level cache.
constexpr size_t kTaskRows = 8 * kRowBlock;
constexpr size_t kTaskTokens = 128;
static_assert(kTaskTokens % kTokenTile == 0);

// Float weights: up to here dot products beat packing panels for a BLAS call.
constexpr size_t kDotTokensMax = 6;

// One dequantised panel per thread, small enough to stay in a shared cache while sgemm reads it.
constexpr size_t kPanelBytes = 1 << 20;

int ThreadsFor(size_t work, int threads) { return work < kParallelWorkMin ? 1 : threads; }

struct QuantizedActivations {
  int planes;
  int8_t* q;
  float* scale;
  float* sum;
};

QuantizedActivations CarveQuantized(size_t tokens, size_t cols, int planes, AlignedBuffer* buffer) {
  const size_t padded = (tokens + kTokenTile - 1) / kTokenTile * kTokenTile;
  const size_t blocks = cols / kColBlock;
  const size_t q_bytes = padded * cols * static_cast<size_t>(planes);
  buffer->Reserve(q_bytes + 2 * padded * blocks * sizeof(float));
  auto* q = buffer->as<int8_t>();
  auto* scale = reinterpret_cast<float*>(q + q_bytes);
  return {planes, q, scale, scale + padded * blocks};
}

#if MSADB_KERNELS_AVX2

void QuantizedPart(const MatmulParams& p, const WeightMatrix::Part& part,
                   const QuantizedActivations& activations, int threads) {
  const size_t cols = p.weight->cols();
  const size_t blocks = cols / kColBlock;
  const size_t block_bytes = part.type == WeightType::kInt8 ? kInt8BlockBytes : kInt4BlockBytes;
  const size_t row_bytes = blocks * block_bytes / kRowBlock;
  // A single token streams the whole matrix: give every thread one contiguous stretch of it.
  size_t task_rows = kTaskRows;
  if (p.tokens == 1) {
    const size_t share =
        (part.rows + static_cast<size_t>(threads) - 1) / static_cast<size_t>(threads);
    task_rows = std::max<size_t>((share + kRowBlock - 1) / kRowBlock * kRowBlock, kRowBlock);
  }
  const size_t row_tasks = (part.rows + task_rows - 1) / task_rows;
  const size_t token_tasks = (p.tokens + kTaskTokens - 1) / kTaskTokens;
  const int team = ThreadsFor(p.tokens * part.rows * cols, threads);
#pragma omp parallel for collapse(2) schedule(dynamic, 1) num_threads(team) if (team > 1)
  for (size_t token_task = 0; token_task < token_tasks; ++token_task) {
    for (size_t row_task = 0; row_task < row_tasks; ++row_task) {
      const size_t row = row_task * task_rows;
      const size_t token = token_task * kTaskTokens;
      QuantizedSlice slice;
      slice.type = part.type;
      slice.row_blocks = reinterpret_cast<const uint8_t*>(part.data) + row * row_bytes;
      slice.rows = std::min(task_rows, part.rows - row);
      slice.cols = cols;
      slice.planes = activations.planes;
      slice.q = activations.q + token * cols * static_cast<size_t>(activations.planes);
      slice.scale = activations.scale + token * blocks;
      slice.sum = activations.sum + token * blocks;
      slice.tokens = std::min(kTaskTokens, p.tokens - token);
      slice.y = p.y + token * p.y_stride + part.row_begin + row;
      slice.y_stride = p.y_stride;
      slice.accumulate = p.accumulate;
      QuantizedMatmulAvx2(slice);
    }
  }
}

void Quantize(const MatmulParams& p, const QuantizedActivations& out, int threads) {
  const size_t cols = p.weight->cols();
  const size_t blocks = cols / kColBlock;
  const int team = ThreadsFor(p.tokens * cols, threads);
#pragma omp parallel for schedule(static) num_threads(team) if (team > 1)
  for (size_t t = 0; t < p.tokens; t += kTokenTile) {
    QuantizeSlice slice;
    slice.x = p.x + t * p.x_stride;
    slice.x_stride = p.x_stride;
    slice.tokens = std::min(kTokenTile, p.tokens - t);
    slice.cols = cols;
    slice.planes = out.planes;
    slice.q = out.q + t * cols * static_cast<size_t>(out.planes);
    slice.scale = out.scale + t * blocks;
    slice.sum = out.sum + t * blocks;
    QuantizeTileAvx2(slice);
  }
}

void DotPart(const MatmulParams& p, const WeightMatrix::Part& part, int threads) {
  const size_t cols = p.weight->cols();
  const size_t element = part.type == WeightType::kF32 ? 4 : 2;
  const int team = ThreadsFor(p.tokens * part.rows * cols, threads);
  const size_t tasks = static_cast<size_t>(team);
  const size_t share = (part.rows + tasks - 1) / tasks;
#pragma omp parallel for schedule(static, 1) num_threads(team) if (team > 1)
  for (size_t task = 0; task < tasks; ++task) {
    const size_t row = std::min(task * share, part.rows);
    FloatSlice slice;
    slice.type = part.type;
    slice.weight = part.data + row * cols * element;
    slice.rows = std::min(share, part.rows - row);
    slice.cols = cols;
    slice.x = p.x;
    slice.x_stride = p.x_stride;
    slice.tokens = p.tokens;
    slice.y = p.y + part.row_begin + row;
    slice.y_stride = p.y_stride;
    slice.accumulate = p.accumulate;
    FloatMatmulAvx2(slice);
  }
}

#endif  // MSADB_KERNELS_AVX2

// Panels of rows, each widened to float32 (in place for F32) and multiplied by one sgemm call.
void BlasPart(const MatmulParams& p, const WeightMatrix::Part& part, int threads,
              AlignedBuffer* panels) {
  const size_t cols = p.weight->cols();
  const int team = ThreadsFor(p.tokens * part.rows * cols, threads);
  const size_t share = (part.rows + static_cast<size_t>(team) - 1) / static_cast<size_t>(team);
  const size_t fitting = std::max<size_t>(kPanelBytes / sizeof(float) / cols, 8);
  const size_t panel_rows = part.type == WeightType::kF32 ? share : std::min(share, fitting);
  const size_t panel_count = (part.rows + panel_rows - 1) / panel_rows;
  const size_t panel_floats = part.type == WeightType::kF32 ? 0 : panel_rows * cols;
  panels->Reserve(static_cast<size_t>(team) * panel_floats * sizeof(float));
  float* const workspace = panels->as<float>();
#pragma omp parallel num_threads(team) if (team > 1)
  {
    // One thread is one thread for BLAS too: it asks this setting of the calling task, and where it
    // is given fewer threads than it found there it waits for the others for ever.
    omp_set_num_threads(1);
#pragma omp for schedule(dynamic, 1)
    for (size_t panel = 0; panel < panel_count; ++panel) {
      const size_t row = panel * panel_rows;
      const size_t rows = std::min(panel_rows, part.rows - row);
      const float* weight = reinterpret_cast<const float*>(part.data) + row * cols;
      if (part.type != WeightType::kF32) {
        float* widened = workspace + static_cast<size_t>(omp_get_thread_num()) * panel_floats;
        DequantizePartRows(part, cols, row, rows, widened);
        weight = widened;
      }
      cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, static_cast<blasint>(p.tokens),
                  static_cast<blasint>(rows), static_cast<blasint>(cols), 1.0f, p.x,
                  static_cast<blasint>(p.x_stride), weight, static_cast<blasint>(cols),
                  p.accumulate ? 1.0f : 0.0f, p.y + part.row_begin + row,
                  static_cast<blasint>(p.y_stride));
    }
  }
}

}  // namespace

void Matmul(const MatmulParams& p, int threads, MatmulWorkspace* workspace) {
  if (p.tokens == 0 || p.weight->rows() == 0) return;
  const bool vectors = CpuHasAvx2();
  bool rounded = false;
  QuantizedActivations activations{};
  for (const WeightMatrix::Part& part : p.weight->parts()) {
    if (part.rows == 0) continue;
    const bool quantized = part.type == WeightType::kInt8 || part.type == WeightType::kInt4;
#if MSADB_KERNELS_AVX2
    if (vectors && quantized && p.precision != Precision::kExact) {
      if (!rounded) {
        activations =
            CarveQuantized(p.tokens, p.weight->cols(), p.precision == Precision::kFine ? 2 : 1,
                           &workspace->quantized);
        Quantize(p, activations, threads);
        rounded = true;
      }
      QuantizedPart(p, part, activations, threads);
      continue;
    }
    if (vectors && !quantized && p.tokens <= kDotTokensMax) {
      DotPart(p, part, threads);
      continue;
    }
#endif
    BlasPart(p, part, threads, &workspace->panels);
  }
}

}  // namespace msadb::kernels
