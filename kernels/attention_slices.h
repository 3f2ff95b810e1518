// The single-threaded inner parts of kernels/attention.h that have an AVX2 form. Plain structs
// only, as in kernels/matmul_slices.h.
#ifndef MSADB_KERNELS_ATTENTION_SLICES_H_
#define MSADB_KERNELS_ATTENTION_SLICES_H_

#include <cstddef>

namespace msadb::kernels {

// Keys of one kv head are packed for the prefill as tiles of 16 keys, transposed:
// [ceil(keys / 16)][head_dim][16], zeros past the last key.
inline constexpr size_t kKeyTile = 16;
// Query rows (a row is one token and one head) that share a pass over the keys.
inline constexpr size_t kQueryTile = 6;
// Keys scored before the softmax state is updated.
inline constexpr size_t kKeyBlock = 128;

void PackKeyTileAvx2(const float* k, size_t kv_stride, size_t keys, size_t head_dim, float* tile);

struct AttentionTileSlice {
  // Up to kQueryTile rows; row r sees the first visible[r] keys, at least one.
  const float* q[kQueryTile];  // [head_dim]
  float* out[kQueryTile];      // [head_dim]
  size_t visible[kQueryTile];
  size_t rows = 0;
  const float* packed_keys = nullptr;
  const float* v = nullptr;  // [keys, head_dim] of this kv head
  size_t kv_stride = 0;
  size_t head_dim = 0;  // a multiple of 8
  float scale = 0;
  float* scratch = nullptr;  // kQueryTile * (kKeyBlock + 2 * head_dim) floats, 32-byte aligned
};
void AttentionTileAvx2(const AttentionTileSlice& p);

// Query rows of one token that share a kv head, keys read in place.
struct AttentionRowSlice {
  const float* q = nullptr;  // [rows, head_dim]
  float* out = nullptr;      // [rows, head_dim]
  size_t rows = 0;
  const float* k = nullptr;  // [keys, head_dim] of this kv head
  const float* v = nullptr;
  size_t kv_stride = 0;
  size_t keys = 0;
  size_t head_dim = 0;  // a multiple of 8
  float scale = 0;
  float* scratch = nullptr;  // rows * (keys rounded up to 8) floats, 32-byte aligned
};
void AttentionRowAvx2(const AttentionRowSlice& p);

}  // namespace msadb::kernels

#endif  // MSADB_KERNELS_ATTENTION_SLICES_H_
