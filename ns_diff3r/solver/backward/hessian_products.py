# SPDX-License-Identifier: Apache-2.0
"""Products with the Hessian of the photometric loss at an iterate of the inner loop: exact, differenced, Gauss-Newton.

All of them take the renderer's decisions (depth order, lists, contributing pairs, clamps) and the L1 signs as they are
at that iterate: the inner loss is smooth only piecewise, and across the pieces its gradient jumps.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from ...splats import Gaussians
from ..hessian import hessian_product
from ..problem import Evaluation
from .config import BackwardConfig

HessianProduct = Callable[[Evaluation, Float[Tensor, " P"], Float[Tensor, " P"], dict[str, float]], Tensor]
"""(linearisation at θ_k, θ_k, direction v, learning rate per group) → ∇²L_img(θ_k) v, flat, a new tensor."""


def make_hessian_product(config: BackwardConfig) -> HessianProduct:
    """The kind that the settings name."""
    if config.hessian == "exact":
        return exact
    if config.hessian == "gauss_newton":
        return gauss_newton

    def differenced(at: Evaluation, theta: Tensor, v: Tensor, rates: dict[str, float]) -> Tensor:
        return finite_difference(at, theta, v, rates, config.difference_step)

    return differenced


def exact(
    at: Evaluation, theta: Float[Tensor, " P"], v: Float[Tensor, " P"], rates: dict[str, float]
) -> Float[Tensor, " P"]:
    """Jᵀ ∂²L J v + (d/dε J(θ+εv))ᵀ ∂L: one jvp and one vjp on dual numbers."""
    return hessian_product(at.linearization, at.loss, None, v)


def gauss_newton(
    at: Evaluation, theta: Float[Tensor, " P"], v: Float[Tensor, " P"], rates: dict[str, float]
) -> Float[Tensor, " P"]:
    """Jᵀ (∂²L/∂R²) J v with the second derivative of the loss itself: none for L1, whose square-root-residual weight is
    a device of solvers and makes this gradient worse; exact through the windows of SSIM. Need not be ⪰ 0 here."""
    tangent = at.linearization.gaussians.unflatten(v)
    return at.linearization.vjp(at.loss.hessian_product(at.linearization.jvp(tangent))).flatten()


def finite_difference(
    at: Evaluation,
    theta: Float[Tensor, " P"],
    v: Float[Tensor, " P"],
    rates: dict[str, float],
    step: float,
) -> Float[Tensor, " P"]:
    """(∇L_img(θ + hv) − ∇L_img(θ − hv)) / 2h with all decisions frozen at θ, and no parameter moving further than
    `step` learning rates."""
    template = at.linearization.gaussians
    size = _difference_size(template, v, rates, step)
    if size == 0.0:
        return torch.zeros_like(v)
    gradients = []
    for signed in (size, -size):
        moved = at.linearization.at(template.unflatten(theta + signed * v), "pairs")
        gradients.append(moved.vjp(at.loss.gradient_at(moved.rgb)).flatten())
    return gradients[0].sub_(gradients[1]).mul_(0.5 / size)


def _difference_size(template: Gaussians, v: Tensor, rates: dict[str, float], step: float) -> float:
    """h such that |h v| is at most `step` learning rates; 0 where v is 0."""
    sizes = []
    for name, part in template.group_slices().items():
        largest = float(v[part].abs().max()) if part.stop > part.start else 0.0
        if largest > 0.0 and math.isfinite(largest) and rates[name] > 0.0:
            sizes.append(step * rates[name] / largest)
    return min(sizes, default=0.0)
