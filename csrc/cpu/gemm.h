// The product kernels: C = A B + init in tiles that stay in registers, and the packing of their
// operands. Every element of C is summed in one order, whatever the tile, so that no result
// depends on how rows and columns are shared out.
#pragma once

#include <algorithm>
#include <cstdint>

#include "arch.h"
#include "vec.h"

namespace fastrnn::cpu {

// ---- what is multiplied -------------------------------------------------------------------------

// A product multiplies rows that the drivers keep, of operands or of gradients, with weights of
// type T. Where the instruction set multiplies bf16 by pairs, the rows are bf16 as well. Everywhere
// else they are of the compute type, and weights of 16 bits are widened on their way into a tile.
template <class Arch, class T>
inline constexpr bool kByPairs = Arch::kPairs && std::is_same_v<T, bf16>;

template <class Arch, class T>
using Operand = std::conditional_t<kByPairs<Arch, T>, bf16, Compute<T>>;

// What a tile multiplies at a time, and how many values along k that is.
template <class Arch, class T>
using Factor = std::conditional_t<kByPairs<Arch, T>, Pair, Compute<T>>;
template <class F>
inline constexpr int kSpan = std::is_same_v<F, Pair> ? 2 : 1;

template <class F>
constexpr int64_t factors(int64_t depth) {
  return (depth + kSpan<F> - 1) / kSpan<F>;
}

// What panels of weights of type T are made of.
template <class Arch, class T>
using PanelElement = std::conditional_t<kByPairs<Arch, T>, Pair, T>;

// A row of operands or gradients as factors. An odd one's last factor has a value behind it, which
// is finite and meets a zero.
template <class F, class O>
FRNN_INLINE const F* as_factors(const O* row) {
  return reinterpret_cast<const F*>(row);
}

// The first n values of a row as a vector of factors; the others read as 0.
template <class F, class T>
FRNN_INLINE F load_factors(const T* p, int n) {
  if constexpr (std::is_same_v<typename F::Scalar, Pair>) {
    Pair part[F::kSize];
    const size_t size = n * sizeof(T);
    if (size < sizeof part) std::memset(part, 0, sizeof part);
    std::memcpy(part, p, size < sizeof part ? size : sizeof part);
    return load<F>(part);
  } else {
    return load<F>(p, n);
  }
}

template <class V, class F>
FRNN_INLINE V multiply_add(V sum, F a, F b) {
  if constexpr (std::is_same_v<typename F::Scalar, Pair>) {
    return dot(sum, a, b);
  } else {
    return sum + a * b;
  }
}

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

// Of factors F and panels of B, which are factors or, if narrower, become some.
template <class F, class B>
using TileFunction = void (*)(int64_t depth, const F* a, int64_t a_stride, const B* b,
                              int64_t b_stride, const Compute<F>* init, int64_t init_stride,
                              Compute<F>* c, int64_t c_stride);

template <class Arch, class F, class B, int kRows, int kVectors, RowLayout kLayout>
__attribute__((noinline)) void tile(int64_t depth, const F* a, int64_t a_stride, const B* b,
                                    int64_t b_stride, const Compute<F>* init, int64_t init_stride,
                                    Compute<F>* c, int64_t c_stride) {
  using V = Vec<Compute<F>, Arch::kBytes>;
  using Row = Vec<F, Arch::kBytes>;
  constexpr int W = V::kSize;
  typename V::Raw sum[kRows][kVectors] = {};
  // The loops over accumulators must be unrolled by pragma, or the accumulators live on the stack.
  for (int64_t k = 0; k < depth; ++k) {
    typename Row::Raw row[kVectors];
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) row[v] = load<Row>(b + v * W).raw;
#pragma GCC unroll 12
    for (int m = 0; m < kRows; ++m) {
      F x;
      std::memcpy(&x, a + (kLayout == RowLayout::kStrided ? m * a_stride : m), sizeof x);
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) {
        if constexpr (std::is_same_v<F, Pair>) {
          sum[m][v] = dot(V(sum[m][v]), Row(x), Row(row[v])).raw;
        } else {
          sum[m][v] += x * row[v];
        }
      }
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
template <class Arch, class F, class B, int kVectors, RowLayout kLayout, int... i>
TileFunction<F, B> select_tile(int rows, std::integer_sequence<int, i...>) {
  static constexpr TileFunction<F, B> kTiles[] = {
      tile<Arch, F, B, i + 1, kVectors, kLayout>...};
  return kTiles[rows - 1];
}

template <class Arch, class F, class B, RowLayout kLayout>
TileFunction<F, B> select_tile(int rows, int vectors) {
  auto of = [rows]<int kVectors>(std::integral_constant<int, kVectors>) {
    return select_tile<Arch, F, B, kVectors, kLayout>(
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

// How many factors a tile sums up at a time. Summing in blocks keeps the rounding error of long
// sums small, and a block of a panel in the first-level cache while all row tiles use it.
inline constexpr int64_t kDepthBlock = 128;

// c[rows][vectors] = a b + init over one block of the depth, in tiles one below the other.
template <class Arch, class F, class B>
void multiply_block(int64_t rows, int64_t depth, const F* a, int64_t a_stride, const B* b,
                    int64_t b_stride, int vectors, const Compute<F>* init, int64_t init_stride,
                    Compute<F>* c, int64_t c_stride) {
  const int64_t highest = tile_rows<Arch>(vectors);
  if constexpr (!std::is_same_v<F, B>) {
    // Widened once for all tiles.
    if (rows > highest) {
      using V = Vec<F, Arch::kBytes>;
      constexpr int W = V::kSize;
      alignas(64) F wide[kDepthBlock * kMaxTileVectors * W];
      const int64_t stride = int64_t(vectors) * W;
      for (int64_t k = 0; k < depth; ++k) {
        for (int64_t j = 0; j < stride; j += W) {
          store(wide + k * stride + j, load<V>(b + k * b_stride + j));
        }
      }
      multiply_block<Arch, F, F>(rows, depth, a, a_stride, wide, stride, vectors, init, init_stride,
                                 c, c_stride);
      return;
    }
  }
  for (int64_t row = 0, height; row < rows; row += height) {
    height = even_height(rows - row, highest);
    const auto run = select_tile<Arch, F, B, RowLayout::kStrided>(int(height), vectors);
    run(depth, a + row * a_stride, a_stride, b, b_stride, init + row * init_stride, init_stride,
        c + row * c_stride, c_stride);
  }
}

// The same over any depth; init may be c.
template <class Arch, class F, class B>
void multiply(int64_t rows, int64_t depth, const F* a, int64_t a_stride, const B* b,
              int64_t b_stride, int vectors, const Compute<F>* init, int64_t init_stride,
              Compute<F>* c, int64_t c_stride) {
  int64_t k = 0;
  do {
    multiply_block<Arch>(rows, std::min(kDepthBlock, depth - k), a + k, a_stride, b + k * b_stride,
                         b_stride, vectors, init, init_stride, c, c_stride);
    init = c, init_stride = c_stride, k += kDepthBlock;
  } while (k < depth);
}

// ---- panels: B packed for the tiles -------------------------------------------------------------

// Columns, counted in vectors of W, in panels of `vectors`, each [depth][vectors][W] elements B.
template <class B, int W>
struct Panels {
  B* data = nullptr;
  int64_t depth = 0;    // in factors
  int64_t columns = 0;  // a multiple of vectors
  int vectors = 1;

  int64_t size() const { return depth * columns * W; }
  // Elements from one k to the next.
  int64_t stride() const { return int64_t(vectors) * W; }
  // Where the vector of `column` lies for k = 0.
  B* at(int64_t column) const {
    return data + (column / vectors * depth * vectors + column % vectors) * W;
  }
};

// Packs rows of T, `row_stride` apart, as one vector of columns: lane j of factor k is row j's.
template <class Arch, class F, class T, class B>
void pack_transposed(const T* rows, int64_t row_stride, int count, int64_t depth, B* out,
                     int64_t out_stride) {
  using V = Vec<F, Arch::kBytes>;
  constexpr int W = V::kSize, kWidth = W * kSpan<F>;
  for (int64_t k = 0; k < depth; k += kWidth) {
    const int values = int(std::min<int64_t>(kWidth, depth - k));
    V square[W];
#pragma GCC unroll 16
    for (int j = 0; j < W; ++j) {
      square[j] = j < count ? load_factors<V>(rows + j * row_stride + k, values) : V(F(0));
    }
    transpose(square);
    for (int i = 0; i < factors<F>(values); ++i) store(out + i * out_stride, square[i]);
    out += W * out_stride;
  }
}

// Packs `count` columns of a row-major matrix of T, of which row(k) is where row k begins, null for
// zeros, into factors one below the other.
template <class Arch, class F, class T, class Row, class B>
void pack_columns(Row row, int64_t column, int64_t count, int64_t depth, B* out,
                  int64_t out_stride) {
  using V = Vec<Compute<T>, Arch::kBytes>;
  constexpr int W = V::kSize;
  auto part = [&](int64_t k, int64_t j) {
    const T* const from = k < depth ? row(k) : nullptr;
    const int lanes = int(std::clamp<int64_t>(count - j, 0, W));
    return from && lanes ? load<V>(from + column + j, lanes) : V(Compute<T>(0));
  };
  for (int64_t k = 0; k < depth; k += kSpan<F>, out += out_stride) {
    for (int64_t j = 0; j < out_stride; j += W) {
      if constexpr (std::is_same_v<F, Pair>) {
        store(out + j, pairs(part(k, j), part(k + 1, j)));
      } else {
        store(out + j, part(k, j));
      }
    }
  }
}

// ---- dots: B as PyTorch keeps it ----------------------------------------------------------------

// c[m] = init + the dots of kRows rows of a with `count` rows of b, for one vector of columns. A
// tile is as many rows of b as fill a vector with sums, so that each is read once for kRows rows.
template <class Arch, class F, class T, int kRows>
__attribute__((noinline)) void dot_tiles(int64_t depth, const F* a, int64_t a_stride, const T* b,
                                         int64_t b_stride, int count, const Compute<F>* init,
                                         Compute<F>* c, int64_t c_stride) {
  using V = Vec<Compute<F>, Arch::kBytes>;
  using Row = Vec<F, Arch::kBytes>;
  constexpr int W = V::kSize, kUnits = W / kRows, kWidth = W * kSpan<F>;
  constexpr auto lanes = std::make_integer_sequence<int, W>{};
  const int64_t whole = depth / kWidth * kWidth;
  for (int unit = 0; unit < count; unit += kUnits) {
    // Beyond `count` the last row stands in, and its sums are thrown away.
    const T* row[kUnits];
#pragma GCC unroll 16
    for (int u = 0; u < kUnits; ++u) row[u] = b + std::min(unit + u, count - 1) * b_stride;
    V sum[W];
#pragma GCC unroll 16
    for (int j = 0; j < W; ++j) sum[j] = V(Compute<F>(0));
    auto add = [&](int64_t k, int values) __attribute__((always_inline)) {
      Row x[kRows];
#pragma GCC unroll 4
      for (int m = 0; m < kRows; ++m) {
        x[m] = load_factors<Row>(a + m * a_stride + k / kSpan<F>, int(factors<F>(values)));
      }
#pragma GCC unroll 16
      for (int u = 0; u < kUnits; ++u) {
        const Row w = load_factors<Row>(row[u] + k, values);
#pragma GCC unroll 4
        for (int m = 0; m < kRows; ++m) {
          sum[m * kUnits + u] = multiply_add(sum[m * kUnits + u], x[m], w);
        }
      }
    };
    for (int64_t k = 0; k < whole; k += kWidth) add(k, kWidth);
    if (whole < depth) add(whole, int(depth - whole));
    // Halves the vectors by pairs until lane j of the one that is left is the j-th sum.
#pragma GCC unroll 4
    for (int n = W / 2; n > 0; n /= 2) {
#pragma GCC unroll 8
      for (int j = 0; j < n; ++j) {
        sum[j] = V(interleave_low(sum[j].raw, sum[j + n].raw, lanes)) +
                 V(interleave_high(sum[j].raw, sum[j + n].raw, lanes));
      }
    }
    Compute<F> sums[W];
    store(sums, sum[0]);
    const int live = std::min(kUnits, count - unit);
    for (int m = 0; m < kRows; ++m) {
      for (int u = 0; u < live; ++u) {
        c[m * c_stride + unit + u] = init[unit + u] + sums[m * kUnits + u];
      }
    }
  }
  for (int m = 0; m < kRows; ++m) std::copy(init + count, init + W, c + m * c_stride + count);
}

// The same for any rows: without packing b, which is worth it where b is used for a few rows only.
template <class Arch, class F, class T>
void dots(int64_t rows, int64_t depth, const F* a, int64_t a_stride, const T* b, int64_t b_stride,
          int count, const Compute<F>* init, Compute<F>* c, int64_t c_stride) {
  constexpr int kMost = std::min(4, Vec<Compute<F>, Arch::kBytes>::kSize);
  int64_t m = 0;
  auto run = [&]<int kRows>(std::integral_constant<int, kRows>) {
    for (; m + kRows <= rows; m += kRows) {
      dot_tiles<Arch, F, T, kRows>(depth, a + m * a_stride, a_stride, b, b_stride, count, init,
                                   c + m * c_stride, c_stride);
    }
  };
  run(std::integral_constant<int, kMost>{});
  run(std::integral_constant<int, 2>{});
  run(std::integral_constant<int, 1>{});
}

}  // namespace fastrnn::cpu
