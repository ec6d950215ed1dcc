# SPDX-License-Identifier: Apache-2.0
"""Training steps through the backward modes other than the implicit one."""

import math
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import mse_loss

from ns_diff3r import render
from ns_diff3r.solver import BackwardConfig, MetaGradConfig, TTOConfig
from ns_diff3r.training.step import TrainingModule
from tests.training.doubles import batches, gradients, make_batch, make_config, make_network


def module_of(mode: str, **backward) -> TrainingModule:
    tto = TTOConfig(num_steps=3, backward_mode=mode, backward=BackwardConfig(**backward))  # type: ignore[arg-type]
    return TrainingModule(make_network(), make_config(tto=tto, freeze_backbone=False)).train()


@pytest.mark.parametrize("mode", ["adjoint", "truncated", "first_order", "none"])
def test_modes_train_what_they_should(mode):
    module = module_of(mode, num_iterations=2)
    output = module(batches([0, 1]), 3)
    output.loss.backward()
    found = gradients(module.network)
    assert all(g is not None and torch.isfinite(g).all() for n, g in found.items() if not n.startswith("uncertainty"))
    by_prior = [g for n, g in found.items() if n.startswith("uncertainty")]
    if mode in ("adjoint", "truncated"):
        assert all(g is not None and g.any() for g in by_prior)
    else:
        assert not any(g is not None and g.any() for g in by_prior)
    scalars = output.backward_scalars()
    assert not any(name.startswith("pcg") for name in scalars)
    if mode != "none":
        assert scalars["seconds_solve"] > 0.0
        assert [scene.solution.backward.mode.value for scene in output.scenes] == [mode] * 2


@pytest.mark.parametrize("weight", [0.0, 0.4])
@pytest.mark.parametrize("views", ["target", "context"])
def test_metagrad_steps_follow_foresplat(weight, views):
    """(1 − w) · mean over the anchors of ∇L at the anchor, plus w · ∇L(θ⁰), with respect to the network's output."""
    anchors = MetaGradConfig(stride=2, min_steps=5, max_steps=5, zero_shot_weight=weight, anchor_views=views)
    module = module_of("metagrad", metagrad=anchors)
    batch = make_batch(0)
    output = module([batch], 3)
    assert output.scenes[0].scalars["inner_steps"] == 5
    assert set(output.losses) == ({"outer_anchors", "auxiliary_mse"} if weight else {"outer_anchors"})
    output.loss.backward()
    found = gradients(module.network)
    assert output.scenes[0].solution.anchor_loss is None  # reports hold no graph
    assert {"psnr_before", "psnr_after"} <= set(output.scenes[0].scalars)

    module.zero_grad(set_to_none=True)
    prediction = module.network(batch.context)
    seen = batch.targets if views == "target" else batch.context
    of_anchors = []
    for steps in (2, 4):
        with torch.no_grad():
            layer = module.tto.eval()
            layer.config = replace(layer.config, num_steps=steps, backward_mode="none")
            theta, _ = layer(prediction.gaussians, prediction.prior, batch.context)
        leaf = theta.flatten().requires_grad_()
        loss = mse_loss(render(theta.unflatten(leaf), seen.cameras).rgb, seen.images)
        of_anchors.append(torch.autograd.grad(loss, leaf)[0])
    zero_shot = mse_loss(render(prediction.gaussians, batch.targets.cameras).rgb, batch.targets.images)
    surrogate = (prediction.gaussians.flatten() * torch.stack(of_anchors).mean(0)).sum()
    ((1.0 - weight) * surrogate + weight * zero_shot).backward()
    for name, gradient in gradients(module.network).items():
        if gradient is not None and not name.startswith("uncertainty"):
            assert (found[name] - gradient).norm() < 1e-3 * gradient.norm(), name


def test_horizons_of_metagrad_follow_the_step():
    anchors = MetaGradConfig(stride=2, min_steps=2, max_steps=12)
    module = module_of("metagrad", metagrad=anchors)
    batch = make_batch(0)
    counts = [module([batch], step).scenes[0].scalars["inner_steps"] for step in (3, 4, 5, 3)]
    assert counts[0] == counts[3]
    assert len(set(counts)) > 1
    with torch.no_grad():
        output = module.eval()([batch], 3)
    assert output.scenes[0].scalars["inner_steps"] == 3
    assert math.isfinite(output.scenes[0].scalars["psnr_after"])


def test_evaluation_of_metagrad_takes_any_number_of_steps():
    module = module_of("metagrad", metagrad=MetaGradConfig(stride=3, min_steps=0, max_steps=0))
    assert module.config.evaluation_config(1).num_steps == 1
    assert module.config.evaluation_config().num_steps == 3
