# SPDX-License-Identifier: Apache-2.0
"""SSIM and its derivative products against an independent dense implementation and torch's autograd, float64."""

import pytest
import torch

from ns_diff3r.solver import ssim_torch
from ns_diff3r.solver.ssim import Ssim, SsimTarget, window_filter
from tests.solver.dense_ssim import dense_ssim

SHAPES = [(2, 14, 17, 3), (1, 5, 3, 3), (1, 1, 40, 1), (1, 23, 16, 2)]


def images(shape: tuple[int, ...], seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    y = torch.rand(shape, generator=generator, dtype=torch.float64)
    return (0.7 * y + 0.3 * torch.rand(shape, generator=generator, dtype=torch.float64)), y


def like(x: torch.Tensor, seed: int) -> torch.Tensor:
    return torch.randn(x.shape, generator=torch.Generator().manual_seed(seed), dtype=x.dtype)


@pytest.fixture(params=["native", "torch"])
def either_implementation(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The compiled passes, and the torch ones that other devices use."""
    if request.param == "torch":
        monkeypatch.setattr("ns_diff3r.solver.ssim.is_native", lambda tensor: False)
    return request.param


@pytest.mark.usefixtures("either_implementation")
@pytest.mark.parametrize("shape", SHAPES)
class TestAgainstDense:
    def test_value(self, shape):
        x, y = images(shape)
        ssim = Ssim.evaluate(x, SsimTarget(y))
        expected = dense_ssim(x, y)
        torch.testing.assert_close(ssim.values, expected, rtol=1e-10, atol=1e-11)
        assert ssim.total == pytest.approx(float(expected.sum()), rel=1e-12)

    def test_vjp(self, shape):
        x, y = images(shape)
        u = like(x, 1)
        x_watched = x.clone().requires_grad_()
        (expected,) = torch.autograd.grad((u * dense_ssim(x_watched, y)).sum(), x_watched)
        ssim = Ssim.evaluate(x, SsimTarget(y))
        torch.testing.assert_close(ssim.vjp(u), expected, rtol=1e-8, atol=1e-9)
        base = like(x, 2)
        torch.testing.assert_close(ssim.vjp(u, -0.5, add_to=base.clone()), base - 0.5 * expected, rtol=1e-8, atol=1e-9)

    def test_vjp_of_ones(self, shape):
        x, y = images(shape)
        ssim = Ssim.evaluate(x, SsimTarget(y))
        torch.testing.assert_close(ssim.vjp(), ssim.vjp(torch.ones_like(x)), rtol=1e-12, atol=1e-12)

    def test_jvp(self, shape):
        x, y = images(shape)
        v = like(x, 3)
        _, expected = torch.func.jvp(lambda image: dense_ssim(image, y), (x,), (v,))
        torch.testing.assert_close(Ssim.evaluate(x, SsimTarget(y)).jvp(v), expected, rtol=1e-8, atol=1e-9)

    def test_hessian_product(self, shape):
        x, y = images(shape)
        v = like(x, 4)

        def gradient(image):
            return torch.func.grad(lambda z: dense_ssim(z, y).sum())(image)

        _, expected = torch.func.jvp(gradient, (x,), (v,))
        result = Ssim.evaluate(x, SsimTarget(y)).hessian_product(v)
        torch.testing.assert_close(result, expected, rtol=1e-7, atol=1e-7 * float(expected.abs().max()))


@pytest.mark.usefixtures("either_implementation")
def test_gauss_newton_diagonal_and_centre_derivative():
    x, y = images((1, 9, 7, 2))
    weights = like(x, 5).abs()
    jacobian = torch.autograd.functional.jacobian(lambda image: dense_ssim(image, y), x).reshape(x.numel(), x.numel())
    ssim = Ssim.evaluate(x, SsimTarget(y))
    expected = (jacobian.square() * weights.reshape(-1, 1)).sum(0).view(x.shape)
    torch.testing.assert_close(ssim.gauss_newton_diagonal(weights), expected, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(ssim.center_derivative(), jacobian.diagonal().view(x.shape), rtol=1e-8, atol=1e-10)


def test_identical_images_have_ssim_one_and_no_gradient():
    x, _ = images((1, 20, 20, 3))
    ssim = Ssim.evaluate(x, SsimTarget(x))
    torch.testing.assert_close(ssim.values, torch.ones_like(x), rtol=1e-12, atol=1e-12)
    assert ssim.vjp().abs().max() < 1e-10


def test_filter_is_self_adjoint_and_pads_with_zeros():
    a, b = images((2, 13, 9, 3))
    assert float((window_filter(a) * b).sum()) == pytest.approx(float((a * window_filter(b)).sum()), rel=1e-12)
    delta = torch.zeros(1, 21, 21, 1, dtype=torch.float64)
    delta[0, 10, 10, 0] = 1.0
    assert float(window_filter(delta).sum()) == pytest.approx(1.0, rel=1e-12)
    corner = torch.zeros_like(delta)
    corner[0, 0, 0, 0] = 1.0
    assert float(window_filter(corner).sum()) < 0.5
    taps = ssim_torch.window_taps()
    torch.testing.assert_close(window_filter(a, taps), window_filter(a), rtol=1e-14, atol=1e-15)


def test_single_precision_is_close_to_double():
    x, y = images((2, 40, 33, 3))
    single, double = Ssim.evaluate(x.float(), SsimTarget(y.float())), Ssim.evaluate(x, SsimTarget(y))
    torch.testing.assert_close(single.values.double(), double.values, rtol=0, atol=1e-4)
    gradient = double.vjp()
    assert (single.vjp().double() - gradient).norm() < 1e-4 * gradient.norm()


def test_results_do_not_depend_on_the_number_of_threads():
    x, y = (image.float() for image in images((3, 37, 41, 3)))
    v = like(x, 6)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            ssim = Ssim.evaluate(x, SsimTarget(y))
            results.append((ssim.values, ssim.vjp(v), ssim.jvp(v), ssim.hessian_product(v), torch.tensor(ssim.total)))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_mismatched_images_are_refused():
    x, y = images((1, 8, 8, 3))
    with pytest.raises(ValueError, match="differ"):
        Ssim.evaluate(x[:, :4], SsimTarget(y))
    with pytest.raises(ValueError, match="mixed"):
        Ssim.evaluate(x.float(), SsimTarget(y))
