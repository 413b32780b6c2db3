// The simple recurrent network: Elman, "Finding Structure in Time" (1990), as in torch.nn.RNN, with
// tanh or relu.
#pragma once

#include "cell.h"

namespace fastrnn {

struct RnnTanh {
  static constexpr int kGates = 1, kStates = 1, kSaved = 0;
  static constexpr bool kAdditive = true, kProjected = false;

  template <class V>
  FRNN_HD static void forward(const V (&x)[1], const V (&r)[1], const V (&)[1], V (&s1)[1],
                              V (&)[1]) {
    s1[0] = tanh(x[0] + r[0]);
  }

  template <class V>
  FRNN_HD static void backward(const V (&)[1], const V (&)[1], const V (&s1)[1], V (&ds)[1],
                               V (&dx)[1], V (&)[1]) {
    dx[0] = ds[0] * (V(1) - s1[0] * s1[0]);
    ds[0] = V(0);
  }
};

struct RnnRelu {
  static constexpr int kGates = 1, kStates = 1, kSaved = 0;
  static constexpr bool kAdditive = true, kProjected = false;

  // The comparisons let NaN through, as torch.relu and its gradient do.
  template <class V>
  FRNN_HD static void forward(const V (&x)[1], const V (&r)[1], const V (&)[1], V (&s1)[1],
                              V (&)[1]) {
    V a = x[0] + r[0];
    s1[0] = where(a < V(0), V(0), a);
  }

  template <class V>
  FRNN_HD static void backward(const V (&)[1], const V (&)[1], const V (&s1)[1], V (&ds)[1],
                               V (&dx)[1], V (&)[1]) {
    dx[0] = where(s1[0] <= V(0), V(0), ds[0]);
    ds[0] = V(0);
  }
};

}  // namespace fastrnn
