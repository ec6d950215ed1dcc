# SPDX-License-Identifier: Apache-2.0
"""λ of one attribute group as an image with values: what the viewer shows in grey, in colours with a scale."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ..splats import Gaussians
from ..splats.painting import painted

SHOWN = (0.02, 0.98)
"""Quantiles of the pixels between which the colours spread."""
MIN_ALPHA = 0.5
"""Pixels that are less opaque show nothing."""
BACKGROUND = 0.85
"""Grey of pixels that show too little to have a λ."""
# Points of viridis, even in lightness and legible to the colour-blind: dark is small, bright is large.
COLOURS = (
    (0.267, 0.005, 0.329),
    (0.283, 0.141, 0.458),
    (0.254, 0.265, 0.530),
    (0.207, 0.372, 0.553),
    (0.164, 0.471, 0.558),
    (0.128, 0.567, 0.551),
    (0.135, 0.659, 0.518),
    (0.267, 0.749, 0.441),
    (0.478, 0.821, 0.318),
    (0.741, 0.873, 0.150),
    (0.993, 0.906, 0.144),
)


@dataclass(frozen=True, eq=False)
class StrengthMap:
    """A picture of λ.

    Attributes:
        image: colours by log λ, grey where less than half of a pixel is covered.
        low: λ that the darkest colour stands for.
        high: λ of the brightest; equal to `low` where λ is the same everywhere.
    """

    image: Float[Tensor, "H W 3"]
    low: float
    high: float


def strength_map(
    gaussians: Gaussians,
    strength: Float[Tensor, "N ..."],
    draw: Callable[[Gaussians], Float[Tensor, "H W 3"]],
    value_range: tuple[float, float] | None = None,
) -> StrengthMap | None:
    """The mean of log λ over what every pixel shows, each Gaussian counting by its compositing weight.

    Args:
        gaussians: θ⁰.
        strength: λ of one group, one per Gaussian or per parameter (then their geometric mean).
        draw: Gaussians → an image of one view on black.
        value_range: smallest and largest λ that have colours of their own; default: quantiles of the pixels.

    Returns:
        None for a group without parameters.
    """
    logs = strength.detach().float().log10().flatten(1)
    if logs.shape[1] == 0:
        return None
    logs = logs.mean(1).to(gaussians.dtype)
    low, high = (float(bound) for bound in logs.aminmax())
    spread = high - low
    scaled = (logs - low) / spread if spread > 1e-6 else torch.zeros_like(logs)
    ones = torch.ones_like(scaled)
    with torch.no_grad():
        alpha = draw(painted(gaussians, ones))[..., 0]
        value = draw(painted(gaussians, scaled))[..., 0] / alpha.clamp_min(1e-6) * spread + low
    shown = alpha >= MIN_ALPHA
    if value_range is not None:
        low, high = (float(torch.tensor(bound).log10()) for bound in value_range)
    elif bool(shown.any()) and spread > 1e-6:
        low, high = (
            float(bound) for bound in torch.quantile(value[shown].float(), torch.tensor(SHOWN).to(value.device))
        )
    even = torch.full_like(value, 0.5) if high - low <= 1e-6 else ((value - low) / (high - low)).clamp(0, 1)
    image = torch.where(shown[..., None], coloured(even), torch.full_like(alpha, BACKGROUND)[..., None])
    return StrengthMap(image, 10.0**low, 10.0**high)


def coloured(values: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch 3"]:
    """Values in [0, 1] as colours, dark to bright."""
    table = torch.tensor(COLOURS, dtype=values.dtype, device=values.device)
    place = values.clamp(0, 1) * (len(table) - 1)
    below = place.floor().long().clamp(max=len(table) - 2)
    share = (place - below)[..., None]
    return (1 - share) * table[below] + share * table[below + 1]
