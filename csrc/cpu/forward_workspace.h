// What a forward pass works with: its packed weights, its buffers, and where the values of a step
// lie in them.
#pragma once

#include "buffer.h"
#include "forward_weights.h"
#include "pack.h"
#include "workspace.h"

namespace fastrnn::cpu {

// Rows of one input projection: enough for whole tiles and to use each weight often, few enough for
// the result to stay in the cache until the steps read it.
inline constexpr int64_t kChunkRows = 64;

template <class Arch, class T, class PackedWeights>
struct ForwardWorkspace : Workspace<Arch, T> {
  using C = Compute<T>;
  using O = Operand<Arch, T>;
  using Base = Workspace<Arch, T>;
  using Base::size, Base::blocks;
  using Base::W, Base::p, Base::s, Base::cell, Base::pool, Base::plan, Base::rows;

  ForwardWorkspace(const ScanParams& params, const CellLayout& layout, const Pool& threads)
      : Base(params, layout, threads) {
    make_plan();
    make_weights();
    make_buffers();
  }

  const PackedWeights& input_weights(const Slice& slice) const {
    return weights_[slice.direction].ih;
  }
  const PackedWeights& product_weights(const Slice& slice, int phase, int product) const {
    return weights_[slice.direction].product[phase][product];
  }
  // Blocks that a phase's tiles take at once: whole panels of all its products.
  int64_t group(int phase) const { return group_[phase]; }

  O* h(const Slice& slice, int64_t i, int64_t m) const {
    return h_.get() + ((slice.direction * 2 + i % 2) * s.batch + slice.row + m) * h_stride_;
  }
  // An operand from 1 on.
  O* operand(const Slice& slice, int q, int64_t m) const {
    const int64_t index = slice.direction * (cell.operands - 1) + q - 1;
    return operand_.get() + (index * s.batch + slice.row + m) * hidden_stride_;
  }
  // The rows of an operand at step i, which a product multiplies.
  const O* operand_rows(const Slice& slice, int q, int64_t i) const {
    return q == 0 ? h(slice, i, 0) : operand(slice, q, 0);
  }
  int64_t operand_stride(int q) const { return q == 0 ? h_stride_ : hidden_stride_; }
  C* carry(const Slice& slice, int state, int64_t m) const {
    const int64_t index = slice.direction * (cell.states - 1) + state - 1;
    return carry_.get() + (index * s.batch + slice.row + m) * hidden_stride_;
  }
  C* from_x(const Slice& slice) const {
    return from_x_.get() + slice.team * rows * chunk_steps * from_x_stride;
  }
  O* x(const Slice& slice) const { return x_.get() + slice.index * rows * chunk_steps * x_stride; }
  C* product(const Slice& slice) const { return product_.get() + slice.index * product_size_; }
  // Where rows are prepared for the k-th product that goes on at once.
  char* prepared(const Slice& slice, int k = 0) const {
    return prepared_.get() + (slice.index * kMaxProducts + k) * prepared_size_;
  }
  ForwardRow<Arch, T>* row(const Slice& slice) const { return row_.get() + slice.index * rows; }

  void pack() {
    PackedWeights* all[2 * (1 + kMaxPhases * kMaxProducts)];
    int count = 0;
    for (int64_t d = 0; d < p.directions; ++d) {
      all[count++] = &weights_[d].ih;
      for (int i = 0; i < cell.phases; ++i) {
        for (int k = 0; k < cell.phase[i].products; ++k) all[count++] = &weights_[d].product[i][k];
      }
    }
    pack_all(all, count, pool);
  }

  // Whether products use the weights as they lie. A step of 8 rows took 55 us at H 256 by them and
  // 25 us by packed ones, and packing these 69 us.
  bool in_place() const { return s.steps <= 2 && s.batch <= kFewRows; }

  int64_t chunk_steps = 0;  // steps of one input projection
  int64_t x_stride = 0, from_x_stride = 0;

 private:
  struct Direction {
    PackedWeights ih, product[kMaxPhases][kMaxProducts];
  };

  void make_plan() {
    // All products of a phase go by the same shares, and the narrowest has the fewest columns.
    int narrowest = cell.h_blocks;
    for (int i = 0; i < cell.phases; ++i) {
      const PhaseLayout& phase = cell.phase[i];
      for (int k = 0; k < phase.products && phase.size == kHiddenSize; ++k) {
        narrowest = std::min(narrowest, phase.product[k].count);
      }
    }
    const int64_t columns = blocks(kHiddenSize) * cell.h_blocks;
    const int64_t shared_columns = blocks(kHiddenSize) * narrowest;
    plan =
        cpu::make_plan({.threads = pool.threads,
                        .directions = p.directions,
                        .batch = s.batch,
                        .steps = s.steps,
                        .depth = p.output_size + (in_place() ? p.input_size : 0),
                        .columns = columns * W,
                        .column_groups = (shared_columns + kMaxTileVectors - 1) / kMaxTileVectors,
                        .element_size = PackedWeights::kElementSize,
                        .meetings = cell.phases,
                        .l2_bytes = l2_bytes()});
    rows = max_rows(p, plan);
    chunk_steps = std::clamp<int64_t>((kChunkRows + rows - 1) / rows, 1, s.steps);
  }

  void make_weights() {
    const int64_t h_rows = in_place() ? 0 : rows, x_rows = h_rows * chunk_steps;
    const int64_t block = s.batch <= kFewRows ? kShortBlock : kDepthBlock;
    for (int64_t d = 0; d < p.directions; ++d) {
      const Weights& w = p.weights[d];
      const MatrixPart ih{.weight = w.ih,
                          .bias = w.bias_ih,
                          .scale = w.ih_scale,
                          .all_gates = cell.x_blocks,
                          .gates = cell.x_blocks,
                          .units = p.hidden_size,
                          .depth = p.input_size};
      weights_[d].ih = {ih, block, x_rows};
      for (int i = 0; i < cell.phases; ++i) {
        const PhaseLayout& phase = cell.phase[i];
        for (int k = 0; k < phase.products; ++k) {
          const Product& product = phase.product[k];
          const bool recurrent = phase.size == kHiddenSize;
          const MatrixPart part{.weight = recurrent ? w.hh : w.hr,
                                .bias = recurrent ? w.bias_hh : nullptr,
                                .scale = recurrent ? w.hh_scale : w.hr_scale,
                                .all_gates = recurrent ? cell.h_blocks : cell.output_grad_blocks,
                                .first = product.first,
                                .gates = product.count,
                                .units = size(phase.size),
                                .depth = size(cell.operand_size[product.operand])};
          weights_[d].product[i][k] = {part, block, h_rows};
        }
      }
    }
    this->share_by(kHiddenSize, whole_blocks(weights_[0].ih, cell.x_blocks));
    for (int i = 0; i < cell.phases; ++i) {
      const PhaseLayout& phase = cell.phase[i];
      for (int k = 0; k < phase.products; ++k) {
        const int64_t whole = whole_blocks(weights_[0].product[i][k], phase.product[k].count);
        group_[i] = std::lcm(group_[i], whole);
      }
      this->share_by(phase.size, group_[i]);
    }
  }

  // The fewest blocks of units whose gates fill whole panels.
  static int64_t whole_blocks(const PackedWeights& weights, int gates) {
    return std::lcm(gates, weights.vectors()) / gates;
  }

  void make_buffers() {
    const int64_t teams = count_teams(p, plan), slices = count_slices(p, plan);
    const int64_t chunk_rows = rows * chunk_steps;
    h_stride_ = padded(p.output_size);
    hidden_stride_ = padded(p.hidden_size);
    x_stride = padded(p.input_size);
    from_x_stride = padded((blocks(kHiddenSize) + this->share(kHiddenSize)) * cell.x_blocks * W);
    for (int i = 0; i < cell.phases; ++i) {
      const int64_t gates = cell.phase[i].gates_before(cell.phase[i].products);
      product_size_ = std::max(product_size_, rows * gates * group_[i] * W);
    }
    h_ = Buffer<O>(p.directions * 2 * s.batch * h_stride_);
    operand_ = Buffer<O>(p.directions * (cell.operands - 1) * s.batch * hidden_stride_);
    carry_ = Buffer<C>(p.directions * (cell.states - 1) * s.batch * hidden_stride_);
    from_x_ = Buffer<C>(teams * chunk_rows * from_x_stride);
    x_ = Buffer<O>(slices * chunk_rows * x_stride);
    product_ = Buffer<C>(slices * product_size_);
    row_ = Buffer<ForwardRow<Arch, T>>(slices * rows);
    prepared_size_ =
        std::max(PackedWeights::prepared_bytes(rows, std::max(p.hidden_size, p.output_size)),
                 PackedWeights::prepared_bytes(chunk_rows, p.input_size));
    prepared_ = Buffer<char>(slices * kMaxProducts * prepared_size_);
    const int64_t active = s.active_rows() * p.directions, units = active * p.hidden_size;
    prefer_huge_pages(p.y.data, active * p.output_size * sizeof(T));
    prefer_huge_pages(p.saved, units * cell.saved * sizeof(T));
    for (const Sequence& steps : p.steps) prefer_huge_pages(steps.data, units * sizeof(C));
  }

  Direction weights_[2];
  int64_t group_[kMaxPhases] = {1, 1};
  int64_t h_stride_ = 0, hidden_stride_ = 0, product_size_ = 0, prepared_size_ = 0;
  Buffer<O> h_;        // [D][2][B], of this step and of the next
  Buffer<O> operand_;  // [D][operands - 1][B]: all have read one before the next step makes it
  Buffer<C> carry_;    // [D][states - 1][B]
  Buffer<O> x_;
  Buffer<C> from_x_, product_;
  Buffer<ForwardRow<Arch, T>> row_;
  Buffer<char> prepared_;
};

}  // namespace fastrnn::cpu
