# SPDX-License-Identifier: Apache-2.0
"""`vjp_tangent`: against differences of the vjp of the frozen function, and as a Hessian."""

import pytest
import torch

from ns_diff3r import linearize
from ns_diff3r.rasterization import PRESETS
from ns_diff3r.splats import GROUPS
from tests.rasterization.native_cases import BACKGROUNDS, EVERYTHING, SIZE, along, assert_same_groups, only, pair
from tests.scenes import dot, make_scene, random_images, random_tangent


def central_difference(function, step):
    """Derivative of function(ε) at 0, to fourth order in the step."""
    near = function(step).combine(torch.sub, function(-step))
    far = function(2 * step).combine(torch.sub, function(-2 * step))
    return near.combine(lambda n, f: (8 * n - f) / (12 * step), far)


@pytest.mark.parametrize(("kind", "preset", "antialiased"), EVERYTHING)
def test_differences_of_the_frozen_vjp(kind, preset, antialiased):
    case = pair(kind, preset, antialiased)
    step = 1e-6 if kind == "behind" else 2e-4  # next to the camera plane little moves far

    def vjp(amount):
        return case.native.at(along(case.gaussians, amount, case.v), "pairs").vjp(case.u + amount * case.du)

    difference = central_difference(vjp, step)
    assert_same_groups(case.native.vjp_tangent(case.v, case.u, case.du), difference, 1e-6)


@pytest.mark.parametrize("name", GROUPS)
@pytest.mark.parametrize("kind", ["stack", "opaque", "beyond_clamp"])
def test_each_group_as_direction(kind, name):
    case = pair(kind, "inria", antialiased=True)
    v = only(case.v, name)
    difference = central_difference(lambda amount: case.native.at(along(case.gaussians, amount, v)).vjp(case.u), 2e-4)
    assert_same_groups(case.native.vjp_tangent(v, case.u, torch.zeros_like(case.u)), difference, 1e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize(("kind", "preset", "antialiased"), EVERYTHING)
def test_hessian_of_a_squared_error_is_symmetric(kind, preset, antialiased, dtype):
    gaussians, cameras = make_scene(kind, 2, 24, 2, SIZE, dtype)
    linearization = linearize(gaussians, cameras, preset, BACKGROUNDS, antialiased)
    residual = linearization.rgb - random_images(cameras, 7, dtype).sigmoid()
    v, w = random_tangent(gaussians, 1), random_tangent(gaussians, 2)

    def hessian(x):
        return linearization.vjp_tangent(x, 2 * residual, 2 * linearization.jvp(x))

    Hv, Hw = hessian(v), hessian(w)
    scale = float(w.flatten().double().norm() * Hv.flatten().double().norm())
    assert abs(dot(w, Hv) - dot(v, Hw)) < {torch.float64: 1e-13, torch.float32: 1e-5}[dtype] * scale


@pytest.mark.parametrize("preset", PRESETS)
def test_hessian_is_the_second_derivative_of_the_loss(preset):
    """vᵀHv against second differences of the frozen loss, from renders alone."""
    case = pair("generic", preset)
    target = random_images(case.cameras, 7).sigmoid()

    def loss(amount):
        return float((case.native.render(along(case.gaussians, amount, case.v)).rgb - target).square().sum())

    h = 1e-3
    second = (-loss(2 * h) + 16 * loss(h) - 30 * loss(0.0) + 16 * loss(-h) - loss(-2 * h)) / (12 * h * h)
    residual = case.native.rgb - target
    Hv = case.native.vjp_tangent(case.v, 2 * residual, 2 * case.native.jvp(case.v))
    assert dot(case.v, Hv) == pytest.approx(second, rel=1e-6)
    curvature = 2 * float(case.native.jvp(case.v).square().sum())
    assert dot(case.v, Hv) != pytest.approx(curvature, rel=1e-2), "the second-order part vanishes: nothing is compared"
