# SPDX-License-Identifier: Apache-2.0
"""Gaussians to begin with, from sparse points."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..splats import Cameras, Gaussians
from .errors import SceneError
from .scenes import PointCloud

KNN_CHUNK = 1024


def gaussians_from_points(
    cloud: PointCloud,
    *,
    sh_degree: int = 0,
    opacity: float = 0.1,
    num_neighbors: int = 3,
    max_gaussians: int | None = None,
    random_rotations: bool = False,
    only: Bool[Tensor, " P"] | None = None,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> Gaussians:
    """One round Gaussian per point, as wide as the points are apart: scale = root mean square distance to the nearest
    `num_neighbors` points, colour of the point, constant opacity.

    Args:
        cloud: points in world units and colours in [0, 1].
        sh_degree: 0 to 4; coefficients above degree 0 are zero.
        opacity: of every Gaussian, in (0, 1).
        num_neighbors: how many nearest points set the scale.
        max_gaussians: take a random subset of that size (the scales follow the thinner cloud).
        random_rotations: uniform random quaternions instead of the identity.
        only: give these alone a Gaussian; sizes still follow the distances to all points.
        seed: of the subset and the rotations.
        dtype: of the result.

    Raises:
        SceneError: fewer than two points.
        ValueError: both `only` and `max_gaussians`.
    """
    generator = torch.Generator().manual_seed(seed)
    points, colors = torch.from_numpy(cloud.points).double(), torch.from_numpy(cloud.colors).double()
    if max_gaussians is not None and max_gaussians < len(points):
        chosen = torch.randperm(len(points), generator=generator)[:max_gaussians].sort().values
        points, colors = points[chosen], colors[chosen]
    if len(points) < 2:
        raise SceneError(f"Gaussians from sparse points need at least two points, got {len(points)}")
    everyone = points
    if only is not None:
        if max_gaussians is not None:
            raise ValueError("gaussians_from_points: give only or max_gaussians, not both")
        points, colors = points[only], colors[only]
    count = len(points)
    quats = torch.zeros(count, 4, dtype=torch.float64)
    quats[:, 0] = 1.0
    if random_rotations:
        quats = torch.nn.functional.normalize(torch.randn(count, 4, generator=generator, dtype=torch.float64), dim=-1)
    gaussians = Gaussians.from_activated(
        means=points,
        quats=quats,
        scales=neighbor_distances(everyone, num_neighbors, of=points)[:, None].expand(-1, 3),
        opacities=torch.full((count,), opacity, dtype=torch.float64),
        colors=colors,
    )
    return gaussians.with_sh_degree(sh_degree).to(dtype=dtype).contiguous()


def neighbor_distances(
    points: Float[Tensor, "P 3"], num_neighbors: int, of: Float[Tensor, "M 3"] | None = None
) -> Float[Tensor, " M"]:
    """Root mean square distance of each point (or of those in `of`, which are among them) to its nearest neighbours,
    itself left out; positive even for coinciding points (at least 1e-3 of the median)."""
    num_neighbors = min(num_neighbors, len(points) - 1)
    distances = torch.cat(
        [
            # The nearest of all is the point itself; exact differences, since coinciding points are common.
            torch.cdist(chunk, points, compute_mode="donot_use_mm_for_euclid_dist")
            .topk(num_neighbors + 1, largest=False)
            .values[:, 1:]
            for chunk in (points if of is None else of).split(KNN_CHUNK)
        ]
    )
    distances = distances.square().mean(dim=1).sqrt()
    positive = distances[distances > 0]
    floor = 1e-3 * float(positive.median()) if len(positive) else 1e-3
    return distances.clamp(min=floor)


def points_in_views(cloud: PointCloud, cameras: Cameras) -> Bool[np.ndarray, " P"]:
    """Which points lie in front of and inside the image of at least one camera (occlusion is not considered)."""
    cameras = cameras.to(dtype=torch.float64, device="cpu")
    return cameras.in_image(*cameras.project(torch.from_numpy(cloud.points).double())).any(dim=0).numpy()
