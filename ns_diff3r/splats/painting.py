# SPDX-License-Identifier: Apache-2.0
"""Gaussians that carry a quantity in place of their colour."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from .gaussians import Gaussians
from .spherical_harmonics import rgb_to_sh0


def painted(gaussians: Gaussians, values: Float[Tensor, " N"]) -> Gaussians:
    """The same Gaussians in shades of grey from `values` in [0, 1], for rendering a per-Gaussian quantity as a map."""
    sh0 = rgb_to_sh0(values[:, None, None].expand(-1, 1, 3).to(gaussians.dtype))
    return Gaussians(
        gaussians.means, gaussians.quats, gaussians.scales, gaussians.opacities, sh0.contiguous(), gaussians.shN[:, :0]
    )
