// The list of cells: name in Python, type. Nothing else in the C++ sources lists them. The sources
// of an instruction set include it within their target region, for the equations. A name may
// stand here several times, for forms that differ in the weights that they take: the weights of a
// call say which one it is.
#pragma once

#include <iterator>
#include <string_view>

#include "gru.h"
#include "layout.h"
#include "lstm.h"
#include "mut.h"
#include "rnn.h"

#define FRNN_CELLS(X)                       \
  X("lstm", Lstm)                           \
  X("lstm", LstmProjected)                  \
  X("lstm_i", LstmNoInput)                  \
  X("lstm_i", LstmNoInputProjected)         \
  X("lstm_f", LstmNoForget)                 \
  X("lstm_f", LstmNoForgetProjected)        \
  X("lstm_o", LstmNoOutput)                 \
  X("lstm_o", LstmNoOutputProjected)        \
  X("lstm_peephole", LstmPeephole)          \
  X("lstm_peephole", LstmPeepholeProjected) \
  X("gru", Gru)                             \
  X("gru_before", GruBefore)                \
  X("rnn_tanh", RnnTanh)                    \
  X("rnn_relu", RnnRelu)                    \
  X("mut1", Mut1)                           \
  X("mut1", Mut1Learned)                    \
  X("mut2", Mut2)                           \
  X("mut2", Mut2Learned)                    \
  X("mut3", Mut3)

namespace fastrnn {

struct NamedLayout {
  std::string_view name;
  const CellLayout& layout;
};

// The cells in the order of FRNN_CELLS.
inline constexpr NamedLayout kCells[] = {
#define FRNN_LAYOUT(name, Cell) {name, kLayout<Cell>},
    FRNN_CELLS(FRNN_LAYOUT)
#undef FRNN_LAYOUT
};

static_assert(
    [] {
      for (const NamedLayout* a = std::begin(kCells); a + 1 != std::end(kCells); ++a) {
        const auto& [name, cell] = a[1];
        if (a->name != name) continue;
        if (a->layout.h_blocks != cell.h_blocks || a->layout.states != cell.states ||
            a->layout.saved != cell.saved || a->layout.weights != cell.weights) {
          return false;
        }
      }
      return true;
    }(),
    "the forms of a cell must agree in all but weight_ih and weight_hr");

}  // namespace fastrnn
