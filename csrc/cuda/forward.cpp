// Forward on the host: the input's part of the gates for the whole sequence as one product, and
// then the sequence by a persistent kernel or step by step.
#include "scan.h"

namespace fastrnn::cuda {
namespace {

class Forward : public Run {
 public:
  Forward(const ScanParams& params, const Call& call) : Run(params, call, false) {}

  void run() {
    multiply_inputs();
    const auto plan = persistent_plan();
    if (plan && run_persistent(*plan)) return;
    for (int d = 0; d < p.directions; ++d) run_steps(d);
  }

 private:
  // An operand of the step path, and its product with all gates that multiply it.
  struct Operand {
    Matrix value, product;
    Tensor weights, value_view, product_view;

    void set_rows(const Gemm& gemm, int64_t rows) {
      value.rows = product.rows = rows;
      value_view = gemm.view(value);
      product_view = gemm.view_sums(product);
    }
  };

  void multiply_inputs() {
    const Matrix x = compact_x();
    const int64_t columns = p.directions * x_rows();
    gates_ = allocate(s.active_rows() * columns * compute);
    gemm.multiply_to_sums({gates_, s.active_rows(), columns, columns}, x,
                          input_weights().transposed());
  }

  bool run_persistent(const Plan& plan) {
    PersistentArgs args{};
    for (int d = 0; d < p.directions; ++d) args.weights[d] = p.weights[d].hh;
    args.gates = static_cast<const float*>(gates_);
    return launch_persistent(plan, args);
  }

  Operand make_operand(const Weights& w, int q) {
    const int64_t size = size_of(cell.operand_size[q]), gates = columns(q);
    return {.value = {allocate(s.batch * size * element), s.batch, size, size},
            .product = {allocate(s.batch * gates * compute), s.batch, gates, gates},
            .weights = gemm.view(recurrent(w, q).transposed())};
  }

  void run_steps(int direction) {
    StepArgs step{.p = p,
                  .direction = direction,
                  .states = cell.states,
                  .rows = s.batch,
                  .gates = gates_,
                  .whole = whole};
    Operand operands[kMaxOperands];
    for (int q = 0; q < cell.operands; ++q) {
      operands[q] = make_operand(p.weights[direction], q);
      step.operand[q] = operands[q].value.data;
      step.product[q] = operands[q].product.data;
    }
    for (int k = 1; k < cell.states; ++k) {
      step.carry[k] = allocate(s.batch * p.hidden_size * compute);
    }
    launch(sequence.start_forward, s.batch * std::max(p.hidden_size, p.output_size), step);
    auto multiply = [&](int first, int count) {
      for (int q = first; q < first + count; ++q) {
        Gemm::multiply(operands[q].product_view, operands[q].value_view, operands[q].weights);
      }
    };
    for (int64_t i = 0, active = 0; i < s.steps; ++i) {
      step.t = s.time(direction, i);
      step.rows = s.active(step.t);
      if (step.rows == 0) continue;
      if (step.rows != active) {
        active = step.rows;
        for (int q = 0; q < cell.operands; ++q) operands[q].set_rows(gemm, active);
      }
      multiply(0, 1);
      for (int k = 0; k < cell.phases; ++k) {
        const PhaseLayout& phase = cell.phase[k];
        launch(kernels.step_forward[k], step.rows * packs(size_of(phase.size)), step);
        multiply(phase.first_operand, phase.operands);
      }
    }
  }

  void* gates_ = nullptr;
};

}  // namespace

void forward(const ScanParams& params, const Call& call) { Forward(params, call).run(); }

}  // namespace fastrnn::cuda
