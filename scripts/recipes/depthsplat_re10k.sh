#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# DepthSplat's own training on RealEstate10K at 256x256, two views: stage 1 alone. For those who train it anew or go on
# from other weights (--weights RUN, or --pipeline.model.backbone.checkpoint FILE); the paper begins from the published ones.
#
#   scripts/recipes/depthsplat_re10k.sh [--print] RE10K [more arguments of ns-train]
#   DEVICES=8 SCENES_PER_STEP=4 scripts/recipes/depthsplat_re10k.sh RE10K --pipeline.model.backbone.size base
#
# Published: AdamW 2e-4 (the DINOv2 trunk 2e-6), weight decay 0.01, one cycle with 1 % of rise, clipped at 0.5, 32 scenes
# an update, 150,000 updates, four targets between two context views 25–45 and later 45–135 images apart, flips, MSE + 0.05
# LPIPS. Ours: the clip is per parameter group, gradients are averaged over steps where the GPUs hold fewer scenes.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
begin "$@"
plan 32 150000
group backbone 2e-4 2e-4
group trunk 2e-6 2e-6
group gaussian-head 2e-4 2e-4
run diff3r-depthsplat "${groups[@]}" \
    --pipeline.datamanager.collection.image-size 256 256 --pipeline.datamanager.collection.max-size None \
    --pipeline.datamanager.collection.near 0.5 --pipeline.datamanager.collection.far 100 \
    --pipeline.datamanager.collection.split.all True \
    --pipeline.datamanager.sampler.selection bounded --pipeline.datamanager.sampler.gap-start 25 45 \
    --pipeline.datamanager.sampler.gap-end 45 135 --pipeline.datamanager.sampler.warmup-steps $((30000 * accumulation)) \
    --pipeline.datamanager.sampler.num-context 2 --pipeline.datamanager.sampler.num-targets 4 \
    --pipeline.datamanager.sampler.flip-probability 0.5 \
    --pipeline.model.training.stages.pretrain-fraction 1 --pipeline.model.training.warmup-fraction 0.01 \
    --pipeline.model.training.final-fraction 0 --pipeline.model.training.losses.lpips-weight 0.05
