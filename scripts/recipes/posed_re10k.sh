#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The paper's pose-given row (Diff3R, RealEstate10K, two views): from DepthSplat's published weights through 50 steps of
# test-time optimisation; the Gaussian head and the uncertainty head are trained.
#
#   scripts/recipes/posed_re10k.sh [--print] RE10K [more arguments of ns-train]
#   DEVICES=8 scripts/recipes/posed_re10k.sh RE10K --pipeline.model.backbone.size base --weights STAGE_1_RUN
#
# Published: two stages, the first without optimisation (0 updates here, since the weights have had it), 50–100 inner
# steps, what stage 2 trains. Not published, ours: 8 scenes an update, 5,000 updates, learning rates, one loss for θ⁰ with
# α = 0.1. Views, flips, near, far, clip and weight decay are those of DepthSplat's training, at its final gap.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
begin "$@"
plan 8 5000
group backbone 2e-4 2e-5
group trunk 2e-6 2e-7
group gaussian-head 2e-4 2e-5
group uncertainty-head 5e-4 1e-3 0  # decay would pull λ to a number of its own
run diff3r-depthsplat "${groups[@]}" \
    --pipeline.model.backbone.size large \
    --pipeline.datamanager.collection.image-size 256 256 --pipeline.datamanager.collection.max-size None \
    --pipeline.datamanager.collection.near 0.5 --pipeline.datamanager.collection.far 100 \
    --pipeline.datamanager.collection.split.all True \
    --pipeline.datamanager.sampler.selection bounded --pipeline.datamanager.sampler.gap-start 45 135 \
    --pipeline.datamanager.sampler.num-context 2 --pipeline.datamanager.sampler.num-targets 4 \
    --pipeline.datamanager.sampler.flip-probability 0.5 \
    --pipeline.model.training.stages.pretrain-steps 0 --pipeline.model.training.stages.freeze-backbone True \
    --pipeline.model.training.tto.num-steps 50 --pipeline.model.training.tto-steps-eval 50 \
    --pipeline.model.training.losses.lpips-weight 0.05 --pipeline.model.training.losses.auxiliary-weight 0.1
