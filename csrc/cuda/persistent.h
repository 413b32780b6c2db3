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
template <class Math, bool kBackward>
struct Site {
  using T = typename Math::T;
  static constexpr int N = kPack<T>;

  const PersistentArgs& a;
  const Geometry& g;
  char* shared;
  int direction, group, rank;
  int64_t first_row, first_unit;
  int rows, packs, depth_gates;
  int64_t steps;

  FRNN_DEVICE Site(const PersistentArgs& args, int gates)
      : a(args),
        g(args.g),
        shared(dynamic_shared()),
        direction(blockIdx.y),
        group(blockIdx.x / args.g.ctas),
        rank(blockIdx.x % args.g.ctas),
        first_row(int64_t(group) * args.g.rows),
        first_unit(int64_t(rank) * args.g.units),
        packs(args.g.units / N),
        depth_gates(kBackward ? gates : 1) {
    const int64_t left = a.p.schedule.batch - first_row;
    rows = int(left < g.rows ? left : g.rows);
    steps = a.p.schedule.length(first_row);
  }

  FRNN_DEVICE int64_t time(int64_t i) const {
    return (direction == 0) != kBackward ? i : steps - 1 - i;
  }
  // The units of a pack: of the CTA's own row and word, both counted from 0.
  FRNN_DEVICE Units units(int row, int word, int64_t from_unit) const {
    const int64_t unit = from_unit + word * N, left = a.p.hidden_size - unit;
    const int valid = left >= N ? N : left > 0 ? int(left) : 0;
    return {direction, first_row + row, unit, valid, a.whole};
  }
  // Of the operand's row, where the word `word` of this CTA's gate `gate` lies.
  FRNN_DEVICE int operand_word(int gate, int word) const {
    return (gate * g.padded_hidden + int(first_unit)) / N + word;
  }

  FRNN_DEVICE uint32_t* operand() const { return reinterpret_cast<uint32_t*>(shared); }
  FRNN_DEVICE float* partials() const { return reinterpret_cast<float*>(shared + g.partials); }
  FRNN_DEVICE Pack<float, N>& carry(int k, int row, int word) const {
    return reinterpret_cast<Pack<float, N>*>(shared + g.carry)[(k * g.rows + row) * packs + word];
  }
  FRNN_DEVICE Pack<float, N>& bias(int gates, int which, int gate, int word) const {
    return reinterpret_cast<Pack<float, N>*>(shared +
                                             g.bias)[(which * gates + gate) * packs + word];
  }

  FRNN_DEVICE void zero_operand() const {
    const int words = g.operand_slots * g.padded_rows() * g.stride;
    for (int i = threadIdx.x; i < words; i += kThreads) operand()[i] = 0;
  }

  // The product's weight rows of a pack of one gate: the sum over the slices of the depth.
  FRNN_DEVICE Pack<float, N> sum(int row, int gate, int word) const {
    const float* from = partials() + row * g.partial_stride + gate * g.units + word * N;
    Pack<float, N> total{};
    for (int q = 0; q < g.slices; ++q) {
      const auto part =
          *reinterpret_cast<const Pack<float, N>*>(from + q * g.padded_rows() * g.partial_stride);
      for (int e = 0; e < N; ++e) total.v[e] += part.v[e];
    }
    return total;
  }

  FRNN_DEVICE ExchangeSite exchange() const {
    const int row_words = g.padded_hidden * depth_gates / N;
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

  FRNN_DEVICE WeightSlice<T> weights(int gates) const {
    const int64_t h = a.p.hidden_size;
    return {.data = static_cast<const T*>(a.weights[direction]),
            .row_stride = kBackward ? gates * h : h,
            .hidden_size = h,
            .first_unit = first_unit,
            .units = g.units,
            .gates = kBackward ? 1 : gates,
            .padded_hidden = g.padded_hidden,
            .depth_gates = depth_gates,
            .whole = a.whole_weights};
  }

  // Calls f(i, row, word) for each pack of units that is this thread's; i counts them.
  template <int kPacks, class F>
  FRNN_DEVICE void each_pack(F f) const {
#pragma unroll
    for (int i = 0; i < kPacks; ++i) {
      const int item = threadIdx.x + i * kThreads;
      if (item < rows * packs) f(i, item / packs, item % packs);
    }
  }
};

template <class Cell, class Math, class Exchange, int kTiles>
FRNN_DEVICE void forward_sequence(const PersistentArgs& a) {
  using T = typename Math::T;
  using Unit = ForwardUnits<Cell, T>;
  using Floats = Pack<float, kPack<T>>;
  constexpr int G = Cell::kGates, N = kPack<T>;
  const Site<Math, false> site(a, G);
  const ScanParams& p = a.p;
  const T* gates = static_cast<const T*>(a.gates);

  ResidentWeights<Math, kTiles> weights(a.g, site.shared);
  weights.load(site.weights(G));
  site.zero_operand();
  __syncthreads();
  const Weights& w = p.weights[site.direction];
  for (int i = threadIdx.x; i < G * site.packs; i += kThreads) {
    const int gate = i / site.packs, word = i % site.packs;
    const Units u = site.units(0, word, site.first_unit);
    const T* const biases[2] = {static_cast<const T*>(w.bias_ih), static_cast<const T*>(w.bias_hh)};
    for (int which = 0; which < 2; ++which) {
      Pack<T, N> bias{};
      if (biases[which]) {
        bias = load_pack<N>(biases[which] + gate * p.hidden_size + u.unit, u.valid, u.whole);
      }
      site.bias(G, which, gate, word) = convert<float>(bias);
    }
  }
  // Every CTA begins with all of h, and keeps its own units' states.
  const int row_packs = a.g.padded_hidden / N;
  for (int i = threadIdx.x; i < site.rows * row_packs; i += kThreads) {
    const int row = i / row_packs, word = i % row_packs;
    const Floats h = Unit::start(p, site.units(row, word, 0), 0);
    site.operand()[row * a.g.stride + word] = Math::word(convert<T>(h));
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

  typename Unit::Inputs in[kForwardPacks];
  auto load = [&](int64_t i) {
    site.template each_pack<kForwardPacks>([&](int j, int row, int word) {
      in[j] = Unit::load(p, gates, site.units(row, word, site.first_unit), site.time(i));
    });
  };
  if (site.steps > 0) load(0);
  for (int64_t i = 0; i < site.steps; ++i) {
    const uint32_t* operand = exchange.wait(i);
    weights.multiply(a.g, operand, site.rows, site.partials());
    __syncthreads();
    site.template each_pack<kForwardPacks>([&](int j, int row, int word) {
      Floats x_bias[G], r[G], states[Cell::kStates];
      for (int k = 0; k < Cell::kStates; ++k) states[k] = site.carry(k, row, word);
      for (int g = 0; g < G; ++g) {
        x_bias[g] = site.bias(G, 0, g, word);
        r[g] = site.sum(row, g, word);
        const Floats bias = site.bias(G, 1, g, word);
        for (int e = 0; e < N; ++e) r[g].v[e] += bias.v[e];
      }
      if (in[j].runs) {
        Unit::run(p, in[j], site.units(row, word, site.first_unit), site.time(i), x_bias, r,
                  states);
        for (int k = 0; k < Cell::kStates; ++k) site.carry(k, row, word) = states[k];
      }
      if (i + 1 < site.steps) {
        exchange.put(i + 1, row, site.operand_word(0, word), Math::word(convert<T>(states[0])));
      }
    });
    if (i + 1 < site.steps) {
      exchange.commit(i + 1);
      load(i + 1);
    }
  }
  exchange.finish();
}

template <class Cell, class Math, class Exchange, int kTiles>
FRNN_DEVICE void backward_sequence(const PersistentArgs& a) {
  using T = typename Math::T;
  using Unit = BackwardUnits<Cell, T>;
  using Floats = Pack<float, kPack<T>>;
  constexpr int G = Cell::kGates;
  const Site<Math, true> site(a, G);
  const ScanParams& p = a.p;

  ResidentWeights<Math, kTiles> weights(a.g, site.shared);
  weights.load(site.weights(G));
  site.zero_operand();
  for (int i = threadIdx.x; i < site.rows * site.packs; i += kThreads) {
    const int row = i / site.packs, word = i % site.packs;
    Floats carry[Cell::kStates];
    Unit::start(p, site.units(row, word, site.first_unit), carry);
    for (int k = 0; k < Cell::kStates; ++k) site.carry(k, row, word) = carry[k];
  }
  const ExchangeSite exchange_site = site.exchange();
  Exchange exchange(exchange_site);
  exchange.start();

  // The gradient of the initial state is one more step, in which no row runs.
  const int64_t end = site.steps + (p.grad_initial[0].data ? 1 : 0);
  typename Unit::Inputs in[kBackwardPacks];
  auto load = [&](int64_t i) {
    site.template each_pack<kBackwardPacks>([&](int j, int row, int word) {
      in[j] = Unit::load(p, site.units(row, word, site.first_unit), site.time(i));
    });
  };
  if (end > 0) load(0);
  for (int64_t i = 0; i < end; ++i) {
    const uint32_t* operand = exchange.wait(i);
    weights.multiply(a.g, operand, site.rows, site.partials());
    __syncthreads();
    site.template each_pack<kBackwardPacks>([&](int j, int row, int word) {
      const Units u = site.units(row, word, site.first_unit);
      Floats carry[Cell::kStates];
      typename Unit::Gates dx, dr;
      for (int k = 0; k < Cell::kStates; ++k) carry[k] = site.carry(k, row, word);
      Unit::run(in[j], site.sum(row, 0, word), carry, dx, dr);
      if (i == site.steps) {
        Unit::store_initial(p, u, carry);
        return;
      }
      for (int k = 0; k < Cell::kStates; ++k) site.carry(k, row, word) = carry[k];
      if (i + 1 < end) {
        for (int g = 0; g < G; ++g) {
          exchange.put(i + 1, row, site.operand_word(g, word), Math::word(dr[g]));
        }
      }
      if (in[j].runs) {
        Unit::store(p, u, site.time(i), dx, static_cast<T*>(a.dx));
        if (!Cell::kAdditive) Unit::store(p, u, site.time(i), dr, static_cast<T*>(a.dr));
      }
    });
    if (i + 1 < end) {
      exchange.commit(i + 1);
      load(i + 1);
    }
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
  }
}

}  // namespace fastrnn::cuda
