// The persistent kernels: one launch runs a direction's whole sequence, with the weights resident
// on the chip. A step is: wait for the operand, multiply, sum up, apply the cell, put the next
// operand.
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

  // Where a step's packs lie: what the step decides, once for all of them; null where there is no
  // data, or no such step.
  template <class V>
  FRNN_DEVICE V* step_of(const Sequence& s, int64_t t, int64_t offset = 0) const {
    if (!s.data || t < 0 || t >= p.schedule.steps) return nullptr;
    return static_cast<V*>(s.data) + (p.schedule.step_offset(s, t) + offset);
  }
  template <class V>
  FRNN_DEVICE V* step_of_rows(V* data, int64_t first, int features) const {
    if (!data) return nullptr;
    return data + ((first + first_row) * p.directions + direction) * features + first_unit;
  }
  // The direction's and this CTA's units in a row of a sequence.
  FRNN_DEVICE int64_t own_units() const { return direction * p.hidden_size + first_unit; }
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
  // step: of the resets, at t.
  FRNN_DEVICE bool resets(const bool* step, int64_t t, int row) const {
    return step && runs(t, row) && step[place(kResets, row)];
  }
  FRNN_DEVICE int64_t first_time(int row) const { return direction ? place(kLength, row) - 1 : 0; }
  FRNN_DEVICE int64_t last_time(int row) const { return direction ? 0 : place(kLength, row) - 1; }

  FRNN_DEVICE void fill_places() const {
    for (int row = threadIdx.x; row < rows; row += kThreads) {
      const Schedule& s = p.schedule;
      place(kLength, row) = s.length(first_row + row);
      place(kY, row) = s.row_offset(p.y, first_row + row);
      place(kResets, row) = s.row_offset(p.resets, first_row + row);
      place(kGradY, row) = s.row_offset(p.grad_y, first_row + row);
      for (int k = 1; k < Cell::kStates; ++k) {
        place(place_of_steps(k), row) = s.row_offset(p.steps[k], first_row + row);
        place(place_of_grad_steps(k), row) = s.row_offset(p.grad_steps[k], first_row + row);
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

template <class Cell, class Math, class Exchange, int kTiles>
FRNN_DEVICE void forward_sequence(const PersistentArgs& a) {
  using T = typename Math::T;
  using Unit = ForwardUnits<Cell, T>;
  using Floats = Pack<float, kPack<T>>;
  using Here = Site<Cell, Math, false>;
  constexpr int G = Cell::kGates, N = kPack<T>;
  const Here site(a);
  const ScanParams& p = a.p;
  const int h = int(p.hidden_size);

  ResidentWeights<Math, kTiles> weights(a.g, site.shared);
  weights.load(site.weights());
  site.zero_operand();
  site.fill_places();
  __syncthreads();
  const Weights& w = p.weights[site.direction];
  for (int i = threadIdx.x; i < G * site.packs; i += kThreads) {
    const int gate = i / site.packs, word = i % site.packs;
    const Units u = site.units(0, word, site.first_unit);
    auto load = [&](const void* from) {
      if (!from) return Floats{};
      return convert<float>(load_units(static_cast<const T*>(from) + gate * h + u.unit, u));
    };
    const Floats x = load(w.bias_ih), r = load(w.bias_hh);
    site.bias(gate, word) = x;
    site.bias(G + gate, word) = r;
  }
  // Every CTA begins with all of h, and keeps its own units' states.
  const int row_packs = a.g.padded_hidden / N;
  for (int i = threadIdx.x; i < site.rows * row_packs; i += kThreads) {
    const int row = i / row_packs, word = i % row_packs;
    const Floats first = Unit::start(p, site.units(row, word, 0), 0);
    site.operand()[row * a.g.stride + word] = Math::word(convert<T>(first));
  }
  for (int i = threadIdx.x; i < site.rows * site.packs; i += kThreads) {
    const int row = i / site.packs, word = i % site.packs;
    const Units u = site.units(row, word, site.first_unit);
    for (int k = 0; k < Cell::kStates; ++k) {
      site.carry(k, row, word) = Unit::start(p, u, k);
      Unit::end_if_empty(p, u, k);
    }
  }
  const ExchangeSite exchange_site = site.exchange();
  Exchange exchange(exchange_site);
  exchange.start();

  struct Inputs {
    Pack<T, N> x[G];
    bool runs, reset_after;
  };
  Inputs in[kPacks];
  auto load = [&](int64_t i) {
    const int64_t t = site.time(i), next = after(site.direction, t);
    const T* x = site.step_of_rows(static_cast<const T*>(a.gates), p.schedule.first(t), G * h);
    const bool* resets = site.template step_of<const bool>(p.resets, next);
    site.each_pack([&](int j, int row, int word) {
      in[j].runs = site.runs(t, row);
      in[j].reset_after = in[j].runs && site.resets(resets, next, row);
      if (!in[j].runs) return;
      const Units u = site.units(row, word, site.first_unit);
      const T* from = site.pack_of_rows(x, G * h, row, word);
      for (int g = 0; g < G; ++g) in[j].x[g] = load_units(from + g * h, u);
    });
  };
  if (site.steps > 0) load(0);
  for (int64_t i = 0; i < site.steps; ++i) {
    const uint32_t* operand = exchange.wait(i);
    weights.multiply(a.g, operand, site.rows, site.partials());
    __syncthreads();
    Floats states[kPacks][Cell::kStates];
    typename Unit::Saved saved[kPacks];
    site.each_pack([&](int j, int row, int word) {
      auto& state = states[j];
      for (int k = 0; k < Cell::kStates; ++k) state[k] = site.carry(k, row, word);
      if (in[j].runs) {
        Floats x[G], r[G];
        for (int g = 0; g < G; ++g) {
          x[g] = convert<float>(in[j].x[g]);
          const Floats bias = site.bias(g, word);
          for (int e = 0; e < N; ++e) x[g].v[e] += bias.v[e];
          r[g] = site.bias(G + g, word);
        }
        site.add_sums(row, word, r);
        Unit::run(x, r, state, saved[j]);
      }
      if (i + 1 < site.steps) {
        const Floats next = in[j].reset_after ? Floats{} : state[0];
        exchange.put(i + 1, row, site.operand_word(0, word), Math::word(convert<T>(next)));
      }
    });
    if (i + 1 < site.steps) exchange.commit(i + 1);

    // Nobody waits for these stores, so they come after what all wait for.
    const int64_t t = site.time(i);
    T* const to_y = site.template step_of<T>(p.y, t, site.own_units());
    T* const to_saved =
        site.step_of_rows(static_cast<T*>(p.saved), p.schedule.first(t), Cell::kSaved * h);
    float* to_steps[Cell::kStates];
    for (int k = 1; k < Cell::kStates; ++k) {
      to_steps[k] = site.template step_of<float>(p.steps[k], t, site.own_units());
    }
    site.each_pack([&](int j, int row, int word) {
      if (!in[j].runs) return;
      const Units u = site.units(row, word, site.first_unit);
      auto& state = states[j];
      store_units(site.pack_of(to_y, kY, row, word), state[0], u);
      if (to_saved) {
        T* to = site.pack_of_rows(to_saved, Cell::kSaved * h, row, word);
        Unit::store_saved(to, h, saved[j], u);
      }
      for (int k = 1; k < Cell::kStates; ++k) {
        if (!to_steps[k]) continue;
        float* to = site.pack_of(to_steps[k], place_of_steps(k), row, word);
        store_units(to, state[k], u);
      }
      if (t == site.last_time(row)) Unit::end(p, u, state);
      for (int k = 0; k < Cell::kStates; ++k) {
        site.carry(k, row, word) = in[j].reset_after ? Floats{} : state[k];
      }
    });
    if (i + 1 < site.steps) load(i + 1);
  }
  exchange.finish();
}

template <class Cell, class Math, class Exchange, int kTiles>
FRNN_DEVICE void backward_sequence(const PersistentArgs& a) {
  using T = typename Math::T;
  using Unit = BackwardUnits<Cell, T>;
  using Floats = Pack<float, kPack<T>>;
  using Here = Site<Cell, Math, true>;
  constexpr int G = Cell::kGates;
  const Here site(a);
  const ScanParams& p = a.p;
  const int h = int(p.hidden_size);

  ResidentWeights<Math, kTiles> weights(a.g, site.shared);
  weights.load(site.weights());
  site.zero_operand();
  site.fill_places();
  for (int i = threadIdx.x; i < site.rows * site.packs; i += kThreads) {
    const int row = i / site.packs, word = i % site.packs;
    Floats carry[Cell::kStates];
    Unit::start(p, site.units(row, word, site.first_unit), carry);
    for (int k = 0; k < Cell::kStates; ++k) site.carry(k, row, word) = carry[k];
  }
  const ExchangeSite exchange_site = site.exchange();
  Exchange exchange(exchange_site);
  exchange.start();

  struct Inputs {
    typename Unit::Inputs values;
    bool runs;         // false: not at this step; the gradient of its state is handed through
    bool reset;        // this step started from zeros: nothing flows further back
    bool reset_after;  // the step after it did: its product is not for this row
  };
  Inputs in[kPacks];
  auto load = [&](int64_t i) {
    const int64_t t = site.time(i);
    const int64_t previous = before(site.direction, t), next = after(site.direction, t);
    const int64_t own = site.own_units();
    const bool* resets = site.template step_of<const bool>(p.resets, t);
    const bool* next_resets = site.template step_of<const bool>(p.resets, next);
    const T* saved = site.step_of_rows(static_cast<const T*>(p.saved),
                                       i < site.steps ? p.schedule.first(t) : 0, Cell::kSaved * h);
    const T* grad_y = site.template step_of<const T>(p.grad_y, t, own);
    const T* h_after = site.template step_of<const T>(p.y, t, own);
    const T* h_before = site.template step_of<const T>(p.y, previous, own);
    const float *after[Cell::kStates], *before[Cell::kStates], *grads[Cell::kStates];
    for (int k = 1; k < Cell::kStates; ++k) {
      after[k] = site.template step_of<const float>(p.steps[k], t, own);
      before[k] = site.template step_of<const float>(p.steps[k], previous, own);
      grads[k] = site.template step_of<const float>(p.grad_steps[k], t, own);
    }
    site.each_pack([&](int j, int row, int word) {
      in[j].runs = site.runs(t, row);
      in[j].reset_after = site.resets(next_resets, next, row);
      if (!in[j].runs) return;
      in[j].reset = site.resets(resets, t, row);
      const Units u = site.units(row, word, site.first_unit);
      const bool first = t == site.first_time(row), continues = !first && !in[j].reset;
      typename Unit::Places from{};
      from.saved = site.pack_of_rows(saved, Cell::kSaved * h, row, word);
      if (grad_y) from.grad_y = site.pack_of(grad_y, kGradY, row, word);
      if (!Cell::kProjected) {
        from.h_after = site.pack_of(h_after, kY, row, word);
        if (continues) from.h_before = site.pack_of(h_before, kY, row, word);
      }
      for (int k = 1; k < Cell::kStates; ++k) {
        const int place = place_of_steps(k);
        from.after[k] = site.pack_of(after[k], place, row, word);
        if (continues) from.before[k] = site.pack_of(before[k], place, row, word);
        if (grads[k]) {
          from.grad_steps[k] = site.pack_of(grads[k], place_of_grad_steps(k), row, word);
        }
      }
      in[j].values = Unit::load(from, h, u);
      if (first && !in[j].reset) Unit::load_before_first(p, u, in[j].values);
    });
  };
  // The gradient of the initial state is one more step, in which no row runs.
  const int64_t end = site.steps + (p.grad_initial[0].data ? 1 : 0);
  if (end > 0) load(0);
  for (int64_t i = 0; i < end; ++i) {
    const uint32_t* operand = exchange.wait(i);
    weights.multiply(a.g, operand, site.rows, site.partials());
    __syncthreads();
    typename Unit::Gates dx[kPacks] = {}, dr[kPacks] = {};
    site.each_pack([&](int j, int row, int word) {
      Floats carry[Cell::kStates];
      for (int k = 0; k < Cell::kStates; ++k) carry[k] = site.carry(k, row, word);
      if (!in[j].reset_after) {
        Floats product[1] = {carry[0]};
        site.add_sums(row, word, product);
        carry[0] = product[0];
      }
      if (in[j].runs) Unit::run(in[j].values, carry, dx[j], dr[j]);
      if (i + 1 < end) {
        for (int g = 0; g < G; ++g) {
          exchange.put(i + 1, row, site.operand_word(g, word), Math::word(dr[j][g]));
        }
      }
      for (int k = 0; k < Cell::kStates; ++k) {
        site.carry(k, row, word) = in[j].runs && in[j].reset ? Floats{} : carry[k];
      }
      if (i == site.steps) Unit::store_initial(p, site.units(row, word, site.first_unit), carry);
    });
    if (i + 1 < end) exchange.commit(i + 1);

    // Nobody waits for these stores, so they come after what all wait for.
    if (i < site.steps) {
      const int64_t first = p.schedule.first(site.time(i));
      T* const to_dx = site.step_of_rows(static_cast<T*>(a.dx), first, G * h);
      T* const to_dr = site.step_of_rows(static_cast<T*>(a.dr), first, G * h);
      site.each_pack([&](int j, int row, int word) {
        if (!in[j].runs) return;
        const Units u = site.units(row, word, site.first_unit);
        Unit::store(site.pack_of_rows(to_dx, G * h, row, word), h, dx[j], u);
        if (!Cell::kAdditive) {
          Unit::store(site.pack_of_rows(to_dr, G * h, row, word), h, dr[j], u);
        }
      });
    }
    if (i + 1 < end) load(i + 1);
  }
  exchange.finish();
}

template <class Cell, class Math, class Exchange, int kTiles, bool kBackward>
__global__ void __launch_bounds__(kThreads, 1)
    persistent_kernel(const __grid_constant__ PersistentArgs a) {
  if constexpr (kArch >= Exchange::kOldestArch) {
    if constexpr (kBackward) {
      backward_sequence<Cell, Math, Exchange, kTiles>(a);
    } else {
      forward_sequence<Cell, Math, Exchange, kTiles>(a);
    }
  } else {
    trap();  // the planner knows better than to launch it
  }
}

}  // namespace fastrnn::cuda
