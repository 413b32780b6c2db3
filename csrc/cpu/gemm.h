// The product kernels: C = A B + init in tiles that stay in registers, and the packing of their
// operands. Every element of C is summed in one order, whatever the tile, so that no result
// depends on how rows and columns are shared out.
#pragma once

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <type_traits>

#include "arch.h"
#include "buffer.h"
#include "machine.h"
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

// What panels of weights of type T are made of at their narrowest: as wide as T. A tile of factors
// that are wider widens them.
template <class Arch, class T>
using Narrow = std::conditional_t<kByPairs<Arch, T>, Pair, T>;

// A row of operands or gradients as factors. An odd one's last factor has a value behind it, which
// should be finite, because it meets a zero.
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
    auto vector = [&](int v) __attribute__((always_inline)) { return load<Row>(b + v * W); };
    auto broadcast = [&](int m) __attribute__((always_inline)) {
      F x;
      std::memcpy(&x, a + (kLayout == RowLayout::kStrided ? m * a_stride : m), sizeof x);
      return Row(x);
    };
    auto add = [&](int m, int v, Row x, Row y) __attribute__((always_inline)) {
      sum[m][v] = multiply_add(V(sum[m][v]), x, y).raw;
    };
    // What there is less of stays in registers.
    if constexpr (kRows < kVectors) {
      Row x[kRows];
#pragma GCC unroll 12
      for (int m = 0; m < kRows; ++m) x[m] = broadcast(m);
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) {
        const Row y = vector(v);
#pragma GCC unroll 12
        for (int m = 0; m < kRows; ++m) add(m, v, x[m], y);
      }
    } else {
      Row y[kVectors];
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) y[v] = vector(v);
#pragma GCC unroll 12
      for (int m = 0; m < kRows; ++m) {
        const Row x = broadcast(m);
#pragma GCC unroll 8
        for (int v = 0; v < kVectors; ++v) add(m, v, x, y[v]);
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
  static constexpr TileFunction<F, B> kTiles[] = {tile<Arch, F, B, i + 1, kVectors, kLayout>...};
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
// That of few rows. Others have kernels for these that sum up a product in many parts, and half as
// many values in a row have 0.7 times the error; the tiles' ends cost 5% at 64 rows, but nothing
// where few rows wait for the weights.
inline constexpr int64_t kShortBlock = 64;

// Fetches part [begin, end) of `parts` of so many bytes into the first-level cache.
inline void fetch_part(const void* p, int64_t bytes, int64_t begin, int64_t end, int64_t parts) {
  constexpr int64_t kLine = 64;
  const int64_t lines = bytes / kLine;
  for (int64_t i = lines * begin / parts; i < lines * end / parts; ++i) {
    __builtin_prefetch(static_cast<const char*>(p) + i * kLine);
  }
}

// c[rows][vectors] = a b + init, summed up in blocks of `depth_block`; init may be c. `next` is
// what the next call multiplies with, or null if b is near. While many rows use a block, the one
// behind it is fetched: a core of Zen 3 multiplied 64 rows with weights of 4 MB at 75 GFLOP/s
// without and at 86 with it. For few rows it costs more than it gains.
template <class Arch, class F, class B>
void multiply(int64_t rows, int64_t depth, int64_t depth_block, const F* a, int64_t a_stride,
              const B* b, int64_t b_stride, int vectors, const std::type_identity_t<B>* next,
              const Compute<F>* init, int64_t init_stride, Compute<F>* c, int64_t c_stride) {
  int64_t k = 0;
  do {
    const int64_t block = std::min(depth_block, depth - k);
    const B* const behind = next && k + block < depth ? b + (k + block) * b_stride : next;
    const bool fetch = behind && rows > 4 * tile_rows<Arch>(vectors);
    for (int64_t row = 0, height; row < rows; row += height) {
      height = even_height(rows - row, tile_rows<Arch>(vectors));
      if (fetch) {
        fetch_part(behind, block * b_stride * int64_t(sizeof(B)), row, row + height, rows);
      }
      const auto run = select_tile<Arch, F, B, RowLayout::kStrided>(int(height), vectors);
      run(block, a + row * a_stride + k, a_stride, b + k * b_stride, b_stride,
          init + row * init_stride, init_stride, c + row * c_stride, c_stride);
    }
    init = c, init_stride = c_stride, k += depth_block;
  } while (k < depth);
}

// ---- panels: B packed for the tiles -------------------------------------------------------------

// Whether so many bytes come from far beyond the second-level cache.
inline bool is_far(int64_t bytes) { return bytes > 4 * l2_bytes(); }

// Whether panels stay narrow that could be widened as they are packed. Few rows wait for weights
// that come from beyond the second-level cache: at H 1024, 4 rows took 342 us in float16 and 573 us
// in float32. All others wait for the multiplication, to which the tile's conversions add: 12.5 us
// in float32 and 18.5 us in float16 at H 256.
template <class Arch>
bool stay_narrow(int64_t rows, int64_t elements) {
  return rows <= tile_rows<Arch>(4) && 4 * elements > l2_bytes();
}

// Columns, counted in vectors of W, in panels of `vectors`, each [depth][vectors][W] elements: the
// factors F, or the narrower elements B.
template <class Arch, class T>
struct Panels {
  using F = Factor<Arch, T>;
  using B = Narrow<Arch, T>;
  static constexpr int W = Vec<Compute<T>, Arch::kBytes>::kSize;

  int64_t depth = 0;
  int64_t columns = 0;  // a multiple of vectors
  int vectors = 1;

  // Elements from one k to the next.
  int64_t stride() const { return int64_t(vectors) * W; }
  // Of the vector of `column` for k = 0.
  int64_t offset(int64_t column) const {
    return (column / vectors * depth * vectors + column % vectors) * W;
  }

  // For `count` columns.
  void allocate(int64_t count, bool narrow) {
    const int64_t size = depth * count * W;
    far_ = is_far(size * int64_t(narrow ? sizeof(B) : sizeof(F)));
    if (narrow) {
      narrow_ = Buffer<B>(size);
    } else {
      wide_ = Buffer<F>(size);
    }
  }
  explicit operator bool() const { return wide_.get() || narrow_.get(); }

  // p, if it should be fetched ahead of its use.
  template <class E>
  const E* ahead(const E* p) const {
    return far_ ? p : nullptr;
  }
  // Calls use(data) with the elements as they are.
  template <class Use>
  void visit(Use use) const {
    narrow_.get() ? use(narrow_.get()) : use(wide_.get());
  }

 private:
  bool far_ = false;
  Buffer<F> wide_;
  Buffer<B> narrow_;
};

// A row-major matrix of T, the columns of a product's B, in squares: values from k on of `count`
// rows, `values` of each, the rest zeros, transposed. 16-bit types go by pairs.
template <class T>
using SquareElement = std::conditional_t<sizeof(T) == 2, Pair, T>;

template <class Arch, class T, class Count>
FRNN_INLINE void load_square(
    const T* rows, int64_t row_stride, Count count, int values,
    Vec<SquareElement<T>, Arch::kBytes> (&square)[Arch::kBytes / sizeof(SquareElement<T>)]) {
  using V = Vec<SquareElement<T>, Arch::kBytes>;
#pragma GCC unroll 16
  for (int j = 0; j < V::kSize; ++j) {
    square[j] = j < count ? load_factors<V>(rows + j * row_stride, values) : V(SquareElement<T>(0));
  }
  transpose(square);
}

// Packs rows of T, `row_stride` apart, as one vector of columns: lane j of element k is row j's.
template <class Arch, class T, class B>
void pack_transposed(const T* rows, int64_t row_stride, int count, int64_t depth, B* out,
                     int64_t out_stride) {
  using Square = Vec<SquareElement<T>, Arch::kBytes>;
  constexpr int W = Square::kSize, kEach = sizeof(SquareElement<T>) / sizeof(T);
  constexpr int kPerVector = W * kEach;
  for (int64_t k = 0; k < depth; k += kPerVector) {
    const int values = int(std::min<int64_t>(kPerVector, depth - k));
    Square square[W];
    load_square<Arch>(rows + k, row_stride, count, values, square);
    for (int i = 0; i * kEach < values; ++i, out += out_stride) {
      if constexpr (std::is_same_v<B, SquareElement<T>>) {
        store(out, square[i]);
      } else {
        Vec<Compute<T>, Arch::kBytes> first, second;
        split<T>(square[i], first, second);
        store(out, first);
        if (2 * i + 1 == values) break;
        store(out += out_stride, second);
      }
    }
  }
}

// Packs `count` columns of a row-major matrix of T, of which row(k) is where row k begins, null for
// zeros, into elements one below the other.
template <class Arch, class T, class Row, class B>
void pack_columns(Row row, int64_t column, int64_t count, int64_t depth, B* out,
                  int64_t out_stride) {
  using V = Vec<Compute<T>, Arch::kBytes>;
  constexpr int W = V::kSize;
  auto part = [&](int64_t k, int64_t j) {
    const T* const from = k < depth ? row(k) : nullptr;
    const int lanes = int(std::clamp<int64_t>(count - j, 0, W));
    return from && lanes ? load<V>(from + column + j, lanes) : V(Compute<T>(0));
  };
  for (int64_t k = 0; k < depth; k += kSpan<B>, out += out_stride) {
    for (int64_t j = 0; j < out_stride; j += W) {
      if constexpr (std::is_same_v<B, Pair>) {
        store(out + j, pairs(part(k, j), part(k + 1, j)));
      } else {
        store(out + j, part(k, j));
      }
    }
  }
}

// ---- B as PyTorch keeps it ----------------------------------------------------------------------

// The rows of b that are one vector of columns.
template <class T>
struct Column {
  const T* rows;
  int count;
};

// c = init + a b^T for kRows rows of a and kColumns columns, of which squares are transposed in
// registers. The sums have the order of the tiles'. Each waits for itself, four cycles for each of
// its products, so a tile of one row takes two columns in turns. More columns would read more rows
// of b at once than a set of the L1 has ways, where rows lie a power of 2 apart: with four, a step
// of an LSTM of 512 units took 1.7 times as long.
template <class Arch, class F, class T, int kRows, int kColumns>
__attribute__((noinline)) void transposed_tile(int64_t depth, int64_t depth_block, const F* a,
                                               int64_t a_stride, const Column<T>* b,
                                               int64_t b_stride, const Compute<F>* init,
                                               Compute<F>* c, int64_t c_stride) {
  using V = Vec<Compute<F>, Arch::kBytes>;
  using Square = Vec<SquareElement<T>, Arch::kBytes>;
  constexpr int W = V::kSize, kEach = sizeof(SquareElement<T>) / sizeof(T);
  constexpr int kPerVector = W * kEach;
  const bool whole = std::all_of(b, b + kColumns, [](auto& column) { return column.count == W; });
  int64_t k = 0, init_stride = 0;
  do {
    const int64_t end = std::min(depth, k + depth_block * kSpan<F>);
    V sum[kColumns][kRows];
#pragma GCC unroll 4
    for (int j = 0; j < kColumns; ++j) {
#pragma GCC unroll 8
      for (int m = 0; m < kRows; ++m) sum[j][m] = V(Compute<F>(0));
    }
    // Column k of the weights, and of a.
    auto add = [&](V(&sum)[kRows], int64_t k, auto column) __attribute__((always_inline)) {
#pragma GCC unroll 8
      for (int m = 0; m < kRows; ++m) {
        F x;
        std::memcpy(&x, a + m * a_stride + k / kSpan<F>, sizeof x);
        sum[m] = multiply_add(sum[m], decltype(column)(x), column);
      }
    };
    auto add_square = [&](int j, auto count, int values) __attribute__((always_inline)) {
      Square square[W];
      load_square<Arch>(b[j].rows + k, b_stride, count, values, square);
#pragma GCC unroll 16
      for (int i = 0; i < W; ++i) {
        if (i * kEach >= values) break;
        if constexpr (kEach == kSpan<F>) {
          add(sum[j], k + i * kEach, square[i]);
        } else {
          V first, second;
          split<T>(square[i], first, second);
          add(sum[j], k + 2 * i, first);
          if (2 * i + 1 < values) add(sum[j], k + 2 * i + 1, second);
        }
      }
    };
    if (whole) {
      for (; k + kPerVector <= end; k += kPerVector) {
#pragma GCC unroll 4
        for (int j = 0; j < kColumns; ++j) {
          add_square(j, std::integral_constant<int, W>(), kPerVector);
        }
      }
    }
    for (; k < end; k += kPerVector) {
      const int values = int(std::min<int64_t>(kPerVector, end - k));
      for (int j = 0; j < kColumns; ++j) add_square(j, b[j].count, values);
    }
    k = end;
#pragma GCC unroll 4
    for (int j = 0; j < kColumns; ++j) {
#pragma GCC unroll 8
      for (int m = 0; m < kRows; ++m) {
        Compute<F>* const to = c + m * c_stride + j * W;
        store(to, load<V>(init + m * init_stride + j * W) + sum[j][m]);
      }
    }
    init = c, init_stride = c_stride;
  } while (k < depth);
}

// Those of kColumns columns, by their rows. A tile makes no more than kTransposedSums, or a sum for
// each of its rows.
inline constexpr int kTransposedSums = 2;

template <class Arch, class F, class T>
struct TransposedTiles {
  static constexpr int kHighest = 8;
  decltype(&transposed_tile<Arch, F, T, 1, 1>) of_rows[kHighest + 1] = {};

  template <int kColumns>
  static constexpr TransposedTiles of_columns() {
    TransposedTiles tiles;
    [&]<int... i>(std::integer_sequence<int, i...>) {
      (tiles.add<i + 1, kColumns>(), ...);
    }(std::make_integer_sequence<int, kHighest>());
    return tiles;
  }

 private:
  template <int kRows, int kColumns>
  constexpr void add() {
    if constexpr (kColumns == 1 || kRows * kColumns <= kTransposedSums) {
      of_rows[kRows] = transposed_tile<Arch, F, T, kRows, kColumns>;
    }
  }
};

// The same for any rows, and `count` columns, of which at(j) is the j-th: worth it where b is used
// for a few rows only.
template <class Arch, class T, class F, class At>
void multiply_transposed(int64_t rows, int64_t depth, int64_t depth_block, const F* a,
                         int64_t a_stride, At at, int64_t count, int64_t b_stride,
                         const Compute<F>* init, Compute<F>* c, int64_t c_stride) {
  using Tiles = TransposedTiles<Arch, F, T>;
  static constexpr Tiles kTiles[] = {Tiles::template of_columns<1>(),
                                     Tiles::template of_columns<2>()};
  static_assert(std::size(kTiles) == kTransposedSums);
  constexpr int W = Vec<Compute<F>, Arch::kBytes>::kSize;
  const int64_t at_once = std::max<int64_t>(1, kTransposedSums / std::max<int64_t>(1, rows));
  Column<T> columns[kTransposedSums];
  for (int64_t j = 0, now; j < count; j += now) {
    now = std::min(at_once, count - j);
    for (int n = 0; n < now; ++n) columns[n] = at(j + n);
    for (int64_t row = 0, height; row < rows; row += height) {
      height = even_height(rows - row, Tiles::kHighest);
      kTiles[now - 1].of_rows[height](depth, depth_block, a + row * a_stride, a_stride, columns,
                                      b_stride, init + j * W, c + row * c_stride + j * W, c_stride);
    }
  }
}

}  // namespace fastrnn::cpu
