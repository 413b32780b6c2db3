// The weights of a backward product, a W, by the columns of W itself.
#pragma once

#include <cstdint>

#include "buffer.h"
#include "gemm.h"

namespace fastrnn::cpu {

// a W for a row-major weight [depth, units]. Packed into panels where it serves many rows; used
// where it lies, but for the last columns, where packing would cost more.
template <class Arch, class T>
class PlainWeights {
 public:
  using C = Compute<T>;
  using V = Vec<C, Arch::kBytes>;
  static constexpr int W = V::kSize;

  PlainWeights() = default;

  // panel_rows: how many rows each product will have; 0: do not pack what can be used in place.
  PlainWeights(const void* weight, int64_t depth, int64_t units, int64_t panel_rows)
      : weight_(static_cast<const T*>(weight)), units_(units) {
    const int64_t columns = (units + W - 1) / W;
    panels_.depth = depth;
    panels_.vectors = panel_vectors<Arch>(1, panel_rows ? panel_rows : 1, columns);
    panels_.columns = (columns + panels_.vectors - 1) / panels_.vectors * panels_.vectors;
    if constexpr (std::is_same_v<T, C>) {
      if (!panel_rows) in_place_ = units / panels_.stride() * panels_.vectors;
    }
    panel_buffer_ = Buffer<C>(depth * (panels_.columns - in_place_) * W);
    panels_.data = panel_buffer_.get();
    zeros_ = Buffer<C>(panels_.stride());
    std::fill_n(zeros_.get(), panels_.stride(), C(0));
  }

  int vectors() const { return panels_.vectors; }
  int64_t columns() const { return panels_.columns; }
  int64_t parts() const { return (panels_.columns - in_place_) / panels_.vectors; }
  int64_t part_size() const { return panels_.depth * panels_.stride(); }

  // Lays out parts [begin, end) of parts(): the panels that are packed.
  void pack(int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t first = (in_place_ + i * panels_.vectors) * W;
      pack_columns<Arch>([this](int64_t k) { return weight_ + k * units_; }, first, units_ - first,
                         panels_.depth, panels_.at(i * panels_.vectors), panels_.stride());
    }
  }

  // c[rows][vectors()] = a W + init for the columns of the panel that begins at `column`; a null
  // init is 0.
  void multiply(int64_t rows, const C* a, int64_t a_stride, int64_t column, const C* init,
                int64_t init_stride, C* c, int64_t c_stride) const {
    if (!init) init = zeros_.get(), init_stride = 0;
    if constexpr (std::is_same_v<T, C>) {
      if (column < in_place_) {
        return fastrnn::cpu::multiply<Arch>(rows, panels_.depth, a, a_stride, weight_ + column * W,
                                            units_, panels_.vectors, init, init_stride, c,
                                            c_stride);
      }
    }
    fastrnn::cpu::multiply<Arch>(rows, panels_.depth, a, a_stride, panels_.at(column - in_place_),
                                 panels_.stride(), panels_.vectors, init, init_stride, c, c_stride);
  }

 private:
  const T* weight_ = nullptr;
  int64_t units_ = 0;
  int64_t in_place_ = 0;  // columns, in vectors, that are not packed
  Panels<V> panels_;
  Buffer<C> panel_buffer_, zeros_;
};

}  // namespace fastrnn::cpu
