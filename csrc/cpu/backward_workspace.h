// What a backward pass works with: its packed weights, its buffers, and where the values of a step
// lie in them.
#pragma once

#include "backward_weights.h"
#include "buffer.h"
#include "pack.h"
#include "workspace.h"

namespace fastrnn::cpu {

template <class Arch, class T>
struct BackwardWorkspace : Workspace<Arch, T> {
  using C = Compute<T>;
  using O = Operand<Arch, T>;
  using Base = Workspace<Arch, T>;
  using Base::size;
  using Base::W, Base::p, Base::s, Base::cell, Base::pool, Base::plan, Base::rows;
  using PackedWeights = BackwardWeights<Arch, T>;

  BackwardWorkspace(const ScanParams& params, const CellLayout& layout, const Pool& threads)
      : Base(params, layout, threads) {
    make_plan();
    make_weights();
    make_buffers();
  }

  // The weights of all gates that multiply an operand. The product of these gates' gradients with
  // them is the operand's gradient.
  const PackedWeights& operand_weights(int64_t direction, int q) const {
    return weights_[direction].operand[q];
  }
  const PackedWeights& input_weights(int64_t direction, int run) const {
    return weights_[direction].input[run];
  }
  bool wants_weights() const { return p.grad_weights[0].ih != nullptr; }

  // A row of gradients of the cell's gates.
  O* grads(int64_t direction, int64_t active_row) const {
    return grads_.get() + (direction * s.active_rows() + active_row) * grad_stride;
  }
  // An operand from 1 on, for the weights' gradients.
  T* operand(int64_t direction, int q, int64_t active_row) const {
    const int64_t index = direction * (cell.operands - 1) + q - 1;
    return operand_.get() + (index * s.active_rows() + active_row) * p.hidden_size;
  }
  C* carry(const Slice& slice, int k, int64_t m) const {
    const int64_t index = slice.direction * cell.states + k;
    return carry_.get() + (index * s.batch + slice.row + m) * state_stride_;
  }
  // State k >= 1 before a row's first step.
  C* initial(const Slice& slice, int k, int64_t m) const {
    const int64_t index = slice.direction * (cell.states - 1) + k - 1;
    return initial_.get() + (index * s.batch + slice.row + m) * state_stride_;
  }
  C* product(const Slice& slice) const {
    return product_.get() + slice.index * rows * product_stride;
  }
  BackwardRow<Arch, T>* row(const Slice& slice) const { return row_.get() + slice.index * rows; }

  void pack() {
    PackedWeights* all[2 * (kMaxOperands + kMaxGates)];
    int count = 0;
    for (int64_t d = 0; d < p.directions; ++d) {
      for (int q = 0; q < cell.operands; ++q) all[count++] = &weights_[d].operand[q];
      for (int i = 0; p.grad_x.data && i < cell.x_spans; ++i) all[count++] = &weights_[d].input[i];
    }
    pack_all(all, count, pool);
  }

  int64_t grad_stride = 0, product_stride = 0;

 private:
  bool few_rows() const { return s.active_rows() <= kFewRows; }

  struct Direction {
    PackedWeights operand[kMaxOperands], input[kMaxGates];
  };

  void make_plan() {
    plan =
        cpu::make_plan({.threads = pool.threads,
                        .directions = p.directions,
                        .batch = s.batch,
                        .steps = s.steps,
                        .depth = cell.h_blocks * p.hidden_size,
                        .columns = p.output_size,
                        .column_groups = std::max<int64_t>(1, p.output_size / W / kMaxTileVectors),
                        .element_size = sizeof(T),
                        .meetings = cell.phases,
                        .l2_bytes = l2_bytes()});
    rows = max_rows(p, plan);
  }

  void make_weights() {
    const int64_t hidden = p.hidden_size;
    for (int64_t d = 0; d < p.directions; ++d) {
      const Weights& w = p.weights[d];
      for (int q = 0; q < cell.operands; ++q) {
        const Product& gates = cell.operand_product[q];
        const int64_t gate_size = size(cell.size_of_gates(q)), units = size(cell.operand_size[q]);
        const bool recurrent = cell.size_of_gates(q) == kHiddenSize;
        const T* from = static_cast<const T*>(recurrent ? w.hh : w.hr);
        weights_[d].operand[q] = {from + gates.first * gate_size * units, gates.count * gate_size,
                                  units, few_rows() ? 0 : rows};
        this->share_by(cell.operand_size[q], weights_[d].operand[q].vectors());
      }
      for (int run = 0; p.grad_x.data && run < cell.x_spans; ++run) {
        const auto& [block, _, count] = cell.x_span[run];
        weights_[d].input[run] = {static_cast<const T*>(w.ih) + block * hidden * p.input_size,
                                  count * hidden, p.input_size, few_rows() ? 0 : s.active_rows()};
      }
    }
  }

  void make_buffers() {
    const int64_t directions = p.directions, active = s.active_rows();
    grad_stride = padded(cell.grad_row(p.hidden_size, p.output_size));
    state_stride_ = padded(std::max(p.hidden_size, p.output_size));
    grads_ = Buffer<O>(directions * active * grad_stride);
    // A product of odd depth reads one value too many, times 0: the next gate's or, behind the last
    // one, this zero. An infinite gradient of the next gate makes the result NaN.
    if (kSpan<Factor<Arch, T>> == 2 && (p.hidden_size % 2 || p.output_size % 2)) {
      std::fill_n(grads_.get(), directions * active * grad_stride, O{});
    }
    operand_ =
        Buffer<T>(wants_weights() ? directions * (cell.operands - 1) * active * p.hidden_size : 0);
    carry_ = Buffer<C>(directions * cell.states * s.batch * state_stride_);
    initial_ = Buffer<C>(directions * (cell.states - 1) * s.batch * state_stride_);
    // A row has the products of all operands that a phase makes, and is no power of 2.
    int64_t blocks = 0, operands = 1;
    for (int q = 0; q < cell.operands; ++q) {
      blocks = std::max(blocks, operand_weights(0, q).columns());
    }
    for (const PhaseLayout& phase : cell.phase)
      operands = std::max<int64_t>(operands, phase.operands);
    product_stride =
        (operands * (blocks + std::max(this->share(kHiddenSize), this->share(kOutputSize))) + 1) *
        W;
    product_ = Buffer<C>(count_slices(p, plan) * rows * product_stride);
    row_ = Buffer<BackwardRow<Arch, T>>(count_slices(p, plan) * rows);
    prefer_huge_pages(p.grad_x.data, active * p.input_size * sizeof(T));
  }

  Direction weights_[2];
  int64_t state_stride_ = 0;
  Buffer<O> grads_;    // [D][active rows]
  Buffer<T> operand_;  // [D][operands - 1][active rows]
  Buffer<C> carry_;    // [D][states][B]
  Buffer<C> initial_;  // [D][states - 1][B]
  Buffer<C> product_;
  Buffer<BackwardRow<Arch, T>> row_;
};

}  // namespace fastrnn::cpu
