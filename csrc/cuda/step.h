// The step path's kernels: a phase of the cell for all rows and units of one step of one direction.
// The products come from GEMMs before.
#pragma once

#include "args.h"
#include "unit.h"

namespace fastrnn::cuda {

template <class Cell, int kPhase, class T>
FRNN_DEVICE Units step_units(const StepArgs& a) {
  constexpr int N = kPack<T>;
  const int64_t features =
      PhaseOf<Cell, kPhase>::kSize == kOutputSize ? a.p.output_size : a.p.hidden_size;
  const int64_t packs = (features + N - 1) / N, i = thread_index();
  const int64_t unit = i % packs * N, left = features - unit;
  return {a.direction, i / packs, unit, left < N ? int(left) : N, a.whole};
}

// Where a pack of a state, or of its gradient, lies.
template <class Cell, class T>
FRNN_DEVICE Compute<T>* carry_at(const StepArgs& a, const Units& u, int k) {
  const bool is_output = kLayout<Cell>.projected && k == 0;
  const int64_t size = is_output ? a.p.output_size : a.p.hidden_size;
  return static_cast<Compute<T>*>(a.carry[k]) + u.row * size + u.unit;
}

template <class T>
FRNN_DEVICE void load_own_weights(const ScanParams& p, const Units& u, int count,
                                  Pack<Compute<T>, kPack<T>>* weights) {
  const T* from = static_cast<const T*>(p.weights[u.direction].peephole);
  for (int i = 0; i < count; ++i) {
    weights[i] = convert<Compute<T>>(load_units(from + i * p.hidden_size + u.unit, u));
  }
}

template <class Cell, int kPhase, class T>
__global__ void step_forward(const __grid_constant__ StepArgs a) {
  using Unit = PhaseUnits<Cell, kPhase, T>;
  using C = Compute<T>;
  using Sums = typename Unit::Sums;
  constexpr int N = kPack<T>;
  const ScanParams& p = a.p;
  const Units u = step_units<Cell, kPhase, T>(a);
  if (u.row >= a.rows) return;
  const StepPlace step(p.schedule, a.t);
  const RowPlace row(p, Unit::kStates, a.direction, u.row);
  const Weights& w = p.weights[a.direction];
  const int64_t h = p.hidden_size;
  const int64_t size = Unit::P::kSize == kOutputSize ? p.output_size : h;
  auto add_bias = [&](Sums& sum, const void* bias, int block) {
    if (!bias) return;
    add(sum, convert<C>(load_units(static_cast<const T*>(bias) + block * h + u.unit, u)));
  };

  Sums gate[Unit::kGates];
  const C* from_x = at(static_cast<const C*>(a.gates), p, step, row, kLayout<Cell>.x_blocks * h);
  unrolled<Unit::kGates>([&](auto g) {
    constexpr GateLayout kGate = Unit::template kGateLayout<g>;
    Sums sum{};
    if constexpr (kGate.x_block >= 0) {
      sum = load_sums<T>(from_x + kGate.x_block * h + u.unit, u);
      add_bias(sum, w.bias_ih, kGate.x_block);
    } else if constexpr (kGate.is_x) {
      sum = convert<C>(load_units(p.at<const T>(p.x, a.t, u.row) + u.unit, u));
    }
    if constexpr (kGate.h_block >= 0) {
      constexpr int kOperand = Unit::kLayoutOfPhase.product[kGate.product].operand;
      constexpr Product kProduct = kLayout<Cell>.operand_product[kOperand];
      const C* product = static_cast<const C*>(a.product[kOperand]) +
                         (u.row * kProduct.count + kGate.h_block - kProduct.first) * size;
      Sums from_h = load_sums<T>(product + u.unit, u);
      if constexpr (Unit::P::kSize == kHiddenSize) add_bias(from_h, w.bias_hh, kGate.h_block);
      add(sum, from_h);
    }
    gate[g] = sum;
  });
  typename Unit::States states = {};
  T* h_at = static_cast<T*>(a.operand[0]) + u.row * p.output_size + u.unit;
  if (Unit::kSeesH) states[0] = convert<C>(load_units(h_at, u));
  for (int k = 1; k < Unit::kStates; ++k) {
    if (!contains(Unit::kSees, k)) continue;
    states[k] = load_pack<N>(carry_at<Cell, T>(a, u, k), u.valid, u.whole);
  }
  typename Unit::OwnWeights weights;
  load_own_weights<T>(p, u, Unit::kWeights, weights);

  typename Unit::Outputs out;
  Unit::forward(gate, weights, states, out);
  Unit::store(p, step, row, u, states, out);
  for (int q = 0; q < Unit::kOperands; ++q) {
    T* to = static_cast<T*>(a.operand[Unit::kLayoutOfPhase.first_operand + q]);
    store_units(to + u.row * size + u.unit, out.operand[q], u);
  }
  const bool starts_over = p.starts_over(a.direction, Schedule::after(a.direction, a.t), u.row);
  for (int k = 0; k < Unit::kStates; ++k) {
    if (!contains(Unit::kWrites, k)) continue;
    if (starts_over) states[k] = {};
    if (k == 0) {
      store_units(h_at, states[0], u);
    } else {
      store_pack<N>(carry_at<Cell, T>(a, u, k), states[k], u.valid, u.whole);
    }
  }
}

// The phase that writes h adds what the step after says of h, and does so for rows that are active
// there alone, too.
template <class Cell, int kPhase, class T>
__global__ void step_backward(const __grid_constant__ StepArgs a) {
  using Unit = PhaseUnits<Cell, kPhase, T>;
  using C = Compute<T>;
  constexpr int N = kPack<T>;
  const ScanParams& p = a.p;
  const Units u = step_units<Cell, kPhase, T>(a);
  if (u.row >= a.rows) return;
  const StepPlace step(p.schedule, a.t), previous(p.schedule, Schedule::before(a.direction, a.t));
  const RowPlace row(p, Unit::kStates, a.direction, u.row);
  const int64_t h = p.hidden_size;
  const int64_t size = Unit::P::kSize == kOutputSize ? p.output_size : h;

  typename Unit::States grad = {};
  for (int k = 0; k < Unit::kStates; ++k) {
    if (!contains(Unit::kSees, k)) continue;
    grad[k] = load_pack<N>(carry_at<Cell, T>(a, u, k), u.valid, u.whole);
  }
  if (Unit::kWritesH && u.row < a.product_rows &&
      !p.starts_over(a.direction, Schedule::after(a.direction, a.t), u.row)) {
    const C* product = static_cast<const C*>(a.product[0]) + u.row * size + u.unit;
    add(grad[0], load_sums<T>(product, u));
  }
  if (row.is_active(a.t)) {
    const bool reset = starts_over(p, a.direction, step, row);
    const auto in = Unit::load(p, step, previous, row, reset, u);
    typename Unit::OwnWeights weights;
    load_own_weights<T>(p, u, Unit::kWeights, weights);
    Values<typename Unit::Sums, Unit::kOperands> grad_operand;
    for (int q = 0; q < Unit::kOperands; ++q) {
      const void* from = a.product[Unit::kLayoutOfPhase.first_operand + q];
      grad_operand[q] = load_sums<T>(static_cast<const C*>(from) + u.row * size + u.unit, u);
    }
    typename Unit::Grads out;
    Unit::backward(in, weights, grad_operand, grad, out);
    const int64_t features =
        kLayout<Cell>.grad_blocks * h + kLayout<Cell>.output_grad_blocks * p.output_size;
    Unit::store(p, at(static_cast<T*>(a.grads), p, step, row, features), out, u);
    for (int q = 0; q < Unit::kOperands; ++q) {
      T* to = static_cast<T*>(a.operand[Unit::kLayoutOfPhase.first_operand + q]);
      if (to) store_units(at(to, p, step, row, size) + u.unit, out.operand[q], u);
    }
    unrolled<Unit::kStates>([&](auto k) {
      if (reset && Unit::template kIsFirstOf<k>) grad[k] = {};
    });
  }
  for (int k = 0; k < Unit::kStates; ++k) {
    if (!contains(Unit::kSees, k)) continue;
    store_pack<N>(carry_at<Cell, T>(a, u, k), grad[k], u.valid, u.whole);
  }
}

}  // namespace fastrnn::cuda
