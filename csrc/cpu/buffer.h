// Uninitialised memory for kernels, aligned to a cache line.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>

namespace fastrnn::cpu {

template <class T>
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(int64_t size)
      : data_(size > 0 ? static_cast<T*>(operator new(size * sizeof(T), kAlign)) : nullptr) {}

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
