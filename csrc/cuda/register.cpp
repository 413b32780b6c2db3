// The extension module that brings the ops' CUDA kernels.
#include <Python.h>

#include "scan.h"
#include "sequence.h"

STABLE_TORCH_LIBRARY_IMPL(fastrnn, CUDA, m) {
  m.impl("scan", TORCH_BOX(&fastrnn::cuda::scan));
  m.impl("scan_backward", TORCH_BOX(&fastrnn::cuda::scan_backward));
}

STABLE_TORCH_LIBRARY_FRAGMENT(fastrnn, m) { m.def("cuda_architectures() -> int[]"); }

STABLE_TORCH_LIBRARY_IMPL(fastrnn, CompositeExplicitAutograd, m) {
  m.impl("cuda_architectures", TORCH_BOX(&fastrnn::cuda::architectures));
}

PyMODINIT_FUNC PyInit__cuda() {
  static PyModuleDef module = {
      PyModuleDef_HEAD_INIT, "_cuda", nullptr, -1, nullptr, nullptr, nullptr, nullptr, nullptr};
  return PyModule_Create(&module);
}
