# SPDX-License-Identifier: Apache-2.0
"""Scene number `index` of a seed: built, rid of what stands before the lens, exposed, and given sparse points."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..frames import Frame
from ..generated_settings import GENERATED, GeneratedConfig
from ..intrinsics import Intrinsics
from ..resampling import Resampling
from ..scenes import PointCloud, Scene
from .drawing import Drawable, Finish
from .layouts import LAYOUTS
from .paths import Path as CameraPath
from .solids import Shape, SolidTable, first_hits
from .splat_objects import PlacedSplat, place_splat, splat_objects
from .textures import texture_bank
from .world import World

FULL_SIZE = 640
"""Longer side of a picture at full size; views are drawn at the size that is asked for."""
ASPECTS = (1.0, 4 / 3, 3 / 2, 16 / 9)
LENS_MARGIN = 0.12
"""What is nearer to a camera than this share of its distance to what it looks at is taken away."""
PROBES = 8
"""Rays per side of the grids that look at a scene before it is drawn."""


@dataclass(frozen=True, eq=False)
class DrawnFrame(Frame):
    """A view of a generated scene; nothing is read, it is drawn at the size asked for."""

    world: Drawable | None = None
    splat: PlacedSplat | None = None

    def image(self, resampling: Resampling) -> Float[Tensor, "h w 3"]:
        """The box of the picture at the size asked for, float32 in [0, 1]."""
        assert self.world is not None
        k = resampling.apply_to_intrinsics(self.intrinsics)
        pose = torch.from_numpy(self.camera_to_world).float()
        rotation = pose[:3, :3].T * torch.tensor([[1.0], [-1.0], [-1.0]])
        camera = rotation, pose[:3, 3], torch.from_numpy(k.matrix()).float()
        picture, depth = self.world.draw(*camera, k.height, k.width)
        return picture if self.splat is None else self.splat.over(picture, depth, *camera)


def generate_scene(config: GeneratedConfig, index: int) -> Scene:
    """Scene `index`, a function of the settings and the index alone.

    Raises:
        SceneError: trained splats that are asked for and cannot be read.
    """
    generator = np.random.default_rng([config.seed, 1, index])
    world = World(generator, texture_bank(config.seed, config.num_textures))
    splats = () if config.splats is None else splat_objects(config.splats)
    with_splat = bool(splats) and generator.random() < config.splat_share
    names = list(config.kinds) or list(LAYOUTS)
    shares = np.array([LAYOUTS[name][1] for name in names])
    kind = "tabletop" if with_splat else str(generator.choice(names, p=shares / shares.sum()))
    path = LAYOUTS[kind][0](world, config.num_views)
    intrinsics = _intrinsics(generator, path.degrees)
    splat = None
    if with_splat:
        kind, place = "splat", np.array([*generator.normal(0, 0.05, 2), 0.0])
        size = generator.uniform(0.5, 0.9)
        splat = place_splat(generator, splats[int(generator.integers(len(splats)))], place, size)
        lift = np.array([0.0, 0.0, 0.4 * size])
        path = replace(path, eyes=path.eyes + lift, targets=path.targets + lift)
        room = np.array([[0.0, 0.0, 0.15], [0.0, 0.0, 0.3]])
        world.solids = [s for s in world.solids if not s.holds(room, 0.12)]
    poses = path.poses(generator)
    _clear_the_view(world, path, poses, intrinsics)
    tint = 1 + generator.uniform(-0.08, 0.08, 3)
    finish = Finish(1.0, generator.uniform(1.0, 1.8), generator.uniform(0.2, 1.0), tint)
    drawable = Drawable(world, finish)
    origins, rays = _probes(poses, intrinsics, generator)
    drawable.expose(origins, rays, float(generator.uniform(0.3, 0.6)))
    points = _sparse_points(drawable, origins, rays, splat)
    folder = Path(GENERATED) / f"{index:06d}-{kind}"
    frames = [
        DrawnFrame(folder / f"{view:02d}", p, intrinsics, world=drawable, splat=splat) for view, p in enumerate(poses)
    ]
    return Scene(folder, tuple(frames), points)


def _intrinsics(generator: np.random.Generator, degrees: float) -> Intrinsics:
    focal = FULL_SIZE / (2 * np.tan(np.radians(degrees) / 2))
    short = round(FULL_SIZE / ASPECTS[int(generator.integers(len(ASPECTS)))])
    width, height = (FULL_SIZE, short) if generator.random() < 0.7 else (short, FULL_SIZE)
    shift = generator.normal(0, 0.01, 2) * FULL_SIZE
    return Intrinsics(focal, focal, width / 2 + shift[0], height / 2 + shift[1], width, height)


def _clear_the_view(world: World, path: CameraPath, poses: np.ndarray, intrinsics: Intrinsics) -> None:
    """Remove solids that a camera is in, or that stand right before it."""
    distance = float(np.median(np.linalg.norm(path.targets - path.eyes, axis=1)))
    margin = LENS_MARGIN * distance
    world.solids = [s for s in world.solids if not s.holds(path.eyes, margin)]
    origins, rays = _probes(poses, intrinsics, None)
    depth, which = first_hits(world.solids, SolidTable.of(world.solids), origins, rays)
    blocking = set(which[(depth < 2 * margin) & (which >= 0)].tolist())
    keep = [s.inside or s.shape is Shape.PLANE or i not in blocking for i, s in enumerate(world.solids)]
    world.solids = [s for s, kept in zip(world.solids, keep, strict=True) if kept]


def _probes(
    poses: np.ndarray, intrinsics: Intrinsics, generator: np.random.Generator | None
) -> tuple[Float[Tensor, "3 n"], Float[Tensor, "3 n"]]:
    """Origins and directions (camera z 1) of a coarse grid of rays of every view, jittered with a generator."""
    jitter = generator.uniform(0, 1, (len(poses), PROBES, PROBES, 2)) if generator is not None else 0.5
    cells = np.stack(np.meshgrid(np.arange(PROBES), np.arange(PROBES)), axis=-1)
    pixels = (cells + jitter) / PROBES * [intrinsics.width, intrinsics.height]
    pixels = np.broadcast_to(pixels, (len(poses), PROBES, PROBES, 2)).reshape(len(poses), -1, 2)
    slopes = (pixels - [intrinsics.cx, intrinsics.cy]) / [intrinsics.fx, -intrinsics.fy]
    local = np.concatenate([slopes, -np.ones_like(slopes[..., :1])], axis=-1)
    rays = local @ poses[:, :3, :3].transpose(0, 2, 1)
    origins = np.broadcast_to(poses[:, None, :3, 3], rays.shape)
    return torch.from_numpy(origins.reshape(-1, 3).T.copy()).float(), torch.from_numpy(
        rays.reshape(-1, 3).T.copy()
    ).float()


def _sparse_points(drawable: Drawable, origins: Tensor, rays: Tensor, splat: PlacedSplat | None) -> PointCloud:
    """What registration would find: points where probes hit, except in the sky."""
    depth, which = first_hits(drawable.solids, drawable.table, origins, rays)
    near = which >= 0
    for index, solid in enumerate(drawable.solids):
        if solid.inside and solid.shape is Shape.BALL:
            near &= which != index
    if near.sum() < 32:
        near = which >= 0
    points = origins[:, near] + depth[near] * rays[:, near]
    colors = drawable.finish(drawable.shade(which[near], points, rays[:, near], depth[near], 0.01))
    cloud = PointCloud(points.T.double().numpy(), colors.T.double().numpy())
    if splat is None:
        return cloud
    own = splat.points()
    return PointCloud(np.concatenate([cloud.points, own.points]), np.concatenate([cloud.colors, own.colors]))
