// Backward, the whole sequence in one kernel with the weights' transpose resident on the chip. A
// step is: wait for the gates' gradients of the step after, multiply, apply the cell's backward,
// put this step's; and then store what nobody waits for.
#pragma once

#include "site.h"

namespace fastrnn::cuda {

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
  Inputs in[kPacks] = {};
  // previous: in time, so the next one to run.
  auto load = [&](const Step& step, const Step& previous) {
    const int64_t t = step.t;
    const T* saved = site.step_of_rows(static_cast<const T*>(p.saved), step, Cell::kSaved * h);
    const T* grad_y = site.template step_of<const T>(p.grad_y, step);
    const T* h_after = site.template step_of<const T>(p.y, step);
    const T* h_before = site.template step_of<const T>(p.y, previous);
    const float *after[Cell::kStates], *before[Cell::kStates], *grads[Cell::kStates];
    for (int k = 1; k < Cell::kStates; ++k) {
      after[k] = site.template step_of<const float>(p.steps[k], step);
      before[k] = site.template step_of<const float>(p.steps[k], previous);
      grads[k] = site.template step_of<const float>(p.grad_steps[k], step);
    }
    site.each_pack([&](int j, int row, int word) {
      in[j].reset_after = in[j].runs && in[j].reset;
      in[j].runs = site.runs(t, row);
      if (!in[j].runs) return;
      in[j].reset = site.resets(step, row);
      const Units u = site.units(row, word, site.first_unit);
      const bool first = t == site.first_time(row), continues = !first && !in[j].reset;
      typename Unit::Places from{};
      from.saved = site.pack_of_rows(saved, Cell::kSaved * h, row, word);
      if (p.grad_y.data) from.grad_y = site.pack_of(grad_y, kGradY, row, word);
      if (!Cell::kProjected) {
        from.h_after = site.pack_of(h_after, kY, row, word);
        if (continues) from.h_before = site.pack_of(h_before, kY, row, word);
      }
      for (int k = 1; k < Cell::kStates; ++k) {
        const int place = place_of_steps(k);
        from.after[k] = site.pack_of(after[k], place, row, word);
        if (continues) from.before[k] = site.pack_of(before[k], place, row, word);
        if (p.grad_steps[k].data) {
          from.grad_steps[k] = site.pack_of(grads[k], place_of_grad_steps(k), row, word);
        }
      }
      in[j].values = Unit::load(from, h, u);
      if (first && !in[j].reset) Unit::load_before_first(p, u, in[j].values);
    });
  };
  // The gradient of the initial state is one more step, in which no row runs.
  const int64_t end = site.steps + (p.grad_initial[0].data ? 1 : 0);
  Step step = site.step(site.time(0)), previous = site.step(site.time(1));
  if (end > 0) load(step, previous);
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
      T* const to_dx = site.step_of_rows(static_cast<T*>(a.dx), step, G * h);
      T* const to_dr = site.step_of_rows(static_cast<T*>(a.dr), step, G * h);
      site.each_pack([&](int j, int row, int word) {
        if (!in[j].runs) return;
        const Units u = site.units(row, word, site.first_unit);
        Unit::store(site.pack_of_rows(to_dx, G * h, row, word), h, dx[j], u);
        if (!Cell::kAdditive) {
          Unit::store(site.pack_of_rows(to_dr, G * h, row, word), h, dr[j], u);
        }
      });
    }
    step = previous;
    previous = site.step(site.time(i + 2));
    if (i + 1 < end) load(step, previous);
  }
  exchange.finish();
}

}  // namespace fastrnn::cuda
