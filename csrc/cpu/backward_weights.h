// The weights of a backward product, a W, by the columns of W itself.
#pragma once

#include <cstdint>

#include "buffer.h"
#include "gemm.h"

namespace fastrnn::cpu {

// a W for a row-major weight [depth, units]. Packed into panels where it serves many rows; used
// where it lies, but for the last columns, where packing would cost more.
template <class Arch, class T>
class BackwardWeights {
 public:
  using C = Compute<T>;
  using O = Operand<Arch, T>;
  using F = Factor<Arch, T>;
  using V = Vec<C, Arch::kBytes>;
  static constexpr int W = V::kSize;

  BackwardWeights() = default;

  // panel_rows: how many rows each product will have; 0: do not pack what can be used in place.
  BackwardWeights(const void* weight, int64_t depth, int64_t units, int64_t panel_rows)
      : weight_(static_cast<const T*>(weight)), units_(units), depth_(depth) {
    const int64_t columns = (units + W - 1) / W;
    panels_.depth = factors<F>(depth);
    panels_.vectors = panel_vectors<Arch>(1, panel_rows ? panel_rows : 1, columns);
    panels_.columns = (columns + panels_.vectors - 1) / panels_.vectors * panels_.vectors;
    if constexpr (kAsTheyLie) {
      if (!panel_rows) in_place_ = units / panels_.stride() * panels_.vectors;
    }
    const int64_t count = panels_.columns - in_place_;
    panels_.allocate(count, stay_narrow<Arch>(panel_rows, panels_.depth * count * W));
    zeros_ = Buffer<C>(panels_.stride());
    std::fill_n(zeros_.get(), panels_.stride(), C(0));
  }

  int vectors() const { return panels_.vectors; }
  int64_t columns() const { return panels_.columns; }
  int64_t depth() const { return depth_; }
  int64_t parts() const { return (panels_.columns - in_place_) / panels_.vectors; }
  int64_t part_size() const { return panels_.depth * panels_.stride(); }

  // Lays out parts [begin, end) of parts(): the panels that are packed.
  void pack(int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t first = (in_place_ + i * panels_.vectors) * W;
      panels_.visit([&](auto* data) {
        pack_columns<Arch, T>([this](int64_t k) { return weight_ + k * units_; }, first,
                              units_ - first, depth_, data + panels_.offset(i * panels_.vectors),
                              panels_.stride());
      });
    }
  }

  // c[rows][columns] = a W + init for columns [begin, end), multiples of vectors(), as far as there
  // are any; c and init begin at column `begin`, and a null init is 0. Blocks of the depth go
  // outside, so that a block of a stays in the second-level cache for all columns.
  void multiply(int64_t rows, const O* a, int64_t a_stride, int64_t begin, int64_t end,
                const C* init, int64_t init_stride, C* c, int64_t c_stride) const {
    const F* const factor = as_factors<F>(a);
    end = std::min(end, panels_.columns);
    for (int64_t k = 0; k < panels_.depth; k += kDepthBlock) {
      const int64_t depth = std::min(kDepthBlock, panels_.depth - k);
      for (int64_t column = begin; column < end; column += panels_.vectors) {
        const int64_t at = (column - begin) * W;
        const C* from = k ? c + at : init ? init + at : zeros_.get();
        const int64_t from_stride = k ? c_stride : init ? init_stride : 0;
        auto by = [&](auto* b, int64_t b_stride, auto next) {
          fastrnn::cpu::multiply<Arch>(rows, depth, kDepthBlock, factor + k, a_stride / kSpan<F>,
                                       b + k * b_stride, b_stride, panels_.vectors, next, from,
                                       from_stride, c + at, c_stride);
        };
        if constexpr (kAsTheyLie) {
          if (column < in_place_) {
            by(weight_ + column * W, units_, nullptr);
            continue;
          }
        }
        panels_.visit([&](auto* data) {
          auto* const b = data + panels_.offset(column - in_place_);
          auto* const behind = b + panels_.depth * panels_.stride();
          by(b, panels_.stride(), panels_.ahead(behind + k * panels_.stride()));
        });
      }
    }
  }

 private:
  static constexpr bool kAsTheyLie = std::is_same_v<Narrow<Arch, T>, T>;

  const T* weight_ = nullptr;
  int64_t units_ = 0, depth_ = 0;
  int64_t in_place_ = 0;  // columns, in vectors, that are not packed
  Panels<Arch, T> panels_;
  Buffer<C> zeros_;
};

}  // namespace fastrnn::cpu
