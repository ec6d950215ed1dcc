# SPDX-License-Identifier: Apache-2.0
"""Gaussians from activated values and from covariances, up to and beyond the ends of their ranges."""

import math

import pytest
import torch

from ns_diff3r.splats import Gaussians
from ns_diff3r.splats.activations import OPACITY_MARGIN
from ns_diff3r.splats.covariances import SCALE_MIN
from ns_diff3r.splats.spherical_harmonics import sh0_to_rgb
from tests.splats.random_gaussians import assert_same, random_gaussians


@pytest.mark.parametrize("degree", range(5))
def test_activation_and_back(degree):
    gaussians = random_gaussians(9, degree)
    sh = torch.cat([gaussians.sh0, gaussians.shN], dim=1)
    scales, opacities = gaussians.scales_activated, gaussians.opacities_activated
    back = Gaussians.from_activated(gaussians.means, gaussians.quats, scales, opacities, sh=sh)
    assert_same(back, gaussians, rtol=1e-12)
    column = Gaussians.from_activated(gaussians.means, gaussians.quats, scales, opacities[:, None], sh=sh)
    assert_same(column, back)


def test_colors():
    gaussians = random_gaussians(4, 0)
    colors = torch.tensor([[0.0, 0.5, 1.0]], dtype=torch.float64).repeat(4, 1)
    made = Gaussians.from_activated(
        gaussians.means, gaussians.quats, gaussians.scales.exp(), torch.full((4,), 0.5).double(), colors=colors
    )
    assert made.sh_degree == 0
    torch.testing.assert_close(sh0_to_rgb(made.sh0[:, 0]), colors)
    assert made.opacities.eq(0).all()


def test_exactly_one_kind_of_colour():
    means, quats, scales, opacities, sh0, _ = random_gaussians(4, 0).leaves()
    with pytest.raises(ValueError, match="exactly one of colors and sh"):
        Gaussians.from_activated(means, quats, scales, opacities)
    with pytest.raises(ValueError, match="exactly one of colors and sh"):
        Gaussians.from_activated(means, quats, scales, opacities, colors=sh0[:, 0], sh=sh0)
    with pytest.raises(ValueError, match=r"sh must have shape \[N, K, 3\]"):
        Gaussians.from_activated(means, quats, scales, opacities, sh=sh0[:, 0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_saturated_values_give_finite_parameters_and_gradients(dtype):
    opacities = torch.tensor([0.0, 1.0, -0.1, 1.1, 1e-12, 0.5], dtype=dtype, requires_grad=True)
    scales = torch.tensor([[0.0, -1.0, 1.0]], dtype=dtype).repeat(6, 1).requires_grad_()
    means, quats, _, _, sh0, _ = random_gaussians(6, 0, dtype).leaves()
    made = Gaussians.from_activated(means, quats, scales, opacities, sh=sh0)
    made.check_finite()
    (made.opacities.sum() + made.scales.sum()).backward()
    limit = math.log((1 - OPACITY_MARGIN) / OPACITY_MARGIN)
    expected = torch.tensor([-limit, limit, -limit, limit, -limit, 0.0], dtype=dtype)
    torch.testing.assert_close(made.opacities.detach(), expected, rtol=1e-3, atol=0)
    assert made.scales[0].tolist() == pytest.approx([math.log(SCALE_MIN)] * 2 + [0.0])
    assert opacities.grad is not None
    assert scales.grad is not None
    assert opacities.grad.tolist() == pytest.approx([0, 0, 0, 0, 0, 4])
    assert scales.grad[0].tolist() == [0, 0, 1]


def test_derivatives():
    gaussians = random_gaussians(3, 1)
    sh = torch.cat([gaussians.sh0, gaussians.shN], dim=1)
    inputs = (gaussians.means, gaussians.quats, gaussians.scales.exp(), gaussians.opacities.sigmoid(), sh)
    inputs = tuple(value.clone().requires_grad_() for value in inputs)
    assert torch.autograd.gradcheck(lambda *v: Gaussians.from_activated(*v[:4], sh=v[4]).flatten(), inputs)
    covariances = gaussians.covariances().requires_grad_()
    values = (inputs[0], covariances, inputs[3], inputs[4])
    assert torch.autograd.gradcheck(lambda *v: Gaussians.from_covariances(*v[:3], sh=v[3]).flatten(), values)


def test_from_covariances_draws_the_same_gaussians():
    gaussians = random_gaussians(20, 1)
    sh = torch.cat([gaussians.sh0, gaussians.shN], dim=1)
    made = Gaussians.from_covariances(gaussians.means, gaussians.covariances(), gaussians.opacities.sigmoid(), sh=sh)
    torch.testing.assert_close(made.covariances(), gaussians.covariances())
    torch.testing.assert_close(made.opacities, gaussians.opacities)
    assert torch.equal(made.shN, gaussians.shN)


def test_isotropic_covariances_give_finite_gradients():
    covariances = (0.01 * torch.eye(3)).repeat(5, 1, 1).requires_grad_()
    means, _, _, _, sh0, _ = random_gaussians(5, 0, torch.float32).leaves()
    made = Gaussians.from_covariances(means, covariances, torch.full((5,), 0.5), sh=sh0)
    torch.testing.assert_close(made.scales, torch.full((5, 3), math.log(0.1)))
    made.flatten().sum().backward()
    assert covariances.grad is not None
    assert covariances.grad.isfinite().all()


def test_wrong_shape_of_covariances():
    means, quats, _, opacities, sh0, _ = random_gaussians(5, 0).leaves()
    with pytest.raises(ValueError, match=r"covariances must have shape \[N, 3, 3\], got \[5, 4\]"):
        Gaussians.from_covariances(means, quats, opacities, sh=sh0)


def test_half_precision_of_autocast_is_raised():
    means, quats, scales, opacities, sh0, _ = random_gaussians(5, 0, torch.float32).leaves()
    made = Gaussians.from_activated(
        means, quats.bfloat16(), scales.exp().half(), opacities.sigmoid().half(), sh=sh0.half()
    )
    assert made.dtype == torch.float32
    made.check_finite()
