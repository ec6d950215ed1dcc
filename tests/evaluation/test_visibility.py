# SPDX-License-Identifier: Apache-2.0
"""Which views see a Gaussian, and what error is at it."""

import math
from dataclasses import replace

import pytest
import torch

from ns_diff3r import Cameras, Gaussians, TTOConfig, render
from ns_diff3r.evaluation.visibility import (
    ContextVisibility,
    error_at_gaussians,
    gathered,
    projects_inside,
    view_weights,
)
from ns_diff3r.splats.painting import painted
from tests.scenes import make_scene

CONFIG = TTOConfig()


def blobs(places: list[tuple[float, float, float]], sizes: list[float], opacity: float = 6.0) -> Gaussians:
    count = len(places)
    return Gaussians(
        means=torch.tensor(places),
        quats=torch.tensor([1.0, 0.0, 0.0, 0.0]).repeat(count, 1),
        scales=torch.tensor(sizes).log()[:, None].repeat(1, 3),
        opacities=torch.full((count,), opacity),
        sh0=torch.full((count, 1, 3), 0.3),
        shN=torch.zeros(count, 0, 3),
    )


def cameras_at(*places: float) -> Cameras:
    """Cameras at (x, 0, 0) that look along z, 64 pixels wide, a right angle of view."""
    viewmats = torch.eye(4).repeat(len(places), 1, 1)
    viewmats[:, 0, 3] = -torch.tensor(places)
    intrinsics = torch.tensor([[32.0, 0, 32], [0, 32.0, 32], [0, 0, 1]]).repeat(len(places), 1, 1)
    return Cameras(viewmats, intrinsics, 64, 64)


@pytest.mark.parametrize("antialiased", [False, True])
def test_weights_are_those_of_compositing(antialiased):
    """Against the sum of an image in which one Gaussian alone is white; colours, dark ones too, make no difference."""
    gaussians, cameras = make_scene("stack", num_gaussians=12, size=(24, 20), seed=3)
    config = replace(CONFIG, antialiased=antialiased)
    weights = view_weights(gaussians, cameras, config)
    for index in range(gaussians.num_gaussians):
        white = torch.zeros(gaussians.num_gaussians, dtype=gaussians.dtype)
        white[index] = 1.0
        drawn = render(painted(gaussians, white), cameras, antialiased=antialiased).rgb[..., 0]
        torch.testing.assert_close(weights[:, index], drawn.sum((1, 2)), rtol=1e-9, atol=1e-9)
    black = gaussians.map(lambda leaf: leaf)
    black = replace(black, sh0=torch.full_like(black.sh0, -9.0), shN=torch.zeros_like(black.shN))
    assert torch.equal(view_weights(black, cameras, config), weights)


def test_channels_are_summed_apart():
    gaussians, cameras = make_scene("stack", num_gaussians=12, size=(24, 20), seed=3)
    images = torch.rand(2, 24, 20, 3, generator=torch.Generator().manual_seed(0)).double()
    found = gathered(gaussians, cameras, images, CONFIG)
    for channel in range(3):
        alone = torch.zeros_like(images)
        alone[..., 0] = images[..., channel]
        torch.testing.assert_close(gathered(gaussians, cameras, alone, CONFIG)[..., 0], found[..., channel])


def test_hidden_and_outside_is_not_seen():
    """Two cameras side by side; of the Gaussians: in both images; outside the second; behind a wall for the second;
    the wall, outside the first; behind both cameras."""
    places = [(1.0, 0.0, 4.0), (-3.5, 0.0, 4.0), (1.0, 2.0, 4.0), (1.75, 0.5, 1.0), (1.0, 0.0, -4.0)]
    gaussians, cameras = blobs(places, [0.3, 0.3, 0.2, 0.2, 0.3]), cameras_at(0.0, 2.0)
    seen = ContextVisibility.of(gaussians, cameras, CONFIG)
    assert seen.views().tolist() == [2, 1, 1, 1, 0]
    assert seen.frustum_views().tolist() == [2, 1, 2, 1, 0]
    assert seen.moved.tolist() == [True, True, True, True, False]
    effective = seen.effective_views().tolist()
    assert effective == pytest.approx([2.0, 1.0, 1.0, 1.0, 0.0], abs=0.2)
    without_wall = ContextVisibility.of(gaussians[torch.tensor([0, 1, 2, 4])], cameras, CONFIG)
    assert without_wall.views().tolist() == [2, 1, 2, 0]


def test_thresholds():
    seen = ContextVisibility(torch.tensor([[1.0, 0.04, 3.0, 0.0], [0.09, 0.04, 1.0, 0.0]]), torch.ones(2, 4).bool())
    assert seen.views().tolist() == [1, 0, 2, 0]
    assert seen.views(min_share=0.05).tolist() == [2, 0, 2, 0]
    assert seen.views(min_weight=0.01).tolist() == [1, 2, 2, 0]
    assert seen.views(min_weight=2.0).tolist() == [0, 0, 1, 0]
    expected = [1.09**2 / (1 + 0.09**2), 2.0, 16 / 10, 0.0]
    assert seen.effective_views().tolist() == pytest.approx(expected)


def test_the_error_at_a_gaussian_is_that_of_its_pixels():
    gaussians = blobs([(-2.0, 0.0, 4.0), (2.0, 0.0, 4.0), (0.0, 0.0, 4.0), (0.0, 0.0, -4.0)], [0.2, 0.2, 0.2, 0.2])
    errors = torch.zeros(1, 64, 64)
    errors[:, :, :32] = 0.7
    left, right, middle, unseen = error_at_gaussians(gaussians, cameras_at(0.0), errors, CONFIG, 0.05).tolist()
    assert left == pytest.approx(0.7, abs=1e-5)
    assert right == pytest.approx(0.0, abs=1e-6)
    assert middle == pytest.approx(0.35, abs=0.01)
    assert math.isnan(unseen)


def test_a_point_beside_the_image_or_behind_the_camera_is_not_inside():
    means = torch.tensor([[0.0, 0.0, 1.0], [1.01, 0.0, 1.0], [0.99, 0.0, 1.0], [0.0, -1.01, 1.0], [0.0, 0.0, -1.0]])
    assert projects_inside(means, cameras_at(0.0)).tolist() == [[True, False, True, False, False]]
