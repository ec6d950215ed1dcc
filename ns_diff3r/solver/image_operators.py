# SPDX-License-Identifier: Apache-2.0
"""Curvatures W of a photometric loss that are not diagonal (`rasterization.protocol.SymmetricImageOperator`)."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from .ssim import Ssim
from .vector_ops import multiply

Images = Float[Tensor, "V H W 3"]


@dataclass(frozen=True, eq=False)
class SsimCurvature:
    """W = diag(pixel) + J_Sᵀ diag(window) J_S with J_S the derivative of SSIM through its windows; symmetric, ⪰ 0."""

    pixel: Images
    """Curvature of the pixel penalty, >= 0."""
    ssim: Ssim
    """SSIM around the rendering."""
    window: Images
    """Weight of every window, >= 0."""

    def __call__(self, images: Images) -> Images:
        """W·images."""
        images = images.contiguous()
        change = self.ssim.jvp(images)
        return self.ssim.vjp(multiply(change, self.window, out=change), add_to=multiply(self.pixel, images))

    def diagonal(self) -> Images:
        """The diagonal of W, exact."""
        return self.pixel + self.ssim.gauss_newton_diagonal(self.window)
