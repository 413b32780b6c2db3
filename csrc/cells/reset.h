// The phase that begins a step of the cells whose reset gate acts on h before the product: r, and
// the operand r * h, which the candidate multiplies. A cell says what r is the sum of.
#pragma once

#include "cell.h"

namespace fastrnn {

struct ResetOfH : Phase {
  static constexpr int kSaved = 1, kOperands = 1;
  static constexpr unsigned kWrites = kNoStates;

  template <class Step>
  FRNN_HD static void forward(Step& s) {
    s.saved[0] = sigmoid(s.gate[0]);
  }

  template <class Step>
  FRNN_HD static void operands(Step& s) {
    s.operand[0] = s.saved[0] * s.before[0];
  }

  template <class Step>
  FRNN_HD static void backward(Step& s) {
    using V = typename Step::V;
    V r = s.saved[0], d = s.grad_operand[0];
    s.grad_gate[0] = d * s.before[0] * r * (V(1) - r);
    s.grad[0] = s.grad[0] + d * r;
  }
};

}  // namespace fastrnn
