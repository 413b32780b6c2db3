// The weights of one CTA, resident: as many chunks of each warp's tiles as fit are in registers,
// the others in shared memory. They are loaded once and multiply the operand of every step.
#pragma once

#include "geometry.h"
#include "math.h"

namespace fastrnn::cuda {

// Where the CTA's weights lie in [.., G H] or [G H, ..] memory: row r of them is gate r / units of
// unit r % units, and the depth counts padded_hidden columns for each gate.
template <class T>
struct WeightSlice {
  const T* data;
  int64_t row_stride;
  int64_t hidden_size;
  int64_t first_unit;
  int units, gates;  // of the rows
  int padded_hidden, depth_gates;
  bool whole;  // rows are aligned to 16 bytes

  // The 16 bytes of row `row` from depth k on; zeros beyond the edges.
  template <class Math>
  FRNN_DEVICE void load(int row, int k, uint32_t (&words)[4]) const {
    constexpr int N = kPack<T>, kCount = 4 * N;
    for (int i = 0; i < 4; ++i) words[i] = 0;
    const int row_gate = row / units, gate = k / padded_hidden;
    const int64_t unit = first_unit + row % units, column = k % padded_hidden;
    if (row_gate >= gates || unit >= hidden_size || gate >= depth_gates || column >= hidden_size) {
      return;
    }
    const T* from =
        data + (row_gate * hidden_size + unit) * row_stride + gate * hidden_size + column;
    const int valid = int(hidden_size - column < kCount ? hidden_size - column : kCount);
    T values[kCount] = {};
    if (whole && valid == kCount) {
      const uint4 all = *reinterpret_cast<const uint4*>(from);
      memcpy(values, &all, sizeof(all));
    } else {
#pragma unroll
      for (int e = 0; e < kCount; ++e) {
        if (e < valid) values[e] = from[e];
      }
    }
    for (int i = 0; i < 4; ++i) {
      Pack<T, N> pack;
      for (int e = 0; e < N; ++e) pack.v[e] = values[i * N + e];
      words[i] = Math::word(pack);
    }
  }
};

template <class Math, int kTiles>
class ResidentWeights {
 public:
  static constexpr int kChunks = Math::kFragments / kTiles;

  FRNN_DEVICE ResidentWeights(const Geometry& g, char* shared)
      : warp_(threadIdx.x / kWarpSize), lane_(threadIdx.x % kWarpSize) {
    slice_ = warp_ / g.warp_rows;
    first_tile_ = warp_ % g.warp_rows * kTiles;
    first_chunk_ = slice_ * g.chunks_per_slice;
    const int left = g.chunks - first_chunk_;
    count_ = slice_ >= g.slices ? 0 : left < g.chunks_per_slice ? left : g.chunks_per_slice;
    spill_ = reinterpret_cast<uint4*>(shared + g.spill) +
             warp_ * g.spilled * kTiles * kFragmentQuads + lane_;
  }

  // One fragment at a time: the code that loads one is long, and would be repeated for each.
  FRNN_DEVICE void load(const WeightSlice<typename Math::T>& slice) {
#pragma unroll 1
    for (int i = 0; i < count_ * kTiles; ++i) {
      const int c = i / kTiles, m = i % kTiles;
      const WeightFragment w = fragment(slice, m, c);
      if (c >= kChunks) spill(c, m, w);
#pragma unroll
      for (int j = 0; j < kChunks * kTiles; ++j) {
        if (i == j) held_[j / kTiles][j % kTiles] = w;
      }
    }
  }

  // Partial sums of `rows` operand rows: this warp's part of [slice][row][weight row].
  FRNN_DEVICE void multiply(const Geometry& g, const uint32_t* operand, int rows,
                            float* partials) const {
    if (count_ <= 0) return;
    const uint32_t* at = operand + first_chunk_ * kChunkWords;
    float* sums = partials + slice_ * g.padded_rows() * g.partial_stride;
    for (int n = 0; n < rows; n += kTileRows) {
      typename Math::Tile acc[kTiles] = {};
      const uint32_t* tile = at + n * g.stride;
#pragma unroll
      for (int c = 0; c < kChunks; ++c) {
        if (c < count_) {
          Math::multiply(acc, held_[c], tile + c * kChunkWords, g.stride, lane_, rows - n);
        }
      }
      for (int c = kChunks; c < count_; ++c) {
        WeightFragment w[kTiles];
#pragma unroll
        for (int m = 0; m < kTiles; ++m) w[m] = spilled(c, m);
        Math::multiply(acc, w, tile + c * kChunkWords, g.stride, lane_, rows - n);
      }
#pragma unroll
      for (int m = 0; m < kTiles; ++m)
        store(g, acc[m], first_tile_ + m, sums + n * g.partial_stride);
    }
  }

 private:
  // A fragment in shared memory: the first halves of all lanes, then the second ones, so that the
  // lanes that read at once read neighbouring banks.
  static constexpr int kFragmentQuads = 2 * kWarpSize;

  FRNN_DEVICE uint4* spill_of(int chunk, int tile) const {
    return spill_ + ((chunk - kChunks) * kTiles + tile) * kFragmentQuads;
  }
  FRNN_DEVICE void spill(int chunk, int tile, const WeightFragment& w) {
    spill_of(chunk, tile)[0] = {w.v[0], w.v[1], w.v[2], w.v[3]};
    spill_of(chunk, tile)[kWarpSize] = {w.v[4], w.v[5], w.v[6], w.v[7]};
  }
  FRNN_DEVICE WeightFragment spilled(int chunk, int tile) const {
    const uint4 a = spill_of(chunk, tile)[0], b = spill_of(chunk, tile)[kWarpSize];
    return {{a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w}};
  }

  FRNN_DEVICE WeightFragment fragment(const WeightSlice<typename Math::T>& slice, int tile,
                                      int chunk) const {
    const int row = (first_tile_ + tile) * kTileUnits + lane_ / 4;
    const int k =
        ((first_chunk_ + chunk) * kChunkWords + lane_ % 4 * kLaneWords) * kPack<typename Math::T>;
    uint32_t low[4], high[4];
    slice.template load<Math>(row, k, low);
    slice.template load<Math>(row + 8, k, high);
    return make_fragment(low, high);
  }

  FRNN_DEVICE void store(const Geometry& g, const typename Math::Tile& acc, int tile,
                         float* sums) const {
    float d[4];
    Math::finish(acc, d, lane_);
    if (tile * kTileUnits >= g.weight_rows) return;
    float* to = sums + lane_ % 4 * 2 * g.partial_stride + tile * kTileUnits + lane_ / 4;
    to[0] = d[0];
    to[g.partial_stride] = d[1];
    to[8] = d[2];
    to[g.partial_stride + 8] = d[3];
  }

  int warp_, lane_;
  int slice_, first_tile_, first_chunk_, count_;
  WeightFragment held_[kChunks][kTiles];
  uint4* spill_;
};

}  // namespace fastrnn::cuda
