# SPDX-License-Identifier: Apache-2.0
"""Similarities between two worlds of the same cameras, as pose-free evaluation needs them; constants for autograd."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from ..backbones.depth_anything_3.alignment import aligning_similarity
from ..splats import Cameras
from ..splats.frames import Similarity

RotationFrom = Literal["cameras", "centers"]
LINE_TOLERANCE = 1e-2
"""Centres whose second principal spread is less than this share of the first stand on a line."""
POINT_TOLERANCE = 1e-6
"""Centres nearer together than this share of their distance from the origin stand at one point."""


@torch.no_grad()
def umeyama(source: Float[Tensor, "N 3"], target: Float[Tensor, "N 3"], with_scale: bool = True) -> Similarity:
    """The similarity with the least Σ |target − (s R source + t)|² (Umeyama, 1991), R a proper rotation, in float64.

    Args:
        source, target: corresponding points.
        with_scale: False keeps s = 1.

    Raises:
        ValueError: the points of either set stand on a line or at one point, which leaves R undetermined (two points
            always do; `align_cameras` settles these cases by the cameras' axes), or only a mirror image would fit.
    """
    rank = min(_dimension(source), _dimension(target))
    if rank < 2:
        where = "at one point" if rank == 0 else "on a line"
        raise ValueError(f"umeyama: the points stand {where}, so they determine no rotation; use align_cameras")
    source, target = source.double(), target.double()
    rotation = _umeyama_rotation(source, target)
    scale = _umeyama_scale(source, target, rotation) if with_scale else source.new_ones(())
    if not scale > 0:
        raise ValueError("umeyama: no similarity with a positive scale fits these points")
    return Similarity(scale, rotation, target.mean(0) - scale * rotation @ source.mean(0))


@dataclass(frozen=True, eq=False)
class CameraAlignment:
    """A similarity between two worlds, and how well it fits.

    Attributes:
        similarity: world of the source cameras → world of the target cameras, float64.
        dimension: that the centres of both sets span: 0 one point, 1 a line (two views), 2 a plane, 3 space.
        settled_by: what the rotation was taken from.
        center_error: root mean square distance of aligned centres, relative to the spread of the target's; nan where
            these are at one point.
        angle_error: mean angle in degrees between the axes of aligned cameras.
    """

    similarity: Similarity
    dimension: int
    settled_by: Literal["centers", "line and cameras", "cameras"]
    center_error: float
    angle_error: float


@torch.no_grad()
def align_cameras(source: Cameras, target: Cameras, rotation_from: RotationFrom = "cameras") -> CameraAlignment:
    """The similarity that takes cameras to where the same cameras stand in another world.

    Args:
        source, target: equally many cameras, the same ones in two worlds; at least one.
        rotation_from: "cameras" turns the cameras' axes and, equally weighted, the directions between their centres, as
            in training; it stays well determined where the centres stand nearly on a line, as in video. "centers" is
            Umeyama's rotation; where the centres stand on a line (two views) the line is kept, and the turn about it is
            the one that fits the axes best.

    In both cases the scale is Umeyama's, the least-squares one for that rotation, and the mean centre goes to the mean
    centre. Where the centres of either set are at one point the scale is 1 and the rotation that of the axes.

    Raises:
        ValueError: no camera, or different numbers of them.
    """
    if source.num_views != target.num_views or source.num_views == 0:
        raise ValueError(f"align_cameras: {source.num_views} cameras cannot be matched with {target.num_views}")
    first, second = source.centers.double(), target.centers.double()
    dimension = min(_dimension(first), _dimension(second))
    base = aligning_similarity(target.viewmats, source.viewmats)
    rotation, settled = base.rotation, "cameras"
    if rotation_from == "centers" and dimension > 0:
        settled = "centers" if dimension > 1 else "line and cameras"
        rotation = _umeyama_rotation(first, second) if dimension > 1 else _rotation_of_line(source, target)
    scale = first.new_ones(())
    if dimension > 0:
        scale = _umeyama_scale(first, second, rotation)
        if not scale > 0:  # cameras that contradict one another; the size at least is known
            scale = base.scale
    similarity = Similarity(scale, rotation, second.mean(0) - scale * rotation @ first.mean(0))
    center_error, angle_error = _errors(similarity, source, target)
    return CameraAlignment(similarity, dimension, settled, center_error if dimension > 0 else math.nan, angle_error)


def _umeyama_rotation(source: Float[Tensor, "V 3"], target: Float[Tensor, "V 3"]) -> Float[Tensor, "3 3"]:
    correlation = (target - target.mean(0)).T @ (source - source.mean(0))
    left, values, right = torch.linalg.svd(correlation)
    signs = torch.ones_like(values)
    signs[-1] = torch.linalg.det(left @ right).sign()
    return left * signs @ right


def _umeyama_scale(
    source: Float[Tensor, "V 3"], target: Float[Tensor, "V 3"], rotation: Float[Tensor, "3 3"]
) -> Float[Tensor, ""]:
    """The least-squares scale once the rotation is settled; not positive where the points contradict it."""
    moved, aim = source - source.mean(0), target - target.mean(0)
    return (aim * (moved @ rotation.T)).sum() / moved.square().sum()


def _rotation_of_line(source: Cameras, target: Cameras) -> Float[Tensor, "3 3"]:
    """The rotation that takes the source's line of centres to the target's, and the axes best among those."""
    first, second = (_direction(cameras.centers.double()) for cameras in (source, target))
    onto = _shortest_rotation(first, second)
    # Of turns by φ about the target's line n, trace(turn(φ) M) = const + cos φ (tr M − nᵀMn) + sin φ tr([n]ₓ M).
    axes = target.viewmats[:, :3, :3].double().transpose(1, 2) @ source.viewmats[:, :3, :3].double()
    matrix = onto @ axes.mean(0).T
    cross = _cross_matrix(second)
    angle = torch.atan2(torch.trace(cross @ matrix), torch.trace(matrix) - second @ matrix @ second)
    return torch.linalg.matrix_exp(angle * cross) @ onto


def _direction(centers: Float[Tensor, "V 3"]) -> Float[Tensor, " 3"]:
    """Of the line that centres stand on, from the first towards the one farthest from it."""
    offsets = centers - centers[0]
    farthest = offsets[offsets.norm(dim=-1).argmax()]
    line = torch.linalg.svd(centers - centers.mean(0), full_matrices=False).Vh[0]
    return line * torch.where(line @ farthest < 0, -1.0, 1.0)


def _shortest_rotation(first: Float[Tensor, " 3"], second: Float[Tensor, " 3"]) -> Float[Tensor, "3 3"]:
    """A rotation that takes one unit vector to another: mirrored at the plane of one, then at that of their middle."""
    eye = torch.eye(3, dtype=first.dtype, device=first.device)
    aside = eye[first.abs().argmin()]
    normal = torch.linalg.cross(first, aside)
    normal = normal / normal.norm()
    middle = first - second
    if middle.norm() < 1e-12:
        return eye
    middle = middle / middle.norm()
    # Two mirrors make a rotation. The first must leave `first` where it is.
    return (eye - 2 * middle[:, None] * middle) @ (eye - 2 * normal[:, None] * normal)


def _cross_matrix(axis: Float[Tensor, " 3"]) -> Float[Tensor, "3 3"]:
    x, y, z = axis.unbind()
    zero = torch.zeros_like(x)
    return torch.stack([zero, -z, y, z, zero, -x, -y, x, zero]).view(3, 3)


def _dimension(points: Float[Tensor, "N 3"]) -> int:
    points = points.double()
    spreads = torch.linalg.svdvals(points - points.mean(0))
    reach = float(points.norm(dim=-1).max()) * math.sqrt(len(points))
    if not spreads[0] > POINT_TOLERANCE * reach:
        return 0
    return int((spreads >= LINE_TOLERANCE * spreads[0]).sum())


def _errors(similarity: Similarity, source: Cameras, target: Cameras) -> tuple[float, float]:
    moved = similarity.apply_cameras(source.to(dtype=torch.float64))
    centers = target.centers.double()
    spread = (centers - centers.mean(0)).square().sum().sqrt()
    distance = (moved.centers - centers).square().sum().sqrt()
    relative = moved.viewmats[:, :3, :3] @ target.viewmats[:, :3, :3].double().transpose(1, 2)
    return float(distance / spread), float(rotation_angles(relative).mean())


def rotation_angles(rotations: Float[Tensor, "V 3 3"]) -> Float[Tensor, " V"]:
    """Angles in degrees; precise for small ones, too."""
    skew = 0.5 * (rotations - rotations.transpose(-1, -2))
    sine = torch.stack([skew[:, 2, 1], skew[:, 0, 2], skew[:, 1, 0]], dim=-1).norm(dim=-1)
    cosine = 0.5 * (rotations.diagonal(dim1=-2, dim2=-1).sum(-1) - 1)
    return torch.rad2deg(torch.atan2(sine, cosine))
