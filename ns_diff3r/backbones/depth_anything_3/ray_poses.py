# SPDX-License-Identifier: Apache-2.0
"""Cameras from the rays that DA3's depth head predicts, instead of from the camera decoder.

Of every pixel the head says where its ray begins, o, and in which direction it goes, d = R K⁻¹ u, with R the rotation
of camera-to-world and u = (x, y, 1) the pixel where the image is [-1, 1]². So d ∥ A u with one matrix A for a view. A
weighted least-squares fit of d × A u = 0 gives it up to its scale, and a QR decomposition takes it apart: R is the
orthogonal factor, K⁻¹ the triangular one. The centre is the weighted mean of the o.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from .cameras import PredictedCameras, homogeneous, rigid_inverse

REWEIGHTINGS = 10
OUTLIER_ANGLE = 0.05
"""Rays that leave the fit by this angle (radians) count half, by more less; the first fit is of all."""
SMALLEST_SLOPE = 1e-3
"""Of half the image at depth 1: what a field of view is at least."""


@torch.no_grad()
def cameras_from_rays(rays: Float[Tensor, "V 7 h w"], size: tuple[int, int]) -> PredictedCameras:
    """Cameras of images of `size` (height, width); constants for autograd.

    The official code draws random subsets (RANSAC) and takes a lower triangular factor instead of K⁻¹'s upper one, the
    same where the principal point is the centre. This gives the same every time: outliers lose their weight step by
    step.

    Args:
        rays: direction, origin and confidence of every pixel of a grid over the image, as `DepthHead.rays` gives them.
        size: of the images that the intrinsics are for.
    """
    directions, origins, confidence = rays.double().flatten(2).transpose(1, 2).split((3, 3, 1), dim=-1)
    pixels = _pixels(rays)
    centers = (confidence * origins).sum(1) / confidence.sum(1)
    directions = directions / directions.norm(dim=-1, keepdim=True).clamp_min(1e-12)
    weights = confidence[..., 0]
    matrices = _fitted(pixels, directions, weights)
    for _ in range(REWEIGHTINGS):
        drawn = pixels @ matrices.transpose(1, 2)
        sines = torch.linalg.cross(drawn, directions).norm(dim=-1) / drawn.norm(dim=-1).clamp_min(1e-12)
        matrices = _fitted(pixels, directions, weights / (1 + (sines / OUTLIER_ANGLE).square()))
    rotations, slopes = _taken_apart(matrices)
    viewmats = rigid_inverse(homogeneous(rotations, centers))
    return PredictedCameras(viewmats.to(rays), _intrinsics(slopes, size).to(rays))


def _pixels(rays: Float[Tensor, "V 7 h w"]) -> Float[Tensor, "P 3"]:
    """u of every pixel centre of the grid, float64."""
    height, width = rays.shape[-2:]
    y, x = ((2 * torch.arange(n, device=rays.device, dtype=torch.float64) + 1) / n - 1 for n in (height, width))
    grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)
    return torch.nn.functional.pad(grid, (0, 1), value=1.0).flatten(0, 1)


def _fitted(
    pixels: Float[Tensor, "P 3"], directions: Float[Tensor, "V P 3"], weights: Float[Tensor, "V P"]
) -> Float[Tensor, "V 3 3"]:
    """A of unit norm with the least Σ weight |d × A u|², turned so that A u goes where the rays go.

    With P = I − d dᵀ the sum is aᵀ [Σ weight P ⊗ u uᵀ] a for the rows a of A, whose least eigenvector is the answer.
    """
    eye = torch.eye(3, dtype=pixels.dtype, device=pixels.device)
    across = eye - directions[..., :, None] * directions[..., None, :]
    outer = pixels[:, :, None] * pixels[:, None, :]
    quadratic = torch.einsum("vp,vpij,pkl->vikjl", weights, across, outer).flatten(3).flatten(1, 2)
    matrices = torch.linalg.eigh(quadratic).eigenvectors[..., 0].unflatten(-1, (3, 3))
    along = (directions * (pixels @ matrices.transpose(1, 2))).sum(-1)
    return matrices * torch.where((weights * along).sum(-1) < 0, -1.0, 1.0)[:, None, None]


def _taken_apart(matrices: Float[Tensor, "V 3 3"]) -> tuple[Float[Tensor, "V 3 3"], Float[Tensor, "V 3 3"]]:
    """A = scale · R · K⁻¹: the rotation, and the upper triangular K⁻¹ with 1 in its corner and a positive diagonal."""
    orthogonal, upper = torch.linalg.qr(matrices)
    signs = torch.where(upper.diagonal(dim1=1, dim2=2) < 0, -1.0, 1.0)
    orthogonal, upper = orthogonal * signs[:, None, :], signs[:, :, None] * upper
    # Rays that no camera has (a mirrored view) give no rotation; the nearest one turns the axis the other way.
    orthogonal = orthogonal * torch.linalg.det(orthogonal).sign()[:, None, None]
    return orthogonal, upper / upper[:, 2:, 2:].clamp_min(1e-12)


def _intrinsics(slopes: Float[Tensor, "V 3 3"], size: tuple[int, int]) -> Float[Tensor, "V 3 3"]:
    """Pixel intrinsics, without skew."""
    result = torch.zeros_like(slopes)
    result[:, 2, 2] = 1.0
    for axis, side in enumerate((size[1], size[0])):
        focal = 1 / slopes[:, axis, axis].clamp_min(SMALLEST_SLOPE)
        result[:, axis, axis] = focal * side / 2
        result[:, axis, 2] = (1 - focal * slopes[:, axis, 2]) * side / 2
    return result
