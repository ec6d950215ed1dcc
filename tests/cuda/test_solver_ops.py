# SPDX-License-Identifier: Apache-2.0
"""The solver's kernels against the compiled CPU loops: inner steps, pixel losses, SSIM and its products."""

import pytest
import torch

from ns_diff3r.solver import cuda_ops, penalties, vector_ops
from ns_diff3r.solver.ssim import Ssim, SsimTarget, window_filter
from ns_diff3r.solver.vector_ops import ParameterRange
from tests.cuda.cuda_cases import PLACES, dtypes_at, require

places = pytest.mark.parametrize("place", PLACES)
RANGES = [
    ParameterRange(0, 2500, 0.1, False),
    ParameterRange(2500, 2501, 0.2, True),
    ParameterRange(2501, 4099, 0.3, False),
]


def numbers(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def close(value, expected, place, factor=1.0):
    _, tolerance = dtypes_at(place)
    tolerance = 1e-5 if place == "cuda" else tolerance
    torch.testing.assert_close(value.double().cpu(), expected, rtol=tolerance * factor, atol=tolerance * factor)


@places
@pytest.mark.parametrize("prior", [False, True])
@pytest.mark.parametrize("kind", ["prior_gradient", "sgd", "adam"])
def test_inner_steps(kind, prior, place):
    require(place)
    dtype, _ = dtypes_at(place)
    size = RANGES[-1].end
    theta, anchor, gradient, first = (numbers(size, seed=seed) for seed in range(4))
    strength, second = numbers(size, seed=4).square(), numbers(size, seed=5).square()
    if not prior:
        anchor = strength = None
    here = [None if x is None else x.clone() for x in (theta, anchor, strength, gradient, first, second)]
    next_here = torch.empty_like(theta)
    there = [None if x is None else x.clone().to(place, dtype) for x in here]
    next_there = torch.full_like(there[0], torch.nan)
    if kind == "prior_gradient":
        expected = vector_ops.prior_gradient(RANGES, *here[:4])
        found = cuda_ops.inner_step(kind, RANGES, (*there[:4], None, None, None))
    elif kind == "sgd":
        expected = vector_ops.sgd_step(RANGES, *here[:4], next_here)
        found = cuda_ops.inner_step(kind, RANGES, (*there[:4], None, None, next_there))
    else:
        expected = vector_ops.adam_step(RANGES, *here[:4], (0.9, 0.99), 1e-8, 3, (here[4], here[5]), next_here)
        found = cuda_ops.inner_step(kind, RANGES, (*there, next_there), (0.9, 0.99, 1e-8, 3))
    close(found.T, torch.tensor(expected, dtype=torch.float64), place, 10.0)
    for value, want in zip(there, here, strict=True):
        if want is not None:
            close(value, want, place)
    if kind != "prior_gradient":
        close(next_there, next_here, place)


@places
@pytest.mark.parametrize("kind", ["l1", "mse", "huber", "signs"])
def test_pixel_losses(kind, place):
    require(place)
    dtype, _ = dtypes_at(place)
    x, y = (numbers(2, 19, 23, 3, seed=seed) for seed in (1, 2))
    y[0, 0] = x[0, 0]
    signs = numbers(2, 19, 23, 3, seed=3).sign() if kind == "signs" else None
    name = "l1" if kind == "signs" else kind
    total, gradient = penalties.total_and_gradient(name, x, y, delta=0.3, scale=0.5, signs=signs)
    there = [None if z is None else z.to(place, dtype) for z in (x, y, signs)]
    number = {"l1": 0, "mse": 1, "huber": 2}[name]
    found, found_gradient = cuda_ops.pixel_loss(number, there[0], there[1], 0.3, 0.5, there[2])
    assert found == pytest.approx(total, rel=1e-5 if place == "cuda" else 1e-12)
    close(found_gradient, gradient, place)


@places
@pytest.mark.parametrize("shape", [(1, 1, 1, 3), (2, 16, 33, 3), (1, 23, 5, 1)])
def test_ssim(shape, place):
    require(place)
    dtype, _ = dtypes_at(place)
    random = torch.Generator().manual_seed(0)
    x, y = (torch.rand(shape, dtype=torch.float64, generator=random) for _ in range(2))
    u, v = numbers(*shape, seed=1), numbers(*shape, seed=2)
    target = SsimTarget(y)
    expected = Ssim.evaluate(x, target)
    x_, y_, u_, v_ = (z.to(place, dtype) for z in (x, y, u, v))
    statistics = (y_, *cuda_ops.ssim_target(y_))
    for value, want in zip(statistics, target.statistics, strict=True):
        close(value, want, place)
    values, total, partials = cuda_ops.ssim_value(x_, statistics)
    assert total == pytest.approx(expected.total, rel=1e-4 if place == "cuda" else 1e-11)
    close(values, expected.values, place, 100.0)
    for value, want in zip(partials, expected.partials, strict=True):
        close(value, want, place, 1e4 if place == "cuda" else 10.0)
    partials = [want.to(place, dtype) for want in expected.partials]
    close(cuda_ops.ssim_jvp(x_, y_, partials, v_), expected.jvp(v), place, 1e3)
    close(cuda_ops.ssim_vjp(x_, y_, partials, u_, 0.7, None), expected.vjp(u, 0.7), place, 1e3)
    close(cuda_ops.ssim_vjp(x_, y_, partials, None, 0.7, u_.clone()), expected.vjp(None, 0.7, u.clone()), place, 1e3)
    close(cuda_ops.window_filter(v_), window_filter(v), place)
    taps = [0.1 * k for k in (1, 2, 3, 4, 5, 6, 5, 4, 3, 2, 1)]
    close(cuda_ops.window_filter(v_, taps), window_filter(v, taps), place, 10.0)
    if place == "cpu":
        hessian = cuda_ops.ssim_vjp(x_, y_, cuda_ops.ssim_partials_jvp(x_, statistics, v_), None, 1.0, None)
        hessian = hessian + 2 * v * window_filter(expected.partials[1])
        torch.testing.assert_close(hessian, expected.hessian_product(v), rtol=1e-8, atol=1e-8)
