// How a scan is shared out over threads and tiles. No result depends on it, only the time does.
#pragma once

#include <algorithm>
#include <cstdint>

namespace fastrnn::cpu {

// The batch in row_groups, and the hidden units of each in unit_groups. Row groups are independent
// for the whole sequence; the unit groups of one row group are a team that meets at every step.
struct Plan {
  int64_t row_groups = 1;
  int64_t unit_groups = 1;
};

struct PlanInput {
  int threads;
  int64_t directions, batch, steps;
  int64_t depth, columns;  // of the recurrent product
  int64_t column_groups;   // the finest sharing of the units
  int64_t element_size;
  int meetings;  // of a team, in a step
};

// Nanoseconds of one step of one thread, as a rough model of a core: 80 GFLOP/s in float32, 80 GB/s
// from its L2 cache and 35 GB/s from beyond it. A meeting takes 600 ns; it is charged 2000 to allow
// for a late thread. Orders of magnitude suffice.
inline double step_ns(const PlanInput& in, Plan plan) {
  const double rows = double((in.batch + plan.row_groups - 1) / plan.row_groups);
  const double weights = double(in.depth * in.columns) / plan.unit_groups;
  const double bytes = weights * in.element_size;
  const double arithmetic = 2 * rows * weights * in.element_size / 4 / 80;
  const double memory = bytes / (bytes < 400e3 ? 80 : 35);
  return std::max(arithmetic, memory) + (plan.unit_groups > 1 ? 2000 * in.meetings : 0);
}

// Rows of one group: enough to use each panel of weights many times, few enough for their states to
// stay in the cache.
inline constexpr int64_t kMaxRows = 96;
// Starting the threads of a pool costs this once.
inline constexpr double kStartNs = 5000;

inline Plan make_plan(const PlanInput& in) {
  Plan best;
  best.row_groups = std::max<int64_t>(1, (in.batch + kMaxRows - 1) / kMaxRows);
  const int64_t serial = best.row_groups * in.directions;
  double best_ns = step_ns(in, best) * in.steps * serial;
  const int64_t share = std::max<int64_t>(1, in.threads / in.directions);
  if (in.threads == 1) return best;
  for (int64_t rows = 1; rows <= std::min(share, in.batch); ++rows) {
    Plan plan{rows, std::clamp<int64_t>(share / rows, 1, in.column_groups)};
    int64_t rounds = 1;
    if (plan.unit_groups == 1) {
      rounds = (in.batch + rows * kMaxRows - 1) / (rows * kMaxRows);
      plan.row_groups = std::min(in.batch, rows * rounds);
    }
    const double ns = step_ns(in, plan) * in.steps * rounds + kStartNs;
    if (ns < best_ns) best = plan, best_ns = ns;
  }
  return best;
}

}  // namespace fastrnn::cpu
