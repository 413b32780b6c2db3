// What one thread runs of a scan: some rows of one direction over all steps, and of these rows all
// hidden units or a team's share of them.
#pragma once

#include <algorithm>
#include <cstdint>

#include "../scan.h"
#include "plan.h"

namespace fastrnn::cpu {

struct Range {
  int64_t begin, end;
};

struct Slice {
  const ScanParams& p;
  int64_t index;  // among all slices
  int64_t team;   // among all teams: a direction and a group of rows
  int direction;
  int64_t row, rows;  // the first row, and how many
  int64_t first_share, last_share, shares;

  // Share i of the slice's team.
  Slice share(int64_t i) const {
    Slice other = *this;
    other.index += i - first_share, other.first_share = i, other.last_share = i + 1;
    return other;
  }

  // Row m of the slice.
  int64_t length(int64_t m) const { return p.schedule.length(row + m); }
  int64_t active(int64_t t) const {
    return std::clamp<int64_t>(p.schedule.active(t) - row, 0, rows);
  }
  bool starts_over(int64_t t, int64_t m) const { return p.starts_over(direction, t, row + m); }
  int64_t first_time(int64_t m) const { return p.schedule.first_time(direction, row + m); }
  int64_t last_time(int64_t m) const { return p.schedule.last_time(direction, row + m); }
  int64_t time(int64_t i) const { return p.schedule.time(direction, i); }
  int64_t before(int64_t t) const { return Schedule::before(direction, t); }
  int64_t after(int64_t t) const { return Schedule::after(direction, t); }
  template <class T>
  T* at(const Sequence& s, int64_t t, int64_t m) const {
    return p.at<T>(s, t, row + m);
  }
  template <class T>
  T* at(const State& s, int64_t m) const {
    return p.at<T>(s, direction, row + m);
  }
  // Where buffers [active rows] keep row m of step t.
  int64_t active_row(int64_t t, int64_t m) const { return p.schedule.first(t) + row + m; }

  // The slice's blocks of `blocks`, in whole multiples of `multiple`.
  Range part(int64_t blocks, int64_t multiple) const {
    const int64_t parts = (blocks + multiple - 1) / multiple;
    return {parts * first_share / shares * multiple, parts * last_share / shares * multiple};
  }
};

// The first row of row group `group`: groups have about the same number of steps in all, and a row
// at least.
inline int64_t first_row(const Schedule& s, int64_t groups, int64_t group) {
  if (!s.lengths || group == groups) return s.batch * group / groups;
  int64_t row = 0;
  for (int64_t steps = 0; row < s.batch && steps * groups < s.active_rows() * group; ++row) {
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
inline Slice whole(const ScanParams& p, int direction) {
  return {p, 0, 0, direction, 0, p.schedule.batch, 0, 1, 1};
}

}  // namespace fastrnn::cpu
