// kernels/cuda/tensor_tiles.cuh on the emulation. Tiles arrive late like other copies, and products
// are taken as late as they may be.
#ifndef MSADB_KERNELS_CUDA_TENSOR_TILES_CUH_
#define MSADB_KERNELS_CUDA_TENSOR_TILES_CUH_

#include <deque>
#include <memory>
#include <vector>

#include "kernels/cuda/primitives.cuh"

namespace msadb::kernels::cuda {

inline constexpr int kTileRowBytes = 128;

struct TileMap {
  const uint8_t* data;
  int64_t rows;
  int row_bytes;
  int element_bytes;
  int tile_rows;
};

inline cudaError_t EncodeTileMap(TileMap* map, const void* data, uint64_t rows, int columns,
                                 int element_bytes, int tile_rows) {
  CheckAligned(data, 16);
  if (rows == 0 || columns * element_bytes % 16 != 0 || tile_rows > 256) {
    return cudaErrorInvalidValue;
  }
  *map = {static_cast<const uint8_t*>(data), static_cast<int64_t>(rows), columns * element_bytes,
          element_bytes, tile_rows};
  return cudaSuccess;
}

inline void LoadTile(void* to, const TileMap* map, int column, int row, uint64_t* barrier) {
  CheckAligned(to, 1024);
  const auto tile = std::make_shared<std::vector<uint8_t>>(map->tile_rows * kTileRowBytes);
  for (int r = 0; r < map->tile_rows; ++r) {
    for (int i = 0; i < kTileRowBytes; ++i) {
      const int64_t from_row = int64_t{row} + r;
      const int from_byte = column * map->element_bytes + i;
      if (from_row >= map->rows || from_byte >= map->row_bytes) continue;
      (*tile)[r * kTileRowBytes + ((i / 16) ^ (r % 8)) * 16 + i % 16] =
          map->data[from_row * map->row_bytes + from_byte];
    }
  }
  emulated::CopyLater(to, tile->data(), tile->size(), [tile, barrier] {
    BarrierState* const state = StateOf(barrier);
    state->bytes -= static_cast<int32_t>(tile->size());
    EndPhase(state);
  });
}

// Of the low 16 bits.
template <typename T>
float ElementAt(uint32_t bits) {
  if constexpr (std::is_same_v<T, half>) {
    return __half2float(__ushort_as_half(static_cast<unsigned short>(bits)));
  } else {
    return __uint_as_float(bits << 16);
  }
}

struct TileOperand {
  const uint8_t* tile;
  int step;
  template <typename T>
  float At(int row, int column) const {
    const int byte = (16 * step + column) * 2;
    uint16_t bits;
    std::memcpy(&bits, tile + row * kTileRowBytes + ((byte / 16) ^ (row % 8)) * 16 + byte % 16,
                sizeof bits);
    return ElementAt<T>(bits);
  }
};

inline TileOperand OperandOf(const void* tile, int step) {
  CheckAligned(tile, 1024);
  return {static_cast<const uint8_t*>(tile), step};
}

// A product that was issued, of elements T; with kRows b's rows are those of its tile. It is taken
// when somebody waits for it, with what is in memory and in the registers by then, so that handing
// a stage back or changing a fragment too early shows.
struct TileProduct {
  float (*acc)[32];
  TileOperand tile;  // a, without fragment
  const uint32_t (*fragment)[4];
  TileOperand b;
  int accumulate;
  void (TileProduct::*take)() const;

  template <typename T, bool kRows>
  void Take() const {
    const int lane = static_cast<int>(emulated::Lane());
    float rows[2][16];  // of a
    if (fragment != nullptr) {
      const auto lanes = emulated::Gather(*fragment, 4);
      for (int i = 0; i < 2; ++i) {
        for (int k = 0; k < 16; ++k) {
          const uint32_t pair = lanes[lane / 4 * 4 + k % 8 / 2][i + k / 8 * 2];
          rows[i][k] = ElementAt<T>(k % 2 == 0 ? pair : pair >> 16);
        }
      }
    } else {
      const int row = static_cast<int>(threadIdx.x) % 128 / 32 * 16 + lane / 4;
      for (int i = 0; i < 2; ++i) {
        for (int k = 0; k < 16; ++k) rows[i][k] = tile.At<T>(row + 8 * i, k);
      }
    }
    for (int i = 0; i < 32; ++i) {
      float sum = accumulate != 0 ? (*acc)[i] : 0.0f;
      for (int k = 0; k < 16; ++k) {
        const int column = i / 4 * 8 + 2 * (lane % 4) + i % 2;
        const float other = kRows ? b.At<T>(k, column) : b.At<T>(column, k);
        sum = std::fma(rows[i / 2 % 2][k], other, sum);
      }
      (*acc)[i] = sum;
    }
  }
};

// Of each thread of the block: groups of products, the open one last.
inline thread_local std::vector<std::deque<std::vector<TileProduct>>> tile_products(
    1024, std::deque<std::vector<TileProduct>>(1));

inline void MultiplyTiles(float (&acc)[32], TileOperand a, TileOperand b, int accumulate) {
  tile_products[threadIdx.x].back().push_back(
      {&acc, a, nullptr, b, accumulate, &TileProduct::Take<half, false>});
}

template <typename T = half>
void MultiplyTiles(float (&acc)[32], const uint32_t (&a)[4], TileOperand b, int accumulate) {
  tile_products[threadIdx.x].back().push_back(
      {&acc, {}, &a, b, accumulate, &TileProduct::Take<T, false>});
}

inline void MultiplyTileRows(float (&acc)[32], const uint32_t (&a)[4], const void* rows,
                             int accumulate) {
  tile_products[threadIdx.x].back().push_back(
      {&acc, {}, &a, OperandOf(rows, 0), accumulate, &TileProduct::Take<__nv_bfloat16, true>});
}

inline void TilesFence() {}

inline void TilesBegin(float (&)[32]) {}

inline void TilesCommit(float (&)[32]) { tile_products[threadIdx.x].emplace_back(); }

template <int kGroups>
void TilesWait(float (&)[32]) {
  auto& groups = tile_products[threadIdx.x];
  while (groups.size() > kGroups + 1) {
    for (const TileProduct& product : groups.front()) (product.*product.take)();
    groups.pop_front();
  }
  emulated::SyncWarp();
}

}  // namespace msadb::kernels::cuda

#endif  // MSADB_KERNELS_CUDA_TENSOR_TILES_CUH_
