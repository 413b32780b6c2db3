// How a warp multiplies: [16, chunk] of weights, held as 8 words a lane, by [chunk, 8] of an
// operand that lies in shared memory. A chunk is 64 bytes of the depth, whatever the type. Of a row
// of it, lane 4 g + t takes the 16 bytes from 16 t on, in one load, for operand row g and weight
// rows g and g + 8: in which order the depth is summed up does not matter, as long as both sides
// agree.
#pragma once

#include <cstring>

#include "geometry.h"
#include "number.h"
#include "prims.h"

namespace fastrnn::cuda {

inline constexpr int kTileRows = 8;    // of the operand: batch rows
inline constexpr int kTileUnits = 16;  // of the weights
inline constexpr int kChunkWords = 16;
inline constexpr int kLaneWords = 4;  // of one row of a chunk
inline constexpr int kWarpSize = 32;

// The words of one chunk that a lane holds: of tile j, its 4 registers of A; with words q[0..3] of
// row g and r[0..3] of row g + 8, these are q[2 j], r[2 j], q[2 j + 1], r[2 j + 1].
struct WeightFragment {
  uint32_t v[8];
};

FRNN_DEVICE WeightFragment make_fragment(const uint32_t (&q)[4], const uint32_t (&r)[4]) {
  return {{q[0], r[0], q[1], r[1], q[2], r[2], q[3], r[3]}};
}

FRNN_DEVICE uint4 load_words(const uint32_t* p) { return *reinterpret_cast<const uint4*>(p); }

// The tensor-core maths differ in the type and in the instruction only.
template <class Mma>
struct TensorCoreMath {
  static constexpr int kFragments = kTensorCoreFragments;

  struct Tile {
    float v[4];
  };

  // acc[m] += w[m] times the operand's chunk; `rows` of the tile's operand rows exist.
  template <int kTiles>
  FRNN_DEVICE static void multiply(Tile (&acc)[kTiles], const WeightFragment (&w)[kTiles],
                                   const uint32_t* operand, int stride, int lane, int rows) {
    const uint4 b = load_words(operand + lane / 4 * stride + lane % 4 * kLaneWords);
#pragma unroll
    for (int m = 0; m < kTiles; ++m) {
      Mma::run(acc[m].v, {w[m].v[0], w[m].v[1], w[m].v[2], w[m].v[3]}, {b.x, b.y});
    }
#pragma unroll
    for (int m = 0; m < kTiles; ++m) {
      Mma::run(acc[m].v, {w[m].v[4], w[m].v[5], w[m].v[6], w[m].v[7]}, {b.z, b.w});
    }
  }

  FRNN_DEVICE static void finish(const Tile& acc, float (&d)[4], int) {
    for (int i = 0; i < 4; ++i) d[i] = acc.v[i];
  }
};

struct MmaFloat16 {
  FRNN_DEVICE static void run(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    mma_float16(d, a, b);
  }
};
struct MmaBFloat16 {
  FRNN_DEVICE static void run(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    mma_bfloat16(d, a, b);
  }
};
struct MmaTf32 {
  FRNN_DEVICE static void run(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    mma_tf32(d, a, b);
  }
};

template <class To, class From>
FRNN_DEVICE To bits_as(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  memcpy(&to, &from, sizeof(To));
  return to;
}

struct Float16Math : TensorCoreMath<MmaFloat16> {
  using T = Half;
  FRNN_DEVICE static uint32_t word(Pack<T, 2> pack) { return bits_as<uint32_t>(pack); }
};

struct BFloat16Math : TensorCoreMath<MmaBFloat16> {
  using T = BFloat16;
  FRNN_DEVICE static uint32_t word(Pack<T, 2> pack) { return bits_as<uint32_t>(pack); }
};

struct Tf32Math : TensorCoreMath<MmaTf32> {
  using T = float;
  FRNN_DEVICE static uint32_t word(Pack<T, 1> pack) {
    return bits_as<uint32_t>(round_to_tf32(pack.v[0]));
  }
};

// float32 as it is, without tensor cores: a lane multiplies what it holds with all rows of the
// operand, and the four lanes that share weight rows sum up at the end.
struct Float32Math {
  using T = float;
  static constexpr int kFragments = kFloat32Fragments;

  FRNN_DEVICE static uint32_t word(Pack<T, 1> pack) { return bits_as<uint32_t>(pack.v[0]); }

  struct Tile {
    float v[2][kTileRows];  // weight rows g and g + 8
  };

  template <int kTiles>
  FRNN_DEVICE static void multiply(Tile (&acc)[kTiles], const WeightFragment (&w)[kTiles],
                                   const uint32_t* operand, int stride, int lane, int rows) {
#pragma unroll
    for (int n = 0; n < kTileRows; ++n) {
      if (n >= rows) break;
      const uint4 words = load_words(operand + n * stride + lane % 4 * kLaneWords);
      const float b[4] = {bits_as<float>(words.x), bits_as<float>(words.y), bits_as<float>(words.z),
                          bits_as<float>(words.w)};
#pragma unroll
      for (int m = 0; m < kTiles; ++m) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          acc[m].v[0][n] = fmaf(bits_as<float>(w[m].v[2 * i]), b[i], acc[m].v[0][n]);
          acc[m].v[1][n] = fmaf(bits_as<float>(w[m].v[2 * i + 1]), b[i], acc[m].v[1][n]);
        }
      }
    }
  }

  // Each of the four lanes hands over half of its columns, twice, and keeps the sum of the others.
  FRNN_DEVICE static void finish(const Tile& acc, float (&d)[4], int lane) {
    const bool high = lane & 2, odd = lane & 1;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      float half[4], quarter[2];
#pragma unroll
      for (int n = 0; n < 4; ++n) {
        const float mine = high ? acc.v[i][n + 4] : acc.v[i][n];
        const float theirs = high ? acc.v[i][n] : acc.v[i][n + 4];
        half[n] = mine + __shfl_xor_sync(~0u, theirs, 2);
      }
#pragma unroll
      for (int n = 0; n < 2; ++n) {
        const float mine = odd ? half[n + 2] : half[n];
        const float theirs = odd ? half[n] : half[n + 2];
        quarter[n] = mine + __shfl_xor_sync(~0u, theirs, 1);
      }
      d[2 * i] = quarter[0], d[2 * i + 1] = quarter[1];
    }
  }
};

}  // namespace fastrnn::cuda
