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
  int64_t l2_bytes;
};

// Nanoseconds that a team waits for its last member. Two threads meet in 600; the rest allows for a
// late one. Each thread more has to touch the same cache line.
inline double meeting_ns(int64_t threads) {
  return threads > 1 ? 1400 + 300. * double(threads) : 0;
}

// Nanoseconds of one step of one thread, as a rough model of a core: 80 GFLOP/s in float32, 80 GB/s
// from its L2 cache and 35 GB/s from beyond it. Orders of magnitude suffice.
inline double step_ns(const PlanInput& in, Plan plan) {
  const double rows = double((in.batch + plan.row_groups - 1) / plan.row_groups);
  const double weights = double(in.depth * in.columns) / double(plan.unit_groups);
  const double bytes = weights * double(in.element_size);
  const double arithmetic = 2 * rows * weights * double(in.element_size) / 4 / 80;
  const double memory = bytes / (bytes < 0.8 * double(in.l2_bytes) ? 80 : 35);
  return std::max(arithmetic, memory) + meeting_ns(plan.unit_groups) * in.meetings;
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
    // Teams of as many as there are, and of half as many, and so on: a larger one has less to do
    // and waits longer.
    for (int64_t units = std::clamp<int64_t>(share / rows, 1, in.column_groups);; units /= 2) {
      Plan plan{rows, units};
      int64_t rounds = 1;
      if (units == 1) {
        rounds = (in.batch + rows * kMaxRows - 1) / (rows * kMaxRows);
        plan.row_groups = std::min(in.batch, rows * rounds);
      }
      const double ns = step_ns(in, plan) * double(in.steps * rounds) + kStartNs;
      if (ns < best_ns) best = plan, best_ns = ns;
      if (units == 1) break;
    }
  }
  return best;
}

}  // namespace fastrnn::cpu
