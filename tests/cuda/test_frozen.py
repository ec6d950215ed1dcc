# SPDX-License-Identifier: Apache-2.0
"""`.at` and `.render` of the CUDA backend: what they keep, against the CPU backend."""

import pytest
import torch

from ns_diff3r import Gaussians, linearize
from ns_diff3r.rasterization import PRESETS
from tests.cuda.cuda_cases import HOST_ONLY, PLACES, cuda_linearization, dtypes_at, require
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


@pytest.mark.parametrize("place", HOST_ONLY)
@pytest.mark.parametrize(("kind", "preset", "antialiased"), ROTATED)
def test_frozen_pairs(kind, preset, antialiased, place):
    """Far enough away that live decisions would differ, and a step further from there."""
    require(place)
    gaussians, cameras = make_scene(kind, 1, 16, 2, SIZE)
    step = 1e-4 if kind == "behind" else 0.02
    v = random_tangent(gaussians, 1)
    there, further = along(gaussians, step, v), along(gaussians, 2 * step, v)
    expected = linearize(gaussians, cameras, preset, BACKGROUNDS, antialiased, backend="native", freeze="pairs")
    value = cuda_linearization(gaussians, cameras, place, preset, BACKGROUNDS, antialiased, freeze="pairs")
    for point in (there, further):
        wanted, found = expected.at(point), value.at(there).at(point)
        assert torch.equal(found.visible, wanted.visible)
        products = all_products(found)
        for name, numbers in all_products(wanted).items():
            if numbers.dtype != torch.bool:
                assert_same_image(products[name], numbers, 1e-9, name)
        for name in ("alpha", "depth"):
            assert_same_image(getattr(found.rendering, name), getattr(wanted.rendering, name), 1e-10, name)


@pytest.mark.parametrize("place", HOST_ONLY)
@pytest.mark.parametrize("preset", PRESETS)
def test_frozen_order(preset, place):
    """Layers that fill the image swap depths, reach caps and thresholds anew, and keep their order."""
    require(place)
    gaussians, cameras = make_scene("huge", 1, 8, 2, SIZE)
    gaussians.opacities[:] = gaussians.opacities.clamp(-1.0, 1.0)
    away = torch.randn(8, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    moved = Gaussians(gaussians.means + away * cameras.viewmats[0, 2, :3], *gaussians.leaves()[1:])
    moved.opacities[::2] += 8.0
    u, v = random_images(cameras), random_tangent(gaussians)
    expected = linearize(gaussians, cameras, preset, BACKGROUNDS, backend="native")
    value = cuda_linearization(gaussians, cameras, place, preset, BACKGROUNDS)
    assert_same_image(value.render(moved).rgb, expected.render(moved).rgb, 1e-11)
    expected, value = expected.at(moved), value.at(moved)
    assert_same_image(value.jvp(v), expected.jvp(v), 1e-10)
    assert_same_groups(value.vjp(u), expected.vjp(u), 1e-10)
    assert torch.equal(value.visible, expected.visible)
    further = along(moved, 0.05, v)
    assert_same_image(value.at(further, "pairs").jvp(v), expected.at(further, "pairs").jvp(v), 1e-10)


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
