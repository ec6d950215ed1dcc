# SPDX-License-Identifier: Apache-2.0
"""Scenes whose prediction, optimisation, loss or gradient is unsound: reported, left out, no harm to the others."""

import logging
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from ns_diff3r import Gaussians
from ns_diff3r.solver import LearningRates, TTOConfig
from ns_diff3r.solver.backward import implicit
from ns_diff3r.solver.pcg import PCGStatus
from ns_diff3r.training.network import NetworkOutput
from ns_diff3r.training.optimizers import GroupOptimizers
from ns_diff3r.training.step import TrainingModule
from tests.training.doubles import batches, gradients, make_batch, make_config, make_network

SOUND, BAD = 0, 1
PRETRAIN, BILEVEL = 0, 1


@pytest.fixture
def module() -> TrainingModule:
    return TrainingModule(make_network(), make_config(pretrain_steps=1, inner_steps=2)).train()


def poison(module: TrainingModule, change: Callable[[NetworkOutput], NetworkOutput]) -> None:
    """Let the network's output for the bad scene pass through `change`."""
    network, bad = module.network, make_batch(BAD).context.images
    forward = network.forward

    def poisoned(context: Any, with_prior: bool = True) -> NetworkOutput:
        output = forward(context, with_prior)
        return change(output) if torch.equal(context.images, bad) else output

    network.forward = poisoned  # pyright: ignore[reportAttributeAccessIssue]


def with_leaf(gaussians: Gaussians, name: str, value: Tensor) -> Gaussians:
    return Gaussians(**{group: value if group == name else leaf for group, leaf in gaussians.items()})


def nan_mean(output: NetworkOutput) -> NetworkOutput:
    means = output.gaussians.means.clone()
    means[3, 1] = math.nan
    return replace(output, gaussians=with_leaf(output.gaussians, "means", means))


def huge(output: NetworkOutput) -> NetworkOutput:
    return replace(output, gaussians=with_leaf(output.gaussians, "scales", output.gaussians.scales + 100))


def nothing(output: NetworkOutput) -> NetworkOutput:
    return replace(output, gaussians=output.gaussians[:0])


def behind(output: NetworkOutput) -> NetworkOutput:
    return replace(output, gaussians=with_leaf(output.gaussians, "means", -output.gaussians.means))


def nan_prior(output: NetworkOutput) -> NetworkOutput:
    assert output.prior is not None
    return replace(output, prior={**output.prior, "scales": output.prior["scales"] * math.nan})


def losses_and_gradients(module: TrainingModule, seeds: list[int], step: int) -> tuple[Any, dict[str, Tensor | None]]:
    module.zero_grad(set_to_none=True)
    output = module(batches(seeds), step)
    output.loss.backward()
    return output, gradients(module.network)


def assert_half(found: dict[str, Tensor | None], alone: dict[str, Tensor | None]) -> None:
    """The bad scene counts in the mean, as 0."""
    assert any(gradient is not None for gradient in alone.values())
    for name, gradient in alone.items():
        if gradient is None:
            assert found[name] is None
        else:
            torch.testing.assert_close(found[name], 0.5 * gradient, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize(
    ("change", "step", "reason"),
    [
        (nan_mean, PRETRAIN, "non-finite"),
        (nan_mean, BILEVEL, "non-finite"),
        (huge, BILEVEL, "so large"),
        (nothing, BILEVEL, "no Gaussian"),
        (behind, BILEVEL, "in front of"),
        (nan_prior, BILEVEL, "λ of scales"),
    ],
)
def test_an_unusable_prediction_is_left_out(module, change, step, reason, caplog):
    _, alone = losses_and_gradients(module, [SOUND], step)
    poison(module, change)
    module.tto.curvature_scale.num_updates.zero_()
    module.tto.curvature_scale.average.zero_()
    with caplog.at_level(logging.WARNING, "ns_diff3r"):
        output, found = losses_and_gradients(module, [SOUND, BAD], step)
    assert output.scenes[0].skipped is None
    assert reason in output.scenes[1].skipped
    assert output.backward_scalars()["skipped_scenes"] == 1.0
    assert next(text for text in output.warnings if "skipped" in text).startswith("generated-1: skipped: ")
    assert "scene generated-1 takes no part" in caplog.text
    assert_half(found, alone)
    assert bool(module.tto.curvature_scale.average.isfinite().all())


@pytest.mark.parametrize("step", [PRETRAIN, BILEVEL])
def test_a_step_with_no_sound_scene_changes_nothing(module, step):
    poison(module, nan_mean)
    optimizers = GroupOptimizers.make(module.network.param_groups(), module.config)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    optimizers.begin_step(step)
    output, found = losses_and_gradients(module, [BAD], step)
    assert float(output.loss.detach()) == 0.0
    assert all(gradient is None for gradient in found.values())
    assert optimizers.end_step(step) == {}
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert output.backward_scalars()["skipped_scenes"] == 1.0


def test_a_diverged_optimisation_is_left_out(module):
    rates = LearningRates(means=1e38)
    module.tto.config = replace(module.tto.config, learning_rates=rates)
    output, found = losses_and_gradients(module, [SOUND], BILEVEL)
    assert "non-finite" in output.scenes[0].skipped
    assert all(gradient is None for gradient in found.values())
    assert output.scenes[0].solution is not None


class _WrongGradient(torch.autograd.Function):
    """The identity, with a gradient that is NaN."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return gradient * math.nan


def spoil_gradient(module: TrainingModule) -> None:
    """The outer loss of the bad scene is right, its gradient NaN."""
    loss, bad = module.outer_loss, make_batch(BAD).targets.images

    def spoiled(images: Tensor, truth: Tensor) -> dict[str, Tensor]:
        return loss(_WrongGradient.apply(images) if torch.equal(truth, bad) else images, truth)

    module.outer_loss = spoiled  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("step", [PRETRAIN, BILEVEL])
def test_a_gradient_that_is_not_finite_stops_before_the_network(module, step, caplog):
    _, alone = losses_and_gradients(module, [SOUND], step)
    module = TrainingModule(make_network(), module.config).train()
    spoil_gradient(module)
    output = module(batches([SOUND, BAD]), step)
    assert all(scene.skipped is None for scene in output.scenes)  # not known yet
    if step == BILEVEL:  # the average D is that of both scenes; what is compared is one scene alone
        output.loss.backward()
        assert all(g is None or bool(g.isfinite().all()) for g in gradients(module.network).values())
    else:
        output.loss.backward()
        assert_half(gradients(module.network), alone)
    assert output.scenes[0].skipped is None
    assert "not finite" in output.scenes[1].skipped
    assert output.backward_scalars()["skipped_scenes"] == 1.0
    assert "generated-1" in caplog.text


def test_a_gradient_scaler_sees_the_overflow(module):
    module.grad_scaler = True
    spoil_gradient(module)
    _, found = losses_and_gradients(module, [BAD], BILEVEL)
    assert any(gradient is not None and bool(gradient.isnan().any()) for gradient in found.values())


@pytest.mark.parametrize("step", [PRETRAIN, BILEVEL])
def test_a_loss_that_is_not_finite_is_left_out(module, step):
    loss, bad = module.outer_loss, make_batch(BAD).targets.images

    def infinite(images: Tensor, truth: Tensor) -> dict[str, Tensor]:
        factor = math.inf if torch.equal(truth, bad) else 1.0
        return {name: factor * term for name, term in loss(images, truth).items()}

    module.outer_loss = infinite
    output, found = losses_and_gradients(module, [SOUND, BAD], step)
    assert "loss is not finite" in output.scenes[1].skipped
    assert math.isfinite(float(output.loss.detach()))
    assert all(g is None or bool(g.isfinite().all()) for g in found.values())


def test_a_broken_solve_is_left_out(module, monkeypatch, caplog):
    right = implicit.pcg

    def broken(*arguments: Any) -> Any:
        return replace(right(*arguments), status=PCGStatus.BREAKDOWN)

    monkeypatch.setattr(implicit, "pcg", broken)
    output, found = losses_and_gradients(module, [SOUND], BILEVEL)
    assert all(gradient is None for gradient in found.values())
    assert "broke down" in output.scenes[0].skipped
    assert output.backward_scalars()["pcg_converged"] == 0.0
    assert "broke down" in caplog.text


def test_a_solve_that_ends_early_counts(module):
    config = replace(module.config, tto=TTOConfig(num_steps=2, pcg=replace(module.config.tto.pcg, max_iterations=1)))
    output, found = losses_and_gradients(TrainingModule(make_network(), config).train(), [SOUND], BILEVEL)
    assert output.scenes[0].skipped is None
    assert output.backward_scalars()["pcg_converged"] == 0.0
    assert any(gradient is not None for gradient in found.values())
