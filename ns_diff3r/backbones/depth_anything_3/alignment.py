# SPDX-License-Identifier: Apache-2.0
"""Similarities between predicted and given cameras. All are constants for autograd."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from ...splats.frames import Similarity

SMALLEST_SPREAD = 1e-6
"""Camera centres nearer together than this, relative to their distance from the origin, count as one point."""
OFFICIAL_SCALES = (1 / 3, 3.0)


@torch.no_grad()
def umeyama_scale(
    given: Float[Tensor, "V 4 4"], predicted: Float[Tensor, "V 4 4"], limits: tuple[float, float] = OFFICIAL_SCALES
) -> float:
    """Scale of the similarity that takes predicted camera centres to given ones (Umeyama, 1991), within `limits`.

    With two views the ratio of the centres' distances; 1 where the centres coincide.

    Args:
        given, predicted: world-to-camera.
        limits: DA3's own.
    """
    target, source = (_centers(matrices) for matrices in (given, predicted))
    target, source = target - target.mean(0), source - source.mean(0)
    variance = source.square().sum()
    if not _spread(source) or not _spread(target):
        return 1.0
    left, values, right = torch.linalg.svd(target.T @ source)
    signs = torch.ones_like(values)
    signs[-1] = torch.linalg.det(left @ right).sign()
    scale = float((values * signs).sum() / variance)
    return min(max(scale, limits[0]), limits[1])


@torch.no_grad()
def aligning_similarity(given: Float[Tensor, "V 4 4"], predicted: Float[Tensor, "V 4 4"]) -> Similarity:
    """The similarity that takes the predicted cameras nearest to the given ones, in float64.

    The rotation is the one that best turns the cameras' axes and, equally weighted, the directions between their
    centres; the scale is the ratio of the centres' spreads; the mean centre goes to the mean centre. Defined for any
    number of cameras: two fix the rotation by their axes, and where centres coincide (one camera, or photographs whose
    poses are not known and stand for the origin) the scale is 1.

    Args:
        given, predicted: world-to-camera.
    """
    target, source = (_centers(matrices) for matrices in (given, predicted))
    shifted = target - target.mean(0), source - source.mean(0)
    products = given[:, :3, :3].double().transpose(1, 2) @ predicted[:, :3, :3].double()
    correlation = products.mean(0)
    scale = torch.ones((), dtype=torch.float64, device=given.device)
    if _spread(target) and _spread(source):
        spreads = [centers.square().sum().sqrt() for centers in shifted]
        scale = spreads[0] / spreads[1]
        correlation = correlation + shifted[0].T @ shifted[1] / (spreads[0] * spreads[1])
    left, _, right = torch.linalg.svd(correlation)
    signs = torch.ones(3, dtype=torch.float64, device=given.device)
    signs[-1] = torch.linalg.det(left @ right).sign()
    rotation = left * signs @ right
    return Similarity(scale, rotation, target.mean(0) - scale * rotation @ source.mean(0))


def _centers(world_to_camera: Float[Tensor, "V 4 4"]) -> Float[Tensor, "V 3"]:
    matrices = world_to_camera.detach().double()
    return -(matrices[:, :3, :3] * matrices[:, :3, 3:]).sum(1)


def _spread(centers: Float[Tensor, "V 3"]) -> bool:
    """Whether centres lie apart."""
    deviation = (centers - centers.mean(0)).norm(dim=-1).max()
    return bool(deviation > SMALLEST_SPREAD * centers.norm(dim=-1).max()) and bool(deviation > 0)
