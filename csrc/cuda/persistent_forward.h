// Forward, the whole sequence in one kernel with the weights resident on the chip. A step is: wait
// for h, multiply, sum up, apply the cell, put the next h; and then store what nobody waits for.
#pragma once

#include "site.h"

namespace fastrnn::cuda {

template <class Cell, class Math, class Exchange, int kTiles>
FRNN_DEVICE void forward_sequence(const PersistentArgs& a) {
  using T = typename Math::T;
  using Here = Site<Cell, Math, false>;
  using Unit = typename Here::Unit;
  using Floats = Pack<float, kPack<T>>;
  constexpr int kXBlocks = kLayout<Cell>.x_blocks, N = kPack<T>;
  const Here site(a);
  const ScanParams& p = a.p;
  const int h = int(p.hidden_size);

  ResidentWeights<Math, kTiles> weights(a.g, site.shared);
  weights.load(site.weights());
  site.zero_operand();
  site.fill_places();
  site.fill_vectors();
  __syncthreads();
  // Every CTA begins with all of h, and keeps its own units' states.
  auto initial = [&](int row, const Units& u, int k) -> Floats {
    const RowPlace& place = site.place(row);
    const int64_t first = place.first_time(site.direction);
    if (starts_over(p, site.direction, StepPlace(p.schedule, first), place)) return {};
    return convert<float>(load_initial<T>(p, u, k));
  };
  const int row_packs = a.g.padded_hidden / N;
  for (int i = threadIdx.x; i < site.rows * row_packs; i += kThreads) {
    const int row = i / row_packs, word = i % row_packs;
    const Floats first = initial(row, site.units(row, word, 0), 0);
    site.operand()[row * a.g.stride + word] = Math::word(convert<T>(first));
  }
  for (int i = threadIdx.x; i < site.rows * site.packs; i += kThreads) {
    const int row = i / site.packs, word = i % site.packs;
    const Units u = site.units(row, word);
    for (int k = 0; k < Cell::kStates; ++k) {
      site.carry(k, row, word) = initial(row, u, k);
      if (site.place(row).length > 0) continue;
      // A row of length 0 ends where it begins.
      store_units(p.at<T>(p.last[k], u.direction, u.row) + u.unit, load_initial<T>(p, u, k), u);
    }
  }
  const ExchangeSite exchange_site = site.exchange();
  Exchange exchange(exchange_site);
  exchange.start();

  struct Inputs {
    Values<Floats, kXBlocks> x;
    bool active, next_starts_over;
  };
  Inputs in[kPacks];
  auto load_inputs = [&](const StepPlace& step, const StepPlace& next) {
    site.each_pack([&](int j, int row, int word) {
      const RowPlace& place = site.place(row);
      in[j].active = place.is_active(step.t);
      in[j].next_starts_over = in[j].active && starts_over(p, site.direction, next, place);
      if (!in[j].active) return;
      const Units u = site.units(row, word);
      const float* from = at(a.gates, p, step, place, kXBlocks * h) + u.unit;
      for (int b = 0; b < kXBlocks; ++b) in[j].x[b] = load_sums<T>(from + b * h, u);
    });
  };
  StepPlace step = site.step(0), next = site.step(1);
  if (site.steps > 0) load_inputs(step, next);
  for (int64_t i = 0; i < site.steps; ++i) {
    const uint32_t* operand = exchange.wait(i);
    weights.multiply(a.g, operand, site.rows, site.partials());
    __syncthreads();
    typename Unit::States states[kPacks];
    typename Unit::Outputs outputs[kPacks];
    site.each_pack([&](int j, int row, int word) {
      auto& state = states[j];
      for (int k = 0; k < Cell::kStates; ++k) state[k] = site.carry(k, row, word);
      if (in[j].active) {
        Floats sums[Here::kRowGates] = {}, gate[Unit::kGates];
        site.add_sums(row, word, sums);
        unrolled<Unit::kGates>([&](auto g) {
          constexpr GateLayout kGate = Unit::template kGateLayout<g>;
          gate[g] = site.vector(g, word);
          if constexpr (kGate.x_block >= 0) add(gate[g], in[j].x[kGate.x_block]);
          if constexpr (kGate.h_block >= 0) add(gate[g], sums[kGate.h_block]);
        });
        typename Unit::OwnWeights own;
        site.load_own_weights(word, own);
        Unit::forward(gate, own, state, outputs[j]);
      }
      if (i + 1 < site.steps) {
        const Floats h_next = in[j].next_starts_over ? Floats{} : state[0];
        exchange.put(i + 1, row, site.operand_word(0, word), Math::word(convert<T>(h_next)));
      }
    });
    if (i + 1 < site.steps) exchange.commit(i + 1);

    // Nobody waits for these stores, so they come after what all wait for.
    site.each_pack([&](int j, int row, int word) {
      if (!in[j].active) return;
      Unit::store(p, step, site.place(row), site.units(row, word), states[j], outputs[j]);
      for (int k = 0; k < Cell::kStates; ++k) {
        site.carry(k, row, word) = in[j].next_starts_over ? Floats{} : states[j][k];
      }
    });
    step = next;
    next = site.step(i + 2);
    if (i + 1 < site.steps) load_inputs(step, next);
  }
  exchange.finish();
}

}  // namespace fastrnn::cuda
