// Backward on the host: the gates' gradients by a persistent kernel or step by step, and then all
// other gradients as products over the whole sequence.
#include "scan.h"

namespace fastrnn::cuda {
namespace {

class Backward : public Run {
 public:
  Backward(const ScanParams& params, const Call& call) : Run(params, call, true) {}

  void run() {
    const int64_t bytes = s.rows() * p.directions * gate_rows() * element;
    dx_ = allocate(bytes);
    dr_ = kernels.additive ? dx_ : allocate(bytes);
    if (projected()) grad_h_ = allocate(s.rows() * p.directions * p.output_size * element);
    const auto plan = persistent_plan();
    if (!plan || !run_persistent(*plan)) {
      for (int d = 0; d < p.directions; ++d) run_steps(d);
    }
    if (p.grad_x.data) write_grad_x();
    if (p.grad_weights[0].ih) write_grad_weights();
  }

 private:
  bool run_persistent(const Plan& plan) {
    PersistentArgs args{};
    for (int d = 0; d < p.directions; ++d) {
      const int64_t hidden = p.hidden_size;
      const Matrix columns{allocate(hidden * gate_rows() * element), hidden, gate_rows(),
                           gate_rows()};
      gemm.copy(columns, Matrix{p.weights[d].hh, gate_rows(), hidden, hidden}.transposed());
      args.weights[d] = columns.data;
    }
    args.dx = dx_;
    args.dr = dr_;
    return launch_persistent(plan, args);
  }

  // Rows of step t of [rows that run, D, features].
  Matrix rows_of(void* data, int64_t t, int direction, int64_t features) const {
    Matrix all = of_direction(data, direction, features);
    all.data = row(all.data, s.first(t), all.row_stride * element);
    all.rows = s.active(t);
    return all;
  }

  void run_steps(int direction) {
    const int64_t batch = s.batch, hidden = p.hidden_size, output = p.output_size;
    const Weights& w = p.weights[direction];
    const Tensor hh = gemm.view({w.hh, gate_rows(), output, output});
    Matrix product{allocate(batch * output * compute), batch, output, output};
    StepArgs step{.p = p,
                  .direction = direction,
                  .rows = batch,
                  .product = product.data,
                  .carry = allocate(kernels.states * batch * hidden * compute),
                  .dx = dx_,
                  .dr = dr_,
                  .whole = whole};
    launch(kernels.start_backward, batch * packs(hidden), step);
    Matrix before_projection{};
    ProjectionArgs projection{};
    if (projected()) {
      before_projection = {allocate(batch * hidden * compute), batch, hidden, hidden};
      step.product = before_projection.data;
      projection = {.p = p,
                    .direction = direction,
                    .rows = batch,
                    .product = product.data,
                    .carry = allocate(batch * output * compute),
                    .grad_h = grad_h_};
      launch(sequence.start_unproject, batch * output, projection);
    }
    // The last step, beyond the sequence, leads to the initial states.
    const int64_t end = s.steps + (p.grad_initial[0].data ? 1 : 0);
    Tensor product_view;
    for (int64_t i = 0, multiplied = 0; i < end; ++i) {
      const bool inside = i < s.steps;
      step.t = time_of(s, direction, s.steps - 1 - i);
      const int64_t active = inside ? s.active(step.t) : 0;
      const int64_t later = i > 0 ? s.active(after(direction, step.t)) : 0;
      if (later > 0) {
        if (later != multiplied) {
          multiplied = product.rows = later;
          product_view = gemm.view_sums(product);
        }
        Gemm::multiply(product_view,
                       gemm.view(rows_of(dr_, after(direction, step.t), direction, gate_rows())),
                       hh);
      }
      step.rows = inside ? std::max(active, later) : batch;
      step.product_rows = later;
      if (projected()) {
        projection.t = step.t;
        projection.rows = step.rows;
        projection.product_rows = later;
        launch(sequence.unproject, step.rows * output, projection);
        if (active > 0) {
          before_projection.rows = active;
          gemm.multiply_to_sums(before_projection, rows_of(grad_h_, step.t, direction, output),
                                {w.hr, output, hidden, hidden});
        }
        step.product_rows = active;
      }
      launch(kernels.step_backward, step.rows * packs(hidden), step);
    }
  }

  void write_grad_x() {
    const int64_t features = p.input_size;
    const bool direct = is_compact(p.grad_x, features);
    const Matrix grad{direct ? p.grad_x.data : allocate(s.rows() * features * element), s.rows(),
                      features, features};
    const int64_t columns = p.directions * gate_rows();
    gemm.multiply(grad, {dx_, s.rows(), columns, columns}, input_weights());
    if (!direct) {
      launch_rows(sequence.scatter, RowsArgs{p.schedule, p.grad_x, grad.data, features});
    }
  }

  void write_grad_weights() {
    const int64_t hidden = p.hidden_size, output = p.output_size;
    const Matrix x = compact_x();
    void* h = allocate(s.rows() * p.directions * output * element);
    launch_rows(sequence.previous, PreviousArgs{p, h}, p.directions);
    for (int d = 0; d < p.directions; ++d) {
      const Weights& grad = p.grad_weights[d];
      const Matrix dx = of_direction(dx_, d, gate_rows());
      const Matrix dr = of_direction(dr_, d, gate_rows());
      gemm.multiply({grad.ih, gate_rows(), p.input_size, p.input_size}, dx.transposed(), x);
      gemm.multiply({grad.hh, gate_rows(), output, output}, dr.transposed(),
                    of_direction(h, d, output));
      if (grad.bias_ih) {
        gemm.sum_rows(grad.bias_ih, dx);
        gemm.sum_rows(grad.bias_hh, dr);
      }
      if (projected()) {
        gemm.multiply({grad.hr, output, hidden, hidden},
                      of_direction(grad_h_, d, output).transposed(),
                      of_direction(p.hidden, d, hidden));
      }
    }
  }

  void* dx_ = nullptr;
  void* dr_ = nullptr;
  void* grad_h_ = nullptr;
};

}  // namespace

void backward(const ScanParams& params, const Call& call) { Backward(params, call).run(); }

}  // namespace fastrnn::cuda
