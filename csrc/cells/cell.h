// The contract of a cell.
//
// A recurrent layer runs the same step at every time: from x and the states before the step, it
// computes the states after it. State 0 is h, which is also the output; an LSTM has a second one,
// c. The equations of a step are written once, for one hidden unit, over a value type V. V is a
// SIMD vector of neighbouring units on the CPU, a scalar on CUDA, and a double in the tests.
//
// A step is a short list of phases. A phase first adds up its gates, which takes matrix products;
// then it computes pointwise with them. It is a struct of constants and of static templates, which
// never branch on a value. A cell with one phase is that phase. A cell with several lists them as
// its member Phases.
//
// Gates. A gate is a sum, as it is before its nonlinearity, of a part from x and a part from h:
//
//     gate = (W_ih x + b_ih, or x itself, or nothing) + (W_hh operand + b_hh, or nothing)
//
// Most gates have W_ih x and W_hh h, and their declaration is no more than their name: {'f'}. A
// cell that needs the two parts apart, as GRU does for n, lists two gates of the same name. The
// gates of a cell are those of its phases in order, and this is the order of the weights' rows:
// weight_ih and bias_ih have H rows for each gate with W_ih x, weight_hh and bias_hh have H rows
// for each gate with an operand. The order is part of the format of a state_dict, so it never
// changes once it is published. A gate that takes x itself has no rows in weight_ih, and the layer
// must have as many inputs as hidden units.
//
// Operands. Operand 0 is h before the step. A phase can make others, such as r * h, and they are
// numbered from 1 on in the order of the phases. A gate can multiply every operand that an earlier
// phase has made. Every phase but the last makes one at least, and the last one makes h. Because a
// product reads all units of its operand, the threads that share a row meet after every phase.
//
// States. Exactly one phase of a step writes a state. That phase and the earlier ones read it as
// before[k]; the later ones do not see it. By default a phase writes all states, which is right for
// a cell with one phase.
//
// Sizes. A phase works on the H hidden units. A phase of kOutputSize works on the P features of a
// projected h instead; the rows of its gates are weight_hr, [P, H], without a bias. A phase sees
// only the states of its own size: in a projected cell, state 0 is of size P, the others are of
// size H. There, a gate multiplies only operands of the other size than its own: weight_hh is
// [.., P], and weight_hr [.., H].
//
// Functions. A phase has these; operands and weight_gradient may be left out.
//
//   forward(s)          reads gate, before and weight; writes saved, and after[k] of its states.
//   operands(s)         writes operand. It reads what forward has read and written, but no gates:
//                       backward calls it, too, so that no operand is stored between the passes.
//   backward(s)         reads what operands reads, after[k] of its own states among it, and writes
//                       grad_gate. grad[k] comes in as the
//                       gradient of the state that the phase leaves, and goes out as that of the
//                       state that it finds: a phase replaces grad[k] of a state that it writes,
//                       and adds to grad[k] of one that it only reads. Only the pointwise part is
//                       meant: the drivers add what flows through products, to grad[0] if these
//                       multiply h, and otherwise as grad_operand.
//   weight_gradient(s)  writes grad_weight, what this step adds to the gradient of the unit's own
//                       weights. It reads grad_gate, and what backward may read.
//
// A cell calls sigmoid, tanh and where, which V brings along, and arithmetic.
#pragma once

#include <cmath>

#ifdef __CUDACC__
#define FRNN_HD __host__ __device__ __forceinline__
#else
#define FRNN_HD inline __attribute__((always_inline))
#endif

namespace fastrnn {

inline constexpr int kMaxStates = 2;

// An array of N values; one where N is 0, because C++ has no empty array.
template <class V, int N>
using Values = V[N > 0 ? N : 1];

template <class S>
concept Scalar = __is_same(S, float) || __is_same(S, double);

template <Scalar S>
FRNN_HD S sigmoid(S x) {
  return S(1) / (S(1) + std::exp(-x));
}

template <Scalar S>
FRNN_HD S where(bool condition, S a, S b) {
  return condition ? a : b;
}

using std::tanh;

// What a gate gets from x.
enum FromX { kWx, kX, kNoX };

// What it gets from h: an operand times its rows of the recurrent weights.
inline constexpr int kH = 0, kNoOperand = -1;

struct Gate {
  char name;  // for readers
  FromX from_x = kWx;
  int operand = kH;
};

template <int N>
struct Gates {
  static constexpr int kCount = N;
  Gate gate[N];
  constexpr const Gate& operator[](int i) const { return gate[i]; }
};

// Sets of states.
inline constexpr unsigned kNoStates = 0, kOnlyH = 1, kAllButH = ~1u, kAllStates = ~0u;
FRNN_HD constexpr bool contains(unsigned set, int k) { return set >> k & 1; }

enum Size { kHiddenSize, kOutputSize };

// What a phase is where it says nothing else.
struct Phase {
  static constexpr int kSaved = 0;     // values that forward leaves for backward
  static constexpr int kOperands = 0;  // operands that the phase makes
  static constexpr int kWeights = 0;   // weights of the unit alone, such as peepholes
  static constexpr unsigned kWrites = kAllStates;
  static constexpr Size kSize = kHiddenSize;

  template <class Step>
  FRNN_HD static void operands(Step&) {}
  template <class Step>
  FRNN_HD static void weight_gradient(Step&) {}
};

template <class... P>
struct List {
  static constexpr int kCount = sizeof...(P);
};

// The phases of a cell: those that it lists, or itself.
template <class Cell>
constexpr auto phases_of() {
  if constexpr (requires { typename Cell::Phases; }) {
    return typename Cell::Phases{};
  } else {
    return List<Cell>{};
  }
}
template <class Cell>
using PhasesOf = decltype(phases_of<Cell>());

template <int p, class First, class... Rest>
constexpr auto nth(List<First, Rest...>) {
  if constexpr (p == 0) {
    return First{};
  } else {
    return nth<p - 1>(List<Rest...>{});
  }
}
template <class Cell, int p>
using PhaseOf = decltype(nth<p>(PhasesOf<Cell>{}));

// A step as a phase sees it: the values of one unit of one row.
template <class P, int kStates, class Value>
struct UnitStep {
  using V = Value;
  static constexpr int kGates = P::kGates.kCount;

  V gate[kGates];
  V before[kStates], after[kStates];  // the states; h is before[0] and after[0]
  Values<V, P::kSaved> saved;
  Values<V, P::kOperands> operand;
  Values<V, P::kWeights> weight;

  // Backward: the gradients of these.
  V grad_gate[kGates];
  V grad[kStates];
  Values<V, P::kOperands> grad_operand;
  Values<V, P::kWeights> grad_weight;
};

}  // namespace fastrnn
