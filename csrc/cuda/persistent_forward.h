// Forward, the whole sequence in one kernel with the weights resident on the chip. A step is: wait
// for h, multiply, sum up, apply the cell, put the next h; and then store what nobody waits for.
#pragma once

#include "site.h"

namespace fastrnn::cuda {

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
    Floats x[G];
    bool runs, reset_after;
  };
  Inputs in[kPacks];
  auto load = [&](const Step& step, const Step& next) {
    const float* x = site.step_of_rows(a.gates, step, G * h);
    site.each_pack([&](int j, int row, int word) {
      in[j].runs = site.runs(step.t, row);
      in[j].reset_after = in[j].runs && site.resets(next, row);
      if (!in[j].runs) return;
      const Units u = site.units(row, word, site.first_unit);
      const float* from = site.pack_of_rows(x, G * h, row, word);
      for (int g = 0; g < G; ++g) in[j].x[g] = load_sums<T>(from + g * h, u);
    });
  };
  Step step = site.step(site.time(0)), next = site.step(site.time(1));
  if (site.steps > 0) load(step, next);
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
          x[g] = in[j].x[g];
          const Floats bias = site.bias(g, word);
          for (int e = 0; e < N; ++e) x[g].v[e] += bias.v[e];
          r[g] = site.bias(G + g, word);
        }
        site.add_sums(row, word, r);
        Unit::run(x, r, state, saved[j]);
      }
      if (i + 1 < site.steps) {
        const Floats h_next = in[j].reset_after ? Floats{} : state[0];
        exchange.put(i + 1, row, site.operand_word(0, word), Math::word(convert<T>(h_next)));
      }
    });
    if (i + 1 < site.steps) exchange.commit(i + 1);

    // Nobody waits for these stores, so they come after what all wait for.
    T* const to_y = site.template step_of<T>(p.y, step);
    T* const to_saved = site.step_of_rows(static_cast<T*>(p.saved), step, Cell::kSaved * h);
    float* to_steps[Cell::kStates];
    for (int k = 1; k < Cell::kStates; ++k) {
      to_steps[k] = site.template step_of<float>(p.steps[k], step);
    }
    site.each_pack([&](int j, int row, int word) {
      if (!in[j].runs) return;
      const Units u = site.units(row, word, site.first_unit);
      auto& state = states[j];
      store_units(site.pack_of(to_y, kY, row, word), state[0], u);
      if (p.saved) {
        T* to = site.pack_of_rows(to_saved, Cell::kSaved * h, row, word);
        Unit::store_saved(to, h, saved[j], u);
      }
      for (int k = 1; k < Cell::kStates; ++k) {
        if (!p.steps[k].data) continue;
        float* to = site.pack_of(to_steps[k], place_of_steps(k), row, word);
        store_units(to, state[k], u);
      }
      if (step.t == site.last_time(row)) Unit::end(p, u, state);
      for (int k = 0; k < Cell::kStates; ++k) {
        site.carry(k, row, word) = in[j].reset_after ? Floats{} : state[k];
      }
    });
    step = next;
    next = site.step(site.time(i + 2));
    if (i + 1 < site.steps) load(step, next);
  }
  exchange.finish();
}

}  // namespace fastrnn::cuda
