#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Installs the package into a virtual environment and runs the main job on the bundled scene: trains `diff3r-tiny`,
# evaluates it, and reconstructs the scene with it. Table, comparison.png and scene.ply go to outputs/example.
#
#   scripts/run_example.sh [--no-install] [arguments of `ns-train diff3r-tiny`]
#
#   --no-install       use what the environment already holds
#   NS_DIFF3R_VENV     the environment, made if absent (default .venv)
#   NS_DIFF3R_PYTHON   the Python it is made from (default: the newest of 3.10 to 3.12)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/environment.sh

venv=${NS_DIFF3R_VENV:-.venv} output=outputs/example
if [ "${1:-}" = --no-install ]; then
    shift
else
    install_package "$venv" nerfstudio,colmap,test
fi
[ -x "$venv/bin/ns-train" ] || die "$venv has no ns-train; run this script without --no-install"
export PYTHONWARNINGS=${PYTHONWARNINGS:-ignore}  # of nerfstudio's dependencies about one another

run=$output/diff3r-tiny/$(date +%Y-%m-%d_%H%M%S)
say "Training diff3r-tiny on examples/room (minutes)"
"$venv/bin/ns-train" diff3r-tiny --data examples/room --output-dir outputs --experiment-name example \
    --timestamp "${run##*/}" --vis tensorboard --viewer.quit-on-train-completion True "$@"
say "Evaluating it on the images that were held out"
"$venv/bin/ns-eval" --load-config "$run/config.yml" --output-path "$run/evaluation.json"
say "Reconstructing the scene with it"
"$venv/bin/ns-diff3r" reconstruct --data examples/room --weights "$run" --output "$output" --hold-out --no-nerfstudio-run
printf '\nLook at it: %s\n' "$venv/bin/ns-viewer --load-config $run/config.yml"
