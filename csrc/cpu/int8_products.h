// Products of quantised rows with weights of int8, as a table of functions, so that an instruction
// set that only multiplies otherwise needs no drivers and cells of its own.
//
// A row a is quantised by itself: a_k = s q_k with s = max |a| / 127 and q_k within [-127, 127]. The
// weights are so by row, too, and once for all, in fastrnn/quantization.py. Sums of q are exact in
// int32, so that no order of them, tile or instruction set changes a bit.
//
// Weights lie in blocks of 16 units, [unit block][gate][(ceil(depth / 4) + 1) * 64]: the int8 of
// four neighbouring k for each unit, [16][4], and last the sum of each unit's row, [16] of int32.
// What does not exist is 0.
#pragma once

#include <cstdint>

namespace fastrnn::cpu {

inline constexpr int kInt8Units = 16;  // of a block
inline constexpr int kInt8Bytes = 64;  // of four k of a block

// Some gates of all units of a matrix.
struct Int8Matrix {
  const int8_t* weight = nullptr;  // of the first gate
  const float* scale = nullptr;    // [gates][units]
  const float* bias = nullptr;     // [gates][units], or null for 0
  int gates = 0;
  int64_t units = 0, depth = 0;
  int64_t block_stride = 0;  // bytes

  int64_t quads() const { return (depth + 3) / 4; }
};

// Quantised rows, `stride` elements apart.
struct Int8Rows {
  const void* data = nullptr;
  const float* scale = nullptr;
  int64_t stride = 0;
};

struct Int8Products {
  int element_size;  // of a quantised value

  // Rows of `depth` numbers, which begin `stride` apart and may be read up to whole vectors. out and
  // scale are what `Int8Rows` of that stride point to.
  void (*quantize)(int64_t rows, int64_t depth, const float* a, int64_t stride, void* out,
                   int64_t out_stride, float* scale);

  // c = bias + a W^T for unit blocks [block, block + blocks), by vectors of the instruction set
  // [units][gate]. What no unit has is left as it is.
  void (*multiply)(const Int8Matrix& b, int64_t rows, const Int8Rows& a, int64_t block,
                   int64_t blocks, float* c, int64_t c_stride);
};

}  // namespace fastrnn::cpu
