#!/usr/bin/env bash
# Builds the extension into the source tree, for development: bash scripts/build_inplace.sh [cmake arguments]
# PYTHON (default python3) names the interpreter, BUILD_DIR the build folder.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-python3}
build=${BUILD_DIR:-$root/build/inplace}
generator=()
if command -v ninja >/dev/null; then generator=(-G Ninja); fi
cmake -S "$root" -B "$build" "${generator[@]}" -DPython_EXECUTABLE="$(command -v "$python")" "$@" >/dev/null
cmake --build "$build" --parallel "$(nproc)"
# Replaced in one step: a running process keeps the file it has mapped.
for library in "$build"/_c*.so; do
  cp "$library" "$root/ns_diff3r/.$(basename "$library").new"
  mv "$root/ns_diff3r/.$(basename "$library").new" "$root/ns_diff3r/$(basename "$library")"
done
