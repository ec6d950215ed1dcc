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


def is_unposed(path: str | Path) -> bool:
    """Whether a folder holds photographs and nothing that says where they were taken: no scene, no chunks, no scenes in
    its sub-folders."""
    path = Path(path)
    if not path.is_dir() or is_scene(path) or not has_photographs(path) or chunk_folders(path):
        return False
    return not any(path.glob("transforms*.json")) and not any(is_scene(folder) for folder in find_scenes(path))


def load_unposed(path: str | Path, max_size: int, most: int) -> UnposedPhotographs:
    """The photographs of a folder (or of its sub-folder `images`), in the order of their names.

    Those that cannot be read are left out with a warning; of more than `most`, some are taken, evenly spread.

    Raises:
        SceneError: no folder, or no readable photograph.
    """
    folder = photograph_folder(Path(path))
    names, _ = readable_photographs(folder)
    if not names:
        raise SceneError(f"{folder}: no photograph in this folder can be read")
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
