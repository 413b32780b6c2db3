// Compiles all kernels of a cell and type.
#pragma once

#include "kernels.h"
#include "persistent.h"
#include "step.h"

namespace fastrnn::cuda {

// The arithmetics of a type; void where it has none.
template <class T>
struct Maths {
  using TensorCores = void;
  using Float32 = void;
};
template <>
struct Maths<Half> {
  using TensorCores = Float16Math;
  using Float32 = void;
};
template <>
struct Maths<BFloat16> {
  using TensorCores = BFloat16Math;
  using Float32 = void;
};
template <>
struct Maths<float> {
  using TensorCores = Tf32Math;
  using Float32 = Float32Math;
};

// Adds the persistent kernels of an exchange, with 1, 2 or 4 tiles.
template <class Cell, class Math, class Exchange, int kLogTiles = 2>
void add_persistent(Kernel<PersistentArgs> (&kernels)[3][2]) {
  if constexpr (!std::is_void_v<Math> && (1 << kLogTiles) >= Exchange::kFewestTiles) {
    kernels[kLogTiles][0] = persistent_kernel<Cell, Math, Exchange, 1 << kLogTiles, false>;
    kernels[kLogTiles][1] = persistent_kernel<Cell, Math, Exchange, 1 << kLogTiles, true>;
    if constexpr (kLogTiles > 0) add_persistent<Cell, Math, Exchange, kLogTiles - 1>(kernels);
  }
}

template <class Cell, class Math>
void add_persistent(Kernel<PersistentArgs> (&kernels)[3][3][2]) {
  add_persistent<Cell, Math, LocalExchange>(kernels[int(Exchange::kLocal)]);
  add_persistent<Cell, Math, ClusterExchange>(kernels[int(Exchange::kCluster)]);
  add_persistent<Cell, Math, GridExchange>(kernels[int(Exchange::kGrid)]);
}

template <class Cell, class T, int kPhase = 0>
void add_steps(CellKernels& kernels) {
  kernels.step_forward[kPhase] = step_forward<Cell, kPhase, T>;
  kernels.step_backward[kPhase] = step_backward<Cell, kPhase, T>;
  if constexpr (kPhase + 1 < kLayout<Cell>.phases) add_steps<Cell, T, kPhase + 1>(kernels);
}

template <class Cell, class T>
const CellKernels& kernels_of() {
  static const CellKernels all = [] {
    CellKernels k{};
    add_steps<Cell, T>(k);
    if constexpr (can_persist(kLayout<Cell>)) {
      using M = Maths<T>;
      add_persistent<Cell, typename M::TensorCores>(k.persistent[int(Arithmetic::kTensorCores)]);
      add_persistent<Cell, typename M::Float32>(k.persistent[int(Arithmetic::kFloat32)]);
    }
    return k;
  }();
  return all;
}

}  // namespace fastrnn::cuda
