#include "kernels/weight_matrix.h"

#include <algorithm>
#include <cstring>
#include <new>
#include <string>

#include "kernels/cpu_features.h"
#include "kernels/dtype.h"

namespace msadb::kernels {
namespace {

bool IsQuantized(WeightType type) {
  return type == WeightType::kInt8 || type == WeightType::kInt4;
}

size_t ElementBlockBytes(WeightType type) {
  return type == WeightType::kInt8 ? kRowBlock * kColBlock : kRowBlock * kColBlock / 2;
}

size_t FloatBytes(WeightType type) { return type == WeightType::kF32 ? 4 : 2; }

size_t PartBytes(WeightType type, size_t rows, size_t cols) {
  if (!IsQuantized(type)) return rows * cols * FloatBytes(type);
  return (rows + kRowBlock - 1) / kRowBlock * RowBlockBytes(type, cols);
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
  const size_t block_bytes = ElementBlockBytes(source.type);
  std::byte* elements = part + target / kRowBlock * RowBlockBytes(source.type, source.cols);
  auto* scales = reinterpret_cast<uint16_t*>(elements + blocks * block_bytes);
  uint16_t* mins = scales + blocks * kRowBlock;
  // int8 has 32 bytes per row and block, int4 has 16; either way a register takes 4 of them.
  const size_t row_bytes = block_bytes / kRowBlock;
  const auto* in = static_cast<const std::byte*>(source.data) + row * blocks * row_bytes;
  for (size_t b = 0; b < blocks; ++b) {
    for (size_t j = 0; j < row_bytes / 4; ++j) {
      std::memcpy(elements + b * block_bytes + j * 32 + lane * 4, in + b * row_bytes + j * 4, 4);
    }
    const size_t group = row * groups + b * kColBlock / source.group;
    scales[b * kRowBlock + lane] = source.scale[group];
    if (source.type == WeightType::kInt4) mins[b * kRowBlock + lane] = source.min[group];
  }
}

// Row `row` of a packed part as floats.
void UnpackRow(const WeightMatrix::Part& part, size_t cols, size_t row, float* out) {
  const size_t blocks = cols / kColBlock;
  const size_t lane = row % kRowBlock;
  const size_t block_bytes = ElementBlockBytes(part.type);
  const auto* elements =
      part.data.as<uint8_t>() + row / kRowBlock * RowBlockBytes(part.type, cols);
  const auto* scales = reinterpret_cast<const uint16_t*>(elements + blocks * block_bytes);
  const uint16_t* mins = scales + blocks * kRowBlock;
  for (size_t b = 0; b < blocks; ++b, out += kColBlock) {
    const float scale = F16ToF32(scales[b * kRowBlock + lane]);
    const uint8_t* block = elements + b * block_bytes;
    if (part.type == WeightType::kInt8) {
      for (size_t i = 0; i < kColBlock; ++i) {
        out[i] = scale * static_cast<int8_t>(block[i / 4 * 32 + lane * 4 + i % 4]);
      }
    } else {
      const float min = F16ToF32(mins[b * kRowBlock + lane]);
      for (size_t i = 0; i < kColBlock / 2; ++i) {
        const uint8_t pair = block[i / 4 * 32 + lane * 4 + i % 4];
        out[i] = scale * static_cast<float>(pair & 15) + min;
        out[i + 16] = scale * static_cast<float>(pair >> 4) + min;
      }
    }
  }
}

}  // namespace

size_t RowBlockBytes(WeightType type, size_t cols) {
  const size_t scale_bytes = kRowBlock * sizeof(uint16_t) * (type == WeightType::kInt4 ? 2 : 1);
  const size_t bytes = cols / kColBlock * (ElementBlockBytes(type) + scale_bytes);
  return (bytes + 63) / 64 * 64;
}

Result<WeightMatrix> WeightMatrix::Make(std::span<const WeightSource> stacked) try {
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
    part.data = AlignedBuffer(bytes);
    auto* data = part.data.as<std::byte>();
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
    DequantizePartRows(part, cols_, from - part.row_begin, to - from,
                       out + (from - begin) * cols_);
  }
}

void DequantizePartRows(const WeightMatrix::Part& part, size_t cols, size_t begin, size_t count,
                        float* out) {
  const size_t offset = begin * cols;
  switch (part.type) {
    case WeightType::kF32:
      std::copy_n(part.data.as<float>() + offset, count * cols, out);
      return;
    case WeightType::kF16:
      ConvertF16ToF32(part.data.as<uint16_t>() + offset, out, count * cols);
      return;
    case WeightType::kBF16:
      ConvertBf16ToF32(part.data.as<uint16_t>() + offset, out, count * cols);
      return;
    case WeightType::kInt8:
    case WeightType::kInt4:
      for (size_t i = 0; i < count; ++i) UnpackRow(part, cols, begin + i, out + i * cols);
      return;
  }
}

}  // namespace msadb::kernels
