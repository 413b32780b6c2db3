// Backward, the whole sequence in one kernel with the weights' transpose resident on the chip. A
// step is: wait for the gates' gradients of the step after, multiply, apply the cell's backward,
// put this step's; and then store what nobody waits for.
#pragma once

#include "site.h"

namespace fastrnn::cuda {

template <class Cell, class Math, class Exchange, int kTiles>
FRNN_DEVICE void backward_sequence(const PersistentArgs& a) {
  using T = typename Math::T;
  using Here = Site<Cell, Math, true>;
  using Unit = typename Here::Unit;
  using Floats = Pack<float, kPack<T>>;
  constexpr int kBlocks = kLayout<Cell>.grad_blocks;
  const Here site(a);
  const ScanParams& p = a.p;
  const int h = int(p.hidden_size);

  ResidentWeights<Math, kTiles> weights(a.g, site.shared);
  weights.load(site.weights());
  site.zero_operand();
  site.fill_places();
  site.fill_vectors();
  for (int i = threadIdx.x; i < site.rows * site.packs; i += kThreads) {
    const int row = i / site.packs, word = i % site.packs;
    const Units u = site.units(row, word);
    for (int k = 0; k < Cell::kStates; ++k) {
      Floats grad{};
      if (p.grad_last[k].data) {
        const T* from = p.at<const T>(p.grad_last[k], u.direction, u.row) + u.unit;
        grad = convert<float>(load_units(from, u));
      }
      site.carry(k, row, word) = grad;
    }
  }
  const ExchangeSite exchange_site = site.exchange();
  Exchange exchange(exchange_site);
  exchange.start();

  struct Inputs {
    typename Unit::Inputs values;
    bool active;            // false: the gradient of the row's states is handed through
    bool starts_over;       // this step started from zeros: nothing flows further back
    bool next_starts_over;  // the step after it did: its product is not for this row
  };
  Inputs in[kPacks] = {};
  // previous: in time, so the next one that this pass comes to.
  auto load_inputs = [&](const StepPlace& step, const StepPlace& previous) {
    site.each_pack([&](int j, int row, int word) {
      const RowPlace& place = site.place(row);
      in[j].next_starts_over = in[j].active && in[j].starts_over;
      in[j].active = place.is_active(step.t);
      if (!in[j].active) return;
      in[j].starts_over = starts_over(p, site.direction, step, place);
      in[j].values = Unit::load(p, step, previous, place, in[j].starts_over, site.units(row, word));
    });
  };
  // The gradient of the initial state is one more step, in which no row is active.
  const int64_t end = site.steps + (p.grad_initial[0].data ? 1 : 0);
  StepPlace step = site.step(0), previous = site.step(1);
  if (end > 0) load_inputs(step, previous);
  for (int64_t i = 0; i < end; ++i) {
    const uint32_t* operand = exchange.wait(i);
    weights.multiply(a.g, operand, site.rows, site.partials());
    __syncthreads();
    typename Unit::Grads grads[kPacks] = {};
    site.each_pack([&](int j, int row, int word) {
      typename Unit::States carry;
      for (int k = 0; k < Cell::kStates; ++k) carry[k] = site.carry(k, row, word);
      if (!in[j].next_starts_over) {
        Floats product[1] = {carry[0]};
        site.add_sums(row, word, product);
        carry[0] = product[0];
      }
      if (in[j].active) {
        typename Unit::OwnWeights own;
        site.load_own_weights(word, own);
        Unit::backward(in[j].values, own, {}, carry, grads[j]);
      }
      if (i + 1 < end) {
        unrolled<Unit::kGates>([&](auto g) {
          constexpr int kBlock = Unit::template kGateLayout<g>.h_block;
          if constexpr (kBlock >= 0) {
            exchange.put(i + 1, row, site.operand_word(kBlock, word), Math::word(grads[j].gate[g]));
          }
        });
      }
      for (int k = 0; k < Cell::kStates; ++k) {
        site.carry(k, row, word) = in[j].active && in[j].starts_over ? Floats{} : carry[k];
      }
      if (i < site.steps) return;
      const Units u = site.units(row, word);
      for (int k = 0; k < Cell::kStates; ++k) {
        if (!p.grad_initial[k].data) continue;
        store_units(p.at<T>(p.grad_initial[k], u.direction, u.row) + u.unit, carry[k], u);
      }
    });
    if (i + 1 < end) exchange.commit(i + 1);

    // Nobody waits for these stores, so they come after what all wait for.
    if (i < site.steps) {
      site.each_pack([&](int j, int row, int word) {
        if (!in[j].active) return;
        T* to = at(static_cast<T*>(a.grads), p, step, site.place(row), kBlocks * h);
        Unit::store(p, to, grads[j], site.units(row, word));
      });
    }
    step = previous;
    previous = site.step(i + 2);
    if (i + 1 < end) load_inputs(step, previous);
  }
  exchange.finish();
}

}  // namespace fastrnn::cuda
