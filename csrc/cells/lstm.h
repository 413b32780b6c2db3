// Long short-term memory with forget gate: Hochreiter & Schmidhuber, "Long Short-Term Memory"
// (1997); Gers et al., "Learning to Forget" (2000). Gates i f g o, as in torch.nn.LSTM.
#pragma once

#include "cell.h"

namespace fastrnn {

struct Lstm {
  static constexpr int kGates = 4, kStates = 2, kSaved = 4;
  static constexpr bool kAdditive = true, kProjected = true;

  template <class V>
  FRNN_HD static void forward(const V (&x)[4], const V (&r)[4], const V (&s)[2], V (&s1)[2],
                              V (&z)[4]) {
    V i = sigmoid(x[0] + r[0]);
    V f = sigmoid(x[1] + r[1]);
    V g = tanh(x[2] + r[2]);
    V o = sigmoid(x[3] + r[3]);
    s1[1] = f * s[1] + i * g;
    s1[0] = o * tanh(s1[1]);
    z[0] = i, z[1] = f, z[2] = g, z[3] = o;
  }

  template <class V>
  FRNN_HD static void backward(const V (&z)[4], const V (&s)[2], const V (&s1)[2], V (&ds)[2],
                               V (&dx)[4], V (&)[4]) {
    V i = z[0], f = z[1], g = z[2], o = z[3];
    V t = tanh(s1[1]);
    V dc = ds[1] + ds[0] * o * (V(1) - t * t);
    dx[0] = dc * g * i * (V(1) - i);
    dx[1] = dc * s[1] * f * (V(1) - f);
    dx[2] = dc * i * (V(1) - g * g);
    dx[3] = ds[0] * t * o * (V(1) - o);
    ds[0] = V(0);
    ds[1] = dc * f;
  }
};

}  // namespace fastrnn
