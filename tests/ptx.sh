#!/usr/bin/env bash
# Runs the tests of the CUDA sources in the simulation with the kernels as nvcc compiles them, to
# PTX for a GPU (90, unless FASTRNN_PTX names another), and looks for data races. Takes a CUDA
# toolkit (CUDA_HOME) and an hour, but no GPU. FASTRNN_PTX_CELLS="gru mut1" -k "gru or mut1" takes
# the kernels of some cells only.
set -eu
tests=$(cd "$(dirname "$0")" && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
FASTRNN_PTX=${FASTRNN_PTX:-90} python -m pytest -q -o cache_dir="$folder" "$tests/test_cuda.py" "$@"
