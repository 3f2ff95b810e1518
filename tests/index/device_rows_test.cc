// The rows of a segment in GPU memory, on the emulated GPU: what is appended and copied is read
// back as the index promises, and lies where the kernel looks for it.
#include "index/device_rows.h"

#include <gtest/gtest.h>

#include <cstring>

#include "tests/index/index_test_util.h"

namespace msadb::index::internal {
namespace {

class DeviceRowsTest : public ::testing::TestWithParam<KeyType> {
 protected:
  struct Shape {
    int n_layers;
    size_t dim;
    uint32_t capacity;
  };

  // Keys of all layers, [n_layers][rows * dim].
  using Rows = std::vector<std::vector<float>>;

  size_t Uniform(size_t low, size_t high) {
    return std::uniform_int_distribution<size_t>(low, high)(rng_);
  }

  Rows RandomRows(const Shape& shape, uint32_t n_rows) {
    Rows rows(shape.n_layers);
    for (auto& layer : rows) {
      layer = RandomFloats(rng_, n_rows * shape.dim, Values::kGaussian);
      if (Uniform(0, 3) == 0) std::fill_n(layer.begin(), shape.dim, 0.0f);
    }
    return rows;
  }

  static void Append(DeviceRows* to, uint32_t row, uint32_t n_rows, const Rows& rows) {
    std::vector<const float*> layer_keys;
    for (const auto& layer : rows) layer_keys.push_back(layer.data());
    to->Append(row, n_rows, layer_keys);
  }

  // Adds what the index is to hold of `rows` to `all`.
  void Expect(const Shape& shape, Rows rows, Rows* all) {
    IndexConfig config;
    config.dim = shape.dim;
    config.key_type = GetParam();
    config.devices = {0};
    all->resize(shape.n_layers);
    for (int r = 0; r < shape.n_layers; ++r) {
      TestDocument document{1, std::move(rows[r])};
      RoundAsIndex(config, &document);
      (*all)[r].insert((*all)[r].end(), document.keys.begin(), document.keys.end());
    }
  }

  void Check(const DeviceRows& rows, const Shape& shape, const Rows& all) {
    const size_t padded = DeviceRows::PaddedDim(shape.dim, GetParam());
    const auto n_rows = static_cast<uint32_t>(all[0].size() / shape.dim);
    for (int r = 0; r < shape.n_layers; ++r) {
      std::vector<float> read(all[r].size());
      rows.Read(r, 0, n_rows, read.data());
      ASSERT_EQ(read, all[r]) << "layer " << r;
      const auto first = static_cast<uint32_t>(Uniform(0, n_rows - 1));
      std::vector<float> one(shape.dim);
      rows.Read(r, first, 1, one.data());
      ASSERT_TRUE(std::equal(one.begin(), one.end(), all[r].begin() + first * shape.dim));

      // As the kernel sees them: 16-byte rows, columns past dim 0, scales that are positive.
      ASSERT_EQ(reinterpret_cast<uintptr_t>(rows.keys(r)) % 256, 0u);
      if (GetParam() == KeyType::kInt8) {
        ASSERT_EQ(padded % 16, 0u);
        const auto* values = static_cast<const int8_t*>(rows.keys(r));
        for (uint32_t row = 0; row < n_rows; ++row) {
          ASSERT_GT(rows.scales(r)[row], 0);
          for (size_t i = 0; i < padded; ++i) {
            const float key = rows.scales(r)[row] * values[row * padded + i];
            ASSERT_EQ(key, i < shape.dim ? all[r][row * shape.dim + i] : 0);
          }
        }
      } else {
        ASSERT_EQ(padded % 8, 0u);
        ASSERT_EQ(rows.scales(r), nullptr);
        const auto* values = static_cast<const uint16_t*>(rows.keys(r));
        for (uint32_t row = 0; row < n_rows; ++row) {
          for (size_t i = 0; i < padded; ++i) {
            const float key = kernels::F16ToF32(values[row * padded + i]);
            ASSERT_EQ(key, i < shape.dim ? all[r][row * shape.dim + i] : 0);
          }
        }
      }
    }
  }

  std::mt19937_64 rng_{TestSeed(31)};
};
INSTANTIATE_TEST_SUITE_P(KeyTypes, DeviceRowsTest,
                         ::testing::Values(KeyType::kFloat, KeyType::kInt8),
                         [](const auto& info) { return NameOf(info.param); });

TEST_P(DeviceRowsTest, WhatIsAppendedIsRead) {
  // The last two fill more than one half of the staging memory, the last with single documents.
  const Shape shapes[] = {{1, 1, 40},     {2, 7, 300},     {3, 16, 1000},   {5, 67, 500},
                          {2, 192, 2000}, {40, 1024, 300}, {200, 1000, 150}};
  for (const Shape& shape : shapes) {
    SCOPED_TRACE(std::to_string(shape.n_layers) + " layers of " + std::to_string(shape.dim));
    DeviceRows rows(0, shape.n_layers, shape.dim, GetParam(), shape.capacity);
    EXPECT_EQ(rows.bytes_committed(), 0u);
    std::vector<uint32_t> row_begin = {0};
    Rows all;
    uint32_t finished = 0;
    while (row_begin.back() < shape.capacity) {
      // A change of a few documents, now and then dropped.
      const std::vector<uint32_t> before = row_begin;
      Rows expected = all;
      for (size_t n = Uniform(1, 9); n > 0 && row_begin.back() < shape.capacity; --n) {
        const auto n_rows = static_cast<uint32_t>(
            Uniform(1, std::min<size_t>(Uniform(1, 150), shape.capacity - row_begin.back())));
        const Rows keys = RandomRows(shape, n_rows);
        Append(&rows, row_begin.back(), n_rows, keys);
        Expect(shape, keys, &expected);
        row_begin.push_back(row_begin.back() + n_rows);
      }
      if (Uniform(0, 4) == 0) {
        rows.Discard();
        row_begin = before;
        continue;
      }
      const auto n_documents = static_cast<uint32_t>(row_begin.size() - 1);
      rows.Flush(row_begin.data(), finished, n_documents);
      finished = n_documents;
      all = std::move(expected);
    }
    ASSERT_EQ(std::memcmp(rows.row_begin(), row_begin.data(), row_begin.size() * sizeof(uint32_t)),
              0);
    Check(rows, shape, all);
    const size_t used =
        shape.n_layers * shape.capacity * DeviceRows::RowBytes(shape.dim, GetParam());
    EXPECT_GE(rows.bytes_committed(), used);
    // Steps of the emulated driver's 64 KiB at each end of each plane, and the document table.
    EXPECT_LE(rows.bytes_committed(),
              used + 4 * (shape.capacity + 1) + (size_t{64} << 10) * (4 * shape.n_layers + 2));
  }
}

TEST_P(DeviceRowsTest, CopiesAreTheSameBits) {
  const Shape shape = {3, 100, 400};
  DeviceRows from(0, shape.n_layers, shape.dim, GetParam(), shape.capacity);
  const Rows keys = RandomRows(shape, 300);
  Append(&from, 0, 300, keys);
  const uint32_t whole[] = {0, 300};
  from.Flush(whole, 0, 1);
  Rows source;
  Expect(shape, keys, &source);

  // Copied and appended rows take turns.
  DeviceRows to(0, shape.n_layers, shape.dim, GetParam(), shape.capacity);
  Rows all;
  all.resize(shape.n_layers);
  std::vector<uint32_t> row_begin = {0};
  while (row_begin.back() + 20 <= shape.capacity) {
    const auto n_rows = static_cast<uint32_t>(Uniform(1, 20));
    if (Uniform(0, 1)) {
      const auto first = static_cast<uint32_t>(Uniform(0, 300 - n_rows));
      to.CopyFrom(from, first, n_rows, row_begin.back());
      for (int r = 0; r < shape.n_layers; ++r) {
        const auto begin = source[r].begin() + first * shape.dim;
        all[r].insert(all[r].end(), begin, begin + n_rows * shape.dim);
      }
    } else {
      const Rows more = RandomRows(shape, n_rows);
      Append(&to, row_begin.back(), n_rows, more);
      Expect(shape, more, &all);
    }
    row_begin.push_back(row_begin.back() + n_rows);
  }
  to.Flush(row_begin.data(), 0, static_cast<uint32_t>(row_begin.size() - 1));
  Check(to, shape, all);

  // What another GPU would be sent: read rows round to themselves.
  DeviceRows again(0, shape.n_layers, shape.dim, GetParam(), shape.capacity);
  Append(&again, 0, 300, source);
  again.Flush(whole, 0, 1);
  Check(again, shape, source);
}

}  // namespace
}  // namespace msadb::index::internal
