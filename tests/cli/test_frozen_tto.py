# SPDX-License-Identifier: Apache-2.0
"""Differences of a whole optimisation with everything discrete as another run decided it."""

import pytest
import torch

from ns_diff3r.cli.frozen_tto import FrozenTTO
from ns_diff3r.cli.ruler import Problem, Ruler, mode_gradient
from ns_diff3r.data.generated import pixel_aligned_scene
from ns_diff3r.rasterization import render
from ns_diff3r.solver import TTOConfig
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
