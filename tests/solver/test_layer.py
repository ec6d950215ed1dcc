# SPDX-License-Identifier: Apache-2.0
"""Gradients of `DifferentiableTTO` on dense problems: a dense solve, finite differences, signs and limits."""

import pytest
import torch
from torch import Tensor

from ns_diff3r.solver import DifferentiableTTO, ImageLoss
from ns_diff3r.solver.normal_operator import NormalOperator
from ns_diff3r.splats import GROUPS, Gaussians
from tests.solver.dense_problem import random_gaussians
from tests.solver.layer_calls import MSE, config_of, gradients, strengths


@pytest.mark.parametrize("frozen", [(), ("quats", "sh0")])
@pytest.mark.parametrize("loss", [MSE, ImageLoss(), ImageLoss(ssim_curvature="center")])
def test_gradients_equal_a_dense_solve(dense, loss, frozen):
    init, context, renderer = dense(bend=0.2)
    prior, cotangent = strengths(init), random_gaussians(4, 1, seed=9).flatten()
    layer = DifferentiableTTO(config_of(loss=loss, num_steps=4, frozen_groups=frozen)).eval()
    theta, start, multiplier = gradients(layer, init, prior, context, cotangent)

    # D is the scene's own: mean of diag(JᵀWJ)/n at θ⁰ per group.
    at_start, at_end = renderer(init), renderer(init.unflatten(theta))
    n = context.images.numel()
    first = loss.linearize(at_start.rgb, context.images)
    scale = init.unflatten(torch.zeros_like(theta)).map(torch.zeros_like)
    diagonal = at_start.diagonal(first.curvature)
    scale = Gaussians(*(torch.full_like(leaf, float(leaf.mean()) / n) for leaf in diagonal.leaves())).flatten()
    strength = prior.flatten() * scale
    last = loss.linearize(at_end.rgb, context.images)
    full = NormalOperator(at_end, last.curvature, n, strength).dense()
    free = torch.ones_like(theta, dtype=torch.bool)
    for name in frozen:
        free[init.group_slices()[name]] = False
    u = torch.linalg.solve(full[free][:, free], cotangent[free])
    expected_start, expected_multiplier = torch.zeros_like(theta), torch.zeros_like(theta)
    expected_start[free] = strength[free] * u
    expected_start[~free] = cotangent[~free] - full[~free][:, free] @ u
    expected_multiplier[free] = -scale[free] * u * (theta - init.flatten())[free]
    tolerance = {"rtol": 1e-6, "atol": 1e-6 * float(expected_start.abs().max())}
    torch.testing.assert_close(start, expected_start, **tolerance)
    torch.testing.assert_close(multiplier, expected_multiplier, rtol=1e-6, atol=1e-6 * float(multiplier.abs().max()))
    assert float(multiplier[free].abs().max()) > 0


@pytest.mark.parametrize("frozen", [(), ("means", "shN")])
def test_gradients_equal_finite_differences_where_gauss_newton_is_exact(dense, frozen):
    """A linear MSE problem solved to stationarity, all coordinates of θ⁰ and λ, central differences of the layer."""
    init, context, _ = dense()
    prior, cotangent = strengths(init), random_gaussians(4, 1, seed=9).flatten()
    config = config_of(optimizer="gauss_newton", num_steps=3, frozen_groups=frozen)
    layer = DifferentiableTTO(config)
    layer.train()
    layer(init, prior, context)  # gives D a history, which eval keeps constant
    layer.eval()
    _, start, multiplier = gradients(layer, init, prior, context, cotangent)
    step = 1e-4
    for index in range(0, init.num_parameters, 3):
        unit = torch.zeros_like(cotangent)
        unit[index] = step

        def outer(theta0: Tensor, strength: Tensor) -> float:
            theta, solution = layer(init.unflatten(theta0), init.unflatten(strength), context)
            assert solution.stationarity < 1e-8
            return float(theta.flatten() @ cotangent)

        flat, strength = init.flatten(), prior.flatten()
        by_start = (outer(flat + unit, strength) - outer(flat - unit, strength)) / (2 * step)
        by_strength = (outer(flat, strength + unit) - outer(flat, strength - unit)) / (2 * step)
        assert by_start == pytest.approx(float(start[index]), rel=1e-4, abs=1e-7 * float(start.abs().max()))
        assert by_strength == pytest.approx(
            float(multiplier[index]), rel=1e-4, abs=1e-6 * float(multiplier.abs().max())
        )


def test_sign_of_the_gradient_to_the_prior(dense):
    """Where the outer loss wants to go further along θ* − θ⁰, the gradient is positive, so that descent lowers λ."""
    init, context, _ = dense()
    layer = DifferentiableTTO(config_of(optimizer="gauss_newton", num_steps=2)).eval()
    with torch.no_grad():
        displacement = layer(init, 0.5, context)[0].flatten() - init.flatten()
    strength = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    theta, _ = layer(init, strength, context)
    (-(theta.flatten() @ displacement)).backward()  # lower when θ* is further out
    assert strength.grad is not None
    assert float(strength.grad) > 0


def test_strong_prior_passes_the_gradient_through(dense):
    init, context, _ = dense()
    cotangent = random_gaussians(4, 1, seed=9).flatten()
    layer = DifferentiableTTO(config_of(optimizer="gauss_newton", num_steps=2)).eval()
    prior = strengths(init).map(lambda leaf: 1e7 * leaf)
    _, start, multiplier = gradients(layer, init, prior, context, cotangent)
    assert (start - cotangent).norm() < 1e-5 * cotangent.norm()
    assert multiplier.norm() < 1e-6


def test_weak_prior_loses_what_the_context_determines_and_keeps_what_it_does_not_see(dense):
    """Λ→0 with rank-deficient J: the component in range(Jᵀ) vanishes, the one in the null space passes through."""
    init, context, renderer = dense(num=20)
    assert renderer.matrix.shape[0] < renderer.matrix.shape[1]
    cotangent = random_gaussians(20, 1, seed=9).flatten()
    layer = DifferentiableTTO(config_of(optimizer="gauss_newton", num_steps=2)).eval()
    layer.curvature_scale.update(torch.ones(1, 6, dtype=torch.float64))
    prior = init.map(lambda leaf: torch.full_like(leaf, 1e-8))
    _, start, _ = gradients(layer, init, prior, context, cotangent)
    matrix = renderer.matrix
    inside = matrix.T @ torch.linalg.solve(matrix @ matrix.T, matrix @ cotangent)
    assert (start - (cotangent - inside)).norm() < 1e-4 * cotangent.norm()
    assert inside.norm() > 0.3 * cotangent.norm()

    full_rank, context, renderer = dense(num=4)
    cotangent = random_gaussians(4, 1, seed=9).flatten()
    prior = full_rank.map(lambda leaf: torch.full_like(leaf, 1e-8))
    _, start, _ = gradients(layer, full_rank, prior, context, cotangent)
    assert start.norm() < 1e-4 * cotangent.norm()


def test_unseen_gaussians_pass_their_gradient_through_exactly(dense):
    init, context, _ = dense(unseen=(1, 3))
    cotangent = random_gaussians(4, 1, seed=9).flatten()
    layer = DifferentiableTTO(config_of(num_steps=5)).eval()
    theta, start, multiplier = gradients(layer, init, strengths(init), context, cotangent)
    for name, leaf in init.unflatten(start).items():
        expected = getattr(init.unflatten(cotangent), name)
        torch.testing.assert_close(leaf[[1, 3]], expected[[1, 3]], rtol=1e-12, atol=0)
        assert not torch.allclose(leaf[[0, 2]], expected[[0, 2]], rtol=1e-3)
        assert not getattr(init.unflatten(multiplier), name)[[1, 3]].any()
        assert torch.equal(getattr(init.unflatten(theta), name)[[1, 3]], getattr(init, name)[[1, 3]])


def test_broadcast_priors_collect_the_gradients_of_their_parameters(dense):
    init, context, _ = dense()
    cotangent = random_gaussians(4, 1, seed=9).flatten()
    layer = DifferentiableTTO(config_of(num_steps=5)).eval()
    full = init.map(lambda leaf: torch.full_like(leaf, 0.4))
    _, _, multiplier = gradients(layer, init, full, context, cotangent)
    leaves = {name: torch.full((4, 1), 0.4, dtype=torch.float64, requires_grad=True) for name in GROUPS}
    theta, _ = layer(init, leaves, context)
    (theta.flatten() * cotangent).sum().backward()
    for name, leaf in init.unflatten(multiplier).items():
        gradient = leaves[name].grad
        assert gradient is not None
        torch.testing.assert_close(gradient, leaf.reshape(4, -1).sum(1, keepdim=True), rtol=1e-10, atol=1e-14)
