// The persistent kernels: one for each cell, arithmetic, exchange, number of tiles and pass.
#pragma once

#include "persistent_backward.h"
#include "persistent_forward.h"

namespace fastrnn::cuda {

template <class Cell, class Math, class Exchange, int kTiles, bool kBackward>
__global__ void __launch_bounds__(kThreads, 1)
    persistent_kernel(const __grid_constant__ PersistentArgs a) {
  if constexpr (kArch >= Exchange::kOldestArch) {
    if constexpr (kBackward) {
      backward_sequence<Cell, Math, Exchange, kTiles>(a);
    } else {
      forward_sequence<Cell, Math, Exchange, kTiles>(a);
    }
  } else {
    trap();  // the planner knows better than to launch it
  }
}

}  // namespace fastrnn::cuda
