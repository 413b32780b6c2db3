// Which path runs a scan on a GPU, and how it is laid out. Plain C++, tested without a GPU.
//
//   F  the step path: a product for each operand and a kernel for each phase of a step; every cell,
//      shape, type and device
//   A  one CTA has all hidden units of some rows, and their weights on the chip
//   C  a cluster of CTAs shares the hidden units
//   G  CTAs all over the chip share them, and must all be resident
//
// A, C and G run the cells of one phase.
#pragma once

#include <cmath>
#include <optional>

#include "geometry.h"
#include "launch.h"

namespace fastrnn::cuda {

enum class Path : char { kStep = 'F', kCta = 'A', kCluster = 'C', kGrid = 'G' };

struct Plan {
  Path path = Path::kStep;
  Geometry geometry;
  double step = 0;  // estimated time of one step of all rows, ns

  Exchange exchange() const {
    return path == Path::kCluster ? Exchange::kCluster
           : path == Path::kGrid  ? Exchange::kGrid
                                  : Exchange::kLocal;
  }
};

// The work of one call.
struct Work {
  Recurrence step;
  int64_t batch = 1;
  int directions = 1;
};

// What a step costs, in ns. Taken from published measurements of Hopper GPUs, and to be replaced by
// the project's own: no figure here decides which path is right, only which is tried first.
struct Costs {
  double fixed = 250;  // barriers of the CTA, the cell, stores
  double cluster_exchange = 400;
  double grid_exchange = 780;
  double fragment = 7;            // one fragment times one tile of rows: 12.5 cycles at 1.75 GHz
  double float32_row = 4.6;       // one fragment times one row, without tensor cores
  double spilled_fragment = 4.6;  // 1 KB from shared memory, at 128 bytes a cycle
  double pack = 60;               // the cell for one pack per thread
  double step_path = 6000;        // two launches, before any work
  double step_flop = 1 / 2e5;     // of the step path's product, small
};

// Of so many CTAs, a power of 2.
inline int clusters_at_once(const Limits& limits, int ctas) {
  for (int i = 0; i < 4; ++i) {
    if (ctas == 2 << i) return limits.clusters[i];
  }
  return 0;
}

inline double estimate(const Work& w, const Geometry& g, Exchange exchange, const Limits& limits,
                       bool tensor_cores) {
  const Costs costs;
  const Recurrence& p = w.step;
  const int warps = ceil_div(g.warp_rows * g.slices, 4);  // of one of the four schedulers
  const int fragments = g.chunks_per_slice * g.tiles;
  const double each =
      tensor_cores ? costs.fragment * ceil_div(g.rows, 8) : costs.float32_row * g.rows;
  const double spilled = double(g.warp_rows * g.slices) * g.spilled * g.tiles *
                         costs.spilled_fragment * ceil_div(g.rows, 8);
  const double packs = ceil_div(int64_t(g.units) / p.pack() * g.rows, kThreads) * costs.pack;
  const double handover = exchange == Exchange::kCluster ? costs.cluster_exchange
                          : exchange == Exchange::kGrid  ? costs.grid_exchange
                                                         : 0;
  const int at_once = exchange == Exchange::kCluster ? clusters_at_once(limits, g.ctas)
                                                     : limits.multiprocessors / g.ctas;
  const int waves = ceil_div(int64_t(g.groups) * w.directions, std::max(1, at_once));
  return waves * (costs.fixed + handover + std::max(warps * fragments * each, spilled) + packs);
}

inline double estimate_step_path(const Work& w) {
  const Costs costs;
  const double flops =
      2. * w.step.gates * w.step.hidden_size * w.step.hidden_size * w.batch * w.directions;
  return w.directions * costs.step_path + flops * costs.step_flop;
}

// The best layout of one path, if it has any.
inline std::optional<Plan> plan_path(const Work& w, Path path, const Limits& limits,
                                     bool tensor_cores) {
  if (path == Path::kStep) return Plan{path, {}, estimate_step_path(w)};
  if (limits.arch < 80) return std::nullopt;
  Plan candidate{path, {}, 0};
  const Exchange exchange = candidate.exchange();
  int first = 1, last = 1;
  if (path == Path::kCluster) first = 2, last = 16;
  if (path == Path::kGrid) first = 2, last = limits.cooperative ? limits.multiprocessors : 0;
  const int fewest_tiles = path == Path::kCta ? 4 : path == Path::kCluster ? 2 : 1;
  const int64_t hidden_groups = ceil_div(w.step.hidden_size, 8);
  std::optional<Plan> best;
  for (int ctas = first; ctas <= last && ctas <= hidden_groups; ctas *= 2) {
    for (int tiles = fewest_tiles; tiles <= 4; tiles *= 2) {
      for (int64_t rows = 1; rows < 2 * w.batch && rows <= 64; rows *= 2) {
        const int own = int(std::min(rows, w.batch));
        const Geometry g = make_geometry(w.step, exchange, ctas, own, tiles, w.batch);
        if (!fits(w.step, g, limits.shared_memory)) continue;
        if (path == Path::kCluster && clusters_at_once(limits, ctas) == 0) continue;
        const int64_t blocks = int64_t(g.groups) * ctas * w.directions;
        if (path == Path::kGrid && blocks > limits.multiprocessors) continue;
        candidate.geometry = g;
        candidate.step = estimate(w, g, exchange, limits, tensor_cores);
        if (!best || candidate.step < best->step) best = candidate;
      }
    }
  }
  return best;
}

}  // namespace fastrnn::cuda
