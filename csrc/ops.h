// The ops, for any backend: check, allocate, run.
//
// A backend is a class that is made of the input and of allow_tf32, and has forward and backward,
// which take ScanParams, and forward_each and backward_each, which take those of several scans. It
// registers scan<Backend>, scan_backward<Backend> and the same two of several scans.
#pragma once

#include <deque>
#include <span>

#include "check.h"

namespace fastrnn {

// The results of scans of the same shapes: for each result one tensor, in which those of all scans
// lie one behind the other along its first dimension.
class Results {
 public:
  explicit Results(size_t scans = 1) : scans_(int64_t(scans)) { tensors_.reserve(12); }

  // The results added from here on are those of scan `index`. The first one makes the tensors.
  void turn_to(size_t index) { index_ = int64_t(index), next_ = 0; }

  using Make = Tensor (Scan::*)(const Shape&, ScalarType) const;
  View add(const Scan& scan, Make make, Shape shape, ScalarType type) {
    int64_t bytes = type == ScalarType::Double ? 8 : type == ScalarType::Float ? 4 : 2;
    for (int64_t size : shape) bytes *= size;
    if (index_ == 0) tensors_.push_back((scan.*make)(shape.times(scans_), type));
    View view(tensors_[next_++]);
    view.data = static_cast<char*>(view.data) + index_ * bytes;
    return view;
  }

  Tensors tensors() && { return std::move(tensors_); }

 private:
  const int64_t scans_;
  int64_t index_ = 0;
  size_t next_ = 0;
  Tensors tensors_;
};

// y, the last states and, if wanted, the states 1 and on of every step: where forward writes them.
inline void add_outputs(Scan& scan, Results& results, bool all_states) {
  ScanParams& p = scan.params;
  const Shape y = scan.sequence_shape(p.directions * p.output_size);
  p.y = scan.sequence(results.add(scan, &Scan::sequence_tensor, y, scan.type()));
  for (int k = 0; k < scan.cell().states; ++k) {
    p.last[k] =
        scan.state(results.add(scan, &Scan::empty_tensor, scan.state_shape(k), scan.type()));
  }
  if (!all_states) return;
  const Shape steps = scan.sequence_shape(p.directions * p.hidden_size);
  for (int k = 1; k < scan.cell().states; ++k) {
    p.steps[k] =
        scan.sequence(results.add(scan, &Scan::sequence_tensor, steps, scan.compute_type()));
  }
}

// And, to be saved for backward, the cell's saved values.
inline void add_saved(Scan& scan, Results& results) {
  scan.params.saved = results.add(scan, &Scan::empty_tensor, scan.saved_shape(), scan.type()).data;
}

// Returns y, the last states, with all_states or save the states 1 and on of every step, and with
// save the cell's saved values, which backward needs.
template <class Backend>
Tensors scan(const std::string& cell, const Tensor& x, const Tensors& states,
             const Tensors& weights, const std::optional<Tensor>& lengths,
             const std::optional<Tensor>& batch_sizes, const std::optional<Tensor>& resets,
             bool bidirectional, bool batch_first, bool save, bool allow_tf32, bool all_states) {
  Backend backend(x, allow_tf32);
  Scan scan({cell, x, states, weights, lengths, batch_sizes, resets, bidirectional, batch_first});
  Results results;
  add_outputs(scan, results, save || all_states);
  if (save) add_saved(scan, results);
  if (!scan.empty()) backend.forward(scan.params);
  return std::move(results).tensors();
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
  Results results;
  add_outputs(scan, results, all_states);
  if (!scan.empty()) backend.forward_int8(scan.params);
  return std::move(results).tensors();
}

// What scan_backward takes beside scan's arguments. grads: of y, the last states, and the states 1
// and on of every step; outputs: all that scan returned with save but the last states.
struct BackwardArguments {
  std::span<const std::optional<Tensor>> grads;
  std::span<const Tensor> outputs;
  bool needs_x, needs_states, needs_weights;
};

// Lets backward read these, and write the gradients needed, in the order of x, states, weights.
inline void add_gradients(Scan& scan, Results& results, const BackwardArguments& args) {
  ScanParams& p = scan.params;
  const auto& [grads, outputs, needs_x, needs_states, needs_weights] = args;
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

  if (needs_x) {
    const Shape x = scan.sequence_shape(p.input_size);
    p.grad_x = scan.sequence(results.add(scan, &Scan::sequence_tensor, x, type));
  }
  for (int k = 0; needs_states && k < count; ++k) {
    p.grad_initial[k] =
        scan.state(results.add(scan, &Scan::empty_tensor, scan.state_shape(k), type));
  }
  // An empty batch has no gradient to speak of, and no kernel that writes it.
  const auto make = scan.empty() ? &Scan::zeros_tensor : &Scan::empty_tensor;
  for (int64_t d = 0; needs_weights && d < p.directions; ++d) {
    for (const auto& [slot, name, shape, given, _] : scan.weight_kinds()) {
      if (given) p.grad_weights[d].*slot = results.add(scan, make, shape, type).data;
    }
  }
}

// Returns the gradients needed, in the order of x, states, weights.
template <class Backend>
Tensors scan_backward(const std::vector<std::optional<Tensor>>& grads, const std::string& cell,
                      const Tensor& x, const Tensors& states, const Tensors& weights,
                      const std::optional<Tensor>& lengths,
                      const std::optional<Tensor>& batch_sizes, const std::optional<Tensor>& resets,
                      bool bidirectional, bool batch_first, const Tensors& outputs, bool needs_x,
                      bool needs_states, bool needs_weights, bool allow_tf32) {
  Backend backend(x, allow_tf32);
  Scan scan({cell, x, states, weights, lengths, batch_sizes, resets, bidirectional, batch_first});
  Results results;
  add_gradients(scan, results, {grads, outputs, needs_x, needs_states, needs_weights});
  if (!scan.empty()) backend.backward(scan.params);
  return std::move(results).tensors();
}

using Optionals = std::vector<std::optional<Tensor>>;

// The arguments of several scans of the same shapes, each with weights of its own. The lists have
// for each scan in turn as many tensors as scan takes.
class Scans {
 public:
  Scans(const std::string& cell, const Tensors& x, const Tensors& states, const Tensors& weights,
        const Optionals& lengths, const Optionals& batch_sizes, const Optionals& resets,
        bool bidirectional, bool batch_first) {
    const size_t count = x.size();
    FRNN_CHECK(count > 0, "there is no input");
    for (const Optionals* list : {&lengths, &batch_sizes, &resets}) {
      FRNN_CHECK(list->size() == count,
                 "Expected as many lengths, batch_sizes and resets as inputs, ", count, ", got ",
                 list->size());
    }
    states_.reserve(count), weights_.reserve(count);  // scans refer to them
    for (size_t i = 0; i < count; ++i) {
      states_.push_back(listed(part(states, i, count)));
      weights_.push_back(listed(part(weights, i, count)));
      Scan& scan =
          scans_.emplace_back(ScanArguments{cell, x[i], states_[i], weights_[i], lengths[i],
                                            batch_sizes[i], resets[i], bidirectional, batch_first});
      const ScanParams &p = scan.params, &first = scans_[0].params;
      const bool same = x[i].sizes().equals(x[0].sizes()) && scan.type() == scans_[0].type() &&
                        p.cell == first.cell && p.hidden_size == first.hidden_size &&
                        p.output_size == first.output_size &&
                        p.schedule.batch == first.schedule.batch &&
                        lengths[i].has_value() == lengths[0].has_value();
      FRNN_CHECK(same, "inputs and weights of all scans must have the same shapes and types");
      params_.push_back(&scan.params);
    }
  }

  // The tensors of scan i in a list of all.
  template <class T>
  static std::span<const T> part(const std::vector<T>& list, size_t i, size_t count) {
    FRNN_CHECK(list.size() % count == 0, "Expected as many tensors for each of ", count,
               " inputs, got ", list.size());
    const size_t each = list.size() / count;
    return std::span(list).subspan(i * each, each);
  }

  size_t size() const { return scans_.size(); }
  bool empty() const { return scans_[0].empty(); }
  Scan& operator[](size_t i) { return scans_[i]; }
  const std::vector<const ScanParams*>& params() const { return params_; }

 private:
  static Tensors listed(std::span<const Tensor> part) { return {part.begin(), part.end()}; }

  std::vector<Tensors> states_, weights_;
  std::deque<Scan> scans_;
  std::vector<const ScanParams*> params_;
};

// Several calls of scan at once. Returns what scan does, with the results of all one behind the
// other along the first dimension of each tensor.
template <class Backend>
Tensors scan_each(const std::string& cell, const Tensors& x, const Tensors& states,
                  const Tensors& weights, const Optionals& lengths, const Optionals& batch_sizes,
                  const Optionals& resets, bool bidirectional, bool batch_first, bool save,
                  bool allow_tf32, bool all_states) {
  Scans scans(cell, x, states, weights, lengths, batch_sizes, resets, bidirectional, batch_first);
  Backend backend(x[0], allow_tf32);
  Results results(scans.size());
  for (size_t i = 0; i < scans.size(); ++i) {
    results.turn_to(i);
    add_outputs(scans[i], results, save || all_states);
    if (save) add_saved(scans[i], results);
  }
  if (!scans.empty()) backend.forward_each(scans.params());
  return std::move(results).tensors();
}

// Several calls of scan_backward at once.
template <class Backend>
Tensors scan_each_backward(const Optionals& grads, const std::string& cell, const Tensors& x,
                           const Tensors& states, const Tensors& weights, const Optionals& lengths,
                           const Optionals& batch_sizes, const Optionals& resets,
                           bool bidirectional, bool batch_first, const Tensors& outputs,
                           bool needs_x, bool needs_states, bool needs_weights, bool allow_tf32) {
  Scans scans(cell, x, states, weights, lengths, batch_sizes, resets, bidirectional, batch_first);
  Backend backend(x[0], allow_tf32);
  const size_t count = scans.size();
  Results results(count);
  for (size_t i = 0; i < count; ++i) {
    results.turn_to(i);
    add_gradients(scans[i], results,
                  {Scans::part(grads, i, count), Scans::part(outputs, i, count), needs_x,
                   needs_states, needs_weights});
  }
  if (!scans.empty()) backend.backward_each(scans.params());
  return std::move(results).tensors();
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
