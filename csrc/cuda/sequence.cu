#include "sequence.h"

namespace fastrnn::cuda {

__global__ void upload(const __grid_constant__ UploadArgs a) {
  const int64_t i = thread_index();
  if (i < a.count) a.to[i] = a.values[i];
}

// A block copies a row: where the row lies is worked out once, and not for each value.
template <class T, bool kGather>
__global__ void copy_rows(const __grid_constant__ RowsArgs a) {
  const Schedule& s = a.schedule;
  const int64_t t = blockIdx.x / s.batch, row = blockIdx.x % s.batch;
  if (!s.is_active(t, row)) return;
  T* outer = static_cast<T*>(a.sequence.data) + s.offset(a.sequence, t, row);
  T* inner = static_cast<T*>(a.rows) + (s.first(t) + row) * a.features;
  for (int64_t i = threadIdx.x; i < a.features; i += blockDim.x) {
    if constexpr (kGather) {
      inner[i] = outer[i];
    } else {
      outer[i] = inner[i];
    }
  }
}

template <class T>
__global__ void previous_h(const __grid_constant__ PreviousArgs a) {
  const ScanParams& p = a.p;
  const Schedule& s = p.schedule;
  const int64_t t = blockIdx.x / s.batch, row = blockIdx.x % s.batch;
  if (!s.is_active(t, row)) return;
  const int direction = int(blockIdx.y);
  const T* from = nullptr;
  if (!p.starts_over(direction, t, row)) {
    if (t != s.first_time(direction, row)) {
      from = p.at<const T>(p.y, Schedule::before(direction, t), row) + direction * p.output_size;
    } else if (p.initial[0].data) {
      from = p.at<const T>(p.initial[0], direction, row);
    }
  }
  T* to = static_cast<T*>(a.to) + p.active_row(t, row, direction) * p.output_size;
  for (int64_t i = threadIdx.x; i < p.output_size; i += blockDim.x) to[i] = from ? from[i] : T{};
}

template <class T>
__global__ void add_grad_x(const __grid_constant__ GradXArgs a) {
  using C = Compute<T>;
  const ScanParams& p = a.p;
  const Schedule& s = p.schedule;
  const int64_t t = blockIdx.x / s.batch, row = blockIdx.x % s.batch;
  if (!s.is_active(t, row)) return;
  T* to = p.at<T>(p.grad_x, t, row);
  const int64_t place = (s.first(t) + row) * p.input_size;
  const T* gates = nullptr;
  if (a.x_place >= 0) {
    gates = static_cast<const T*>(a.grads) + p.active_row(t, row, 0) * a.grad_row + a.x_place;
  }
  for (int64_t i = threadIdx.x; i < p.input_size; i += blockDim.x) {
    C sum = 0;
    for (int n = 0; n < a.count; ++n) sum += static_cast<const C*>(a.products[n])[place + i];
    for (int64_t d = 0; gates && d < p.directions; ++d) sum += C(gates[d * a.grad_row + i]);
    to[i] = T(sum);
  }
}

// One unit of one row. Units are counted to the wider of the states.
struct Unit {
  const StepArgs& a;
  int64_t row, unit;

  FRNN_DEVICE explicit Unit(const StepArgs& a) : a(a) {
    const int64_t h = a.p.hidden_size, output = a.p.output_size, i = thread_index();
    const int64_t wider = h > output ? h : output;
    row = i / wider;
    unit = i % wider;
  }
  FRNN_DEVICE int64_t size(int k) const { return k ? a.p.hidden_size : a.p.output_size; }
  FRNN_DEVICE bool has(int k) const { return row < a.rows && unit < size(k); }
  template <class T>
  FRNN_DEVICE T* of(void* data, int k) const {
    return static_cast<T*>(data) + row * size(k) + unit;
  }
  template <class T>
  FRNN_DEVICE T* of(const State& s) const {
    return a.p.at<T>(s, a.direction, row) + unit;
  }
};

// A row of length 0 ends where it begins.
template <class T>
__global__ void start_forward(const __grid_constant__ StepArgs a) {
  const ScanParams& p = a.p;
  const Schedule& s = p.schedule;
  const Unit u(a);
  for (int k = 0; k < a.states; ++k) {
    if (!u.has(k)) continue;
    const T initial = p.initial[k].data ? *u.of<const T>(p.initial[k]) : T(0);
    if (s.length(u.row) == 0) *u.of<T>(p.last[k]) = initial;
    const bool zero = p.starts_over(a.direction, s.first_time(a.direction, u.row), u.row);
    const T first = zero ? T(0) : initial;
    if (k == 0) {
      *u.of<T>(a.operand[0], k) = first;
    } else {
      *u.of<Compute<T>>(a.carry[k], k) = Compute<T>(first);
    }
  }
}

template <class T>
__global__ void start_backward(const __grid_constant__ StepArgs a) {
  using C = Compute<T>;
  const ScanParams& p = a.p;
  const Unit u(a);
  for (int k = 0; k < a.states; ++k) {
    if (!u.has(k)) continue;
    *u.of<C>(a.carry[k], k) = p.grad_last[k].data ? C(*u.of<const T>(p.grad_last[k])) : C(0);
  }
}

// Beyond the last step that backward goes through.
template <class T>
__global__ void finish_backward(const __grid_constant__ StepArgs a) {
  using C = Compute<T>;
  const ScanParams& p = a.p;
  const Unit u(a);
  for (int k = 0; k < a.states; ++k) {
    if (!u.has(k) || !p.grad_initial[k].data) continue;
    C grad = *u.of<C>(a.carry[k], k);
    if (k == 0 && u.row < a.product_rows &&
        !p.starts_over(a.direction, Schedule::after(a.direction, a.t), u.row)) {
      grad += static_cast<const C*>(a.product[0])[u.row * p.output_size + u.unit];
    }
    *u.of<T>(p.grad_initial[k]) = T(grad);
  }
}

template <class T>
constexpr SequenceKernels kKernels = {copy_rows<T, true>, copy_rows<T, false>, previous_h<T>,
                                      add_grad_x<T>,      start_forward<T>,    start_backward<T>,
                                      finish_backward<T>};

const SequenceKernels& sequence_kernels(Type type) {
  static const SequenceKernels all[] = {kKernels<float>, kKernels<double>, kKernels<BFloat16>,
                                        kKernels<Half>};
  return all[int(type)];
}

Kernel<UploadArgs> upload_kernel() { return upload; }

std::vector<int64_t> architectures() {
#ifdef __CUDA_ARCH_LIST__
  return {__CUDA_ARCH_LIST__};
#else
  return {};
#endif
}

}  // namespace fastrnn::cuda
