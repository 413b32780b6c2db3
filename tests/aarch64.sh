#!/usr/bin/env bash
# Compiles the CPU engine for aarch64, and runs the tests of its pieces there, by an emulator
# (Debian: g++-aarch64-linux-gnu, qemu-user).
set -euo pipefail
tests=$(cd "$(dirname "$0")" && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
aarch64-linux-gnu-g++ -std=c++20 -O3 -g0 -Wall -Wno-unknown-pragmas -Werror -ffp-contract=fast -fPIC \
  -c -o "$folder/isa_baseline.o" "$tests/../csrc/cpu/isa_baseline.cpp"
CXX="aarch64-linux-gnu-g++ -static" FASTRNN_EMULATOR=qemu-aarch64 \
  python -m pytest -q -o cache_dir="$folder/cache" "$tests/test_pieces.py" "$@"
