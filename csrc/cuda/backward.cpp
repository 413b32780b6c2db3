// Backward on the host: the gates' gradients by a persistent kernel or step by step, and then all
// other gradients as products over the whole sequence.
#include "scan.h"

namespace fastrnn::cuda {
namespace {

class Backward : public Run {
 public:
  Backward(const ScanParams& params, const Call& call)
      : Run(params, call, true), row_(cell.grad_row(p.hidden_size, p.output_size)) {}

  void run() {
    grads_ = allocate(s.active_rows() * p.directions * row_ * element);
    const auto plan = persistent_plan();
    const bool done = plan && run_persistent(*plan);
    for (int q = 1; q < cell.operands && p.grad_weights[0].ih; ++q) {
      const int64_t size = size_of(cell.operand_size[q]);
      operands_[q] = allocate(s.active_rows() * p.directions * size * element);
    }
    for (int d = 0; d < p.directions && !done; ++d) run_steps(d);
    if (p.grad_x.data) write_grad_x();
    if (p.grad_weights[0].ih) write_grad_weights();
  }

 private:
  bool run_persistent(const Plan& plan) {
    PersistentArgs args{};
    const int64_t rows = h_rows(), hidden = p.hidden_size;
    for (int d = 0; d < p.directions; ++d) {
      const Matrix columns{allocate(hidden * rows * element), hidden, rows, rows};
      gemm.copy(columns, Matrix{p.weights[d].hh, rows, hidden, hidden}.transposed());
      args.weights[d] = columns.data;
    }
    args.grads = grads_;
    return launch_persistent(plan, args);
  }

  // The gradients of one direction's blocks of hidden size, of all steps.
  Matrix blocks(int direction, int place, int count) const {
    return of_direction(grads_, direction, row_, place * p.hidden_size, count * p.hidden_size);
  }
  // Those of the gates that multiply an operand.
  Matrix gates_of(int operand, int direction) const {
    return of_direction(grads_, direction, row_, cell.grad_of(operand, p.hidden_size),
                        columns(operand));
  }
  // Of these, the rows of step t.
  Matrix gates_of(int operand, int direction, int64_t t) const {
    Matrix all = gates_of(operand, direction);
    all.data = row(all.data, s.first(t), all.row_stride * element);
    all.rows = s.active(t);
    return all;
  }

  // An operand's gradient of one step, and what it is made with.
  struct Operand {
    Matrix grad;
    Tensor weights, view;
    bool multiplied = false;

    void multiply(const Gemm& gemm, const Matrix& gates) {
      if (gates.rows != grad.rows || !multiplied) {
        grad.rows = gates.rows;
        view = gemm.view_sums(grad);
        multiplied = true;
      }
      Gemm::multiply(view, gemm.view(gates), weights);
    }
  };

  void run_steps(int direction) {
    StepArgs step{.p = p,
                  .direction = direction,
                  .states = cell.states,
                  .rows = s.batch,
                  .grads = grads_,
                  .whole = whole};
    Operand operands[kMaxOperands];
    for (int q = 0; q < cell.operands; ++q) {
      const int64_t size = size_of(cell.operand_size[q]);
      operands[q] = {.grad = {allocate(s.batch * size * compute), s.batch, size, size},
                     .weights = gemm.view(recurrent(p.weights[direction], q))};
      step.product[q] = operands[q].grad.data;
      step.operand[q] = operands_[q];
    }
    for (int k = 0; k < cell.states; ++k) {
      step.carry[k] = allocate(s.batch * size_of(cell.state_size(k)) * compute);
    }
    const int64_t wider = std::max(p.hidden_size, p.output_size);
    launch(sequence.start_backward, s.batch * wider, step);
    for (int64_t i = 0; i <= s.steps; ++i) {
      step.t = s.time(direction, s.steps - 1 - i);
      const int64_t later = i > 0 ? s.active(Schedule::after(direction, step.t)) : 0;
      step.product_rows = later;
      if (i == s.steps && !p.grad_initial[0].data) break;
      if (later > 0) {
        operands[0].multiply(gemm, gates_of(0, direction, Schedule::after(direction, step.t)));
      }
      if (i == s.steps) break;
      const int64_t active = s.active(step.t);
      for (int k = cell.phases - 1; k >= 0; --k) {
        const PhaseLayout& phase = cell.phase[k];
        for (int q = phase.first_operand; q < phase.first_operand + phase.operands; ++q) {
          if (active > 0) operands[q].multiply(gemm, gates_of(q, direction, step.t));
        }
        step.rows = k == cell.phases - 1 ? std::max(active, later) : active;
        launch(kernels.step_backward[k], step.rows * packs(size_of(phase.size)), step);
      }
    }
    step.rows = s.batch;
    if (p.grad_initial[0].data) launch(sequence.finish_backward, s.batch * wider, step);
  }

  // Each run of W_ih's blocks adds a product; both directions are one where their runs meet.
  void write_grad_x() {
    const int64_t features = p.input_size, hidden = p.hidden_size;
    const bool one_run = cell.x_spans == 1 && cell.x_span[0].count * hidden == row_;
    const int64_t count = one_run ? 1 : p.directions * cell.x_spans;
    const bool direct = count == 1 && !cell.takes_x();
    if (direct) {
      const bool compact = is_compact(p.grad_x, features);
      const Matrix grad{compact ? p.grad_x.data : allocate(s.active_rows() * features * element),
                        s.active_rows(), features, features};
      const int64_t columns = p.directions * row_;
      if (one_run) {
        gemm.multiply(grad, {grads_, s.active_rows(), columns, columns}, input_weights());
      } else {
        gemm.multiply(grad, blocks(0, cell.x_span[0].place, cell.x_span[0].count), x_rows_of(0, 0));
      }
      if (!compact) {
        launch_rows(sequence.scatter, RowsArgs{p.schedule, p.grad_x, grad.data, features});
      }
      return;
    }
    GradXArgs args{.p = p,
                   .grads = grads_,
                   .grad_row = row_,
                   .x_place = cell.x_place < 0 ? -1 : cell.x_place * hidden};
    for (int d = 0; d < p.directions; ++d) {
      for (int i = 0; i < cell.x_spans; ++i) {
        const Matrix product{allocate(s.active_rows() * features * compute), s.active_rows(),
                             features, features};
        gemm.multiply_to_sums(product, blocks(d, cell.x_span[i].place, cell.x_span[i].count),
                              x_rows_of(d, i));
        args.products[args.count++] = product.data;
      }
    }
    launch_rows(sequence.add_grad_x, args);
  }

  // The run's rows of W_ih, or of their gradients.
  Matrix run_of(void* weights, const Span& run) const {
    const int64_t features = p.input_size;
    return {row(weights, run.block * p.hidden_size, features * element), run.count * p.hidden_size,
            features, features};
  }
  Matrix x_rows_of(int direction, int run) const {
    return run_of(p.weights[direction].ih, cell.x_span[run]);
  }

  void write_grad_weights() {
    const int64_t hidden = p.hidden_size, output = p.output_size;
    const Matrix x = compact_x();
    operands_[0] = allocate(s.active_rows() * p.directions * output * element);
    launch_rows(sequence.previous, PreviousArgs{p, operands_[0]}, p.directions);
    for (int d = 0; d < p.directions; ++d) {
      const Weights& grad = p.grad_weights[d];
      for (int i = 0; i < cell.x_spans; ++i) {
        const auto& run = cell.x_span[i];
        const Matrix gates = blocks(d, run.place, run.count);
        gemm.multiply(run_of(grad.ih, run), gates.transposed(), x);
        if (grad.bias_ih) gemm.sum_rows(row(grad.bias_ih, run.block * hidden, element), gates);
      }
      for (int q = 0; q < cell.operands; ++q) {
        const int64_t size = size_of(cell.operand_size[q]);
        gemm.multiply(recurrent(grad, q), gates_of(q, d).transposed(),
                      of_direction(operands_[q], d, size, 0, size));
      }
      if (grad.bias_hh) gemm.sum_rows(grad.bias_hh, blocks(d, 0, cell.h_blocks));
      if (grad.peephole) {
        gemm.sum_rows(grad.peephole, blocks(d, cell.weights_place, cell.weights));
      }
    }
  }

  int64_t row_;  // of gradients
  void* grads_ = nullptr;
  void* operands_[kMaxOperands] = {};  // [active rows, D, size]
};

}  // namespace

void backward(const ScanParams& params, const Call& call) { Backward(params, call).run(); }

}  // namespace fastrnn::cuda
