// What drivers derive from a cell's declarations: which product feeds which gate, and where a gate
// lies among the weights' rows and in a row of gradients. A driver knows a cell only by these
// numbers and by a table of functions, one for each phase, so that it never asks which cell it has.
//
// Products. The gates of a phase that multiply the same operand are one product. In backward, so
// are all gates of the step that multiply the same operand.
//
// A row of gradients holds the gradients of one step's gates, and what the units' own weights get:
//
//     [gates with an operand, as in weight_hh][gates of x alone][units' own weights]  H each
//     [gates of output-size phases]                                                   P each
//
// The gradients of weight_hh are products of blocks that lie side by side, and those of weight_ih
// of one or two such runs.
#pragma once

#include <cstdint>

#include "cell.h"

namespace fastrnn {

inline constexpr int kMaxPhases = 2, kMaxGates = 6, kMaxOperands = 3, kMaxProducts = 3;

// Blocks [first, first + count) of the recurrent weights, weight_hh or weight_hr, times an operand.
struct Product {
  int operand = 0;
  int first = 0, count = 0;
};

struct GateLayout {
  int x_block = -1;   // of weight_ih; -1: none
  bool is_x = false;  // takes x itself
  int product = -1;   // of the phase's products; -1: none
  int column = 0;     // its place in the product
  int h_block = -1;   // of weight_hh or weight_hr; -1: none
  int place = 0;      // its block in a row of gradients
};

struct PhaseLayout {
  Size size = kHiddenSize;
  int gates = 0, first_gate = 0;
  int products = 0;
  Product product[kMaxProducts];
  int operands = 0, first_operand = 0;  // that it makes
  int saved = 0, first_saved = 0;
  int weights = 0;
  unsigned sees = 0;    // states
  unsigned writes = 0;  // of these

  // How many gates the products before one have.
  constexpr int gates_before(int one) const {
    int gates = 0;
    for (int i = 0; i < one; ++i) gates += product[i].count;
    return gates;
  }
};

// Gradients at [place, place + count) of blocks [block, block + count) of weight_ih.
struct Run {
  int block = 0, place = 0, count = 0;
};

struct CellLayout {
  int states = 0, saved = 0, weights = 0;
  int x_blocks = 0, h_blocks = 0;
  int x_place = -1;  // of the gradient of a gate that takes x itself; -1: none does
  bool projected = false;

  int phases = 0;
  PhaseLayout phase[kMaxPhases];
  GateLayout gate[kMaxGates];
  // By operand; h is operand 0.
  int operands = 1;
  Size operand_size[kMaxOperands] = {};
  Product operand_product[kMaxOperands] = {};  // all gates that multiply it
  // In a row of gradients.
  int x_runs = 0;
  Run x_run[kMaxGates];
  int weights_place = 0;
  int grad_blocks = 0;         // of hidden size
  int output_grad_blocks = 0;  // of output size, behind them

  constexpr Size state_size(int k) const { return projected && k == 0 ? kOutputSize : kHiddenSize; }
  constexpr bool takes_x() const { return x_place >= 0; }
  constexpr int64_t grad_row(int64_t hidden_size, int64_t output_size) const {
    return grad_blocks * hidden_size + output_grad_blocks * output_size;
  }
  // Where the gradients of an operand's gates begin in a row.
  constexpr int64_t grad_of(int operand, int64_t hidden_size) const {
    const int first = operand_product[operand].first;
    return (size_of_gates(operand) == kOutputSize ? grad_blocks : first) * hidden_size;
  }
  // Of the gates that multiply an operand: in a projected cell these are of the other size.
  constexpr Size size_of_gates(int operand) const {
    return projected && operand_size[operand] == kHiddenSize ? kOutputSize : kHiddenSize;
  }
  // The phase that sees a state first: the last one that backward runs.
  constexpr int first_phase_of(int state) const {
    int p = 0;
    while (!contains(phase[p].sees, state)) ++p;
    return p;
  }
};

template <class Cell>
struct LayoutBuilder {
  CellLayout cell{.states = Cell::kStates};
  int gates = 0, r_blocks = 0, x_only = 0;
  unsigned written = 0;

  template <class P>
  constexpr void add_phase() {
    PhaseLayout& phase = cell.phase[cell.phases++];
    phase.size = P::kSize;
    phase.first_gate = gates;
    phase.gates = P::kGates.kCount;
    phase.saved = P::kSaved;
    phase.first_saved = cell.saved;
    phase.operands = P::kOperands;
    phase.first_operand = cell.operands;
    phase.weights = P::kWeights;
    for (int k = 0; k < cell.states; ++k) {
      if (contains(written, k) || cell.state_size(k) != P::kSize) continue;
      phase.sees |= 1u << k;
      if (contains(P::kWrites, k)) phase.writes |= 1u << k;
    }
    written |= phase.writes;
    for (int g = 0; g < phase.gates; ++g) add_gate(phase, P::kGates[g]);
    for (int q = 0; q < P::kOperands; ++q) cell.operand_size[cell.operands++] = P::kSize;
    cell.saved += P::kSaved;
    cell.weights += P::kWeights;
  }

  constexpr void add_gate(PhaseLayout& phase, const Gate& gate) {
    GateLayout& layout = cell.gate[gates++];
    if (gate.from_x == kWx) layout.x_block = cell.x_blocks++;
    layout.is_x = gate.from_x == kX;
    if (gate.operand == kNoOperand) {
      layout.place = x_only++;  // behind the recurrent ones, once these are counted
      return;
    }
    layout.place = layout.h_block = phase.size == kOutputSize ? r_blocks++ : cell.h_blocks++;
    extend(cell.operand_product[gate.operand], gate.operand, layout.h_block);
    if (phase.products == 0 || phase.product[phase.products - 1].operand != gate.operand) {
      ++phase.products;
    }
    layout.product = phase.products - 1;
    Product& product = phase.product[layout.product];
    extend(product, gate.operand, layout.h_block);
    layout.column = layout.h_block - product.first;
  }

  static constexpr void extend(Product& product, int operand, int block) {
    if (product.count == 0) product = {operand, block, 0};
    ++product.count;
  }

  constexpr void place_gates() {
    cell.weights_place = cell.h_blocks + x_only;
    cell.grad_blocks = cell.weights_place + cell.weights;
    cell.output_grad_blocks = r_blocks;
    for (int g = 0; g < gates; ++g) {
      GateLayout& gate = cell.gate[g];
      if (gate.h_block < 0) gate.place += cell.h_blocks;
      if (gate.is_x) cell.x_place = gate.place;
    }
    for (int block = 0; block < cell.x_blocks; ++block) {
      int place = 0;
      for (const GateLayout& gate : cell.gate) {
        if (gate.x_block == block) place = gate.place;
      }
      Run& run = cell.x_run[cell.x_runs ? cell.x_runs - 1 : 0];
      if (cell.x_runs && run.place + run.count == place) {
        ++run.count;
      } else {
        cell.x_run[cell.x_runs++] = {block, place, 1};
      }
    }
  }
};

// What the contract asks for and a declaration might miss.
template <class Cell, class... P>
constexpr bool is_well_formed(const CellLayout& cell, List<P...>) {
  unsigned written = 0;
  bool well = true;
  for (int p = 0; p < cell.phases; ++p) {
    const PhaseLayout& phase = cell.phase[p];
    written |= phase.writes;
    // Phases of output size know neither x nor weights of their own.
    if (phase.size == kOutputSize) well = well && phase.saved == 0 && phase.weights == 0;
    for (int i = 0; i < phase.products; ++i) {
      const int operand = phase.product[i].operand;
      well = well && operand < phase.first_operand;
      well = well && cell.size_of_gates(operand) == phase.size;
    }
  }
  const PhaseLayout& last = cell.phase[cell.phases - 1];
  well = well && contains(last.writes, 0) && last.operands == 0;
  well = well && written == (1u << cell.states) - 1;
  // An operand's gates lie side by side, so that they are one product.
  for (const GateLayout& gate : cell.gate) {
    for (int q = 0; q < cell.operands; ++q) well = well && cell.operand_product[q].count > 0;
    if (gate.h_block < 0) continue;
    for (int p = 0; p < cell.phases; ++p) {
      const PhaseLayout& phase = cell.phase[p];
      const int64_t g = &gate - cell.gate;
      if (g < phase.first_gate || g >= phase.first_gate + phase.gates) continue;
      const Product& all = cell.operand_product[phase.product[gate.product].operand];
      well = well && gate.h_block < all.first + all.count;
    }
  }
  return well;
}

template <class Cell, class... P>
constexpr CellLayout make_layout(List<P...>) {
  LayoutBuilder<Cell> builder;
  builder.cell.projected = (... || (P::kSize == kOutputSize));
  if (builder.cell.projected) builder.cell.operand_size[0] = kOutputSize;
  (builder.template add_phase<P>(), ...);
  builder.place_gates();
  return builder.cell;
}

template <class Cell>
inline constexpr CellLayout kLayout = [] {
  constexpr CellLayout layout = make_layout<Cell>(PhasesOf<Cell>{});
  static_assert(is_well_formed<Cell>(layout, PhasesOf<Cell>{}),
                "each state must be written by one phase of its size, h by the last one; a gate "
                "must multiply h or an operand that an earlier phase makes; gates that multiply "
                "the same operand must be listed side by side");
  return layout;
}();

}  // namespace fastrnn
