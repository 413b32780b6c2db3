// The backward driver. It walks through the steps and through the phases of each in reverse. A
// phase needs the gradients of what it made: products of the gradients of the gates that multiply
// it, which lie in later phases or, for h, in the next step. The gradients of the input and of the
// weights follow at the end, over the whole sequence at once.
#pragma once

#include <vector>

#include "backward_workspace.h"
#include "input_gradient.h"
#include "team.h"
#include "weight_gradient.h"

namespace fastrnn::cpu {

template <class Arch, class T>
class Backward {
 public:
  Backward(const ScanParams& p, const Pool& pool)
      : p_(p), s_(p.schedule), kernels_(cell_kernels<Arch, T>(p.cell)), work_(p, cell_, pool) {}

  void run() {
    work_.pack();
    const double flops = 2. * s_.active_rows() * p_.directions * cell_.h_blocks * p_.hidden_size *
                         std::max<int64_t>(p_.output_size, 8);
    run_teams(p_, work_.plan, work_.pool, flops, [this](Member& member) { run_steps(member); });
    if (p_.grad_x.data) write_grad_x();
    if (work_.wants_weights()) write_grad_weights();
  }

 private:
  using C = Compute<T>;
  using O = Operand<Arch, T>;
  using V = Vec<C, Arch::kBytes>;
  static constexpr int W = V::kSize;

  void run_steps(Member& member) const {
    member.together([this](const Slice& slice) {
      for (int k = 0; k < cell_.states; ++k) start_state(slice, k);
    });
    int64_t after = 0;  // rows that were active in the step that came after in time
    for (int64_t i = s_.steps - 1; i >= 0; --i) after = step(member, i, after);
    if (!p_.grad_initial[0].data) return;
    member.together([&](const Slice& slice) { finish(slice, after); });
  }

  void start_state(const Slice& slice, int k) const {
    const Range units = work_.own_units(slice, cell_.state_size(k));
    for (int64_t m = 0; m < slice.rows; ++m) {
      const T* grad = p_.grad_last[k].data ? slice.at<T>(p_.grad_last[k], m) : nullptr;
      const T* state = k > 0 && p_.initial[k].data ? slice.at<T>(p_.initial[k], m) : nullptr;
      for (int64_t j = units.begin; j < units.end; j += W) {
        const int n = int(std::min<int64_t>(W, units.end - j));
        store(work_.carry(slice, k, m) + j, load_or_zero<V>(grad, j, n));
        if (state) store(work_.initial(slice, k, m) + j, load<V>(state + j, n));
      }
    }
  }

  // `after`: how many rows were active in step i + 1. Returns how many are in this one.
  int64_t step(Member& member, int64_t i, int64_t after) const {
    const int64_t active = member.own().active(member.own().time(i));
    member.together([&](const Slice& slice) {
      make_rows(slice, i, active, after);
      run_last_phase(slice, i, active, after);
    });
    for (int index = cell_.phases - 2; index >= 0; --index) {
      member.together([&](const Slice& slice) { run_phase(slice, i, index, active); });
    }
    return active;
  }

  // A phase before the last one.
  void run_phase(const Slice& slice, int64_t i, int index, int64_t active) const {
    if (!active) return;
    const PhaseLayout& phase = cell_.phase[index];
    const Range own = work_.own_blocks(slice, phase.size);
    for (int q = 0; q < phase.operands; ++q) {
      multiply(slice, i, active, phase.first_operand + q, own,
               work_.product(slice) + q * (own.end - own.begin) * W);
    }
    run_kernel(slice, index, 0, active, work_.product(slice));
  }

  // The phase that makes h gets what step i + 1 has for it; rows that are active only there hand it
  // through.
  void run_last_phase(const Slice& slice, int64_t i, int64_t active, int64_t after) const {
    const int last = cell_.phases - 1;
    if (after) {
      const Range own = work_.own_blocks(slice, cell_.phase[last].size);
      multiply(slice, i + 1, after, 0, own, work_.product(slice));
      run_kernel(slice, last, 0, after, work_.product(slice));
    }
    run_kernel(slice, last, after, active, nullptr);
  }

  // The gradient that an operand of step i gets from its gates, for `rows` rows.
  void multiply(const Slice& slice, int64_t i, int64_t rows, int q, Range own, C* out) const {
    const O* grads = work_.grads(slice.direction, slice.active_row(slice.time(i), 0));
    work_.operand_weights(slice.direction, q)
        .multiply(rows, grads + cell_.grad_of(q, p_.hidden_size), work_.grad_stride, own.begin,
                  own.end, nullptr, 0, out, work_.product_stride);
  }

  // A phase's backward on the slice's units of rows [begin, end).
  void run_kernel(const Slice& slice, int index, int64_t begin, int64_t end,
                  const C* products) const {
    if (begin >= end) return;
    const PhaseLayout& phase = cell_.phase[index];
    const Range own = work_.own_blocks(slice, phase.size);
    kernels_.phase[index].backward(work_.row(slice) + begin, int(end - begin), products,
                                   work_.product_stride, own.begin * W, int(own.end - own.begin),
                                   work_.size(phase.size));
  }

  // Describes the rows of step i: the `active` ones, and those that were active only in the step
  // after it, which has `after` of them.
  void make_rows(const Slice& slice, int64_t i, int64_t active, int64_t after) const {
    BackwardRow<Arch, T>* row = work_.row(slice);
    for (int64_t m = 0; m < std::max(active, after); ++m) {
      row[m] = m < active ? make_row(slice, slice.time(i), m) : BackwardRow<Arch, T>{};
      row[m].starts_over_after = m < after && slice.starts_over(slice.time(i + 1), m);
      for (int k = 0; k < cell_.states; ++k) row[m].carry[k] = work_.carry(slice, k, m);
    }
  }

  BackwardRow<Arch, T> make_row(const Slice& slice, int64_t t, int64_t m) const {
    const int64_t d = slice.direction, hidden = p_.hidden_size;
    const int64_t index = slice.active_row(t, m);
    BackwardRow<Arch, T> row{.active = true};
    row.starts_over = slice.starts_over(t, m);
    row.saved =
        static_cast<const T*>(p_.saved) + (index * p_.directions + d) * cell_.saved * hidden;
    row.peephole = static_cast<const T*>(p_.weights[d].peephole);
    row.grads = work_.grads(d, index);
    row.output_grads = row.grads + cell_.grad_blocks * hidden;
    for (int q = 1; work_.wants_weights() && q < cell_.operands; ++q) {
      row.operand[q] = work_.operand(d, q, index);
    }
    if (p_.grad_y.data) row.grad_y = slice.at<T>(p_.grad_y, t, m) + d * p_.output_size;
    row.h_before = h_before(slice, t, m);
    row.h_after = slice.at<T>(p_.y, t, m) + d * p_.output_size;
    for (int k = 1; k < cell_.states; ++k) {
      row.after[k] = slice.at<C>(p_.steps[k], t, m) + d * hidden;
      if (p_.grad_steps[k].data) {
        row.grad_steps[k] = slice.at<C>(p_.grad_steps[k], t, m) + d * hidden;
      }
      if (row.starts_over) continue;
      if (t != slice.first_time(m)) {
        row.before[k] = slice.at<C>(p_.steps[k], slice.before(t), m) + d * hidden;
      } else if (p_.initial[k].data) {
        row.before[k] = work_.initial(slice, k, m);
      }
    }
    return row;
  }

  // h before step t, or null where it is zero.
  const T* h_before(const Slice& slice, int64_t t, int64_t m) const {
    if (slice.starts_over(t, m)) return nullptr;
    if (t != slice.first_time(m)) {
      return slice.at<T>(p_.y, slice.before(t), m) + slice.direction * p_.output_size;
    }
    return p_.initial[0].data ? slice.at<T>(p_.initial[0], m) : nullptr;
  }

  // The gradients of the initial states; `after` rows were active in the first step.
  void finish(const Slice& slice, int64_t after) const {
    make_rows(slice, -1, 0, after);
    run_last_phase(slice, -1, 0, after);
    for (int k = 0; k < cell_.states; ++k) {
      const Range units = work_.own_units(slice, cell_.state_size(k));
      for (int64_t m = 0; m < slice.rows; ++m) {
        for (int64_t j = units.begin; j < units.end; j += W) {
          store(slice.at<T>(p_.grad_initial[k], m) + j, load<V>(work_.carry(slice, k, m) + j),
                int(std::min<int64_t>(W, units.end - j)));
        }
      }
    }
  }

  void write_grad_x() const {
    InputGradient<Arch, T> job{
        .rows = s_.active_rows(), .features = p_.input_size, .grad_stride = work_.grad_stride};
    for (int64_t d = 0; d < p_.directions; ++d) {
      const O* grads = work_.grads(d, 0);
      for (int run = 0; run < cell_.x_spans; ++run) {
        job.products.push_back(
            {&work_.input_weights(d, run), grads + cell_.x_span[run].place * p_.hidden_size});
      }
      if (cell_.takes_x()) job.addends.push_back(grads + cell_.x_place * p_.hidden_size);
    }
    Buffer<T*> out(job.rows);
    for (int64_t t = 0; t < s_.steps; ++t) {
      for (int64_t row = 0; row < s_.active(t); ++row) {
        out.get()[s_.first(t) + row] = p_.at<T>(p_.grad_x, t, row);
      }
    }
    job.out = out.get();
    job.run(work_.pool);
  }

  void write_grad_weights() const {
    const int64_t count = s_.active_rows(), hidden = p_.hidden_size;
    // Where the rows of x and of each operand begin.
    const int64_t sequences = 1 + cell_.operands;
    Buffer<const T*> rows(p_.directions * sequences * count);
    std::vector<OuterProducts<Arch, T>> jobs;
    for (int d = 0; d < p_.directions; ++d) {
      const T** x = rows.get() + d * sequences * count;
      const T** operand = x + count;  // [operands][count]
      find_rows(d, x, operand);
      // The product of gradients at `place` of their rows with n columns of b, from row `first` on.
      auto add = [&](int64_t place, int64_t m, const T** b, int64_t n, void* grad, void* bias,
                     int64_t first) {
        jobs.push_back({.a = work_.grads(d, 0) + place,
                        .a_stride = work_.grad_stride,
                        .b = b,
                        .rows = count,
                        .m = m,
                        .n = n,
                        .grad = static_cast<T*>(grad) + first * n,
                        .bias = bias ? static_cast<T*>(bias) + first : nullptr});
      };
      const Weights& grad = p_.grad_weights[d];
      for (int i = 0; i < cell_.x_spans; ++i) {
        const auto& [block, place, blocks] = cell_.x_span[i];
        add(place * hidden, blocks * hidden, x, p_.input_size, grad.ih, grad.bias_ih,
            block * hidden);
      }
      for (int q = 0; q < cell_.operands; ++q) {
        const Product& gates = cell_.operand_product[q];
        const bool recurrent = cell_.size_of_gates(q) == kHiddenSize;
        const int64_t gate_size = work_.size(cell_.size_of_gates(q));
        add(cell_.grad_of(q, hidden), gates.count * gate_size, operand + q * count,
            work_.size(cell_.operand_size[q]), recurrent ? grad.hh : grad.hr,
            recurrent ? grad.bias_hh : nullptr, gates.first * gate_size);
      }
      if (cell_.weights) {
        add(cell_.weights_place * hidden, cell_.weights * hidden, x, 0, nullptr, grad.peephole, 0);
      }
    }
    WeightGradient<Arch, T>(jobs, work_.pool).run();
  }

  void find_rows(int direction, const T** x, const T** operand) const {
    const Slice all = whole(p_, direction);
    const int64_t count = s_.active_rows();
    for (int64_t t = 0, k = 0; t < s_.steps; ++t) {
      for (int64_t m = 0; m < s_.active(t); ++m, ++k) {
        x[k] = all.at<T>(p_.x, t, m);
        operand[k] = h_before(all, t, m);
        for (int q = 1; q < cell_.operands; ++q) {
          operand[q * count + k] = work_.operand(direction, q, k);
        }
      }
    }
  }

  const ScanParams& p_;
  const Schedule& s_;
  const CellKernels<Arch, T>& kernels_;
  const CellLayout& cell_ = kernels_.cell;
  BackwardWorkspace<Arch, T> work_;
};

}  // namespace fastrnn::cpu
