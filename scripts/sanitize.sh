#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Builds the extension with AddressSanitizer and UBSan and runs the tests that use it under them.
#
#   scripts/sanitize.sh [pytest arguments]        default: tests/rasterization tests/solver
#
#   NS_DIFF3R_VENV   an environment with the package's dependencies and the extra [test], as run_tests.sh makes it
#                    (default .venv-core); the package installed there is not used, only what is built here
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/environment.sh
venv=${NS_DIFF3R_VENV:-.venv-core}
[ -x "$venv/bin/pytest" ] || die "$venv has no pytest; run scripts/run_tests.sh --core first or set NS_DIFF3R_VENV"
python=$(realpath -s "$venv/bin/python")

build=build/sanitize tree=build/sanitize-tree
"$python" -m pip install --quiet pybind11 cmake ninja
say "Building with -fsanitize=address,undefined (minutes)"
PATH="$(dirname "$python"):$PATH" cmake -S . -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=RelWithDebInfo \
    -DNS_DIFF3R_SANITIZE=ON -DPython_EXECUTABLE="$python"
PATH="$(dirname "$python"):$PATH" cmake --build "$build"

# A package tree of its own: the Python sources and this build's module, and no other build's.
rm -rf "$tree"
mkdir -p "$tree"
cp -r ns_diff3r "$tree/"
find "$tree" \( -name '*.so' -o -name __pycache__ \) -prune -exec rm -rf {} +
cmake --install "$build" --prefix "$tree"

compiler=${CXX:-c++}
export LD_PRELOAD="$("$compiler" -print-file-name=libasan.so):$("$compiler" -print-file-name=libubsan.so):$("$compiler" -print-file-name=libstdc++.so)"
# Python itself leaks by design; everything else stops the run.
export ASAN_OPTIONS=detect_leaks=0:abort_on_error=1 UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1
export PYTHONPATH="$PWD/$tree${PYTHONPATH:+:$PYTHONPATH}"
say "Tests under the sanitizers"
"$python" - <<'PYTHON'
import pathlib, ns_diff3r
print("package under test:", pathlib.Path(ns_diff3r.__file__).parent)
PYTHON
# This build holds one instruction set.
[ $# -gt 0 ] || set -- tests/rasterization tests/solver --ignore tests/rasterization/test_native_instruction_sets.py
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
# --capture=sys: what a sanitizer prints when it stops the process is not swallowed
exec "$venv/bin/pytest" -p no:cacheprovider --capture=sys "$@"
