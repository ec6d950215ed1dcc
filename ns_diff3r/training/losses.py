# SPDX-License-Identifier: Apache-2.0
"""The outer loss: how far renders of target views are from the photographs."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from .config import LossConfig
from .perceptual import Lpips, find_lpips


class OuterLoss:
    """L_out = MSE + lpips_weight · LPIPS, averaged over views, pixels and channels.

    Not a module: LPIPS's frozen network belongs to no checkpoint and to no parameter group.
    """

    def __init__(self, config: LossConfig) -> None:
        """FileNotFoundError or ImportError if LPIPS is demanded and cannot be had."""
        self.config = config
        self.lpips: Lpips | None = None
        self.description = "outer loss: MSE, LPIPS switched off"
        if config.lpips != "off" and config.lpips_weight > 0.0:
            self.lpips, found = find_lpips(config.vgg_weights, required=config.lpips == "on")
            term = f"MSE + {config.lpips_weight:g} LPIPS" if self.lpips is not None else "MSE without LPIPS"
            self.description = f"outer loss: {term} ({found})"

    def __call__(
        self, images: Float[Tensor, "V H W 3"], truth: Float[Tensor, "V H W 3"]
    ) -> dict[str, Float[Tensor, ""]]:
        """Weighted terms by name; their sum is L_out. Differentiable in `images`."""
        truth = truth.to(images)
        terms = {"mse": functional.mse_loss(images, truth)}
        if self.lpips is not None:
            terms["lpips"] = self.config.lpips_weight * self.lpips(images, truth).mean()
        return terms
