# SPDX-License-Identifier: Apache-2.0
"""A world ten times as large, seen by cameras ten times as far apart, is the same picture with the same products."""

import math

import pytest
import torch

from ns_diff3r import Cameras, Gaussians, linearize
from ns_diff3r.rasterization import PRESETS, resolve_preset
from tests.rasterization.native_cases import BACKGROUNDS, SIZE, assert_same_groups, assert_same_image
from tests.scenes import SCENE_KINDS, make_scene, random_images, random_tangent

FACTOR = 10.0


def rescaled(gaussians, cameras):
    larger = Gaussians(
        FACTOR * gaussians.means, gaussians.quats, gaussians.scales + math.log(FACTOR), *gaussians.leaves()[3:]
    )
    viewmats = cameras.viewmats.clone()
    viewmats[:, :3, 3] *= FACTOR
    return larger, Cameras(viewmats, cameras.Ks, cameras.width, cameras.height)


def scaled_means(vector, factor):
    return Gaussians(factor * vector.means, *vector.leaves()[1:])


@pytest.mark.parametrize("antialiased", [False, True])
@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("kind", [kind for kind in SCENE_KINDS if kind != "behind"])  # planes near and far stay put
def test_rescaled_world(kind, preset, antialiased):
    # The original's p_w + 1e-7 is the one length in its formulas; it moves centres by a relative 1e-8.
    tolerance = 1e-5 if resolve_preset(preset).perspective_epsilon else 1e-9
    gaussians, cameras = make_scene(kind, 2, 24, 2, SIZE)
    small = linearize(gaussians, cameras, preset, BACKGROUNDS, antialiased)
    large = linearize(*rescaled(gaussians, cameras), preset, BACKGROUNDS, antialiased)
    assert_same_image(large.rgb, small.rgb, tolerance, "rgb")
    assert_same_image(large.rendering.alpha, small.rendering.alpha, tolerance, "alpha")
    assert_same_image(large.rendering.depth, FACTOR * small.rendering.depth, tolerance, "depth")
    assert torch.equal(large.visible, small.visible)

    v, u, du = random_tangent(gaussians), random_images(cameras, 1), random_images(cameras, 2)
    larger_v, weights = scaled_means(v, FACTOR), random_images(cameras, 3) ** 2
    assert_same_image(large.jvp(larger_v), small.jvp(v), tolerance, "jvp")
    for value, expected, power in (
        (large.vjp(u), small.vjp(u), 1),
        (large.gauss_newton(larger_v, weights), small.gauss_newton(v, weights), 1),
        (large.vjp_tangent(larger_v, u, du), small.vjp_tangent(v, u, du), 1),
        (large.diagonal(weights), small.diagonal(weights), 2),
    ):
        assert_same_groups(value, scaled_means(expected, FACTOR**-power), tolerance)
    twist = small.vjp_cameras(u)
    assert_same_image(large.vjp_cameras(u), torch.cat([twist[:, :3] / FACTOR, twist[:, 3:]], dim=1), tolerance, "twist")
