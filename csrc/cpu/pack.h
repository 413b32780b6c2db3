// Weights packed on all threads.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "engine.h"

namespace fastrnn::cpu {

// Packs matrices of `elements` elements in all, each of which has parts() parts.
template <class W>
void pack_all(const std::vector<W*>& weights, double elements, const Pool& pool) {
  constexpr double kFlops = 16;  // what packing an element costs, as arithmetic
  int64_t total = 0;
  for (const W* w : weights) total += w->parts();
  pool.for_ranges(total, kFlops * elements, [&](int64_t begin, int64_t end) {
    int64_t first = 0;
    for (W* w : weights) {
      const int64_t parts = w->parts();
      w->pack(std::clamp<int64_t>(begin - first, 0, parts),
              std::clamp<int64_t>(end - first, 0, parts));
      first += parts;
    }
  });
}

}  // namespace fastrnn::cpu
