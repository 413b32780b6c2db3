#!/usr/bin/env bash
# Builds the extension with ThreadSanitizer, in a folder of its own, on plain threads in place of
# OpenMP's, whose waiting it does not see; and runs tests on it: those named, or those that share
# out the work of every cell over threads. The first report ends the process that it is of.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
build=${FASTRNN_SANITIZE_DIR:-}
if [ -z "$build" ]; then
  build=$(mktemp -d)
  trap 'rm -rf "$build"' EXIT
fi
if [ $# -eq 0 ]; then
  set -- "$root"/tests/test_determinism.py -k "threads_do_not or lengths_and_resets and not float16"
fi

flags="-O1 -fsanitize=thread -fno-omit-frame-pointer -DFASTRNN_STD_THREADS"
cd "$root"
CFLAGS="$flags" LDFLAGS=-fsanitize=thread \
  python setup.py -q build_ext --build-lib "$build" --build-temp "$build/temp"
cp -r fastrnn/*.py fastrnn/_commands "$build/fastrnn/"

# What PyTorch's own threads do is not of interest, and cannot be judged where it is not compiled
# for it.
printf 'called_from_lib:%s\n' libtorch_cpu.so libgomp.so >"$build/suppressions"
cd "$build"
LD_PRELOAD=$(gcc -print-file-name=libtsan.so) \
  TSAN_OPTIONS="halt_on_error=1 suppressions=$build/suppressions" \
  PYTHONPATH="$build:$root" python -m pytest -q -x -p no:cacheprovider -p no:faulthandler \
  --capture=sys -o pythonpath= --rootdir "$root" "$@"
