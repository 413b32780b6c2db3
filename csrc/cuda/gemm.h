// Products of whole matrices, by torch: its libraries are the fastest there are for them. Tensors
// are views of memory that the caller keeps.
#pragma once

#include <array>

#include "../check.h"

namespace fastrnn::cuda {

using torch::stable::Device;

// [rows, columns] of the memory at data.
struct Matrix {
  void* data = nullptr;
  int64_t rows = 0, columns = 0;
  int64_t row_stride = 0, column_stride = 1;

  Matrix transposed() const { return {data, columns, rows, column_stride, row_stride}; }
};

class Gemm {
 public:
  // type: of matrices; compute: of sums.
  Gemm(Device device, ScalarType type, ScalarType compute)
      : device_(device), type_(type), compute_(compute) {}

  Tensor view(const Matrix& m) const { return view(m, type_); }
  // Of sums, which are not rounded to the matrices' type.
  Tensor view_sums(const Matrix& m) const { return view(m, compute_); }

  // out = a b
  void multiply(const Matrix& out, const Matrix& a, const Matrix& b) const {
    multiply(view(out), view(a), view(b));
  }
  void multiply_to_sums(const Matrix& out, const Matrix& a, const Matrix& b) const {
    multiply(view_sums(out), view(a), view(b));
  }
  static void multiply(const Tensor& out, const Tensor& a, const Tensor& b) {
    using torch::stable::detail::from;
    const ScalarType to = out.scalar_type();
    if (to == a.scalar_type()) {
      call("out", std::array{from(a), from(b), from(out)});
    } else {
      call("dtype_out", std::array{from(a), from(b), from(to), from(out)});
    }
  }

  // out[column] = the sum of a's rows
  void sum_rows(void* out, const Matrix& a) const {
    const std::array<int64_t, 1> sizes{a.columns}, strides{1}, dims{0};
    Tensor sum = torch::stable::from_blob(out, sizes, strides, device_, type_);
    torch::stable::sum_out(sum, view(a), torch::headeronly::IntHeaderOnlyArrayRef(dims));
  }

  void copy(const Matrix& out, const Matrix& a) const {
    Tensor to = view(out);
    torch::stable::copy_(to, view(a));
  }

 private:
  Tensor view(const Matrix& m, ScalarType type) const {
    const std::array<int64_t, 2> sizes{m.rows, m.columns};
    const std::array<int64_t, 2> strides{m.row_stride, m.column_stride};
    // Of no values, data may lie outside the device's memory, which torch looks for.
    void* data = m.rows > 0 && m.columns > 0 ? m.data : nullptr;
    return torch::stable::from_blob(data, sizes, strides, device_, type);
  }

  template <size_t kCount>
  static void call(const char* overload, std::array<StableIValue, kCount> stack) {
    STABLE_TORCH_ERROR_CODE_CHECK(
        torch_call_dispatcher("aten::mm", overload, stack.data(), TORCH_ABI_VERSION));
    (void)torch::stable::detail::to<Tensor>(stack[0]);
  }

  Device device_;
  ScalarType type_, compute_;
};

}  // namespace fastrnn::cuda
