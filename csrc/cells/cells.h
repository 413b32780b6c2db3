// The list of cells: name in Python, type. Nothing else in the C++ sources lists them.
#pragma once

#include "gru.h"
#include "lstm.h"
#include "rnn.h"

#define FRNN_CELLS(X)    \
  X("lstm", Lstm)        \
  X("gru", Gru)          \
  X("rnn_tanh", RnnTanh) \
  X("rnn_relu", RnnRelu)
