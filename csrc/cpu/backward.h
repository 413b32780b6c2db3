// The backward driver: step by step against the direction of the scan, the product of the later
// step's gate gradients with W_hh and the cell's backward on its tiles; then, over the whole
// sequence at once, the gradients of the input and of the weights.
#pragma once

#include <numeric>
#include <vector>

#include "cell_kernels.h"
#include "forward.h"
#include "input_gradient.h"
#include "plain_weights.h"
#include "slice.h"
#include "weight_gradient.h"

namespace fastrnn::cpu {

template <class Arch, class T>
class Backward {
 public:
  Backward(const ScanParams& p, const Pool& pool)
      : p_(p), s_(p.schedule), kernels_(cell_kernels<Arch, T>(p.cell)), pool_(pool) {
    make_weights();
    make_buffers();
  }

  void run() {
    pack();
    const double flops =
        2. * s_.rows() * p_.directions * gate_rows() * std::max<int64_t>(p_.output_size, 8);
    run_slices(p_, plan_, pool_, flops,
               [this](const Slice& slice, Member& member) { run_slice(slice, member); });
    if (p_.grad_x.data) write_grad_x();
    if (p_.grad_weights[0].ih) write_grad_weights();
  }

 private:
  using C = Compute<T>;
  using V = Vec<C, Arch::kBytes>;
  static constexpr int W = V::kSize;

  struct Direction {
    PlainWeights<Arch, T> ih, hh, hr;
  };

  bool projected() const { return p_.weights[0].hr != nullptr; }
  int64_t gate_rows() const { return kernels_.gates * p_.hidden_size; }
  int64_t blocks() const { return (p_.hidden_size + W - 1) / W; }

  void make_weights() {
    plan_ = make_plan({.threads = pool_.threads,
                       .directions = p_.directions,
                       .batch = s_.batch,
                       .steps = s_.steps,
                       .depth = gate_rows(),
                       .columns = p_.output_size,
                       .column_groups = std::max<int64_t>(1, p_.output_size / W / kMaxTileVectors),
                       .element_size = sizeof(C)});
    rows_ = max_rows(p_, plan_);
    const bool few = s_.rows() <= kFewRows;
    const int64_t h_rows = few ? 0 : rows_;
    for (int64_t d = 0; d < p_.directions; ++d) {
      const Weights& w = p_.weights[d];
      direction_[d].hh = {w.hh, gate_rows(), p_.output_size, h_rows};
      if (w.hr) direction_[d].hr = {w.hr, p_.output_size, p_.hidden_size, h_rows};
      if (p_.grad_x.data) {
        direction_[d].ih = {w.ih, gate_rows(), p_.input_size, few ? 0 : s_.rows()};
      }
    }
  }

  void make_buffers() {
    const int64_t directions = p_.directions, batch = s_.batch, running = s_.rows();
    gate_stride_ = padded(gate_rows());
    state_stride_ = padded(p_.hidden_size);
    dx_ = Buffer<C>(directions * running * gate_stride_);
    dr_ = Buffer<C>(kernels_.additive ? 0 : directions * running * gate_stride_);
    carry_ = Buffer<C>(directions * (kernels_.states + 1) * batch * state_stride_);
    initial_ = Buffer<C>(directions * (kernels_.states - 1) * batch * state_stride_);
    grad_h_ = Buffer<C>(projected() ? directions * running * state_stride_ : 0);
    product_stride_ = (std::max(direction_[0].hh.columns(), direction_[0].hr.columns()) + 1) * W;
    product_ = Buffer<C>(count_slices(p_, plan_) * rows_ * product_stride_);
    row_ = Buffer<BackwardRow<T>>(count_slices(p_, plan_) * rows_);
    prefer_huge_pages(p_.grad_x.data, running * p_.input_size * sizeof(T));
  }

  void pack() {
    PlainWeights<Arch, T>* all[6];
    int count = 0;
    double elements = 0;
    for (int64_t d = 0; d < p_.directions; ++d) {
      for (auto* w : {&direction_[d].ih, &direction_[d].hh, &direction_[d].hr}) {
        all[count++] = w;
        elements += double(w->parts()) * w->part_size();
      }
    }
    pack_all(all, count, elements, pool_);
  }

  // The slice's hidden units, in vectors, and those of h where it is projected.
  Range units(const Slice& slice) const {
    return slice.part(blocks(),
                      projected() ? direction_[0].hr.vectors() : direction_[0].hh.vectors());
  }
  Range outputs(const Slice& slice) const {
    return slice.part((p_.output_size + W - 1) / W, direction_[0].hh.vectors());
  }

  // d(loss)/dr of the slice's rows at step i, which the product of the step before reads; null
  // where no row ran at step i, because there may be no such step.
  const C* gates(const Slice& slice, int64_t i, int64_t rows) const {
    if (rows == 0) return nullptr;
    const Buffer<C>& all = kernels_.additive ? dx_ : dr_;
    return all.get() + row_of(slice.direction, slice.running(slice.time(i), 0)) * gate_stride_;
  }
  // Of state k; of state `states`: zeros, which stand in for h below a projection.
  C* carry(const Slice& slice, int k, int64_t m) const {
    const int64_t index = slice.direction * (kernels_.states + 1) + k;
    return carry_.get() + (index * s_.batch + slice.row + m) * state_stride_;
  }
  C* initial(const Slice& slice, int k, int64_t m) const {
    const int64_t index = slice.direction * (kernels_.states - 1) + k - 1;
    return initial_.get() + (index * s_.batch + slice.row + m) * state_stride_;
  }
  int64_t row_of(int64_t direction, int64_t running) const {
    return direction * s_.rows() + running;
  }
  C* product(const Slice& slice) const {
    return product_.get() + slice.index * rows_ * product_stride_;
  }

  void run_slice(const Slice& slice, Member& member) const {
    start(slice);
    member.wait();
    int64_t after = 0;  // rows that ran in the step that came after in time
    for (int64_t i = s_.steps - 1; i >= 0; --i) after = step(slice, member, i, after);
    if (p_.grad_initial[0].data) finish(slice, after);
  }

  void start(const Slice& slice) const {
    for (int k = 0; k <= kernels_.states; ++k) {
      const bool outputs = k == 0 && projected();
      const Range own = outputs ? this->outputs(slice) : units(slice);
      const int64_t size = outputs ? p_.output_size : p_.hidden_size;
      for (int64_t m = 0; m < slice.rows; ++m) {
        const bool given = k < kernels_.states && p_.grad_last[k].data;
        const T* grad = given ? slice.at<T>(p_.grad_last[k], m) : nullptr;
        const bool starts = k > 0 && k < kernels_.states && p_.initial[k].data;
        const T* state = starts ? slice.at<T>(p_.initial[k], m) : nullptr;
        for (int64_t j = own.begin * W; j < std::min(own.end * W, size); j += W) {
          const int n = int(std::min<int64_t>(W, size - j));
          store(carry(slice, k, m) + j, load_or_zero<V>(grad, j, n));
          if (state) store(initial(slice, k, m) + j, load<V>(state + j, n));
        }
      }
    }
  }

  // `after`: how many rows ran in step i + 1. Returns how many did in this one.
  int64_t step(const Slice& slice, Member& member, int64_t i, int64_t after) const {
    const int64_t t = slice.time(i), active = slice.active(t);
    if (projected()) {
      output_gradients(slice, i, active, after);
      member.wait();
      make_rows(slice, i, active, 0);
      cells(slice, direction_[slice.direction].hr, grad_h(slice.direction, slice.running(t, 0)),
            state_stride_, active, active);
    } else {
      make_rows(slice, i, active, after);
      cells(slice, direction_[slice.direction].hh, gates(slice, i + 1, after), gate_stride_, after,
            std::max(active, after));
    }
    member.wait();
    return active;
  }

  C* grad_h(int64_t direction, int64_t running) const {
    return grad_h_.get() + row_of(direction, running) * state_stride_;
  }

  // The cell's backward on the slice's units of `rows` rows; the first `multiplied` rows of a times
  // `weights` come on top of d(loss)/dh.
  void cells(const Slice& slice, const PlainWeights<Arch, T>& weights, const C* a, int64_t a_stride,
             int64_t multiplied, int64_t rows) const {
    const Range own = units(slice);
    const BackwardRow<T>* row = row_.get() + slice.index * rows_;
    if (multiplied) {
      weights.multiply(multiplied, a, a_stride, own.begin, own.end, nullptr, 0, product(slice),
                       product_stride_);
    }
    const int blocks = int(own.end - own.begin);
    kernels_.backward(row, int(multiplied), product(slice), product_stride_, own.begin * W, blocks,
                      p_.hidden_size);
    kernels_.backward(row + multiplied, int(rows - multiplied), nullptr, 0, own.begin * W, blocks,
                      p_.hidden_size);
  }

  // Of projected cells: d(loss)/dh of a step, for the slice's own outputs.
  void output_gradients(const Slice& slice, int64_t i, int64_t active, int64_t after) const {
    const Range own = outputs(slice);
    if (after) {
      direction_[slice.direction].hh.multiply(after, gates(slice, i + 1, after), gate_stride_,
                                              own.begin, own.end, nullptr, 0, product(slice),
                                              product_stride_);
    }
    const int64_t t = slice.time(i);
    for (int64_t m = 0; m < std::max(active, after); ++m) {
      const bool runs = m < active, flows = m < after && !resets_after(slice, i, m);
      const C* from = product(slice) + m * product_stride_;
      const T* grad_y = runs ? grad_y_of(slice, t, m) : nullptr;
      for (int64_t j = own.begin * W; j < std::min(own.end * W, p_.output_size);
           j += W, from += W) {
        V sum = load<V>(carry(slice, 0, m) + j);
        if (flows) sum = sum + load<V>(from);
        sum = sum + load_or_zero<V>(grad_y, j, int(std::min<int64_t>(W, p_.output_size - j)));
        if (runs) store(grad_h(slice.direction, slice.running(t, m)) + j, sum);
        store(carry(slice, 0, m) + j, runs ? V(C(0)) : sum);
      }
    }
  }

  bool resets_after(const Slice& slice, int64_t i, int64_t m) const {
    return slice.resets(slice.time(i + 1), m);
  }

  const T* grad_y_of(const Slice& slice, int64_t t, int64_t m) const {
    if (!p_.grad_y.data) return nullptr;
    return slice.at<T>(p_.grad_y, t, m) + slice.direction * p_.output_size;
  }

  // Of the `active` rows that run at step i, and of the `after` rows that ran in the one after it.
  void make_rows(const Slice& slice, int64_t i, int64_t active, int64_t after) const {
    BackwardRow<T>* row = row_.get() + slice.index * rows_;
    for (int64_t m = 0; m < std::max(active, after); ++m) {
      row[m] = m < active ? make_row(slice, slice.time(i), m) : BackwardRow<T>{};
      row[m].reset_after = m < after && resets_after(slice, i, m);
      for (int k = 0; k < kernels_.states; ++k) {
        row[m].carry[k] = carry(slice, k == 0 && projected() ? kernels_.states : k, m);
      }
    }
  }

  BackwardRow<T> make_row(const Slice& slice, int64_t t, int64_t m) const {
    const int64_t d = slice.direction;
    BackwardRow<T> row{.runs = true};
    const int64_t running = slice.running(t, m), saved = running * p_.directions + d;
    const bool first = t == slice.first_time(m);
    row.reset = slice.resets(t, m);
    row.saved = static_cast<const T*>(p_.saved) + saved * kernels_.saved * p_.hidden_size;
    row.dx = dx_.get() + row_of(d, running) * gate_stride_;
    if (!kernels_.additive) row.dr = dr_.get() + row_of(d, running) * gate_stride_;
    if (projected()) {
      row.h_after = static_cast<const T*>(p_.hidden) + saved * p_.hidden_size;
    } else {
      row.grad_y = grad_y_of(slice, t, m);
      row.h_before = h_before(slice, t, m);
      row.h_after = slice.at<T>(p_.y, t, m) + d * p_.output_size;
    }
    for (int k = 1; k < kernels_.states; ++k) {
      row.after[k] = slice.at<C>(p_.steps[k], t, m) + d * p_.hidden_size;
      if (p_.grad_steps[k].data) {
        row.grad_steps[k] = slice.at<C>(p_.grad_steps[k], t, m) + d * p_.hidden_size;
      }
      if (row.reset) continue;
      if (!first) {
        row.before[k] = slice.at<C>(p_.steps[k], slice.before(t), m) + d * p_.hidden_size;
      } else if (p_.initial[k].data) {
        row.before[k] = initial(slice, k, m);
      }
    }
    return row;
  }

  // h before step t, or null where it is zero.
  const T* h_before(const Slice& slice, int64_t t, int64_t m) const {
    if (slice.resets(t, m)) return nullptr;
    if (t != slice.first_time(m)) {
      return slice.at<T>(p_.y, slice.before(t), m) + slice.direction * p_.output_size;
    }
    return p_.initial[0].data ? slice.at<T>(p_.initial[0], m) : nullptr;
  }

  // The gradients of the initial states; `after` rows ran in the first step.
  void finish(const Slice& slice, int64_t after) const {
    if (projected()) {
      output_gradients(slice, -1, 0, after);
    } else {
      make_rows(slice, -1, 0, after);
      cells(slice, direction_[slice.direction].hh, gates(slice, 0, after), gate_stride_, after,
            after);
    }
    for (int k = 0; k < kernels_.states; ++k) {
      const bool outputs = k == 0 && projected();
      const Range own = outputs ? this->outputs(slice) : units(slice);
      const int64_t size = outputs ? p_.output_size : p_.hidden_size;
      for (int64_t m = 0; m < slice.rows; ++m) {
        for (int64_t j = own.begin * W; j < std::min(own.end * W, size); j += W) {
          store(slice.at<T>(p_.grad_initial[k], m) + j, load<V>(carry(slice, k, m) + j),
                int(std::min<int64_t>(W, size - j)));
        }
      }
    }
  }

  void write_grad_x() const {
    const PlainWeights<Arch, T>* weights[2] = {&direction_[0].ih, &direction_[1].ih};
    const C* gates[2] = {dx_.get(), dx_.get() + row_of(1, 0) * gate_stride_};
    Buffer<T*> out(s_.rows());
    for (int64_t t = 0; t < s_.steps; ++t) {
      for (int64_t row = 0; row < s_.active(t); ++row) {
        out.get()[s_.first(t) + row] =
            static_cast<T*>(p_.grad_x.data) + s_.offset(p_.grad_x, t, row);
      }
    }
    input_gradient<Arch, T>(p_.directions, weights, gates, gate_stride_, s_.rows(), gate_rows(),
                            p_.input_size, out.get(), pool_);
  }

  void write_grad_weights() const {
    const int64_t count = s_.rows(), directions = p_.directions;
    Buffer<const T*> rows(3 * directions * count);
    std::vector<OuterProducts<T>> jobs;
    for (int64_t d = 0; d < directions; ++d) {
      const T** x = rows.get() + 3 * d * count;
      const T** h = x + count;
      const T** hidden = h + count;
      const Slice all = whole(p_, d);
      for (int64_t t = 0, k = 0; t < s_.steps; ++t) {
        for (int64_t m = 0; m < s_.active(t); ++m, ++k) {
          x[k] = all.at<T>(p_.x, t, m);
          h[k] = h_before(all, t, m);
          if (p_.hidden) {
            hidden[k] = static_cast<const T*>(p_.hidden) + (k * directions + d) * p_.hidden_size;
          }
        }
      }
      const Weights& grad = p_.grad_weights[d];
      const C* dx = dx_.get() + row_of(d, 0) * gate_stride_;
      const C* dr = kernels_.additive ? dx : dr_.get() + row_of(d, 0) * gate_stride_;
      jobs.push_back({dx, gate_stride_, x, count, gate_rows(), p_.input_size,
                      static_cast<T*>(grad.ih), static_cast<T*>(grad.bias_ih)});
      jobs.push_back({dr, gate_stride_, h, count, gate_rows(), p_.output_size,
                      static_cast<T*>(grad.hh), static_cast<T*>(grad.bias_hh)});
      if (projected()) {
        jobs.push_back({grad_h(d, 0), state_stride_, hidden, count, p_.output_size, p_.hidden_size,
                        static_cast<T*>(grad.hr), nullptr});
      }
    }
    WeightGradient<Arch, T>(jobs, pool_).run();
  }

  const ScanParams& p_;
  const Schedule& s_;
  const CellKernels<T>& kernels_;
  const Pool& pool_;
  Plan plan_;
  Direction direction_[2];
  int64_t rows_ = 0;  // of the largest row group
  int64_t gate_stride_ = 0, state_stride_ = 0, product_stride_ = 0;
  Buffer<C> dx_, dr_;  // [D][rows that run]
  Buffer<C> carry_;    // [D][states + 1][B]
  Buffer<C> initial_;  // [D][states - 1][B]
  Buffer<C> grad_h_;   // [D][rows that run]: d(loss)/dh above a projection
  Buffer<C> product_;
  Buffer<BackwardRow<T>> row_;
};

}  // namespace fastrnn::cpu
