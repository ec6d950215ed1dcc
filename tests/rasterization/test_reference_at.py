# SPDX-License-Identifier: Apache-2.0
"""The oracle's linearisation at another point: the derivatives of the frozen function there, by differences."""

import pytest
import torch

from ns_diff3r import Gaussians
from ns_diff3r.rasterization.config import resolve_preset
from ns_diff3r.rasterization.reference_linearization import linearize_reference
from tests.rasterization.native_cases import along
from tests.scenes import dot, make_scene, random_images, random_tangent

FREEZES = pytest.mark.parametrize("freeze", ["order", "pairs"])
KINDS = pytest.mark.parametrize(
    ("kind", "preset", "antialiased"),
    [("generic", "gsplat-1.4.0", False), ("opaque", "inria", True), ("stack", "gsplat-1.5.3", True)],
)


def start(kind, preset, antialiased, freeze):
    gaussians, cameras = make_scene(kind, 1, 12, 2, (19, 34))
    background = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)
    return linearize_reference(gaussians, cameras, resolve_preset(preset, antialiased), background, freeze)


@FREEZES
@KINDS
def test_at_the_same_point_nothing_changes(kind, preset, antialiased, freeze):
    linearization = start(kind, preset, antialiased, freeze)
    again = linearization.at(linearization.gaussians)
    u = random_images(linearization.cameras)
    assert again.freeze == freeze
    assert torch.equal(again.rgb, linearization.rgb)
    assert torch.equal(again.visible, linearization.visible)
    assert torch.equal(again.vjp(u).flatten(), linearization.vjp(u).flatten())


@FREEZES
@KINDS
def test_value_is_that_of_the_frozen_render(kind, preset, antialiased, freeze):
    linearization = start(kind, preset, antialiased, freeze)
    point = along(linearization.gaussians, 0.05, random_tangent(linearization.gaussians))
    moved = linearization.at(point)
    assert torch.equal(moved.rgb, linearization.render(point).rgb)
    further = along(point, 0.05, random_tangent(point, 1))
    assert torch.equal(moved.render(further).rgb, linearization.render(further).rgb)
    assert torch.equal(moved.at(further).rgb, linearization.at(further).rgb)


@KINDS
def test_products_are_derivatives_of_the_frozen_function(kind, preset, antialiased):
    linearization = start(kind, preset, antialiased, "pairs")
    v, u = random_tangent(linearization.gaussians, 1), random_images(linearization.cameras)
    point = along(linearization.gaussians, 0.05, random_tangent(linearization.gaussians))
    moved = linearization.at(point)
    h = 1e-4

    def rgb(amount):
        return linearization.render(along(point, amount, v)).rgb

    difference = (8 * (rgb(h) - rgb(-h)) - (rgb(2 * h) - rgb(-2 * h))) / (12 * h)
    assert (moved.jvp(v) - difference).norm() < 1e-7 * difference.norm()
    assert dot(moved.vjp(u), v) == pytest.approx(float((u * difference).sum()), rel=1e-6)

    def vjp(amount):
        return linearization.at(along(point, amount, v)).vjp(u).flatten()

    difference = (8 * (vjp(h) - vjp(-h)) - (vjp(2 * h) - vjp(-2 * h))) / (12 * h)
    tangent = moved.vjp_tangent(v, u, torch.zeros_like(u)).flatten()
    assert (tangent - difference).norm() < 1e-6 * difference.norm()


def test_order_is_kept_and_pairs_are_decided_anew():
    """The front layer moves behind the others and all turn dimmer."""
    linearization = start("stack", "gsplat-1.4.0", False, "order")
    gaussians, cameras = linearization.gaussians, linearization.cameras
    front = int((gaussians.means @ cameras.viewmats[0, 2, :3]).argmin())
    means = gaussians.means.clone()
    means[front] += 3.0 * cameras.viewmats[0, 2, :3]
    moved = Gaussians(means, gaussians.quats, gaussians.scales, gaussians.opacities - 2.0, *gaussians.leaves()[4:])
    order, pairs = linearization.at(moved), linearization.at(moved, "pairs")
    live = linearize_reference(moved, cameras, linearization.config)
    assert order.freeze == "order"
    assert pairs.freeze == "pairs"
    assert (order.rgb - pairs.rgb).abs().max() > 1e-3
    assert (order.rgb - live.rgb).abs().max() > 1e-3
    # Decisions of the second point, then kept.
    further = along(moved, 0.02, random_tangent(moved))
    assert torch.equal(order.at(further, "pairs").rgb, order.at(moved, "pairs").render(further).rgb)


def test_a_point_of_another_shape_is_refused():
    linearization = start("generic", "gsplat-1.4.0", False, "order")
    with pytest.raises(ValueError, match="must have the shape of"):
        linearization.at(linearization.gaussians[:3])
