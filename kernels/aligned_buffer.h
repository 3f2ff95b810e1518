// Heap memory for weights, activations and workspaces, aligned to a cache line.
#ifndef MSADB_KERNELS_ALIGNED_BUFFER_H_
#define MSADB_KERNELS_ALIGNED_BUFFER_H_

#include <cstddef>
#include <cstdlib>
#include <new>
#include <utility>
#include <vector>

namespace msadb::kernels {

// Owns `size` bytes aligned to 64. Contents are uninitialised. Throws std::bad_alloc, which the
// boundary functions of this room turn into ResourceExhausted.
class AlignedBuffer {
 public:
  AlignedBuffer() = default;
  explicit AlignedBuffer(size_t size) : size_(size) {
    if (size == 0) return;
    const size_t rounded = (size + 63) / 64 * 64;
    if (rounded < size) throw std::bad_alloc();
    data_ = std::aligned_alloc(64, rounded);
    if (data_ == nullptr) throw std::bad_alloc();
  }
  ~AlignedBuffer() { std::free(data_); }
  AlignedBuffer(AlignedBuffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  AlignedBuffer& operator=(AlignedBuffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
  }

  // Grows to at least `size` bytes; the contents are lost when it does.
  void Reserve(size_t size) {
    if (size > size_) *this = AlignedBuffer(size);
  }

  template <typename T>
  T* as() {
    return static_cast<T*>(data_);
  }
  template <typename T>
  const T* as() const {
    return static_cast<const T*>(data_);
  }
  size_t size() const { return size_; }

 private:
  void* data_ = nullptr;
  size_t size_ = 0;
};

// Memory for many buffers that live and die together (the weights of a model), in few large pieces
// that ask the system for huge pages: a batch-1 product reads every weight, and with 4 KiB pages it
// loses a fifth to a third of the memory bandwidth to address translation (measured 14 to 19 GB/s
// against 17 to 22 GB/s on one core). Buffers are aligned to a cache line and uninitialised.
class WeightArena {
 public:
  WeightArena() = default;
  ~WeightArena();
  WeightArena(const WeightArena&) = delete;
  WeightArena& operator=(const WeightArena&) = delete;

  // `size` bytes, valid as long as the arena. Throws std::bad_alloc. One thread at a time.
  void* Allocate(size_t size);

 private:
  struct Piece {
    char* data = nullptr;
    size_t size = 0;
    size_t used = 0;
  };
  std::vector<Piece> pieces_;
};

}  // namespace msadb::kernels

#endif  // MSADB_KERNELS_ALIGNED_BUFFER_H_
