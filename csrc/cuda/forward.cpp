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
  void multiply_inputs() {
    const Matrix x = compact_x();
    const int64_t columns = p.directions * gate_rows();
    gates_ = allocate(s.rows() * columns * compute);
    gemm.multiply_to_sums({gates_, s.rows(), columns, columns}, x, input_weights().transposed());
  }

  bool run_persistent(const Plan& plan) {
    PersistentArgs args{};
    for (int d = 0; d < p.directions; ++d) args.weights[d] = p.weights[d].hh;
    args.gates = static_cast<const float*>(gates_);
    return launch_persistent(plan, args);
  }

  void run_steps(int direction) {
    const int64_t batch = s.batch, hidden = p.hidden_size, output = p.output_size;
    const Weights& w = p.weights[direction];
    Matrix h{allocate(batch * output * element), batch, output, output};
    Matrix product{allocate(batch * gate_rows() * compute), batch, gate_rows(), gate_rows()};
    StepArgs step{.p = p,
                  .direction = direction,
                  .rows = batch,
                  .product = product.data,
                  .gates = gates_,
                  .h = h.data,
                  .carry = allocate(kernels.states * batch * hidden * compute),
                  .whole = whole};
    launch(kernels.start_forward, batch * packs(std::max(hidden, output)), step);
    Matrix before_projection{}, projection{};
    if (projected()) {
      before_projection = {allocate(batch * hidden * element), batch, hidden, hidden};
      projection = {allocate(batch * output * element), batch, output, output};
      step.h = before_projection.data;
    }
    const Tensor hh = gemm.view(Matrix{w.hh, gate_rows(), output, output}.transposed());
    Tensor h_view, product_view;
    for (int64_t i = 0, active = 0; i < s.steps; ++i) {
      step.t = time_of(s, direction, i);
      step.rows = s.active(step.t);
      if (step.rows == 0) continue;
      if (step.rows != active) {
        active = h.rows = product.rows = step.rows;
        h_view = gemm.view(h);
        product_view = gemm.view_sums(product);
      }
      Gemm::multiply(product_view, h_view, hh);
      launch(kernels.step_forward, step.rows * packs(hidden), step);
      if (!projected()) continue;
      before_projection.rows = projection.rows = step.rows;
      gemm.multiply(projection, before_projection,
                    Matrix{w.hr, output, hidden, hidden}.transposed());
      launch(sequence.project, step.rows * output,
             ProjectionArgs{.p = p,
                            .direction = direction,
                            .t = step.t,
                            .rows = step.rows,
                            .product = projection.data,
                            .h = h.data});
    }
  }

  void* gates_ = nullptr;
};

}  // namespace

void forward(const ScanParams& params, const Call& call) { Forward(params, call).run(); }

}  // namespace fastrnn::cuda
