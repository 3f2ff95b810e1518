#include "kernels/aligned_buffer.h"

#include <sys/mman.h>

#include <algorithm>

namespace msadb::kernels {
namespace {

constexpr size_t kHugePage = size_t{2} << 20;
constexpr size_t kPieceBytes = 16 * kHugePage;

size_t RoundUp(size_t size, size_t multiple) {
  const size_t rounded = (size + multiple - 1) / multiple * multiple;
  if (rounded < size) throw std::bad_alloc();
  return rounded;
}

}  // namespace

WeightArena::~WeightArena() {
  for (const Piece& piece : pieces_) std::free(piece.data);
}

void* WeightArena::Allocate(size_t size) {
  const size_t needed = RoundUp(size, 64);
  if (pieces_.empty() || pieces_.back().size - pieces_.back().used < needed) {
    Piece piece;
    piece.size = RoundUp(std::max(needed, kPieceBytes), kHugePage);
    pieces_.reserve(pieces_.size() + 1);
    piece.data = static_cast<char*>(std::aligned_alloc(kHugePage, piece.size));
    if (piece.data == nullptr) throw std::bad_alloc();
    madvise(piece.data, piece.size, MADV_HUGEPAGE);  // a hint: refused, it only costs speed
    pieces_.push_back(piece);
  }
  Piece& piece = pieces_.back();
  void* const result = piece.data + piece.used;
  piece.used += needed;
  return result;
}

}  // namespace msadb::kernels
