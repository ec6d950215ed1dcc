# SPDX-License-Identifier: Apache-2.0
"""Exact Hessian-vector products of the inner loss, without double backward."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from ..rasterization.protocol import Linearization
from . import vector_ops
from .image_loss import LossLinearization


def hessian_product(
    linearization: Linearization,
    loss: LossLinearization,
    strength: Float[Tensor, " P"] | None,
    v: Float[Tensor, " P"],
) -> Float[Tensor, " P"]:
    """∇²L_in(θ) v = Jᵀ H_img J v + (d/dε J(θ+εv))ᵀ ∇_img + Λ ⊙ v, with the renderer's decisions and L1 signs frozen.

    Args:
        linearization: the renderer around θ.
        loss: the photometric loss around `linearization.rgb`; H_img and ∇_img are its Hessian and gradient there.
        strength: Λ as a flat vector, or None.
        v: direction, flat.
    """
    tangent = linearization.gaussians.unflatten(v)
    change = loss.hessian_product(linearization.jvp(tangent))
    out = linearization.vjp_tangent(tangent, loss.gradient, change).flatten()
    vector_ops.scale_add_diagonal(1.0, strength, v, out)
    return out
