# SPDX-License-Identifier: Apache-2.0
"""Differences of a whole optimisation with everything discrete as another run decided it."""

from dataclasses import replace

import pytest
import torch

from ns_diff3r.cli.frozen_tto import FrozenTTO
from ns_diff3r.cli.ruler import Problem, Ruler, mode_gradient
from ns_diff3r.data.generated import pixel_aligned_scene
from ns_diff3r.rasterization import linearize, render
from ns_diff3r.solver import ImageLoss, TTOConfig
from ns_diff3r.solver.image_loss import ImageObjective
from ns_diff3r.solver.inner import run_trajectory
from ns_diff3r.solver.prior import Prior
from ns_diff3r.solver.problem import SceneProblem
from ns_diff3r.splats import Views


@pytest.fixture(scope="module")
def problem() -> Problem:
    """Photographs that the start reproduces but for rounding: every L1 sign of the first step is decided by it."""
    gaussians, cameras = pixel_aligned_scene(12, num_gaussians=40, num_views=3, dtype=torch.float64)
    images = render(gaussians, cameras).rgb.clamp(0, 1)
    noise = 3e-8 * torch.randn(images.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    images[:2] = (images[:2] + noise[:2]).clamp(0, 1)
    views = Views(images, cameras)
    config = TTOConfig(num_steps=6, normalize_frame=False)
    return Problem(config, gaussians.to(dtype=torch.float32).to(dtype=torch.float64), 1.0, views[:2], views[2:])


def agreement(problem: Problem, decided_in: torch.dtype) -> float:
    """Smallest cosine of the float32 adjoint with differences over the groups."""
    exact = mode_gradient(problem, "adjoint", torch.float32)
    ruler = Ruler(problem, exact, decided_in)
    units = problem.units(False)
    found = ruler.differences(False, 4, 1e-5)
    return min(group.agreement(exact.start, units)[0] for group in found.values())


def test_rounding_decides_signs_unless_they_are_those_of_the_run(problem):
    assert agreement(problem, torch.float32) > 0.9999
    assert not agreement(problem, torch.float64) > 0.99  # two runs, two functions


def test_decisions_of_the_same_precision_are_its_own(problem):
    start, scale = problem.start.flatten(), dict.fromkeys(problem.start.group_slices(), 1.0)
    multiplier = torch.ones_like(start)
    arguments = (problem.config, problem.start, multiplier, scale, problem.context, problem.targets)
    own, decided = FrozenTTO.record(*arguments), FrozenTTO.record(*arguments, decided_in=torch.float64)
    moved = start + 1e-4 * torch.randn(start.shape, dtype=start.dtype, generator=torch.Generator().manual_seed(1))
    assert decided(moved, multiplier) == pytest.approx(own(moved, multiplier), rel=1e-12)
    assert decided(start, multiplier) == pytest.approx(own(start, multiplier), rel=1e-12)


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_the_recorded_run_is_that_of_the_other_precision(problem, optimizer):
    config = replace(problem.config, num_steps=20, optimizer=optimizer)
    multiplier = torch.ones(problem.start.num_parameters, dtype=torch.float64)
    scale = dict.fromkeys(problem.start.group_slices(), 1.0)
    views = [view.to(dtype=torch.float32).to(dtype=torch.float64) for view in (problem.context, problem.targets)]
    recorded = FrozenTTO.record(config, problem.start, multiplier, scale, *views, decided_in=torch.float32)
    single = problem.start.to(dtype=torch.float32)
    prior = Prior(single.flatten(), multiplier.float(), list(scale.values()), single.group_slices())
    objective = ImageObjective(config.loss, views[0].images.float())
    cameras = views[0].cameras.to(dtype=torch.float32)
    other = run_trajectory(
        SceneProblem(objective, lambda gaussians: linearize(gaussians, cameras, freeze="pairs")),
        single,
        config.make_optimizer(),
        20,
        prior,
    )
    torch.testing.assert_close(recorded.trajectory.theta.float(), other.theta, rtol=0, atol=0)
    alone = FrozenTTO.record(config, problem.start, multiplier, scale, *views)
    assert not torch.equal(alone.trajectory.theta.float(), other.theta)


@pytest.mark.parametrize("decided_in", [None, torch.float32])
def test_its_gradient_is_what_differences_tend_to(problem, decided_in):
    start, scale = problem.start.flatten(), dict.fromkeys(problem.start.group_slices(), 1.0)
    multiplier = torch.full_like(start, 0.5)
    frozen = FrozenTTO.record(
        problem.config, problem.start, multiplier, scale, problem.context, problem.targets, decided_in
    )
    for gradient, units, at in zip(
        frozen.gradient(start, multiplier),
        (problem.units(False), multiplier),
        (lambda step: frozen(start + step, multiplier), lambda step: frozen(start, multiplier + step)),
        strict=True,
    ):
        step = 1e-4 * units * torch.randn(start.shape, dtype=start.dtype, generator=torch.Generator().manual_seed(2))
        assert float(gradient @ step) == pytest.approx((at(step) - at(-step)) / 2, rel=1e-5)


def test_a_first_gradient_that_changes_its_sign_is_no_jump(problem):
    """The fit is perfect but for noise, so the first gradients of squares are noise too, and Adam takes full steps."""
    start, scale = problem.start.flatten(), dict.fromkeys(problem.start.group_slices(), 1.0)
    multiplier = torch.full_like(start, 0.5)
    arguments = (problem.start, multiplier, scale, problem.context, problem.targets)
    one = FrozenTTO.record(replace(problem.config, num_steps=1, loss=ImageLoss("mse", ssim_weight=0.0)), *arguments)
    step = (
        1e-3
        * problem.units(False)
        * torch.randn(start.shape, dtype=start.dtype, generator=torch.Generator().manual_seed(3))
    )
    moved = one(start + step, multiplier) - one(start, multiplier)
    back = one(start, multiplier) - one(start - step, multiplier)
    assert moved == pytest.approx(back, rel=0.05)
