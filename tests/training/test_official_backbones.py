# SPDX-License-Identifier: Apache-2.0
"""A few training steps of both stages with the official networks at a small size, random weights."""

import pytest
import torch

from ns_diff3r.backbones import DepthAnything3Config, DepthSplatConfig, UncertaintyHeadConfig
from ns_diff3r.data import CollectionConfig, SamplerConfig
from ns_diff3r.splats import Views
from ns_diff3r.training.config import GroupOptimizer
from ns_diff3r.training.inference import evaluation_layer, reconstruct
from ns_diff3r.training.loop import TrainingLoop
from ns_diff3r.training.network import Diff3RNetwork
from ns_diff3r.training.optimizers import GroupOptimizers
from ns_diff3r.training.run import RunFolder, RunSettings
from ns_diff3r.training.step import TrainingModule
from tests.backbones.official_views import depth_anything_3, depthsplat
from tests.training.doubles import make_batch, make_config

KINDS = {
    "depthsplat": lambda: depthsplat(),
    "two scales": lambda: depthsplat(num_scales=2, upsample_factor=2),
    "da3": lambda: depth_anything_3(),
}


def make_module(kind: str, pretrain_steps: int) -> TrainingModule:
    backbone = KINDS[kind]()
    head = UncertaintyHeadConfig().setup(backbone.feature_dim, backbone.sh_degree)
    rates = GroupOptimizer(pretrain_rate=1e-4, bilevel_rate=1e-4)  # by larger ones they leave the scene
    groups = {"backbone": rates, "gaussian_head": rates, "uncertainty_head": rates}
    config = make_config(pretrain_steps=pretrain_steps, num_steps=2, inner_steps=2, **groups)
    return TrainingModule(Diff3RNetwork(backbone, head), config).train()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stage", ["pretrain", "bilevel"])
def test_two_steps(kind, stage):
    module = make_module(kind, 2 if stage == "pretrain" else 0)
    optimizers = GroupOptimizers.make(module.network.param_groups(), module.config)
    before = {name: parameter.detach().clone() for name, parameter in module.network.named_parameters()}
    batch = make_batch(size=32)
    for step in range(2):
        optimizers.begin_step(step)
        output = module([batch], step)
        assert output.scenes[0].skipped is None, output.scenes[0].skipped
        coarse = {name for name in output.losses if name.startswith("coarse")}
        assert bool(coarse) == (kind == "two scales" and stage == "pretrain")
        output.loss.backward()
        assert output.scenes[0].skipped is None, output.scenes[0].skipped
        optimizers.end_step(step)
    groups = {id(p): name for name, group in module.network.param_groups().items() for p in group}
    trained = module.config.stages.trained_groups(module.config.stage(0))
    idle = {id(parameter) for parameter in module.network.backbone.idle_parameters()}
    for name, parameter in module.network.named_parameters():
        expected = groups[id(parameter)] in trained and id(parameter) not in idle
        changed = not torch.equal(parameter, before[name])
        assert changed == expected or name.endswith("downsample.0.bias"), name
        assert parameter.requires_grad == expected, name


def test_optimisation_without_poses_takes_the_predicted_cameras():
    module, batch = make_module("da3", 0), make_batch(size=32)
    result = reconstruct(module, batch.context, num_steps=3)
    cameras = result.output.prediction.cameras
    assert cameras is not None
    assert (cameras.viewmats - batch.context.cameras.viewmats).abs().max() > 0.05
    seen = result.output.prediction.as_seen(batch.context)
    with torch.no_grad():
        expected, _ = evaluation_layer(module, 3)(result.before, result.output.prior, seen)
    assert all(torch.equal(a, b) for a, b in zip(result.after.leaves(), expected.leaves(), strict=True))

    optimised: list[Views] = []
    layer = module.tto.forward
    module.tto.forward = lambda *inputs, **options: (optimised.extend(inputs[2]), layer(*inputs, **options))[1]
    module([batch], 0)
    assert torch.equal(optimised[0].cameras.viewmats, seen.cameras.viewmats)


SETTINGS = {"depthsplat": DepthSplatConfig(), "da3": DepthAnything3Config(size="small")}


@pytest.mark.parametrize("kind", SETTINGS)
def test_both_stages_on_a_real_scene(kind, dev_scenes, tmp_path):
    """As a run of `ns-diff3r fit`, from random weights; a run that is continued takes up where it ended."""
    rates = GroupOptimizer(pretrain_rate=1e-4, bilevel_rate=1e-4)
    groups = {"backbone": rates, "gaussian_head": rates, "uncertainty_head": rates}
    settings = RunSettings(
        data=dev_scenes / "lund_door",
        backbone=SETTINGS[kind],
        collection=CollectionConfig(max_size=64),
        sampler=SamplerConfig(num_context=2, num_targets=1),
        training=make_config(pretrain_steps=2, num_steps=4, inner_steps=2, **groups),
    )
    loop = TrainingLoop(settings, RunFolder(tmp_path))
    records = list(loop.run())
    assert [record.output.stage.value for record in records] == ["pretrain"] * 2 + ["bilevel"] * 2
    assert not any(record.scalars["skipped_scenes"] for record in records)
    assert TrainingLoop(settings, RunFolder(tmp_path)).steps_done == 4
