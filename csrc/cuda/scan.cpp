// The extension module that brings the ops' CUDA kernels.
#include "scan.h"

#include <Python.h>

#include "sequence.h"

STABLE_TORCH_LIBRARY_IMPL(fastrnn, CUDA, m) {
  m.impl("scan", TORCH_BOX(&fastrnn::scan<fastrnn::cuda::Backend>));
  m.impl("scan_backward", TORCH_BOX(&fastrnn::scan_backward<fastrnn::cuda::Backend>));
  m.impl("scan_each", TORCH_BOX(&fastrnn::scan_each<fastrnn::cuda::Backend>));
  m.impl("scan_each_backward", TORCH_BOX(&fastrnn::scan_each_backward<fastrnn::cuda::Backend>));
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
