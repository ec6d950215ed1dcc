# SPDX-License-Identifier: Apache-2.0
"""A coarse layer of Gaussians far behind everything, so that what no context view shows is not black.

Each view hangs a blurred copy of its photograph behind the scene, continued beyond its borders by its edge colours. It
shows through only where nothing else is: outside the views, and in gaps that open behind things. With two views that
is worth more decibels than any refinement of the depths.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, pad

from ..splats import Cameras, Gaussians
from .compact_gaussians import Corrections, pixel_gaussians

CELLS = 8
"""Cells along the longer side of the photograph."""
BORDER = 4
"""Cells beyond each border: half the longer side."""
DISTANCE = 4.0
"""Depth, in units of far."""
FOOTPRINT = 0.7
"""Standard deviation, in cells."""
OPACITY = 0.9
"""Opacity at initialisation; neighbouring cells overlap, so that together they are opaque."""


def to_cells(maps: Float[Tensor, "V C H W"]) -> Float[Tensor, "V C h w"]:
    """Means over the cells, continued beyond the border."""
    height, width = maps.shape[-2:]
    rows, columns = (max(1, round(CELLS * side / max(height, width))) for side in (height, width))
    return pad(adaptive_avg_pool2d(maps, (rows, columns)), (BORDER,) * 4, mode="replicate")


def backdrop_gaussians(
    cameras: Cameras,
    images: Float[Tensor, "V 3 H W"],
    near: Float[Tensor, " V"],
    far: Float[Tensor, " V"],
    corrections: Corrections,
) -> Gaussians:
    """One Gaussian per cell, in the order view, row, column.

    Args:
        cameras: of the photographs.
        images: [V, 3, H, W] the photographs.
        near, far: [V] float64 depth range, world units.
        corrections: what the network adds, maps of the size that `to_cells` gives.
    """
    colors = to_cells(images)
    height, width = colors.shape[-2:]
    Ks = cameras.Ks.clone()
    Ks[:, 0] *= (width - 2 * BORDER) / cameras.width
    Ks[:, 1] *= (height - 2 * BORDER) / cameras.height
    Ks[:, :2, 2] += BORDER
    coarse = Cameras(cameras.viewmats, Ks, width, height)
    farthest = torch.zeros_like(corrections.opacity)
    opacities = torch.full_like(farthest, math.log(OPACITY / (1 - OPACITY)))
    return pixel_gaussians(coarse, colors, DISTANCE * near, DISTANCE * far, farthest, opacities, FOOTPRINT, corrections)
