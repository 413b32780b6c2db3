#!/usr/bin/env bash
# Builds the extension with AddressSanitizer and UndefinedBehaviorSanitizer, in a folder of its own,
# and runs tests on it: those named, or the ones that reach every kernel.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
build=${FASTRNN_SANITIZE_DIR:-$(mktemp -d)}
if [ $# -eq 0 ]; then
  set -- "$root"/tests/test_{parity,sequences,errors}.py
fi

flags="-fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer"
cd "$root"
CFLAGS="$flags" LDFLAGS="$flags" \
  python setup.py -q build_ext --build-lib "$build" --build-temp "$build/temp"
cp fastrnn/*.py "$build/fastrnn/"

# The sanitizers' libraries must come first, and before them nothing that throws. Python itself
# does not free all it has at exit.
cd "$build"
preload=$(for library in asan ubsan stdc++; do gcc -print-file-name=lib$library.so; done)
LD_PRELOAD=$(echo $preload) ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 \
  PYTHONPATH="$build" python -m pytest -q -p no:cacheprovider --rootdir "$root" "$@"
