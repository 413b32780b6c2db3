// The forward driver: for each slice, the input projection of a chunk of steps as one product, then
// step by step the recurrent product with the cell on its tiles.
#pragma once

#include <numeric>

#include "cell_kernels.h"
#include "gate_weights.h"
#include "slice.h"

namespace fastrnn::cpu {

// Up to this many rows in the whole scan, weights are used as they lie: packing one costs as much
// as about 8 products of one row with it.
inline constexpr int64_t kFewRows = 8;

// Rows of one input projection: enough for whole tiles and to use each weight often, few enough for
// the result to stay in the cache until the steps read it.
inline constexpr int64_t kChunkRows = 64;

template <class Arch, class T>
class Forward {
 public:
  Forward(const ScanParams& p, const Pool& pool)
      : p_(p), s_(p.schedule), kernels_(cell_kernels<Arch, T>(p.cell)), pool_(pool) {
    make_weights();
    make_buffers();
  }

  void run() {
    pack();
    const double flops = 2. * s_.rows() * p_.directions * direction_[0].hh.columns() * W *
                         (p_.input_size + p_.output_size);
    run_slices(p_, plan_, pool_, flops,
               [this](const Slice& slice, Member& member) { run_slice(slice, member); });
  }

 private:
  using C = Compute<T>;
  using V = Vec<C, Arch::kBytes>;
  static constexpr int W = V::kSize;

  struct Direction {
    GateWeights<Arch, T> ih, hh, hr;
  };

  bool projected() const { return p_.weights[0].hr != nullptr; }
  bool few_rows() const { return s_.rows() <= kFewRows; }

  void make_weights() {
    const int64_t columns = (p_.hidden_size + W - 1) / W * kernels_.gates;
    plan_ = make_plan({.threads = pool_.threads,
                       .directions = p_.directions,
                       .batch = s_.batch,
                       .steps = s_.steps,
                       .depth = p_.output_size + (few_rows() ? p_.input_size : 0),
                       .columns = columns * W,
                       .column_groups = (columns + kMaxTileVectors - 1) / kMaxTileVectors,
                       .element_size = sizeof(C)});
    rows_ = max_rows(p_, plan_);
    chunk_steps_ = std::clamp<int64_t>((kChunkRows + rows_ - 1) / rows_, 1, s_.steps);
    const int64_t h_rows = few_rows() ? 0 : rows_, x_rows = h_rows * chunk_steps_;
    for (int64_t d = 0; d < p_.directions; ++d) {
      const Weights& w = p_.weights[d];
      const int gates = kernels_.gates;
      direction_[d].ih = {w.ih, w.bias_ih, gates, p_.hidden_size, p_.input_size, x_rows};
      direction_[d].hh = {w.hh, w.bias_hh, gates, p_.hidden_size, p_.output_size, h_rows};
      if (w.hr) direction_[d].hr = {w.hr, nullptr, 1, p_.output_size, p_.hidden_size, h_rows};
    }
    group_ = std::lcm(kernels_.gates, direction_[0].hh.vectors());
    share_ = std::lcm(group_, direction_[0].ih.vectors());
  }

  void make_buffers() {
    const int64_t teams = count_teams(p_, plan_), slices = count_slices(p_, plan_);
    const int64_t batch = s_.batch, chunk_rows = rows_ * chunk_steps_;
    h_stride_ = padded(p_.output_size);
    state_stride_ = padded(p_.hidden_size);
    x_stride_ = padded(p_.input_size);
    gate_stride_ = padded((direction_[0].ih.columns() + share_) * W);
    product_size_ = rows_ * std::max<int64_t>(group_, direction_[0].hr.vectors()) * W;
    h_ = Buffer<C>(p_.directions * 2 * batch * h_stride_);
    carry_ = Buffer<C>(p_.directions * (kernels_.states - 1) * batch * state_stride_);
    hidden_ = Buffer<C>(projected() ? p_.directions * batch * state_stride_ : 0);
    gates_ = Buffer<C>(teams * chunk_rows * gate_stride_);
    x_ = Buffer<C>(slices * chunk_rows * x_stride_);
    product_ = Buffer<C>(slices * product_size_);
    row_ = Buffer<ForwardRow<T>>(slices * rows_);
    const int64_t units = s_.rows() * p_.directions * p_.hidden_size;
    prefer_huge_pages(p_.y.data, s_.rows() * p_.directions * p_.output_size * sizeof(T));
    prefer_huge_pages(p_.saved, units * kernels_.saved * sizeof(T));
    for (const Sequence& steps : p_.steps) prefer_huge_pages(steps.data, units * sizeof(C));
  }

  void pack() {
    GateWeights<Arch, T>* all[6];
    int count = 0;
    for (int64_t d = 0; d < p_.directions; ++d) {
      all[count++] = &direction_[d].ih;
      all[count++] = &direction_[d].hh;
      if (projected()) all[count++] = &direction_[d].hr;
    }
    const double elements =
        double(p_.directions) * kernels_.gates * p_.hidden_size * (p_.input_size + p_.output_size);
    pack_all(all, count, few_rows() ? 0 : elements, pool_);
  }

  C* h(const Slice& slice, int64_t i, int64_t m) const {
    return h_.get() + ((slice.direction * 2 + i % 2) * s_.batch + slice.row + m) * h_stride_;
  }
  C* carry(const Slice& slice, int state, int64_t m) const {
    const int64_t index = slice.direction * (kernels_.states - 1) + state - 1;
    return carry_.get() + (index * s_.batch + slice.row + m) * state_stride_;
  }
  C* hidden(const Slice& slice, int64_t m) const {
    return hidden_.get() + (slice.direction * s_.batch + slice.row + m) * state_stride_;
  }
  C* gates(const Slice& slice) const {
    return gates_.get() + slice.team * rows_ * chunk_steps_ * gate_stride_;
  }
  C* product(const Slice& slice) const { return product_.get() + slice.index * product_size_; }
  ForwardRow<T>* rows(const Slice& slice) const { return row_.get() + slice.index * rows_; }

  void run_slice(const Slice& slice, Member& member) const {
    start_states(slice);
    member.wait();
    for (int64_t i = 0; i < s_.steps;) {
      const int64_t end = std::min(s_.steps, i + chunk_steps_);
      project_inputs(slice, i, end);
      for (const C* gates = this->gates(slice); i < end; ++i) {
        gates += step(slice, member, i, gates) * gate_stride_;
      }
    }
  }

  void start_states(const Slice& slice) const {
    const Range gates = slice.part(direction_[0].hh.columns(), share_);
    Range units{gates.begin / kernels_.gates * W, gates.end / kernels_.gates * W};
    for (int k = 1; k < kernels_.states; ++k) start_state(slice, k, units, p_.hidden_size);
    if (projected()) {
      units = slice.part(direction_[0].hr.columns(), direction_[0].hr.vectors());
      units = {units.begin * W, units.end * W};
    }
    start_state(slice, 0, units, p_.output_size);
  }

  // Both buffers of h get the initial state, because the rows of a reversed direction begin at
  // different steps. A row of length 0 ends where it begins.
  void start_state(const Slice& slice, int state, Range units, int64_t size) const {
    for (int64_t m = 0; m < slice.rows; ++m) {
      const bool runs = slice.length(m) > 0;
      const bool reset = runs && slice.resets(slice.first_time(m), m);
      const T* from = p_.initial[state].data ? slice.at<T>(p_.initial[state], m) : nullptr;
      for (int64_t j = units.begin; j < std::min(units.end, size); j += W) {
        const int n = int(std::min<int64_t>(W, size - j));
        const V v = load_or_zero<V>(from, j, n);
        if (!runs) store(slice.at<T>(p_.last[state], m) + j, v, n);
        for (int64_t i = 0; i < 2; ++i) {
          store((state ? carry(slice, state, m) : h(slice, i, m)) + j, reset ? V(C(0)) : v);
        }
      }
    }
  }

  // The x part of the gates of steps [begin, end), one row after the other.
  void project_inputs(const Slice& slice, int64_t begin, int64_t end) const {
    C* x = x_.get() + slice.index * rows_ * chunk_steps_ * x_stride_;
    int64_t count = 0;
    for (int64_t i = begin; i < end; ++i) {
      const int64_t t = slice.time(i), rows = slice.active(t);
      for (int64_t m = 0; m < rows; ++m, ++count) {
        const T* from = slice.at<T>(p_.x, t, m);
        for (int64_t j = 0; j < p_.input_size; j += W) {
          const int n = int(std::min<int64_t>(W, p_.input_size - j));
          store(x + count * x_stride_ + j, load<V>(from + j, n));
        }
      }
    }
    const GateWeights<Arch, T>& ih = direction_[slice.direction].ih;
    const Range columns = slice.part(ih.columns(), share_);
    ih.multiply(count, x, x_stride_, columns.begin, columns.end - columns.begin,
                gates(slice) + columns.begin * W, gate_stride_);
  }

  // Returns how many rows ran.
  int64_t step(const Slice& slice, Member& member, int64_t i, const C* gates) const {
    const GateWeights<Arch, T>& hh = direction_[slice.direction].hh;
    const int64_t t = slice.time(i), active = slice.active(t);
    const int64_t stride = group_ * W;
    ForwardRow<T>* row = rows(slice);
    for (int64_t m = 0; m < active; ++m) {
      row[m] = make_row(slice, i, t, m);
      row[m].x = gates + m * gate_stride_;
    }
    const Range columns = slice.part(hh.columns(), share_);
    for (int64_t column = columns.begin; column < columns.end; column += group_) {
      hh.multiply(active, h(slice, i, 0), h_stride_, column, group_, product(slice), stride);
      kernels_.forward(row, int(active), product(slice), stride, column / kernels_.gates * W,
                       int(group_ / kernels_.gates), p_.hidden_size);
    }
    if (projected()) {
      member.wait();
      project_hidden(slice, active);
    }
    member.wait();
    return active;
  }

  ForwardRow<T> make_row(const Slice& slice, int64_t i, int64_t t, int64_t m) const {
    const int64_t d = slice.direction;
    const int64_t saved = slice.running(t, m) * p_.directions + d;
    const bool is_last = t == slice.last_time(m);
    ForwardRow<T> row{};
    row.h = h(slice, i, m);
    row.next_h = h(slice, i + 1, m);
    row.y = slice.at<T>(p_.y, t, m) + d * p_.output_size;
    row.reset = !is_last && slice.resets(slice.after(t), m);
    if (p_.saved) row.saved = static_cast<T*>(p_.saved) + saved * kernels_.saved * p_.hidden_size;
    if (projected()) row.hidden = hidden(slice, m);
    if (p_.hidden) row.saved_hidden = static_cast<T*>(p_.hidden) + saved * p_.hidden_size;
    for (int k = 0; k < kernels_.states; ++k) {
      if (is_last) row.last[k] = slice.at<T>(p_.last[k], m);
      if (k == 0) continue;
      row.carry[k] = carry(slice, k, m);
      if (p_.steps[k].data) row.steps[k] = slice.at<C>(p_.steps[k], t, m) + d * p_.hidden_size;
    }
    return row;
  }

  // h_t = W_hr hidden_t, for the slice's own outputs.
  void project_hidden(const Slice& slice, int64_t active) const {
    const GateWeights<Arch, T>& hr = direction_[slice.direction].hr;
    const int64_t stride = hr.vectors() * W;
    const ForwardRow<T>* row = rows(slice);
    const Range columns = slice.part(hr.columns(), hr.vectors());
    for (int64_t column = columns.begin; column < columns.end; column += hr.vectors()) {
      hr.multiply(active, hidden(slice, 0), state_stride_, column, hr.vectors(), product(slice),
                  stride);
      for (int64_t m = 0; m < active; ++m) {
        const C* out = product(slice) + m * stride;
        for (int64_t j = column * W; j < (column + hr.vectors()) * W; j += W, out += W) {
          if (j >= p_.output_size) break;
          const int n = int(std::min<int64_t>(W, p_.output_size - j));
          store_h(row[m], j, rounded<T>(load<V>(out)), n);
        }
      }
    }
  }

  const ScanParams& p_;
  const Schedule& s_;
  const CellKernels<T>& kernels_;
  const Pool& pool_;
  Plan plan_;
  Direction direction_[2];
  int64_t rows_ = 0;         // of the largest row group
  int64_t chunk_steps_ = 0;  // steps of one input projection
  int64_t group_ = 0;        // columns that one tile takes: whole units, whole panels
  int64_t share_ = 0;        // columns by which units are shared out: whole panels of W_ih, too
  int64_t h_stride_ = 0, state_stride_ = 0, x_stride_ = 0, gate_stride_ = 0;
  int64_t product_size_ = 0;
  Buffer<C> h_;       // [D][2][B], of this step and of the next
  Buffer<C> carry_;   // [D][states - 1][B]
  Buffer<C> hidden_;  // [D][B]
  Buffer<C> gates_, x_, product_;
  Buffer<ForwardRow<T>> row_;
};

}  // namespace fastrnn::cpu
