# SPDX-License-Identifier: Apache-2.0
"""Pictures of generated scenes by ray casting: every pixel is where its camera says, edges are antialiased.

Four rays a pixel find the surfaces; a pixel whose rays meet one surface is shaded once (mipmaps smooth its texture),
one at an edge at each of its rays.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from .materials import MaterialTable
from .solids import Shape, Solid, SolidTable, first_hits, intersect, unit
from .textures import TextureBank
from .world import Light, World

MAX_CASTERS = 12
"""The largest solids throw shadows and darken what is near."""
OFFSETS = ((-0.25, -0.125), (0.125, -0.25), (0.25, 0.125), (-0.125, 0.25))
"""Of the four rays from the pixel's centre."""


@dataclass(frozen=True)
class Finish:
    """From light to a picture: exposure, tone curve (a shoulder, an exponent, an S of some strength), and a tint."""

    exposure: float
    gamma: float
    contrast: float
    tint: Float[np.ndarray, " 3"]

    def __call__(self, light: Float[Tensor, "3 n"]) -> Float[Tensor, "3 n"]:
        """Colours in [0, 1]."""
        tint = torch.from_numpy(self.tint).float()[:, None]
        color = (1 - torch.exp(-self.exposure * tint * light)).clamp(0, 1).pow(1 / self.gamma)
        return torch.lerp(color, color * color * (3 - 2 * color), self.contrast)


class Drawable:
    """A finished world that can be drawn."""

    def __init__(self, world: World, finish: Finish | None = None) -> None:
        self.solids: list[Solid] = world.solids
        self.bank: TextureBank = world.bank
        self.light: Light = world.light
        self.ambient = tuple(torch.from_numpy(np.asarray(a)).float() for a in world.ambient)
        self.fog = world.fog
        self.finish = finish if finish is not None else Finish(1.0, 1.0, 0.0, np.ones(3))
        self.table = SolidTable.of(self.solids)
        self.materials = MaterialTable(world.materials, world.bank)
        throwing = [i for i, s in enumerate(self.solids) if s.shadow and not s.inside and s.shape is not Shape.PLANE]
        throwing.sort(key=lambda i: -float(np.prod(np.sort(self.solids[i].half)[1:])))
        self.casters = throwing[:MAX_CASTERS]

    @cached_property
    def lamps(self) -> Float[Tensor, "4 3"]:
        """Four points of the light, which shadows are taken from."""
        axis = self.light.position / max(np.linalg.norm(self.light.position), 1e-9)
        other = np.cross(axis, [0.36, 0.48, 0.8])
        other /= np.linalg.norm(other)
        across = np.stack([other, np.cross(axis, other)])
        spread = np.array([[-1, -0.4], [0.4, -1], [1, 0.4], [-0.4, 1]]) * self.light.radius
        return torch.from_numpy(self.light.position + spread @ across).float()

    def draw(
        self,
        rotation: Float[Tensor, "3 3"],
        center: Float[Tensor, " 3"],
        K: Float[Tensor, "3 3"],
        height: int,
        width: int,
    ) -> tuple[Float[Tensor, "H W 3"], Float[Tensor, "H W"]]:
        """Picture in [0, 1] and depth (camera z, of the nearest of four rays) of a pinhole camera.

        Args:
            rotation: world to camera, OpenCV axes.
            center: of the camera.
            K: pixels, the first pixel's centre at 0.5.
            height: pixels.
            width: pixels.
        """
        rays = _rays(rotation, K, height, width)  # [3, 4, H, W], camera z 1
        depth, which = self._cast(rays, rotation, center, K)
        flat_rays, depth, which = rays.reshape(3, 4, -1), depth.view(4, -1), which.view(4, -1)
        points = center[:, None, None] + depth * flat_rays
        uniform = (which == which[0]).all(0)
        edge = (~uniform).nonzero()[:, 0]
        inner = uniform.nonzero()[:, 0]
        joined_points = torch.cat([points[:, :, inner].mean(1), points[:, :, edge].flatten(1)], dim=1)
        joined_rays = torch.cat([flat_rays[:, :, inner].mean(1), flat_rays[:, :, edge].flatten(1)], dim=1)
        joined_which = torch.cat([which[0, inner], which[:, edge].flatten()])
        joined_depth = torch.cat([depth[:, inner].mean(0), depth[:, edge].flatten()])
        lamps = torch.full_like(joined_which, -1)
        lamps[len(inner) :] = torch.arange(4).repeat_interleave(len(edge))
        light = self.shade(joined_which, joined_points, joined_rays, joined_depth, 1 / float(K[0, 0]), lamps)
        colors = self.finish(light)
        image = torch.empty(3, height * width)
        image[:, inner] = colors[:, : len(inner)]
        image[:, edge] = colors[:, len(inner) :].view(3, 4, -1).mean(1)
        return image.view(3, height, width).permute(1, 2, 0), depth.amin(0).view(height, width)

    def _cast(
        self, rays: Float[Tensor, "3 4 H W"], rotation: Tensor, center: Tensor, K: Tensor
    ) -> tuple[Float[Tensor, "4 H W"], Int[Tensor, "4 H W"]]:
        """First hits; each solid is tried on the rectangle of pixels that its bounding ball covers."""
        nearest = torch.full(rays.shape[1:], torch.inf)
        which = torch.full(rays.shape[1:], -1)
        windows = self._windows(rotation, center, K, rays.shape[2], rays.shape[3])
        for index, (top, bottom, left, right) in enumerate(windows):
            if top >= bottom or left >= right:
                continue
            solid, part = self.solids[index], (slice(None), slice(top, bottom), slice(left, right))
            tested = rays[(slice(None), *part)]
            distance = intersect(solid, self.table.to_local[index], center[:, None], tested.reshape(3, -1))
            distance = distance.view(tested.shape[1:])
            closer = distance < nearest[part]
            nearest[part] = torch.where(closer, distance, nearest[part])
            which[part] = torch.where(closer, index, which[part])
        return nearest.clamp_(max=1e5), which.clamp_(min=0)

    def _windows(self, rotation: Tensor, center: Tensor, K: Tensor, height: int, width: int) -> list[list[int]]:
        """Rows and columns [top, bottom) and [left, right) in which each solid may be seen: about its box's corners."""
        local = (self._corners - center.double()) @ rotation.double().T  # [S, 8, 3]
        z = local[..., 2]
        projected = local[..., :2] / z[..., None].clamp(min=1e-3) * K.diagonal()[:2].double() + K[:2, 2].double()
        low, high = projected.amin(1).floor(), projected.amax(1).ceil() + 1
        size = torch.tensor([width, height]).double()
        low, high = low.clamp(min=0).minimum(size), high.clamp(min=0).minimum(size)
        behind = z <= 1e-3
        everywhere = self._unbounded | (behind.any(1) & ~behind.all(1))
        low[everywhere], high[everywhere] = 0.0, size
        high[behind.all(1) & ~self._unbounded] = 0.0
        return torch.stack([low[:, 1], high[:, 1], low[:, 0], high[:, 0]], dim=1).long().tolist()

    @cached_property
    def _corners(self) -> Float[Tensor, "S 8 3"]:
        signs = np.array([[a, b, c] for a in (-1, 1) for b in (-1, 1) for c in (-1, 1)])
        return torch.from_numpy(np.stack([s.center + (signs * s.half) @ s.rotation.T for s in self.solids]))

    @cached_property
    def _unbounded(self) -> Tensor:
        return torch.tensor([s.inside or s.shape is Shape.PLANE for s in self.solids])

    def shade(
        self,
        which: Int[Tensor, " n"],
        points: Float[Tensor, "3 n"],
        rays: Float[Tensor, "3 n"],
        depth: Float[Tensor, " n"],
        pixel: float,
        lamps: Int[Tensor, " n"] | None = None,
    ) -> Float[Tensor, "3 n"]:
        """Light that surface points send to the viewer, not yet a picture (`finish`).

        Args:
            which: solid of each point.
            points: world.
            rays: directions of view, any length.
            depth: camera z.
            pixel: width of a pixel at depth 1.
            lamps: which of the four points of the light throws the shadow, -1 for all four; default: the first.
        """
        view = unit(rays)
        normals, material, u, v = self.table.surface(which, points, rays)
        slant = (-(normals * view).sum(0)).clamp(0.1, 1)
        albedo, gloss = self.materials.look(material, u, v, depth * pixel / slant.sqrt())
        specular, shininess, emission = gloss
        to_light = torch.from_numpy(self.light.position).float()[:, None] - points
        distance = (to_light * to_light).sum(0).sqrt()
        to_light = to_light / distance
        facing = (normals * to_light).sum(0).clamp(min=0)
        brightness = facing / (1 + (distance / self.light.reach) ** 2)
        lit = self._lit(points, normals, facing > 0, lamps)
        open_sky = self._openness(points, normals)
        up = 0.5 + 0.5 * normals[2]
        ambient = (self.ambient[0][:, None] * up + self.ambient[1][:, None] * (1 - up)) * open_sky
        color = torch.from_numpy(self.light.color).float()[:, None]
        half = unit(to_light - view)
        highlight = specular * (normals * half).sum(0).clamp(min=0).pow(shininess) * lit * (facing > 0)
        rim = specular * (1 - slant).pow(4) * open_sky * 0.5
        received = ambient + color * (brightness * lit)
        result = albedo * received + color * highlight + self.ambient[0][:, None] * rim
        result = torch.lerp(result, albedo, emission)
        if self.fog is not None:
            haze = torch.from_numpy(self.fog[0]).float()[:, None]
            seen = torch.exp2(-depth / self.fog[1])
            result = torch.where(emission > 0, result, torch.lerp(haze.expand_as(result), result, seen))
        return result

    def _lit(
        self, points: Float[Tensor, "3 n"], normals: Float[Tensor, "3 n"], facing: Tensor, lamps: Tensor | None
    ) -> Float[Tensor, " n"]:
        """How much of the light each point sees."""
        lit = torch.ones_like(points[0])
        lamps = torch.zeros_like(facing, dtype=torch.long) if lamps is None else lamps
        single = (facing & (lamps >= 0)).nonzero()[:, 0]
        fourfold = (facing & (lamps < 0)).nonzero()[:, 0]
        index = torch.cat([single, fourfold.repeat(4)])
        lamp = torch.cat([lamps[single], torch.arange(4).repeat_interleave(len(fourfold))])
        origins = points[:, index] + 1e-3 * normals[:, index]
        to_light = self.lamps[lamp].T - origins
        blocked = torch.zeros(len(index), dtype=torch.bool)
        for caster in self.casters:
            blocked |= intersect(self.solids[caster], self.table.to_local[caster], origins, to_light) < 1
        free = (~blocked).float()
        lit[single] = free[: len(single)]
        lit[fourfold] = free[len(single) :].view(4, -1).mean(0)
        return lit

    def _openness(self, points: Float[Tensor, "3 n"], normals: Float[Tensor, "3 n"]) -> Float[Tensor, " n"]:
        """Ambient occlusion: the share of the sky that balls about the casters leave free, and darker room corners."""
        open_sky = torch.ones_like(points[0])
        for caster in self.casters:
            solid = self.solids[caster]
            offset = self.table.centers[caster][:, None] - points
            squared = (offset * offset).sum(0)
            radius = float(np.cbrt(np.prod(solid.half)))
            towards = (normals * offset).sum(0).clamp(min=0)
            open_sky = open_sky * (
                1 - 0.9 * (towards * radius**2 / (squared.sqrt() * squared + radius**3)).clamp(max=1)
            )
        for index, solid in enumerate(self.solids):
            if solid.inside and solid.shape is Shape.BOX:
                local = self.table.to_local[index] @ (points - self.table.centers[index][:, None])
                gap = (1 - local.abs()) * self.table.half[index][:, None]
                second = gap.sort(dim=0).values[1].clamp(min=0)
                open_sky = open_sky * (1 - 0.45 * torch.exp(-second / 0.25))
        return open_sky

    def expose(self, origins: Float[Tensor, "3 n"], rays: Float[Tensor, "3 n"], target: float) -> None:
        """Set the exposure at which what the rays see is `target` bright on average (bisection)."""
        depth, which = first_hits(self.solids, self.table, origins, rays)
        hit = which >= 0
        points = origins[:, hit] + depth[hit] * rays[:, hit]
        light = self.shade(which[hit], points, rays[:, hit], depth[hit], 0.01)
        low, high = 0.05, 50.0
        for _ in range(16):
            self.finish = replace(self.finish, exposure=(low * high) ** 0.5)
            dark = float(self.finish(light).mean()) < target
            low, high = (self.finish.exposure, high) if dark else (low, self.finish.exposure)


def _rays(rotation: Float[Tensor, "3 3"], K: Float[Tensor, "3 3"], height: int, width: int) -> Float[Tensor, "3 4 H W"]:
    """World directions, camera z 1, of four rays of every pixel."""
    offsets = torch.tensor(OFFSETS)
    x = (torch.arange(width) + 0.5 + offsets[:, :1] - K[0, 2]) / K[0, 0]
    y = (torch.arange(height) + 0.5 + offsets[:, 1:] - K[1, 2]) / K[1, 1]
    x, y = x[:, None, :].expand(4, height, width), y[:, :, None].expand(4, height, width)
    local = torch.stack([x, y, torch.ones_like(x)]).reshape(3, -1)
    return (rotation.T @ local).view(3, 4, height, width)
