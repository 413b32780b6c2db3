// What forward and backward share on the host: the call's parameters for the device, memory of
// their own, products, and the choice of a path.
#pragma once

#include <vector>

#include "gemm.h"
#include "kernels.h"
#include "plan.h"
#include "sequence.h"

namespace fastrnn::cuda {

// Where a call runs, and how.
struct Call {
  Device device;
  Stream stream;
  bool allow_tf32;
};

class Run {
 public:
  Run(const ScanParams& params, const Call& call, bool backward);

  ScanParams p;       // for kernels: the schedule's arrays are the device's
  const Schedule& s;  // the host's
  const Call& call;
  const CellKernels& kernels;
  const SequenceKernels& sequence;
  Gemm gemm;
  int64_t element;  // size of the type
  int64_t compute;  // size of what it is computed in
  bool whole;       // packs of units are aligned in every tensor

  int64_t gate_rows() const { return kernels.gates * p.hidden_size; }
  bool projected() const { return p.weights[0].hr != nullptr; }
  // Of [rows that run, D, features], the row of a step's first row.
  static void* row(void* data, int64_t index, int64_t row_bytes) {
    return static_cast<char*>(data) + index * row_bytes;
  }
  // Of [rows that run, D, features], the rows of one direction.
  Matrix of_direction(void* data, int64_t direction, int64_t features) const {
    return {row(data, direction, features * element), s.rows(), features, p.directions * features};
  }

  // Memory until the call's end; of the stream's own allocator, so that nobody waits for it.
  void* allocate(int64_t bytes);
  void* allocate_zeros(int64_t bytes);

  // Whether a sequence's rows lie as [rows that run, features] do.
  bool is_compact(const Sequence& sequence, int64_t features) const;
  // x as [rows that run, I].
  Matrix compact_x();

  // W_ih of all directions, one below the other: [D G H, I].
  Matrix input_weights();

  // The layout of a persistent kernel, unless the step path is to run.
  std::optional<Plan> persistent_plan() const;
  // Runs the plan's kernel; false where there is no room for all CTAs at once.
  [[nodiscard]] bool launch_persistent(const Plan& plan, PersistentArgs args);

  template <class Args>
  void launch(Kernel<Args> kernel, int64_t items, const Args& args) const {
    if (items > 0) cuda::launch(kernel, blocks_for(items), call.stream, args);
  }
  template <class Args>
  void launch_rows(Kernel<Args> kernel, const Args& args, int64_t directions = 1) const {
    cuda::launch(kernel, blocks_for(s, directions), call.stream, args);
  }
  // Threads of a step kernel: one for each pack of units.
  int64_t packs(int64_t features) const {
    const int64_t pack = element == 2 ? 2 : 1;
    return (features + pack - 1) / pack;
  }

 private:
  Schedule upload(const Schedule& host);
  Arithmetic arithmetic() const;

  bool backward_;
  std::vector<Tensor> memory_;
};

}  // namespace fastrnn::cuda
