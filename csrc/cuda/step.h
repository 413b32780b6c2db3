// The step path's kernels: the cell for all rows and units of one step of one direction. The
// product comes from a GEMM before.
#pragma once

#include "args.h"
#include "unit.h"

namespace fastrnn::cuda {

template <class T>
FRNN_DEVICE Units step_units(const StepArgs& a, int64_t features) {
  constexpr int N = kPack<T>;
  const int64_t packs = (features + N - 1) / N, i = thread_index();
  const int64_t unit = i % packs * N, left = features - unit;
  return {a.direction, i / packs, unit, left < N ? int(left) : N, a.whole};
}

// Where a pack of a state lies.
template <class T>
FRNN_DEVICE Compute<T>* carry_at(const StepArgs& a, const Units& u, int k) {
  const int64_t h = a.p.hidden_size;
  return static_cast<Compute<T>*>(a.carry) + (k * a.p.schedule.batch + u.row) * h + u.unit;
}

// The states before the first step: of h, as the operand of the first product; of all, as carry.
template <class Cell, class T>
__global__ void start_forward(const __grid_constant__ StepArgs a) {
  using Unit = ForwardUnits<Cell, T>;
  constexpr int N = kPack<T>;
  const int64_t wider = a.p.hidden_size > a.p.output_size ? a.p.hidden_size : a.p.output_size;
  Units u = step_units<T>(a, wider);
  if (u.row >= a.rows) return;
  for (int k = 0; k < Cell::kStates; ++k) {
    const int64_t features = k ? a.p.hidden_size : a.p.output_size, left = features - u.unit;
    u.valid = left >= N ? N : left > 0 ? int(left) : 0;
    const Pack<Compute<T>, N> state = Unit::start(a.p, u, k);
    Unit::end_if_empty(a.p, u, k);
    if (k > 0 || !a.p.weights[0].hr) store_pack<N>(carry_at<T>(a, u, k), state, u.valid, u.whole);
    if (k == 0) {
      T* to = static_cast<T*>(a.h) + u.row * features + u.unit;
      store_pack<N>(to, convert<T>(state), u.valid, u.whole);
    }
  }
}

template <class Cell, class T>
__global__ void step_forward(const __grid_constant__ StepArgs a) {
  using Unit = ForwardUnits<Cell, T>;
  using C = Compute<T>;
  constexpr int G = Cell::kGates, N = kPack<T>;
  const ScanParams& p = a.p;
  const Units u = step_units<T>(a, p.hidden_size);
  if (u.row >= a.rows) return;
  const Weights& w = p.weights[a.direction];
  auto load = [&](const void* from, int64_t offset) {
    if (!from) return Pack<C, N>{};
    return convert<C>(load_pack<N>(static_cast<const T*>(from) + offset, u.valid, u.whole));
  };
  Pack<C, N> x_bias[G], r[G], states[Cell::kStates];
  for (int g = 0; g < G; ++g) {
    const int64_t at_gate = g * p.hidden_size + u.unit;
    x_bias[g] = load(w.bias_ih, at_gate);
    r[g] = load(a.product, u.row * G * p.hidden_size + at_gate);
    const Pack<C, N> bias = load(w.bias_hh, at_gate);
    for (int e = 0; e < N; ++e) r[g].v[e] += bias.v[e];
  }
  for (int k = 0; k < Cell::kStates; ++k) {
    if (k == 0 && Cell::kProjected) continue;
    states[k] = load_pack<N>(carry_at<T>(a, u, k), u.valid, u.whole);
  }
  const auto in = Unit::load(p, static_cast<const T*>(a.gates), u, a.t);
  Unit::run(p, in, u, a.t, x_bias, r, states);
  for (int k = 0; k < Cell::kStates; ++k) {
    if (k == 0 && Cell::kProjected) continue;
    store_pack<N>(carry_at<T>(a, u, k), states[k], u.valid, u.whole);
  }
  T* to = static_cast<T*>(a.h) + u.row * p.hidden_size + u.unit;
  store_pack<N>(to, convert<T>(states[0]), u.valid, u.whole);
}

template <class Cell, class T>
__global__ void start_backward(const __grid_constant__ StepArgs a) {
  using Unit = BackwardUnits<Cell, T>;
  constexpr int N = kPack<T>;
  const Units u = step_units<T>(a, a.p.hidden_size);
  if (u.row >= a.rows) return;
  Pack<Compute<T>, N> carry[Cell::kStates];
  Unit::start(a.p, u, carry);
  for (int k = 0; k < Cell::kStates; ++k) {
    store_pack<N>(carry_at<T>(a, u, k), carry[k], u.valid, u.whole);
  }
}

// At a time beyond the sequence it only adds the product, and stores the initial states' gradients.
template <class Cell, class T>
__global__ void step_backward(const __grid_constant__ StepArgs a) {
  using Unit = BackwardUnits<Cell, T>;
  using C = Compute<T>;
  constexpr int N = kPack<T>;
  const ScanParams& p = a.p;
  const Units u = step_units<T>(a, p.hidden_size);
  if (u.row >= a.rows) return;
  Pack<C, N> product{}, carry[Cell::kStates];
  if (u.row < a.product_rows) {
    const T* from = static_cast<const T*>(a.product) + u.row * p.hidden_size + u.unit;
    product = convert<C>(load_pack<N>(from, u.valid, u.whole));
  }
  for (int k = 0; k < Cell::kStates; ++k) {
    carry[k] = load_pack<N>(carry_at<T>(a, u, k), u.valid, u.whole);
  }
  auto in = Unit::load(p, u, a.t);
  if (p.weights[0].hr) in.reset_after = false;  // the product is this step's own: dh W_hr
  typename Unit::Gates dx, dr;
  Unit::run(in, product, carry, dx, dr);
  if (a.t < 0 || a.t >= p.schedule.steps) {
    Unit::store_initial(p, u, carry);
    return;
  }
  for (int k = 0; k < Cell::kStates; ++k) {
    store_pack<N>(carry_at<T>(a, u, k), carry[k], u.valid, u.whole);
  }
  if (!in.runs) return;
  Unit::store(p, u, a.t, dx, static_cast<T*>(a.dx));
  if (!Cell::kAdditive) Unit::store(p, u, a.t, dr, static_cast<T*>(a.dr));
}

}  // namespace fastrnn::cuda
