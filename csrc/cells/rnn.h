// The simple recurrent network: Elman, "Finding Structure in Time" (1990), as in torch.nn.RNN, with
// tanh or relu.
#pragma once

#include "cell.h"

namespace fastrnn {

struct RnnTanh : Phase {
  static constexpr Gates<1> kGates{{{'h'}}};
  static constexpr int kStates = 1;

  template <class Step>
  FRNN_HD static void forward(Step& s) {
    s.after[0] = tanh(s.gate[0]);
  }

  template <class Step>
  FRNN_HD static void backward(Step& s) {
    using V = typename Step::V;
    s.grad_gate[0] = s.grad[0] * (V(1) - s.after[0] * s.after[0]);
    s.grad[0] = V(0);
  }
};

// The comparisons let NaN through, as torch.relu and its gradient do.
struct RnnRelu : Phase {
  static constexpr Gates<1> kGates{{{'h'}}};
  static constexpr int kStates = 1;

  template <class Step>
  FRNN_HD static void forward(Step& s) {
    using V = typename Step::V;
    s.after[0] = where(s.gate[0] < V(0), V(0), s.gate[0]);
  }

  template <class Step>
  FRNN_HD static void backward(Step& s) {
    using V = typename Step::V;
    s.grad_gate[0] = where(s.after[0] <= V(0), V(0), s.grad[0]);
    s.grad[0] = V(0);
  }
};

}  // namespace fastrnn
