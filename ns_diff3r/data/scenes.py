# SPDX-License-Identifier: Apache-2.0
"""A posed scene: frames with their cameras and, where known, sparse points; loading some of it as Views.

A reader of a format turns files into a `Scene`; everything later works on that alone.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float

from ..splats import Cameras, Views
from .depth_range import depth_ranges
from .errors import SceneError, SceneWarning
from .frames import Frame
from .image_cache import ImageCache
from .resampling import Resampling

SMALL_SHARE = 0.25
"""A common size of less than this share of the median picture is worth a warning that names the smallest file."""


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
        return self.path.name or self.path.resolve().name or str(self.path)

    @cached_property
    def depth_range(self) -> tuple[Float[np.ndarray, " V"], Float[np.ndarray, " V"]] | None:
        """(near, far) of every frame in world units, from sparse points or else from the cameras; None if unknown."""
        return depth_ranges(self.frames, self.points)

    def view_size(self, max_size: int | None = None) -> tuple[int, int]:
        """(height, width) of views of which no `size` is asked for: one for all frames of the scene, whichever of them
        are loaded. Each picture is taken to a longer side of at most `max_size`; of pictures of several sizes, the
        smallest height and the smallest width count.

        Raises:
            SceneError: a max_size that is not positive.
        """
        if max_size is not None and max_size < 1:
            raise SceneError(f"{self.path}: max_size must be positive, got {max_size}")
        sizes = np.array([_fitted_size(frame, max_size) for frame in self.frames])
        height, width = (int(side) for side in sizes.min(axis=0))
        if height * width < SMALL_SHARE * np.median(sizes.prod(axis=1)):
            smallest = self.frames[int(sizes.prod(axis=1).argmin())].image_path
            warnings.warn(
                f"{self.path}: all views are cropped to {width}x{height}, since photographs have several sizes; the "
                f"smallest is {smallest}",
                SceneWarning,
                stacklevel=3,
            )
        return height, width

    def views(
        self,
        indices: Sequence[int],
        *,
        size: tuple[int, int] | None = None,
        max_size: int | None = None,
        dtype: torch.dtype = torch.float32,
        cache: ImageCache | None = None,
    ) -> Views:
        """Load frames as Views with near and far: upright, undistorted, area-averaged to a smaller size, intrinsics
        following. All views of a scene have one size; pictures of another aspect give their centre.

        Args:
            indices: which frames; negative ones count from the end.
            size: (height, width) of the result; the largest centred box of that aspect is taken. Default: `view_size`.
            max_size: instead of `size`, the longest side of the result, of which the whole picture is kept where all
                pictures have one size.
            dtype: of images and cameras.
            cache: where images are looked up first and kept.

        Raises:
            SceneError: an index out of range, a result larger than an image, an image whose size is not that of its
                intrinsics.
            ImageError: a file that cannot be read.
        """
        cameras = self.cameras(indices, size=size, max_size=max_size, dtype=dtype)
        images = []
        for frame in (self.frames[index] for index in indices):
            resampling = self._resampling(frame, (cameras.height, cameras.width), max_size)
            if cache is None:
                images.append(frame.image(resampling))
            else:
                key = (frame.image_path, frame.development, resampling)
                images.append(cache.get(key, lambda f=frame, r=resampling: f.image(r)))
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
        size = self._known_size(max_size) if size is None else size
        intrinsics = [self._resampling(f, size, max_size).apply_to_intrinsics(f.intrinsics) for f in frames]
        poses = torch.from_numpy(np.stack([frame.camera_to_world for frame in frames]))
        matrices = torch.from_numpy(np.stack([k.matrix() for k in intrinsics]))
        return Cameras.from_camera_to_world_opengl(poses, matrices, size[1], size[0]).to(dtype=dtype)

    @cached_property
    def _known_sizes(self) -> dict[int | None, tuple[int, int]]:
        return {}

    def _known_size(self, max_size: int | None) -> tuple[int, int]:
        if max_size not in self._known_sizes:
            self._known_sizes[max_size] = self.view_size(max_size)
        return self._known_sizes[max_size]

    def _frame(self, index: int) -> Frame:
        if not -self.num_frames <= index < self.num_frames:
            raise SceneError(f"{self.path}: there is no view {index}, the scene has {self.num_frames}")
        return self.frames[index]

    def _resampling(self, frame: Frame, size: tuple[int, int], max_size: int | None) -> Resampling:
        stored = (frame.intrinsics.height, frame.intrinsics.width)
        if min(size) < 1:
            raise SceneError(f"{self.path}: a size must be positive, got {size}")
        if size[0] > stored[0] or size[1] > stored[1]:
            raise SceneError(
                f"{frame.image_path}: {stored[1]}x{stored[0]} is smaller than the {size[1]}x{size[0]} asked for; "
                "images are not enlarged"
            )
        if max_size is not None and _fitted_size(frame, max_size) == size:
            return Resampling.to_fit(stored, max_size)
        return Resampling.to_fill(stored, size)


def _fitted_size(frame: Frame, max_size: int | None) -> tuple[int, int]:
    """(height, width) of the whole picture with a longer side of at most `max_size`."""
    stored = (frame.intrinsics.height, frame.intrinsics.width)
    if max_size is None:
        return stored
    fitted = Resampling.to_fit(stored, max_size)
    return fitted.height, fitted.width
