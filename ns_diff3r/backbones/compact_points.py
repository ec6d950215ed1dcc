# SPDX-License-Identifier: Apache-2.0
"""What sparse points say about depth: evidence for the candidates of the plane sweep, and in the end a correction.

A point speaks for the inverse depth at which it lies, in the pixels around its projection. Which views see a point is
not known: one that lies behind another in its neighbourhood is taken to be hidden, and one that lies far from what the
network has made of everything it knows corrects nothing.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import conv2d, grid_sample, max_pool2d

from ..splats import Views
from .compact_matching import candidate_fractions

HIDDEN = 2.0
"""By how many candidate spacings a point must lie behind one of the same or a neighbouring pixel to be hidden."""
SPREAD = 0.7
"""Standard deviation of what a point says about the candidates, in their spacing."""
EVIDENCE_DOUBT, CORRECTION_DOUBT = 0.5, 0.2
"""Weight of saying nothing; a point weighs 1 in its own pixel and less around it."""
CORRECTION_RADIUS = 1.5
"""How far a point corrects: standard deviation in pixels."""
CORRECTION_LIMIT = 2.0
"""By how many candidate spacings a point may correct."""


@torch.no_grad()
def point_evidence(
    views: Views,
    near: Float[Tensor, " V"],
    far: Float[Tensor, " V"],
    num_depths: int,
    stride: int,
    size: tuple[int, int],
    radius: float,
) -> Float[Tensor, "V D h w"]:
    """Evidence for every depth candidate, 0 (none) to 1, where there are points near the pixel.

    Args:
        views: with points.
        near, far: of the candidates, float64.
        num_depths: D.
        stride: pixels of the photographs per pixel of the result.
        size: (height, width) of the result.
        radius: how far a point speaks: standard deviation in pixels of the result.
    """
    candidates = candidate_fractions(num_depths, near)[:, :, 0]
    volumes = []
    for pixel, fraction in _points_in_views(views, near, far):
        cell = _cells(pixel / stride, size)
        seen = _in_front(cell, fraction, size, HIDDEN / (num_depths - 1))
        cell, fraction = cell[seen], fraction[seen]
        said = (-0.5 * ((candidates - fraction) * ((num_depths - 1) / SPREAD)).square()).exp()
        volumes.append(_summed(cell, torch.cat([said, torch.ones_like(said[:1])]), size))
    spread = _blurred(torch.stack(volumes).to(views.dtype), radius)
    return spread[:, :-1] / (spread[:, -1:] + EVIDENCE_DOUBT)


@torch.no_grad()
def point_correction(
    views: Views,
    near: Float[Tensor, " V"],
    far: Float[Tensor, " V"],
    fractions: Float[Tensor, "V H W"],
    num_depths: int,
) -> Float[Tensor, "V H W"]:
    """What has to be added to the inverse depths of the pixels so that they agree with the points around them: the
    candidates are too far apart for the evidence alone.

    Args:
        views: with points, of the size of the maps.
        near, far: float64.
        fractions: inverse depths, as fractions.
        num_depths: candidates of the sweep that found them.
    """
    size = (fractions.shape[1], fractions.shape[2])
    extent = near.new_tensor([size[1], size[0]])
    maps = []
    for view, (pixel, fraction) in enumerate(_points_in_views(views, near, far)):
        at = (2 * pixel / extent - 1).to(fractions)[None, None]
        found = grid_sample(fractions[view][None, None], at, padding_mode="border", align_corners=False)
        missing = fraction - found[0, 0, 0].double()
        near_by = missing.abs() * (num_depths - 1) < CORRECTION_LIMIT
        missing = missing[near_by]
        maps.append(_summed(_cells(pixel[near_by], size), torch.stack([missing, torch.ones_like(missing)]), size))
    total, weight = _blurred(torch.stack(maps).to(fractions.dtype), CORRECTION_RADIUS).unbind(1)
    return total / (weight + CORRECTION_DOUBT)


def _points_in_views(
    views: Views, near: Float[Tensor, " V"], far: Float[Tensor, " V"]
) -> list[tuple[Float[Tensor, "P 2"], Float[Tensor, " P"]]]:
    """(pixel, fraction of the inverse depth) of the points between near and far that lie in each image, float64."""
    assert views.points is not None
    cameras = views.cameras.to(dtype=torch.float64)
    pixels, depths = cameras.project(views.points.positions.double())
    fractions = (1 / depths - 1 / far[:, None]) / (1 / near - 1 / far)[:, None]
    inside = cameras.in_image(pixels, depths) & (fractions >= 0) & (fractions <= 1)
    return [(pixels[view, inside[view]], fractions[view, inside[view]]) for view in range(views.num_views)]


def _cells(pixel: Float[Tensor, "P 2"], size: tuple[int, int]) -> Int[Tensor, " P"]:
    column, row = pixel.long().unbind(1)
    return row * size[1] + column


def _summed(cell: Int[Tensor, " P"], values: Float[Tensor, "C P"], size: tuple[int, int]) -> Float[Tensor, "C h w"]:
    """Sums over the points of every pixel."""
    zero = torch.zeros(values.shape[0], size[0] * size[1], dtype=values.dtype, device=values.device)
    return zero.index_add_(1, cell, values).view(-1, *size)


def _in_front(
    cell: Int[Tensor, " P"], fraction: Float[Tensor, " P"], size: tuple[int, int], margin: float
) -> Bool[Tensor, " P"]:
    """Which points are not behind another of their own or a neighbouring pixel by more than `margin`."""
    nearest = fraction.new_zeros(size[0] * size[1]).scatter_reduce_(0, cell, fraction, "amax")
    around = max_pool2d(nearest.view(1, 1, *size), 3, stride=1, padding=1).flatten()
    return fraction >= around[cell] - margin


def _blurred(maps: Float[Tensor, "V C h w"], radius: float) -> Float[Tensor, "V C h w"]:
    """Sums weighted by a Gaussian that is 1 in the middle, cut off at twice the radius; nothing beyond the border."""
    reach = max(1, round(2 * radius))
    offsets = torch.arange(-reach, reach + 1, dtype=maps.dtype, device=maps.device)
    kernel = (-0.5 * (offsets / radius).square()).exp()
    flat = maps.flatten(0, 1)[:, None]
    flat = conv2d(flat, kernel.view(1, 1, 1, -1), padding=(0, reach))
    return conv2d(flat, kernel.view(1, 1, -1, 1), padding=(reach, 0)).view(maps.shape)
