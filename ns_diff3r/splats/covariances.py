# SPDX-License-Identifier: Apache-2.0
"""Covariances of Gaussians: from quaternions and standard deviations, and back."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from .checks import require_finite
from .eigen import symmetric_eigen
from .rotations import multiply_matrices, multiply_quats, quats_to_rotations, rotations_to_quats

SCALE_MIN = 1e-9
"""Smallest standard deviation (world units) of a conversion; smaller, zero and negative ones are clamped to it."""


def quats_scales_to_covariances(
    quats: Float[Tensor, "*batch 4"], scales: Float[Tensor, "*batch 3"]
) -> Float[Tensor, "*batch 3 3"]:
    """Covariances R S² Rᵀ from quaternions wxyz (any length) and standard deviations."""
    factor = quats_to_rotations(quats) * scales[..., None, :]
    return multiply_matrices(factor, factor.transpose(-1, -2))


def covariances_to_quats_scales(
    covariances: Float[Tensor, "*batch 3 3"],
) -> tuple[Float[Tensor, "*batch 4"], Float[Tensor, "*batch 3"]]:
    """Unit quaternions wxyz and ascending standard deviations whose R S² Rᵀ is the symmetric part of `covariances`.

    The inverse of `quats_scales_to_covariances`, with the principal axes as a proper rotation. Eigenvalues below
    max(ε λ_max, SCALE_MIN²), ε the resolution of the input's dtype, are clamped there and get no gradient: rounding
    alone makes such eigenvalues of a float32 covariance zero or negative.

    Gradient: dλ_i = M_ii and the axes turn by ω_ij = M_ij / (λ_j - λ_i), with M = Vᵀ dΣ V. The second is singular where
    eigenvalues coincide, because the axes there are arbitrary; it is damped to M_ij δ / (δ² + ε λ_max²), δ = λ_j - λ_i.
    So the gradient is exact for relative gaps well above √ε (3e-4 in float32, 1.5e-8 in float64), at most
    1 / (2 √ε λ_max) times its input, and within an isotropic subspace the change of the axes is taken as zero.

    Raises:
        ValueError: a covariance is not finite.
    """
    require_finite("Gaussians", "covariances", covariances)
    resolution = torch.finfo(covariances.dtype).eps
    symmetric = (0.5 * (covariances + covariances.transpose(-1, -2))).double()
    axes = _principal_axes(symmetric.detach())

    rotated = multiply_matrices(axes.transpose(-1, -2), multiply_matrices(symmetric, axes))  # diagonal, in value
    eigenvalues = rotated.diagonal(dim1=-2, dim2=-1)
    largest = eigenvalues.detach().amax(-1, keepdim=True).clamp_min(0)

    turn = _turn(rotated, eigenvalues.detach(), resolution * largest.square())
    base = rotations_to_quats(axes)
    quats = base + 0.5 * multiply_quats(base, torch.cat([torch.zeros_like(turn[..., :1]), turn], dim=-1))

    floor = (resolution * largest).clamp_min(SCALE_MIN**2).expand_as(eigenvalues)
    scales = torch.where(eigenvalues > floor, eigenvalues, floor).sqrt()
    return quats.to(covariances.dtype), scales.to(covariances.dtype)


def _principal_axes(symmetric: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 3 3"]:
    """Eigenvectors as columns, the first flipped where needed for a proper rotation."""
    vectors = symmetric_eigen(symmetric)[1]
    handedness = torch.linalg.det(vectors).sign()[..., None, None]
    return torch.cat([vectors[..., :1] * handedness, vectors[..., 1:]], dim=-1)


def _turn(
    rotated: Float[Tensor, "*batch 3 3"], eigenvalues: Float[Tensor, "*batch 3"], damping: Float[Tensor, "*batch 1"]
) -> Float[Tensor, "*batch 3"]:
    """Rotation vector by which the axes turn, in their own frame: zero in value, right in its derivative."""
    rows, columns = [2, 0, 1], [1, 2, 0]  # entries (2,1), (0,2), (1,0) of a skew matrix are its vector
    gaps = eigenvalues[..., columns] - eigenvalues[..., rows]
    turn = rotated[..., rows, columns] * gaps / (gaps.square() + damping).clamp_min(torch.finfo(gaps.dtype).tiny)
    return turn - turn.detach()
