// Products of quantised rows with weights of int8, as a table of functions, so that an instruction
// set that only multiplies otherwise needs no drivers and cells of its own.
//
// A row a is quantised by itself: a_k = s q_k with s = max |a| / 127 and q_k within [-127, 127].
// The weights are so by row, too, and once for all, in fastrnn/quantization.py. Sums of q are exact
// in int32, so that no order of them, tile or instruction set changes a bit.
#pragma once

#include <cstdint>

#include "../int8.h"

namespace fastrnn::cpu {

// Some gates of all units of a matrix.
struct Int8Matrix {
  const int8_t* weight = nullptr;  // of the first gate
  const float* scale = nullptr;    // [gates][units]
  const float* bias = nullptr;     // [gates][units], or null for 0
  int gates = 0;
  int64_t units = 0, depth = 0;
  int64_t block_stride = 0;  // bytes

  int64_t quads() const { return int8_quads(depth); }
  int64_t gate_stride() const { return int8_gate_bytes(depth); }
};

// Quantised rows, `stride` elements apart.
struct Int8Rows {
  const void* data = nullptr;
  const float* scale = nullptr;
  int64_t stride = 0;
};

struct Int8Products {
  int element_size;  // of a quantised value

  // Rows of `depth` numbers, which begin `stride` apart. out has room for whole vectors in a row;
  // it and scale are what Int8Rows of that stride point to.
  void (*quantize)(int64_t rows, int64_t depth, const float* a, int64_t stride, void* out,
                   int64_t out_stride, float* scale);

  // c = bias + a W^T for unit blocks [block, block + blocks), by vectors of the instruction set
  // [units][gate]. What no unit has is left as it is.
  void (*multiply)(const Int8Matrix& b, int64_t rows, const Int8Rows& a, int64_t block,
                   int64_t blocks, float* c, int64_t c_stride);
};

}  // namespace fastrnn::cpu
