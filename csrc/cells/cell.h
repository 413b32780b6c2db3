// The contract of a cell: the equations of one time step for one hidden unit, written once over a
// value type V. V is a SIMD vector of units on the CPU, a scalar on CUDA, a double in the tests.
//
// A cell is a struct of constants and two static templates:
//
//   kGates      rows of weight_ih and weight_hh per hidden unit
//   kStates     carried states; state 0 is h, the one that the recurrent product reads
//   kSaved      values that forward leaves for backward besides the states
//   kAdditive   whether the cell uses x[k] + r[k] only, so that both products have one gradient
//   kProjected  whether h may be projected between steps: such a cell never sees h, s[0] is 0
//
//   forward(x, r, s, s1, z)        x[k] = W_ih x_t + b_ih and r[k] = W_hh h_{t-1} + b_hh of gate k;
//                                  s the states before the step, s1 after it, z the saved values
//   backward(z, s, s1, ds, dx, dr) ds: in, d(loss)/d(s1); out, the elementwise part of
//                                  d(loss)/d(s), to which the driver adds R^T dr for state 0.
//                                  dx, dr: d(loss)/d(x), d(loss)/d(r); a cell that is additive
//                                  writes dx only
//
// A cell calls sigmoid, tanh and where, which V brings along, and arithmetic; it never branches.
#pragma once

#include <cmath>

#ifdef __CUDACC__
#define FRNN_HD __host__ __device__ __forceinline__
#else
#define FRNN_HD inline __attribute__((always_inline))
#endif

namespace fastrnn {

inline constexpr int kMaxStates = 4;

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

}  // namespace fastrnn
