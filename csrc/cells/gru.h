// Gated recurrent unit: Cho et al., "Learning Phrase Representations using RNN Encoder-Decoder"
// (2014), with the reset gate applied after the recurrent product. Gates r z n, as in torch.nn.GRU.
#pragma once

#include "cell.h"

namespace fastrnn {

struct Gru {
  static constexpr int kGates = 3, kStates = 1, kSaved = 4;
  static constexpr bool kAdditive = false, kProjected = false;

  template <class V>
  FRNN_HD static void forward(const V (&x)[3], const V (&r)[3], const V (&s)[1], V (&s1)[1],
                              V (&z)[4]) {
    V reset = sigmoid(x[0] + r[0]);
    V update = sigmoid(x[1] + r[1]);
    V candidate = tanh(x[2] + reset * r[2]);
    s1[0] = candidate + update * (s[0] - candidate);
    z[0] = reset, z[1] = update, z[2] = candidate, z[3] = r[2];
  }

  template <class V>
  FRNN_HD static void backward(const V (&z)[4], const V (&s)[1], const V (&)[1], V (&ds)[1],
                               V (&dx)[3], V (&dr)[3]) {
    V reset = z[0], update = z[1], candidate = z[2], recurrent = z[3];
    V d = ds[0];
    dx[1] = d * (s[0] - candidate) * update * (V(1) - update);
    dx[2] = d * (V(1) - update) * (V(1) - candidate * candidate);
    dx[0] = dx[2] * recurrent * reset * (V(1) - reset);
    dr[0] = dx[0];
    dr[1] = dx[1];
    dr[2] = dx[2] * reset;
    ds[0] = d * update;
  }
};

}  // namespace fastrnn
