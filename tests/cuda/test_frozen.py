# SPDX-License-Identifier: Apache-2.0
"""`.at` and `.render` of the CUDA backend: what they keep, against the CPU backend."""

import pytest
import torch

from ns_diff3r import Gaussians, linearize
from ns_diff3r.rasterization import PRESETS
from tests.cuda.cuda_cases import AWAY_FROM_THRESHOLDS, PLACES, cuda_linearization, dtypes_at, require
from tests.rasterization.native_cases import (
    BACKGROUNDS,
    PRESETS_AND_MODES,
    SIZE,
    all_products,
    along,
    assert_same_groups,
    assert_same_image,
)
from tests.scenes import SCENE_KINDS, make_scene, random_images, random_tangent

ROTATED = [(kind, *PRESETS_AND_MODES[i % 6]) for i, kind in enumerate(SCENE_KINDS)]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(("kind", "preset", "antialiased"), ROTATED)
def test_frozen_pairs(kind, preset, antialiased, place):
    """Far enough away that live decisions would differ, and a step further from there."""
    require(place)
    if place == "cuda" and kind not in AWAY_FROM_THRESHOLDS:
        pytest.skip("this scene lies on thresholds that float32 decides either way")
    dtype, tolerance = dtypes_at(place)
    gaussians, cameras = make_scene(kind, 1, 16, 2, SIZE)
    step = 1e-4 if kind == "behind" else 0.02
    v = random_tangent(gaussians, 1)
    there, further = along(gaussians, step, v), along(gaussians, 2 * step, v)
    expected = linearize(gaussians, cameras, preset, BACKGROUNDS, antialiased, backend="native", freeze="pairs")
    here = gaussians.to(dtype=dtype)
    value = cuda_linearization(here, cameras, place, preset, BACKGROUNDS, antialiased, freeze="pairs")
    for point in (there, further):
        on_the_way, end = (x.to(dtype=dtype, device=place) for x in (there, point))
        wanted, found = expected.at(point), value.at(on_the_way).at(end)
        assert torch.equal(found.visible.cpu(), wanted.visible)
        products = all_products(found)
        for name, numbers in all_products(wanted).items():
            if numbers.dtype != torch.bool:
                assert_same_image(products[name].cpu(), numbers, 10 * tolerance, name)
        for name in ("alpha", "depth"):
            images = getattr(found.rendering, name).cpu(), getattr(wanted.rendering, name)
            assert_same_image(*images, tolerance, name)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("preset", PRESETS)
def test_frozen_order(preset, place):
    """Layers that fill the image swap depths, reach caps and thresholds anew, and keep their order."""
    require(place)
    dtype, tolerance = dtypes_at(place)

    def at_place(x):
        return x.to(dtype=dtype, device=place)

    gaussians, cameras = make_scene("huge", 1, 8, 2, SIZE)
    gaussians.opacities[:] = gaussians.opacities.clamp(-1.0, 1.0)
    away = torch.randn(8, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    moved = Gaussians(gaussians.means + away * cameras.viewmats[0, 2, :3], *gaussians.leaves()[1:])
    moved.opacities[::2] += 8.0
    u, v = random_images(cameras), random_tangent(gaussians)
    expected = linearize(gaussians, cameras, preset, BACKGROUNDS, backend="native")
    value = cuda_linearization(gaussians.to(dtype=dtype), cameras, place, preset, BACKGROUNDS)
    assert_same_image(value.render(at_place(moved)).rgb.cpu(), expected.render(moved).rgb, tolerance)
    expected, value = expected.at(moved), value.at(at_place(moved))
    assert_same_image(value.jvp(at_place(v)).cpu(), expected.jvp(v), tolerance)
    assert_same_groups(value.vjp(u.to(value.rgb)).to(device="cpu"), expected.vjp(u), tolerance)
    assert torch.equal(value.visible.cpu(), expected.visible)
    further = along(moved, 0.05, v)
    pairs = value.at(at_place(further), "pairs").jvp(at_place(v))
    assert_same_image(pairs.cpu(), expected.at(further, "pairs").jvp(v), tolerance)


@pytest.mark.parametrize("freeze", ["order", "pairs"])
@pytest.mark.parametrize("place", PLACES)
def test_at_the_same_point_nothing_changes(freeze, place):
    require(place)
    dtype, _ = dtypes_at(place)
    gaussians, cameras = make_scene("stack", 1, 24, 2, SIZE, dtype)
    value = cuda_linearization(gaussians, cameras, place, freeze=freeze)
    again = all_products(value.at(value.gaussians))
    for name, numbers in all_products(value).items():
        assert torch.equal(again[name], numbers), name


@pytest.mark.parametrize("place", PLACES)
def test_gradient_of_render(place):
    require(place)
    dtype, _ = dtypes_at(place)
    gaussians, cameras = make_scene("generic", 1, 24, 2, SIZE, dtype)
    value = cuda_linearization(gaussians, cameras, place)
    u = random_images(value.cameras, 0, dtype)
    point = along(value.gaussians, 0.01, random_tangent(value.gaussians))
    expected = value.at(point).vjp(u)
    leaves = point.requires_grad_()
    gradient = Gaussians(*torch.autograd.grad((value.render(leaves).rgb * u).sum(), leaves.leaves()))
    assert_same_groups(gradient, expected, 0.0)


@pytest.mark.parametrize("place", PLACES)
def test_a_pixel_whose_light_is_used_up(place):
    """Without a stop, and with frozen pairs that became opaque: no division by the nothing that is left."""
    from dataclasses import replace

    from ns_diff3r.rasterization.config import resolve_preset

    require(place)
    dtype, _ = dtypes_at(place)
    gaussians, cameras = make_scene("stack", 1, 60, 1, SIZE, dtype)
    config = replace(resolve_preset("gsplat-1.4.0"), transmittance_min=0.0)
    opaque = gaussians.map(torch.clone)
    opaque.opacities[:] = 30.0
    for lin in (
        cuda_linearization(opaque, cameras, place, config),
        cuda_linearization(gaussians, cameras, place, freeze="pairs").at(opaque.to(device=place)),
    ):
        for name, numbers in all_products(lin).items():
            assert numbers.isfinite().all(), name
