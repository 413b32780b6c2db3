// The CUDA backend of the ops.
#pragma once

#include "../ops.h"
#include "run.h"

namespace fastrnn::cuda {

void forward(const ScanParams& params, const Call& call);
void backward(const ScanParams& params, const Call& call);

// The device of the input is the current one as long as the backend lives.
class Backend {
 public:
  Backend(const Tensor& x, bool allow_tf32)
      : device_(x.device()), current_(device_.index()), allow_tf32_(allow_tf32) {}

  void forward(const ScanParams& p) const { cuda::forward(p, call()); }
  void backward(const ScanParams& p) const { cuda::backward(p, call()); }
  void forward_each(const std::vector<const ScanParams*>& scans) const {
    for (const ScanParams* p : scans) forward(*p);
  }
  void backward_each(const std::vector<const ScanParams*>& scans) const {
    for (const ScanParams* p : scans) backward(*p);
  }

 private:
  Call call() const { return {device_, current_.stream(), allow_tf32_}; }

  Device device_;
  CurrentDevice current_;
  bool allow_tf32_;
};

}  // namespace fastrnn::cuda
