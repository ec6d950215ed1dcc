# SPDX-License-Identifier: Apache-2.0
"""Geometry of the plane sweep: which views are matched, and where a pixel at an inverse depth lies in the others.

All quantities are free of the world's units. An inverse depth of view i is given by its fraction f in [0, 1] between
1/far_i and 1/near_i. What has units is prepared in float64, so that a world ten times as large gives the same numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import grid_sample

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

    Image coordinates are those of `grid_sample` with align_corners=False: from -1 to 1 across the matching image.

    Attributes:
        neighbors: [V, N] indices of the other views.
        homographies: [V, N, 3, 3] pixels of a view to homogeneous coordinates in the neighbour, at infinite depth.
        epipoles: [V, N, 3] what is added to them per inverse depth, in units of 1/near of the view.
        farthest_over_nearest: [V] near / far.
        neighbor_scale: [V, N] (1/near_i) / (1/near_j − 1/far_j), which with
        neighbor_shift: [V, N] (1/far_j) / (1/near_j − 1/far_j) takes inverse depths to the neighbour's fractions.
        size: (height, width) of the matching images.
    """

    neighbors: Int[Tensor, "V N"]
    homographies: Float[Tensor, "V N 3 3"]
    epipoles: Float[Tensor, "V N 3"]
    farthest_over_nearest: Float[Tensor, " V"]
    neighbor_scale: Float[Tensor, "V N"]
    neighbor_shift: Float[Tensor, "V N"]
    size: tuple[int, int]

    @property
    def num_views(self) -> int:
        """V."""
        return self.neighbors.shape[0]

    @torch.no_grad()
    def project(self, view: int, fractions: Float[Tensor, "D h w"] | Float[Tensor, "D 1 1"]) -> Projection:
        """Where the pixels of a view lie in its neighbours, if their inverse depth is `fractions`."""
        height, width = self.size
        homography, epipole = self.homographies[view], self.epipoles[view]
        x = torch.arange(width, device=homography.device, dtype=homography.dtype) + 0.5
        y = torch.arange(height, device=homography.device, dtype=homography.dtype) + 0.5
        low = self.farthest_over_nearest[view]
        inverse_depth = low + fractions * (1 - low)  # [D, h, w] or [D, 1, 1]

        def coordinate(axis: int) -> Float[Tensor, "N D h w"]:
            row = homography[:, axis, :, None, None]
            at_infinity = row[:, 0] * x + (row[:, 1] * y[:, None] + row[:, 2])  # [N, h, w]
            return at_infinity[:, None] + epipole[:, axis, None, None, None] * inverse_depth

        ratio = coordinate(2)
        inside = ratio > MIN_DEPTH_RATIO
        ratio = ratio.clamp_min_(MIN_DEPTH_RATIO)
        positions = ratio.new_empty(*ratio.shape, 2)
        for axis in (0, 1):
            across = coordinate(axis)
            inside &= across.abs() < ratio
            torch.div(across, ratio, out=positions[..., axis])
        return Projection(positions, inside, inverse_depth / ratio)

    def neighbor_fractions(self, view: int, inverse_depth: Float[Tensor, "N D h w"]) -> Float[Tensor, "N D h w"]:
        """`Projection.inverse_depth` as the neighbours' fractions."""
        scale, shift = (factor[view][:, None, None, None] for factor in (self.neighbor_scale, self.neighbor_shift))
        return inverse_depth * scale - shift


class Projection(NamedTuple):
    """Pixels of a view at some inverse depths, seen from its neighbours; a constant for autograd."""

    positions: Float[Tensor, "N D h w 2"]
    """For `sample`."""
    inside: Bool[Tensor, "N D h w"]
    """In front of the camera and inside the image."""
    inverse_depth: Float[Tensor, "N D h w"]
    """In the neighbour, in units of 1/near of the view."""


@torch.no_grad()
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
    Ks = views.cameras.Ks.double().clone()
    Ks[:, :2] /= stride
    viewmats = views.cameras.viewmats.double()
    neighbors = nearest_views(viewmats, num_neighbors)
    relative = viewmats[neighbors] @ torch.linalg.inv(viewmats)[:, None]  # [V, N, 4, 4]
    height, width = size
    to_grid = Ks.new_tensor([[2 / width, 0, -1], [0, 2 / height, -1], [0, 0, 1]])
    projections = to_grid @ Ks[neighbors]
    homographies = projections @ relative[..., :3, :3] @ torch.linalg.inv(Ks)[:, None]
    epipoles = (projections @ relative[..., :3, 3:])[..., 0] / near[:, None, None]
    ranges = 1 / near - 1 / far
    return SweepGeometry(
        neighbors=neighbors,
        homographies=homographies.to(dtype),
        epipoles=epipoles.to(dtype),
        farthest_over_nearest=(near / far).to(dtype),
        neighbor_scale=(1 / (near[:, None] * ranges[neighbors])).to(dtype),
        neighbor_shift=(1 / (far * ranges))[neighbors].to(dtype),
        size=size,
    )


def sample(maps: Float[Tensor, "N C h w"], positions: Float[Tensor, "N D H W 2"]) -> Float[Tensor, "N C D H W"]:
    """Bilinear values of the neighbours' maps at projected positions, the border repeated."""
    count, depths, height, width, _ = positions.shape
    flat = positions.view(count, depths * height, width, 2)
    values = grid_sample(maps, flat, padding_mode="border", align_corners=False)
    return values.view(count, maps.shape[1], depths, height, width)


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
