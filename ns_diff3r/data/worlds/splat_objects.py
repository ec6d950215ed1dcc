# SPDX-License-Identifier: Apache-2.0
"""Trained splats as things in generated scenes: photographed objects from any side, with exact cameras."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ...rasterization import render
from ...splats import Cameras, Gaussians
from ...splats.formats import load_gaussians
from ...splats.sog_files import META
from ...splats.spherical_harmonics import sh0_to_rgb
from ..errors import SceneError
from ..scenes import PointCloud

SUFFIXES = (".ply", ".splat", ".spz", ".sog")
EXTENT = 0.98
"""Share of the opaque Gaussians along each axis that makes an object's extent; the rest are floaters."""
UPRIGHT = np.diag([1.0, -1.0, -1.0])[[0, 2, 1]] * np.array([[1.0], [-1.0], [1.0]])
"""From files, whose y is down (as trained), to z up."""


@dataclass(frozen=True, eq=False)
class SplatObject:
    """A trained splat, where the middle of its underside is, and its extent, in the units and axes of its file."""

    gaussians: Gaussians
    foot: Float[np.ndarray, " 3"]
    size: float


@dataclass(frozen=True, eq=False)
class PlacedSplat:
    """A splat that stands somewhere: world = scale · rotation · (own − foot) + place."""

    splat: SplatObject
    scale: float
    rotation: Float[np.ndarray, "3 3"]
    place: Float[np.ndarray, " 3"]
    gain: Float[np.ndarray, " 3"]
    """Light on it: multiplies its colours."""

    def points(self, count: int = 400) -> PointCloud:
        """World positions and colours of some of its Gaussians, evenly spread over the file."""
        gaussians = self.splat.gaussians
        chosen = torch.linspace(0, gaussians.num_gaussians - 1, count).long()
        own = gaussians.means[chosen].double().numpy() - self.splat.foot
        colors = sh0_to_rgb(gaussians.sh0[chosen, 0]).clamp(0, 1).double().numpy()
        return PointCloud(self.scale * own @ self.rotation.T + self.place, np.clip(colors * self.gain, 0, 1))

    def over(
        self,
        picture: Float[Tensor, "H W 3"],
        depth: Float[Tensor, "H W"],
        rotation: Float[Tensor, "3 3"],
        center: Float[Tensor, " 3"],
        K: Float[Tensor, "3 3"],
    ) -> Float[Tensor, "H W 3"]:
        """The picture with the splat in it, behind what is nearer than it; a camera as `Drawable.draw` takes it."""
        own = rotation.double().numpy() @ self.rotation
        eye = self.rotation.T @ (center.double().numpy() - self.place) / self.scale + self.splat.foot
        viewmat = torch.eye(4, dtype=torch.float64)
        viewmat[:3, :3], viewmat[:3, 3] = torch.from_numpy(own), torch.from_numpy(-own @ eye)
        height, width = depth.shape
        cameras = Cameras(viewmat[None].float(), K[None].float(), width, height)
        with torch.no_grad():
            drawn = render(self.splat.gaussians, cameras)
        hidden = drawn.depth[0, ..., 0] * self.scale > depth
        alpha = torch.where(hidden[..., None], 0.0, drawn.alpha[0])
        color = torch.where(hidden[..., None], 0.0, drawn.rgb[0]) * torch.from_numpy(self.gain).float()
        return (picture * (1 - alpha) + color).clamp(0, 1)


@lru_cache(maxsize=4)
def splat_objects(folder: Path) -> tuple[SplatObject, ...]:
    """Every splat of a folder, in the order of their names; all are held in memory.

    A folder in it is one if it holds a SOG's meta.json.

    Raises:
        SceneError: no such folder, no splat in it, or one that cannot be read; names it.
    """
    inside = sorted(folder.iterdir()) if folder.is_dir() else []
    files = [f for f in inside if f.suffix in SUFFIXES or (f / META).is_file()]
    if not files:
        raise SceneError(
            f"{folder}: no trained splats there ({', '.join(SUFFIXES)}, folders with {META}); generated.splats is a "
            "folder of them"
        )
    found = []
    for file in files:
        try:
            found.append(_object(load_gaussians(file)))
        except (ValueError, ImportError) as error:
            raise SceneError(f"{file}: cannot be read as a splat: {error}") from error
    return tuple(found)


def _object(gaussians: Gaussians) -> SplatObject:
    solid = gaussians.means[gaussians.opacities_activated > 0.5].double()
    means = (solid if len(solid) else gaussians.means.double()).numpy()
    low, high = np.quantile(means, [1 - EXTENT, EXTENT], axis=0)
    foot = np.array([(low[0] + high[0]) / 2, high[1], (low[2] + high[2]) / 2])  # y is down
    return SplatObject(gaussians, foot, float((high - low).max()))


def place_splat(generator: np.random.Generator, splat: SplatObject, place: np.ndarray, size: float) -> PlacedSplat:
    """A splat stood upright at a place, `size` large, turned about the vertical, in a light of its own."""
    angle = generator.uniform(0, 2 * np.pi)
    c, s = np.cos(angle), np.sin(angle)
    turn = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ UPRIGHT
    gain = generator.uniform(0.6, 1.2) * (1 + generator.uniform(-0.1, 0.1, 3))
    return PlacedSplat(splat, size / splat.size, turn, place, gain)
