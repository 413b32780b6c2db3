// The two ops, for any backend: check, allocate, run. A backend registers them with its own run.
#pragma once

#include "check.h"

namespace fastrnn {

// Returns y, the last states, and, to be saved for backward: the states 1 and on of every step, the
// cell's saved values, and h before the projection if there is one.
template <class Run>
Tensors scan(ScanArguments args, bool save, Run run) {
  Scan scan(std::move(args));
  ScanParams& p = scan.params;
  Tensors out;
  auto add = [&](Tensor t) -> const Tensor& { return out.emplace_back(std::move(t)); };

  const Shape y = scan.sequence_shape(p.directions * p.output_size);
  p.y = scan.sequence(add(scan.sequence_tensor(y, scan.type())));
  for (int k = 0; k < scan.info().states; ++k) {
    p.last[k] = scan.state(add(scan.empty_tensor(scan.state_shape(k), scan.type())));
  }
  if (save) {
    const Shape steps = scan.sequence_shape(p.directions * p.hidden_size);
    for (int k = 1; k < scan.info().states; ++k) {
      p.steps[k] = scan.sequence(add(scan.sequence_tensor(steps, scan.compute_type())));
    }
    const Shape saved = scan.saved_shape(scan.info().saved * p.hidden_size);
    p.saved = add(scan.empty_tensor(saved, scan.type())).data_ptr();
    if (scan.projected()) {
      p.hidden = add(scan.empty_tensor(scan.saved_shape(p.hidden_size), scan.type())).data_ptr();
    }
  }
  if (!scan.empty()) run(p);
  return out;
}

// A line for each cell: name, gates, states, saved values.
inline std::string cells() {
  std::string lines;
  for (const CellInfo& info : kCellInfos) {
    lines += std::string(info.name) + " " + std::to_string(info.gates) + " " +
             std::to_string(info.states) + " " + std::to_string(info.saved) + "\n";
  }
  return lines;
}

struct BackwardNeeds {
  bool x, states, weights;
};

// grads: of y, the last states, and the states 1 and on of every step; outputs: all that scan
// returned with save but the last states. Returns the gradients needed, in the order of x, states,
// weights.
template <class Run>
Tensors scan_backward(ScanArguments args, const std::vector<std::optional<Tensor>>& grads,
                      const Tensors& outputs, BackwardNeeds needs, Run run) {
  Scan scan(std::move(args));
  ScanParams& p = scan.params;
  const int states = scan.info().states;
  FRNN_CHECK(outputs.size() == size_t(states + 1 + scan.projected()), "Expected ",
             states + 1 + scan.projected(), " saved outputs, got ", outputs.size());
  FRNN_CHECK(grads.size() == size_t(2 * states), "Expected ", 2 * states, " gradients, got ",
             grads.size());

  const ScalarType type = scan.type(), compute = scan.compute_type();
  const Shape y = scan.sequence_shape(p.directions * p.output_size);
  const Shape steps = scan.sequence_shape(p.directions * p.hidden_size);
  p.y = scan.sequence(scan.hold(outputs[0], y, type, "y"));
  if (grads[0]) p.grad_y = scan.sequence(scan.hold(*grads[0], y, type, "grad of output"));
  for (int k = 0; k < states; ++k) {
    if (grads[1 + k]) {
      p.grad_last[k] =
          scan.state(scan.hold(*grads[1 + k], scan.state_shape(k), type, "grad of hidden state"));
    }
    if (k == 0) continue;
    p.steps[k] = scan.sequence(scan.hold(outputs[k], steps, compute, "states"));
    if (grads[states + k]) {
      p.grad_steps[k] =
          scan.sequence(scan.hold(*grads[states + k], steps, compute, "grad of states"));
    }
  }
  const Shape saved = scan.saved_shape(scan.info().saved * p.hidden_size);
  p.saved = scan.hold_contiguous(outputs[states], saved, "saved values").data_ptr();
  if (scan.projected()) {
    const Shape hidden = scan.saved_shape(p.hidden_size);
    p.hidden = scan.hold_contiguous(outputs[states + 1], hidden, "hidden").data_ptr();
  }

  Tensors out;
  auto add = [&](Tensor t) -> const Tensor& { return out.emplace_back(std::move(t)); };
  if (needs.x) p.grad_x = scan.sequence(add(scan.sequence_tensor(shape_of(scan.args().x), type)));
  if (needs.states) {
    for (int k = 0; k < states; ++k) {
      p.grad_initial[k] = scan.state(add(scan.empty_tensor(scan.state_shape(k), type)));
    }
  }
  if (needs.weights) {
    const Tensors& weights = scan.args().weights;
    const size_t count = weights.size() / p.directions;
    for (size_t i = 0; i < weights.size(); ++i) {
      // An empty batch has no gradient to speak of, and no kernel that writes it.
      const Shape shape = shape_of(weights[i]);
      const Tensor& grad = add(scan.empty() ? torch::stable::new_zeros(weights[i], shape)
                                            : scan.empty_tensor(shape, type));
      Weights& w = p.grad_weights[i / count];
      void** const slots[] = {&w.ih, &w.hh, scan.has_bias() ? &w.bias_ih : &w.hr, &w.bias_hh,
                              &w.hr};
      *slots[i % count] = grad.data_ptr();
    }
  }
  if (!scan.empty()) run(p);
  return out;
}

}  // namespace fastrnn
