# SPDX-License-Identifier: Apache-2.0
"""A posed scene: frames with their cameras and, where known, sparse points; loading some of it as Views.

A reader of a format turns files into a `Scene`; everything later works on that alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..splats import Cameras, Views
from .depth_range import depth_ranges
from .errors import SceneError
from .image_cache import ImageCache
from .images import Resampling, read_image
from .intrinsics import Intrinsics


@dataclass(frozen=True, eq=False)
class Frame:
    """One photograph: its file, and the camera that took it."""

    image_path: Path
    camera_to_world: Float[np.ndarray, "4 4"]  # OpenGL axes: x right, y up, z backward
    intrinsics: Intrinsics


@dataclass(frozen=True, eq=False)
class PointCloud:
    """Sparse points of a scene: positions [P, 3] in world units and colours [P, 3] in [0, 1]."""

    points: Float[np.ndarray, "P 3"]
    colors: Float[np.ndarray, "P 3"]


@dataclass(frozen=True, eq=False)
class Scene:
    """Frames in the order of their file, and sparse points where the scene has them."""

    path: Path
    frames: tuple[Frame, ...]
    points: PointCloud | None = None

    @property
    def num_frames(self) -> int:
        return len(self.frames)

    @property
    def name(self) -> str:
        """Of the scene's folder, for logs and messages."""
        return self.path.name or str(self.path)

    @cached_property
    def depth_range(self) -> tuple[Float[np.ndarray, " V"], Float[np.ndarray, " V"]] | None:
        """(near, far) of every frame in world units, from sparse points or else from the cameras; None if unknown."""
        return depth_ranges(self.frames, self.points)

    def views(
        self,
        indices: Sequence[int],
        *,
        size: tuple[int, int] | None = None,
        max_size: int | None = None,
        dtype: torch.dtype = torch.float32,
        cache: ImageCache | None = None,
    ) -> Views:
        """Load frames as Views with near and far, area-averaged to a smaller size, intrinsics following.

        Args:
            indices: which frames; negative ones count from the end.
            size: (height, width) of the result; the largest centred box of that aspect is taken. Default: as stored.
            max_size: instead of `size`, the longest side of the result, the whole image being kept.
            dtype: of images and cameras.
            cache: where images are looked up first and kept.

        Raises:
            SceneError: an index out of range, a result larger than an image, results of different sizes, an image
                whose size is not that of its intrinsics.
            ImageError: a file that cannot be read.
        """
        cameras = self.cameras(indices, size=size, max_size=max_size, dtype=dtype)
        images = []
        for frame in map(self._frame, indices):
            resampling = self._resampling(frame, size, max_size)
            if cache is None:
                images.append(_resampled_image(frame, resampling))
            else:
                key = (frame.image_path, resampling)
                images.append(cache.get(key, lambda f=frame, r=resampling: _resampled_image(f, r)))
        near = far = None
        if self.depth_range is not None:
            near, far = (torch.from_numpy(depth[list(indices)]).to(dtype) for depth in self.depth_range)
        return Views(torch.stack(images).to(dtype), cameras, near, far)

    def cameras(
        self,
        indices: Sequence[int],
        *,
        size: tuple[int, int] | None = None,
        max_size: int | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Cameras:
        """The cameras of `views`, without opening an image; raises SceneError as it does."""
        if size is not None and max_size is not None:
            raise SceneError(f"{self.path}: give size or max_size, not both")
        frames = [self._frame(index) for index in indices]
        if not frames:
            raise SceneError(f"{self.path}: no view was asked for")
        intrinsics = [self._resampling(f, size, max_size).apply_to_intrinsics(f.intrinsics) for f in frames]
        sizes = {(k.height, k.width) for k in intrinsics}
        if len(sizes) > 1:
            raise SceneError(f"{self.path}: the views have different sizes, {sorted(sizes)}; ask for one `size`")
        poses = torch.from_numpy(np.stack([frame.camera_to_world for frame in frames]))
        matrices = torch.from_numpy(np.stack([k.matrix() for k in intrinsics]))
        cameras = Cameras.from_camera_to_world_opengl(poses, matrices, intrinsics[0].width, intrinsics[0].height)
        return cameras.to(dtype=dtype)

    def _frame(self, index: int) -> Frame:
        if not -self.num_frames <= index < self.num_frames:
            raise SceneError(f"{self.path}: there is no view {index}, the scene has {self.num_frames}")
        return self.frames[index]

    def _resampling(self, frame: Frame, size: tuple[int, int] | None, max_size: int | None) -> Resampling:
        stored = (frame.intrinsics.height, frame.intrinsics.width)
        if max_size is not None:
            if max_size < 1:
                raise SceneError(f"{self.path}: max_size must be positive, got {max_size}")
            return Resampling.to_fit(stored, max_size)
        size = stored if size is None else size
        if min(size) < 1:
            raise SceneError(f"{self.path}: a size must be positive, got {size}")
        if size[0] > stored[0] or size[1] > stored[1]:
            raise SceneError(
                f"{frame.image_path}: {stored[1]}x{stored[0]} is smaller than the {size[1]}x{size[0]} asked for; "
                "images are not enlarged"
            )
        return Resampling.to_fill(stored, size)


def _resampled_image(frame: Frame, resampling: Resampling) -> Float[Tensor, "H W 3"]:
    image = read_image(frame.image_path)
    if image.shape[:2] != (frame.intrinsics.height, frame.intrinsics.width):
        raise SceneError(
            f"{frame.image_path}: the image is {image.shape[1]}x{image.shape[0]}, its intrinsics are for "
            f"{frame.intrinsics.width}x{frame.intrinsics.height} (fields w, h)"
        )
    return resampling.apply_to_image(image).clamp(0, 1)


def is_scene(path: Path) -> bool:
    """Whether a folder looks like one scene in a known format; says nothing of whether it can be used."""
    return (path / "transforms.json").is_file()


def load_scene(path: str | Path) -> Scene:
    """Read a scene from its folder, or from its transforms.json (nerfstudio's format). No image is opened.

    Raises:
        SceneError: nothing there that is a scene, or a field that is missing or wrong.
    """
    from .transforms_json import read_transforms_json

    path = Path(path)
    if path.is_dir():
        if not (path / "transforms.json").is_file():
            raise SceneError(f"{path}: no scene found in this folder (it has no transforms.json)")
        return read_transforms_json(path / "transforms.json")
    if not path.exists():
        raise SceneError(f"{path}: no such file or folder")
    return read_transforms_json(path)
