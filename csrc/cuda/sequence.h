// What does not depend on the cell: rows gathered and scattered, the states at either end and
// before each step, the gradient of x, and the schedule brought to the device.
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
// A block for each step and row of a schedule, those that are not active among them.
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

// Rows of a sequence from (to) [active rows, features].
struct RowsArgs {
  Schedule schedule;
  Sequence sequence;
  void* rows;
  int64_t features;
};

// The h that each step starts from, [active rows, D, P].
struct PreviousArgs {
  ScanParams p;
  void* to;
};

// The gradient of x from its parts, which are computed in float32 for the 16-bit types: products,
// [active rows, I], and, of a gate that takes x itself, that gate's gradient.
struct GradXArgs {
  static constexpr int kMaxProducts = 2 * kMaxGates;
  ScanParams p;
  const void* products[kMaxProducts];
  int count;
  const void* grads;          // [active rows, D, grad_row]
  int64_t grad_row, x_place;  // in a row; negative: no gate takes x itself
};

struct SequenceKernels {
  Kernel<RowsArgs> gather, scatter;
  Kernel<PreviousArgs> previous;
  Kernel<GradXArgs> add_grad_x;
  // The step path's, for the states at the beginning and their gradients at the end.
  Kernel<StepArgs> start_forward, start_backward, finish_backward;
};

const SequenceKernels& sequence_kernels(Type type);
Kernel<UploadArgs> upload_kernel();

// That the kernels are compiled for: 900 for compute capability 9.0.
std::vector<int64_t> architectures();

}  // namespace fastrnn::cuda
