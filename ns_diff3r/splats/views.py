# SPDX-License-Identifier: Apache-2.0
"""Photographs with their cameras."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .cameras import Cameras
from .checks import require_finite, require_shape, require_tensors
from .sparse_points import SparsePoints

RANGE_TOLERANCE = 1e-3
"""How far image values may leave [0, 1] (resampling overshoots by rounding)."""


@dataclass(frozen=True, eq=False)
class Views:
    """V images with their cameras and, where known, the depth range of what they show, and points of it.

    Attributes:
        images: [V, H, W, 3] RGB in [0, 1].
        cameras: V cameras of size W × H.
        near: [V] smallest depth (camera z, world units), or None.
        far: [V] largest depth, or None.
        points: of the scene, for networks that can use them, or None.

    Raises:
        TypeError: not floating tensors of one dtype.
        ValueError: wrong shape or image size, several devices, non-finite or out of range, not 0 < near < far.
    """

    images: Float[Tensor, "V H W 3"]
    cameras: Cameras
    near: Float[Tensor, " V"] | None = None
    far: Float[Tensor, " V"] | None = None
    points: SparsePoints | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.cameras, Cameras):
            raise TypeError(f"Views.cameras must be Cameras, got {type(self.cameras).__name__}")
        cameras, num_views = self.cameras, self.cameras.num_views
        depths = {name: value for name, value in (("near", self.near), ("far", self.far)) if value is not None}
        known = depths if self.points is None else {**depths, "points": self.points.positions}
        require_tensors("Views", {"images": self.images, "cameras": cameras.viewmats, **known})
        if self.images.ndim == 4 and 0 in self.images.shape[1:3]:
            raise ValueError(f"Views.images: images of zero size, {list(self.images.shape)}")
        require_shape("Views", "images", self.images, (num_views, cameras.height, cameras.width, 3))
        require_finite("Views", "images", self.images)
        self._check_range()
        for name, depth in depths.items():
            require_shape("Views", name, depth, (num_views,))
            require_finite("Views", name, depth)
            if (depth <= 0).any():
                raise ValueError(f"Views.{name} must be positive")
        if self.near is not None and self.far is not None and (self.near >= self.far).any():
            raise ValueError("Views.near must be smaller than Views.far")

    def _check_range(self) -> None:
        if self.images.numel() == 0:
            return
        low, high = (float(bound) for bound in self.images.detach().aminmax())
        if low < -RANGE_TOLERANCE or high > 1 + RANGE_TOLERANCE:
            raise ValueError(
                f"Views.images must lie in [0, 1], got [{low:.4g}, {high:.4g}]; divide 8-bit images by 255"
            )

    @property
    def num_views(self) -> int:
        """V."""
        return self.images.shape[0]

    @property
    def dtype(self) -> torch.dtype:
        """Data type of every tensor."""
        return self.images.dtype

    @property
    def device(self) -> torch.device:
        """Device of every tensor."""
        return self.images.device

    def __repr__(self) -> str:
        return (
            f"Views(num_views={self.num_views}, width={self.cameras.width}, height={self.cameras.height}, "
            f"near={'set' if self.near is not None else None}, far={'set' if self.far is not None else None}, "
            f"points={None if self.points is None else self.points.num_points}, "
            f"dtype={self.dtype}, device={self.device})"
        )

    def __getitem__(self, index: int | slice | Int[Tensor, " M"] | Bool[Tensor, " V"]) -> Views:
        """Select views; an integer gives views with one image."""
        if isinstance(index, int):
            index = slice(range(self.num_views)[index], range(self.num_views)[index] + 1)
        near, far = (None if depth is None else depth[index] for depth in (self.near, self.far))
        return replace(self, images=self.images[index], cameras=self.cameras[index], near=near, far=far)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Views:
        """Copy to a device and/or dtype."""
        near, far = (None if d is None else d.to(device=device, dtype=dtype) for d in (self.near, self.far))
        points = None if self.points is None else self.points.to(device, dtype)
        images = self.images.to(device=device, dtype=dtype)
        return Views(images, self.cameras.to(device, dtype), near, far, points)
