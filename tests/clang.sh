#!/usr/bin/env bash
# Builds the extension with Clang (16 or later), in a folder of its own, where no warning may come,
# and runs tests on it: those named, or those of the engine's numbers.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
compiler=$(command -v clang++-16 || command -v clang++)
build=$(mktemp -d)
trap 'rm -rf "$build"' EXIT
if [ $# -eq 0 ]; then
  set -- "$root"/tests/test_{pieces,parity,determinism,accuracy}.py
fi

cd "$root"
export CXX=$compiler CC=${compiler/++/}
CFLAGS=-Werror python setup.py -q build_ext --build-lib "$build" --build-temp "$build/temp"
python tests/symbols.py "$build/temp"
cp -r fastrnn/*.py fastrnn/_commands "$build/fastrnn/"

# The tests' path would find the repository's own build before this one.
cd "$build"
PYTHONPATH="$build:$root" python -m pytest -q -n 2 --dist loadfile -o cache_dir="$build/cache" \
  -o pythonpath= --rootdir "$root" "$@"
