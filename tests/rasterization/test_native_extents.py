# SPDX-License-Identifier: Apache-2.0
"""Which tiles a Gaussian is listed in, where that shows: extents that end within a twentieth of a pixel of a border.

Rows of spheres far apart, seen through so long a lens that their sizes in pixels are exact. Beside every comparison
stands a check that the oracle with another constant would draw something else.
"""

import dataclasses
import math

import pytest
import torch

from ns_diff3r import Cameras, Gaussians, render
from ns_diff3r.rasterization import PRESETS, reference_projection

FOCAL, DEPTH = 1e6, 1e3
HEIGHT, LOGIT = 16, 9.0


def row_of_spheres(radii, variances, spacing, config, seed=0):
    """Spheres of variance `variances` [M] (pixels², blur included), `radii` [M] left or right of a border of tiles.

    There the radius decides whether they are listed beyond it: with whole-number pixel centres, 1.5 and 0.5 pixels off.

    Returns:
        Gaussians and one camera.
    """
    random = torch.Generator().manual_seed(seed)
    count = len(radii)
    jitter = 0.05 * torch.randn(count, generator=random, dtype=torch.float64)
    border = spacing * (1.0 + torch.arange(count, dtype=torch.float64))
    side = torch.where(torch.rand(count, generator=random) < 0.5, -1.0, 1.0).double()
    pixel_x = border + side * radii + jitter
    if config.tile_offset:
        pixel_x += torch.where(side < 0, 1.5, 0.5)
    width = int(spacing * (count + 1))
    sigma = (variances - 0.3).sqrt()
    slope = (pixel_x - width / 2) / FOCAL
    means = torch.stack([slope * DEPTH, torch.zeros(count), torch.full((count,), DEPTH)], dim=-1).double()
    scales = torch.log(sigma * DEPTH / FOCAL)[:, None].expand(count, 3).clone()
    quats = torch.tensor([1.0, 0.0, 0.0, 0.0], dtype=torch.float64).expand(count, 4).clone()
    colors = torch.rand(count, 1, 3, generator=random, dtype=torch.float64)
    opacities = torch.full((count,), LOGIT, dtype=torch.float64)
    gaussians = Gaussians(means, quats, scales, opacities, colors, torch.zeros(count, 0, 3, dtype=torch.float64))
    K = torch.tensor([[FOCAL, 0.0, width / 2], [0.0, FOCAL, HEIGHT / 2 + 0.5], [0.0, 0.0, 1.0]], dtype=torch.float64)
    return gaussians, Cameras(torch.eye(4, dtype=torch.float64)[None], K[None], width, HEIGHT)


def check(gaussians, cameras, config, other):
    """Native and oracle agree, and the oracle would differ with `other`, a config or another maximum of sigmas."""
    expected = render(gaussians, cameras, config, backend="reference").rgb
    value = render(gaussians, cameras, config, backend="native").rgb
    with pytest.MonkeyPatch.context() as patch:
        if isinstance(other, float):
            patch.setattr(reference_projection, "OPACITY_AWARE_MAX_SIGMAS", other)
        wrong = render(gaussians, cameras, config if isinstance(other, float) else other, backend="reference").rgb
    assert (wrong - expected).abs().max() > 1e-3, "the constant does not show: the comparison says nothing"
    assert (value - expected).abs().max() < 1e-12


@pytest.mark.parametrize("preset", ["gsplat-1.4.0", "inria"])
def test_circular(preset):
    """r = ceil(3·sqrt(b + sqrt(floor))) for spheres of variance b on both sides of whole radii."""
    config = PRESETS[preset]
    radii = torch.arange(6, 14, dtype=torch.float64).repeat(8)
    random = torch.Generator().manual_seed(1)
    spread = math.sqrt(config.eigenvalue_floor) * (1 + 0.4 * torch.randn(64, generator=random, dtype=torch.float64))
    scene = row_of_spheres(radii, radii**2 / 9 - spread, 48, config)
    check(*scene, config, dataclasses.replace(config, eigenvalue_floor=2 * config.eigenvalue_floor))
    check(*scene, config, dataclasses.replace(config, tile_offset=0.5 - config.tile_offset))


def test_opacity_aware():
    """r = ceil(min(3.33, sqrt(2 ln(255 o)))·σ): for nearly opaque ones the maximum shows from 60 pixels on."""
    config = PRESETS["gsplat-1.5.3"]
    radii = torch.arange(80, 100, dtype=torch.float64)
    check(*row_of_spheres(radii, ((radii - 0.05) / 3.3) ** 2, 208, config), config, 3.3)
