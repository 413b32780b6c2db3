// ScanParams: all that a backend needs to run one layer, both directions, over the whole sequence.
// check.h fills it from tensors; the drivers take nothing else.
#pragma once

#include <cstdint>

#include "cells/cell.h"

namespace fastrnn {

enum class Type { kFloat32, kFloat64, kBFloat16, kFloat16 };

// A sequence, [T, B, features] with contiguous features, in the user's order and layout. Strides
// are in elements. In a packed batch, as of a single step, both are a row's: there step t begins at
// row first(t).
struct Sequence {
  void* data = nullptr;
  int64_t step_stride = 0;
  int64_t row_stride = 0;
};

// A state at one moment, [D, B, features] with contiguous features.
struct State {
  void* data = nullptr;
  int64_t direction_stride = 0;
  int64_t row_stride = 0;
};

// Which rows are active at which step, and what comes before what. The drivers number the batch by
// falling length ("rows"), so that the rows that are active at step t are the first active(t) ones;
// order maps a row to its place in the batch. Buffers of the drivers' own hold active rows only:
// row r of step t is at first(t) + r. Direction 1 goes from each row's last step to its first.
struct Schedule {
  int64_t steps = 0;                 // T
  int64_t batch = 0;                 // B
  const int64_t* firsts = nullptr;   // [T + 1]; null: every row is active for all T steps
  const int64_t* lengths = nullptr;  // [B], falling; null: likewise
  const int64_t* order = nullptr;    // [B]; null: the batch's own
  bool packed = false;

  FRNN_HD int64_t first(int64_t step) const { return firsts ? firsts[step] : step * batch; }
  FRNN_HD int64_t active(int64_t step) const { return first(step + 1) - first(step); }
  FRNN_HD bool is_active(int64_t step, int64_t row) const {
    return 0 <= step && step < length(row);
  }
  FRNN_HD int64_t length(int64_t row) const { return lengths ? lengths[row] : steps; }
  // Of all steps.
  FRNN_HD int64_t active_rows() const { return first(steps); }
  FRNN_HD int64_t place(int64_t row) const { return order ? order[row] : row; }

  // The i-th step in the order in which a direction goes through them.
  FRNN_HD int64_t time(int direction, int64_t i) const { return direction ? steps - 1 - i : i; }
  FRNN_HD static int64_t before(int direction, int64_t t) { return direction ? t + 1 : t - 1; }
  FRNN_HD static int64_t after(int direction, int64_t t) { return direction ? t - 1 : t + 1; }
  // The step whose reset lies between step t and the one before it.
  FRNN_HD static int64_t reset_before(int direction, int64_t t) { return direction ? t + 1 : t; }
  FRNN_HD int64_t first_time(int direction, int64_t row) const {
    return direction ? length(row) - 1 : 0;
  }
  FRNN_HD int64_t last_time(int direction, int64_t row) const {
    return direction ? 0 : length(row) - 1;
  }

  // How many step strides a step is behind a sequence's start.
  FRNN_HD int64_t at(int64_t step) const { return packed ? first(step) : step; }
  // The offset, in elements, of a row at a step in a sequence, and its two parts.
  FRNN_HD int64_t offset(const Sequence& s, int64_t step, int64_t row) const {
    return step_offset(s, step) + row_offset(s, row);
  }
  FRNN_HD int64_t step_offset(const Sequence& s, int64_t step) const {
    return at(step) * s.step_stride;
  }
  FRNN_HD int64_t row_offset(const Sequence& s, int64_t row) const {
    return (packed ? row : place(row)) * s.row_stride;
  }
};

// The weights of one direction, contiguous; the recurrent ones and the biases have a block of H
// rows for each gate of the cell that has that part. A bias, weight_hr and peepholes may be null.
struct Weights {
  void* ih = nullptr;        // [x blocks * H, I]
  void* hh = nullptr;        // [h blocks * H, P]
  void* bias_ih = nullptr;   // [x blocks * H]
  void* bias_hh = nullptr;   // [h blocks * H]
  void* hr = nullptr;        // [P, H]
  void* peephole = nullptr;  // [weights * H]: the units' own weights

  // Of weights of int8, which lie as cpu/int8_products.h says: float32, by row. Null otherwise.
  void* ih_scale = nullptr;  // [x blocks * H]
  void* hh_scale = nullptr;  // [h blocks * H]
  void* hr_scale = nullptr;  // [P]
};

// Everything but lengths and resets is of `type`, except where "compute type" is said: that is
// float32 for the 16-bit types and `type` otherwise. No output aliases an input.
struct ScanParams {
  int cell = 0;  // index in kCells
  Type type = Type::kFloat32;
  Schedule schedule;
  int64_t directions = 1;   // D
  int64_t input_size = 0;   // I
  int64_t hidden_size = 0;  // H
  int64_t output_size = 0;  // P; H without a projection

  Weights weights[2];
  Sequence x;                 // [T, B, I]
  Sequence resets;            // [T, B] of bool, or null: where set, an episode begins at the step
  State initial[kMaxStates];  // [D, B, P] for h, [D, B, H] for the others; null: zeros

  // Written by forward, read by backward.
  Sequence y;                  // [T, B, D P]
  Sequence steps[kMaxStates];  // [T, B, D H] of state k >= 1 after each step, compute type
  void* saved = nullptr;       // [active rows, D, saved values * H]
  State last[kMaxStates];      // like initial; of backward: null

  // Backward only; a null gradient of an output is 0, a null gradient of an input is not wanted.
  Sequence grad_y;
  Sequence grad_steps[kMaxStates];  // compute type
  State grad_last[kMaxStates];
  Sequence grad_x;
  State grad_initial[kMaxStates];
  Weights grad_weights[2];

  // Where a row of a sequence or a state begins.
  template <class T>
  FRNN_HD T* at(const Sequence& s, int64_t t, int64_t row) const {
    return static_cast<T*>(s.data) + schedule.offset(s, t, row);
  }
  template <class T>
  FRNN_HD T* at(const State& s, int direction, int64_t row) const {
    return static_cast<T*>(s.data) + direction * s.direction_stride +
           schedule.place(row) * s.row_stride;
  }
  // Of an active row in buffers [active rows, D, features].
  FRNN_HD int64_t active_row(int64_t t, int64_t row, int direction) const {
    return (schedule.first(t) + row) * directions + direction;
  }
  // Whether the row is active at step t and starts from zeros there. Direction 1 goes through an
  // episode from its last step on, which is the one before the next episode's first.
  FRNN_HD bool starts_over(int direction, int64_t t, int64_t row) const {
    if (!resets.data || !schedule.is_active(t, row)) return false;
    const int64_t reset = Schedule::reset_before(direction, t);
    return schedule.is_active(reset, row) && *at<const bool>(resets, reset, row);
  }
};

}  // namespace fastrnn
