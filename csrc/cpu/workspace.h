// What both passes work with: how a scan is shared out over threads, and which units are a slice's
// own.
#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>

#include "cell_kernels.h"
#include "machine.h"
#include "slice.h"

namespace fastrnn::cpu {

// Up to this many rows, weights are used as they lie: packing one costs as much as about 8 products
// of one row with it.
inline constexpr int64_t kFewRows = 8;

template <class Arch, class T>
struct Workspace {
  static constexpr int W = Vec<Compute<T>, Arch::kBytes>::kSize;

  Workspace(const ScanParams& params, const CellLayout& layout, const Pool& threads)
      : p(params), s(params.schedule), cell(layout), pool(threads) {}

  int64_t size(Size of) const { return of == kOutputSize ? p.output_size : p.hidden_size; }
  // Units come in blocks of a vector.
  int64_t blocks(Size of) const { return (size(of) + W - 1) / W; }

  // The blocks that the slice computes, and their units.
  Range own_blocks(const Slice& slice, Size of) const { return slice.part(blocks(of), share_[of]); }
  Range own_units(const Slice& slice, Size of) const {
    const Range own = own_blocks(slice, of);
    return {own.begin * W, std::min(own.end * W, size(of))};
  }

  const ScanParams& p;
  const Schedule& s;
  const CellLayout& cell;
  const Pool& pool;
  Plan plan;
  int64_t rows = 0;  // of the largest row group

 protected:
  // Lets units be shared out by multiples of so many blocks only.
  void share_by(Size of, int64_t blocks) { share_[of] = std::lcm(share_[of], blocks); }
  int64_t share(Size of) const { return share_[of]; }

 private:
  int64_t share_[2] = {1, 1};
};

}  // namespace fastrnn::cpu
