// The product kernels: C = A B + init in tiles that stay in registers, and the packing of their
// operands. Every element of C is summed in one order, whatever the tile, so that no result
// depends on how rows and columns are shared out.
#pragma once

#include <algorithm>
#include <cstdint>

#include "arch.h"
#include "vec.h"

namespace fastrnn::cpu {

// ---- tiles --------------------------------------------------------------------------------------

// A tile is rows x vectors accumulators; the vectors of B and a broadcast of A take the registers
// that are left. 12 of 16 run at 95% of the FMA peak on Zen 3, 8 at 83%.
template <class Arch>
inline constexpr int kAccumulators = Arch::kRegisters == 32 ? 24 : 12;

inline constexpr int kMaxTileVectors = 8;
inline constexpr int kMaxTileRows = 12;

template <class Arch>
constexpr int tile_rows(int vectors) {
  return kAccumulators<Arch> / vectors;
}

// How A lies: rows a stride apart and contiguous along k, or packed as [k][rows].
enum class RowLayout { kStrided, kPacked };

template <class T>
using TileFunction = void (*)(int64_t depth, const T* a, int64_t a_stride, const T* b,
                              int64_t b_stride, const T* init, int64_t init_stride, T* c,
                              int64_t c_stride);

template <class Arch, class T, int kRows, int kVectors, RowLayout kLayout>
__attribute__((noinline)) void tile(int64_t depth, const T* a, int64_t a_stride, const T* b,
                                    int64_t b_stride, const T* init, int64_t init_stride, T* c,
                                    int64_t c_stride) {
  using V = Vec<T, Arch::kBytes>;
  constexpr int W = V::kSize;
  typename V::Raw sum[kRows][kVectors] = {};
  // The loops over accumulators must be unrolled by pragma, or the accumulators live on the stack.
  for (int64_t k = 0; k < depth; ++k) {
    typename V::Raw row[kVectors];
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) row[v] = load<V>(b + v * W).raw;
#pragma GCC unroll 12
    for (int m = 0; m < kRows; ++m) {
      T x = kLayout == RowLayout::kStrided ? a[m * a_stride] : a[m];
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) sum[m][v] += x * row[v];
    }
    a += kLayout == RowLayout::kStrided ? 1 : kRows;
    b += b_stride;
  }
#pragma GCC unroll 12
  for (int m = 0; m < kRows; ++m) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      store(c + m * c_stride + v * W, load<V>(init + m * init_stride + v * W) + V(sum[m][v]));
    }
  }
}

// The tile of `rows` rows; rows <= tile_rows<Arch>(kVectors).
template <class Arch, class T, int kVectors, RowLayout kLayout, int... i>
TileFunction<T> select_tile(int rows, std::integer_sequence<int, i...>) {
  static constexpr TileFunction<T> kTiles[] = {tile<Arch, T, i + 1, kVectors, kLayout>...};
  return kTiles[rows - 1];
}

template <class Arch, class T, RowLayout kLayout>
TileFunction<T> select_tile(int rows, int vectors) {
  auto of = [rows]<int kVectors>(std::integral_constant<int, kVectors>) {
    return select_tile<Arch, T, kVectors, kLayout>(
        rows, std::make_integer_sequence<int, tile_rows<Arch>(kVectors)>{});
  };
  switch (vectors) {
    case 2: return of(std::integral_constant<int, 2>{});
    case 3: return of(std::integral_constant<int, 3>{});
    case 4: return of(std::integral_constant<int, 4>{});
    case 6: return of(std::integral_constant<int, 6>{});
    default: return of(std::integral_constant<int, 8>{});
  }
}

// The width of a panel, in vectors, for products of `rows` rows whose columns come in groups of
// `gates`: the widest whose tile holds all the rows, because few rows need many columns to hide
// the latency of the FMA; for many rows, the one whose tile reads least.
template <class Arch>
int panel_vectors(int gates, int64_t rows, int64_t columns) {
  const bool by_three = gates % 3 == 0;
  const int tall = by_three ? 3 : Arch::kRegisters == 32 ? 4 : 2;
  for (int vectors = by_three ? 6 : 8; vectors > tall; vectors /= 2) {
    if (rows <= tile_rows<Arch>(vectors) && vectors <= columns) return vectors;
  }
  return tall;
}

// The height of the next tile when `rows` rows are left: 8 rows are 4 + 4, not 6 + 2.
FRNN_INLINE int64_t even_height(int64_t rows, int64_t max_height) {
  const int64_t tiles = (rows + max_height - 1) / max_height;
  return (rows + tiles - 1) / tiles;
}

// The depth that a tile sums up at a time. Summing in blocks keeps the rounding error of long sums
// small, and a block of a panel in the first-level cache while all row tiles use it.
inline constexpr int64_t kDepthBlock = 128;

// c[rows][vectors] = a b + init; init may be c.
template <class Arch, class T>
void multiply(int64_t rows, int64_t depth, const T* a, int64_t a_stride, const T* b,
              int64_t b_stride, int vectors, const T* init, int64_t init_stride, T* c,
              int64_t c_stride) {
  int64_t k = 0;
  do {
    const int64_t block = std::min(kDepthBlock, depth - k);
    for (int64_t row = 0, height; row < rows; row += height) {
      height = even_height(rows - row, tile_rows<Arch>(vectors));
      const auto run = select_tile<Arch, T, RowLayout::kStrided>(int(height), vectors);
      run(block, a + row * a_stride + k, a_stride, b + k * b_stride, b_stride,
          init + row * init_stride, init_stride, c + row * c_stride, c_stride);
    }
    init = c, init_stride = c_stride, k += kDepthBlock;
  } while (k < depth);
}

// ---- panels: B packed for the tiles -------------------------------------------------------------

// Columns, counted in vectors, in panels of `vectors`, each [depth][vectors] of V.
template <class V>
struct Panels {
  typename V::Scalar* data = nullptr;
  int64_t depth = 0;
  int64_t columns = 0;  // a multiple of vectors
  int vectors = 1;

  int64_t size() const { return depth * columns * V::kSize; }
  // Elements from one k to the next.
  int64_t stride() const { return int64_t(vectors) * V::kSize; }
  // Where the vector of `column` lies for k = 0.
  auto at(int64_t column) const {
    return data + (column / vectors * depth * vectors + column % vectors) * V::kSize;
  }
};

// Packs rows `row_stride` apart as one vector of columns: lane j of step k is row j's element k.
template <class Arch, class T, class S>
void pack_transposed(const S* rows, int64_t row_stride, int count, int64_t depth, T* out,
                     int64_t out_stride) {
  using V = Vec<T, Arch::kBytes>;
  constexpr int W = V::kSize;
  for (int64_t k = 0; k < depth; k += W) {
    const int lanes = int(std::min<int64_t>(W, depth - k));
    V square[W];
#pragma GCC unroll 16
    for (int j = 0; j < W; ++j) {
      square[j] = j < count ? load<V>(rows + j * row_stride + k, lanes) : V(T(0));
    }
    transpose(square);
    for (int i = 0; i < lanes; ++i) store(out + (k + i) * out_stride, square[i]);
  }
}

// Packs `count` columns of a row-major matrix; row(k) is where row k begins, null for zeros.
template <class Arch, class T, class Row>
void pack_columns(Row row, int64_t column, int64_t count, int64_t depth, T* out,
                  int64_t out_stride) {
  using V = Vec<T, Arch::kBytes>;
  constexpr int W = V::kSize;
  for (int64_t k = 0; k < depth; ++k, out += out_stride) {
    const auto* from = row(k);
    for (int64_t j = 0; j < out_stride; j += W) {
      const int lanes = int(std::clamp<int64_t>(count - j, 0, W));
      store(out + j, from && lanes ? load<V>(from + column + j, lanes) : V(T(0)));
    }
  }
}

// ---- dots: B as PyTorch keeps it ----------------------------------------------------------------

// c[m] = init + the dots of row m of a with `count` rows of b, both contiguous along k: one vector
// of columns, without packing b. Worth it where b is used for a few rows only.
template <class Arch, class T, class S>
void dots(int64_t rows, int64_t depth, const T* a, int64_t a_stride, const S* b, int64_t b_stride,
          int count, const T* init, T* c, int64_t c_stride) {
  using V = Vec<T, Arch::kBytes>;
  constexpr int W = V::kSize;
  constexpr auto lanes = std::make_integer_sequence<int, W>{};
  const int64_t whole = depth / W * W;
  const int rest = int(depth - whole);
  for (int64_t m = 0; m < rows; ++m) {
    const T* x = a + m * a_stride;
    V sum[W];
#pragma GCC unroll 16
    for (int j = 0; j < W; ++j) sum[j] = V(T(0));
    if (count == W) {
      for (int64_t k = 0; k < whole; k += W) {
        const V xk = load<V>(x + k);
#pragma GCC unroll 16
        for (int j = 0; j < W; ++j) sum[j] = sum[j] + xk * load<V>(b + j * b_stride + k);
      }
    } else {
      for (int j = 0; j < count; ++j) {
        for (int64_t k = 0; k < whole; k += W) {
          sum[j] = sum[j] + load<V>(x + k) * load<V>(b + j * b_stride + k);
        }
      }
    }
    if (rest) {
      const V xk = load_part<V>(x + whole, rest);
      for (int j = 0; j < count; ++j) {
        sum[j] = sum[j] + xk * load_part<V>(b + j * b_stride + whole, rest);
      }
    }
    // Halves the vectors by pairs until lane j of the one that is left is the sum of row j.
#pragma GCC unroll 4
    for (int n = W / 2; n > 0; n /= 2) {
#pragma GCC unroll 8
      for (int j = 0; j < n; ++j) {
        sum[j] = V(interleave_low(sum[j].raw, sum[j + n].raw, lanes)) +
                 V(interleave_high(sum[j].raw, sum[j + n].raw, lanes));
      }
    }
    store(c + m * c_stride, load<V>(init) + sum[0]);
  }
}

}  // namespace fastrnn::cpu
