// The kernels behind Int8Products: rows quantised, and their products in tiles, by two means that
// give the same bits.
#pragma once

#include <algorithm>
#include <cstdint>

#include "arch.h"
#include "int8_products.h"
#include "vec_int8.h"

namespace fastrnn::cpu {

// By int16: what is multiplied is widened to it. Nothing saturates, as sums of two products of
// uint8 and int8 would that are kept in 16 bits.
template <class Arch>
struct ByWidening {
  using Element = int16_t;
  static constexpr int kBytes = Arch::kBytes;
  // Of a block: lanes have two sums, of even and of odd pairs of k, for each unit.
  static constexpr int kVectors = 2 * kInt8Bytes / kBytes;
  static constexpr int kMaxRows = std::max(1, (Arch::kRegisters == 32 ? 16 : 8) / kVectors);

  static FRNN_INLINE void store_quantized(Element* p, Words<kBytes> q) {
    store_half<Vec<float, kBytes>>(p, q);
  }

  // The sums of kRows rows with a block, [kRows][units].
  template <int kRows>
  static __attribute__((noinline)) void tile(int64_t quads, const Element* a, int64_t stride,
                                             const int8_t* b, uint32_t* out) {
    Words<kBytes> sum[kRows][kVectors] = {};
    for (int64_t k = 0; k < quads; ++k, b += kInt8Bytes, a += 4) {
      Shorts<kBytes> row[kRows];
#pragma GCC unroll 8
      for (int m = 0; m < kRows; ++m) row[m] = broadcast_four<kBytes>(a + m * stride);
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) {
        const Shorts<kBytes> weight = widen<kBytes>(b + v * kBytes / 2);
#pragma GCC unroll 8
        for (int m = 0; m < kRows; ++m) sum[m][v] = add_products<kBytes>(sum[m][v], row[m], weight);
      }
    }
    constexpr auto lanes = std::make_integer_sequence<int, kBytes / 4>{};
#pragma GCC unroll 8
    for (int m = 0; m < kRows; ++m) {
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; v += 2) {
        const Words<kBytes> both = add_neighbours(sum[m][v], sum[m][v + 1], lanes);
        std::memcpy(out + m * kInt8Units + v / 2 * kBytes / 4, &both, sizeof both);
      }
    }
  }
};

// By dot products of four: the rows are uint8, 128 more than they are, and 128 times the sum of the
// weights is subtracted in the end.
template <class Arch>
struct ByQuads {
  using Element = uint8_t;
  static constexpr int kBytes = Arch::kBytes;
  static constexpr int kMaxRows = 8;
  static_assert(kBytes == kInt8Bytes);

  static FRNN_INLINE void store_quantized(Element* p, Words<kBytes> q) {
    store_bytes<kBytes>(p, q + 128);
  }

  template <int kRows>
  static __attribute__((noinline)) void tile(int64_t quads, const Element* a, int64_t stride,
                                             const int8_t* b, uint32_t* out) {
    // Few rows go several k at a time, to hide the latency of the instruction.
    constexpr int kAtOnce = kRows == 1 ? 8 : kRows == 2 ? 4 : kRows <= 4 ? 2 : 1;
    Words<kBytes> sum[kRows][kAtOnce] = {};
    auto add = [&](int64_t k, int i) __attribute__((always_inline)) {
      const Words<kBytes> weight = load_words<kBytes>(b + k * kInt8Bytes);
#pragma GCC unroll 8
      for (int m = 0; m < kRows; ++m) {
        uint32_t four;
        std::memcpy(&four, a + m * stride + 4 * k, sizeof four);
        sum[m][i] = add_four_products<kBytes>(sum[m][i], four - Words<kBytes>{}, weight);
      }
    };
    int64_t k = 0;
    for (; k + kAtOnce <= quads; k += kAtOnce) {
#pragma GCC unroll 8
      for (int i = 0; i < kAtOnce; ++i) add(k + i, i);
    }
    for (; k < quads; ++k) add(k, 0);
    const Words<kBytes> excess = load_words<kBytes>(b + quads * kInt8Bytes) << 7;
#pragma GCC unroll 8
    for (int m = 0; m < kRows; ++m) {
#pragma GCC unroll 8
      for (int i = 1; i < kAtOnce; ++i) sum[m][0] += sum[m][i];
      const Words<kBytes> all = sum[m][0] - excess;
      std::memcpy(out + m * kInt8Units, &all, sizeof all);
    }
  }
};

// Below this, a row is taken for zeros: the inverse of its scale would be infinite.
inline constexpr float kInt8Least = 1e-36f;

// A row that is not finite has a scale that is not, so that its products are not, either.
template <class Arch, class By>
void quantize_rows(int64_t rows, int64_t depth, const float* a, int64_t stride, void* out,
                   int64_t out_stride, float* scale) {
  using V = Vec<float, Arch::kBytes>;
  constexpr int W = V::kSize;
  auto part = [&](const float* row, int64_t k) __attribute__((always_inline)) {
    return load<V>(row + k, int(std::min<int64_t>(W, depth - k)));
  };
  for (int64_t m = 0; m < rows; ++m) {
    const float* const row = a + m * stride;
    // By their bits, among which those of NaN are the largest.
    SignedWords<Arch::kBytes> largest{};
    for (int64_t k = 0; k < depth; k += W) {
      const auto bits = (SignedWords<Arch::kBytes>)abs(part(row, k)).raw;
      largest = bits > largest ? bits : largest;
    }
    float lanes[W], most = 0;
    std::memcpy(lanes, &largest, sizeof lanes);
    for (float lane : lanes) most = lane > most || lane != lane ? lane : most;
    scale[m] = most / 127;
    const V inverse(most > kInt8Least ? 127 / most : 0.f);
    auto* const to = static_cast<typename By::Element*>(out) + m * out_stride;
    for (int64_t k = 0; k < depth; k += W) {
      By::store_quantized(to + k, round_to_int<Arch::kBytes>(part(row, k) * inverse));
    }
  }
}

template <class Arch, class By, int... i>
auto select_int8_tile(int64_t rows, std::integer_sequence<int, i...>) {
  static constexpr decltype(&By::template tile<1>) kTiles[] = {By::template tile<i + 1>...};
  return kTiles[rows - 1];
}

template <class Arch, class By>
void multiply_int8(const Int8Matrix& b, int64_t rows, const Int8Rows& a, int64_t block,
                   int64_t blocks, float* c, int64_t c_stride) {
  using V = Vec<float, Arch::kBytes>;
  using Element = typename By::Element;
  constexpr int W = V::kSize, kVectors = kInt8Units / W;
  for (int64_t end = block + blocks; block < end; ++block, c += kVectors * b.gates * W) {
    for (int g = 0; g < b.gates; ++g) {
      const int8_t* const weight = b.weight + block * b.block_stride + g * b.gate_stride();
      for (int64_t row = 0, height; row < rows; row += height) {
        const int64_t tiles = (rows - row + By::kMaxRows - 1) / By::kMaxRows;
        height = (rows - row + tiles - 1) / tiles;
        alignas(64) uint32_t sums[By::kMaxRows][kInt8Units];
        select_int8_tile<Arch, By>(height, std::make_integer_sequence<int, By::kMaxRows>{})(
            b.quads(), static_cast<const Element*>(a.data) + row * a.stride, a.stride, weight,
            sums[0]);
        for (int v = 0; v < kVectors; ++v) {
          const int64_t unit = block * kInt8Units + v * W, at = g * b.units + unit;
          const int n = int(std::min<int64_t>(W, b.units - unit));
          if (n <= 0) break;
          const V scale = load<V>(b.scale + at, n);
          const V bias = b.bias ? load<V>(b.bias + at, n) : V(0.f);
          for (int64_t m = 0; m < height; ++m) {
            SignedWords<Arch::kBytes> sum;
            std::memcpy(&sum, sums[m] + v * W, sizeof sum);
            const V product = __builtin_convertvector(sum, typename V::Raw);
            store(c + (row + m) * c_stride + (v * b.gates + g) * W,
                  bias + V(a.scale[row + m]) * scale * product);
          }
        }
      }
    }
  }
}

template <class Arch, class By>
inline constexpr Int8Products kInt8Products = {sizeof(typename By::Element),
                                               quantize_rows<Arch, By>, multiply_int8<Arch, By>};

// What an instruction set that has drivers multiplies by.
template <class Arch>
struct Widening {
  static const Int8Products& products() { return kInt8Products<Arch, ByWidening<Arch>>; }
};

}  // namespace fastrnn::cpu
