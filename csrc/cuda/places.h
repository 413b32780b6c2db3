// Where on the device the values of a step lie: what the step decides about it and what the row
// does, each worked out once for all the units that share it.
#pragma once

#include "../scan.h"

namespace fastrnn::cuda {

// Of a step that does not exist, the places are those of step 0, and nobody looks there.
struct StepPlace {
  int64_t t;
  int64_t at;     // in a sequence, in step strides
  int64_t first;  // in buffers of active rows

  FRNN_HD StepPlace(const Schedule& s, int64_t t) : t(t) {
    const int64_t known = 0 <= t && t < s.steps ? t : 0;
    at = s.at(known);
    first = s.first(known);
  }
};

// Of one direction of a row, which is `row` in the order of falling lengths: its offsets in the
// sequences, without the step's.
struct RowPlace {
  int64_t length, resets, y, grad_y;
  int64_t steps[kMaxStates - 1], grad_steps[kMaxStates - 1];  // of states 1 and on
  int64_t active;  // among the active rows and directions of a step

  FRNN_HD RowPlace(const ScanParams& p, int states, int direction, int64_t row) {
    const Schedule& s = p.schedule;
    const int64_t own_h = direction * p.output_size, own = direction * p.hidden_size;
    length = s.length(row);
    resets = s.row_offset(p.resets, row);
    y = s.row_offset(p.y, row) + own_h;
    grad_y = s.row_offset(p.grad_y, row) + own_h;
    for (int k = 1; k < kMaxStates; ++k) {
      if (k >= states) break;
      steps[k - 1] = s.row_offset(p.steps[k], row) + own;
      grad_steps[k - 1] = s.row_offset(p.grad_steps[k], row) + own;
    }
    active = row * p.directions + direction;
  }

  FRNN_HD bool is_active(int64_t t) const { return 0 <= t && t < length; }
  FRNN_HD int64_t first_time(int direction) const { return direction ? length - 1 : 0; }
  FRNN_HD int64_t last_time(int direction) const { return direction ? 0 : length - 1; }
};

template <class T>
FRNN_HD T* at(const Sequence& s, const StepPlace& step, int64_t offset) {
  return static_cast<T*>(s.data) + (step.at * s.step_stride + offset);
}

// In a buffer [active rows, D, features].
template <class T>
FRNN_HD T* at(T* data, const ScanParams& p, const StepPlace& step, const RowPlace& row,
              int64_t features) {
  return data + (step.first * p.directions * features + row.active * features);
}

// As ScanParams has it, of places that are known.
FRNN_HD bool starts_over(const ScanParams& p, int direction, const StepPlace& step,
                         const RowPlace& row) {
  if (!p.resets.data || !row.is_active(step.t)) return false;
  const StepPlace reset(p.schedule, Schedule::reset_before(direction, step.t));
  return row.is_active(reset.t) && *at<const bool>(p.resets, reset, row.resets);
}

}  // namespace fastrnn::cuda
