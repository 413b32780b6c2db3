// One step of one row for a pack of neighbouring hidden units: what it loads, the cell, and what it
// stores. The persistent and the step path share it; they differ in where the product comes from.
#pragma once

#include "../scan.h"
#include "number.h"

namespace fastrnn::cuda {

// A pack of units of one row and direction.
struct Units {
  int direction;
  int64_t row;   // by falling length
  int64_t unit;  // the first
  int valid;     // how many exist, from the first on
  bool whole;    // packs are aligned in every tensor
};

// Steps are counted in the order in which the direction runs through them.
FRNN_HD int64_t time_of(const Schedule& s, int direction, int64_t i) {
  return direction ? s.steps - 1 - i : i;
}
FRNN_HD int64_t before(int direction, int64_t t) { return direction ? t + 1 : t - 1; }
FRNN_HD int64_t after(int direction, int64_t t) { return direction ? t - 1 : t + 1; }
FRNN_HD int64_t first_time(const Schedule& s, int direction, int64_t row) {
  return direction ? s.length(row) - 1 : 0;
}
FRNN_HD int64_t last_time(const Schedule& s, int direction, int64_t row) {
  return direction ? 0 : s.length(row) - 1;
}
FRNN_HD bool runs(const Schedule& s, int64_t t, int64_t row) { return 0 <= t && t < s.length(row); }
// Whether step t of the row runs and starts from zeros.
FRNN_HD bool resets(const ScanParams& p, int64_t t, int64_t row) {
  if (!p.resets.data || !runs(p.schedule, t, row)) return false;
  return static_cast<const bool*>(p.resets.data)[p.schedule.offset(p.resets, t, row)];
}

template <class T>
FRNN_HD T* at(const ScanParams& p, const Sequence& s, int64_t t, int64_t row) {
  return static_cast<T*>(s.data) + p.schedule.offset(s, t, row);
}
template <class T>
FRNN_HD T* at(const ScanParams& p, const State& s, int direction, int64_t row) {
  return static_cast<T*>(s.data) + direction * s.direction_stride +
         p.schedule.place(row) * s.row_stride;
}
// Among the rows that run, where buffers [rows that run, D, features] keep a row of a step.
FRNN_HD int64_t running(const ScanParams& p, int64_t t, int64_t row, int direction) {
  return (p.schedule.first(t) + row) * p.directions + direction;
}

template <class To, class From, int N>
FRNN_HD Pack<To, N> convert(const Pack<From, N>& from) {
  Pack<To, N> to;
  for (int e = 0; e < N; ++e) to.v[e] = To(from.v[e]);
  return to;
}

template <class T>
FRNN_HD Pack<T, kPack<T>> load_units(const T* from, const Units& u) {
  return load_pack<kPack<T>>(from, u.valid, u.whole);
}

// Of what T is computed in.
template <class T>
FRNN_HD Pack<Compute<T>, kPack<T>> load_sums(const Compute<T>* from, const Units& u) {
  return load_pack<kPack<T>>(from, u.valid, u.whole);
}

template <class T, class Value, int N>
FRNN_HD void store_units(T* to, const Pack<Value, N>& pack, const Units& u) {
  store_pack<N>(to, convert<T>(pack), u.valid, u.whole);
}

// State k before the first step of a row.
template <class T>
FRNN_HD Pack<T, kPack<T>> load_initial(const ScanParams& p, const Units& u, int k) {
  if (!p.initial[k].data) return {};
  return load_units(at<const T>(p, p.initial[k], u.direction, u.row) + u.unit, u);
}

// ---- forward ------------------------------------------------------------------------------------

template <class Cell, class T>
struct ForwardUnits {
  static constexpr int kGates = Cell::kGates, kStates = Cell::kStates, N = kPack<T>;
  using C = Compute<T>;
  using V = CellValue<T>;
  using States = Pack<C, N>[kStates];
  using GateSums = Pack<C, N>[kGates];

  using Saved = Pack<T, N>[Cell::kSaved > 0 ? Cell::kSaved : 1];

  // State k as the first step finds it.
  FRNN_HD static Pack<C, N> start(const ScanParams& p, const Units& u, int k) {
    if (resets(p, first_time(p.schedule, u.direction, u.row), u.row)) return {};
    return convert<C>(load_initial<T>(p, u, k));
  }

  // A row of length 0 ends where it begins.
  FRNN_HD static void end_if_empty(const ScanParams& p, const Units& u, int k) {
    if (p.schedule.length(u.row) > 0) return;
    store_units(at<T>(p, p.last[k], u.direction, u.row) + u.unit, load_initial<T>(p, u, k), u);
  }

  // x_sum, r_sum: W_ih x + b_ih and W_hh h + b_hh. states: in, those before the step; out, those
  // after it, h as its type holds it.
  FRNN_HD static void run(const GateSums& x_sum, const GateSums& r_sum, States& states,
                          Saved& saved) {
    for (int e = 0; e < N; ++e) {
      V x[kGates], r[kGates], s[kStates], s1[kStates];
      Values<V, Cell::kSaved> z;
      for (int g = 0; g < kGates; ++g) x[g] = V(x_sum[g].v[e]), r[g] = V(r_sum[g].v[e]);
      for (int k = 0; k < kStates; ++k) s[k] = V(states[k].v[e]);
      if (Cell::kProjected) s[0] = V(C(0));
      Cell::forward(x, r, s, s1, z);
      for (int k = 0; k < kStates; ++k) states[k].v[e] = C(s1[k]);
      for (int k = 0; k < Cell::kSaved; ++k) saved[k].v[e] = T(C(z[k]));
    }
    states[0] = convert<C>(convert<T>(states[0]));
  }

  FRNN_HD static void store_saved(T* to, int64_t hidden_size, const Saved& saved, const Units& u) {
    for (int k = 0; k < Cell::kSaved; ++k) store_units(to + k * hidden_size, saved[k], u);
  }

  // The states after a row's last step; of h only where it is not projected.
  FRNN_HD static void end(const ScanParams& p, const Units& u, const States& states) {
    for (int k = 0; k < kStates; ++k) {
      if (k == 0 && p.weights[0].hr) continue;
      store_units(at<T>(p, p.last[k], u.direction, u.row) + u.unit, states[k], u);
    }
  }
};

// ---- backward -----------------------------------------------------------------------------------

template <class Cell, class T>
struct BackwardUnits {
  static constexpr int kGates = Cell::kGates, kStates = Cell::kStates, N = kPack<T>;
  using C = Compute<T>;
  using V = CellValue<T>;
  using States = Pack<C, N>[kStates];
  using Gates = Pack<T, N>[kGates];

  // Where a pack's inputs of one step are; a null one is zero.
  struct Places {
    const T* grad_y;
    const T *h_before, *h_after;
    const T* saved;
    const C *grad_steps[kStates], *before[kStates], *after[kStates];  // states 1 and on
  };

  struct Inputs {
    Pack<T, N> grad_y, h_before, h_after;
    Pack<T, N> saved[Cell::kSaved > 0 ? Cell::kSaved : 1];
    Pack<C, N> grad_steps[kStates], before[kStates], after[kStates];
  };

  FRNN_HD static Inputs load(const Places& from, int64_t hidden_size, const Units& u) {
    Inputs in{};
    if (from.grad_y) in.grad_y = load_units(from.grad_y, u);
    if (!Cell::kProjected) {
      if (from.h_before) in.h_before = load_units(from.h_before, u);
      in.h_after = load_units(from.h_after, u);
    }
    for (int k = 1; k < kStates; ++k) {
      if (from.grad_steps[k]) in.grad_steps[k] = load_sums<T>(from.grad_steps[k], u);
      if (from.before[k]) in.before[k] = load_sums<T>(from.before[k], u);
      in.after[k] = load_sums<T>(from.after[k], u);
    }
    for (int k = 0; k < Cell::kSaved; ++k) {
      in.saved[k] = load_units(from.saved + k * hidden_size, u);
    }
    return in;
  }

  // A row's first step has the initial states before it.
  FRNN_HD static void load_before_first(const ScanParams& p, const Units& u, Inputs& in) {
    if (!Cell::kProjected) in.h_before = load_initial<T>(p, u, 0);
    for (int k = 1; k < kStates; ++k) in.before[k] = convert<C>(load_initial<T>(p, u, k));
  }

  // The gradient of the states after the last step.
  FRNN_HD static void start(const ScanParams& p, const Units& u, States& carry) {
    for (int k = 0; k < kStates; ++k) {
      carry[k] = {};
      if (!p.grad_last[k].data || (k == 0 && p.weights[0].hr)) continue;
      const T* from = at<const T>(p, p.grad_last[k], u.direction, u.row) + u.unit;
      carry[k] = convert<C>(load_units(from, u));
    }
  }

  // carry: in, d(loss)/d(states after the step) but for what grad_y and grad_steps add; out, the
  // elementwise part of that before the step. dx and dr get the gates' gradients; an additive cell
  // has one for both.
  FRNN_HD static void run(const Inputs& in, States& carry, Gates& dx, Gates& dr) {
    for (int e = 0; e < N; ++e) {
      V s[kStates], s1[kStates], ds[kStates], gx[kGates], gr[kGates];
      Values<V, Cell::kSaved> z;
      s[0] = V(C(in.h_before.v[e]));
      s1[0] = V(C(in.h_after.v[e]));
      ds[0] = V(carry[0].v[e] + C(in.grad_y.v[e]));
      for (int k = 1; k < kStates; ++k) {
        s[k] = V(in.before[k].v[e]);
        s1[k] = V(in.after[k].v[e]);
        ds[k] = V(carry[k].v[e] + in.grad_steps[k].v[e]);
      }
      for (int k = 0; k < Cell::kSaved; ++k) z[k] = V(C(in.saved[k].v[e]));
      Cell::backward(z, s, s1, ds, gx, gr);
      for (int k = 0; k < kStates; ++k) carry[k].v[e] = C(ds[k]);
      for (int g = 0; g < kGates; ++g) {
        dx[g].v[e] = T(C(gx[g]));
        dr[g].v[e] = Cell::kAdditive ? dx[g].v[e] : T(C(gr[g]));
      }
    }
  }

  FRNN_HD static void store(T* to, int64_t hidden_size, const Gates& gates, const Units& u) {
    for (int g = 0; g < kGates; ++g) store_units(to + g * hidden_size, gates[g], u);
  }

  FRNN_HD static void store_initial(const ScanParams& p, const Units& u, const States& carry) {
    for (int k = 0; k < kStates; ++k) {
      if (!p.grad_initial[k].data || (k == 0 && p.weights[0].hr)) continue;
      store_units(at<T>(p, p.grad_initial[k], u.direction, u.row) + u.unit, carry[k], u);
    }
  }
};

}  // namespace fastrnn::cuda
