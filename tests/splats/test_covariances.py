# SPDX-License-Identifier: Apache-2.0
"""Covariances and their decomposition: values, and derivatives where eigenvalues are distinct, close and equal."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ns_diff3r.splats.covariances import SCALE_MIN, covariances_to_quats_scales, quats_scales_to_covariances
from ns_diff3r.splats.rotations import quats_to_rotations


def random_factors(num: int = 6, seed: int = 0) -> Tensor:
    return torch.randn(num, 3, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def outer(factors: Tensor) -> Tensor:
    return factors @ factors.mT


def rebuilt(covariances: Tensor) -> Tensor:
    return quats_scales_to_covariances(*covariances_to_quats_scales(covariances))


def test_equal_to_gsplat():
    gsplat = pytest.importorskip("gsplat.cuda._torch_impl", reason="gsplat is not installed")
    random = torch.Generator().manual_seed(0)
    quats = torch.randn(200, 4, generator=random, dtype=torch.float64)
    scales = torch.exp(2 * torch.randn(200, 3, generator=random, dtype=torch.float64))
    expected, _ = gsplat._quat_scale_to_covar_preci(quats, scales, compute_preci=False)
    torch.testing.assert_close(quats_scales_to_covariances(quats, scales), expected, rtol=1e-13, atol=0)


@settings(derandomize=True, deadline=None, max_examples=100)
@given(
    quat=st.lists(st.floats(-1, 1), min_size=4, max_size=4).filter(lambda q: sum(x * x for x in q) > 0.01),
    log_scales=st.lists(st.floats(-8, 8), min_size=3, max_size=3),
)
def test_decomposition_returns_the_covariance(quat, log_scales):
    quats = torch.tensor([quat], dtype=torch.float64)
    scales = torch.tensor([log_scales], dtype=torch.float64).exp()
    covariances = quats_scales_to_covariances(quats, scales)
    found_quats, found_scales = covariances_to_quats_scales(covariances)
    largest = scales.square().max()
    error = (quats_scales_to_covariances(found_quats, found_scales) - covariances).abs().max() / largest
    assert error < 1e-14
    torch.testing.assert_close(found_quats.norm(dim=-1), torch.ones(1, dtype=torch.float64))
    assert (found_scales.diff(dim=-1) >= -1e-15 * scales.max()).all()


def test_handedness_is_proper_and_the_symmetric_part_counts():
    covariances = outer(random_factors(100))
    skew = random_factors(100, seed=1)
    torch.testing.assert_close(rebuilt(covariances + skew - skew.mT), covariances)
    assert (torch.linalg.det(quats_to_rotations(covariances_to_quats_scales(covariances)[0])) > 0).all()


def test_derivatives_where_eigenvalues_are_distinct():
    factors = random_factors().requires_grad_()
    assert torch.autograd.gradcheck(lambda f: covariances_to_quats_scales(outer(f)), (factors,))
    tangent = random_factors(seed=1)
    by_forward_mode = torch.func.jvp(lambda f: rebuilt(outer(f)), (factors.detach(),), (tangent,))[1]
    product = factors.detach() @ tangent.mT
    torch.testing.assert_close(by_forward_mode, product + product.mT)


@pytest.mark.parametrize("gap", [1e-2, 1e-4, 1e-5])
def test_derivative_through_close_eigenvalues_is_that_of_the_covariance(gap):
    # Whatever depends on the covariance alone has a smooth gradient, although the axes turn ever faster.
    rotation = quats_to_rotations(torch.randn(4, generator=torch.Generator().manual_seed(3), dtype=torch.float64))
    eigenvalues = torch.tensor([1.0, 1.0 + gap, 1.0 + 3 * gap], dtype=torch.float64)
    covariance = (rotation * eigenvalues @ rotation.T)[None].requires_grad_()
    weights = random_factors(1)
    (rebuilt(covariance) * weights).sum().backward()
    expected = 0.5 * (weights + weights.mT)
    assert covariance.grad is not None
    assert (covariance.grad - expected).abs().max() < 1e-15 / gap**2 + 1e-8


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("eigenvalues", [(1, 1, 1), (1, 1, 2), (1, 2, 2), (0, 0, 1), (0, 0, 0), (-1, -1, 1)])
def test_gradients_are_finite_where_eigenvalues_coincide(eigenvalues, dtype):
    rotation = quats_to_rotations(torch.tensor([[1.0, 0, 0, 0], [0.3, -0.2, 0.5, 0.7]], dtype=torch.float64))
    covariances = (rotation * torch.tensor(eigenvalues, dtype=torch.float64) @ rotation.mT).to(dtype).requires_grad_()
    quats, scales = covariances_to_quats_scales(covariances)
    (quats * torch.arange(4.0) + scales.log().sum(-1, keepdim=True)).sum().backward()
    assert quats.isfinite().all()
    assert (scales >= SCALE_MIN * (1 - 1e-6)).all()
    assert covariances.grad is not None
    assert covariances.grad.isfinite().all()


def test_isotropic_covariance_keeps_the_gradient_of_its_size():
    covariance = (4 * torch.eye(3, dtype=torch.float64))[None].requires_grad_()
    covariances_to_quats_scales(covariance)[1].sum().backward()
    assert covariance.grad is not None
    torch.testing.assert_close(covariance.grad[0], 0.25 * torch.eye(3, dtype=torch.float64))  # d√λ = dλ / (2 √λ)


def test_gradient_is_bounded_as_documented():
    epsilon = torch.finfo(torch.float32).eps
    for gap in (0.0, 1e-7, 1e-5, 1e-4, epsilon**0.5, 1e-3):
        covariance = torch.diag(torch.tensor([2.0, 2.0 + 2 * gap, 4.0]))[None].requires_grad_()
        quats, _ = covariances_to_quats_scales(covariance)
        (gradient,) = torch.autograd.grad(quats[0, 3], covariance)
        assert gradient.norm() < 1 / (2 * epsilon**0.5 * 4.0)


def test_float32_covariances_with_rounded_negative_eigenvalues():
    needles = outer(random_factors(200)[:, :, :1]).float()
    quats, scales = covariances_to_quats_scales(needles)
    assert scales.isfinite().all()
    ratio = scales[:, 0] / scales[:, 2]
    assert (ratio >= 0.99 * torch.finfo(torch.float32).eps ** 0.5).all()
    size = needles.diagonal(dim1=1, dim2=2).sum(-1)[:, None, None]
    assert ((quats_scales_to_covariances(quats, scales) - needles).abs() / size).max() < 1e-6


def test_non_finite_covariances_are_an_error():
    covariances = torch.eye(3).repeat(4, 1, 1)
    covariances[2, 0, 1] = torch.nan
    with pytest.raises(ValueError, match="covariances has 1 non-finite value of 36"):
        covariances_to_quats_scales(covariances)
