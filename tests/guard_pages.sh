#!/usr/bin/env bash
# Runs the tests of the CUDA sources in the simulation, with an inaccessible page behind every tensor.
set -euo pipefail
tests=$(cd "$(dirname "$0")" && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
g++ -std=c++20 -O1 -Wall -shared -fPIC -o "$folder/guard_pages.so" "$tests/guard_pages.cpp"
python -m pytest -q "$tests/test_cuda.py" -k "steps and T3B1H9-float64-gru"  # builds it
LD_PRELOAD=$folder/guard_pages.so python -m pytest -q "$tests/test_cuda.py" "$@"
