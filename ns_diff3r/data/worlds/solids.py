# SPDX-License-Identifier: Apache-2.0
"""Solids of generated scenes: unit shapes under affine maps, hit by many rays at once."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

NEAR = 1e-4
"""Smallest distance along a ray that counts as a hit, in units of its direction."""
TINY = 1e-9


class Shape(IntEnum):
    """What the unit shape of a solid is."""

    BALL = 0
    """Radius 1."""
    BOX = 1
    """[-1, 1]³."""
    CYLINDER = 2
    """Radius 1 about z, -1 ≤ z ≤ 1."""
    PLANE = 3
    """z = 0, without bounds, seen from both sides."""


@dataclass(frozen=True)
class Solid:
    """A unit shape, turned and stretched and moved.

    Attributes:
        shape: the unit shape.
        center: world position of its origin.
        rotation: columns are its axes in the world.
        half: half its extent along its axes.
        materials: six indices of its faces' materials, -x +x -y +y -z +z; balls and planes have the first, cylinders
            the first on their side and the last two on their ends.
        inside: seen from within, as a room or the sky.
        shadow: whether it may throw one.
    """

    shape: Shape
    center: Float[np.ndarray, " 3"]
    rotation: Float[np.ndarray, "3 3"]
    half: Float[np.ndarray, " 3"]
    materials: tuple[int, ...]
    inside: bool = False
    shadow: bool = True

    @property
    def radius(self) -> float:
        """Of a ball about the centre that holds it; infinite for planes."""
        if self.shape is Shape.PLANE:
            return float("inf")
        return float(self.half.max() if self.shape is Shape.BALL else np.linalg.norm(self.half))

    @property
    def to_local(self) -> Float[np.ndarray, "3 3"]:
        """World directions to those of the unit shape."""
        return (self.rotation / self.half).T

    def holds(self, points: Float[np.ndarray, "n 3"], margin: float) -> bool:
        """Whether one of the points is inside it, or nearer than `margin`."""
        if self.inside or self.shape is Shape.PLANE:
            return False
        local = (points - self.center) @ self.rotation
        return bool((np.abs(local) < self.half + margin).all(axis=1).any())


def intersect(
    solid: Solid, to_local: Float[Tensor, "3 3"], origins: Float[Tensor, "3 n"], directions: Float[Tensor, "3 n"]
) -> Float[Tensor, " n"]:
    """Distance to the first visible hit in units of `directions`, infinity where there is none; [3, 1] origins do.

    Every shape is convex, so that a ray is inside it in one interval; the interval's begin is seen from outside, its
    end from within.
    """
    center = torch.from_numpy(solid.center).to(origins)[:, None]
    o, d = to_local @ (origins - center), to_local @ directions
    if solid.shape is Shape.PLANE:
        distance = -o[2] / torch.where(d[2].abs() < TINY, TINY, d[2])
        return torch.where(distance > NEAR, distance, torch.inf)
    if solid.shape is Shape.BALL:
        enter, leave = _quadratic((d * d).sum(0), (o * d).sum(0), (o * o).sum(0) - 1)
    elif solid.shape is Shape.BOX:
        enter, leave = _slab(o, d)
        enter, leave = enter.amax(0), leave.amin(0)
    else:
        enter, leave = _quadratic(d[0] ** 2 + d[1] ** 2, o[0] * d[0] + o[1] * d[1], o[0] ** 2 + o[1] ** 2 - 1)
        bottom, top = _slab(o[2], d[2])
        enter, leave = torch.maximum(enter, bottom), torch.minimum(leave, top)
    distance = leave if solid.inside else enter
    return torch.where((enter <= leave) & (distance > NEAR), distance, torch.inf)


def _quadratic(a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """Roots of a t² + 2 b t + c, an empty interval where there are none."""
    discriminant = b * b - a * c
    root = discriminant.clamp(min=0).sqrt()
    a = a.clamp(min=TINY)
    empty = torch.where(discriminant > 0, 0.0, torch.inf)
    return (-b - root) / a + empty, (-b + root) / a - empty


def unit(vectors: Float[Tensor, "3 n"]) -> Float[Tensor, "3 n"]:
    """The vectors at length 1."""
    return vectors * (vectors * vectors).sum(0).clamp(min=1e-24).rsqrt()


def _slab(o: Tensor, d: Tensor) -> tuple[Tensor, Tensor]:
    """Where -1 ≤ o + t d ≤ 1."""
    inverse = 1 / torch.where(d.abs() < TINY, TINY, d)
    middle, half = -o * inverse, inverse.abs()
    return middle - half, middle + half


@dataclass(frozen=True, eq=False)
class SolidTable:
    """All solids of a scene as arrays, for work on hits of many solids at once; one row per solid."""

    shapes: Int[Tensor, " S"]
    centers: Float[Tensor, "S 3"]
    to_local: Float[Tensor, "S 3 3"]
    half: Float[Tensor, "S 3"]
    materials: Int[Tensor, "S 6"]

    @staticmethod
    def of(solids: list[Solid]) -> SolidTable:
        """The table of a list of solids."""

        def stack(values: list[np.ndarray]) -> Tensor:
            return torch.from_numpy(np.stack(values)).float()

        return SolidTable(
            torch.tensor([int(s.shape) for s in solids]),
            stack([s.center for s in solids]),
            stack([s.to_local for s in solids]),
            stack([s.half for s in solids]),
            torch.tensor([s.materials for s in solids]),
        )

    def surface(
        self, which: Int[Tensor, " n"], points: Float[Tensor, "3 n"], directions: Float[Tensor, "3 n"]
    ) -> tuple[Float[Tensor, "3 n"], Int[Tensor, " n"], Float[Tensor, " n"], Float[Tensor, " n"]]:
        """World normals towards the viewer, materials, and two coordinates along the surface in world units.

        Args:
            which: row of the solid that each point is on.
            points: on the surfaces, world.
            directions: of view.
        """
        shape = self.shapes[which]
        A = self.to_local[which]  # [n, 3, 3]
        p = (A @ (points.T - self.centers[which])[:, :, None])[:, :, 0]
        x, y, z = p.unbind(-1)
        magnitude = p.abs()
        radial = (x * x + y * y).sqrt()
        ball, cylinder, plane = shape == Shape.BALL, shape == Shape.CYLINDER, shape == Shape.PLANE
        cap = cylinder & (magnitude[:, 2] > radial)
        axis = magnitude.argmax(dim=-1)
        axis = torch.where(cap | plane, 2, axis)
        flat = torch.nn.functional.one_hot(axis, 3).to(p) * torch.where(p < 0, -1.0, 1.0)
        side = torch.stack([x, y, torch.zeros_like(z)], dim=-1)
        local = torch.where(ball[:, None], p, torch.where((cylinder & ~cap)[:, None], side, flat))
        normals = (local[:, None, :] @ A)[:, 0].T  # gradients transform by the transpose
        normals = unit(normals)
        normals = normals * torch.where((normals * directions).sum(0) > 0, -1.0, 1.0)

        half = self.half[which]
        extent = p * half
        u = torch.where(axis == 0, extent[:, 1], extent[:, 0])
        v = torch.where(axis == 2, extent[:, 1], extent[:, 2])
        round_side = ball | (cylinder & ~cap)
        u = torch.where(round_side, torch.atan2(y, x) * half[:, 0], u)
        v = torch.where(ball, z.clamp(-1, 1).asin() * half[:, 2], v)
        face = 2 * axis + (p.gather(1, axis[:, None])[:, 0] > 0)
        face = torch.where(round_side | plane, 0, face)
        return normals, self.materials[which, face], u, v


def first_hits(
    solids: list[Solid], table: SolidTable, origins: Float[Tensor, "3 n"], directions: Float[Tensor, "3 n"]
) -> tuple[Float[Tensor, " n"], Int[Tensor, " n"]]:
    """Distance (in units of `directions`) and row of the first solid along each ray; infinity and -1 where none is."""
    nearest = torch.full(directions.shape[1:], torch.inf)
    which = torch.full(directions.shape[1:], -1)
    for index, solid in enumerate(solids):
        distance = intersect(solid, table.to_local[index], origins, directions)
        closer = distance < nearest
        nearest = torch.where(closer, distance, nearest)
        which = torch.where(closer, index, which)
    return nearest, which
