#!/usr/bin/env bash
# Builds the extension with AddressSanitizer and UndefinedBehaviorSanitizer, in a folder of its own,
# and runs tests on it: those named, or those that reach every kernel of every cell, type and
# instruction set that this machine has. The first report is printed and ends the process that it is
# of.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
build=${FASTRNN_SANITIZE_DIR:-}
if [ -z "$build" ]; then
  build=$(mktemp -d)
  trap 'rm -rf "$build"' EXIT
fi
if [ $# -eq 0 ]; then
  set -- "$root"/tests/test_{sequences,determinism,errors}.py \
    "$root"/tests/test_parity.py::test_float64_equals_torch \
    -k "not bits_of_the_whole and not same_bits_in_every_batch"
fi

flags="-fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer"
# Little is optimised, and addresses are checked by calls: it compiles in half the time.
flags="-O1 --param=asan-instrumentation-with-call-threshold=0 $flags"
cd "$root"
CFLAGS="$flags" LDFLAGS="$flags" \
  python setup.py -q build_ext --build-lib "$build" --build-temp "$build/temp"
cp -r fastrnn/*.py fastrnn/_commands "$build/fastrnn/"

# The sanitizers' libraries must come first, and before them nothing that throws. Python itself
# does not free all it has at exit. A report goes to the process's stderr as it ends, so pytest may
# capture Python's only, and must leave the handling of signals alone. Its path would find the
# repository's own build before this one.
cd "$build"
preload=$(for library in asan ubsan stdc++; do gcc -print-file-name=lib$library.so; done)
LD_PRELOAD=$(echo $preload) ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 \
  PYTHONPATH="$build:$root" python -m pytest -q -n 2 --max-worker-restart 0 -p no:cacheprovider \
  -p no:faulthandler --capture=sys -o pythonpath= --rootdir "$root" "$@"
