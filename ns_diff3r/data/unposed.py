# SPDX-License-Identifier: Apache-2.0
"""Photographs whose poses nobody knows, as images of one size."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from .chunks import chunk_folders
from .collection import find_scenes
from .errors import SceneError
from .frames import Frame
from .images import inspect_image
from .intrinsics import Intrinsics
from .orientations import TURNS
from .photographs import Photograph, scene_from_photographs
from .readers import has_photographs, is_scene
from .registration import photograph_folder, readable_photographs

FOCAL_LENGTH = 1.0
"""Of the longer side: what is assumed until a network says otherwise."""


@dataclass(frozen=True, eq=False)
class UnposedPhotographs:
    """Upright photographs.

    Attributes:
        frames: each with a placeholder for its camera.
        images: [V, H, W, 3] RGB in [0, 1], all at one size.
        scales: per photograph (width, height): pixels of the photograph per pixel of its image.
        shifts: per photograph (x, y) of the image's corner in the photograph, pixels of the photograph.
    """

    frames: tuple[Frame, ...]
    images: Float[Tensor, "V H W 3"]
    scales: list[tuple[float, float]]
    shifts: list[tuple[float, float]]

    def full_size(self, index: int, K: Float[Tensor, "3 3"]) -> Intrinsics:
        """Intrinsics of a whole photograph from those of its image."""
        (across, down), (left, top) = self.scales[index], self.shifts[index]
        fx, fy, cx, cy = (float(K[entry]) for entry in ((0, 0), (1, 1), (0, 2), (1, 2)))
        size = self.frames[index].intrinsics
        return Intrinsics(fx * across, fy * down, cx * across + left, cy * down + top, size.width, size.height)


def unposed_folders(path: str | Path) -> dict[str, Path]:
    """Folders of photographs where nothing says from where these were taken, by name: `path` itself under the name ".",
    or else all such folders at most three levels below it, named by their way from there.

    None where there is a posed scene, or chunks: then these are meant. A folder whose photographs are in its sub-folder
    `images` is found once, whatever else it holds (such as `images_2`).
    """
    path = Path(path)
    if not path.is_dir() or _says_poses(path) or chunk_folders(path):
        return {}
    below = find_scenes(path)
    if any(is_scene(folder) for folder in below):
        return {}
    if has_photographs(path):
        return {".": path}
    folders = dict.fromkeys(_topmost(folder, path) for folder in below)
    return {folder.relative_to(path).as_posix(): folder for folder in folders if not _says_poses(folder)}


def _says_poses(folder: Path) -> bool:
    """Whether it is a scene, also of a format that is not read here (its error says so)."""
    return is_scene(folder) or any(folder.glob("transforms*.json"))


def _topmost(folder: Path, root: Path) -> Path:
    """The highest folder on the way from below `root` down to `folder` that has photographs."""
    way = [parent for parent in folder.parents if root in parent.parents]
    return next((parent for parent in reversed(way) if has_photographs(parent)), folder)


def load_unposed(path: str | Path, max_size: int, most: int) -> UnposedPhotographs:
    """The photographs of a folder (or of its sub-folder `images`), in the order of their names.

    Those that cannot be read are left out with a warning; of more than `most`, some are taken, evenly spread.

    Raises:
        SceneError: no folder, or fewer than two readable photographs.
    """
    folder = photograph_folder(Path(path))
    names, _ = readable_photographs(folder)
    if len(names) < 2:
        found = f"only {names[0]}" if names else "no photograph"
        raise SceneError(f"{folder}: {found} in this folder can be read, and a scene takes at least two")
    if len(names) > most:
        names = [names[round(i * (len(names) - 1) / (most - 1))] for i in range(most)]
    scene = scene_from_photographs(folder, [_placeholder(folder / name, i) for i, name in enumerate(names)], None)
    views = scene.views(range(scene.num_frames), max_size=max_size)
    scales, shifts = [], []
    for frame, K in zip(scene.frames, views.cameras.Ks, strict=True):
        across, down = frame.intrinsics.fx / float(K[0, 0]), frame.intrinsics.fy / float(K[1, 1])
        scales.append((across, down))
        shifts.append((frame.intrinsics.cx - float(K[0, 2]) * across, frame.intrinsics.cy - float(K[1, 2]) * down))
    return UnposedPhotographs(scene.frames, views.images, scales, shifts)


def _placeholder(path: Path, index: int) -> Photograph:
    """A photograph with a camera that nothing is read from: in a row, since a scene with one viewpoint is refused."""
    header = inspect_image(path)
    width, height = header.width, header.height
    if TURNS[header.orientation].transposed:
        width, height = height, width
    pose = torch.eye(4, dtype=torch.float64)
    pose[0, 3] = float(index)
    focal = FOCAL_LENGTH * max(width, height)
    return Photograph(path, pose.numpy(), Intrinsics(focal, focal, width / 2, height / 2, width, height))
