// The CUDA backend of the two ops.
#pragma once

#include "../ops.h"
#include "run.h"

namespace fastrnn::cuda {

void forward(const ScanParams& params, const Call& call);
void backward(const ScanParams& params, const Call& call);

Tensors scan(std::string cell, Tensor x, Tensors states, Tensors weights,
             std::optional<Tensor> lengths, std::optional<Tensor> batch_sizes,
             std::optional<Tensor> resets, bool bidirectional, bool batch_first, bool save,
             bool allow_tf32);

Tensors scan_backward(std::vector<std::optional<Tensor>> grads, std::string cell, Tensor x,
                      Tensors states, Tensors weights, std::optional<Tensor> lengths,
                      std::optional<Tensor> batch_sizes, std::optional<Tensor> resets,
                      bool bidirectional, bool batch_first, Tensors outputs, bool needs_x,
                      bool needs_states, bool needs_weights, bool allow_tf32);

}  // namespace fastrnn::cuda
