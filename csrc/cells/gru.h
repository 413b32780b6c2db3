// Gated recurrent unit: Cho et al., "Learning Phrase Representations using RNN Encoder-Decoder"
// (2014). Gates r z n.
#pragma once

#include "cell.h"
#include "reset.h"

namespace fastrnn {

// The reset gate acts after the recurrent product, as in torch.nn.GRU, so that n needs apart what
// it gets from x and from h.
struct Gru : Phase {
  static constexpr Gates<4> kGates{{{'r'}, {'z'}, {'n', kWx, kNoOperand}, {'n', kNoX, kH}}};
  static constexpr int kStates = 1, kSaved = 4;

  template <class Step>
  FRNN_HD static void forward(Step& s) {
    auto from_x = s.gate[2], from_h = s.gate[3];
    auto r = sigmoid(s.gate[0]);
    auto z = sigmoid(s.gate[1]);
    auto n = tanh(from_x + r * from_h);
    s.after[0] = n + z * (s.before[0] - n);
    s.saved[0] = r, s.saved[1] = z, s.saved[2] = n, s.saved[3] = from_h;
  }

  template <class Step>
  FRNN_HD static void backward(Step& s) {
    using V = typename Step::V;
    V r = s.saved[0], z = s.saved[1], n = s.saved[2], from_h = s.saved[3];
    V dh = s.grad[0], dn = dh * (V(1) - z) * (V(1) - n * n);
    s.grad_gate[0] = dn * from_h * r * (V(1) - r);
    s.grad_gate[1] = dh * (s.before[0] - n) * z * (V(1) - z);
    s.grad_gate[2] = dn;
    s.grad_gate[3] = dn * r;
    s.grad[0] = dh * z;
  }
};

// The reset gate acts on h before the recurrent product, as published.
struct GruBefore {
  static constexpr int kStates = 1;
  enum Operand { kResetH = 1 };

  struct Reset : ResetOfH {
    static constexpr Gates<1> kGates{{{'r'}}};
  };

  struct Candidate : Phase {
    static constexpr Gates<2> kGates{{{'z'}, {'n', kWx, kResetH}}};
    static constexpr int kSaved = 2;

    template <class Step>
    FRNN_HD static void forward(Step& s) {
      auto z = sigmoid(s.gate[0]);
      auto n = tanh(s.gate[1]);
      s.after[0] = n + z * (s.before[0] - n);
      s.saved[0] = z, s.saved[1] = n;
    }

    template <class Step>
    FRNN_HD static void backward(Step& s) {
      using V = typename Step::V;
      V z = s.saved[0], n = s.saved[1], dh = s.grad[0];
      s.grad_gate[0] = dh * (s.before[0] - n) * z * (V(1) - z);
      s.grad_gate[1] = dh * (V(1) - z) * (V(1) - n * n);
      s.grad[0] = dh * z;
    }
  };

  using Phases = List<Reset, Candidate>;
};

}  // namespace fastrnn
