// Some gates of a weight matrix: what packed weights are made of.
#pragma once

#include <cstdint>

namespace fastrnn::cpu {

struct MatrixPart {
  const void* weight = nullptr;  // of the whole matrix
  const void* bias = nullptr;    // null: 0
  const void* scale = nullptr;   // of int8
  int all_gates = 1;
  int first = 0, gates = 1;
  int64_t units = 0, depth = 0;
};

}  // namespace fastrnn::cpu
