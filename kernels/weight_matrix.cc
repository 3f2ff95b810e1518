#include "kernels/weight_matrix.h"

#include <algorithm>
#include <cstring>
#include <new>
#include <string>

#include "kernels/cpu_features.h"
#include "kernels/dtype.h"

namespace msadb::kernels {
namespace {

bool IsQuantized(WeightType type) { return type == WeightType::kInt8 || type == WeightType::kInt4; }

size_t BlockBytes(WeightType type) {
  return type == WeightType::kInt8 ? kInt8BlockBytes : kInt4BlockBytes;
}

size_t ElementBytes(WeightType type) {
  return type == WeightType::kInt8 ? kInt8ElementBytes : kInt4ElementBytes;
}

size_t FloatBytes(WeightType type) { return type == WeightType::kF32 ? 4 : 2; }

size_t PartBytes(WeightType type, size_t rows, size_t cols) {
  if (!IsQuantized(type)) return rows * cols * FloatBytes(type);
  return (rows + kRowBlock - 1) / kRowBlock * (cols / kColBlock) * BlockBytes(type);
}

Status Check(const WeightSource& source, size_t cols) {
  if (source.cols != cols) {
    return Status::InvalidArgument("stacked matrices differ in columns: " +
                                   std::to_string(source.cols) + " and " + std::to_string(cols));
  }
  if (!IsQuantized(source.type)) return Status::Ok();
  if (source.group == 0 || source.group % kColBlock != 0 || cols % source.group != 0) {
    return Status::InvalidArgument("a quantisation group of " + std::to_string(source.group) +
                                   " does not fit " + std::to_string(cols) +
                                   " columns; it must be a multiple of 32 that divides them");
  }
  return Status::Ok();
}

// Writes row `row` of `source` into the packed part as row `target`.
void PackRow(const WeightSource& source, size_t row, size_t target, std::byte* part) {
  const size_t blocks = source.cols / kColBlock;
  const size_t groups = source.cols / source.group;
  const size_t lane = target % kRowBlock;
  // int8 has 32 bytes per row and block, int4 has 16; either way a register takes 4 of them.
  const size_t element_bytes = ElementBytes(source.type);
  const size_t row_bytes = element_bytes / kRowBlock;
  const auto* in = static_cast<const std::byte*>(source.data) + row * blocks * row_bytes;
  std::byte* block = part + target / kRowBlock * blocks * BlockBytes(source.type);
  for (size_t b = 0; b < blocks; ++b, block += BlockBytes(source.type), in += row_bytes) {
    for (size_t j = 0; j < row_bytes / 4; ++j) {
      std::memcpy(block + j * 32 + lane * 4, in + j * 4, 4);
    }
    auto* const factors = reinterpret_cast<uint16_t*>(block + element_bytes);
    const size_t group = row * groups + b * kColBlock / source.group;
    factors[lane] = source.scale[group];
    if (source.type == WeightType::kInt4) factors[kRowBlock + lane] = source.min[group];
  }
}

// Row `row` of a packed part as floats.
void UnpackRow(const WeightMatrix::Part& part, size_t cols, size_t row, float* out) {
  const size_t blocks = cols / kColBlock;
  const size_t lane = row % kRowBlock;
  const auto* block = reinterpret_cast<const uint8_t*>(part.data) +
                      row / kRowBlock * blocks * BlockBytes(part.type);
  for (size_t b = 0; b < blocks; ++b, block += BlockBytes(part.type), out += kColBlock) {
    const auto* const factors = reinterpret_cast<const uint16_t*>(block + ElementBytes(part.type));
    const float scale = F16ToF32(factors[lane]);
    if (part.type == WeightType::kInt8) {
      for (size_t i = 0; i < kColBlock; ++i) {
        out[i] = scale * static_cast<int8_t>(block[i / 4 * 32 + lane * 4 + i % 4]);
      }
    } else {
      const float min = F16ToF32(factors[kRowBlock + lane]);
      for (size_t i = 0; i < kColBlock / 2; ++i) {
        const uint8_t pair = block[i / 4 * 32 + lane * 4 + i % 4];
        out[i] = scale * static_cast<float>(pair & 15) + min;
        out[i + 16] = scale * static_cast<float>(pair >> 4) + min;
      }
    }
  }
}

}  // namespace

Result<WeightMatrix> WeightMatrix::Make(std::span<const WeightSource> stacked,
                                        WeightArena* arena) try {
  WeightMatrix matrix;
  if (stacked.empty()) return matrix;
  matrix.cols_ = stacked[0].cols;
  for (size_t first = 0; first < stacked.size();) {
    size_t last = first;
    Part part;
    part.type = stacked[first].type;
    part.row_begin = matrix.rows_;
    for (; last < stacked.size() && stacked[last].type == part.type; ++last) {
      MSADB_RETURN_IF_ERROR(Check(stacked[last], matrix.cols_));
      part.rows += stacked[last].rows;
    }
    const size_t bytes = PartBytes(part.type, part.rows, matrix.cols_);
    auto* const data = static_cast<std::byte*>(arena->Allocate(bytes));
    part.data = data;
    if (IsQuantized(part.type)) std::fill_n(data, bytes, std::byte{0});
    size_t row = 0;
    for (; first < last; ++first) {
      const WeightSource& source = stacked[first];
      if (IsQuantized(part.type)) {
        for (size_t i = 0; i < source.rows; ++i) PackRow(source, i, row + i, data);
      } else if (source.rows * source.cols != 0) {
        const size_t row_bytes = source.cols * FloatBytes(part.type);
        std::memcpy(data + row * row_bytes, source.data, source.rows * row_bytes);
      }
      row += source.rows;
    }
    matrix.rows_ += part.rows;
    matrix.parts_.push_back(std::move(part));
  }
  return matrix;
} catch (const std::bad_alloc&) {
  return Status::ResourceExhausted("out of memory while loading weights");
}

size_t WeightMatrix::bytes() const {
  size_t total = 0;
  for (const Part& part : parts_) total += PartBytes(part.type, part.rows, cols_);
  return total;
}

void WeightMatrix::DequantizeRows(size_t begin, size_t count, float* out) const {
  for (const Part& part : parts_) {
    const size_t from = std::max(begin, part.row_begin);
    const size_t to = std::min(begin + count, part.row_begin + part.rows);
    if (from >= to) continue;
    DequantizePartRows(part, cols_, from - part.row_begin, to - from, out + (from - begin) * cols_);
  }
}

void DequantizePartRows(const WeightMatrix::Part& part, size_t cols, size_t begin, size_t count,
                        float* out) {
  const size_t offset = begin * cols;
  switch (part.type) {
    case WeightType::kF32:
      std::copy_n(reinterpret_cast<const float*>(part.data) + offset, count * cols, out);
      return;
    case WeightType::kF16:
      ConvertF16ToF32(reinterpret_cast<const uint16_t*>(part.data) + offset, out, count * cols);
      return;
    case WeightType::kBF16:
      ConvertBf16ToF32(reinterpret_cast<const uint16_t*>(part.data) + offset, out, count * cols);
      return;
    case WeightType::kInt8:
    case WeightType::kInt4:
      for (size_t i = 0; i < count; ++i) UnpackRow(part, cols, begin + i, out + i * cols);
      return;
  }
}

}  // namespace msadb::kernels
