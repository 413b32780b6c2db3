// One phase of one step of one row for a pack of neighbouring units: what it loads, the cell's
// equations, and what it stores. The persistent and the step path share it; they differ in where
// the products come from.
#pragma once

#include "../cells/layout.h"
#include "number.h"
#include "places.h"

namespace fastrnn::cuda {

// A pack of units of one row and direction.
struct Units {
  int direction;
  int64_t row;   // by falling length
  int64_t unit;  // the first
  int valid;     // how many exist, from the first on
  bool whole;    // packs are aligned in every tensor
};

template <class To, class From, int N>
FRNN_HD Pack<To, N> convert(const Pack<From, N>& from) {
  Pack<To, N> to;
  for (int e = 0; e < N; ++e) to.v[e] = To(from.v[e]);
  return to;
}

template <class T, int N>
FRNN_HD void add(Pack<T, N>& to, const Pack<T, N>& values) {
  for (int e = 0; e < N; ++e) to.v[e] += values.v[e];
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
  return load_units(p.at<const T>(p.initial[k], u.direction, u.row) + u.unit, u);
}

template <class Cell, int kPhase, class T>
struct PhaseUnits {
  using P = PhaseOf<Cell, kPhase>;
  using C = Compute<T>;
  using V = CellValue<T>;
  using Step = UnitStep<P, Cell::kStates, V>;
  static constexpr int N = kPack<T>;
  using Sums = Pack<C, N>;  // of a value of a unit, for the pack
  using Stored = Pack<T, N>;

  static constexpr int kGates = P::kGates.kCount, kStates = Cell::kStates, kSaved = P::kSaved,
                       kOperands = P::kOperands, kWeights = P::kWeights;
  static constexpr PhaseLayout kLayoutOfPhase = kLayout<Cell>.phase[kPhase];
  static constexpr unsigned kSees = kLayoutOfPhase.sees, kWrites = kLayoutOfPhase.writes;
  static constexpr int kFirstSaved = kLayoutOfPhase.first_saved, kSavedOfStep = kLayout<Cell>.saved;
  static constexpr bool kWritesH = contains(kWrites, 0), kSeesH = contains(kSees, 0);

  template <int kGate>
  static constexpr GateLayout kGateLayout = kLayout<Cell>.gate[kLayoutOfPhase.first_gate + kGate];
  template <int kState>
  static constexpr bool kIsFirstOf = kLayout<Cell>.first_phase_of(kState) == kPhase;

  using States = Sums[kStates];
  using OwnWeights = Values<Sums, kWeights>;

  // ---- forward ----------------------------------------------------------------------------------

  struct Outputs {
    Values<Stored, kSaved> saved;
    Values<Stored, kOperands> operand;
  };

  // states: those before the step, of which those that the phase writes become those after it; h as
  // its type holds it.
  FRNN_HD static void forward(const Sums (&gate)[kGates], const OwnWeights& weight, States& states,
                              Outputs& out) {
    for (int e = 0; e < N; ++e) {
      Step s;
      for (int g = 0; g < kGates; ++g) s.gate[g] = V(gate[g].v[e]);
      for (int i = 0; i < kWeights; ++i) s.weight[i] = V(weight[i].v[e]);
      for (int k = 0; k < kStates; ++k) {
        s.before[k] = contains(kSees, k) ? V(states[k].v[e]) : V(C(0));
      }
      P::forward(s);
      P::operands(s);
      for (int k = 0; k < kStates; ++k) {
        if (contains(kWrites, k)) states[k].v[e] = C(s.after[k]);
      }
      for (int i = 0; i < kSaved; ++i) out.saved[i].v[e] = T(C(s.saved[i]));
      for (int q = 0; q < kOperands; ++q) out.operand[q].v[e] = T(C(s.operand[q]));
    }
    if (kWritesH) states[0] = convert<C>(convert<T>(states[0]));
  }

  // The states after the step, and what backward reads.
  FRNN_HD static void store(const ScanParams& p, const StepPlace& step, const RowPlace& row,
                            const Units& u, const States& states, const Outputs& out) {
    if (kWritesH) store_units(at<T>(p.y, step, row.y) + u.unit, states[0], u);
    if (kSaved > 0 && p.saved) {
      const int64_t h = p.hidden_size;
      T* to = at(static_cast<T*>(p.saved), p, step, row, kSavedOfStep * h) + u.unit;
      for (int i = 0; i < kSaved; ++i) {
        store_units(to + (kFirstSaved + i) * h, out.saved[i], u);
      }
    }
    for (int k = 1; k < kStates; ++k) {
      if (!contains(kWrites, k) || !p.steps[k].data) continue;
      store_units(at<C>(p.steps[k], step, row.steps[k - 1]) + u.unit, states[k], u);
    }
    if (step.t != row.last_time(u.direction)) return;
    for (int k = 0; k < kStates; ++k) {
      if (!contains(kWrites, k)) continue;
      store_units(p.at<T>(p.last[k], u.direction, u.row) + u.unit, states[k], u);
    }
  }

  // ---- backward ---------------------------------------------------------------------------------

  struct Inputs {
    Stored grad_y, h_before, h_after;
    Values<Stored, kSaved> saved;
    Sums grad_steps[kStates], before[kStates], after[kStates];  // states 1 and on
  };

  // previous: the step before this one; reset: this one starts from zeros.
  FRNN_HD static Inputs load(const ScanParams& p, const StepPlace& step, const StepPlace& previous,
                             const RowPlace& row, bool reset, const Units& u) {
    Inputs in{};
    const int64_t h = p.hidden_size;
    const bool first = step.t == row.first_time(u.direction);
    if (kWritesH) {
      if (p.grad_y.data) {
        in.grad_y = load_units(at<const T>(p.grad_y, step, row.grad_y) + u.unit, u);
      }
      in.h_after = load_units(at<const T>(p.y, step, row.y) + u.unit, u);
    }
    if (kSeesH && !reset && !first) {
      in.h_before = load_units(at<const T>(p.y, previous, row.y) + u.unit, u);
    }
    for (int k = 1; k < kStates; ++k) {
      const int64_t place = row.steps[k - 1] + u.unit;
      if (contains(kWrites, k)) {
        in.after[k] = load_sums<T>(at<const C>(p.steps[k], step, place), u);
        if (p.grad_steps[k].data) {
          const int64_t grad_place = row.grad_steps[k - 1] + u.unit;
          in.grad_steps[k] = load_sums<T>(at<const C>(p.grad_steps[k], step, grad_place), u);
        }
      }
      if (contains(kSees, k) && !reset && !first) {
        in.before[k] = load_sums<T>(at<const C>(p.steps[k], previous, place), u);
      }
    }
    if (kSaved > 0) {
      const T* from = at(static_cast<const T*>(p.saved), p, step, row, kSavedOfStep * h) + u.unit;
      for (int i = 0; i < kSaved; ++i) in.saved[i] = load_units(from + (kFirstSaved + i) * h, u);
    }
    if (first && !reset) {
      if (kSeesH) in.h_before = load_initial<T>(p, u, 0);
      for (int k = 1; k < kStates; ++k) {
        if (contains(kSees, k)) in.before[k] = convert<C>(load_initial<T>(p, u, k));
      }
    }
    return in;
  }

  struct Grads {
    Stored gate[kGates];
    Values<Stored, kWeights> weight;
    Values<Stored, kOperands> operand;  // the operands once more, not their gradients
  };

  // grad: in, the gradients of the states that the phase leaves, but for what grad_y and grad_steps
  // add; out, the pointwise part of those of the states that it finds.
  FRNN_HD static void backward(const Inputs& in, const OwnWeights& weight,
                               const Values<Sums, kOperands>& grad_operand, States& grad,
                               Grads& out) {
    for (int e = 0; e < N; ++e) {
      Step s;
      for (int k = 0; k < kStates; ++k) {
        s.before[k] = V(k ? in.before[k].v[e] : C(in.h_before.v[e]));
        s.after[k] = V(k ? in.after[k].v[e] : C(in.h_after.v[e]));
        s.grad[k] = V(grad[k].v[e] + (k ? in.grad_steps[k].v[e] : C(in.grad_y.v[e])));
      }
      for (int i = 0; i < kSaved; ++i) s.saved[i] = V(C(in.saved[i].v[e]));
      for (int i = 0; i < kWeights; ++i) s.weight[i] = V(weight[i].v[e]);
      for (int q = 0; q < kOperands; ++q) s.grad_operand[q] = V(grad_operand[q].v[e]);
      P::operands(s);
      P::backward(s);
      P::weight_gradient(s);
      for (int k = 0; k < kStates; ++k) {
        if (contains(kSees, k)) grad[k].v[e] = C(s.grad[k]);
      }
      for (int g = 0; g < kGates; ++g) out.gate[g].v[e] = T(C(s.grad_gate[g]));
      for (int i = 0; i < kWeights; ++i) out.weight[i].v[e] = T(C(s.grad_weight[i]));
      for (int q = 0; q < kOperands; ++q) out.operand[q].v[e] = T(C(s.operand[q]));
    }
  }

  // Into the unit's place in a row of gradients, which begins at `row`.
  FRNN_HD static void store(const ScanParams& p, T* row, const Grads& grads, const Units& u) {
    constexpr int kBlocks = kLayout<Cell>.grad_blocks, kPlace = kLayout<Cell>.weights_place;
    const int64_t h = p.hidden_size;
    unrolled<kGates>([&](auto g) {
      constexpr int kPlaceOfGate = kGateLayout<g>.place;
      T* to = P::kSize == kOutputSize ? row + kBlocks * h + kPlaceOfGate * p.output_size
                                      : row + kPlaceOfGate * h;
      store_units(to + u.unit, grads.gate[g], u);
    });
    for (int i = 0; i < kWeights; ++i) {
      store_units(row + (kPlace + i) * h + u.unit, grads.weight[i], u);
    }
  }
};

}  // namespace fastrnn::cuda
