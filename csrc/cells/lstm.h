// Long short-term memory: Hochreiter & Schmidhuber, "Long Short-Term Memory" (1997), with the
// forget gate of Gers et al., "Learning to Forget" (2000), as in torch.nn.LSTM; the same without
// one of its gates; and the same with peepholes. Gates i f g o, states h c.
#pragma once

#include "cell.h"
#include "projected.h"

namespace fastrnn {

// A gate that is left out is 1: LSTM-i, -f and -o of Jozefowicz, Zaremba & Sutskever, "An Empirical
// Exploration of Recurrent Network Architectures" (2015). The candidate g is always there.
template <bool kInput, bool kForget, bool kOutput>
struct LstmWith : Phase {
  static constexpr int kI = 0, kF = kInput, kG = kInput + kForget, kO = kG + 1;
  static constexpr int kStates = 2, kSaved = kG + 1 + kOutput;
  static constexpr Gates<kSaved> kGates = [] {
    Gates<kSaved> gates{};
    if constexpr (kInput) gates.gate[kI] = {'i'};
    if constexpr (kForget) gates.gate[kF] = {'f'};
    gates.gate[kG] = {'g'};
    if constexpr (kOutput) gates.gate[kO] = {'o'};
    return gates;
  }();

  template <class Step>
  FRNN_HD static void forward(Step& s) {
    if constexpr (kInput) s.saved[kI] = sigmoid(s.gate[kI]);
    if constexpr (kForget) s.saved[kF] = sigmoid(s.gate[kF]);
    s.saved[kG] = tanh(s.gate[kG]);
    if constexpr (kOutput) s.saved[kO] = sigmoid(s.gate[kO]);
    s.after[1] = f(s) * s.before[1] + i(s) * s.saved[kG];
    s.after[0] = output(s);
  }

  template <class Step>
  FRNN_HD static void backward(Step& s) {
    using V = typename Step::V;
    V g = s.saved[kG], t = tanh(s.after[1]);
    V dc = s.grad[1] + s.grad[0] * o(s) * (V(1) - t * t);
    if constexpr (kInput) s.grad_gate[kI] = dc * g * i(s) * (V(1) - i(s));
    if constexpr (kForget) s.grad_gate[kF] = dc * s.before[1] * f(s) * (V(1) - f(s));
    s.grad_gate[kG] = dc * i(s) * (V(1) - g * g);
    if constexpr (kOutput) s.grad_gate[kO] = s.grad[0] * t * o(s) * (V(1) - o(s));
    s.grad[0] = V(0);
    s.grad[1] = dc * f(s);
  }

  // h of what backward has. A cell with this function never reads h, and may be projected.
  template <class Step>
  FRNN_HD static auto output(const Step& s) {
    return o(s) * tanh(s.after[1]);
  }

 private:
  template <bool kGiven, int k, class Step>
  FRNN_HD static auto gate_or_1(const Step& s) {
    if constexpr (kGiven) {
      return s.saved[k];
    } else {
      return typename Step::V(1);
    }
  }
  template <class Step>
  FRNN_HD static auto i(const Step& s) {
    return gate_or_1<kInput, kI>(s);
  }
  template <class Step>
  FRNN_HD static auto f(const Step& s) {
    return gate_or_1<kForget, kF>(s);
  }
  template <class Step>
  FRNN_HD static auto o(const Step& s) {
    return gate_or_1<kOutput, kO>(s);
  }
};

using Lstm = LstmWith<true, true, true>;
using LstmNoInput = LstmWith<false, true, true>;
using LstmNoForget = LstmWith<true, false, true>;
using LstmNoOutput = LstmWith<true, true, false>;

// The gates see c, too: Gers & Schmidhuber, "Recurrent Nets that Time and Count" (2000). i and f
// see it before the step, o sees it after. The unit's own weights are those of i, f and o.
struct LstmPeephole : Phase {
  static constexpr Gates<4> kGates{{{'i'}, {'f'}, {'g'}, {'o'}}};
  static constexpr int kStates = 2, kSaved = 4, kWeights = 3;

  template <class Step>
  FRNN_HD static void forward(Step& s) {
    auto i = sigmoid(s.gate[0] + s.weight[0] * s.before[1]);
    auto f = sigmoid(s.gate[1] + s.weight[1] * s.before[1]);
    auto g = tanh(s.gate[2]);
    s.after[1] = f * s.before[1] + i * g;
    auto o = sigmoid(s.gate[3] + s.weight[2] * s.after[1]);
    s.saved[0] = i, s.saved[1] = f, s.saved[2] = g, s.saved[3] = o;
    s.after[0] = output(s);
  }

  template <class Step>
  FRNN_HD static void backward(Step& s) {
    using V = typename Step::V;
    V i = s.saved[0], f = s.saved[1], g = s.saved[2], o = s.saved[3], t = tanh(s.after[1]);
    s.grad_gate[3] = s.grad[0] * t * o * (V(1) - o);
    V dc = s.grad[1] + s.grad[0] * o * (V(1) - t * t) + s.grad_gate[3] * s.weight[2];
    s.grad_gate[0] = dc * g * i * (V(1) - i);
    s.grad_gate[1] = dc * s.before[1] * f * (V(1) - f);
    s.grad_gate[2] = dc * i * (V(1) - g * g);
    s.grad[0] = V(0);
    s.grad[1] = dc * f + s.grad_gate[0] * s.weight[0] + s.grad_gate[1] * s.weight[1];
  }

  template <class Step>
  FRNN_HD static void weight_gradient(Step& s) {
    s.grad_weight[0] = s.grad_gate[0] * s.before[1];
    s.grad_weight[1] = s.grad_gate[1] * s.before[1];
    s.grad_weight[2] = s.grad_gate[3] * s.after[1];
  }

  template <class Step>
  FRNN_HD static auto output(const Step& s) {
    return s.saved[3] * tanh(s.after[1]);
  }
};

using LstmProjected = Projected<Lstm>;
using LstmNoInputProjected = Projected<LstmNoInput>;
using LstmNoForgetProjected = Projected<LstmNoForget>;
using LstmNoOutputProjected = Projected<LstmNoOutput>;
using LstmPeepholeProjected = Projected<LstmPeephole>;

}  // namespace fastrnn
