# SPDX-License-Identifier: Apache-2.0
"""Identities between the native products: ⟨u, Jv⟩ = ⟨Jᵀu, v⟩, symmetry, vᵀJᵀWJv = ‖√W J v‖²; no oracle needed."""

import pytest
import torch

from ns_diff3r import Gaussians, linearize
from tests.rasterization.native_cases import (
    BACKGROUNDS,
    EVERYTHING,
    PRESETS_AND_MODES,
    SIZE,
    WindowOperator,
    assert_same_groups,
    behind_a_capped_one,
    capped_pixels,
)
from tests.scenes import dot, make_scene, random_images, random_tangent

TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5}
DTYPES = pytest.mark.parametrize("dtype", TOLERANCE, ids=["float64", "float32"])


def native(kind, preset="gsplat-1.4.0", antialiased=False, dtype=torch.float64, num_views=2):
    gaussians, cameras = make_scene(kind, 3, 24, num_views, SIZE, dtype)
    return linearize(gaussians, cameras, preset, BACKGROUNDS[:num_views], antialiased, backend="native")


def inner(a, b):
    """⟨a, b⟩ of images in float64."""
    return float((a.double() * b.double()).sum())


@DTYPES
@pytest.mark.parametrize(("kind", "preset", "antialiased"), EVERYTHING)
def test_dense_images(kind, preset, antialiased, dtype):
    linearization = native(kind, preset, antialiased, dtype)
    for seed in range(3):
        u = random_images(linearization.cameras, seed, dtype)
        v = random_tangent(linearization.gaussians, seed)
        pushed = linearization.jvp(v)
        difference = inner(u, pushed) - dot(linearization.vjp(u), v)
        assert abs(difference) < TOLERANCE[dtype] * float(u.double().norm() * pushed.double().norm())


@DTYPES
@pytest.mark.parametrize(("preset", "antialiased"), PRESETS_AND_MODES)
def test_single_pixels_behind_the_cap(preset, antialiased, dtype):
    """A pixel alone: a sum over many hides an error at the few where alpha is near 1.

    The tangent of the capped Gaussian itself is zero, so that what lies behind, a thousandth of the colour, is all
    there is on both sides, and ‖Jv‖ is taken over this pixel alone.
    """
    linearization = linearize(*behind_a_capped_one(dtype), preset, BACKGROUNDS, antialiased, backend="native")
    pixels = capped_pixels(linearization)
    assert len(pixels) > 100
    for view, row, column, front in pixels[:: max(1, len(pixels) // 40)]:
        u = torch.zeros_like(linearization.rgb)
        u[view, row, column] = torch.tensor([0.3, -1.2, 0.7], dtype=dtype)
        everything = random_tangent(linearization.gaussians, row)
        v = everything.map(torch.clone)
        for leaf in v.leaves():
            leaf[front] = 0
        gradient = linearization.vjp(u)
        for tangent in (v, everything):
            pushed = linearization.jvp(tangent)
            difference = inner(u, pushed) - dot(gradient, tangent)
            scale = float(u.double().norm() * pushed[view, row, column].double().norm())
            assert abs(difference) < TOLERANCE[dtype] * scale, (view, row, column)


@DTYPES
@pytest.mark.parametrize(("kind", "preset", "antialiased"), EVERYTHING)
def test_gauss_newton_is_symmetric_and_a_square(kind, preset, antialiased, dtype):
    linearization = native(kind, preset, antialiased, dtype)
    cameras, gaussians = linearization.cameras, linearization.gaussians
    weights = random_images(cameras, 4, dtype) ** 2
    v, w = random_tangent(gaussians, 1), random_tangent(gaussians, 2)
    tolerance = TOLERANCE[dtype]
    for W, apply in ((weights, lambda x: weights * x), (operator := WindowOperator(cameras, dtype), operator)):
        pushed = {name: linearization.jvp(tangent) for name, tangent in (("v", v), ("w", w))}
        Av, Aw = linearization.gauss_newton(v, W), linearization.gauss_newton(w, W)
        square = {name: inner(p, apply(p)) for name, p in pushed.items()}
        assert dot(v, Av) == pytest.approx(square["v"], rel=tolerance)
        scale = (square["v"] * square["w"]) ** 0.5
        assert abs(dot(w, Av) - dot(v, Aw)) < tolerance * scale
        assert abs(dot(w, Av) - inner(pushed["w"], apply(pushed["v"]))) < tolerance * scale


@DTYPES
def test_zero_weights_select_pixels(dtype):
    """With all weight on one view, the product is that of this view alone."""
    both, cameras = native("generic", dtype=dtype), native("generic", dtype=dtype).cameras
    only = linearize(both.gaussians, cameras[1:2], background=BACKGROUNDS[1], backend="native")
    v = random_tangent(both.gaussians)
    weights = random_images(cameras, 4, dtype) ** 2
    weights[0] = 0
    product = both.gauss_newton(v, weights)
    assert_same_groups(product, only.gauss_newton(v, weights[1:2]), 0.0)
    assert_same_groups(both.diagonal(weights), only.diagonal(weights[1:2]), 0.0)
    zero = both.gauss_newton(v, torch.zeros_like(weights))
    assert isinstance(zero, Gaussians)
    assert not zero.flatten().any()


@DTYPES
def test_products_are_linear(dtype):
    linearization = native("stack", dtype=dtype)
    cameras, gaussians = linearization.cameras, linearization.gaussians
    a, b = random_tangent(gaussians, 1), random_tangent(gaussians, 2)
    x, y = random_images(cameras, 1, dtype), random_images(cameras, 2, dtype)
    weights = random_images(cameras, 3, dtype) ** 2
    tolerance = 1e3 * torch.finfo(dtype).eps

    def combined(function, first, second):
        return function(first).combine(lambda p, q: 2 * p - 3 * q, function(second))

    sum_of_tangents, sum_of_images = a.combine(lambda p, q: 2 * p - 3 * q, b), 2 * x - 3 * y
    pushed = 2 * linearization.jvp(a) - 3 * linearization.jvp(b)
    assert (linearization.jvp(sum_of_tangents) - pushed).norm() < tolerance * pushed.norm()
    assert_same_groups(linearization.vjp(sum_of_images), combined(linearization.vjp, x, y), tolerance)
    assert_same_groups(
        linearization.gauss_newton(sum_of_tangents, weights),
        combined(lambda v: linearization.gauss_newton(v, weights), a, b),
        tolerance,
    )
    assert_same_groups(
        linearization.vjp_tangent(sum_of_tangents, x, torch.zeros_like(x)),
        combined(lambda v: linearization.vjp_tangent(v, x, torch.zeros_like(x)), a, b),
        tolerance,
    )
    no_tangent = a.zeros_like()
    assert_same_groups(linearization.vjp_tangent(no_tangent, x, y), linearization.vjp(y), tolerance)
