# SPDX-License-Identifier: Apache-2.0
"""The photometric loss: value, gradient, exact Hessian and Gauss-Newton curvature, float64."""

import pytest
import torch
from torch import Tensor

from ns_diff3r.solver.image_loss import ImageLoss
from ns_diff3r.solver.image_operators import SsimCurvature
from tests.solver.dense_ssim import dense_ssim

SHAPE = (2, 12, 9, 3)
LOSSES = [
    ImageLoss(kind="l1", ssim_weight=0.0),
    ImageLoss(kind="mse", ssim_weight=0.0),
    ImageLoss(kind="huber", ssim_weight=0.0, huber_delta=0.1),
    ImageLoss(),
    ImageLoss(kind="mse"),
    ImageLoss(kind="huber", ssim_weight=0.5, ssim_curvature="center"),
    ImageLoss(kind="l1", ssim_weight=1.0),
]
IDS = [f"{loss.kind}-{loss.ssim_weight}-{loss.ssim_curvature}" for loss in LOSSES]


def pair(seed: int = 0, shape: tuple[int, ...] = SHAPE) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    target = torch.rand(shape, generator=generator, dtype=torch.float64)
    return (target + 0.2 * torch.randn(shape, generator=generator, dtype=torch.float64)), target


def like(x: Tensor, seed: int) -> Tensor:
    return torch.randn(x.shape, generator=torch.Generator().manual_seed(seed), dtype=x.dtype)


def oracle(loss: ImageLoss, x: Tensor, y: Tensor, signs: Tensor | None = None) -> Tensor:
    """The loss from its definition, differentiable; L1 with given signs is linear."""
    e = x - y
    if loss.kind == "mse":
        pixel = e**2
    elif loss.kind == "huber":
        delta = loss.huber_delta
        pixel = torch.where(e.abs() <= delta, e**2 / 2, delta * (e.abs() - delta / 2))
    else:
        pixel = e.abs() if signs is None else signs * e
    return ((1 - loss.ssim_weight) * pixel + loss.ssim_weight * (1 - dense_ssim(x, y))).mean()


@pytest.mark.parametrize("implementation", ["native", "torch"])
@pytest.mark.parametrize("loss", LOSSES, ids=IDS)
def test_value_and_gradient(loss, implementation, monkeypatch):
    if implementation == "torch":
        monkeypatch.setattr("ns_diff3r.solver.ssim.is_native", lambda tensor: False)
        monkeypatch.setattr("ns_diff3r.solver.penalties.is_native", lambda tensor: False)
    x, y = pair()
    x_watched = x.clone().requires_grad_()
    expected = oracle(loss, x_watched, y)
    (gradient,) = torch.autograd.grad(expected, x_watched)
    linearized = loss.linearize(x, y)
    assert linearized.value == pytest.approx(float(expected.detach()), rel=1e-12)
    torch.testing.assert_close(linearized.gradient, gradient, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("loss", LOSSES, ids=IDS)
def test_frozen_signs_make_finite_differences_meaningful(loss):
    """Steps far larger than the errors flip the signs of L1; with frozen signs the difference quotient still agrees."""
    x, y = pair()
    x[0, :3] = y[0, :3] + 1e-7  # errors that any step flips
    direction = like(x, 1)
    linearized = loss.linearize(x, y)
    slope = float((linearized.gradient * direction).sum())
    step = 1e-5
    ahead, behind = linearized.value_at(x + step * direction), linearized.value_at(x - step * direction)
    assert (ahead - behind) / (2 * step) == pytest.approx(slope, rel=1e-6)
    if loss.kind == "l1" and loss.ssim_weight < 1.0:
        signs = torch.sign(x - y)
        moved = x + 0.5 * direction
        assert linearized.value_at(moved) == pytest.approx(float(oracle(loss, moved, y, signs)), rel=1e-10)
        assert linearized.value_at(moved) != pytest.approx(loss.linearize(moved, y).value, rel=1e-3)


@pytest.mark.parametrize("loss", LOSSES, ids=IDS)
def test_hessian_product_is_exact_and_symmetric(loss):
    x, y = pair()
    v, w = like(x, 2), like(x, 3)
    linearized = loss.linearize(x, y)
    product = linearized.hessian_product(v)
    step = 1e-5
    difference = (linearized.gradient_at(x + step * v) - linearized.gradient_at(x - step * v)) / (2 * step)
    keep = torch.ones_like(x, dtype=torch.bool)
    if loss.kind == "huber":  # the second derivative jumps at delta: leave out the pixels that cross it
        keep = ((x - y).abs() - loss.huber_delta).abs() > 2 * step * v.abs()
        assert keep.double().mean() > 0.99
    scale = float(difference.abs().max()) + 1e-12
    torch.testing.assert_close(product[keep], difference[keep], rtol=1e-6, atol=1e-7 * scale)
    left, right = float((w * product).sum()), float((v * linearized.hessian_product(w)).sum())
    assert left == pytest.approx(right, rel=1e-9, abs=1e-15)

    signs = torch.sign(x - y)
    _, second = torch.func.jvp(torch.func.grad(lambda image: oracle(loss, image, y, signs)), (x,), (v,))
    torch.testing.assert_close(product, second, rtol=1e-6, atol=1e-8 * scale)


@pytest.mark.parametrize("kind", ["mse", "huber", "l1"])
def test_pixel_curvature_is_that_of_the_square_root_residual(kind):
    """W = 2 (d sqrt(ρ)/de)², with L1 bounded where |e| < ε; no factor 1/n, but the factor 1 − w."""
    x, y = pair()
    loss = ImageLoss(kind=kind, ssim_weight=0.0, l1_epsilon=0.02)
    e = (x - y).requires_grad_()
    root = {
        "mse": e.abs(),
        "l1": e.abs().sqrt(),
        "huber": torch.where(e.abs() <= 0.1, e**2 / 2, 0.1 * (e.abs() - 0.05)).sqrt(),
    }[kind]
    (slope,) = torch.autograd.grad(root.sum(), e)
    expected = 2 * slope**2
    if kind == "l1":
        expected = torch.where(e.abs() < 0.02, torch.full_like(e, 25.0), expected)
        assert (e.abs() < 0.02).any()
    curvature = loss.linearize(x, y).curvature
    assert isinstance(curvature, Tensor)
    torch.testing.assert_close(curvature, expected.detach(), rtol=1e-9, atol=1e-12)
    mixed = ImageLoss(kind=kind, ssim_weight=0.25, l1_epsilon=0.02).linearize(x, y).curvature
    assert isinstance(mixed, SsimCurvature)
    torch.testing.assert_close(mixed.pixel, 0.75 * curvature)


def test_ssim_curvature_exact_and_centre():
    """W = 2 J_rᵀJ_r of r_p = sqrt(w (1 − SSIM_p)); "center" keeps only the derivative to the window's own pixel."""
    x, y = pair(shape=(1, 8, 7, 1))
    weight, size = 0.3, x.numel()
    residual = torch.autograd.functional.jacobian(lambda image: (weight * (1 - dense_ssim(image, y))).sqrt(), x)
    jacobian = residual.reshape(size, size)
    dense = 2 * jacobian.T @ jacobian + 0.7 * 2 * torch.eye(size, dtype=x.dtype)
    exact = ImageLoss(kind="mse", ssim_weight=weight, ssim_curvature="exact").linearize(x, y).curvature
    assert isinstance(exact, SsimCurvature)
    columns = torch.stack([exact(unit.view(x.shape)).reshape(-1) for unit in torch.eye(size, dtype=x.dtype)], dim=1)
    torch.testing.assert_close(columns, dense, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(columns, columns.T, rtol=1e-9, atol=1e-11)
    assert torch.linalg.eigvalsh(columns).min() > 0
    torch.testing.assert_close(exact.diagonal().reshape(-1), dense.diagonal(), rtol=1e-8, atol=1e-10)
    centre = ImageLoss(kind="mse", ssim_weight=weight, ssim_curvature="center").linearize(x, y).curvature
    assert isinstance(centre, Tensor)
    torch.testing.assert_close(centre.reshape(-1), 2 * jacobian.diagonal() ** 2 + 1.4, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("curvature", ["exact", "center"])
def test_perfect_rendering_has_finite_curvature(curvature):
    _, y = pair()
    linearized = ImageLoss(ssim_curvature=curvature).linearize(y.clone(), y)
    assert linearized.value == pytest.approx(0.0, abs=1e-12)
    assert linearized.gradient.abs().max() < 1e-12
    weights = linearized.curvature
    diagonal = weights if isinstance(weights, Tensor) else weights.diagonal()
    assert torch.isfinite(diagonal).all()
    assert (diagonal >= 0).all()


def test_a_nan_pixel_shows_in_the_value():
    x, y = pair()
    x[1, 3, 3, 0] = float("nan")
    for loss in LOSSES:
        assert loss.linearize(x, y).value != loss.linearize(x, y).value


def test_bad_settings_and_inputs_are_refused():
    x, y = pair()
    for settings in ({"kind": "l2"}, {"ssim_weight": 1.5}, {"huber_delta": 0.0}, {"ssim_curvature": "both"}):
        with pytest.raises(ValueError, match="ImageLoss"):
            ImageLoss(**settings)
    with pytest.raises(ValueError, match="differ"):
        ImageLoss().linearize(x[:1], y)
    with pytest.raises(TypeError, match="float32"):
        ImageLoss().linearize(x.float(), y)
