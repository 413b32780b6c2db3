// Uninitialised memory for kernels.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>

namespace fastrnn::cpu {

// Asks for huge pages where a block is large enough to have some: its first use then costs one page
// fault per 2 MB instead of 512. Backward took 708 ms without, 627 ms with them at T 100, B 64,
// I = H = 512.
inline void prefer_huge_pages([[maybe_unused]] void* data, [[maybe_unused]] size_t bytes) {
#ifdef MADV_HUGEPAGE
  constexpr uintptr_t kHuge = uintptr_t(2) << 20;
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(data) + kHuge - 1) / kHuge * kHuge;
  const uintptr_t end = (reinterpret_cast<uintptr_t>(data) + bytes) / kHuge * kHuge;
  if (data && begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#endif
}

// Aligned to a cache line.
template <class T>
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(int64_t size)
      : data_(size > 0 ? static_cast<T*>(operator new(size * sizeof(T), kAlign)) : nullptr) {
    prefer_huge_pages(data_.get(), size * sizeof(T));
  }

  T* get() const { return data_.get(); }

 private:
  static constexpr std::align_val_t kAlign{64};
  struct Delete {
    void operator()(T* p) const { operator delete(p, kAlign); }
  };
  std::unique_ptr<T, Delete> data_;
};

// A row length whose rows do not all fall into the same cache sets, as powers of two do.
constexpr int64_t padded(int64_t size) { return (size + 15) / 16 * 16 + 16; }

}  // namespace fastrnn::cpu
