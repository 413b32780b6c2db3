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
// What is multiplied by x or by an operand at once lies side by side in it: all gates of an
// operand, and the gates of x in as few pieces as their order allows.
#pragma once

#include <cstdint>

#include "cell.h"

namespace fastrnn {

inline constexpr int kMaxPhases = 2, kMaxGates = 6, kMaxOperands = 3, kMaxProducts = 2;

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
struct Span {
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
  int x_spans = 0;
  Span x_span[kMaxGates];
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
      Span& span = cell.x_span[cell.x_spans ? cell.x_spans - 1 : 0];
      if (cell.x_spans && span.place + span.count == place) {
        ++span.count;
      } else {
        cell.x_span[cell.x_spans++] = {block, place, 1};
      }
    }
  }
};

// What the contract asks for and a declaration might miss; a cell lacks nothing where all hold.
struct Faults {
  bool states, sizes, gates, operands, side_by_side, own_weights, x;
  constexpr bool any() const {
    return states || sizes || gates || operands || side_by_side || own_weights || x;
  }
};

template <class Cell, class... P>
constexpr Faults find_faults(const CellLayout& cell, List<P...>) {
  Faults faults{};
  const PhaseLayout& last = cell.phase[cell.phases - 1];
  for (int k = 0; k < cell.states; ++k) {
    // A default of all states means those of the phase's size.
    auto writes = [&](Size size, unsigned declared) {
      return contains(declared, k) && cell.state_size(k) == size;
    };
    faults.states = faults.states || (0 + ... + int(writes(P::kSize, P::kWrites))) != 1;
  }
  faults.states = faults.states || cell.states > kMaxStates || !contains(last.writes, 0);
  int x_itself = 0, phases_with_weights = 0;
  for (int p = 0; p < cell.phases; ++p) {
    const PhaseLayout& phase = cell.phase[p];
    const bool output = phase.size == kOutputSize;
    faults.operands = faults.operands || (phase.operands > 0) != (p < cell.phases - 1);
    phases_with_weights += phase.weights > 0;
    faults.sizes =
        faults.sizes || (output && (phase.operands > 0 || phase.saved > 0 || phase.weights > 0));
    for (int g = phase.first_gate; g < phase.first_gate + phase.gates; ++g) {
      const GateLayout& gate = cell.gate[g];
      const bool has_x = gate.x_block >= 0 || gate.is_x;
      x_itself += gate.is_x;
      faults.gates = faults.gates || (!has_x && gate.product < 0);
      faults.sizes = faults.sizes || (output && has_x);
      if (gate.product < 0) continue;
      const int operand = phase.product[gate.product].operand;
      const Product& all = cell.operand_product[operand];
      faults.operands = faults.operands || operand >= phase.first_operand;
      faults.sizes = faults.sizes || cell.size_of_gates(operand) != phase.size;
      faults.side_by_side = faults.side_by_side || gate.h_block >= all.first + all.count;
    }
  }
  for (int q = 0; q < cell.operands; ++q) {
    faults.operands = faults.operands || cell.operand_product[q].count == 0;
  }
  faults.sizes = faults.sizes || cell.output_grad_blocks > 1;
  faults.own_weights = phases_with_weights > 1;
  faults.x = x_itself > 1 || cell.x_blocks == 0;
  return faults;
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
  constexpr Faults faults = find_faults<Cell>(layout, PhasesOf<Cell>{});
  static_assert(!faults.states,
                "each state must be written by exactly one phase, and h by the last one");
  static_assert(!faults.sizes,
                "a phase of output size has one gate, without x, and makes and saves nothing; in a "
                "projected cell, gates of one size multiply operands of the other");
  static_assert(!faults.gates, "a gate must be the sum of something");
  static_assert(!faults.operands,
                "a gate must multiply h or an operand that an earlier phase makes; all phases but "
                "the last make some, and each operand is multiplied");
  static_assert(!faults.side_by_side,
                "gates that multiply the same operand must be listed side by side");
  static_assert(!faults.own_weights, "only one phase may have weights of the units' own");
  static_assert(!faults.x, "some gate must take W_ih x, and only one x itself");
  return layout;
}();

}  // namespace fastrnn
