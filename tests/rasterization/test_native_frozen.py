# SPDX-License-Identifier: Apache-2.0
"""`.at` and `.render` of a native linearisation: what they keep, and that products there are of the same function."""

import pytest
import torch

from ns_diff3r import Gaussians, linearize, render
from ns_diff3r.data.generated import pixel_aligned_scene
from ns_diff3r.rasterization import PRESETS
from tests.rasterization.native_cases import (
    BACKGROUNDS,
    EVERYTHING,
    PRESETS_AND_MODES,
    SIZE,
    all_products,
    along,
    assert_same_groups,
    assert_same_image,
    pair,
)
from tests.scenes import SCENE_KINDS, dot, make_scene, random_images, random_tangent

FREEZES = pytest.mark.parametrize("freeze", ["order", "pairs"])
ROTATED = [(kind, *PRESETS_AND_MODES[i % 6]) for i, kind in enumerate(SCENE_KINDS)]


@FREEZES
@pytest.mark.parametrize(("kind", "preset", "antialiased"), ROTATED)
def test_at_the_same_point_nothing_changes(kind, preset, antialiased, freeze):
    gaussians, cameras = make_scene(kind, 2, 24, 2, SIZE)
    linearization = linearize(gaussians, cameras, preset, BACKGROUNDS, antialiased, freeze=freeze)
    again = linearization.at(gaussians)
    assert again.freeze == freeze
    assert again.cameras is cameras
    for name, value in all_products(again).items():
        torch.testing.assert_close(value, all_products(linearization)[name], rtol=1e-13, atol=0, msg=name)
    drawn, rendering = linearization.render(gaussians), render(gaussians, cameras, preset, BACKGROUNDS, antialiased)
    for name in ("rgb", "alpha", "depth"):
        torch.testing.assert_close(getattr(drawn, name), getattr(rendering, name), rtol=1e-13, atol=1e-15, msg=name)


@pytest.mark.parametrize(("kind", "preset", "antialiased"), EVERYTHING)
def test_frozen_pairs_against_the_oracle(kind, preset, antialiased):
    """Far enough away that live decisions would differ: images, products and products of products' points."""
    case = pair(kind, preset, antialiased)
    point = along(case.gaussians, 1e-4 if kind == "behind" else 0.02, case.v)
    native, oracle = case.native.at(point, "pairs"), case.oracle.at(point, "pairs")
    value, expected = case.native.render(point), case.oracle.render(point)
    for name in ("rgb", "alpha", "depth"):
        assert_same_image(getattr(value, name), getattr(expected, name), 1e-11, name)
    assert torch.equal(value.rgb, native.rgb)
    assert torch.equal(native.visible, oracle.visible)
    assert_same_image(native.jvp(case.v), oracle.jvp(case.v), 1e-10)
    assert_same_groups(native.vjp(case.u), oracle.vjp(case.u), 1e-10)
    second_order = oracle.vjp_tangent(case.v, case.u, case.du)
    assert_same_groups(native.vjp_tangent(case.v, case.u, case.du), second_order, 1e-10)
    assert_same_image(native.vjp_cameras(case.u), oracle.vjp_cameras(case.u), 1e-10)


@pytest.mark.parametrize("preset", PRESETS)
def test_frozen_order_against_the_oracle(preset):
    """Layers that fill the image swap depths, reach caps and thresholds anew, and keep their order.

    They fill it because lists are finer than the oracle's tiles: what grows does not enter blocks that it could not
    reach before.
    """
    gaussians, cameras = make_scene("huge", 1, 8, 2, SIZE)
    gaussians.opacities[:] = gaussians.opacities.clamp(-1.0, 1.0)
    away = torch.randn(8, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    moved = Gaussians(gaussians.means + away * cameras.viewmats[0, 2, :3], *gaussians.leaves()[1:])
    moved.opacities[::2] += 8.0
    u, v = random_images(cameras), random_tangent(gaussians)
    native, oracle = (linearize(gaussians, cameras, preset, BACKGROUNDS, backend=b) for b in ("native", "reference"))
    assert (render(moved, cameras, preset, BACKGROUNDS).rgb - native.render(moved).rgb).abs().max() > 1e-2
    assert_same_image(native.render(moved).rgb, oracle.render(moved).rgb, 1e-11)
    native, oracle = native.at(moved), oracle.at(moved)
    assert_same_image(native.rgb, oracle.rgb, 1e-11)
    assert_same_image(native.jvp(v), oracle.jvp(v), 1e-10)
    assert_same_groups(native.vjp(u), oracle.vjp(u), 1e-10)
    assert torch.equal(native.visible, oracle.visible)
    assert_same_image(native.at(gaussians).rgb, oracle.at(gaussians).rgb, 1e-11)
    # Decisions taken here, kept further on.
    further = along(moved, 0.05, v)
    assert_same_image(native.at(further, "pairs").jvp(v), oracle.at(further, "pairs").jvp(v), 1e-10)


@pytest.mark.parametrize(("kind", "preset", "antialiased"), ROTATED)
def test_chains_of_frozen_points(kind, preset, antialiased):
    """The decisions are those of the first point, however one comes to the last."""
    case = pair(kind, preset, antialiased)
    step = 1e-4 if kind == "behind" else 0.02
    there, further = along(case.gaussians, step, case.v), along(case.gaussians, 2 * step, case.v)
    direct, chained = case.native.at(further, "pairs"), case.native.at(there, "pairs").at(further, "pairs")
    for name, value in all_products(chained).items():
        assert torch.equal(value, all_products(direct)[name]), name
    assert torch.equal(direct.at(case.gaussians, "pairs").rgb, case.native.at(case.gaussians, "pairs").rgb)


@pytest.mark.parametrize(("kind", "preset", "antialiased"), ROTATED)
def test_frozen_pairs_are_smooth(kind, preset, antialiased):
    """Halving the step divides the error of the linear model by four, across every threshold on the way."""
    case = pair(kind, preset, antialiased)
    pushed = case.native.jvp(case.v)
    errors = []
    for step in (1e-4, 5e-5) if kind == "behind" else (4e-3, 2e-3):
        moved = case.native.render(along(case.gaussians, step, case.v)).rgb
        errors.append(float((moved - case.native.rgb - step * pushed).norm()))
    assert errors[0] / errors[1] == pytest.approx(4.0, rel=0.1)


@FREEZES
@pytest.mark.parametrize(("kind", "preset", "antialiased"), ROTATED)
def test_gradient_of_render(kind, preset, antialiased, freeze):
    """Autograd through `.render` is the vjp of `.at` there."""
    gaussians, cameras = make_scene(kind, 2, 24, 2, SIZE)
    u = random_images(cameras)
    linearization = linearize(gaussians, cameras, preset, BACKGROUNDS, antialiased, freeze=freeze)
    point = along(gaussians, 1e-4 if kind == "behind" else 0.01, random_tangent(gaussians))
    expected = linearization.at(point).vjp(u)
    leaves = point.requires_grad_()
    gradient = Gaussians(*torch.autograd.grad((linearization.render(leaves).rgb * u).sum(), leaves.leaves()))
    assert_same_groups(gradient, expected, 0.0)
    v = random_tangent(gaussians, 3)
    assert dot(v, gradient) == pytest.approx(float((linearization.at(point).jvp(v) * u).sum()), rel=1e-9)


def test_unchanged_by_later_changes_of_the_freeze():
    """An override of the freeze concerns the new linearisation only."""
    gaussians, cameras = make_scene("generic", 1, 12, 1, SIZE)
    linearization = linearize(gaussians, cameras, freeze="order")
    assert linearization.at(gaussians, "pairs").freeze == "pairs"
    assert linearization.at(gaussians).freeze == linearization.freeze == "order"


@FREEZES
def test_a_gaussian_that_vanished_on_the_way(freeze):
    """In antialiased mode a Gaussian that shrinks far enough has opacity 0: no light, no gradient, no NaN."""
    gaussians, cameras = make_scene("generic", 1, 12, 1, SIZE, torch.float32)
    linearization = linearize(gaussians, cameras, antialiased=True, freeze=freeze)
    shrunk = gaussians.map(torch.clone)
    shrunk.scales[2] = -30.0
    point = linearization.at(shrunk)
    u, v = random_images(cameras, dtype=torch.float32), random_tangent(gaussians)
    assert point.rgb.isfinite().all()
    assert point.jvp(v).isfinite().all()
    for vector in (point.vjp(u), point.gauss_newton(v, u * u), point.vjp_tangent(v, u, u), point.diagonal(u * u)):
        assert vector.flatten().isfinite().all()


@pytest.mark.parametrize("backend", ["native", "reference"])
def test_decisions_can_be_taken_to_another_precision(backend):
    """Single precision decides at thresholds by rounding; a double-precision twin draws what it decided."""
    gaussians, cameras = pixel_aligned_scene(24, num_gaussians=120, num_views=2, dtype=torch.float32)
    single = linearize(gaussians, cameras, backend=backend)
    double = single.to(torch.float64)
    assert double.gaussians.dtype == double.cameras.dtype == double.rgb.dtype == torch.float64
    assert torch.equal(double.gaussians.means, gaussians.means.double())
    assert torch.equal(double.visible, single.visible)
    torch.testing.assert_close(double.rgb.float(), single.rgb, rtol=0, atol=5e-6)
    moved = double.gaussians.map(lambda leaf: leaf + 1e-3)
    assert torch.equal(double.at(moved).visible, single.visible)  # all decisions stay
    torch.testing.assert_close(double.to(torch.float32).to(torch.float64).rgb, double.rgb, rtol=0, atol=0)
    u = torch.rand(double.rgb.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    here = double.at(double.gaussians)
    torch.testing.assert_close(double.vjp(u).flatten(), here.vjp(u).flatten(), rtol=1e-12, atol=1e-12)
    size = float(double.vjp(u).flatten().norm())
    error = single.vjp(u.float()).flatten().double() - double.vjp(u).flatten()
    assert float(error.norm()) < 1e-4 * size
