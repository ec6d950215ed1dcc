# SPDX-License-Identifier: Apache-2.0
"""The benchmark's scene: Gaussians as a feed-forward network puts them, one per pixel of two context views."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from ..splats import Cameras, Gaussians

NEAR, FAR = 2.0, 5.0
BASELINE = 0.15
EPS2D = 0.3
"""Variance that a renderer adds to a footprint, in pixels² (gsplat's default)."""
ALPHA_MIN = 1.0 / 255.0


def pixel_aligned_scene(
    image_size: int = 256,
    num_gaussians: int | None = None,
    contributions_per_pixel: float = 40.0,
    sh_degree: int = 0,
    num_views: int = 1,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> tuple[Gaussians, Cameras]:
    """Gaussians of two pixel-aligned context views and square views between them that see them.

    Each context view has one Gaussian on every ray of its grid, at a smooth depth with noise, with opacities of 0.1 to
    0.5. Their common width is set so that the ellipses on which alpha exceeds 1/255 cover each pixel of the view
    `contributions_per_pixel` times on average (for two Gaussians per pixel and 40 contributions, a standard deviation
    of about 0.7 pixels); what an opaque front hides is not counted.

    Args:
        image_size: side of the view, pixels.
        num_gaussians: in total; default two per pixel.
        contributions_per_pixel: mean number of covering ellipses per pixel; at least what eps2d alone makes.
        sh_degree: 0 to 4; coefficients above degree 0 are small random numbers.
        num_views: spread from one context view to the other; a single one stands in the middle.
        seed: of everything random.
        dtype: of the results.

    Raises:
        ValueError: so few contributions that no positive width makes them.
    """
    generator = torch.Generator().manual_seed(seed)
    count = 2 * image_size**2 if num_gaussians is None else num_gaussians
    halves = [_context_points((count + 1) // 2, -BASELINE, generator), _context_points(count // 2, BASELINE, generator)]
    means = torch.cat(halves)
    opacities = 0.1 + 0.4 * torch.rand(count, generator=generator, dtype=torch.float64)
    # Widths relative to the distance between neighbouring rays: nearly round, as networks predict them.
    relative = torch.exp(0.2 * torch.randn(count, 3, generator=generator, dtype=torch.float64)) * means[:, 2:]
    focal = float(image_size)  # 53° wide
    seen = ((means[:, :2] / means[:, 2:]).abs() < 0.5).all(dim=-1)
    widths = relative[seen, :2] * focal / means[seen, 2:]
    scale = _scale_for(contributions_per_pixel * image_size**2, widths, opacities[seen])
    quats = torch.randn(count, 4, generator=generator, dtype=torch.float64)
    colors = _smooth_field(means[:, :2] / means[:, 2:], 3, generator).mul(0.35).add(0.5)
    colors = colors + 0.05 * torch.randn(count, 3, generator=generator, dtype=torch.float64)
    gaussians = Gaussians.from_activated(means, quats, relative * scale, opacities, colors=colors)
    gaussians = gaussians.with_sh_degree(sh_degree)
    gaussians = Gaussians(
        *gaussians.leaves()[:-1], 0.05 * torch.randn(gaussians.shN.shape, generator=generator).double()
    )
    half = image_size / 2
    intrinsics = torch.tensor([[focal, 0, half], [0, focal, half], [0, 0, 1]], dtype=torch.float64)
    viewmats = torch.eye(4, dtype=torch.float64).repeat(num_views, 1, 1)
    if num_views > 1:
        viewmats[:, 0, 3] = torch.linspace(BASELINE, -BASELINE, num_views, dtype=torch.float64)
    cameras = Cameras(viewmats, intrinsics.repeat(num_views, 1, 1), image_size, image_size)
    return gaussians.to(dtype=dtype), cameras.to(dtype=dtype)


def _context_points(count: int, shift: float, generator: torch.Generator) -> Float[Tensor, "count 3"]:
    """Points on a grid of rays of a camera at (shift, 0, 0), slightly wider than the view, at smooth depths."""
    side = math.ceil(math.sqrt(count))
    slopes = ((torch.arange(side, dtype=torch.float64) + 0.5) / side - 0.5) * 1.05
    grid = torch.stack(torch.meshgrid(slopes, slopes, indexing="xy"), dim=-1).reshape(-1, 2)
    grid = grid[torch.randperm(len(grid), generator=generator)[:count].sort().values]
    depth = NEAR + (FAR - NEAR) * (0.5 + 0.5 * _smooth_field(grid, 1, generator))
    depth = depth * torch.exp(0.01 * torch.randn(depth.shape, generator=generator, dtype=torch.float64))
    points = torch.cat([grid * depth, depth], dim=-1)
    return points + points.new_tensor([shift, 0.0, 0.0])


def _smooth_field(positions: Float[Tensor, "n 2"], channels: int, generator: torch.Generator) -> Float[Tensor, "n c"]:
    """A few random waves of the position, in [-1, 1]."""
    waves = 4
    frequency = 2 * math.pi * torch.randn(waves, 2, channels, generator=generator, dtype=torch.float64)
    phase = 2 * math.pi * torch.rand(waves, channels, generator=generator, dtype=torch.float64)
    return torch.stack([(positions @ frequency[w] + phase[w]).sin() for w in range(waves)]).mean(dim=0)


def _scale_for(pairs: float, widths: Float[Tensor, "n 2"], opacities: Float[Tensor, " n"]) -> float:
    """The factor on `widths` (pixels) at which the ellipses alpha >= 1/255 have `pairs` pixels in total (bisection)."""
    levels = 2 * torch.log(opacities / ALPHA_MIN)

    def area(factor: float) -> float:
        variances = (factor * widths).square() + EPS2D
        return float((math.pi * levels * variances.prod(dim=-1).sqrt()).sum())

    low, high = 0.0, 1.0
    if area(low) > pairs:
        raise ValueError(
            f"so few pairs per pixel need Gaussians narrower than {EPS2D} px²; the least is {area(low):.3g}"
        )
    while area(high) < pairs:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if area(middle) < pairs else (low, middle)
    return (low + high) / 2
