// A tensor's shape of up to 3 dimensions, without an allocation: a call makes a dozen of them,
// which as vectors take half a microsecond.
#pragma once

#include <cstdint>
#include <initializer_list>

namespace fastrnn {

class Shape {
 public:
  static constexpr int kMaxDims = 3;

  Shape(std::initializer_list<int64_t> sizes) {
    for (int64_t size : sizes) sizes_[count_++] = size;
  }

  const int64_t* data() const { return sizes_; }
  size_t size() const { return count_; }
  const int64_t* begin() const { return sizes_; }
  const int64_t* end() const { return sizes_ + count_; }
  int64_t operator[](size_t i) const { return sizes_[i]; }

  // Of as many of these, one behind the other along the first dimension.
  Shape times(int64_t count) const {
    Shape all = *this;
    all.sizes_[0] *= count;
    return all;
  }

 private:
  int64_t sizes_[kMaxDims] = {};
  size_t count_ = 0;
};

}  // namespace fastrnn
