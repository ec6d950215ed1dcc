# SPDX-License-Identifier: Apache-2.0
"""Oracle, second half: every pixel against every Gaussian of a view, in depth order."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .config import DEPTH_WEIGHT_MIN, RasterizationConfig
from .reference_projection import ScreenGaussians


@dataclass(frozen=True, eq=False)
class PairChoices:
    """The branches taken for P pixels and M Gaussians; replayed, compositing is a smooth function."""

    contributes: Bool[Tensor, "P M"]
    """In the tile, alpha above its threshold, and before the pixel's end."""
    capped: Bool[Tensor, "P M"]
    """alpha at its cap."""
    surplus: Float[Tensor, "P M"]
    """What the cap took off o·exp(−σ); with gradient_through_cap a replayed capped alpha is o·exp(−σ) − surplus."""


def composite(
    screen: ScreenGaussians,
    tiles: Int[Tensor, "M 4"],
    pixels: Float[Tensor, "P 2"],
    background: Float[Tensor, " 3"],
    config: RasterizationConfig,
    choices: PairChoices | None = None,
) -> tuple[Float[Tensor, "P 5"], PairChoices]:
    """Colour, alpha and expected depth of P pixels.

    Args:
        screen: the Gaussians from front to back.
        tiles: the tile rectangles they are listed in.
        pixels: pixel centres (x, y).
        background: colour behind everything.
        choices: branches to replay; None takes those that the values ask for.

    Returns:
        r, g, b, alpha, depth of every pixel, differentiable to any order, and the branches taken.
    """
    offsets = screen.means2d - pixels[:, None, :]  # [P, M, 2]
    dx, dy = offsets[..., 0], offsets[..., 1]
    A, B, C = screen.conics.unbind(-1)
    sigma = 0.5 * (A * dx * dx + C * dy * dy) + B * dx * dy
    raw = screen.opacities * torch.exp(-sigma)
    if choices is None:
        choices = choose(raw.detach(), sigma.detach(), tiles, pixels, config)
    if config.gradient_through_cap:
        alphas = torch.where(choices.capped, raw - choices.surplus, raw)
    else:
        alphas = torch.where(choices.capped, config.alpha_max, raw)
    alphas = torch.where(choices.contributes, alphas, 0.0)

    # T = Π (1 − alpha) over the Gaussians in front; as a sum of logarithms all its derivatives are plain.
    logs = torch.log1p(-alphas)
    weights = alphas * torch.exp(logs.cumsum(dim=1) - logs)
    remaining = torch.exp(logs.sum(dim=1))
    colors = weights @ screen.colors + remaining[:, None] * background
    alpha = weights.sum(dim=1)
    depth = weights @ screen.depths / alpha.clamp_min(DEPTH_WEIGHT_MIN)
    return torch.cat([colors, alpha[:, None], depth[:, None]], dim=-1), choices


@torch.no_grad()
def choose(
    raw: Float[Tensor, "P M"],
    sigma: Float[Tensor, "P M"],
    tiles: Int[Tensor, "M 4"],
    pixels: Float[Tensor, "P 2"],
    config: RasterizationConfig,
) -> PairChoices:
    """Which pairs contribute and which are capped, from the values of o·exp(−σ) and σ."""
    column, row = (pixels / config.tile_size).floor().long()[:, :, None].unbind(1)  # [P, 1] each
    listed = (column >= tiles[:, 0]) & (row >= tiles[:, 1]) & (column < tiles[:, 2]) & (row < tiles[:, 3])
    alphas = raw.clamp_max(config.alpha_max)
    passing = listed & (sigma >= 0) & (alphas >= config.alpha_min)
    transmittance_after = torch.where(passing, 1.0 - alphas, 1.0).cumprod(dim=1)
    # Falling along the list: whatever lies behind the first pair that ends the pixel fails the same test.
    contributes = passing & (transmittance_after > config.transmittance_min)
    return PairChoices(contributes, capped=raw > config.alpha_max, surplus=raw - alphas)
