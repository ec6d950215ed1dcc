# SPDX-License-Identifier: Apache-2.0
"""The outer loss: how far renders of target views are from the photographs."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from .config import LossConfig
from .perceptual import Lpips, find_lpips

LOG_MSE_FLOOR = 1e-4
"""MSE (40 dB) below which "log_mse" no longer gains: a view that is nearly perfect must not draw all the gradient."""
LOG_MSE_SCALE = 1e-2
"""Makes the gradient of "log_mse" that of "mse" where the MSE is 0.01 (20 dB)."""


def log_mse(images: Float[Tensor, "V H W 3"], truth: Float[Tensor, "V H W 3"]) -> Float[Tensor, ""]:
    """Mean over views of LOG_MSE_SCALE · ln(1 + MSE / LOG_MSE_FLOOR); zero where all images are perfect."""
    errors = (images - truth).square().flatten(1).mean(1)
    return LOG_MSE_SCALE * torch.log1p(errors / LOG_MSE_FLOOR).mean()


class OuterLoss:
    """L_out = photometric + lpips_weight · LPIPS, averaged over views, pixels and channels.

    Not a module: LPIPS's frozen network belongs to no checkpoint and to no parameter group.
    """

    def __init__(self, config: LossConfig) -> None:
        """FileNotFoundError or ImportError if LPIPS is demanded and cannot be had."""
        self.config = config
        self.lpips: Lpips | None = None
        name = "MSE" if config.photometric == "mse" else "logarithm of MSE"
        self.description = f"outer loss: {name}, LPIPS switched off"
        if config.lpips != "off" and config.lpips_weight > 0.0:
            self.lpips, found = find_lpips(config.vgg_weights, required=config.lpips == "on")
            term = f"{name} + {config.lpips_weight:g} LPIPS" if self.lpips is not None else f"{name} without LPIPS"
            self.description = f"outer loss: {term} ({found})"

    def __call__(
        self, images: Float[Tensor, "V H W 3"], truth: Float[Tensor, "V H W 3"]
    ) -> dict[str, Float[Tensor, ""]]:
        """Weighted terms by name; their sum is L_out. Differentiable in `images`."""
        truth = truth.to(images)
        photometric = functional.mse_loss if self.config.photometric == "mse" else log_mse
        terms = {self.config.photometric: photometric(images, truth)}
        if self.lpips is not None:
            terms["lpips"] = self.config.lpips_weight * self.lpips(images, truth).mean()
        return terms
