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
  const CellLayout& cell;
  const CellKernels& kernels;
  const SequenceKernels& sequence;
  Gemm gemm;
  int64_t element;  // size of the type
  int64_t compute;  // size of what it is computed in
  bool whole;       // packs of units are aligned in every tensor

  int64_t size_of(Size size) const { return size == kOutputSize ? p.output_size : p.hidden_size; }
  int64_t x_rows() const { return cell.x_blocks * p.hidden_size; }  // of weight_ih
  int64_t h_rows() const { return cell.h_blocks * p.hidden_size; }  // of weight_hh
  // How many columns an operand's product has, one for each gate and unit.
  int64_t columns(int operand) const {
    return cell.operand_product[operand].count * size_of(cell.size_of_gates(operand));
  }
  // An operand's rows of the recurrent weights, or of their gradients.
  Matrix recurrent(const Weights& w, int operand) const {
    const int64_t size = size_of(cell.operand_size[operand]);
    const int64_t gate_size = size_of(cell.size_of_gates(operand));
    void* all = cell.size_of_gates(operand) == kOutputSize ? w.hr : w.hh;
    const int64_t first = cell.operand_product[operand].first * gate_size;
    return {row(all, first, size * element), columns(operand), size, size};
  }

  static void* row(void* data, int64_t index, int64_t row_bytes) {
    return static_cast<char*>(data) + index * row_bytes;
  }
  // Of [active rows, D, features], `columns` columns of one direction from `first` on.
  Matrix of_direction(void* data, int64_t direction, int64_t features, int64_t first,
                      int64_t columns) const {
    return {row(data, direction * features + first, element), s.active_rows(), columns,
            p.directions * features};
  }

  // Memory until the call's end; of the stream's own allocator, so that nobody waits for it.
  void* allocate(int64_t bytes);
  void* allocate_zeros(int64_t bytes);

  // Whether a sequence's rows lie as [active rows, features] do.
  bool is_compact(const Sequence& sequence, int64_t features) const;
  // x as [active rows, I].
  Matrix compact_x();

  // W_ih of all directions, one below the other: [D x blocks H, I].
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
