// The op fastrnn::scan up to a point: bench/call.py takes the differences of their times.
#include "ops.h"

namespace {

using namespace fastrnn;

struct NoBackend {
  NoBackend(const Tensor& /*x*/, bool /*allow_tf32*/) {}
  void forward(const ScanParams& /*p*/) const {}
};

Tensors dispatched(const std::string& /*cell*/, const Tensor& /*x*/, const Tensors& /*states*/,
                   const Tensors& /*weights*/, const std::optional<Tensor>& /*lengths*/,
                   const std::optional<Tensor>& /*batch_sizes*/,
                   const std::optional<Tensor>& /*resets*/, bool /*bidirectional*/,
                   bool /*batch_first*/, bool /*save*/, bool /*allow_tf32*/, bool /*all_states*/) {
  return {};
}

Tensors checked(const std::string& cell, const Tensor& x, const Tensors& states,
                const Tensors& weights, const std::optional<Tensor>& lengths,
                const std::optional<Tensor>& batch_sizes, const std::optional<Tensor>& resets,
                bool bidirectional, bool batch_first, bool /*save*/, bool /*allow_tf32*/,
                bool /*all_states*/) {
  const Scan scan(
      {cell, x, states, weights, lengths, batch_sizes, resets, bidirectional, batch_first});
  return {};
}

}  // namespace

#define FRNN_SCHEMA(name)                                                                       \
  name "(str cell, Tensor x, Tensor[] states, Tensor[] weights, Tensor? lengths, "              \
       "Tensor? batch_sizes, Tensor? resets, bool bidirectional, bool batch_first, bool save, " \
       "bool allow_tf32=False, bool all_states=False) -> Tensor[]"

STABLE_TORCH_LIBRARY(fastrnn_call, m) {
  m.def(FRNN_SCHEMA("dispatched"));
  m.def(FRNN_SCHEMA("checked"));
  m.def(FRNN_SCHEMA("allocated"));
}

STABLE_TORCH_LIBRARY_IMPL(fastrnn_call, CPU, m) {
  m.impl("dispatched", TORCH_BOX(&dispatched));
  m.impl("checked", TORCH_BOX(&checked));
  m.impl("allocated", TORCH_BOX(&fastrnn::scan<NoBackend>));
}
