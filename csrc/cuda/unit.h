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
FRNN_HD Pack<T, kPack<T>> load_initial(const ScanParams& p, const Units& u, int k) {
  if (!p.initial[k].data) return {};
  const T* from = at<T>(p, p.initial[k], u.direction, u.row) + u.unit;
  return load_pack<kPack<T>>(from, u.valid, u.whole);
}

// ---- forward
// -------------------------------------------------------------------------------------

template <class Cell, class T>
struct ForwardUnits {
  static constexpr int kGates = Cell::kGates, kStates = Cell::kStates, N = kPack<T>;
  using C = Compute<T>;
  using V = CellValue<T>;
  using States = Pack<C, N>[kStates];

  // What a step reads from memory besides the product; gates: [rows that run, D, G H] of W_ih x.
  struct Inputs {
    Pack<T, N> x[kGates];
    bool runs, reset_after;
  };

  FRNN_HD static Inputs load(const ScanParams& p, const T* gates, const Units& u, int64_t t) {
    Inputs in{};
    in.runs = runs(p.schedule, t, u.row);
    if (!in.runs) return in;
    in.reset_after = resets(p, after(u.direction, t), u.row);
    const T* from = gates + running(p, t, u.row, u.direction) * kGates * p.hidden_size + u.unit;
    for (int g = 0; g < kGates; ++g) {
      in.x[g] = load_pack<N>(from + g * p.hidden_size, u.valid, u.whole);
    }
    return in;
  }

  // State k before the first step.
  FRNN_HD static Pack<C, N> start(const ScanParams& p, const Units& u, int k) {
    if (resets(p, first_time(p.schedule, u.direction, u.row), u.row)) return {};
    return convert<C>(load_initial<T>(p, u, k));
  }

  // A row of length 0 ends where it begins.
  FRNN_HD static void end_if_empty(const ScanParams& p, const Units& u, int k) {
    if (p.schedule.length(u.row) > 0) return;
    T* to = at<T>(p, p.last[k], u.direction, u.row) + u.unit;
    store_pack<N>(to, load_initial<T>(p, u, k), u.valid, u.whole);
  }

  // x_bias, r: b_ih, and W_hh h + b_hh, of each gate. states: in, those before the step; out, those
  // that the next step starts from. With a projection, states[0] is h before it, and only saved.
  FRNN_HD static void run(const ScanParams& p, const Inputs& in, const Units& u, int64_t t,
                          const Pack<C, N> (&x_bias)[kGates], const Pack<C, N> (&r)[kGates],
                          States& states) {
    Pack<T, N> z[Cell::kSaved > 0 ? Cell::kSaved : 1];
    for (int e = 0; e < N; ++e) {
      V x[kGates], recurrent[kGates], s[kStates], s1[kStates];
      Values<V, Cell::kSaved> saved;
      for (int g = 0; g < kGates; ++g) {
        x[g] = V(C(in.x[g].v[e]) + x_bias[g].v[e]);
        recurrent[g] = V(r[g].v[e]);
      }
      for (int k = 0; k < kStates; ++k) s[k] = V(states[k].v[e]);
      if (Cell::kProjected) s[0] = V(C(0));
      Cell::forward(x, recurrent, s, s1, saved);
      for (int k = 0; k < kStates; ++k) states[k].v[e] = C(s1[k]);
      for (int k = 0; k < Cell::kSaved; ++k) z[k].v[e] = T(C(saved[k]));
    }
    const Pack<T, N> h = convert<T>(states[0]);
    states[0] = convert<C>(h);
    const int64_t row = running(p, t, u.row, u.direction);
    if (p.saved) {
      T* to = static_cast<T*>(p.saved) + row * Cell::kSaved * p.hidden_size + u.unit;
      for (int k = 0; k < Cell::kSaved; ++k) {
        store_pack<N>(to + k * p.hidden_size, z[k], u.valid, u.whole);
      }
    }
    if (p.hidden) {
      T* to = static_cast<T*>(p.hidden) + row * p.hidden_size + u.unit;
      store_pack<N>(to, h, u.valid, u.whole);
    }
    if (!p.weights[0].hr) store_h(p, u, t, h);
    const bool is_last = t == last_time(p.schedule, u.direction, u.row);
    for (int k = 1; k < kStates; ++k) {
      if (p.steps[k].data) {
        C* to = at<C>(p, p.steps[k], t, u.row) + u.direction * p.hidden_size + u.unit;
        store_pack<N>(to, states[k], u.valid, u.whole);
      }
      if (is_last) {
        T* to = at<T>(p, p.last[k], u.direction, u.row) + u.unit;
        store_pack<N>(to, convert<T>(states[k]), u.valid, u.whole);
      }
    }
    if (in.reset_after) {
      for (int k = p.weights[0].hr ? 1 : 0; k < kStates; ++k) states[k] = Pack<C, N>{};
    }
  }

  // h of a step, to all who want it; u counts h's units, which a projection has its own of.
  FRNN_HD static void store_h(const ScanParams& p, const Units& u, int64_t t, Pack<T, N> h) {
    T* y = at<T>(p, p.y, t, u.row) + u.direction * p.output_size + u.unit;
    store_pack<N>(y, h, u.valid, u.whole);
    if (t == last_time(p.schedule, u.direction, u.row)) {
      T* to = at<T>(p, p.last[0], u.direction, u.row) + u.unit;
      store_pack<N>(to, h, u.valid, u.whole);
    }
  }
};

// ---- backward
// ------------------------------------------------------------------------------------

template <class Cell, class T>
struct BackwardUnits {
  static constexpr int kGates = Cell::kGates, kStates = Cell::kStates, N = kPack<T>;
  using C = Compute<T>;
  using V = CellValue<T>;
  using States = Pack<C, N>[kStates];
  using Gates = Pack<T, N>[kGates];

  struct Inputs {
    Pack<T, N> grad_y, h_before, h_after;
    Pack<T, N> saved[Cell::kSaved > 0 ? Cell::kSaved : 1];
    Pack<C, N> grad_steps[kStates], before[kStates], after[kStates];  // of states 1 and on
    bool runs;         // false: not at this step; the gradient of its state is handed through
    bool reset;        // this step started from zeros: nothing flows further back
    bool reset_after;  // the step after it did: its product is not for this row
  };

  FRNN_HD static Inputs load(const ScanParams& p, const Units& u, int64_t t) {
    Inputs in{};
    in.runs = runs(p.schedule, t, u.row);
    in.reset_after = resets(p, after(u.direction, t), u.row);
    if (!in.runs) return in;
    in.reset = resets(p, t, u.row);
    const int64_t previous = before(u.direction, t);
    const bool started = t != first_time(p.schedule, u.direction, u.row);
    const bool projected = p.weights[0].hr != nullptr;
    if (p.grad_y.data && !projected) in.grad_y = load_y(p, p.grad_y, u, t);
    if (!Cell::kProjected) {
      in.h_after = load_y(p, p.y, u, t);
      if (!in.reset) {
        in.h_before = started ? load_y(p, p.y, u, previous) : load_initial<T>(p, u, 0);
      }
    }
    for (int k = 1; k < kStates; ++k) {
      in.after[k] = load_step(p, p.steps[k], u, t);
      if (p.grad_steps[k].data) in.grad_steps[k] = load_step(p, p.grad_steps[k], u, t);
      if (!in.reset) {
        in.before[k] =
            started ? load_step(p, p.steps[k], u, previous) : convert<C>(load_initial<T>(p, u, k));
      }
    }
    const T* saved = static_cast<const T*>(p.saved) +
                     running(p, t, u.row, u.direction) * Cell::kSaved * p.hidden_size + u.unit;
    for (int k = 0; k < Cell::kSaved; ++k) {
      in.saved[k] = load_pack<N>(saved + k * p.hidden_size, u.valid, u.whole);
    }
    return in;
  }

  // The gradient of the states after the last step.
  FRNN_HD static void start(const ScanParams& p, const Units& u, States& carry) {
    const bool projected = p.weights[0].hr != nullptr;
    for (int k = 0; k < kStates; ++k) {
      carry[k] = Pack<C, N>{};
      if (p.grad_last[k].data && !(k == 0 && projected)) {
        const T* from = at<T>(p, p.grad_last[k], u.direction, u.row) + u.unit;
        carry[k] = convert<C>(load_pack<N>(from, u.valid, u.whole));
      }
    }
  }

  // product: dr R of the step after; carry: the elementwise part of d(loss)/d(state). dx and dr get
  // the gradients of the gates; an additive cell has one for both, and a row that does not run has
  // zeros.
  FRNN_HD static void run(const Inputs& in, const Pack<C, N>& product, States& carry, Gates& dx,
                          Gates& dr) {
    for (int g = 0; g < kGates; ++g) dx[g] = dr[g] = Pack<T, N>{};
    for (int e = 0; e < N; ++e) {
      if (!in.reset_after) carry[0].v[e] += product.v[e];
      if (!in.runs) continue;
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
      for (int k = 0; k < kStates; ++k) carry[k].v[e] = in.reset ? C(0) : C(ds[k]);
      for (int g = 0; g < kGates; ++g) {
        dx[g].v[e] = T(C(gx[g]));
        dr[g].v[e] = Cell::kAdditive ? dx[g].v[e] : T(C(gr[g]));
      }
    }
  }

  // Stores the gates' gradients of a row that runs; dx, dr: [rows that run, D, G H].
  FRNN_HD static void store(const ScanParams& p, const Units& u, int64_t t, const Gates& gate,
                            T* to) {
    to += running(p, t, u.row, u.direction) * kGates * p.hidden_size + u.unit;
    for (int g = 0; g < kGates; ++g) {
      store_pack<N>(to + g * p.hidden_size, gate[g], u.valid, u.whole);
    }
  }

  FRNN_HD static void store_initial(const ScanParams& p, const Units& u, const States& carry) {
    for (int k = p.weights[0].hr ? 1 : 0; k < kStates; ++k) {
      if (!p.grad_initial[k].data) continue;
      T* to = at<T>(p, p.grad_initial[k], u.direction, u.row) + u.unit;
      store_pack<N>(to, convert<T>(carry[k]), u.valid, u.whole);
    }
  }

 private:
  FRNN_HD static Pack<T, N> load_y(const ScanParams& p, const Sequence& s, const Units& u,
                                   int64_t t) {
    const T* from = at<T>(p, s, t, u.row) + u.direction * p.output_size + u.unit;
    return load_pack<N>(from, u.valid, u.whole);
  }
  FRNN_HD static Pack<C, N> load_step(const ScanParams& p, const Sequence& s, const Units& u,
                                      int64_t t) {
    const C* from = at<C>(p, s, t, u.row) + u.direction * p.hidden_size + u.unit;
    return load_pack<N>(from, u.valid, u.whole);
  }
};

}  // namespace fastrnn::cuda
