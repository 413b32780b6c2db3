// What one thread runs of a scan: some rows of one direction over all steps, and of these rows all
// hidden units or a team's share of them.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>

#include "../scan.h"
#include "engine.h"
#include "plan.h"
#include "team.h"

namespace fastrnn::cpu {

struct Range {
  int64_t begin, end;
};

struct Slice {
  const ScanParams& p;
  int64_t index;  // among all slices
  int64_t team;   // among all teams: a direction and a group of rows
  int64_t direction;
  int64_t row, rows;  // the first row, and how many
  int64_t first_share, last_share, shares;

  // Steps are counted in the order in which the direction runs through them.
  int64_t time(int64_t i) const { return direction ? p.schedule.steps - 1 - i : i; }
  int64_t first_time(int64_t m) const { return direction ? length(m) - 1 : 0; }
  int64_t last_time(int64_t m) const { return direction ? 0 : length(m) - 1; }
  int64_t before(int64_t t) const { return direction ? t + 1 : t - 1; }
  int64_t after(int64_t t) const { return direction ? t - 1 : t + 1; }

  // Row m of the slice.
  int64_t length(int64_t m) const { return p.schedule.length(row + m); }
  int64_t place(int64_t m) const { return p.schedule.place(row + m); }
  int64_t active(int64_t t) const {
    return std::clamp<int64_t>(p.schedule.active(t) - row, 0, rows);
  }
  bool resets(int64_t t, int64_t m) const { return p.resets.data && *at<bool>(p.resets, t, m); }

  template <class T>
  T* at(const Sequence& s, int64_t t, int64_t m) const {
    return static_cast<T*>(s.data) + p.schedule.offset(s, t, row + m);
  }
  template <class T>
  T* at(const State& s, int64_t m) const {
    return static_cast<T*>(s.data) + direction * s.direction_stride + place(m) * s.row_stride;
  }
  // Among the rows that run, where buffers of the drivers' own keep row m of step t.
  int64_t running(int64_t t, int64_t m) const { return p.schedule.first(t) + row + m; }

  // The slice's columns of `columns`, in whole units of `unit`.
  Range part(int64_t columns, int64_t unit) const {
    const int64_t units = (columns + unit - 1) / unit;
    return {units * first_share / shares * unit, units * last_share / shares * unit};
  }
};

// The first row of row group `group`: groups have about the same number of steps in all, and a row
// at least.
inline int64_t first_row(const Schedule& s, int64_t groups, int64_t group) {
  if (!s.lengths || group == groups) return s.batch * group / groups;
  int64_t row = 0;
  for (int64_t steps = 0; row < s.batch && steps * groups < s.rows() * group; ++row) {
    steps += s.lengths[row];
  }
  return std::clamp(row, group, s.batch - groups + group);
}

// The rows of row group `group`.
inline Range row_group(const ScanParams& p, const Plan& plan, int64_t group) {
  return {first_row(p.schedule, plan.row_groups, group),
          first_row(p.schedule, plan.row_groups, group + 1)};
}

inline int64_t max_rows(const ScanParams& p, const Plan& plan) {
  int64_t rows = 0;
  for (int64_t i = 0; i < plan.row_groups; ++i) {
    const Range r = row_group(p, plan, i);
    rows = std::max(rows, r.end - r.begin);
  }
  return rows;
}

inline int64_t count_teams(const ScanParams& p, const Plan& plan) {
  return p.directions * plan.row_groups;
}
inline int64_t count_slices(const ScanParams& p, const Plan& plan) {
  return count_teams(p, plan) * plan.unit_groups;
}

// All rows and units of one direction.
inline Slice whole(const ScanParams& p, int64_t direction) {
  return {p, 0, 0, direction, 0, p.schedule.batch, 0, 1, 1};
}

// Runs run(slice, member) for slices that cover the scan. A thread that gets several shares of one
// team runs them as one slice.
template <class Run>
void run_slices(const ScanParams& p, const Plan& plan, const Pool& pool, double flops, Run run) {
  const auto teams = std::make_unique<Team[]>(count_teams(p, plan));
  const int64_t shares = plan.unit_groups;
  pool.for_ranges(count_slices(p, plan), flops, [&](int64_t begin, int64_t end) {
    for (int64_t at = begin, stop; at < end; at = stop) {
      const int64_t team = at / shares;
      stop = std::min(end, (team + 1) * shares);
      const Range rows = row_group(p, plan, team % plan.row_groups);
      const int64_t first = at - team * shares, last = stop - team * shares;
      const Slice slice{.p = p,
                        .index = at,
                        .team = team,
                        .direction = team / plan.row_groups,
                        .row = rows.begin,
                        .rows = rows.end - rows.begin,
                        .first_share = first,
                        .last_share = last,
                        .shares = shares};
      Member member(teams[team], last - first, shares);
      run(slice, member);
    }
  });
}

// Packs matrices, each in [0, count(i)) parts, on all threads.
template <class W>
void pack_all(W* const* weights, int count, double elements, const Pool& pool) {
  constexpr double kFlops = 16;  // what packing an element costs, as arithmetic
  int64_t total = 0;
  for (int i = 0; i < count; ++i) total += weights[i]->parts();
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
