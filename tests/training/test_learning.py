# SPDX-License-Identifier: Apache-2.0
"""Training on photographs: the loss falls, predictions beat simple baselines, and optimisation improves them."""

from pathlib import Path

import pytest
import torch

from ns_diff3r.backbones import tiny_config
from ns_diff3r.data import CollectionConfig, SamplerConfig
from ns_diff3r.evaluation.evaluate import evaluate
from ns_diff3r.evaluation.metrics import ImageMetrics
from ns_diff3r.training.config import LossConfig, TrainingConfig
from ns_diff3r.training.inference import evaluating
from ns_diff3r.training.loop import TrainingLoop
from ns_diff3r.training.run import RunFolder, RunSettings
from ns_diff3r.training.stages import StageConfig

ROOM = Path(__file__).resolve().parents[2] / "examples" / "room"


@pytest.fixture(params=["room", "fox"])
def data(request) -> Path:
    return ROOM if request.param == "room" else request.getfixturevalue("dev_scenes") / request.param


@torch.no_grad()
def mean_loss(loop: TrainingLoop) -> float:
    """Loss of predictions on fixed choices of training views; those of single steps differ too much to compare."""
    with evaluating(loop.module):
        outputs = [loop.module(loop.sampler.batch(step), 0) for step in range(1000, 1012)]
    return sum(output.scalars["outer_before"] for output in outputs) / len(outputs)


@pytest.mark.slow
def test_both_stages_learn(data, tmp_path):
    settings = RunSettings(
        data=data,
        backbone=tiny_config(),
        collection=CollectionConfig(max_size=48),
        sampler=SamplerConfig(warmup_steps=0),  # equally hard from first to last
        training=TrainingConfig(num_steps=110, stages=StageConfig(pretrain_steps=90), losses=LossConfig(lpips="off")),
    )
    loop = TrainingLoop(settings, RunFolder(tmp_path))
    loss_before = mean_loss(loop)
    records = [record.scalars for record in loop.run()]
    assert mean_loss(loop) < 0.95 * loss_before
    assert all(record["skipped_scenes"] == 0 for record in records)
    assert sum(record["psnr_gain"] for record in records[90:]) > 0

    found = evaluate(loop.module, loop.sampler, ImageMetrics(None)).means
    assert found["psnr_before"] > found["psnr_nearest"] + 2
    assert found["psnr_before"] > found["psnr_constant"] + 2
    assert found["psnr_after"] > found["psnr_before"] + 1
    assert found["ssim_after"] > found["ssim_before"]
