// Weights of int8 in the place of ForwardWeights: they come packed, so a call does nothing for them
// but quantise the rows that they multiply.
#pragma once

#include <cstdint>

#include "buffer.h"
#include "forward_weights.h"
#include "int8_products.h"

namespace fastrnn::cpu {

// By says by which Int8Products.
template <class Arch, class By>
class Int8Weights {
 public:
  using Rows = Int8Rows;
  static constexpr int W = Vec<float, Arch::kBytes>::kSize;
  static constexpr int kElementSize = 1;

  Int8Weights() = default;

  Int8Weights(const MatrixPart& part, int64_t /*depth_block*/, int64_t /*panel_rows*/)
      : matrix_{.gates = part.gates, .units = part.units, .depth = part.depth} {
    const int64_t row = part.first * part.units;
    matrix_.block_stride = part.all_gates * matrix_.gate_stride();
    matrix_.weight = static_cast<const int8_t*>(part.weight) + part.first * matrix_.gate_stride();
    matrix_.scale = static_cast<const float*>(part.scale) + row;
    if (part.bias) matrix_.bias = static_cast<const float*>(part.bias) + row;
  }

  int vectors() const { return matrix_.gates * kInt8Units / W; }
  int64_t parts() const { return 0; }
  int64_t part_size() const { return 0; }
  void pack(int64_t, int64_t) {}

  // Of the memory that `prepare` writes to.
  static int64_t prepared_bytes(int64_t rows, int64_t depth) {
    return padded(rows) * sizeof(float) + rows * padded(depth) * By::products().element_size;
  }
  Rows prepare(int64_t rows, const float* a, int64_t stride, char* memory) const {
    auto* const scale = reinterpret_cast<float*>(memory);
    char* const data = memory + padded(rows) * sizeof(float);
    const int64_t own_stride = padded(matrix_.depth);
    By::products().quantize(rows, matrix_.depth, a, stride, data, own_stride, scale);
    return {data, scale, own_stride};
  }

  void multiply(int64_t rows, const Rows& a, int64_t column, int64_t count, float* c,
                int64_t c_stride) const {
    By::products().multiply(matrix_, rows, a, column / vectors(), count / vectors(), c, c_stride);
  }

 private:
  Int8Matrix matrix_;
};

}  // namespace fastrnn::cpu
