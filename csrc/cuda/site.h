// One CTA of a persistent kernel: its rows and units, what it keeps in shared memory, and its part
// of the product.
#pragma once

#include "args.h"
#include "exchange.h"
#include "resident.h"
#include "unit.h"

namespace fastrnn::cuda {

// What a CTA is responsible for. The grid is [groups * ctas, directions].
template <class Cell, class Math, bool kBackward>
struct Site {
  using T = typename Math::T;
  using Unit = PhaseUnits<Cell, 0, T>;
  static constexpr int N = kPack<T>;
  static constexpr CellLayout kCell = kLayout<Cell>;
  static constexpr int kProductGates = kCell.h_blocks;
  static constexpr int kRowGates = kBackward ? 1 : kProductGates;
  static constexpr int kDepthGates = kBackward ? kProductGates : 1;
  static constexpr int kBiases = count_biases(kCell, kBackward);

  const ScanParams& p;
  const PersistentArgs& a;
  const Geometry& g;
  char* shared;
  int direction, group, rank;
  int64_t first_row, first_unit;
  int rows, packs;
  int64_t steps;
  int own_row[kPacks], own_word[kPacks];  // of this thread; row -1: none

  FRNN_DEVICE explicit Site(const PersistentArgs& args)
      : p(args.p),
        a(args),
        g(args.g),
        shared(dynamic_shared()),
        direction(blockIdx.y),
        group(blockIdx.x / args.g.ctas),
        rank(blockIdx.x % args.g.ctas),
        first_row(int64_t(group) * args.g.rows),
        first_unit(int64_t(rank) * args.g.units),
        packs(args.g.units / N) {
    const int64_t left = p.schedule.batch - first_row;
    rows = int(left < g.rows ? left : g.rows);
    steps = p.schedule.length(first_row);
#pragma unroll
    for (int i = 0; i < kPacks; ++i) {
      const int item = threadIdx.x + i * kThreads;
      own_row[i] = item < rows * packs ? item / packs : -1;
      own_word[i] = item % packs;
    }
  }

  // The i-th step in the order in which this pass goes through them.
  FRNN_DEVICE StepPlace step(int64_t i) const {
    const bool ascending = (direction == 0) != kBackward;
    return StepPlace(p.schedule, ascending ? i : steps - 1 - i);
  }
  // The pack of a row and a word, which count from the group's first row and from from_unit.
  FRNN_DEVICE Units units(int row, int word, int64_t from_unit) const {
    const int64_t unit = from_unit + word * N;
    return {direction, first_row + row, unit, unit < p.hidden_size ? N : 0, true};
  }
  FRNN_DEVICE Units units(int row, int word) const { return units(row, word, first_unit); }

  // ---- shared memory ----------------------------------------------------------------------------

  FRNN_DEVICE uint32_t* operand() const { return reinterpret_cast<uint32_t*>(shared); }
  FRNN_DEVICE float* partials() const { return reinterpret_cast<float*>(shared + g.partials); }
  FRNN_DEVICE Pack<float, N>& carry(int k, int row, int word) const {
    return reinterpret_cast<Pack<float, N>*>(shared + g.carry)[(k * g.rows + row) * packs + word];
  }
  // The gates' biases, and behind them the units' own weights.
  FRNN_DEVICE Pack<float, N>& vector(int i, int word) const {
    return reinterpret_cast<Pack<float, N>*>(shared + g.vectors)[i * packs + word];
  }
  FRNN_DEVICE RowPlace& place(int row) const {
    return reinterpret_cast<RowPlace*>(shared + g.places)[row];
  }

  FRNN_DEVICE void fill_places() const {
    for (int row = threadIdx.x; row < rows; row += kThreads) {
      place(row) = RowPlace(p, Cell::kStates, direction, first_row + row);
    }
  }

  FRNN_DEVICE void fill_vectors() const {
    const Weights& w = p.weights[direction];
    auto load = [&](const void* from, int block, const Units& u) -> Pack<float, N> {
      if (!from) return {};
      const T* at = static_cast<const T*>(from) + block * p.hidden_size + u.unit;
      return convert<float>(load_units(at, u));
    };
    for (int word = threadIdx.x; word < packs; word += kThreads) {
      const Units u = units(0, word);
      unrolled<kBiases>([&](auto gate) {
        constexpr GateLayout kGate = Unit::template kGateLayout<gate>;
        Pack<float, N> bias{};
        if constexpr (kGate.x_block >= 0) add(bias, load(w.bias_ih, kGate.x_block, u));
        if constexpr (kGate.h_block >= 0) add(bias, load(w.bias_hh, kGate.h_block, u));
        vector(gate, word) = bias;
      });
      for (int i = 0; i < Unit::kWeights; ++i) vector(kBiases + i, word) = load(w.peephole, i, u);
    }
  }
  FRNN_DEVICE void load_own_weights(int word, typename Unit::OwnWeights& weights) const {
    for (int i = 0; i < Unit::kWeights; ++i) weights[i] = vector(kBiases + i, word);
  }

  FRNN_DEVICE void zero_operand() const {
    const int words = g.operand_slots * g.padded_rows() * g.stride;
    for (int i = threadIdx.x; i < words; i += kThreads) operand()[i] = 0;
  }

  // ---- the product ------------------------------------------------------------------------------

  // Of the operand's row, where the word `word` of this CTA's gate `gate` lies.
  FRNN_DEVICE int operand_word(int gate, int word) const {
    return (gate * g.padded_hidden + int(first_unit)) / N + word;
  }
  // The product's weight rows of a pack, by gate: the sums over the slices of the depth.
  FRNN_DEVICE void add_sums(int row, int word, Pack<float, N> (&totals)[kRowGates]) const {
    const float* from = partials() + row * g.partial_stride + word * N;
#pragma unroll 1
    for (int q = 0; q < g.slices; ++q) {
#pragma unroll
      for (int gate = 0; gate < kRowGates; ++gate) {
        add(totals[gate], *reinterpret_cast<const Pack<float, N>*>(from + gate * g.units));
      }
      from += g.padded_rows() * g.partial_stride;
    }
  }

  FRNN_DEVICE ExchangeSite exchange() const {
    const int row_words = g.padded_hidden * kDepthGates / N;
    const int64_t index = int64_t(direction) * g.groups + group;
    return {g,
            operand(),
            reinterpret_cast<MessageBarrier*>(shared + g.barriers),
            a.operands + index * 2 * g.rows * row_words,
            a.flags + index * g.ctas,
            rank,
            rows,
            row_words};
  }

  FRNN_DEVICE WeightSlice<T> weights() const {
    const int64_t h = p.hidden_size;
    return {.data = static_cast<const T*>(a.weights[direction]),
            .row_stride = kBackward ? kProductGates * h : h,
            .hidden_size = h,
            .first_unit = first_unit,
            .units = g.units,
            .gates = kRowGates,
            .padded_hidden = g.padded_hidden,
            .depth_gates = kDepthGates,
            .whole = a.whole_weights};
  }

  // Calls f(i, row, word) for each pack of units that is this thread's; i counts them.
  template <class F>
  FRNN_DEVICE void each_pack(F f) const {
#pragma unroll
    for (int i = 0; i < kPacks; ++i) {
      if (own_row[i] >= 0) f(i, own_row[i], own_word[i]);
    }
  }
};

}  // namespace fastrnn::cuda
