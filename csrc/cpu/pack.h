// Weights packed on all threads.
#pragma once

#include <algorithm>
#include <cstdint>

#include "engine.h"

namespace fastrnn::cpu {

// Packs `count` matrices, each of which has parts() parts of part_size() elements.
template <class W>
void pack_all(W* const* weights, int count, const Pool& pool) {
  constexpr double kFlops = 16;  // what packing an element costs, as arithmetic
  int64_t total = 0;
  double elements = 0;
  for (int i = 0; i < count; ++i) {
    total += weights[i]->parts();
    elements += double(weights[i]->parts()) * weights[i]->part_size();
  }
  pool.for_ranges(total, kFlops * elements, [&](int64_t begin, int64_t end) {
    int64_t first = 0;
    for (int i = 0; i < count; ++i) {
      const int64_t parts = weights[i]->parts();
      weights[i]->pack(std::clamp<int64_t>(begin - first, 0, parts),
                       std::clamp<int64_t>(end - first, 0, parts));
      first += parts;
    }
  });
}

}  // namespace fastrnn::cpu
