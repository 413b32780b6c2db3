// One CTA of a persistent kernel: which rows and units are its own, what it keeps in shared memory,
// and where a step's values lie.
#pragma once

#include "args.h"
#include "exchange.h"
#include "resident.h"
#include "unit.h"

namespace fastrnn::cuda {

// Where the rows of a step lie.
struct Step {
  int64_t t;
  int64_t at;   // in a sequence, in step strides
  int64_t row;  // of the group's first and this direction, in [rows that run, D, features]
};

// What a CTA is responsible for. The grid is [groups * ctas, directions].
template <class Cell, class Math, bool kBackward>
struct Site {
  using T = typename Math::T;
  static constexpr int N = kPack<T>, G = Cell::kGates;
  static constexpr int kRowGates = kBackward ? 1 : G, kDepthGates = kBackward ? G : 1;

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

  FRNN_DEVICE int64_t time(int64_t i) const {
    return (direction == 0) != kBackward ? i : steps - 1 - i;
  }
  // The pack of a row and a word, which count from the group's first row and from from_unit.
  FRNN_DEVICE Units units(int row, int word, int64_t from_unit) const {
    const int64_t unit = from_unit + word * N;
    return {direction, first_row + row, unit, unit < p.hidden_size ? N : 0, true};
  }

  FRNN_DEVICE uint32_t* operand() const { return reinterpret_cast<uint32_t*>(shared); }
  FRNN_DEVICE float* partials() const { return reinterpret_cast<float*>(shared + g.partials); }
  FRNN_DEVICE Pack<float, N>& carry(int k, int row, int word) const {
    return reinterpret_cast<Pack<float, N>*>(shared + g.carry)[(k * g.rows + row) * packs + word];
  }
  // Of the input's sums, and behind them of the recurrent ones.
  FRNN_DEVICE Pack<float, N>& bias(int gate, int word) const {
    return reinterpret_cast<Pack<float, N>*>(shared + g.bias)[gate * packs + word];
  }
  FRNN_DEVICE int64_t& place(int which, int row) const {
    return reinterpret_cast<int64_t*>(shared + g.places)[which * g.rows + row];
  }

  // Where a step's packs lie: what the step decides, once for all of them. Where there is no such
  // step, or no data, the address means nothing.
  FRNN_DEVICE Step step(int64_t t) const {
    const Schedule& s = p.schedule;
    const int64_t known = 0 <= t && t < s.steps ? t : 0;
    return {t, s.at(known), (s.first(known) + first_row) * p.directions + direction};
  }
  template <class V>
  FRNN_DEVICE V* step_of(const Sequence& s, const Step& step) const {
    return static_cast<V*>(s.data) + step.at * s.step_stride;
  }
  template <class V>
  FRNN_DEVICE V* step_of_rows(V* data, const Step& step, int features) const {
    return data + (step.row * features + first_unit);
  }
  // What the row and the word add to them.
  template <class V>
  FRNN_DEVICE V* pack_of(V* step, int which, int row, int word) const {
    return step + (place(which, row) + word * N);
  }
  template <class V>
  FRNN_DEVICE V* pack_of_rows(V* step, int features, int row, int word) const {
    return step + (row * int(p.directions) * features + word * N);
  }
  FRNN_DEVICE bool runs(int64_t t, int row) const { return 0 <= t && t < place(kLength, row); }
  // Whether the row runs at the step, and starts from zeros.
  FRNN_DEVICE bool resets(const Step& step, int row) const {
    if (!p.resets.data || !runs(step.t, row)) return false;
    return step_of<const bool>(p.resets, step)[place(kResets, row)];
  }
  FRNN_DEVICE int64_t first_time(int row) const { return direction ? place(kLength, row) - 1 : 0; }
  FRNN_DEVICE int64_t last_time(int row) const { return direction ? 0 : place(kLength, row) - 1; }

  FRNN_DEVICE void fill_places() const {
    for (int row = threadIdx.x; row < rows; row += kThreads) {
      const Schedule& s = p.schedule;
      // The direction's and this CTA's units in a row of a sequence.
      const int64_t own = direction * p.hidden_size + first_unit;
      place(kLength, row) = s.length(first_row + row);
      place(kResets, row) = s.row_offset(p.resets, first_row + row);
      place(kY, row) = s.row_offset(p.y, first_row + row) + own;
      place(kGradY, row) = s.row_offset(p.grad_y, first_row + row) + own;
      for (int k = 1; k < Cell::kStates; ++k) {
        place(place_of_steps(k), row) = s.row_offset(p.steps[k], first_row + row) + own;
        place(place_of_grad_steps(k), row) = s.row_offset(p.grad_steps[k], first_row + row) + own;
      }
    }
  }

  FRNN_DEVICE void zero_operand() const {
    const int words = g.operand_slots * g.padded_rows() * g.stride;
    for (int i = threadIdx.x; i < words; i += kThreads) operand()[i] = 0;
  }

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
        const auto part = *reinterpret_cast<const Pack<float, N>*>(from + gate * g.units);
        for (int e = 0; e < N; ++e) totals[gate].v[e] += part.v[e];
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
            .row_stride = kBackward ? G * h : h,
            .hidden_size = h,
            .first_unit = first_unit,
            .units = g.units,
            .gates = kBackward ? 1 : G,
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
