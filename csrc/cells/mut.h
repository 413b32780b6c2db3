// The three best of the architectures that a search by mutation found: Jozefowicz, Zaremba &
// Sutskever, "An Empirical Exploration of Recurrent Network Architectures" (2015). They share
// h' = n z + h (1 - z), where the paper's z is 1 minus the z of a GRU. A gate that takes x itself
// may take a learned W_ih x in its place, which makes a layer of any input size.
#pragma once

#include "cell.h"
#include "reset.h"

namespace fastrnn {

// z sees x alone; the candidate sees tanh(x).
template <FromX kFromX>
struct Mut1Of {
  static constexpr int kStates = 1;
  enum Operand { kResetH = 1 };

  struct Reset : ResetOfH {
    static constexpr Gates<1> kGates{{{'r'}}};
  };

  struct Candidate : Phase {
    static constexpr Gates<3> kGates{
        {{'z', kWx, kNoOperand}, {'n', kFromX, kNoOperand}, {'n', kNoX, kResetH}}};
    static constexpr int kSaved = 3;

    template <class Step>
    FRNN_HD static void forward(Step& s) {
      auto z = sigmoid(s.gate[0]);
      auto t = tanh(s.gate[1]);
      auto n = tanh(s.gate[2] + t);
      s.after[0] = s.before[0] + z * (n - s.before[0]);
      s.saved[0] = z, s.saved[1] = n, s.saved[2] = t;
    }

    template <class Step>
    FRNN_HD static void backward(Step& s) {
      using V = typename Step::V;
      V z = s.saved[0], n = s.saved[1], t = s.saved[2];
      V dh = s.grad[0], dn = dh * z * (V(1) - n * n);
      s.grad_gate[0] = dh * (n - s.before[0]) * z * (V(1) - z);
      s.grad_gate[1] = dn * (V(1) - t * t);
      s.grad_gate[2] = dn;
      s.grad[0] = dh * (V(1) - z);
    }
  };

  using Phases = List<Reset, Candidate>;
};

// The candidate of MUT2 and MUT3.
struct MutCandidate : Phase {
  static constexpr int kSaved = 2;

  template <class Step>
  FRNN_HD static void forward(Step& s) {
    auto z = sigmoid(s.gate[0]);
    auto n = tanh(s.gate[1]);
    s.after[0] = s.before[0] + z * (n - s.before[0]);
    s.saved[0] = z, s.saved[1] = n;
  }

  template <class Step>
  FRNN_HD static void backward(Step& s) {
    using V = typename Step::V;
    V z = s.saved[0], n = s.saved[1], dh = s.grad[0];
    s.grad_gate[0] = dh * (n - s.before[0]) * z * (V(1) - z);
    s.grad_gate[1] = dh * z * (V(1) - n * n);
    s.grad[0] = dh * (V(1) - z);
  }
};

// r sees x itself.
template <FromX kFromX>
struct Mut2Of {
  static constexpr int kStates = 1;
  enum Operand { kResetH = 1 };

  struct Reset : ResetOfH {
    static constexpr Gates<1> kGates{{{'r', kFromX}}};
  };
  struct Candidate : MutCandidate {
    static constexpr Gates<2> kGates{{{'z'}, {'n', kWx, kResetH}}};
  };

  using Phases = List<Reset, Candidate>;
};

// z sees tanh(h).
struct Mut3 {
  static constexpr int kStates = 1;
  enum Operand { kResetH = 1, kTanhH };

  struct Reset : ResetOfH {
    static constexpr Gates<1> kGates{{{'r'}}};
    static constexpr int kOperands = 2;

    template <class Step>
    FRNN_HD static void operands(Step& s) {
      ResetOfH::operands(s);
      s.operand[1] = tanh(s.before[0]);
    }

    template <class Step>
    FRNN_HD static void backward(Step& s) {
      using V = typename Step::V;
      ResetOfH::backward(s);
      V t = tanh(s.before[0]);
      s.grad[0] = s.grad[0] + s.grad_operand[1] * (V(1) - t * t);
    }
  };
  struct Candidate : MutCandidate {
    static constexpr Gates<2> kGates{{{'z', kWx, kTanhH}, {'n', kWx, kResetH}}};
  };

  using Phases = List<Reset, Candidate>;
};

using Mut1 = Mut1Of<kX>;
using Mut1Learned = Mut1Of<kWx>;
using Mut2 = Mut2Of<kX>;
using Mut2Learned = Mut2Of<kWx>;

}  // namespace fastrnn
