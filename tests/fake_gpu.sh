#!/usr/bin/env bash
# Runs the tests of the CUDA backend's host side in fake_gpu.py: with torch's CUDA build, fastrnn's
# CUDA kernels and nvcc, and without a GPU.
set -eu
tests=$(cd "$(dirname "$0")" && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
nvcc -std=c++20 -cudart none -shared -Xcompiler -fPIC,-Wall,-Werror -Xlinker -soname=libcuda.so.1 \
  -o "$folder/libcuda.so.1" "$tests/fake_gpu.cpp"
LD_PRELOAD=$folder/libcuda.so.1 "${PYTHON:-python}" -m pytest -q -p no:cacheprovider "$@" "$tests/fake_gpu.py"
