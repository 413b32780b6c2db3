// What a forward pass works with: how it is shared out, its packed weights and its buffers, and
// where in them the values of a step lie.
#pragma once

#include <numeric>
#include <vector>

#include "buffer.h"
#include "cell_kernels.h"
#include "forward_weights.h"
#include "pack.h"
#include "slice.h"

namespace fastrnn::cpu {

// Up to this many rows in the whole scan, weights are used as they lie: packing one costs as much
// as about 8 products of one row with it.
inline constexpr int64_t kFewRows = 8;

// Rows of one input projection: enough for whole tiles and to use each weight often, few enough for
// the result to stay in the cache until the steps read it.
inline constexpr int64_t kChunkRows = 64;

template <class Arch, class T>
struct ForwardWorkspace {
  using C = Compute<T>;
  static constexpr int W = Vec<C, Arch::kBytes>::kSize;
  using PackedWeights = ForwardWeights<Arch, T>;

  ForwardWorkspace(const ScanParams& params, const CellLayout& layout, const Pool& threads)
      : p(params), s(params.schedule), cell(layout), pool(threads) {
    make_plan();
    make_weights();
    make_buffers();
  }

  int64_t size(Size of) const { return of == kOutputSize ? p.output_size : p.hidden_size; }
  // Vectors of units.
  int64_t blocks(Size of) const { return (size(of) + W - 1) / W; }
  // The slice's own, and the same in units.
  Range own_blocks(const Slice& slice, Size of) const { return slice.part(blocks(of), share_[of]); }
  Range own_units(const Slice& slice, Size of) const {
    const Range own = own_blocks(slice, of);
    return {own.begin * W, std::min(own.end * W, size(of))};
  }

  const PackedWeights& input_weights(const Slice& slice) const {
    return weights_[slice.direction].ih;
  }
  const PackedWeights& product_weights(const Slice& slice, int phase, int product) const {
    return weights_[slice.direction].product[phase][product];
  }
  // Blocks that a phase's tiles take at once: whole panels of all its products.
  int64_t group(int phase) const { return group_[phase]; }

  C* h(const Slice& slice, int64_t i, int64_t m) const {
    return h_.get() + ((slice.direction * 2 + i % 2) * s.batch + slice.row + m) * h_stride_;
  }
  // An operand from 1 on.
  C* operand(const Slice& slice, int q, int64_t m) const {
    const int64_t index = slice.direction * (cell.operands - 1) + q - 1;
    return operand_.get() + (index * s.batch + slice.row + m) * hidden_stride_;
  }
  // Of what a product multiplies at step i.
  const C* operand_rows(const Slice& slice, int q, int64_t i) const {
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
  C* x(const Slice& slice) const { return x_.get() + slice.index * rows * chunk_steps * x_stride; }
  C* product(const Slice& slice) const { return product_.get() + slice.index * product_size_; }
  ForwardRow<T>* row(const Slice& slice) const { return row_.get() + slice.index * rows; }

  void pack() {
    std::vector<PackedWeights*> all;
    for (int64_t d = 0; d < p.directions; ++d) {
      all.push_back(&weights_[d].ih);
      for (int i = 0; i < cell.phases; ++i) {
        for (int k = 0; k < cell.phase[i].products; ++k) all.push_back(&weights_[d].product[i][k]);
      }
    }
    const double elements = double(p.directions) * p.hidden_size *
                            (cell.x_blocks * p.input_size + cell.h_blocks * p.output_size);
    pack_all(all, few_rows_ ? 0 : elements, pool);
  }

  const ScanParams& p;
  const Schedule& s;
  const CellLayout& cell;
  const Pool& pool;
  Plan plan;
  int64_t rows = 0;         // of the largest row group
  int64_t chunk_steps = 0;  // steps of one input projection
  int64_t x_stride = 0, from_x_stride = 0;

 private:
  struct Direction {
    PackedWeights ih, product[kMaxPhases][kMaxProducts];
  };

  void make_plan() {
    few_rows_ = s.active_rows() <= kFewRows;
    const int64_t columns = blocks(kHiddenSize) * cell.h_blocks;
    plan = cpu::make_plan({.threads = pool.threads,
                           .directions = p.directions,
                           .batch = s.batch,
                           .steps = s.steps,
                           .depth = p.output_size + (few_rows_ ? p.input_size : 0),
                           .columns = columns * W,
                           .column_groups = (columns + kMaxTileVectors - 1) / kMaxTileVectors,
                           .element_size = sizeof(C),
                           .meetings = cell.phases});
    rows = max_rows(p, plan);
    chunk_steps = std::clamp<int64_t>((kChunkRows + rows - 1) / rows, 1, s.steps);
  }

  void make_weights() {
    const int64_t h_rows = few_rows_ ? 0 : rows, x_rows = h_rows * chunk_steps;
    for (int64_t d = 0; d < p.directions; ++d) {
      const Weights& w = p.weights[d];
      weights_[d].ih = {w.ih, w.bias_ih, cell.x_blocks, p.hidden_size, p.input_size, x_rows};
      for (int i = 0; i < cell.phases; ++i) {
        const PhaseLayout& phase = cell.phase[i];
        for (int k = 0; k < phase.products; ++k) {
          const Product& product = phase.product[k];
          const int64_t depth = size(cell.operand_size[product.operand]);
          const int64_t first = product.first * size(phase.size);
          const bool recurrent = phase.size == kHiddenSize;
          const T* weight = static_cast<const T*>(recurrent ? w.hh : w.hr) + first * depth;
          const T* bias =
              recurrent && w.bias_hh ? static_cast<const T*>(w.bias_hh) + first : nullptr;
          weights_[d].product[i][k] = {weight,           bias,  product.count,
                                       size(phase.size), depth, h_rows};
        }
      }
    }
    share_[kHiddenSize] = whole_blocks(weights_[0].ih, cell.x_blocks);
    for (int i = 0; i < cell.phases; ++i) {
      const PhaseLayout& phase = cell.phase[i];
      for (int k = 0; k < phase.products; ++k) {
        const int64_t whole = whole_blocks(weights_[0].product[i][k], phase.product[k].count);
        group_[i] = std::lcm(group_[i], whole);
      }
      share_[phase.size] = std::lcm(share_[phase.size], group_[i]);
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
    from_x_stride = padded((blocks(kHiddenSize) + share_[kHiddenSize]) * cell.x_blocks * W);
    for (int i = 0; i < cell.phases; ++i) {
      const int64_t gates = cell.phase[i].gates_before(cell.phase[i].products);
      product_size_ = std::max(product_size_, rows * gates * group_[i] * W);
    }
    h_ = Buffer<C>(p.directions * 2 * s.batch * h_stride_);
    operand_ = Buffer<C>(p.directions * (cell.operands - 1) * s.batch * hidden_stride_);
    carry_ = Buffer<C>(p.directions * (cell.states - 1) * s.batch * hidden_stride_);
    from_x_ = Buffer<C>(teams * chunk_rows * from_x_stride);
    x_ = Buffer<C>(slices * chunk_rows * x_stride);
    product_ = Buffer<C>(slices * product_size_);
    row_ = Buffer<ForwardRow<T>>(slices * rows);
    const int64_t active = s.active_rows() * p.directions, units = active * p.hidden_size;
    prefer_huge_pages(p.y.data, active * p.output_size * sizeof(T));
    prefer_huge_pages(p.saved, units * cell.saved * sizeof(T));
    for (const Sequence& steps : p.steps) prefer_huge_pages(steps.data, units * sizeof(C));
  }

  bool few_rows_ = false;
  Direction weights_[2];
  int64_t group_[kMaxPhases] = {1, 1};
  int64_t share_[2] = {1, 1};  // by size: the blocks that are shared out as one
  int64_t h_stride_ = 0, hidden_stride_ = 0, product_size_ = 0;
  Buffer<C> h_;        // [D][2][B], of this step and of the next
  Buffer<C> operand_;  // [D][operands - 1][B]: all have read one before the next step makes it
  Buffer<C> carry_;    // [D][states - 1][B]
  Buffer<C> from_x_, x_, product_;
  Buffer<ForwardRow<T>> row_;
};

}  // namespace fastrnn::cpu
