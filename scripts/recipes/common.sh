# SPDX-License-Identifier: Apache-2.0
# Sourced by the recipes beside it: options they share, and how a batch is spread over devices, scenes and steps.
#
#   DEVICES           GPUs (1); each is a process
#   SCENES_PER_STEP   scenes that one GPU takes at once (1), as its memory allows
#   BATCH             scenes of one update of the weights; the recipe says how many
#   UPDATES           updates of the weights; the recipe says how many
#   OUTPUT            folder for the runs (outputs)
#   NS_TRAIN          the command (ns-train)

die() { printf 'error: %s\n' "$*" >&2; exit 1; }

# usage: begin "$@"; sets printing, data, extra (what follows the data on the command line)
begin() {
    printing=
    if [ "${1:-}" = --print ]; then printing=1; shift; fi
    [ $# -gt 0 ] || die "usage: $0 [--print] DATA [more arguments of ns-train]    (what may be set: scripts/recipes/common.sh)"
    data=$1; shift
    extra=("$@")
}

# usage: plan BATCH UPDATES; sets accumulation (steps of one update) and steps
plan() {
    local batch=${BATCH:-$1} updates=${UPDATES:-$2} number name at_once
    DEVICES=${DEVICES:-1} SCENES_PER_STEP=${SCENES_PER_STEP:-1}
    for name in DEVICES SCENES_PER_STEP batch updates; do
        number=${!name}
        [[ $number =~ ^[1-9][0-9]*$ ]] || die "${name^^} must be a whole number above 0, not '$number'"
    done
    at_once=$((DEVICES * SCENES_PER_STEP))
    [ $((batch % at_once)) -eq 0 ] || die "BATCH=$batch is no multiple of DEVICES=$DEVICES times SCENES_PER_STEP=$SCENES_PER_STEP"
    accumulation=$((batch / at_once))
    steps=$((updates * accumulation))
    shared=(
        --data "$data" --output-dir "${OUTPUT:-outputs}" --vis tensorboard --viewer.quit-on-train-completion True
        --machine.num-devices "$DEVICES" --mixed-precision False
        --max-num-iterations "$steps" --steps-per-save $((500 * accumulation))
        --steps-per-eval-batch $((250 * accumulation)) --steps-per-eval-image $((250 * accumulation))
        --steps-per-eval-all-images $((steps + 1))
        --pipeline.model.training.gradient-accumulation "$accumulation"
        --pipeline.datamanager.sampler.scenes-per-step "$SCENES_PER_STEP"
    )
}

# usage: run METHOD options …; runs ns-train, or prints the line
run() {
    local line=("${NS_TRAIN:-ns-train}" "$1" "${shared[@]}" "${@:2}" "${extra[@]+"${extra[@]}"}")
    if [ -n "$printing" ]; then printf '%q ' "${line[@]}"; printf '\n'; else exec "${line[@]}"; fi
}

# usage: group NAME PRETRAIN_RATE BILEVEL_RATE [WEIGHT_DECAY]; adds the optimiser of a parameter group to the array `groups`
groups=()
group() {
    local at=--pipeline.model.training.$1
    groups+=("$at.pretrain-rate" "$2" "$at.bilevel-rate" "$3" "$at.weight-decay" "${4:-0.01}" "$at.max-norm" 0.5)
}
