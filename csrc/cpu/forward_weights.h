// The transposed weights of a forward product, by gate columns: vector [unit block][gate] holds one
// gate of kSize neighbouring units, so that a tile of neighbouring vectors has all gates of a unit.
#pragma once

#include <algorithm>
#include <cstdint>

#include "buffer.h"
#include "gemm.h"
#include "matrix_part.h"

namespace fastrnn::cpu {

// a W^T + bias for a weight [gates * units, depth] with its rows ordered by gate, as in torch.nn.
// Packed into panels where it serves many rows; used where it lies where packing would cost more.
template <class Arch, class T>
class ForwardWeights {
 public:
  using C = Compute<T>;
  using O = Operand<Arch, T>;
  using F = Factor<Arch, T>;
  using V = Vec<C, Arch::kBytes>;
  static constexpr int W = V::kSize;

  static constexpr int kElementSize = sizeof(T);

  // Rows as a product takes them.
  struct Rows {
    const F* data = nullptr;
    int64_t stride = 0;
  };

  ForwardWeights() = default;

  // panel_rows: how many rows each product will have; 0: do not pack. Sums have blocks of
  // depth_block, a multiple of 64.
  ForwardWeights(const MatrixPart& part, int64_t depth_block, int64_t panel_rows)
      : weight_(static_cast<const T*>(part.weight) + part.first * part.units * part.depth),
        gates_(part.gates),
        units_(part.units),
        blocks_((part.units + W - 1) / W),
        depth_(part.depth),
        depth_block_(depth_block) {
    if (part.bias) bias_source_ = static_cast<const T*>(part.bias) + part.first * part.units;
    panels_.depth = factors<F>(depth_);
    panels_.vectors = panel_rows ? panel_vectors<Arch>(gates_, panel_rows, columns())
                                 : std::max(gates_, kTransposedSums);
    panels_.columns = (columns() + panels_.vectors - 1) / panels_.vectors * panels_.vectors;
    if (panel_rows) {
      const int64_t count = panels_.columns;
      panels_.allocate(count, stay_narrow<Arch>(panel_rows, panels_.depth * count * W));
    }
    bias_ = Buffer<C>(panels_.columns * W);
  }

  int64_t columns() const { return blocks_ * gates_; }
  int vectors() const { return panels_.vectors; }
  int64_t parts() const { return panels_.columns; }
  int64_t part_size() const { return panels_ ? panels_.depth * W : 0; }

  // Lays out parts [begin, end) of parts(): columns of the panels and of the bias.
  void pack(int64_t begin, int64_t end) {
    for (int64_t column = begin; column < end; ++column) {
      const int count = column < columns() ? live_units(column) : 0;
      const int64_t row = count ? first_row(column) : 0;
      const V bias = bias_source_ && count ? load<V>(bias_source_ + row, count) : V(C(0));
      store(bias_.get() + column * W, bias);
      if (!panels_) continue;
      panels_.visit([&](auto* data) {
        pack_transposed<Arch>(weight_ + row * depth_, depth_, count, depth_,
                              data + panels_.offset(column), panels_.stride());
      });
    }
  }

  // Makes rows ready for products, in memory of so many bytes.
  static int64_t prepared_bytes(int64_t /*rows*/, int64_t /*depth*/) { return 0; }
  Rows prepare(int64_t /*rows*/, const O* a, int64_t stride, char* /*memory*/) const {
    return {as_factors<F>(a), stride / kSpan<F>};
  }

  // c[rows][count] = bias + a W^T for `count` columns from `column` on, both multiples of
  // vectors().
  void multiply(int64_t rows, const Rows& a, int64_t column, int64_t count, C* c,
                int64_t c_stride) const {
    const auto [factor, stride] = a;
    const int64_t end = std::min(column + count, panels_ ? panels_.columns : columns());
    if (!panels_) {
      auto at = [&](int64_t j) {
        return Column<T>{weight_ + first_row(column + j) * depth_, live_units(column + j)};
      };
      return multiply_transposed<Arch, T>(rows, depth_, depth_block_, factor, stride, at,
                                          end - column, depth_, bias_.get() + column * W, c,
                                          c_stride);
    }
    for (; column < end; column += panels_.vectors, c += panels_.stride()) {
      panels_.visit([&, factor = factor, stride = stride](auto* data) {
        const auto* const b = data + panels_.offset(column);
        const auto* const next = panels_.ahead(b + panels_.depth * panels_.stride());
        fastrnn::cpu::multiply<Arch>(rows, panels_.depth, depth_block_, factor, stride, b,
                                     panels_.stride(), panels_.vectors, next,
                                     bias_.get() + column * W, 0, c, c_stride);
      });
    }
  }

 private:
  int64_t first_row(int64_t column) const { return column % gates_ * units_ + column / gates_ * W; }
  int live_units(int64_t column) const {
    return int(std::min<int64_t>(W, units_ - column / gates_ * W));
  }

  const T* weight_ = nullptr;
  const T* bias_source_ = nullptr;
  int gates_ = 1;
  int64_t units_ = 0, blocks_ = 0, depth_ = 0, depth_block_ = kDepthBlock;
  Panels<Arch, T> panels_;
  Buffer<C> bias_;
};

}  // namespace fastrnn::cpu
