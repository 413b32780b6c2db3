// The gradient of the input: for every active row, the sum over directions and runs of gates of
// their gradients times W_ih.
#pragma once

#include <cstdint>
#include <vector>

#include "backward_weights.h"
#include "buffer.h"
#include "engine.h"

namespace fastrnn::cpu {

template <class Arch, class T>
struct InputGradient {
  using C = Compute<T>;
  using O = Operand<Arch, T>;
  struct Product {
    const BackwardWeights<Arch, T>* weights;
    const O* grads;
  };

  int64_t rows, features;
  int64_t grad_stride;            // between the rows of gradients
  std::vector<Product> products;  // at least one
  std::vector<const O*> addends;  // gradients of gates that take x itself
  T* const* out = nullptr;        // where each row of the result begins

  void run(const Pool& pool) const {
    constexpr int64_t kBlockRows = 48;
    const int vectors = products[0].weights->vectors();
    const int64_t panels = products[0].weights->columns() / vectors;
    const int64_t blocks = (rows + kBlockRows - 1) / kBlockRows;
    const int64_t parts =
        std::clamp<int64_t>(pool.threads / std::max<int64_t>(blocks, 1), 1, panels);
    double flops = 0;
    for (const Product& product : products)
      flops += 2. * rows * product.weights->depth() * features;
    pool.share_out(blocks * parts, flops, [&](auto next) {
      const int64_t stride = (panels + parts - 1) / parts * vectors * W + W;
      Buffer<C> sum(kBlockRows * stride);
      for (int64_t at; (at = next()) >= 0;) {
        const int64_t row = at / parts * kBlockRows, part = at % parts;
        const int64_t first = panels * part / parts * vectors;
        const int64_t last = panels * (part + 1) / parts * vectors;
        block(row, std::min(kBlockRows, rows - row), first, last, sum.get(), stride);
      }
    });
  }

 private:
  using V = Vec<C, Arch::kBytes>;
  static constexpr int W = V::kSize;

  // Rows [row, row + count) of columns [first, last), in vectors.
  void block(int64_t row, int64_t count, int64_t first, int64_t last, C* sum,
             int64_t stride) const {
    const C* init = nullptr;
    for (const Product& product : products) {
      product.weights->multiply(count, product.grads + row * grad_stride, grad_stride, first, last,
                                init, stride, sum, stride);
      init = sum;
    }
    for (int64_t m = 0; m < count; ++m) {
      const C* from = sum + m * stride;
      for (int64_t j = first * W; j < std::min(last * W, features); j += W, from += W) {
        const int n = int(std::min<int64_t>(W, features - j));
        V total = load<V>(from);
        for (const O* addend : addends) {
          total = total + load<V>(addend + (row + m) * grad_stride + j, n);
        }
        store(out[row + m] + j, total, n);
      }
    }
  }
};

}  // namespace fastrnn::cpu
