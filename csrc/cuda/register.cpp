// The extension module that brings the ops' CUDA kernels.
#include <Python.h>

#include "scan.h"

STABLE_TORCH_LIBRARY_IMPL(fastrnn, CUDA, m) {
  m.impl("scan", TORCH_BOX(&fastrnn::cuda::scan));
  m.impl("scan_backward", TORCH_BOX(&fastrnn::cuda::scan_backward));
}

PyMODINIT_FUNC PyInit__cuda() {
  static PyModuleDef module = {
      PyModuleDef_HEAD_INIT, "_cuda", nullptr, -1, nullptr, nullptr, nullptr, nullptr, nullptr};
  return PyModule_Create(&module);
}
