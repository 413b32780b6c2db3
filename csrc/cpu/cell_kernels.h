// A phase of a cell applied to a tile: the bridge from the vectors of the product kernels to the
// equations in cells/. There is one function for each phase, instruction set, type and pass. Each
// row's arithmetic is the same wherever the row lies, so that bits do not depend on how rows are
// shared out.
#pragma once

#include <algorithm>
#include <cstdint>

#include "../cells/cells.h"
#include "gemm.h"
#include "vec.h"

namespace fastrnn::cpu {

// Where one row's values of one step lie, for all phases; a null output is not wanted. "Own"
// buffers have room for whole vectors; the others end at their size.
template <class Arch, class T>
struct ForwardRow {
  using C = Compute<T>;
  using O = Operand<Arch, T>;
  const C* from_x;           // own: W_ih x + b_ih, by column: vectors [unit block][x block]
  const O* x;                // own: x itself
  const O* h;                // own: h before the step
  O* next_h;                 // own: h as the next step's product reads it
  O* operand[kMaxOperands];  // own: the operands from 1 on
  C* carry[kMaxStates];      // own, in place: states 1 and on
  const T* peephole;         // [weights][hidden_size]
  T* y;                      // h
  T* saved;                  // [saved values][hidden_size]
  C* steps[kMaxStates];      // states 1 and on
  T* last[kMaxStates];       // all states, at a row's last step
  bool starts_over_next;     // the next step starts from zeros
};

template <class Arch, class T>
struct BackwardRow {
  using C = Compute<T>;
  using O = Operand<Arch, T>;
  C* carry[kMaxStates];  // own, in place: pointwise part of d(loss)/d(state)
  const T* grad_y;       // null: 0
  const C* grad_steps[kMaxStates];
  const T* h_before;  // null: 0
  const T* h_after;
  const C* before[kMaxStates];  // states 1 and on; null: 0
  const C* after[kMaxStates];
  const T* saved;
  const T* peephole;
  T* operand[kMaxOperands];  // the operands from 1 on, made again for the weights' gradients
  O* grads;                  // the step's row of gradients: blocks of hidden_size
  O* output_grads;           // in it, those of output size
  bool active;               // false: the gradient of its h is handed through
  bool starts_over;          // this step started from zeros: nothing flows further back
  bool starts_over_after;    // the step after it did: its product is not for this row
};

template <class Arch, class T>
struct PhaseKernels {
  using C = Compute<T>;
  // Units [unit, min(unit + blocks * kSize, units)) of the phase's size. products: rows `stride`
  // apart; in forward, of each product vectors [block][gate], one product behind the other; in
  // backward, the gradients of h or of the operands that the phase makes, vectors [operand][block],
  // or null for 0.
  void (*forward)(const ForwardRow<Arch, T>* rows, int count, const C* products, int64_t stride,
                  int64_t unit, int blocks, int64_t units);
  void (*backward)(const BackwardRow<Arch, T>* rows, int count, const C* products, int64_t stride,
                   int64_t unit, int blocks, int64_t units);
};

template <class Arch, class T>
struct CellKernels {
  const CellLayout& cell;
  PhaseKernels<Arch, T> phase[kMaxPhases];
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

// Stores a whole vector of which n units exist. Where products go by pairs, the last unit's may
// read the one behind it, times 0: it is 0, because what a unit that does not exist computes may be
// NaN.
template <class Arch, class T, class V>
FRNN_INLINE void store_own(Operand<Arch, T>* p, V v, int n) {
  if (kByPairs<Arch, T> && n < V::kSize) {
    Operand<Arch, T> part[V::kSize] = {};
    store(part, v, n);
    std::memcpy(p, part, sizeof part);
  } else {
    store(p, v);
  }
}

template <class V, class T>
FRNN_INLINE V load_or_zero(const T* p, int64_t at, int n) {
  return p ? load<V>(p + at, n) : V(typename V::Scalar(0));
}

template <class Arch, class Cell, int p, class T>
void forward_phase(const ForwardRow<Arch, T>* rows, int count, const Compute<T>* products,
                   int64_t stride, int64_t unit, int blocks, int64_t units) {
  using C = Compute<T>;
  using V = Vec<C, Arch::kBytes>;
  using P = PhaseOf<Cell, p>;
  constexpr int W = V::kSize;
  constexpr const CellLayout& kCell = kLayout<Cell>;
  constexpr PhaseLayout kPhase = kCell.phase[p];
  for (int m = 0; m < count; ++m) {
    const ForwardRow<Arch, T>& row = rows[m];
    for (int block = 0; block < blocks && unit + block * W < units; ++block) {
      const int64_t j = unit + block * W;
      const int n = int(std::min<int64_t>(W, units - j));
      UnitStep<P, kCell.states, V> s;
#pragma GCC unroll 8
      for (int g = 0; g < kPhase.gates; ++g) {
        const GateLayout& gate = kCell.gate[kPhase.first_gate + g];
        const bool has_x = gate.x_block >= 0 || gate.is_x;
        if (gate.x_block >= 0) {
          s.gate[g] = load<V>(row.from_x + (j / W * kCell.x_blocks + gate.x_block) * W);
        } else if (gate.is_x) {
          s.gate[g] = load<V>(row.x + j);
        }
        if (gate.product < 0) continue;
        const int before = kPhase.gates_before(gate.product);
        const int gates = kPhase.product[gate.product].count;
        const int64_t at = before * blocks + block * gates + gate.column;
        const V from_h = load<V>(products + m * stride + at * W);
        s.gate[g] = has_x ? s.gate[g] + from_h : from_h;
      }
#pragma GCC unroll 4
      for (int k = 0; k < kCell.states; ++k) {
        if (!contains(kPhase.sees, k)) continue;
        s.before[k] = k ? load<V>(row.carry[k] + j) : load<V>(row.h + j);
      }
#pragma GCC unroll 4
      for (int k = 0; k < P::kWeights; ++k) s.weight[k] = load<V>(row.peephole + k * units + j, n);
      P::forward(s);
      P::operands(s);
      if (row.saved) {
        T* const saved = row.saved + kPhase.first_saved * units + j;
#pragma GCC unroll 8
        for (int k = 0; k < P::kSaved; ++k) store(saved + k * units, s.saved[k], n);
      }
#pragma GCC unroll 4
      for (int q = 0; q < P::kOperands; ++q) {
        store_own<Arch, T>(row.operand[kPhase.first_operand + q] + j, rounded<T>(s.operand[q]), n);
      }
#pragma GCC unroll 4
      for (int k = 0; k < kCell.states; ++k) {
        if (!contains(kPhase.writes, k)) continue;
        const V after = k ? s.after[k] : rounded<T>(s.after[0]);
        if (k == 0) {
          store(row.y + j, after, n);
        } else if (row.steps[k]) {
          store(row.steps[k] + j, after, n);
        }
        if (row.last[k]) store(row.last[k] + j, after, n);
        const V next = row.starts_over_next ? V(C(0)) : after;
        k ? store(row.carry[k] + j, next) : store_own<Arch, T>(row.next_h + j, next, n);
      }
    }
  }
}

template <class Arch, class Cell, int p, class T>
void backward_phase(const BackwardRow<Arch, T>* rows, int count, const Compute<T>* products,
                    int64_t stride, int64_t unit, int blocks, int64_t units) {
  using C = Compute<T>;
  using V = Vec<C, Arch::kBytes>;
  using P = PhaseOf<Cell, p>;
  constexpr int W = V::kSize;
  constexpr const CellLayout& kCell = kLayout<Cell>;
  constexpr PhaseLayout kPhase = kCell.phase[p];
  constexpr bool kWritesH = contains(kPhase.writes, 0);
  for (int m = 0; m < count; ++m) {
    const BackwardRow<Arch, T>& row = rows[m];
    for (int block = 0; block < blocks && unit + block * W < units; ++block) {
      const int64_t j = unit + block * W;
      const int n = int(std::min<int64_t>(W, units - j));
      const int64_t at = m * stride + block * W;
      UnitStep<P, kCell.states, V> s;
      if constexpr (kWritesH) {
        s.grad[0] = load<V>(row.carry[0] + j);
        if (products && !row.starts_over_after) s.grad[0] = s.grad[0] + load<V>(products + at);
        if (!row.active) {
          store(row.carry[0] + j, s.grad[0]);
          continue;
        }
        s.grad[0] = s.grad[0] + load_or_zero<V>(row.grad_y, j, n);
        s.after[0] = load<V>(row.h_after + j, n);
      } else if constexpr (contains(kPhase.sees, 0)) {
        s.grad[0] = load<V>(row.carry[0] + j);
      }
      if constexpr (contains(kPhase.sees, 0)) s.before[0] = load_or_zero<V>(row.h_before, j, n);
#pragma GCC unroll 4
      for (int k = 1; k < kCell.states; ++k) {
        if (!contains(kPhase.sees, k)) continue;
        s.grad[k] = load<V>(row.carry[k] + j);
        s.before[k] = load_or_zero<V>(row.before[k], j, n);
        if (!contains(kPhase.writes, k)) continue;
        s.grad[k] = s.grad[k] + load_or_zero<V>(row.grad_steps[k], j, n);
        s.after[k] = load<V>(row.after[k] + j, n);
      }
#pragma GCC unroll 8
      for (int k = 0; k < P::kSaved; ++k) {
        s.saved[k] = load<V>(row.saved + (kPhase.first_saved + k) * units + j, n);
      }
#pragma GCC unroll 4
      for (int k = 0; k < P::kWeights; ++k) s.weight[k] = load<V>(row.peephole + k * units + j, n);
#pragma GCC unroll 4
      for (int q = 0; q < P::kOperands; ++q) {
        s.grad_operand[q] = load<V>(products + at + q * blocks * W);
      }
      P::operands(s);
      P::backward(s);
      P::weight_gradient(s);
#pragma GCC unroll 4
      for (int q = 0; q < P::kOperands; ++q) {
        T* const to = row.operand[kPhase.first_operand + q];
        if (to) store(to + j, s.operand[q], n);
      }
#pragma GCC unroll 4
      for (int k = 0; k < kCell.states; ++k) {
        if (!contains(kPhase.sees, k)) continue;
        const bool zero = p == kCell.first_phase_of(k) && row.starts_over;
        store(row.carry[k] + j, zero ? V(C(0)) : s.grad[k]);
      }
      Operand<Arch, T>* const grads = kPhase.size == kOutputSize ? row.output_grads : row.grads;
#pragma GCC unroll 8
      for (int g = 0; g < kPhase.gates; ++g) {
        const int place = kCell.gate[kPhase.first_gate + g].place;
        store(grads + place * units + j, s.grad_gate[g], n);
      }
#pragma GCC unroll 4
      for (int k = 0; k < P::kWeights; ++k) {
        store(grads + (kCell.weights_place + k) * units + j, s.grad_weight[k], n);
      }
    }
  }
}

template <class Arch, class Cell, class T, int... p>
constexpr CellKernels<Arch, T> make_kernels(std::integer_sequence<int, p...>) {
  return {kLayout<Cell>, {{forward_phase<Arch, Cell, p, T>, backward_phase<Arch, Cell, p, T>}...}};
}

template <class Arch, class Cell, class T>
inline constexpr CellKernels<Arch, T> kCellKernels =
    make_kernels<Arch, Cell, T>(std::make_integer_sequence<int, PhasesOf<Cell>::kCount>{});

// The cells in the order of FRNN_CELLS.
template <class Arch, class T>
const CellKernels<Arch, T>& cell_kernels(int cell) {
#define FRNN_KERNELS(name, Cell) &kCellKernels<Arch, Cell, T>,
  static constexpr const CellKernels<Arch, T>* kAll[] = {FRNN_CELLS(FRNN_KERNELS)};
#undef FRNN_KERNELS
  return *kAll[cell];
}

}  // namespace fastrnn::cpu
