// The ops, for any backend: check, allocate, run.
//
// A backend is a class that is made of the input and of allow_tf32, and has forward and backward,
// which take ScanParams. It registers scan<Backend> and scan_backward<Backend>.
#pragma once

#include "check.h"

namespace fastrnn {

// y, the last states and, if wanted, the states 1 and on of every step: where forward writes them.
inline Tensors make_outputs(Scan& scan, bool all_states) {
  ScanParams& p = scan.params;
  Tensors out;
  out.reserve(2 * scan.cell().states + 1);
  auto add = [&](Tensor t) { return View(out.emplace_back(std::move(t))); };
  const Shape y = scan.sequence_shape(p.directions * p.output_size);
  p.y = scan.sequence(add(scan.sequence_tensor(y, scan.type())));
  for (int k = 0; k < scan.cell().states; ++k) {
    p.last[k] = scan.state(add(scan.empty_tensor(scan.state_shape(k), scan.type())));
  }
  if (!all_states) return out;
  const Shape steps = scan.sequence_shape(p.directions * p.hidden_size);
  for (int k = 1; k < scan.cell().states; ++k) {
    p.steps[k] = scan.sequence(add(scan.sequence_tensor(steps, scan.compute_type())));
  }
  return out;
}

// Returns y, the last states, and, to be saved for backward, the states 1 and on of every step and
// the cell's saved values.
template <class Backend>
Tensors scan(const std::string& cell, const Tensor& x, const Tensors& states,
             const Tensors& weights, const std::optional<Tensor>& lengths,
             const std::optional<Tensor>& batch_sizes, const std::optional<Tensor>& resets,
             bool bidirectional, bool batch_first, bool save, bool allow_tf32) {
  Backend backend(x, allow_tf32);
  Scan scan({cell, x, states, weights, lengths, batch_sizes, resets, bidirectional, batch_first});
  ScanParams& p = scan.params;
  Tensors out = make_outputs(scan, save);
  if (save) {
    p.saved = View(out.emplace_back(scan.empty_tensor(scan.saved_shape(), scan.type()))).data;
  }
  if (!scan.empty()) backend.forward(p);
  return out;
}

// The same with weights of int8: `scales` has those of each direction's matrices in their order.
// Returns y, the last states, and with all_states the states 1 and on of every step.
template <class Backend>
Tensors scan_int8(const std::string& cell, const Tensor& x, const Tensors& states,
                  const Tensors& weights, const Tensors& scales,
                  const std::optional<Tensor>& lengths, const std::optional<Tensor>& batch_sizes,
                  const std::optional<Tensor>& resets, bool bidirectional, bool batch_first,
                  bool all_states) {
  Backend backend(x, false);
  FRNN_CHECK(x.scalar_type() != ScalarType::Double,
             "weights of int8 take input of float32, bfloat16 or float16, got float64");
  Scan scan({cell, x, states, weights, lengths, batch_sizes, resets, bidirectional, batch_first,
             &scales});
  Tensors out = make_outputs(scan, all_states);
  if (!scan.empty()) backend.forward_int8(scan.params);
  return out;
}

// grads: of y, the last states, and the states 1 and on of every step; outputs: all that scan
// returned with save but the last states. Returns the gradients needed, in the order of x, states,
// weights.
template <class Backend>
Tensors scan_backward(const std::vector<std::optional<Tensor>>& grads, const std::string& cell,
                      const Tensor& x, const Tensors& states, const Tensors& weights,
                      const std::optional<Tensor>& lengths,
                      const std::optional<Tensor>& batch_sizes, const std::optional<Tensor>& resets,
                      bool bidirectional, bool batch_first, const Tensors& outputs, bool needs_x,
                      bool needs_states, bool needs_weights, bool allow_tf32) {
  Backend backend(x, allow_tf32);
  Scan scan({cell, x, states, weights, lengths, batch_sizes, resets, bidirectional, batch_first});
  ScanParams& p = scan.params;
  const int count = scan.cell().states;
  FRNN_CHECK(outputs.size() == size_t(count + 1), "Expected ", count + 1, " saved outputs, got ",
             outputs.size());
  FRNN_CHECK(grads.size() == size_t(2 * count), "Expected ", 2 * count, " gradients, got ",
             grads.size());

  const ScalarType type = scan.type(), compute = scan.compute_type();
  const Shape y = scan.sequence_shape(p.directions * p.output_size);
  const Shape steps = scan.sequence_shape(p.directions * p.hidden_size);
  p.y = scan.sequence(scan.hold(outputs[0], y, type, "y"));
  if (grads[0]) p.grad_y = scan.sequence(scan.hold(*grads[0], y, type, "grad of output"));
  for (int k = 0; k < count; ++k) {
    if (grads[1 + k]) {
      p.grad_last[k] =
          scan.state(scan.hold(*grads[1 + k], scan.state_shape(k), type, "grad of hidden state"));
    }
    if (k == 0) continue;
    p.steps[k] = scan.sequence(scan.hold(outputs[k], steps, compute, "states"));
    if (grads[count + k]) {
      p.grad_steps[k] =
          scan.sequence(scan.hold(*grads[count + k], steps, compute, "grad of states"));
    }
  }
  p.saved = scan.hold_contiguous(outputs[count], scan.saved_shape(), "saved values");

  Tensors out;
  out.reserve(1 + count + weights.size());
  auto add = [&](Tensor t) { return View(out.emplace_back(std::move(t))); };
  if (needs_x)
    p.grad_x = scan.sequence(add(scan.sequence_tensor(scan.sequence_shape(p.input_size), type)));
  if (needs_states) {
    for (int k = 0; k < count; ++k) {
      p.grad_initial[k] = scan.state(add(scan.empty_tensor(scan.state_shape(k), type)));
    }
  }
  if (needs_weights) {
    for (int64_t d = 0; d < p.directions; ++d) {
      for (const auto& [slot, name, shape, given, _] : scan.weight_kinds()) {
        if (!given) continue;
        // An empty batch has no gradient to speak of, and no kernel that writes it.
        Tensor grad =
            scan.empty() ? scan.zeros_tensor(shape, type) : scan.empty_tensor(shape, type);
        p.grad_weights[d].*slot = add(std::move(grad)).data;
      }
    }
  }
  if (!scan.empty()) backend.backward(p);
  return out;
}

// A line for each form of each cell: its name; blocks of weight_ih and of weight_hh; states; saved
// values; the units' own weights; whether h is projected, and whether x itself goes into a gate.
inline std::string cells() {
  std::ostringstream lines;
  for (const auto& [name, cell] : kCells) {
    lines << name << ' ' << cell.x_blocks << ' ' << cell.h_blocks << ' ' << cell.states << ' '
          << cell.saved << ' ' << cell.weights << ' ' << cell.projected << ' ' << cell.takes_x()
          << '\n';
  }
  return lines.str();
}

}  // namespace fastrnn
