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

// Which rows run at which step. The drivers number the batch by falling length ("rows"), so that
// the rows that run at step t are the first active(t) ones; order maps a row to its place in the
// batch. Buffers of the drivers' own keep only rows that run: row r of step t is at first(t) + r.
struct Schedule {
  int64_t steps = 0;                 // T
  int64_t batch = 0;                 // B
  const int64_t* firsts = nullptr;   // [T + 1]; null: every row runs for all T steps
  const int64_t* lengths = nullptr;  // [B], falling; null: likewise
  const int64_t* order = nullptr;    // [B]; null: the batch's own
  bool packed = false;

  FRNN_HD int64_t first(int64_t step) const { return firsts ? firsts[step] : step * batch; }
  FRNN_HD int64_t active(int64_t step) const { return first(step + 1) - first(step); }
  FRNN_HD int64_t length(int64_t row) const { return lengths ? lengths[row] : steps; }
  FRNN_HD int64_t rows() const { return first(steps); }
  FRNN_HD int64_t place(int64_t row) const { return order ? order[row] : row; }
  // How many step strides a step is behind a sequence's start.
  FRNN_HD int64_t at(int64_t step) const { return packed ? first(step) : step; }
  // The offset, in elements, of row `row` at `step` in a sequence, and its two parts.
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

// The weights of one direction, contiguous, as torch.nn keeps them; a bias or weight_hr may be
// null.
struct Weights {
  void* ih = nullptr;       // [G H, I]
  void* hh = nullptr;       // [G H, P]
  void* bias_ih = nullptr;  // [G H]
  void* bias_hh = nullptr;  // [G H]
  void* hr = nullptr;       // [P, H]: h_t = W_hr hidden_t
};

// Everything but lengths and resets is of `type`, except where "compute type" is said: that is
// float32 for the 16-bit types and `type` otherwise. No output aliases an input.
struct ScanParams {
  int cell = 0;  // index in FRNN_CELLS
  Type type = Type::kFloat32;
  Schedule schedule;
  int64_t directions = 1;   // D; direction 1 runs from each row's last step to its first
  int64_t input_size = 0;   // I
  int64_t hidden_size = 0;  // H
  int64_t output_size = 0;  // P; H without a projection

  Weights weights[2];
  Sequence x;                 // [T, B, I]
  Sequence resets;            // [T, B] of bool, or null: where set, the state before the step is 0
  State initial[kMaxStates];  // [D, B, P] for h, [D, B, H] for the others; null: zeros

  // Written by forward, read by backward.
  Sequence y;                  // [T, B, D P]
  Sequence steps[kMaxStates];  // [T, B, D H] of state k >= 1 after each step, compute type
  void* saved = nullptr;       // [rows that run, D, kSaved H]
  void* hidden = nullptr;      // [rows that run, D, H]: h before the projection
  State last[kMaxStates];      // like initial; of backward: null

  // Backward only; a null gradient of an output is 0, a null gradient of an input is not wanted.
  Sequence grad_y;
  Sequence grad_steps[kMaxStates];  // compute type
  State grad_last[kMaxStates];
  Sequence grad_x;
  State grad_initial[kMaxStates];
  Weights grad_weights[2];
};

}  // namespace fastrnn
