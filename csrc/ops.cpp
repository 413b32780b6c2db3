// The schemas of the ops, and the extension module that loads them.
#include <Python.h>

#include "ops.h"

STABLE_TORCH_LIBRARY(fastrnn, m) {
  m.def("cells() -> str");
  m.def("cpu_isas() -> str");
  m.def(
      "scan(str cell, Tensor x, Tensor[] states, Tensor[] weights, Tensor? lengths, "
      "Tensor? batch_sizes, Tensor? resets, bool bidirectional, bool batch_first, bool save, "
      "bool allow_tf32=False, bool all_states=False) "
      "-> Tensor[]");
  m.def(
      "scan_int8(str cell, Tensor x, Tensor[] states, Tensor[] weights, Tensor[] scales, "
      "Tensor? lengths, Tensor? batch_sizes, Tensor? resets, bool bidirectional, "
      "bool batch_first, bool all_states) "
      "-> Tensor[]");
  m.def(
      "scan_backward(Tensor?[] grads, str cell, Tensor x, Tensor[] states, Tensor[] weights, "
      "Tensor? lengths, Tensor? batch_sizes, Tensor? resets, bool bidirectional, "
      "bool batch_first, Tensor[] outputs, bool needs_x, bool needs_states, bool needs_weights, "
      "bool allow_tf32=False) "
      "-> Tensor[]");
  m.def(
      "scan_each(str cell, Tensor[] x, Tensor[] states, Tensor[] weights, Tensor?[] lengths, "
      "Tensor?[] batch_sizes, Tensor?[] resets, bool bidirectional, bool batch_first, bool save, "
      "bool allow_tf32=False, bool all_states=False) "
      "-> Tensor[]");
  m.def(
      "scan_each_backward(Tensor?[] grads, str cell, Tensor[] x, Tensor[] states, "
      "Tensor[] weights, Tensor?[] lengths, Tensor?[] batch_sizes, Tensor?[] resets, "
      "bool bidirectional, bool batch_first, Tensor[] outputs, bool needs_x, bool needs_states, "
      "bool needs_weights, bool allow_tf32=False) "
      "-> Tensor[]");
}

STABLE_TORCH_LIBRARY_IMPL(fastrnn, CompositeExplicitAutograd, m) {
  m.impl("cells", TORCH_BOX(&fastrnn::cells));
}

PyMODINIT_FUNC PyInit__C() {
  static PyModuleDef module = {
      PyModuleDef_HEAD_INIT, "_C", nullptr, -1, nullptr, nullptr, nullptr, nullptr, nullptr};
  return PyModule_Create(&module);
}
