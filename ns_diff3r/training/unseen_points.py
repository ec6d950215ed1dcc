# SPDX-License-Identifier: Apache-2.0
"""Gaussians where sparse points are and no context view looks: a network that gives each pixel a Gaussian leaves those
places empty, and there the points know more than the photographs that are used."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..data import PointCloud, gaussians_from_points
from ..data.initialization import neighbor_distances
from ..splats import Gaussians, SparsePoints, Views

BEHIND = 0.1
"""A point is hidden from a view if it lies this much (of the depth there) behind the surface that was predicted."""
FEWEST = 2
"""Points that there must be, their distances giving the sizes."""
LARGEST = 8.0
"""Bound of the sizes, in units of the typical distance between points: a point that lies alone is often a wrong one,
and would be drawn all over the picture."""
SAMPLES = 512
"""Points whose distances say what is typical."""


@torch.no_grad()
def unseen_points(
    gaussians: Gaussians, grid: tuple[int, int, int] | None, context: Views, points: SparsePoints
) -> Bool[Tensor, " P"]:
    """Which points lie outside every context view, or behind what was predicted for it.

    Args:
        gaussians: as predicted, of which the first are one per pixel.
        grid: (views, height, width) of those, see `Prediction.grid`; None: nothing hides anything.
        context: the views.
        points: in the world of the views.
    """
    cameras = context.cameras.to(dtype=torch.float64)
    pixels, depths = cameras.project(points.positions.double())
    seen = cameras.in_image(pixels, depths)
    if grid is not None:
        _, height, width = grid
        scale = pixels.new_tensor([width / cameras.width, height / cameras.height])
        for view in range(context.num_views):
            means = gaussians.means[view * height * width :][: height * width].detach().double()
            surface = cameras[view].project(means)[1][0]
            at = seen[view].nonzero()[:, 0]
            column, row = (pixels[view, at] * scale).long().unbind(1)
            seen[view, at] = depths[view, at] < (1 + BEHIND) * surface[row * width + column]
    return ~seen.any(dim=0)


def with_unseen_points(
    gaussians: Gaussians,
    prior: dict[str, Float[Tensor, "N ..."]] | None,
    grid: tuple[int, int, int] | None,
    context: Views,
) -> tuple[Gaussians, dict[str, Float[Tensor, "M ..."]] | None]:
    """θ⁰ and λ with a faint round Gaussian for every point of `context.points` that no view sees, as wide as the points
    are apart there; its λ is the geometric mean of the others'."""
    points = context.points
    if points is None or points.num_points < FEWEST:
        return gaussians, prior
    unseen = unseen_points(gaussians, grid, context, points)
    count = int(unseen.sum())
    if count == 0:
        return gaussians, prior
    cloud = PointCloud(*(x.detach().double().cpu().numpy() for x in (points.positions, points.colors)))
    added = gaussians_from_points(cloud, sh_degree=gaussians.sh_degree, only=unseen.cpu(), dtype=gaussians.dtype)
    positions = torch.from_numpy(cloud.points)
    typical = neighbor_distances(positions, 3, of=positions[:: max(1, len(positions) // SAMPLES)]).median()
    added = replace(added, scales=added.scales.clamp(max=float((LARGEST * typical).log())))
    gaussians = Gaussians.concatenate([gaussians, added.to(gaussians.device)])
    if prior is not None:
        means = {name: value.log().mean(0, keepdim=True).exp() for name, value in prior.items()}
        prior = {n: torch.cat([v, means[n].expand(count, *v.shape[1:])]) for n, v in prior.items()}
    return gaussians, prior
