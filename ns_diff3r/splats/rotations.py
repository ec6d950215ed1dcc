# SPDX-License-Identifier: Apache-2.0
"""Rotations as quaternions wxyz and as matrices. All functions are differentiable and safe under autocast."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize


def multiply_matrices(a: Float[Tensor, "*batch m k"], b: Float[Tensor, "*batch k n"]) -> Float[Tensor, "*batch m n"]:
    """Product of small matrices by elementwise operations: unlike `@`, autocast does not round it to half precision."""
    return (a[..., :, :, None] * b[..., None, :, :]).sum(-2)


def quats_to_rotations(quats: Float[Tensor, "*batch 4"]) -> Float[Tensor, "*batch 3 3"]:
    """Rotation matrices of quaternions wxyz of any length; the zero quaternion gives the identity."""
    w, x, y, z = normalize(quats, dim=-1).unbind(-1)
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)


def rotations_to_quats(rotations: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 4"]:
    """Unit quaternions wxyz of rotation matrices, the largest component positive.

    4 q qᵀ is linear in the entries of R, so its row with the largest diagonal, normalised, is q: no square root of a
    difference, hence finite gradients everywhere.
    """
    r = rotations
    d0, d1, d2 = r[..., 0, 0], r[..., 1, 1], r[..., 2, 2]
    wx, wy, wz = r[..., 2, 1] - r[..., 1, 2], r[..., 0, 2] - r[..., 2, 0], r[..., 1, 0] - r[..., 0, 1]
    xy, xz, yz = r[..., 0, 1] + r[..., 1, 0], r[..., 0, 2] + r[..., 2, 0], r[..., 1, 2] + r[..., 2, 1]
    rows = (
        (1 + d0 + d1 + d2, wx, wy, wz),
        (wx, 1 + d0 - d1 - d2, xy, xz),
        (wy, xy, 1 - d0 + d1 - d2, yz),
        (wz, xz, yz, 1 - d0 - d1 + d2),
    )
    outer = torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)
    largest = outer.detach().diagonal(dim1=-2, dim2=-1).argmax(-1)
    chosen = outer.gather(-2, largest[..., None, None].expand(*largest.shape, 1, 4)).squeeze(-2)
    return normalize(chosen, dim=-1)


def multiply_quats(a: Float[Tensor, "*batch 4"], b: Float[Tensor, "*batch 4"]) -> Float[Tensor, "*batch 4"]:
    """Hamilton product: the rotation of a ⊗ b applies b first; lengths multiply."""
    aw, ax, ay, az = a.unbind(-1)
    bw, bx, by, bz = b.unbind(-1)
    return torch.stack(
        [
            aw * bw - ax * bx - ay * by - az * bz,
            aw * bx + ax * bw + ay * bz - az * by,
            aw * by - ax * bz + ay * bw + az * bx,
            aw * bz + ax * by - ay * bx + az * bw,
        ],
        dim=-1,
    )
