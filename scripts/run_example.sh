#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Installs the package into a virtual environment and fits the bundled scene: before/after table, picture, .ply.
#
#   scripts/run_example.sh [--no-install] [arguments of `ns-diff3r optimize`]
#
#   --no-install       use what the environment already holds
#   NS_DIFF3R_VENV     the environment, made if absent (default .venv)
#   NS_DIFF3R_PYTHON   the Python it is made from (default: the newest of 3.10 to 3.12)
#   NS_DIFF3R_EXTRAS   extras to install (default: nerfstudio,test; empty for the core alone)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/environment.sh

venv=${NS_DIFF3R_VENV:-.venv} extras=${NS_DIFF3R_EXTRAS-nerfstudio,test}
if [ "${1:-}" = --no-install ]; then
    shift
else
    install_package "$venv" "$extras"
fi
say "Fitting the bundled scene"
"$venv/bin/ns-diff3r" optimize --data examples/room "$@"
