#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The paper's pose-free rows (Diff3R, RealEstate10K and ScanNet++, four views): from Depth Anything 3's published weights
# through test-time optimisation; the Gaussian head and the uncertainty head are trained.
#
#   scripts/recipes/unposed.sh [--print] MIXTURE [more arguments of ns-train]
#   DEVICES=8 scripts/recipes/unposed.sh scripts/recipes/unposed_mixture.yaml
#
# Published: data sets (unposed_mixture.yaml), four views, 50–100 inner steps in training and 300 in evaluation, what
# stage 2 trains. Not published, ours: 252x252, weights and gaps of the data sets, 8 scenes an update, 5,000 updates,
# learning rates, flips.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
begin "$@"
plan 8 5000
group backbone 5e-5 2e-5
group trunk 5e-6 2e-6
group gaussian-head 5e-5 2e-5
group uncertainty-head 5e-4 1e-3 0  # decay would pull λ to a number of its own
run diff3r-da3 "${groups[@]}" \
    --pipeline.datamanager.collection.image-size 252 252 --pipeline.datamanager.collection.max-size None \
    --pipeline.datamanager.collection.split.all True \
    --pipeline.datamanager.sampler.num-context 4 --pipeline.datamanager.sampler.num-targets 4 \
    --pipeline.datamanager.sampler.flip-probability 0.5 \
    --pipeline.model.training.stages.pretrain-steps 0 --pipeline.model.training.stages.freeze-backbone True \
    --pipeline.model.training.tto.num-steps 50 --pipeline.model.training.tto-steps-eval 300 \
    --pipeline.model.training.losses.lpips-weight 0.05 --pipeline.model.training.losses.auxiliary-weight 0.1
