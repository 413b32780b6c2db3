// Uninitialised memory for kernels.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>

namespace fastrnn::cpu {

// Asks for huge pages where a block is large enough to have some: its first use then costs one page
// fault per 2 MB instead of 512. Backward took 708 ms without, 627 ms with them at T 100, B 64,
// I = H = 512.
void prefer_huge_pages(void* data, size_t bytes);

// A thread keeps up to this much of what it has freed, the latest first, for its next calls. One
// that gets fresh pages from the system waits for each to be cleared, and even small blocks, of
// which a call takes a dozen, are slow to get on a cache line's boundary.
inline constexpr size_t kKeptBytes = size_t(128) << 20;

// Aligned to a cache line. Throws std::bad_alloc.
struct Block {
  void* data = nullptr;
  size_t bytes = 0;
};
Block take_block(size_t bytes);
void give_block(Block block) noexcept;

template <class T>
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(int64_t size) : block_(size > 0 ? take_block(size * sizeof(T)) : Block{}) {}
  Buffer(Buffer&& other) noexcept : block_(std::exchange(other.block_, {})) {}
  Buffer& operator=(Buffer&& other) noexcept {
    std::swap(block_, other.block_);
    return *this;
  }
  ~Buffer() { give_block(block_); }

  T* get() const { return static_cast<T*>(block_.data); }

 private:
  Block block_;
};

// A row length whose rows do not all fall into the same cache sets, as powers of two do.
constexpr int64_t padded(int64_t size) { return (size + 15) / 16 * 16 + 16; }

}  // namespace fastrnn::cpu
