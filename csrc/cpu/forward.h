// The forward driver: for each slice, the input projection of a chunk of steps as one product; then
// step by step and phase by phase the products of the operands, with the cell on their tiles.
// Weights is ForwardWeights or what stands in its place.
#pragma once

#include "forward_workspace.h"
#include "team.h"

namespace fastrnn::cpu {

template <class Arch, class T, class Weights>
class Forward {
 public:
  Forward(const ScanParams& p, const Pool& pool)
      : p_(p), s_(p.schedule), kernels_(cell_kernels<Arch, T>(p.cell)), work_(p, cell_, pool) {}

  void run() {
    work_.pack();
    const double flops = 2. * s_.active_rows() * p_.directions * cell_.h_blocks *
                         work_.blocks(kHiddenSize) * W * (p_.input_size + p_.output_size);
    // Weights that are read for a few rows only come at a quarter of the speed of packed ones: two
    // threads took 110 us instead of 150 for a step of an RNN of 512 units.
    const double work = work_.in_place() ? 4 * flops : flops;
    run_teams(p_, work_.plan, work_.pool, work, [this](Member& member) { run_steps(member); });
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
    for (int64_t i = 0; i < s_.steps;) {
      const int64_t begin = i, end = std::min(s_.steps, i + work_.chunk_steps);
      for (int64_t rows = 0; i < end; ++i) {
        const int64_t active = member.own().active(member.own().time(i));
        for (int phase = 0; phase < cell_.phases; ++phase) {
          member.together([&](const Slice& slice) {
            if (phase == 0 && i == begin) project_inputs(slice, begin, end);
            if (phase == 0) make_rows(slice, i, active, rows);
            run_phase(slice, i, phase, active);
          });
        }
        rows += active;
      }
    }
  }

  // Both buffers of h get the initial state, because the rows of a reversed direction begin at
  // different steps. A row of length 0 ends where it begins.
  void start_state(const Slice& slice, int state) const {
    const Range units = work_.own_units(slice, cell_.state_size(state));
    for (int64_t m = 0; m < slice.rows; ++m) {
      const bool ends = slice.length(m) == 0;
      const bool starts_over = slice.starts_over(slice.first_time(m), m);
      const T* from = p_.initial[state].data ? slice.at<T>(p_.initial[state], m) : nullptr;
      for (int64_t j = units.begin; j < units.end; j += W) {
        const int n = int(std::min<int64_t>(W, units.end - j));
        const V v = load_or_zero<V>(from, j, n);
        if (ends) store(slice.at<T>(p_.last[state], m) + j, v, n);
        for (int64_t i = 0; i < 2; ++i) {
          const V start = starts_over ? V(C(0)) : v;
          state ? store(work_.carry(slice, state, m) + j, start)
                : store(work_.h(slice, i, m) + j, start);
        }
      }
    }
  }

  // The x part of the gates of steps [begin, end), one row after the other.
  void project_inputs(const Slice& slice, int64_t begin, int64_t end) const {
    int64_t count = 0;
    for (int64_t i = begin; i < end; ++i) {
      const int64_t t = slice.time(i), rows = slice.active(t);
      for (int64_t m = 0; m < rows; ++m, ++count) {
        const T* from = slice.at<T>(p_.x, t, m);
        O* to = work_.x(slice) + count * work_.x_stride;
        for (int64_t j = 0; j < p_.input_size; j += W) {
          store(to + j, load<V>(from + j, int(std::min<int64_t>(W, p_.input_size - j))));
        }
      }
    }
    const Range own = work_.own_blocks(slice, kHiddenSize);
    const int64_t first = own.begin * cell_.x_blocks, last = own.end * cell_.x_blocks;
    const Weights& weights = work_.input_weights(slice);
    const auto rows = weights.prepare(count, work_.x(slice), work_.x_stride, work_.prepared(slice));
    weights.multiply(count, rows, first, last - first, work_.from_x(slice) + first * W,
                     work_.from_x_stride);
  }

  // Describes the `active` rows of step i, which `chunk_row` rows of the chunk come before.
  void make_rows(const Slice& slice, int64_t i, int64_t active, int64_t chunk_row) const {
    const int64_t t = slice.time(i);
    const C* const from_x = work_.from_x(slice) + chunk_row * work_.from_x_stride;
    const O* const x = work_.x(slice) + chunk_row * work_.x_stride;
    for (int64_t m = 0; m < active; ++m) {
      ForwardRow<Arch, T>& row = work_.row(slice)[m];
      row = make_row(slice, i, t, m);
      row.from_x = from_x + m * work_.from_x_stride;
      row.x = x + m * work_.x_stride;
    }
  }

  void run_phase(const Slice& slice, int64_t i, int index, int64_t active) const {
    const PhaseLayout& phase = cell_.phase[index];
    const Range own = work_.own_blocks(slice, phase.size);
    const int64_t group = work_.group(index);
    const int64_t stride = phase.gates_before(phase.products) * group * W;
    typename Weights::Rows rows[kMaxProducts];
    for (int k = 0; k < phase.products; ++k) {
      const int operand = phase.product[k].operand;
      rows[k] = work_.product_weights(slice, index, k)
                    .prepare(active, work_.operand_rows(slice, operand, i),
                             work_.operand_stride(operand), work_.prepared(slice, k));
    }
    for (int64_t block = own.begin; block < own.end; block += group) {
      C* out = work_.product(slice);
      for (int k = 0; k < phase.products; ++k) {
        const int gates = phase.product[k].count;
        work_.product_weights(slice, index, k)
            .multiply(active, rows[k], block * gates, group * gates, out, stride);
        out += gates * group * W;
      }
      kernels_.phase[index].forward(work_.row(slice), int(active), work_.product(slice), stride,
                                    block * W, int(group), work_.size(phase.size));
    }
  }

  ForwardRow<Arch, T> make_row(const Slice& slice, int64_t i, int64_t t, int64_t m) const {
    const int64_t d = slice.direction;
    const bool is_last = t == slice.last_time(m);
    ForwardRow<Arch, T> row{};
    row.h = work_.h(slice, i, m);
    row.next_h = work_.h(slice, i + 1, m);
    for (int q = 1; q < cell_.operands; ++q) row.operand[q] = work_.operand(slice, q, m);
    row.peephole = static_cast<const T*>(p_.weights[d].peephole);
    row.y = slice.at<T>(p_.y, t, m) + d * p_.output_size;
    row.starts_over_next = !is_last && slice.starts_over(slice.after(t), m);
    if (p_.saved) {
      const int64_t index = slice.active_row(t, m) * p_.directions + d;
      row.saved = static_cast<T*>(p_.saved) + index * cell_.saved * p_.hidden_size;
    }
    for (int k = 0; k < cell_.states; ++k) {
      if (is_last) row.last[k] = slice.at<T>(p_.last[k], m);
      if (k == 0) continue;
      row.carry[k] = work_.carry(slice, k, m);
      if (p_.steps[k].data) row.steps[k] = slice.at<C>(p_.steps[k], t, m) + d * p_.hidden_size;
    }
    return row;
  }

  const ScanParams& p_;
  const Schedule& s_;
  const CellKernels<Arch, T>& kernels_;
  const CellLayout& cell_ = kernels_.cell;
  ForwardWorkspace<Arch, T, Weights> work_;
};

}  // namespace fastrnn::cpu
