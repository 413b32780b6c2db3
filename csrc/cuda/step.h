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
    const auto state = Unit::start(a.p, u, k);
    Unit::end_if_empty(a.p, u, k);
    if (k > 0 || !a.p.weights[0].hr) store_pack<N>(carry_at<T>(a, u, k), state, u.valid, u.whole);
    if (k == 0) {
      store_units(static_cast<T*>(a.h) + u.row * features + u.unit, state, u);
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
  const int64_t h = p.hidden_size, row = running(p, a.t, u.row, a.direction);
  const bool projected = w.hr != nullptr;
  auto sum = [&](const void* product, int64_t offset, const void* bias, int gate) {
    const int64_t at_gate = gate * h + u.unit;
    auto total = load_sums<T>(static_cast<const C*>(product) + offset + at_gate, u);
    if (bias) {
      const auto b = load_units(static_cast<const T*>(bias) + at_gate, u);
      for (int e = 0; e < N; ++e) total.v[e] += C(b.v[e]);
    }
    return total;
  };
  Pack<C, N> x[G], r[G], states[Cell::kStates] = {};
  for (int g = 0; g < G; ++g) {
    x[g] = sum(a.gates, row * G * h, w.bias_ih, g);
    r[g] = sum(a.product, u.row * G * h, w.bias_hh, g);
  }
  for (int k = Cell::kProjected ? 1 : 0; k < Cell::kStates; ++k) {
    states[k] = load_pack<N>(carry_at<T>(a, u, k), u.valid, u.whole);
  }
  typename Unit::Saved saved;
  Unit::run(x, r, states, saved);
  const int64_t own = a.direction * h + u.unit;
  if (!projected) store_units(at<T>(p, p.y, a.t, u.row) + own, states[0], u);
  if (p.saved) {
    T* to = static_cast<T*>(p.saved) + row * Cell::kSaved * h + u.unit;
    Unit::store_saved(to, h, saved, u);
  }
  if (p.hidden) store_units(static_cast<T*>(p.hidden) + row * h + u.unit, states[0], u);
  for (int k = 1; k < Cell::kStates; ++k) {
    if (!p.steps[k].data) continue;
    C* to = at<C>(p, p.steps[k], a.t, u.row) + own;
    store_pack<N>(to, states[k], u.valid, u.whole);
  }
  if (a.t == last_time(p.schedule, a.direction, u.row)) Unit::end(p, u, states);
  if (resets(p, after(a.direction, a.t), u.row)) {
    for (int k = 0; k < Cell::kStates; ++k) {
      if (k > 0 || !projected) states[k] = {};
    }
  }
  for (int k = Cell::kProjected ? 1 : 0; k < Cell::kStates; ++k) {
    store_pack<N>(carry_at<T>(a, u, k), states[k], u.valid, u.whole);
  }
  store_units(static_cast<T*>(a.h) + u.row * h + u.unit, states[0], u);
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
// With a projection, the product is this step's own: d(loss)/dh W_hr.
template <class Cell, class T>
__global__ void step_backward(const __grid_constant__ StepArgs a) {
  using Unit = BackwardUnits<Cell, T>;
  using C = Compute<T>;
  constexpr int N = kPack<T>;
  const ScanParams& p = a.p;
  const Schedule& s = p.schedule;
  const Units u = step_units<T>(a, p.hidden_size);
  if (u.row >= a.rows) return;
  const int64_t h = p.hidden_size, own = a.direction * h + u.unit;
  const bool projected = p.weights[0].hr != nullptr;
  Pack<C, N> carry[Cell::kStates];
  for (int k = 0; k < Cell::kStates; ++k) {
    carry[k] = load_pack<N>(carry_at<T>(a, u, k), u.valid, u.whole);
  }
  if (u.row < a.product_rows && (projected || !resets(p, after(a.direction, a.t), u.row))) {
    const auto product = load_sums<T>(static_cast<const C*>(a.product) + u.row * h + u.unit, u);
    for (int e = 0; e < N; ++e) carry[0].v[e] += product.v[e];
  }
  if (a.t < 0 || a.t >= s.steps) {
    Unit::store_initial(p, u, carry);
    return;
  }
  if (runs(s, a.t, u.row)) {
    const int64_t row = running(p, a.t, u.row, a.direction), previous = before(a.direction, a.t);
    const bool reset = resets(p, a.t, u.row);
    const bool first = a.t == first_time(s, a.direction, u.row);
    typename Unit::Places from{};
    if (p.grad_y.data && !projected) from.grad_y = at<T>(p, p.grad_y, a.t, u.row) + own;
    from.saved = static_cast<const T*>(p.saved) + row * Cell::kSaved * h + u.unit;
    if (!projected) {
      from.h_after = at<T>(p, p.y, a.t, u.row) + own;
      if (!reset && !first) from.h_before = at<T>(p, p.y, previous, u.row) + own;
    }
    for (int k = 1; k < Cell::kStates; ++k) {
      from.after[k] = at<C>(p, p.steps[k], a.t, u.row) + own;
      if (!reset && !first) from.before[k] = at<C>(p, p.steps[k], previous, u.row) + own;
      if (p.grad_steps[k].data) from.grad_steps[k] = at<C>(p, p.grad_steps[k], a.t, u.row) + own;
    }
    typename Unit::Inputs in = Unit::load(from, h, u);
    if (first && !reset) Unit::load_before_first(p, u, in);
    typename Unit::Gates dx, dr;
    Unit::run(in, carry, dx, dr);
    if (reset) {
      for (auto& c : carry) c = {};
    }
    const int64_t to = row * Cell::kGates * h + u.unit;
    Unit::store(static_cast<T*>(a.dx) + to, h, dx, u);
    if (!Cell::kAdditive) Unit::store(static_cast<T*>(a.dr) + to, h, dr, u);
  }
  for (int k = 0; k < Cell::kStates; ++k) {
    store_pack<N>(carry_at<T>(a, u, k), carry[k], u.valid, u.whole);
  }
}

}  // namespace fastrnn::cuda
