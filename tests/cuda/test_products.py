# SPDX-License-Identifier: Apache-2.0
"""Rendering and every product of the CUDA kernels against the CPU backend."""

import pytest
import torch

from ns_diff3r import Gaussians, linearize
from ns_diff3r.splats import GROUPS
from tests.cuda.cuda_cases import AWAY_FROM_THRESHOLDS, PLACES, cuda_linearization, dtypes_at, require
from tests.rasterization.native_cases import (
    BACKGROUNDS,
    PRESETS_AND_MODES,
    SIZE,
    all_products,
    assert_same_groups,
    assert_same_image,
    many_gaussians,
    only,
)
from tests.scenes import SCENE_KINDS, make_scene, random_images, random_tangent

ROTATED = [(kind, *PRESETS_AND_MODES[(i + 3) % 6]) for i, kind in enumerate(SCENE_KINDS)]
places = pytest.mark.parametrize("place", PLACES)


def check(gaussians, cameras, place="cpu", preset="gsplat-1.4.0", antialiased=False, background=BACKGROUNDS):
    require(place)
    dtype, tolerance = dtypes_at(place)
    background = background[: cameras.num_views]
    expected = linearize(gaussians, cameras, preset, background, antialiased, backend="native")
    value = cuda_linearization(gaussians.to(dtype=dtype), cameras, place, preset, background, antialiased)
    for name in ("rgb", "alpha", "depth"):
        assert_same_image(getattr(value.rendering, name).cpu(), getattr(expected.rendering, name), tolerance, name)
    products = all_products(value)
    for name, numbers in all_products(expected).items():
        if numbers.dtype == torch.bool:
            assert torch.equal(products[name].cpu(), numbers), name
        elif numbers.numel() and float(numbers.norm()) > 0:
            assert_same_image(products[name].cpu(), numbers, tolerance, name)
        else:
            assert not products[name].any(), name
    return value


@places
@pytest.mark.parametrize(("kind", "preset", "antialiased"), ROTATED)
def test_hard_scenes(kind, preset, antialiased, place):
    if place == "cuda" and kind not in AWAY_FROM_THRESHOLDS:
        pytest.skip("this scene lies on thresholds that float32 decides either way")
    check(*make_scene(kind, 2, 16, 2, SIZE), place, preset, antialiased)


@places
@pytest.mark.parametrize("degree", range(5))
def test_every_sh_degree(degree, place):
    check(*make_scene("dark", degree, 8, 2, SIZE), place, antialiased=True)


@places
@pytest.mark.parametrize("size", [(1, 1), (1, 40), (33, 1), (16, 32), (17, 33)])
def test_image_sizes(size, place):
    check(*make_scene("huge", 1, 6, size=size), place)


@places
@pytest.mark.parametrize("num_views", [1, 3])
def test_numbers_of_views(num_views, place):
    background = torch.rand(num_views, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    check(*make_scene("generic", 2, 8, num_views, SIZE), place, background=background)


@places
def test_more_gaussians_than_one_block_of_threads(place):
    check(*many_gaussians(), place)


@places
@pytest.mark.parametrize("kind", ["huge", "tiny"])
def test_lists_longer_than_a_batch(kind, place):
    """Many layers over whole tiles, so that partial sums fill their memory first; and many of few cells each."""
    if place == "cuda" and kind == "tiny":
        pytest.skip("this scene lies on thresholds that float32 decides either way")
    gaussians, cameras = make_scene(kind, 1, 330, 1, (18, 20))
    gaussians.opacities[:] = gaussians.opacities - 4.0 if kind == "huge" else gaussians.opacities
    value = check(gaussians, cameras, place)
    assert value.statistics["intersections"] > 400


@places
@pytest.mark.parametrize("name", GROUPS)
def test_tangents_of_one_group(name, place):
    """A wrong sign or a missing term of a small group hides in a sum over all groups."""
    require(place)
    dtype, tolerance = dtypes_at(place)
    gaussians, cameras = make_scene("generic", 2, 12, 2, SIZE)
    expected = linearize(gaussians, cameras, "inria", BACKGROUNDS, True, backend="native")
    value = cuda_linearization(gaussians.to(dtype=dtype), cameras, place, "inria", BACKGROUNDS, True)
    v, zero = only(random_tangent(gaussians, 1), name), torch.zeros_like(expected.rgb)
    there = v.to(dtype=dtype, device=place)
    assert_same_image(value.jvp(there).cpu(), expected.jvp(v), tolerance, name)
    u = random_images(cameras, 2)
    second = value.vjp_tangent(there, u.to(there.means), zero.to(there.means))
    assert_same_groups(second.to(device="cpu"), expected.vjp_tangent(v, u, zero), tolerance)


@places
def test_cotangents_of_alpha_and_depth(place):
    require(place)
    dtype, tolerance = dtypes_at(place)
    gaussians, cameras = make_scene("generic", 2, 12, 2, SIZE)
    expected = linearize(gaussians, cameras, background=BACKGROUNDS, backend="native")
    value = cuda_linearization(gaussians.to(dtype=dtype), cameras, place, background=BACKGROUNDS)
    images = [random_images(cameras, seed)[..., :channels] for seed, channels in ((1, 3), (2, 1), (3, 1))]
    for used in [(0, 1, 2), (1,), (2,), (0, 2)]:
        u = [image if i in used else None for i, image in enumerate(images)]
        there = [None if image is None else image.to(dtype=dtype, device=place) for image in u]
        results, wanted = value.rendering_vjp(*there, cameras=True), expected.rendering_vjp(*u, cameras=True)
        assert_same_groups(results[0].to(device="cpu"), wanted[0], tolerance)
        for result, want in zip(results[1:], wanted[1:], strict=True):
            assert_same_image(result.cpu(), want, tolerance)


@places
@pytest.mark.parametrize("kind", ["generic", "stack", "dark"])
def test_single_precision(kind, place):
    """Against the CPU's own float32: 1e-4 in norm, away from thresholds."""
    require(place)
    if place == "cuda" and kind == "stack":
        pytest.skip("this scene lies on thresholds that float32 decides either way")
    gaussians, cameras = make_scene(kind, 2, 24, 2, SIZE, torch.float32)
    expected = all_products(linearize(gaussians, cameras, background=BACKGROUNDS, backend="native"))
    value = all_products(cuda_linearization(gaussians, cameras, place, background=BACKGROUNDS))
    for name, numbers in expected.items():
        if numbers.dtype != torch.bool:
            assert_same_image(value[name].cpu(), numbers, 1e-4, name)


@places
def test_a_scene_that_nobody_sees(place):
    require(place)
    gaussians, cameras = make_scene("generic", size=(19, 27))
    behind = Gaussians(gaussians.means - torch.tensor([0.0, 0.0, 50.0]), *gaussians.leaves()[1:])
    value = check(behind, cameras, place)
    assert value.statistics["intersections"] == 0
    assert not value.visible.any()


@places
def test_the_same_twice(place):
    """Bit for bit."""
    require(place)
    gaussians, cameras = make_scene("generic", 2, 60, 2, SIZE, torch.float32)
    first, second = (all_products(cuda_linearization(gaussians, cameras, place)) for _ in range(2))
    for name, value in first.items():
        assert torch.equal(second[name], value), name
