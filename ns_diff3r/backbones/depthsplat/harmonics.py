# SPDX-License-Identifier: Apache-2.0
"""The spherical harmonics of pixelSplat, MVSplat and DepthSplat, and the way to the standard ones.

Their rasteriser evaluates the harmonics of 3DGS with cycled axes, Y'(x, y, z) = Y(z, x, y). Coefficients c' of Y' are
coefficients M c' of Y, with M orthogonal. Beforehand they are turned from the camera's frame to the world's by a
matrix that is right for harmonics with alternating signs, so that it turns nothing correctly; weights were trained
with it, and it is reproduced here.
"""

from __future__ import annotations

from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor

from ...splats.spherical_harmonics import spherical_harmonics_rotation

_CYCLE = torch.tensor([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], dtype=torch.float64)
"""(x, y, z) ↦ (z, x, y)."""


@cache
def standard_from_cycled(degree: int) -> Float[Tensor, "K K"]:
    """M: coefficients of the standard harmonics from those of the cycled ones. Float64, orthogonal."""
    return spherical_harmonics_rotation(degree, _CYCLE.T)


def trained_rotation(degree: int, rotation: Float[Tensor, "3 3"]) -> Float[Tensor, "K K"]:
    """What DepthSplat applies to cycled coefficients for a camera-to-world rotation; float64.

    S D S, with D the rotation of cycled coefficients and S = (-1)^m by the order m of each.
    """
    R = rotation.detach().double().cpu()
    turn = spherical_harmonics_rotation(degree, _CYCLE @ R @ _CYCLE.T)
    orders = torch.tensor([order for band in range(degree + 1) for order in range(-band, band + 1)])
    signs = 1.0 - 2.0 * (orders % 2).double()
    return signs[:, None] * turn * signs
