// A cell applied to a tile: the bridge from the vectors of the product kernels to the equations in
// cells/. One function per cell, instruction set and type, and each row's arithmetic is the same
// wherever the row lies, so that bits do not depend on how rows are shared out.
#pragma once

#include <algorithm>
#include <cstdint>

#include "../cells/cells.h"
#include "vec.h"

namespace fastrnn::cpu {

// Where one row's values of one step lie; a null output is not wanted. "Own" buffers have room for
// whole vectors; the others end at hidden_size.
template <class T>
struct ForwardRow {
  using C = Compute<T>;
  const C* x;            // own: W_ih x_t + b_ih, by column: vectors [unit block][gate]
  const C* h;            // own: h_{t-1}
  C* next_h;             // own: h_t as the next step's product reads it
  C* hidden;             // own: where h_t goes if it is still to be projected; else null
  C* carry[kMaxStates];  // own, in place: states 1 and on
  T* y;                  // h_t
  T* saved;              // [kSaved][hidden_size]
  T* saved_hidden;       // hidden, for backward
  C* steps[kMaxStates];  // states 1 and on
  T* last[kMaxStates];   // all states, at a row's last step
  bool reset;            // the next step starts from zeros
};

template <class T>
struct BackwardRow {
  using C = Compute<T>;
  C* carry[kMaxStates];  // own, in place: elementwise part of d(loss)/d(state)
  const T* grad_y;       // null: 0
  const C* grad_steps[kMaxStates];
  const T* h_before;  // null: 0
  const T* h_after;
  const C* before[kMaxStates];  // states 1 and on; null: 0
  const C* after[kMaxStates];
  const T* saved;
  C* dx;             // [gates][hidden_size]
  C* dr;             // the same; null where the cell is additive
  bool runs;         // false: not at this step; the gradient of its state is handed through
  bool reset;        // this step started from zeros: nothing flows further back
  bool reset_after;  // the step after it did: its product is not for this row
};

template <class T>
struct CellKernels {
  using C = Compute<T>;
  int gates, states, saved;
  bool additive;
  // Units [unit, min(unit + blocks * kSize, hidden_size)); recurrent: W_hh h + b_hh by column.
  void (*forward)(const ForwardRow<T>* rows, int count, const C* recurrent, int64_t stride,
                  int64_t unit, int blocks, int64_t hidden_size);
  // The same units; product: R^T dr_{t+1} of these units, or null for 0.
  void (*backward)(const BackwardRow<T>* rows, int count, const C* product, int64_t stride,
                   int64_t unit, int blocks, int64_t hidden_size);
};

// v as it is after a round trip through memory of type T.
template <class T, class V>
FRNN_INLINE V rounded(V v) {
  if constexpr (std::is_same_v<T, typename V::Scalar>) {
    return v;
  } else {
    T stored[V::kSize];
    store(stored, v);
    return load<V>(stored);
  }
}

// h_t of units [j, j + n), to all who want it.
template <class T, class V>
FRNN_INLINE void store_h(const ForwardRow<T>& row, int64_t j, V h, int n) {
  store(row.y + j, h, n);
  if (row.last[0]) store(row.last[0] + j, h, n);
  store(row.next_h + j, row.reset ? V(typename V::Scalar(0)) : h);
}

template <class V, class T>
FRNN_INLINE V load_or_zero(const T* p, int64_t at, int n) {
  return p ? load<V>(p + at, n) : V(typename V::Scalar(0));
}

template <class Arch, class Cell, class T>
void forward_cell(const ForwardRow<T>* rows, int count, const Compute<T>* recurrent, int64_t stride,
                  int64_t unit, int blocks, int64_t hidden_size) {
  using C = Compute<T>;
  using V = Vec<C, Arch::kBytes>;
  constexpr int W = V::kSize;
  for (int m = 0; m < count; ++m) {
    const ForwardRow<T>& row = rows[m];
    for (int block = 0; block < blocks && unit + block * W < hidden_size; ++block) {
      const int64_t j = unit + block * W;
      const int n = int(std::min<int64_t>(W, hidden_size - j));
      V x[Cell::kGates], r[Cell::kGates], s[Cell::kStates], s1[Cell::kStates];
      Values<V, Cell::kSaved> z;
#pragma GCC unroll 8
      for (int g = 0; g < Cell::kGates; ++g) {
        x[g] = load<V>(row.x + (j / W * Cell::kGates + g) * W);
        r[g] = load<V>(recurrent + m * stride + (block * Cell::kGates + g) * W);
      }
      s[0] = Cell::kProjected ? V(C(0)) : load<V>(row.h + j);
#pragma GCC unroll 4
      for (int k = 1; k < Cell::kStates; ++k) s[k] = load<V>(row.carry[k] + j);
      Cell::forward(x, r, s, s1, z);
      s1[0] = rounded<T>(s1[0]);
      if (row.saved) {
#pragma GCC unroll 8
        for (int k = 0; k < Cell::kSaved; ++k) store(row.saved + k * hidden_size + j, z[k], n);
      }
      if (row.hidden) {
        store(row.hidden + j, s1[0]);
        if (row.saved_hidden) store(row.saved_hidden + j, s1[0], n);
      } else {
        store_h(row, j, s1[0], n);
      }
#pragma GCC unroll 4
      for (int k = 1; k < Cell::kStates; ++k) {
        if (row.steps[k]) store(row.steps[k] + j, s1[k], n);
        if (row.last[k]) store(row.last[k] + j, s1[k], n);
        store(row.carry[k] + j, row.reset ? V(C(0)) : s1[k]);
      }
    }
  }
}

template <class Arch, class Cell, class T>
void backward_cell(const BackwardRow<T>* rows, int count, const Compute<T>* product, int64_t stride,
                   int64_t unit, int blocks, int64_t hidden_size) {
  using C = Compute<T>;
  using V = Vec<C, Arch::kBytes>;
  constexpr int W = V::kSize;
  for (int m = 0; m < count; ++m) {
    const BackwardRow<T>& row = rows[m];
    for (int block = 0; block < blocks && unit + block * W < hidden_size; ++block) {
      const int64_t j = unit + block * W;
      const int n = int(std::min<int64_t>(W, hidden_size - j));
      V s[Cell::kStates], s1[Cell::kStates], ds[Cell::kStates], dx[Cell::kGates], dr[Cell::kGates];
      Values<V, Cell::kSaved> z;
      ds[0] = load<V>(row.carry[0] + j);
      if (product && !row.reset_after) {
        ds[0] = ds[0] + load<V>(product + m * stride + block * W);
      }
      if (!row.runs) {
        store(row.carry[0] + j, ds[0]);
        continue;
      }
      ds[0] = ds[0] + load_or_zero<V>(row.grad_y, j, n);
      s[0] = Cell::kProjected ? V(C(0)) : load_or_zero<V>(row.h_before, j, n);
      s1[0] = load<V>(row.h_after + j, n);
#pragma GCC unroll 4
      for (int k = 1; k < Cell::kStates; ++k) {
        ds[k] = load<V>(row.carry[k] + j) + load_or_zero<V>(row.grad_steps[k], j, n);
        s[k] = load_or_zero<V>(row.before[k], j, n);
        s1[k] = load<V>(row.after[k] + j, n);
      }
#pragma GCC unroll 8
      for (int k = 0; k < Cell::kSaved; ++k) z[k] = load<V>(row.saved + k * hidden_size + j, n);
      Cell::backward(z, s, s1, ds, dx, dr);
#pragma GCC unroll 4
      for (int k = 0; k < Cell::kStates; ++k) {
        store(row.carry[k] + j, row.reset ? V(C(0)) : ds[k]);
      }
#pragma GCC unroll 8
      for (int g = 0; g < Cell::kGates; ++g) {
        store(row.dx + g * hidden_size + j, dx[g], n);
        if (!Cell::kAdditive) store(row.dr + g * hidden_size + j, dr[g], n);
      }
    }
  }
}

template <class Arch, class Cell, class T>
inline constexpr CellKernels<T> kCellKernels = {Cell::kGates,
                                                Cell::kStates,
                                                Cell::kSaved,
                                                Cell::kAdditive,
                                                forward_cell<Arch, Cell, T>,
                                                backward_cell<Arch, Cell, T>};

// The cells in the order of FRNN_CELLS.
template <class Arch, class T>
const CellKernels<T>& cell_kernels(int cell) {
#define FRNN_KERNELS(name, Cell) &kCellKernels<Arch, Cell, T>,
  static constexpr const CellKernels<T>* kAll[] = {FRNN_CELLS(FRNN_KERNELS)};
#undef FRNN_KERNELS
  return *kAll[cell];
}

}  // namespace fastrnn::cpu
