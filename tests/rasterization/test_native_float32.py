# SPDX-License-Identifier: Apache-2.0
"""Single precision against double: values and gradients, away from the thresholds.

Both precisions get the same numbers (rounded to float32 first) and the float64 products are those of the decisions that
float64 takes. A pair within rounding of a threshold (1/255, the cap, the end of a pixel) can be decided differently
in float32 and then changes its pixel by far more than rounding, so cotangents are zero on pixels that hold such a
pair: those whose decisions change when the thresholds move by a relative 1e-3. No Gaussian of these scenes
is within rounding of a decision about it as a whole (clamps, colours).
"""

import dataclasses

import pytest
import torch

from ns_diff3r import linearize
from ns_diff3r.rasterization import resolve_preset
from ns_diff3r.rasterization.reference import plan_reference
from tests.rasterization.native_cases import (
    BACKGROUNDS,
    PRESETS_AND_MODES,
    SIZE,
    assert_same_groups,
    assert_same_image,
    behind_a_capped_one,
    capped_pixels,
)
from tests.scenes import SCENE_KINDS, dot, make_scene, random_images, random_tangent

BAND = 1e-3
GRADIENT_TOLERANCE = 1e-4


def decided_pixels(gaussians, cameras, config):
    """[V, H, W, 1] 1.0 where no decision about a pair changes when the thresholds move."""
    plan = plan_reference(gaussians, cameras, config)
    clear = torch.ones(cameras.num_views, cameras.height * cameras.width, dtype=torch.bool)
    for name in ("alpha_min", "alpha_max", "transmittance_min"):
        for factor in (1 - BAND, 1 + BAND):
            if name == "alpha_max":  # stays below 1
                factor = 1 + 0.1 * (factor - 1) * (1 - config.alpha_max)
            moved = dataclasses.replace(config, **{name: getattr(config, name) * factor})
            other = plan_reference(gaussians, cameras, moved, lists=plan)
            for view in range(cameras.num_views):
                p, q = plan[view].pairs[0], other[view].pairs[0]
                same = (p.contributes == q.contributes) & ((p.capped == q.capped) | ~p.contributes)
                clear[view] &= same.all(dim=1)
    return clear.reshape(cameras.num_views, cameras.height, cameras.width, 1).double()


@pytest.mark.parametrize(("preset", "antialiased"), PRESETS_AND_MODES)
@pytest.mark.parametrize("kind", SCENE_KINDS)
def test_values_and_products(kind, preset, antialiased):
    gaussians, cameras = make_scene(kind, 3, 24, 2, SIZE, torch.float32)
    config = resolve_preset(preset, antialiased)
    single = linearize(gaussians, cameras, config, BACKGROUNDS)
    wide, wide_cameras = gaussians.to(dtype=torch.float64), cameras.to(dtype=torch.float64)
    double = linearize(wide, wide_cameras, config, BACKGROUNDS)
    decided = decided_pixels(wide, wide_cameras, config)
    assert decided.mean() > 0.98
    u, weights = (random_images(cameras, seed) * decided for seed in (2, 3))
    weights = weights.square()
    v = random_tangent(gaussians)
    wide_v = v.to(dtype=torch.float64)

    assert_same_image(single.rgb * decided, double.rgb * decided, 1e-6, "rgb")
    assert_same_image(single.jvp(v) * decided, double.jvp(wide_v) * decided, GRADIENT_TOLERANCE, "jvp")
    assert_same_image(single.vjp_cameras(u.float()), double.vjp_cameras(u), GRADIENT_TOLERANCE, "vjp_cameras")
    for value, expected in (
        (single.vjp(u.float()), double.vjp(u)),
        (single.gauss_newton(v, weights.float()), double.gauss_newton(wide_v, weights)),
        (single.diagonal(weights.float()), double.diagonal(weights)),
        (single.vjp_tangent(v, u.float(), weights.float()), double.vjp_tangent(wide_v, u, weights)),
    ):
        assert_same_groups(value, expected, GRADIENT_TOLERANCE)


@pytest.mark.parametrize(("preset", "antialiased"), PRESETS_AND_MODES)
def test_gradients_behind_a_capped_gaussian(preset, antialiased):
    """Where a thousandth of the light is left, gradients keep their digits (no division by 1 − alpha, no I − Σ)."""
    gaussians, cameras = behind_a_capped_one(torch.float32)
    wide, wide_cameras = gaussians.to(dtype=torch.float64), cameras.to(dtype=torch.float64)
    config = resolve_preset(preset, antialiased)
    # Rounding 0.999 itself changes what is left by 1.3e-5.
    config = dataclasses.replace(config, alpha_max=float(torch.tensor(config.alpha_max)))
    single = linearize(gaussians, cameras, config)
    double = linearize(wide, wide_cameras, config)
    u = torch.zeros_like(double.rgb)
    for view, row, column, front in capped_pixels(double):
        assert front == 0
        u[view, row, column] = 1.0
    u *= random_images(cameras) * decided_pixels(wide, wide_cameras, config)
    assert (u != 0).sum() > 300
    assert_same_groups(single.vjp(u.float())[1:], double.vjp(u)[1:], 3e-6)


def test_opacity_gradients_of_nearly_saturated_gaussians():
    """Each Gaussian by itself, and the same derivative in both directions."""
    gaussians, cameras = make_scene("generic", 0, 8, 1, SIZE, torch.float32)
    gaussians.opacities[:] = torch.tensor([2.0, 6.0, 10.0, 14.0, 16.0, 18.0, 20.0, 24.0])
    single = linearize(gaussians, cameras)
    double = linearize(gaussians.to(dtype=torch.float64), cameras.to(dtype=torch.float64))
    u = torch.ones_like(double.rgb)
    expected = double.vjp(u).opacities
    assert (expected != 0).all()
    torch.testing.assert_close(single.vjp(u.float()).opacities.double(), expected, rtol=1e-3, atol=0)


@pytest.mark.parametrize("antialiased", [False, True])
def test_gradients_of_splinters(antialiased):
    """Gaussians much longer than the image and much thinner than a pixel, as overfitting makes them: products keep
    their digits, and the Gauss-Newton product stays symmetric, without which conjugate gradients stall."""
    gaussians, cameras = make_scene("generic", 0, 24, 1, (64, 64), torch.float32)
    gaussians.scales[:] = torch.tensor([20.0, 1e-3, 1e-2]).log() + 0.1 * gaussians.scales
    single = linearize(gaussians, cameras, antialiased=antialiased)
    wide = gaussians.to(dtype=torch.float64)
    double = linearize(wide, cameras.to(dtype=torch.float64), antialiased=antialiased)
    decided = decided_pixels(wide, cameras.to(dtype=torch.float64), double.config)
    u, weights = random_images(cameras, 2) * decided, decided.expand(-1, -1, -1, 3).contiguous()
    # Tangents that move every screen number about equally.
    sizes = double.diagonal(weights).map(lambda leaf: leaf.clamp_min(1e-30).rsqrt())
    v, w = (random_tangent(wide, seed).combine(torch.mul, sizes).to(dtype=torch.float32) for seed in (0, 1))
    v64, w64 = v.to(dtype=torch.float64), w.to(dtype=torch.float64)
    assert_same_image(single.jvp(v) * decided, double.jvp(v64) * decided, 1e-3, "jvp")
    assert_same_groups(single.vjp(u.float()), double.vjp(u), 1e-3)
    product, other = (single.gauss_newton(x, weights.float()) for x in (v, w))
    assert_same_groups(product, double.gauss_newton(v64, weights), 1e-3)
    scale = (dot(v, product) * dot(w, other)) ** 0.5
    assert abs(dot(w, product) - dot(v, other)) < 1e-4 * scale
    exact, exact_other = (double.gauss_newton(x, weights) for x in (v64, w64))
    assert abs(dot(w64, exact) - dot(v64, exact_other)) < 1e-11 * scale
