# SPDX-License-Identifier: Apache-2.0
"""Covariances of Gaussians: from quaternions and standard deviations, and back."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

SCALE_MIN = 1e-9
"""Smallest standard deviation (world units) that conversions to log-scales return; smaller and negative ones clamp."""


def quats_to_rotations(quats: Float[Tensor, "*batch 4"]) -> Float[Tensor, "*batch 3 3"]:
    """Rotation matrices of quaternions wxyz of any length; those shorter than 1e-12 give nearly the identity."""
    w, x, y, z = normalize(quats, dim=-1).unbind(-1)
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)


def multiply_matrices(a: Float[Tensor, "*batch m k"], b: Float[Tensor, "*batch k n"]) -> Float[Tensor, "*batch m n"]:
    """Product of small matrices by elementwise operations: unlike `@`, autocast does not round it to half precision."""
    return (a[..., :, :, None] * b[..., None, :, :]).sum(-2)


def quats_scales_to_covariances(
    quats: Float[Tensor, "*batch 4"], scales: Float[Tensor, "*batch 3"]
) -> Float[Tensor, "*batch 3 3"]:
    """Covariances R S² Rᵀ from quaternions wxyz (any length) and standard deviations."""
    factor = quats_to_rotations(quats) * scales[..., None, :]
    return multiply_matrices(factor, factor.transpose(-1, -2))
