# SPDX-License-Identifier: Apache-2.0
"""Geometry of the plane sweep: which views are matched, and where a pixel at an inverse depth lies in the others.

All quantities are free of the world's units. An inverse depth of view i is given by its fraction f in [0, 1] between
1/far_i and 1/near_i. What has units is prepared in float64, so that a world ten times as large gives the same numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..splats import Views

MIN_DEPTH_RATIO = 1e-2
"""Points nearer to another camera than this fraction of their depth in their own view count as behind it."""


def check_context(views: Views, min_size: int) -> tuple[Float[Tensor, " V"], Float[Tensor, " V"]]:
    """(near, far) of context views that a plane sweep can use, float64.

    Raises:
        ValueError: fewer than two views, no depth range, or an image side below `min_size` pixels.
    """
    if views.num_views < 2:
        raise ValueError(f"the compact backbone needs at least two context views, got {views.num_views}")
    if views.near is None or views.far is None:
        raise ValueError(
            "the compact backbone needs the depth range of its context views: set Views.near and Views.far (for "
            "example from sparse points)"
        )
    height, width = views.cameras.height, views.cameras.width
    if min(height, width) < min_size:
        raise ValueError(
            f"the compact backbone needs images of at least {min_size} pixels a side, got {width}x{height}"
        )
    return views.near.double(), views.far.double()


@dataclass(frozen=True, eq=False)
class SweepGeometry:
    """Relative geometry of V views and the N others that each is matched with, at one matching resolution.

    Attributes:
        neighbors: [V, N] indices of the other views.
        homographies: [V, N, 3, 3] K_j R_ji K_i⁻¹, pixels to pixels at infinite depth.
        epipoles: [V, N, 3] K_j t_ji / near_i.
        nearest_over_range: [V, N] (1/near_i) / (1/near_j − 1/far_j).
        farthest_over_range: [V, N] (1/far_j) / (1/near_j − 1/far_j).
        farthest_over_nearest: [V] near_i / far_i.
        size: (height, width) of the matching images.
    """

    neighbors: Int[Tensor, "V N"]
    homographies: Float[Tensor, "V N 3 3"]
    epipoles: Float[Tensor, "V N 3"]
    nearest_over_range: Float[Tensor, "V N"]
    farthest_over_range: Float[Tensor, "V N"]
    farthest_over_nearest: Float[Tensor, " V"]
    size: tuple[int, int]

    @property
    def num_views(self) -> int:
        """V."""
        return self.neighbors.shape[0]

    def project(
        self, view: int, fractions: Float[Tensor, "D h w"] | Float[Tensor, "D 1 1"]
    ) -> tuple[Float[Tensor, "N D h w 2"], Bool[Tensor, "N D h w"], Float[Tensor, "N D h w"]]:
        """Where the pixels of a view lie in its neighbours, if their inverse depth is `fractions`.

        Returns:
            positions for `grid_sample` (align_corners=False), in [-1, 1] inside the image; whether a point lies in
            front of the camera and inside its image; its inverse depth in the neighbour, as the neighbour's fraction.
        """
        height, width = self.size
        homography, epipole = self.homographies[view], self.epipoles[view]
        x = torch.arange(width, device=homography.device, dtype=homography.dtype) + 0.5
        y = torch.arange(height, device=homography.device, dtype=homography.dtype) + 0.5
        low = self.farthest_over_nearest[view]
        inverse_depth = low + fractions * (1 - low)  # in units of 1/near_i: [D, h, w] or [D, 1, 1]
        at_infinity = (
            homography[:, :, 0, None, None] * x
            + homography[:, :, 1, None, None] * y[:, None]
            + homography[:, :, 2, None, None]
        )  # [N, 3, h, w]

        def coordinate(axis: int) -> Float[Tensor, "N D h w"]:
            return at_infinity[:, axis, None] + epipole[:, axis, None, None, None] * inverse_depth

        ratio = coordinate(2)  # depth in the neighbour / depth in the view
        in_front = ratio > MIN_DEPTH_RATIO
        ratio = ratio.clamp_min(MIN_DEPTH_RATIO)
        u, v = coordinate(0) / (ratio * width), coordinate(1) / (ratio * height)  # in [0, 1] inside the image
        inside = in_front & (u > 0) & (u < 1) & (v > 0) & (v < 1)
        positions = torch.stack([u, v], dim=-1).mul_(2).sub_(1).clamp_(-2, 2)
        above, below = self.nearest_over_range[view], self.farthest_over_range[view]
        other = above[:, None, None, None] * inverse_depth / ratio - below[:, None, None, None]
        return positions, inside, other


def sweep_geometry(
    views: Views,
    near: Float[Tensor, " V"],
    far: Float[Tensor, " V"],
    num_neighbors: int,
    stride: int,
    size: tuple[int, int],
    dtype: torch.dtype,
) -> SweepGeometry:
    """The geometry of matching every view with its nearest others, at 1/stride of the image resolution.

    `size` is that of the matching images (height, width), which may exceed the views' by padding right and below.
    """
    Ks = views.cameras.Ks.detach().double().clone()
    Ks[:, :2] /= stride
    viewmats = views.cameras.viewmats.detach().double()
    neighbors = nearest_views(viewmats, num_neighbors)
    relative = viewmats[neighbors] @ torch.linalg.inv(viewmats)[:, None]  # [V, N, 4, 4]
    Ks_other = Ks[neighbors]
    homographies = Ks_other @ relative[..., :3, :3] @ torch.linalg.inv(Ks)[:, None]
    epipoles = (Ks_other @ relative[..., :3, 3:])[..., 0] / near[:, None, None]
    ranges = 1 / near - 1 / far
    return SweepGeometry(
        neighbors=neighbors,
        homographies=homographies.to(dtype),
        epipoles=epipoles.to(dtype),
        nearest_over_range=(1 / (near[:, None] * ranges[neighbors])).to(dtype),
        farthest_over_range=(1 / (far * ranges))[neighbors].to(dtype),
        farthest_over_nearest=(near / far).to(dtype),
        size=size,
    )


def nearest_views(viewmats: Float[Tensor, "V 4 4"], count: int) -> Int[Tensor, "V N"]:
    """For every view the `count` others (or all) nearest to it, by position and by direction of view.

    The measure is |c_i − c_j| in units of the median distance, plus 1 − cos of the angle between the optical axes.
    """
    num_views = viewmats.shape[0]
    rotations = viewmats[:, :3, :3]
    centers = -(rotations.transpose(-1, -2) @ viewmats[:, :3, 3:])[..., 0]
    distances = (centers[:, None] - centers).norm(dim=-1)
    apart = ~torch.eye(num_views, dtype=torch.bool, device=viewmats.device)
    typical = distances[apart].median()
    distances = distances / typical if typical > 0 else distances
    axes = rotations[:, 2]
    distances = distances + 1 - axes @ axes.T
    distances = distances.masked_fill(~apart, float("inf"))
    return distances.argsort(dim=1, stable=True)[:, : min(count, num_views - 1)]
