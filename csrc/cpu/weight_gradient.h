// Gradients of weights: sums over all rows that ran of the outer products of two sequences.
#pragma once

#include <cstdint>
#include <vector>

#include "buffer.h"
#include "engine.h"
#include "gemm.h"

namespace fastrnn::cpu {

// grad[M, N] = sum over k of a_k^T b_k, and bias[M] = sum of a_k.
template <class T>
struct OuterProducts {
  using C = Compute<T>;
  const C* a;  // rows of the driver's own, a_stride apart
  int64_t a_stride;
  const T* const* b;  // where each row begins; null: zeros
  int64_t rows, m, n;
  T* grad;
  T* bias;  // null: not wanted
};

// Shared out by blocks of the result, each summed over k in one order: the bits do not depend on
// the threads. Blocks of k are summed apart, which also keeps the rounding error of long sums
// small.
template <class Arch, class T>
class WeightGradient {
 public:
  WeightGradient(const std::vector<OuterProducts<T>>& jobs, const Pool& pool)
      : jobs_(jobs), pool_(pool) {}

  void run() {
    std::vector<int64_t> first{0};
    double flops = 0;
    int64_t m = 0, n = 0;  // of the largest block
    for (const auto& job : jobs_) {
      m = std::max(m, round_up(std::min(kBlockM, job.m), kRows));
      n = std::max(n, round_up(std::min(kBlockN, job.n), kColumns));
      first.push_back(first.back() + blocks(job.m, kBlockM) * blocks(job.n, kBlockN));
      flops += 2. * (job.rows + 4) * job.m * job.n;
    }
    pool_.for_ranges(first.back(), flops, [&](int64_t begin, int64_t end) {
      const Scratch scratch(std::min(kBlockK, jobs_[0].rows), m, n);
      for (size_t i = 0; i < jobs_.size(); ++i) {
        for (int64_t at = std::max(begin, first[i]); at < std::min(end, first[i + 1]); ++at) {
          const int64_t across = blocks(jobs_[i].n, kBlockN);
          block(jobs_[i], (at - first[i]) / across * kBlockM, (at - first[i]) % across * kBlockN,
                scratch);
        }
      }
    });
  }

 private:
  using C = Compute<T>;
  using V = Vec<C, Arch::kBytes>;
  static constexpr int W = V::kSize;
  static constexpr int kVectors = Arch::kRegisters == 32 ? 4 : 2;
  static constexpr int kRows = tile_rows<Arch>(kVectors);
  static constexpr int kColumns = kVectors * W;
  // A block of the result with its packed operands stays in the second-level cache.
  static constexpr int64_t kBlockM = 16 * kRows, kBlockN = 256, kBlockK = 256;
  static_assert(kBlockN % kColumns == 0);

  static int64_t blocks(int64_t size, int64_t block) { return (size + block - 1) / block; }

  static int64_t round_up(int64_t size, int64_t unit) { return blocks(size, unit) * unit; }

  struct Scratch {
    Scratch(int64_t depth, int64_t m, int64_t n)
        : sum(m * n), a(m * depth + W), b(depth * kColumns), zeros(kColumns), bias(m) {
      std::fill_n(zeros.get(), kColumns, C(0));
    }
    Buffer<C> sum, a, b, zeros;  // a: [tile][k][kRows]
    Buffer<double> bias;         // plain sums over all rows: in float32 their error would show
  };

  void block(const OuterProducts<T>& job, int64_t m0, int64_t n0, const Scratch& scratch) const {
    const int64_t m = std::min(kBlockM, job.m - m0), n = std::min(kBlockN, job.n - n0);
    const int64_t stride = round_up(n, kColumns);
    const bool bias = job.bias && n0 == 0;
    if (bias) std::fill_n(scratch.bias.get(), round_up(m, kRows), 0.);
    for (int64_t k0 = 0; k0 < job.rows; k0 += kBlockK) {
      const int64_t depth = std::min(kBlockK, job.rows - k0);
      for (int64_t i = 0; i < m; i += kRows) {
        pack_rows(job, m0 + i, k0, depth, scratch.a.get() + i * depth);
        if (bias) add_rows(scratch.a.get() + i * depth, depth, scratch.bias.get() + i);
      }
      const T* const* b = job.b + k0;
      for (int64_t j = 0; j < n; j += kColumns) {
        pack_columns<Arch>([b](int64_t k) { return b[k]; }, n0 + j, n - j, depth, scratch.b.get(),
                           kColumns);
        for (int64_t i = 0; i < m; i += kRows) {
          C* c = scratch.sum.get() + i * stride + j;
          tile<Arch, C, kRows, kVectors, RowLayout::kPacked>(
              depth, scratch.a.get() + i * depth, 0, scratch.b.get(), kColumns,
              k0 ? c : scratch.zeros.get(), k0 ? stride : 0, c, stride);
        }
      }
    }
    for (int64_t i = 0; i < m; ++i) {
      for (int64_t j = 0; j < n; j += W) {
        store(job.grad + (m0 + i) * job.n + n0 + j, load<V>(scratch.sum.get() + i * stride + j),
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

  // out[k][kRows]. Whole vectors are copied; what is too much is written over by the next k, and
  // read from the padding of the driver's rows.
  static void pack_rows(const OuterProducts<T>& job, int64_t m, int64_t k0, int64_t depth, C* out) {
    for (int64_t k = 0; k < depth; ++k, out += kRows) {
      const C* from = job.a + (k0 + k) * job.a_stride + m;
      V part[(kRows + W - 1) / W];
#pragma GCC unroll 4
      for (int i = 0; i < kRows; i += W) part[i / W] = load<V>(from + i);
#pragma GCC unroll 4
      for (int i = 0; i < kRows; i += W) store(out + i, part[i / W]);
    }
  }

  static void add_rows(const C* a, int64_t depth, double* bias) {
    double sum[kRows] = {};
    for (int64_t k = 0; k < depth; ++k, a += kRows) {
      for (int i = 0; i < kRows; ++i) sum[i] += a[i];
    }
    for (int i = 0; i < kRows; ++i) bias[i] += sum[i];
  }

  const std::vector<OuterProducts<T>>& jobs_;
  const Pool& pool_;
};

}  // namespace fastrnn::cpu
