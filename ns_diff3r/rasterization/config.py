# SPDX-License-Identifier: Apache-2.0
"""What a renderer draws, as data: the constants and rules in which 3DGS rasterisers differ, and named presets."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

CIRCULAR_SIGMAS = 3.0
"""Radius of the "circular" extent, in standard deviations along the longer axis."""

OPACITY_AWARE_MAX_SIGMAS = 3.33
"""Largest half extent of the "opacity_aware" rectangle, in standard deviations along each image axis."""

CLAMP_MARGIN = 0.3
"""How far beyond the image the slopes x/z, y/z enter the projection's Jacobian unclamped, in units of tan(fov/2)."""

DEPTH_WEIGHT_MIN = 1e-10
"""Smallest Σw by which an expected depth is divided."""


@dataclass(frozen=True)
class RasterizationConfig:
    """The semantics of one rasteriser. The defaults are gsplat 1.4.0's; `PRESETS` holds the named ones.

    Notation: m = mean2d in pixels (the first pixel's centre at 0.5), Σ' = the projected covariance including eps2d·I,
    o = the opacity that is composited (in antialiased mode after compensation), r = the extent in whole pixels.
    """

    alpha_max: float = 0.999
    """alpha = min(alpha_max, o·exp(−σ))."""
    alpha_min: float = 1.0 / 255.0
    """Pairs with a smaller alpha do not contribute."""
    transmittance_min: float = 1e-4
    """A pixel ends before the pair that would leave T·(1 − alpha) <= transmittance_min."""
    eps2d: float = 0.3
    """Variance added to both image axes, in pixels²."""
    near_plane: float = 0.01
    """Gaussians with a smaller camera z are culled."""
    far_plane: float = 1e10
    """Gaussians with a larger camera z are culled."""
    radius_clip: float = 0.0
    """Gaussians whose r (on both axes) is not larger than this many pixels are culled."""
    tile_size: int = 16
    """Side of a square tile, in pixels. A Gaussian can contribute to all pixels of the tiles it is listed in."""
    extent: Literal["circular", "opacity_aware"] = "circular"
    """"circular": r = ceil(3·sqrt(b + sqrt(max(eigenvalue_floor, b² − det Σ')))) with b = trace(Σ')/2, on both axes.
    "opacity_aware": r = ceil(min(3.33, sqrt(2 ln(o / alpha_min)))·sqrt(Σ'_ii)) per axis; o < alpha_min is culled."""
    eigenvalue_floor: float = 0.01
    """Smallest squared half difference of the eigenvalues of Σ' that the circular extent uses, in pixels⁴."""
    gradient_through_cap: bool = False
    """Whether alpha keeps the derivative of o·exp(−σ) where it is capped (straight-through); otherwise zero there."""
    clamp: Literal["gsplat", "inria"] = "gsplat"
    """Range of x/z in the projection's Jacobian, t = width/(2 fx): "gsplat" −cx/fx − 0.3t to (width − cx)/fx + 0.3t,
    "inria" −1.3t to 1.3t; the same for y/z. Beyond it x = z·clamp(x/z); mean2d itself is never clamped."""
    antialiased: bool = False
    """Whether the opacity is multiplied by sqrt(max(min_compensation, det Σ / det Σ')), Σ = Σ' − eps2d·I."""
    min_compensation: float = 0.0
    """Smallest ratio of determinants of the antialiased mode (under the root)."""
    tile_offset: float = 0.0
    """0: tiles floor((m − r)/s) up to, not including, ceil((m + r)/s), and Gaussians with m + r <= 0 or m − r >= the
    image size (on either axis) are culled. Otherwise the rule of a rasteriser whose pixel centres are integers, with
    p = m − tile_offset: tiles floor((p − r)/s) up to, not including, floor((p + r + s − 1)/s), no further culling.
    Either is clipped to the tile grid, s = tile_size."""
    perspective_epsilon: float = 0.0
    """mean2d = (fx·x/(z + ε) + cx, fy·y/(z + ε) + cy)."""

    def __post_init__(self) -> None:
        if not 0.0 < self.alpha_min <= self.alpha_max < 1.0:
            raise ValueError(f"0 < alpha_min <= alpha_max < 1 is required, not {self.alpha_min} and {self.alpha_max}")
        if not 0.0 <= self.transmittance_min < 1.0:
            raise ValueError(f"transmittance_min must lie in [0, 1), not {self.transmittance_min}")
        if not 0.0 < self.near_plane < self.far_plane:
            raise ValueError(f"0 < near_plane < far_plane is required, not {self.near_plane} and {self.far_plane}")
        not_negative = "eps2d radius_clip eigenvalue_floor min_compensation tile_offset perspective_epsilon"
        for name in not_negative.split():
            if not getattr(self, name) >= 0.0:
                raise ValueError(f"{name} must not be negative, not {getattr(self, name)}")
        if self.tile_size < 1:
            raise ValueError(f"tile_size must be at least 1, not {self.tile_size}")
        if self.extent not in ("circular", "opacity_aware"):
            raise ValueError(f'extent must be "circular" or "opacity_aware", not {self.extent!r}')
        if self.clamp not in ("gsplat", "inria"):
            raise ValueError(f'clamp must be "gsplat" or "inria", not {self.clamp!r}')


PRESETS: dict[str, RasterizationConfig] = {
    "gsplat-1.4.0": RasterizationConfig(),
    "gsplat-1.5.3": RasterizationConfig(extent="opacity_aware"),
    "inria": RasterizationConfig(
        # The value of 0.99f: two capped pairs leave (1 − 0.99f)² < 1e-4, where (1 − 0.99)² > 1e-4 in double precision.
        alpha_max=0.9900000095367432,
        near_plane=0.2,
        eigenvalue_floor=0.1,
        gradient_through_cap=True,
        clamp="inria",
        min_compensation=2.5e-5,
        tile_offset=0.5,
        perspective_epsilon=1e-7,
    ),
}
"""Semantics by name: "gsplat-1.4.0" (nerfstudio 1.1.5's, the default), "gsplat-1.5.3", "inria" (the original)."""


def resolve_preset(preset: str | RasterizationConfig, antialiased: bool = False) -> RasterizationConfig:
    """The config that `preset` names, or `preset` itself when it is a config.

    Args:
        preset: a name in `PRESETS`, or a config.
        antialiased: switches antialiased mode on; False leaves the config's own setting.

    Raises:
        ValueError: no preset has this name; the message lists the names.
    """
    if isinstance(preset, str):
        if preset not in PRESETS:
            raise ValueError(f"unknown preset {preset!r}; the presets are {', '.join(map(repr, PRESETS))}")
        preset = PRESETS[preset]
    return replace(preset, antialiased=True) if antialiased and not preset.antialiased else preset
