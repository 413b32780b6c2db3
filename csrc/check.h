// The ops' arguments, checked, and as ScanParams: what every backend does before its kernels run.
// Errors name the argument and the shapes seen; they reach Python as RuntimeError.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <array>
#include <numeric>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "cells/cells.h"
#include "int8.h"
#include "scan.h"
#include "shape.h"

#ifndef STABLE_TORCH_ERROR_CODE_CHECK  // as PyTorch 2.11 calls it
#define STABLE_TORCH_ERROR_CODE_CHECK TORCH_ERROR_CODE_CHECK
#endif

namespace fastrnn {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using Tensors = std::vector<Tensor>;

// The arguments that scan and scan_backward share; they live longer than the Scan made of them.
struct ScanArguments {
  const std::string& cell;
  const Tensor& x;
  const Tensors& states;
  const Tensors& weights;
  const std::optional<Tensor>& lengths;
  const std::optional<Tensor>& batch_sizes;
  const std::optional<Tensor>& resets;
  bool bidirectional, batch_first;
  const Tensors* scales = nullptr;  // of weights of int8
};

template <class... Parts>
[[noreturn]] void fail(const Parts&... parts) {
  std::ostringstream message;
  (message << ... << parts);
  throw std::runtime_error(message.str());
}

// STD_TORCH_CHECK would put the source's path in front of the message.
#define FRNN_CHECK(condition, ...) \
  if (!(condition)) [[unlikely]]   \
  fastrnn::fail(__VA_ARGS__)

template <class Sizes>
std::string describe(const Sizes& sizes) {
  std::string text = "[";
  for (int64_t size : sizes) text += (text.size() > 1 ? ", " : "") + std::to_string(size);
  return text + "]";
}

// Where a tensor lies. Each question that is asked of a tensor is a call of the C shim, and a call
// of the op has a dozen tensors.
struct View {
  explicit View(const Tensor& t) {
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_dim(t.get(), &dims));
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_sizes(t.get(), &sizes));
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_strides(t.get(), &strides));
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_data_ptr(t.get(), &data));
  }

  bool has(const Shape& shape) const {
    return std::equal(sizes, sizes + dims, shape.begin(), shape.end());
  }
  // Whether the last dimensions, as many as are said, are contiguous.
  bool is_contiguous(int64_t last) const {
    int64_t expected = 1;
    for (int64_t i = dims; i-- > std::max<int64_t>(0, dims - last); expected *= sizes[i]) {
      if (sizes[i] > 1 && strides[i] != expected) return false;
    }
    return true;
  }

  void* data = nullptr;
  int64_t dims = 0;
  int64_t *sizes = nullptr, *strides = nullptr;
};

inline void check_shape(const Tensor& t, const View& view, const Shape& expected,
                        std::string_view name) {
  FRNN_CHECK(view.has(expected), "Expected ", name, " of shape ", describe(expected), ", got ",
             describe(t.sizes()));
}

inline Type type_of(ScalarType type) {
  switch (type) {
    case ScalarType::Float: return Type::kFloat32;
    case ScalarType::Double: return Type::kFloat64;
    case ScalarType::BFloat16: return Type::kBFloat16;
    case ScalarType::Half: return Type::kFloat16;
    default:
      FRNN_CHECK(false, "input must be float32, float64, bfloat16 or float16, got ",
                 torch::headeronly::toString(type));
  }
}

// The batch's schedule from lengths or batch sizes; see Schedule.
class ScheduleStorage {
 public:
  ScheduleStorage(int64_t steps, int64_t batch, const int64_t* lengths) {
    schedule_.steps = steps;
    schedule_.batch = batch;
    if (!lengths) return;
    order_.resize(batch);
    std::iota(order_.begin(), order_.end(), 0);
    std::stable_sort(order_.begin(), order_.end(),
                     [&](int64_t a, int64_t b) { return lengths[a] > lengths[b]; });
    for (int64_t b : order_) lengths_.push_back(lengths[b]);
    firsts_.assign(1, 0);
    for (int64_t t = 0, active = batch; t < steps; ++t) {
      while (active > 0 && lengths_[active - 1] <= t) --active;
      firsts_.push_back(firsts_.back() + active);
    }
    finish();
  }

  // Packed: batch_sizes[t] rows are active at step t, and falling batch sizes are falling lengths.
  ScheduleStorage(int64_t steps, const int64_t* batch_sizes) {
    schedule_.steps = steps;
    schedule_.batch = batch_sizes[0];
    schedule_.packed = true;
    firsts_.assign(steps + 1, 0);
    std::partial_sum(batch_sizes, batch_sizes + steps, firsts_.begin() + 1);
    lengths_.resize(schedule_.batch);
    for (int64_t t = 0; t < steps; ++t) {
      for (int64_t b = t + 1 < steps ? batch_sizes[t + 1] : 0; b < batch_sizes[t]; ++b) {
        lengths_[b] = t + 1;
      }
    }
    finish();
  }

  ScheduleStorage(ScheduleStorage&&) = default;

  const Schedule& get() const { return schedule_; }

 private:
  void finish() {
    schedule_.firsts = firsts_.data();
    schedule_.lengths = lengths_.data();
    schedule_.order = order_.empty() ? nullptr : order_.data();
  }

  Schedule schedule_;
  std::vector<int64_t> firsts_, lengths_, order_;
};

// One call: ScanParams and all that they point to.
class Scan {
 public:
  explicit Scan(const ScanArguments& args) : args_(args) {
    check_input();
    check_weights();
    check_states();
    check_resets();
  }

  ScanParams params;

  const CellLayout& cell() const { return kCells[params.cell].layout; }
  bool empty() const { return params.schedule.batch == 0; }
  ScalarType type() const { return type_; }
  ScalarType compute_type() const {
    return type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  }

  // The shape of a sequence with as many rows as x.
  Shape sequence_shape(int64_t features) const {
    const Tensor& x = args_.x;
    return x.dim() == 2 ? Shape{x.size(0), features} : Shape{x.size(0), x.size(1), features};
  }
  Shape state_shape(int state) const {
    const int64_t size = state ? params.hidden_size : params.output_size;
    const int64_t batch = params.schedule.batch;
    return one_step_ ? Shape{batch, size} : Shape{params.directions, batch, size};
  }
  // Of a buffer that only backward reads: [rows of x, D, features].
  Shape saved_shape() const {
    return {args_.x.numel() / params.input_size, params.directions,
            cell().saved * params.hidden_size};
  }
  // The weights of a direction, in their order.
  struct WeightKind {
    void* Weights::* slot;
    const char* name;
    Shape shape;
    bool given;
    void* Weights::* scale = nullptr;  // of a matrix
  };
  std::array<WeightKind, 6> weight_kinds() const {
    const int64_t hidden = params.hidden_size, output = params.output_size;
    const int64_t x_rows = cell().x_blocks * hidden, h_rows = cell().h_blocks * hidden;
    return {
        {{&Weights::ih, "weight_ih", {x_rows, params.input_size}, true, &Weights::ih_scale},
         {&Weights::hh, "weight_hh", {h_rows, output}, true, &Weights::hh_scale},
         {&Weights::bias_ih, "bias_ih", {x_rows}, bias_},
         {&Weights::bias_hh, "bias_hh", {h_rows}, bias_},
         {&Weights::hr, "weight_hr", {output, hidden}, cell().projected, &Weights::hr_scale},
         {&Weights::peephole, "weight_peephole", {cell().weights * hidden}, cell().weights > 0}}};
  }

  // By the C shim: through the dispatcher it takes three times as long, 1.5 us.
  Tensor empty_tensor(const Shape& shape, ScalarType type) const {
    int64_t strides[Shape::kMaxDims], stride = 1;
    for (size_t i = shape.size(); i-- > 0; stride *= std::max<int64_t>(shape[i], 1)) {
      strides[i] = stride;
    }
    AtenTensorHandle handle = nullptr;
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(int64_t(shape.size()), shape.data(),
                                                           strides, code_of(type), device_type_,
                                                           device_index_, &handle));
    return Tensor(handle);
  }
  Tensor zeros_tensor(const Shape& shape, ScalarType type) const {
    return torch::stable::new_zeros(args_.x, {shape.data(), shape.size()}, type);
  }
  // Padding is never written, so it must start as zeros.
  Tensor sequence_tensor(const Shape& shape, ScalarType type) const {
    return args_.lengths ? zeros_tensor(shape, type) : empty_tensor(shape, type);
  }

  // A tensor of the given shape and type on x's device, its last dimensions contiguous: by default
  // its features. It lives as long as the scan and the tensor.
  View hold(const Tensor& t, const Shape& shape, ScalarType type, std::string_view name,
            int64_t contiguous = 1) {
    const View view(t);
    check_shape(t, view, shape, name);
    int32_t found = 0;
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(t.get(), &found));
    FRNN_CHECK(found == code_of(type), "Input and ", name,
               " tensors are not the same dtype, expected ", torch::headeronly::toString(type),
               ", got ", torch::headeronly::toString(t.scalar_type()));
    check_device(t, name);
    if (view.is_contiguous(contiguous)) return view;
    return View(held_.emplace_back(torch::stable::contiguous(t)));
  }
  void* hold_contiguous(const Tensor& t, const Shape& shape, std::string_view name) {
    return hold(t, shape, type(), name, Shape::kMaxDims).data;
  }

  // The view of a tensor that holds one row of features for each row of x.
  Sequence sequence(const View& view) const {
    if (args_.batch_sizes || one_step_) return {view.data, view.strides[0], view.strides[0]};
    const int64_t *step = view.strides + args_.batch_first,
                  *row = view.strides + !args_.batch_first;
    return {view.data, *step, *row};
  }
  State state(const View& view) const {
    return one_step_ ? State{view.data, 0, view.strides[0]}
                     : State{view.data, view.strides[0], view.strides[1]};
  }

 private:
  // A type as the C shim knows it.
  static int32_t code_of(ScalarType type) {
    return torch::stable::detail::to<int32_t>(torch::stable::detail::from(type));
  }

  void check_device(const Tensor& t, std::string_view name) const {
    int32_t type = 0, index = 0;
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(t.get(), &type));
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(t.get(), &index));
    FRNN_CHECK(type == device_type_ && index == device_index_, "Input and ", name,
               " tensors are not at the same device");
  }

  // The forms of the cell that the call names: the entries of kCells from `first` to `end`.
  struct Forms {
    int first = 0, end = 0;
  };
  Forms find_forms() const {
    Forms forms;
    for (int i = 0; i < int(std::size(kCells)); ++i) {
      if (args_.cell != kCells[i].name) continue;
      if (forms.end == 0) forms.first = i;
      forms.end = i + 1;
    }
    if (forms.end > 0) return forms;
    std::string known;
    std::string_view last;
    for (const NamedLayout& cell : kCells) {
      if (cell.name != last) known.append(known.empty() ? "" : ", ").append(cell.name);
      last = cell.name;
    }
    FRNN_CHECK(false, "Unknown cell '", args_.cell, "'; there are ", known);
  }

  void check_input() {
    const Tensor& x = args_.x;
    type_ = x.scalar_type();
    params.type = type_of(type_);
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(x.get(), &device_type_));
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(x.get(), &device_index_));
    one_step_ = x.dim() == 2 && !args_.batch_sizes;
    const int64_t dims = args_.batch_sizes ? 2 : 3;
    FRNN_CHECK(one_step_ || x.dim() == dims, "input must have ", dims, " dimensions, got ",
               x.dim());
    FRNN_CHECK(!(one_step_ && args_.bidirectional), "a single step has one direction");
    params.directions = args_.bidirectional ? 2 : 1;
    params.input_size = x.size(x.dim() - 1);
    FRNN_CHECK(params.input_size > 0, "input has no features, its shape is ", describe(x.sizes()));
    make_schedule();
    params.schedule = schedule_->get();
    params.x = sequence(hold(x, sequence_shape(params.input_size), type(), "input"));
  }

  void make_schedule() {
    const Tensor& x = args_.x;
    const int64_t steps = one_step_ ? 1 : x.size(args_.batch_first ? 1 : 0);
    const int64_t batch = one_step_ ? x.size(0) : x.size(args_.batch_first ? 0 : 1);
    FRNN_CHECK(!(args_.lengths && args_.batch_sizes), "lengths and batch_sizes exclude each other");
    if (args_.batch_sizes) {
      const Tensor sizes = integers(*args_.batch_sizes, -1, "batch_sizes");
      const int64_t* data = sizes.const_data_ptr<int64_t>();
      const int64_t count = sizes.numel();
      int64_t total = 0;
      FRNN_CHECK(count > 0, "Expected sequence length to be larger than 0 in RNN");
      for (int64_t t = 0; t < count; ++t) {
        FRNN_CHECK(data[t] > 0 && (t == 0 || data[t] <= data[t - 1]),
                   "batch_sizes must be positive and must not grow, got ", data[t], " at step ", t);
        FRNN_CHECK(!__builtin_add_overflow(total, data[t], &total), "batch_sizes overflow");
      }
      FRNN_CHECK(total == x.size(0), "batch_sizes sum up to ", total, ", but input has ", x.size(0),
                 " rows");
      schedule_.emplace(count, data);
      return;
    }
    FRNN_CHECK(steps > 0, "Expected sequence length to be larger than 0 in RNN");
    if (!args_.lengths) {
      schedule_.emplace(steps, batch, nullptr);
      return;
    }
    const Tensor lengths = integers(*args_.lengths, batch, "lengths");
    const int64_t* data = lengths.const_data_ptr<int64_t>();
    for (int64_t b = 0; b < batch; ++b) {
      FRNN_CHECK(0 <= data[b] && data[b] <= steps, "lengths must be within [0, ", steps, "], got ",
                 data[b], " for row ", b);
    }
    schedule_.emplace(steps, batch, data);
  }

  static Tensor integers(const Tensor& t, int64_t size, std::string_view name) {
    FRNN_CHECK(t.scalar_type() == ScalarType::Long && t.dim() == 1 && t.is_cpu(), name,
               " must be a 1-D int64 tensor on the CPU");
    FRNN_CHECK(size < 0 || t.size(0) == size, "Expected ", name, " of shape [", size, "], got [",
               t.size(0), "]");
    return torch::stable::contiguous(t);
  }

  // The number of weights says whether there are biases and a projection, and the rows of weight_ih
  // whether x itself goes into a gate; both together choose the cell's form.
  void check_weights() {
    const Forms forms = find_forms();
    const CellLayout& any = kCells[forms.first].layout;
    const size_t count = args_.weights.size() / params.directions;
    const size_t own = any.weights ? 1 : 0;  // peepholes
    FRNN_CHECK(
        count * params.directions == args_.weights.size() && 2 + own <= count && count <= 5 + own,
        "Expected ", 2 + own, " to ", 5 + own, " weights per direction, got ", args_.weights.size(),
        " for ", params.directions, " directions");
    bias_ = count - own >= 4;
    const bool projected = (count - own) % 2 == 1;
    const Tensor& hh = args_.weights[1];
    if (args_.scales) {
      find_sizes_by_scales(any, projected);
    } else {
      FRNN_CHECK(hh.dim() == 2 && hh.numel() > 0 && hh.size(0) % any.h_blocks == 0,
                 "weight_hh must be of shape [", any.h_blocks, " * hidden_size, hidden_size], got ",
                 describe(hh.sizes()));
      params.hidden_size = hh.size(0) / any.h_blocks;
      params.output_size = projected ? hh.size(1) : params.hidden_size;
    }
    choose_form(forms, projected);
    const int64_t ih_rows = cell().x_blocks * params.hidden_size;
    const bool without_x = cell().takes_x() && weight_ih_rows() == ih_rows;
    FRNN_CHECK(!without_x || params.input_size == params.hidden_size, "cell '", args_.cell,
               "' takes x itself where weight_ih has ", ih_rows,
               " rows, and then needs as many inputs as hidden units, got ", params.input_size,
               " and ", params.hidden_size);
    if (args_.scales) return take_int8_weights();
    const Tensor* weight = args_.weights.data();
    for (int64_t d = 0; d < params.directions; ++d) {
      for (const auto& [slot, name, shape, given, _] : weight_kinds()) {
        if (given) params.weights[d].*slot = hold_contiguous(*weight++, shape, name);
      }
    }
  }

  // The scales have a number for each row of the matrices, which themselves are padded.
  void find_sizes_by_scales(const CellLayout& any, bool projected) {
    const size_t count = projected ? 3 : 2;
    const Tensors& scales = *args_.scales;
    FRNN_CHECK(scales.size() == count * params.directions, "Expected ", count,
               " scales per direction, got ", scales.size(), " for ", params.directions,
               " directions");
    const int64_t rows = scales[1].numel();
    FRNN_CHECK(rows > 0 && rows % any.h_blocks == 0, "the scale of weight_hh must be of shape [",
               any.h_blocks, " * hidden_size], got ", describe(scales[1].sizes()));
    params.hidden_size = rows / any.h_blocks;
    params.output_size = projected ? scales[2].numel() : params.hidden_size;
    FRNN_CHECK(params.output_size > 0, "the scale of weight_hr is empty");
  }

  void take_int8_weights() {
    const Tensor *weight = args_.weights.data(), *scale = args_.scales->data();
    for (int64_t d = 0; d < params.directions; ++d) {
      Weights& own = params.weights[d];
      for (const auto& [slot, name, shape, given, scale_slot] : weight_kinds()) {
        if (!given) continue;
        if (!scale_slot) {  // cells read peepholes as they read x
          const ScalarType type = slot == &Weights::peephole ? this->type() : ScalarType::Float;
          own.*slot = hold(*weight++, shape, type, name, Shape::kMaxDims).data;
          continue;
        }
        const bool projects = slot == &Weights::hr;
        const int64_t units = projects ? params.output_size : params.hidden_size;
        const int64_t rows = shape[0], depth = shape[1];
        FRNN_CHECK(depth <= kInt8Longest, name, " of int8 can have at most ", kInt8Longest,
                   " columns, got ", depth);
        const Shape packed{int8_blocks(units), rows / units, int8_gate_bytes(depth)};
        own.*slot = hold(*weight++, packed, ScalarType::Char, name, Shape::kMaxDims).data;
        own.*scale_slot = hold(*scale++, {rows}, ScalarType::Float, "scale", 1).data;
      }
    }
  }

  // As many as there are or, of int8, were before they were padded.
  int64_t weight_ih_rows() const {
    const Tensor& ih = args_.weights[0];
    if (args_.scales) return (*args_.scales)[0].numel();
    return ih.dim() == 2 ? ih.size(0) : 0;
  }

  void choose_form(Forms forms, bool projected) {
    const int64_t rows = weight_ih_rows();
    int best = -1;
    for (int i = forms.first; i < forms.end; ++i) {
      const CellLayout& form = kCells[i].layout;
      if (form.projected != projected) continue;
      if (best < 0 || form.x_blocks * params.hidden_size == rows) best = i;
    }
    FRNN_CHECK(best >= 0, "cell '", args_.cell, "' does not support a projection, which ",
               args_.weights.size() / params.directions,
               " weights per direction would have; without one there are 2, or 4 with biases");
    params.cell = best;
  }

  void check_states() {
    if (args_.states.empty()) return;
    FRNN_CHECK(args_.states.size() == size_t(cell().states), "cell '", args_.cell, "' has ",
               cell().states, " states, got ", args_.states.size());
    for (int k = 0; k < cell().states; ++k) {
      params.initial[k] = state(hold(args_.states[k], state_shape(k), type(), "hidden state"));
    }
  }

  void check_resets() {
    if (!args_.resets) return;
    const Tensor& x = args_.x;
    const Shape shape = x.dim() == 2 ? Shape{x.size(0)} : Shape{x.size(0), x.size(1)};
    const Tensor& resets = *args_.resets;
    const View view(resets);
    check_shape(resets, view, shape, "resets");
    FRNN_CHECK(resets.scalar_type() == ScalarType::Bool, "resets must be a bool tensor");
    check_device(resets, "resets");
    params.resets = sequence(view);
  }

  const ScanArguments args_;
  ScalarType type_ = ScalarType::Float;
  std::optional<ScheduleStorage> schedule_;
  Tensors held_;  // what params point into, and the arguments do not hold
  int32_t device_type_ = 0, device_index_ = 0;
  bool one_step_ = false, bias_ = false;
};

}  // namespace fastrnn
