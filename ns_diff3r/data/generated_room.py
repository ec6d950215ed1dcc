# SPDX-License-Identifier: Apache-2.0
"""A generated room with a few objects, ray-cast: textures, occlusions, soft shadows and moving highlights.

The bundled example and the pictures of the documentation are made from it. z is up, one unit is a metre.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..splats import Cameras
from .ray_casting import Box, Material, Solid, Sphere, in_shadow, nearest_hit
from .scenes import PointCloud

LIGHT = (1.5, -0.7, 2.5)
LIGHT_RADIUS = 0.25
TARGET = (0.0, 0.35, 0.55)
ROOM_HALF = (2.2, 2.4, 1.35)


def _rgb(like: Tensor, *color: float) -> Tensor:
    return like.new_tensor(color)


def _noise(points: Float[Tensor, "n 3"]) -> Float[Tensor, " n"]:
    """Smooth value noise in [0, 1] with one lattice cell per unit."""
    cell = points.floor()
    blend = (points - cell).square() * (3 - 2 * (points - cell))
    value = torch.zeros_like(points[:, 0])
    for corner in range(8):
        offset = points.new_tensor([corner & 1, corner >> 1 & 1, corner >> 2 & 1])
        hashed = ((cell + offset) @ points.new_tensor([12.9898, 78.233, 37.719])).sin() * 43758.5453
        value += (hashed - hashed.floor()) * torch.where(offset.bool(), blend, 1 - blend).prod(dim=-1)
    return value


def _room(points: Tensor, normals: Tensor) -> Tensor:
    """Planks on the floor, a striped wallpaper with a picture on the back wall, plain side walls and ceiling."""
    x, y, z = points.unbind(-1)
    plank = ((x + 3) / 0.35).floor()
    length = ((y + 3) / 1.3 + 0.37 * plank).floor()
    tone = (plank * 7.3 + length * 3.1).sin() * 0.12 + _noise(points * points.new_tensor([24.0, 2.5, 1.0])) * 0.22
    seam = ((((x + 3) / 0.35) % 1) < 0.04) | ((((y + 3) / 1.3 + 0.37 * plank) % 1) < 0.012)
    floor = _rgb(points, 0.58, 0.38, 0.22) * (0.8 + tone)[:, None]
    floor = torch.where(seam[:, None], floor * 0.45, floor)

    stripe = ((x / 0.22).floor() % 2)[:, None]
    dots = (((x / 0.22) % 1 - 0.5).square() + ((z / 0.22) % 1 - 0.5).square() < 0.04)[:, None]
    wall = _rgb(points, 0.72, 0.78, 0.74) + stripe * _rgb(points, 0.1, 0.08, 0.04)
    wall = torch.where(dots & (stripe > 0), _rgb(points, 0.35, 0.5, 0.55), wall)
    across, up = (x + 0.75) / 0.5, (z - 0.2) / 0.36
    inside, frame = (across.abs() < 1) & (up.abs() < 1), (across.abs() < 1.12) & (up.abs() < 1.16)
    hills = up < 0.25 * (4 * across).sin() + 0.15 * (9 * across + 1).sin() - 0.2
    sun = (across - 0.45).square() + (up - 0.45).square() < 0.05
    sky = _rgb(points, 0.95, 0.62, 0.35) + up[:, None] * _rgb(points, -0.45, -0.15, 0.3)
    picture = torch.where(hills[:, None], _rgb(points, 0.18, 0.36, 0.25), sky)
    picture = torch.where((sun & ~hills)[:, None], _rgb(points, 1.0, 0.93, 0.65), picture)
    wall = torch.where(frame[:, None], _rgb(points, 0.2, 0.13, 0.08), wall)
    wall = torch.where(inside[:, None], picture, wall)

    side = _rgb(points, 0.75, 0.55, 0.42) * (0.85 + 0.25 * _noise(points * 5.0))[:, None]
    ceiling = _rgb(points, 0.9, 0.9, 0.88).expand_as(points)
    facing = normals.abs().argmax(dim=-1)[:, None]
    upper = torch.where(normals[:, 2:] > 0, floor, ceiling)
    return torch.where(facing == 2, upper, torch.where(facing == 1, wall, side)).clamp(0, 1)


def _striped_ball(points: Tensor, normals: Tensor) -> Tensor:
    angle = torch.atan2(points[:, 1], points[:, 0]) + 0.8 * points[:, 2]
    white = ((angle / math.pi * 3).floor() % 2)[:, None]
    return torch.where(white > 0, _rgb(points, 0.93, 0.9, 0.85), _rgb(points, 0.8, 0.12, 0.1))


def _marble_ball(points: Tensor, normals: Tensor) -> Tensor:
    veins = (6 * points[:, 0] + 4 * points[:, 2] + 5 * _noise(points * 3.0)).sin()[:, None] * 0.5 + 0.5
    return _rgb(points, 0.1, 0.28, 0.5) + veins.pow(3) * _rgb(points, 0.6, 0.55, 0.4)


def _crate(points: Tensor, normals: Tensor) -> Tensor:
    """Boards along the height, a dark rim at every edge and a painted disc on each side."""
    axis = normals.abs().argmax(dim=-1)
    u = torch.where(axis == 0, points[:, 1], points[:, 0])
    v = torch.where(axis == 2, points[:, 1], points[:, 2])
    grain = _noise(torch.stack([u * 40, v * 6, axis.to(u)], dim=-1))
    wood = _rgb(points, 0.72, 0.55, 0.3) * (0.7 + 0.4 * grain)[:, None]
    rim = (u.abs() > 0.25) | (v.abs() > 0.25)
    disc = (u.square() + v.square() < 0.018)[:, None]
    painted = torch.where(disc, _rgb(points, 0.15, 0.45, 0.25), wood)
    return torch.where(rim[:, None], wood * 0.55, painted)


def _table(points: Tensor, normals: Tensor) -> Tensor:
    checks = ((points[:, 0] / 0.16).floor() + (points[:, 1] / 0.16).floor()) % 2
    cloth = torch.where(checks[:, None] > 0, _rgb(points, 0.9, 0.86, 0.75), _rgb(points, 0.25, 0.35, 0.6))
    return torch.where(normals[:, 2:] > 0, cloth, _rgb(points, 0.42, 0.26, 0.14))


def room_solids() -> list[Solid]:
    """The room and what stands in it."""
    return [
        Box((0, 0, 1.35), ROOM_HALF, Material(_room), inside=True),
        Box((-0.55, 0.75, 0.6), (0.62, 0.48, 0.04), Material(_table, 0.15, 25.0), yaw=0.25),
        Box((-0.55, 0.75, 0.28), (0.12, 0.12, 0.28), Material(_crate), yaw=0.25),
        Box((0.75, 0.9, 0.3), (0.3, 0.3, 0.3), Material(_crate), yaw=-0.5),
        Sphere((0.72, 0.88, 0.86), 0.26, Material(_marble_ball, 1.0, 50.0)),
        Sphere((-0.72, 0.72, 0.86), 0.22, Material(_striped_ball, 0.8, 40.0)),
        Sphere((0.15, -0.15, 0.2), 0.2, Material(lambda p, n: _rgb(p, 0.95, 0.7, 0.12).expand_as(p), 0.9, 40.0)),
        Box(
            (-0.25, 0.98, 0.74), (0.09, 0.09, 0.1), Material(lambda p, n: _rgb(p, 0.55, 0.2, 0.5).expand_as(p)), yaw=0.7
        ),
    ]


def room_cameras(num_views: int = 12, width: int = 240, height: int = 180) -> Cameras:
    """Cameras on an arc before the objects, alternately high and low, 60° wide; float64."""
    poses = []
    for i in range(num_views):
        across = 2 * (i + 0.5) / num_views - 1
        angle = math.radians(34) * across
        up = 1.15 + 0.3 * (-1) ** i + 0.1 * math.sin(3 * across)
        eye = torch.tensor([2.3 * math.sin(angle), 0.35 - 2.3 * math.cos(angle), up], dtype=torch.float64)
        backward = torch.nn.functional.normalize(eye - eye.new_tensor(TARGET), dim=0)
        right = torch.nn.functional.normalize(torch.linalg.cross(eye.new_tensor([0.0, 0.0, 1.0]), backward), dim=0)
        rotation = torch.stack([right, torch.linalg.cross(backward, right), backward], dim=1)
        poses.append(torch.cat([rotation, eye[:, None]], dim=1))
    focal = width / (2 * math.tan(math.radians(30)))
    intrinsics = torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]], dtype=torch.float64)
    return Cameras.from_camera_to_world_opengl(torch.stack(poses), intrinsics.repeat(num_views, 1, 1), width, height)


def render_room(cameras: Cameras, samples: int = 3) -> Float[Tensor, "V H W 3"]:
    """Images in [0, 1], each pixel the mean of samples² rays on a regular grid; float32."""
    solids = room_solids()
    return torch.stack([_render_view(cameras[v], samples, solids) for v in range(cameras.num_views)])


def room_points(cameras: Cameras, count: int = 3000, seed: int = 0) -> PointCloud:
    """Points on surfaces where random pixels of random views hit them, with the mean shaded colour of that view."""
    generator = torch.Generator().manual_seed(seed)
    solids, points, colors = room_solids(), [], []
    for v in range(cameras.num_views):
        share = count * (v + 1) // cameras.num_views - count * v // cameras.num_views
        size = torch.tensor([cameras.width, cameras.height], dtype=torch.float64)
        pixels = torch.rand(share, 2, generator=generator, dtype=torch.float64) * size
        hits, shaded = _trace(solids, *_rays(cameras[v], pixels))
        points.append(hits)
        colors.append(shaded)
    return PointCloud(torch.cat(points).numpy(), torch.cat(colors).numpy().astype(np.float64))


def _render_view(camera: Cameras, samples: int, solids: Sequence[Solid]) -> Float[Tensor, "H W 3"]:
    height, width = camera.height, camera.width
    y, x = ((torch.arange(size * samples, dtype=torch.float64) + 0.5) / samples for size in (height, width))
    pixels = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).reshape(-1, 2)
    _, colors = _trace(solids, *_rays(camera, pixels))
    return colors.reshape(height, samples, width, samples, 3).mean(dim=(1, 3)).float()


def _rays(camera: Cameras, pixels: Float[Tensor, "n 2"]) -> tuple[Float[Tensor, "n 3"], Float[Tensor, "n 3"]]:
    """Origins and unit directions through pixel coordinates of the only view of `camera`."""
    K, rotation = camera.Ks[0], camera.viewmats[0, :3, :3]
    slopes = (pixels - K[:2, 2]) / K[[0, 1], [0, 1]]
    directions = torch.cat([slopes, torch.ones_like(slopes[:, :1])], dim=-1) @ rotation
    return camera.centers.expand_as(directions), torch.nn.functional.normalize(directions, dim=-1)


def _trace(solids: Sequence[Solid], origins: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    """Hit points and their colours: ambient and diffuse light with a soft shadow, a Blinn-Phong highlight."""
    distance, which = nearest_hit(solids, origins, directions)
    points = origins + distance[:, None] * directions
    colors = torch.zeros_like(points)
    center = points.new_tensor(LIGHT)
    offsets = [(0.0, 0.0)] + [(math.cos(a * math.pi / 3), math.sin(a * math.pi / 3)) for a in range(6)]
    lights = [center + LIGHT_RADIUS * center.new_tensor([*offset, 0.0]) for offset in offsets]
    for index, solid in enumerate(solids):
        hit = which == index
        if not hit.any():
            continue
        position = points[hit]
        normals, local_normals = solid.normals(position)
        albedo = solid.material.albedo(solid.local(position), local_normals)
        lit = torch.stack([~in_shadow(solids, position, normals, light) for light in lights]).double().mean(dim=0)
        to_light = center - position
        falloff = 9.0 / (2.0 + to_light.square().sum(-1))
        to_light = torch.nn.functional.normalize(to_light, dim=-1)
        diffuse = (normals * to_light).sum(-1).clamp(min=0) * falloff * lit
        half = torch.nn.functional.normalize(to_light - directions[hit], dim=-1)
        highlight = solid.material.specular * (normals * half).sum(-1).clamp(min=0).pow(solid.material.shininess) * lit
        ambient = 0.2 + 0.06 * normals[:, 2]
        colors[hit] = albedo * (ambient + diffuse)[:, None] + highlight[:, None]
    return points, colors.clamp(0, 1).pow(1 / 1.3)
