#include "scan.h"

namespace fastrnn::cuda {

Tensors scan(std::string cell, Tensor x, Tensors states, Tensors weights,
             std::optional<Tensor> lengths, std::optional<Tensor> batch_sizes,
             std::optional<Tensor> resets, bool bidirectional, bool batch_first, bool save,
             bool allow_tf32) {
  const Device device = x.device();
  const CurrentDevice current(device.index());
  return fastrnn::scan(
      {std::move(cell), std::move(x), std::move(states), std::move(weights), std::move(lengths),
       std::move(batch_sizes), std::move(resets), bidirectional, batch_first},
      save, [&](const ScanParams& p) { forward(p, {device, current.stream(), allow_tf32}); });
}

Tensors scan_backward(std::vector<std::optional<Tensor>> grads, std::string cell, Tensor x,
                      Tensors states, Tensors weights, std::optional<Tensor> lengths,
                      std::optional<Tensor> batch_sizes, std::optional<Tensor> resets,
                      bool bidirectional, bool batch_first, Tensors outputs, bool needs_x,
                      bool needs_states, bool needs_weights, bool allow_tf32) {
  const Device device = x.device();
  const CurrentDevice current(device.index());
  return fastrnn::scan_backward(
      {std::move(cell), std::move(x), std::move(states), std::move(weights), std::move(lengths),
       std::move(batch_sizes), std::move(resets), bidirectional, batch_first},
      grads, outputs, {needs_x, needs_states, needs_weights},
      [&](const ScanParams& p) { backward(p, {device, current.stream(), allow_tf32}); });
}

}  // namespace fastrnn::cuda
