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
  if (!runs(s, t, row)) return;
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
  if (!runs(s, t, row)) return;
  const int direction = int(blockIdx.y);
  const T* from = nullptr;
  if (!resets(p, t, row)) {
    if (t != first_time(s, direction, row)) {
      from = at<const T>(p, p.y, before(direction, t), row) + direction * p.output_size;
    } else if (p.initial[0].data) {
      from = at<const T>(p, p.initial[0], direction, row);
    }
  }
  T* to = static_cast<T*>(a.to) + running(p, t, row, direction) * p.output_size;
  for (int64_t i = threadIdx.x; i < p.output_size; i += blockDim.x) to[i] = from ? from[i] : T{};
}

// h of a step is W_hr hidden: hands it to y and to the next step.
template <class T>
__global__ void project(const __grid_constant__ ProjectionArgs a) {
  const ScanParams& p = a.p;
  const int64_t i = thread_index();
  const int64_t row = i / p.output_size, unit = i % p.output_size;
  if (row >= a.rows) return;
  const T h = static_cast<const T*>(a.product)[i];
  at<T>(p, p.y, a.t, row)[a.direction * p.output_size + unit] = h;
  if (a.t == last_time(p.schedule, a.direction, row)) {
    at<T>(p, p.last[0], a.direction, row)[unit] = h;
  }
  static_cast<T*>(a.h)[i] = resets(p, after(a.direction, a.t), row) ? T{} : h;
}

template <class T>
__global__ void start_unproject(const __grid_constant__ ProjectionArgs a) {
  using C = Compute<T>;
  const ScanParams& p = a.p;
  const int64_t i = thread_index();
  const int64_t row = i / p.output_size, unit = i % p.output_size;
  if (row >= a.rows) return;
  C grad = 0;
  if (p.grad_last[0].data) grad = C(at<T>(p, p.grad_last[0], a.direction, row)[unit]);
  static_cast<C*>(a.carry)[i] = grad;
}

// The gradient of h of a step: of y, and what comes from the step after.
template <class T>
__global__ void unproject(const __grid_constant__ ProjectionArgs a) {
  using C = Compute<T>;
  const ScanParams& p = a.p;
  const int64_t i = thread_index();
  const int64_t row = i / p.output_size, unit = i % p.output_size;
  if (row >= a.rows) return;
  C& carry = static_cast<C*>(a.carry)[i];
  C grad = carry;
  if (row < a.product_rows && !resets(p, after(a.direction, a.t), row)) {
    grad += static_cast<const C*>(a.product)[i];
  }
  if (!runs(p.schedule, a.t, row)) {
    carry = grad;
    const bool outside = a.t < 0 || a.t >= p.schedule.steps;
    if (outside && p.grad_initial[0].data) {
      at<T>(p, p.grad_initial[0], a.direction, row)[unit] = T(grad);
    }
    return;
  }
  carry = 0;
  if (p.grad_y.data) {
    grad += C(at<T>(p, p.grad_y, a.t, row)[a.direction * p.output_size + unit]);
  }
  static_cast<T*>(a.grad_h)[running(p, a.t, row, a.direction) * p.output_size + unit] = T(grad);
}

template <class T>
constexpr SequenceKernels kKernels = {copy_rows<T, true>, copy_rows<T, false>, previous_h<T>,
                                      project<T>,         start_unproject<T>,  unproject<T>};

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
