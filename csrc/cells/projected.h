// h = W_hr h', where h' is what the cell alone has for h: Sak et al., "Long Short-Term Memory Based
// Recurrent Neural Network Architectures" (2014); proj_size in torch.nn.LSTM.
#pragma once

#include "cell.h"

namespace fastrnn {

template <class Cell>
struct Projected {
  static constexpr int kStates = Cell::kStates;
  enum Operand { kUnprojectedH = 1 };

  struct Unprojected : Cell {
    static constexpr int kOperands = 1;
    static constexpr unsigned kWrites = kAllButH;

    template <class Step>
    FRNN_HD static void operands(Step& s) {
      s.operand[0] = Cell::output(s);
    }

    // To this phase, the cell's h is no state but the operand.
    template <class Step>
    FRNN_HD static void backward(Step& s) {
      s.grad[0] = s.grad_operand[0];
      Cell::backward(s);
    }
  };

  struct Projection : Phase {
    static constexpr Gates<1> kGates{{{'p', kNoX, kUnprojectedH}}};
    static constexpr unsigned kWrites = kOnlyH;
    static constexpr Size kSize = kOutputSize;

    template <class Step>
    FRNN_HD static void forward(Step& s) {
      s.after[0] = s.gate[0];
    }

    template <class Step>
    FRNN_HD static void backward(Step& s) {
      s.grad_gate[0] = s.grad[0];
      s.grad[0] = typename Step::V(0);
    }
  };

  using Phases = List<Unprojected, Projection>;
};

}  // namespace fastrnn
