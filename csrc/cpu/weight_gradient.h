// Gradients of weights: sums over all active rows of the outer products of two sequences.
#pragma once

#include <cstdint>
#include <vector>

#include "buffer.h"
#include "engine.h"
#include "gemm.h"

namespace fastrnn::cpu {

// grad[M, N] = sum over k of a_k^T b_k, and bias[M] = sum of a_k. Where N is 0, there is no more
// than the bias.
template <class Arch, class T>
struct OuterProducts {
  const Operand<Arch, T>* a;  // rows of the driver's own, a_stride apart
  int64_t a_stride;
  const T* const* b;  // where each row begins; null: zeros
  int64_t rows, m, n;
  T* grad;
  T* bias;  // null: not wanted
};

// Shared out by blocks of the result, each summed over k in one order: the bits do not depend on
// the threads.
template <class Arch, class T>
class WeightGradient {
 public:
  WeightGradient(const std::vector<OuterProducts<Arch, T>>& jobs, const Pool& pool)
      : jobs_(jobs), pool_(pool) {}

  void run() {
    std::vector<int64_t> first{0};
    double flops = 0;
    int64_t rows = 0, m = 0, n = 0;  // of the largest block
    for (const auto& job : jobs_) {
      const Grid grid(job, pool_.threads);
      rows = std::max(rows, std::min(kBlockK, job.rows));
      m = std::max(m, grid.m);
      n = std::max(n, grid.n);
      first.push_back(first.back() + grid.down * grid.across);
      flops += 2. * (job.rows + 4) * job.m * job.n;
    }
    pool_.share_out(first.back(), flops, [&](auto next) {
      const Scratch scratch(factors<F>(rows), m, n);
      for (int64_t at; (at = next()) >= 0;) {
        const auto job = std::upper_bound(first.begin(), first.end(), at) - first.begin() - 1;
        const Grid grid(jobs_[job], pool_.threads);
        at -= first[job];
        block(jobs_[job], grid, at / grid.across, at % grid.across, scratch);
      }
    });
  }

 private:
  using C = Compute<T>;
  using O = Operand<Arch, T>;
  using F = Factor<Arch, T>;
  using V = Vec<C, Arch::kBytes>;
  static constexpr int W = V::kSize;
  static constexpr int kVectors = Arch::kRegisters == 32 ? 4 : 2;
  static constexpr int kRows = tile_rows<Arch>(kVectors);
  static constexpr int kColumns = kVectors * W;
  // The packed operands of a block, 360 KB, stay in the second-level cache.
  static constexpr int64_t kBlockM = 192, kBlockN = 512, kBlockK = 128;
  static constexpr int64_t kBiasDepth = 16;

  // How many products are summed at a time: about the root of all, because rounding errors then
  // grow with 2 sqrt(rows) terms in place of all of them.
  static int64_t sum_depth(int64_t rows) {
    int64_t depth = 16;
    while (depth < kBlockK && depth * depth < rows) depth *= 2;
    return depth;
  }

  static int64_t blocks(int64_t size, int64_t block) { return (size + block - 1) / block; }

  static int64_t round_up(int64_t size, int64_t unit) { return blocks(size, unit) * unit; }

  // A result in blocks of m x n, of even sizes, and enough of them for all threads.
  struct Grid {
    Grid(const OuterProducts<Arch, T>& job, int threads) {
      const int64_t fewest = std::max<int64_t>(1, blocks(job.n, kBlockN));
      n = std::max<int64_t>(kColumns, round_up(blocks(job.n, fewest), kColumns));
      across = std::max<int64_t>(1, blocks(job.n, n));
      const int64_t wanted = std::max(blocks(job.m, kBlockM), blocks(3 * threads, across));
      m = round_up(blocks(job.m, wanted), kRows);
      down = blocks(job.m, m);
    }
    int64_t m, n, down, across;
  };

  struct Scratch {
    // depth: in factors.
    Scratch(int64_t depth, int64_t m, int64_t n)
        : sum(m * n),
          a(m / kRows * tile_size(depth)),
          b(n / kColumns * panel_size(depth)),
          bias_part(m / kRows * kPartSize),
          bias(m) {}
    Buffer<C> sum;        // [panel][m][kColumns]
    Buffer<F> a;          // [tile][k][kRows]
    Buffer<F> b;          // [panel][k][kColumns]
    Buffer<C> bias_part;  // [tile][kPartSize]
    Buffer<double> bias;  // plain sums over all rows: in float32 their error would show
  };

  static constexpr int64_t kPartSize = (kRows + W - 1) / W * W;

  // Room for the last row's part, which is stored in whole vectors.
  static int64_t tile_size(int64_t depth) { return depth * kRows + kPartSize - kRows; }

  // One line more, so that the panels do not all fall into the same cache sets.
  static int64_t panel_size(int64_t depth) { return (depth + 1) * kColumns; }

  void block(const OuterProducts<Arch, T>& job, const Grid& grid, int64_t row, int64_t column,
             const Scratch& scratch) const {
    const int64_t m0 = row * grid.m, n0 = column * grid.n;
    const int64_t m = std::min(grid.m, job.m - m0), n = std::min(grid.n, job.n - n0);
    const int64_t sum_depth = factors<F>(this->sum_depth(job.rows));
    const int64_t height = round_up(m, kRows);  // of a panel of the sums
    const bool bias = job.bias && n0 == 0;
    std::fill_n(scratch.sum.get(), height * round_up(n, kColumns), C(0));
    if (bias) std::fill_n(scratch.bias.get(), height, 0.);
    for (int64_t k0 = 0; k0 < job.rows; k0 += kBlockK) {
      const int64_t depth = std::min(kBlockK, job.rows - k0);
      pack_a(job, m0, m, k0, depth, scratch, bias);
      pack_b(job, n0, n, k0, depth, scratch.b.get());
      const int64_t count = factors<F>(depth);
      for (int64_t j = 0; j < n; j += kColumns) {
        const F* b = scratch.b.get() + j / kColumns * panel_size(count);
        for (int64_t k = 0; k < count; k += sum_depth) {
          for (int64_t i = 0; i < m; i += kRows) {
            C* c = scratch.sum.get() + j * height + i * kColumns;
            tile<Arch, F, F, kRows, kVectors, RowLayout::kPacked>(
                std::min(sum_depth, count - k),
                scratch.a.get() + i / kRows * tile_size(count) + k * kRows, 0, b + k * kColumns,
                kColumns, c, kColumns, c, kColumns);
          }
        }
      }
    }
    for (int64_t i = 0; i < m; ++i) {
      for (int64_t j = 0; j < n; j += W) {
        const C* sum = scratch.sum.get() + j / kColumns * kColumns * height + i * kColumns;
        store(job.grad + (m0 + i) * job.n + n0 + j, load<V>(sum + j % kColumns),
              int(std::min<int64_t>(W, n - j)));
      }
    }
    for (int64_t i = 0; bias && i < m; i += W) {
      C part[W] = {};
      for (int64_t j = 0; j < std::min<int64_t>(W, m - i); ++j)
        part[j] = C(scratch.bias.get()[i + j]);
      store(job.bias + m0 + i, load<V>(part), int(std::min<int64_t>(W, m - i)));
    }
  }

  // The rows' parts are too short for the hardware to foresee the next one: weight gradients took
  // 387 ms without, 364 ms with it at T 100, B 64, I = H = 512.
  static constexpr int64_t kAhead = 8;

  template <class S>
  static void prefetch(const S* row, int64_t size) {
    for (int64_t j = 0; j < size; j += 64 / sizeof(S)) __builtin_prefetch(row + j);
  }

  // Whole vectors are copied; what is too much is written over by the next k, and read from the
  // padding of the driver's rows. On the way, the rows are added up.
  static void pack_a(const OuterProducts<Arch, T>& job, int64_t m0, int64_t m, int64_t k0,
                     int64_t depth, const Scratch& scratch, bool bias) {
    const int64_t size = tile_size(factors<F>(depth));
    for (int64_t k = 0; k < depth; k += kSpan<F>) {
      const O* from = job.a + (k0 + k) * job.a_stride + m0;
      prefetch(from + std::min(kAhead, depth - 1 - k) * job.a_stride, m);
      F* to = scratch.a.get() + k / kSpan<F> * kRows;
      C* sum = scratch.bias_part.get();
      const bool begins = k % kBiasDepth == 0;
      for (int64_t i = 0; i < m; i += kRows, to += size, sum += kPartSize) {
        V part[kPartSize / W];
#pragma GCC unroll 4
        for (int r = 0; r < kPartSize; r += W) part[r / W] = load<V>(from + i + r);
        if constexpr (kSpan<F> == 2) {
          const bool both = k + 1 < depth;
#pragma GCC unroll 4
          for (int r = 0; r < kPartSize; r += W) {
            const V next = both ? load<V>(from + job.a_stride + i + r) : V(C(0));
            store(to + r, pairs(part[r / W], next));
            part[r / W] = part[r / W] + next;
          }
        } else {
#pragma GCC unroll 4
          for (int r = 0; r < kPartSize; r += W) store(to + r, part[r / W]);
        }
        if (!bias) continue;
#pragma GCC unroll 4
        for (int r = 0; r < kPartSize; r += W) {
          store(sum + r, begins ? part[r / W] : load<V>(sum + r) + part[r / W]);
        }
      }
      if (bias && (k + kSpan<F> >= depth || (k + kSpan<F>) % kBiasDepth == 0)) {
        sum = scratch.bias_part.get();
        for (int64_t i = 0; i < m; i += kRows, sum += kPartSize) {
          for (int r = 0; r < kRows; ++r) scratch.bias.get()[i + r] += sum[r];
        }
      }
    }
  }

  static void pack_b(const OuterProducts<Arch, T>& job, int64_t n0, int64_t n, int64_t k0,
                     int64_t depth, F* out) {
    const int64_t size = panel_size(factors<F>(depth));
    for (int64_t k = 0; k < depth; k += kSpan<F>, out += kColumns) {
      const T* from = job.b[k0 + k];
      const T* next = k + 1 < depth ? job.b[k0 + k + 1] : nullptr;
      const T* ahead = job.b[k0 + std::min(k + kAhead, depth - 1)];
      if (ahead) prefetch(ahead + n0, n);
      F* to = out;
      for (int64_t j = 0; j < n; j += kColumns, to += size) {
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) {
          const int lanes = int(std::clamp<int64_t>(n - j - v * W, 0, W));
          auto part = [&](const T* row) {
            return row && lanes ? load<V>(row + n0 + j + v * W, lanes) : V(C(0));
          };
          if constexpr (kSpan<F> == 2) {
            store(to + v * W, pairs(part(from), part(next)));
          } else {
            store(to + v * W, part(from));
          }
        }
      }
    }
  }

  const std::vector<OuterProducts<Arch, T>>& jobs_;
  const Pool& pool_;
};

}  // namespace fastrnn::cpu
