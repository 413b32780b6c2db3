// What no cell has a say in: rows gathered and scattered, the states before each step, projections,
// and the schedule brought to the device.
#pragma once

#include <vector>

#include "launch.h"
#include "unit.h"

namespace fastrnn::cuda {

inline constexpr int kStepThreads = 128;

// Blocks of kStepThreads for so many items.
inline LaunchShape blocks_for(int64_t items) {
  return {.blocks = (items + kStepThreads - 1) / kStepThreads, .threads = kStepThreads};
}
// A block for each step and row of a schedule, those that do not run among them.
inline LaunchShape blocks_for(const Schedule& s, int64_t directions) {
  return {.blocks = s.steps * s.batch, .directions = int(directions), .threads = kStepThreads};
}

// Numbers that travel in a launch's arguments: unlike a copy from the host's memory, it neither
// waits nor minds being captured in a graph.
struct UploadArgs {
  static constexpr int kCount = 480;
  int64_t* to;
  int count;
  int64_t values[kCount];
};
static_assert(sizeof(UploadArgs) < 4096, "a launch takes 4 KB of arguments");

// Rows of a sequence from (to) [rows that run, features].
struct RowsArgs {
  Schedule schedule;
  Sequence sequence;
  void* rows;
  int64_t features;
};

// The h that each step starts from, [rows that run, D, P].
struct PreviousArgs {
  ScanParams p;
  void* to;
};

// One step of one direction around a projection, whose product the kernel gets or prepares.
struct ProjectionArgs {
  ScanParams p;
  int direction;
  int64_t t, rows;
  int64_t product_rows;  // backward: rows that the product has
  // forward: W_hr hidden, [rows, P]; backward: dr R of the step after, computed in
  const void* product;
  void* h;       // forward: the next operand [B, P]
  void* carry;   // backward: the gradient of h of rows that do not run, [B, P], computed in
  void* grad_h;  // backward: out, [rows that run, D, P]
};

struct SequenceKernels {
  Kernel<RowsArgs> gather, scatter;
  Kernel<PreviousArgs> previous;
  Kernel<ProjectionArgs> project, start_unproject, unproject;
};

const SequenceKernels& sequence_kernels(Type type);
Kernel<UploadArgs> upload_kernel();

// That the kernels are compiled for: 900 for compute capability 9.0.
std::vector<int64_t> architectures();

}  // namespace fastrnn::cuda
