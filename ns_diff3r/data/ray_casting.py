# SPDX-License-Identifier: Apache-2.0
"""Nearest hits of rays with a few solids, for generated scenes whose every pixel and camera is exact."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

EPSILON = 1e-6
"""Smallest distance along a ray that counts as a hit."""


@dataclass(frozen=True)
class Material:
    """What a surface looks like: `albedo(local point [n, 3], local normal [n, 3]) → RGB [n, 3]`, and its highlight."""

    albedo: Callable[[Tensor, Tensor], Tensor]
    specular: float = 0.0
    shininess: float = 30.0


@dataclass(frozen=True)
class Sphere:
    """A ball."""

    center: tuple[float, float, float]
    radius: float
    material: Material

    def local(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
        """World points relative to the centre, the radius as unit."""
        return (points - points.new_tensor(self.center)) / self.radius

    def intersect(self, origins: Float[Tensor, "n 3"], directions: Float[Tensor, "n 3"]) -> Float[Tensor, " n"]:
        """Distance to the nearest hit in front, infinity where there is none; directions are unit vectors."""
        offset = origins - origins.new_tensor(self.center)
        b = (offset * directions).sum(-1)
        discriminant = b.square() - offset.square().sum(-1) + self.radius**2
        root = discriminant.clamp(min=0).sqrt()
        distance = torch.where(-b - root > EPSILON, -b - root, -b + root)
        return torch.where((discriminant > 0) & (distance > EPSILON), distance, torch.inf)

    def normals(self, points: Float[Tensor, "n 3"]) -> tuple[Float[Tensor, "n 3"], Float[Tensor, "n 3"]]:
        """Outward unit normals at surface points, in world and in local axes."""
        normals = torch.nn.functional.normalize(self.local(points), dim=-1)
        return normals, normals


@dataclass(frozen=True)
class Box:
    """A box turned by `yaw` about the vertical (z); seen from inside when `inside`, as a room is."""

    center: tuple[float, float, float]
    half: tuple[float, float, float]
    material: Material
    yaw: float = 0.0
    inside: bool = False

    def _to_local_axes(self, vectors: Tensor) -> Tensor:
        c, s = math.cos(self.yaw), math.sin(self.yaw)
        return vectors @ vectors.new_tensor([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])

    def local(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
        """World points relative to the centre and the turned axes, world units."""
        return self._to_local_axes(points - points.new_tensor(self.center))

    def intersect(self, origins: Float[Tensor, "n 3"], directions: Float[Tensor, "n 3"]) -> Float[Tensor, " n"]:
        """Distance to the nearest hit (to the far side when `inside`), infinity where there is none."""
        inverse = 1.0 / self._to_local_axes(directions)
        position, half = self.local(origins), origins.new_tensor(self.half)
        first, second = (-half - position) * inverse, (half - position) * inverse
        entry = torch.minimum(first, second).amax(dim=-1)
        leave = torch.maximum(first, second).amin(dim=-1)
        distance = leave if self.inside else entry
        return torch.where((entry <= leave) & (distance > EPSILON), distance, torch.inf)

    def normals(self, points: Float[Tensor, "n 3"]) -> tuple[Float[Tensor, "n 3"], Float[Tensor, "n 3"]]:
        """Unit normals at surface points, towards where it is seen from, in world and in local axes."""
        relative = self.local(points) / points.new_tensor(self.half)
        axis = relative.abs().argmax(dim=-1, keepdim=True)
        normals = torch.zeros_like(points).scatter(-1, axis, relative.gather(-1, axis).sign())
        if self.inside:
            normals = -normals
        c, s = math.cos(self.yaw), math.sin(self.yaw)
        return normals @ normals.new_tensor([[c, s, 0.0], [-s, c, 0.0], [0.0, 0.0, 1.0]]), normals


Solid = Sphere | Box


def nearest_hit(
    solids: Sequence[Solid], origins: Float[Tensor, "n 3"], directions: Float[Tensor, "n 3"]
) -> tuple[Float[Tensor, " n"], Int[Tensor, " n"]]:
    """Distance to the nearest solid and its index, for unit directions."""
    distances = torch.stack([solid.intersect(origins, directions) for solid in solids])
    nearest = distances.min(dim=0)
    return nearest.values, nearest.indices


def in_shadow(
    solids: Sequence[Solid], points: Float[Tensor, "n 3"], normals: Float[Tensor, "n 3"], light: Float[Tensor, "3"]
) -> Bool[Tensor, " n"]:
    """Whether a solid stands between surface points and a point light."""
    to_light = light - points
    distance = to_light.norm(dim=-1)
    blocked, _ = nearest_hit(solids, points + 1e-4 * normals, to_light / distance[:, None])
    return blocked < distance - 1e-3
