// The gradient of the input: for every row that ran, the sum over directions of dx W_ih.
#pragma once

#include <cstdint>

#include "buffer.h"
#include "engine.h"
#include "plain_weights.h"

namespace fastrnn::cpu {

// out[k] is where row k of the result begins.
template <class Arch, class T>
void input_gradient(int64_t directions, const PlainWeights<Arch, T>* const* weights,
                    const Compute<T>* const* gates, int64_t gate_stride, int64_t rows,
                    int64_t depth, int64_t units, T* const* out, const Pool& pool) {
  using C = Compute<T>;
  using V = Vec<C, Arch::kBytes>;
  constexpr int W = V::kSize;
  constexpr int64_t kBlockRows = 48;
  const int vectors = weights[0]->vectors();
  const int64_t panels = weights[0]->columns() / vectors;
  const int64_t blocks = (rows + kBlockRows - 1) / kBlockRows;
  const int64_t parts = std::clamp<int64_t>(pool.threads / std::max<int64_t>(blocks, 1), 1, panels);
  const double flops = 2. * rows * depth * units * directions;
  pool.share_out(blocks * parts, flops, [&](auto next) {
    const int64_t stride = (panels + parts - 1) / parts * vectors * W + W;
    Buffer<C> sum(kBlockRows * stride);
    for (int64_t at; (at = next()) >= 0;) {
      const int64_t row = at / parts * kBlockRows, part = at % parts;
      const int64_t count = std::min(kBlockRows, rows - row);
      const int64_t first = panels * part / parts * vectors;
      const int64_t last = panels * (part + 1) / parts * vectors;
      for (int64_t d = 0; d < directions; ++d) {
        weights[d]->multiply(count, gates[d] + row * gate_stride, gate_stride, first, last,
                             d ? sum.get() : nullptr, stride, sum.get(), stride);
      }
      for (int64_t m = 0; m < count; ++m) {
        const C* from = sum.get() + m * stride;
        for (int64_t j = first * W; j < std::min(last * W, units); j += W, from += W) {
          store(out[row + m] + j, load<V>(from), int(std::min<int64_t>(W, units - j)));
        }
      }
    }
  });
}

}  // namespace fastrnn::cpu
