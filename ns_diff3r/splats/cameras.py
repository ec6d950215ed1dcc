# SPDX-License-Identifier: Apache-2.0
"""Pinhole cameras of one image size."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .checks import require_finite, require_shape, require_tensors

ROTATION_TOLERANCE = 1e-3
"""Largest entry of |R Rᵀ - I| that a camera's rotation may have (poses in files are rounded)."""


@dataclass(frozen=True, eq=False)
class Cameras:
    """V pinhole cameras in the OpenCV convention (x right, y down, z forward), all of one image size.

    Attributes:
        viewmats: [V, 4, 4] world to camera.
        Ks: [V, 3, 3] pixels, [[fx, 0, cx], [0, fy, cy], [0, 0, 1]]; the centre of the first pixel is at (0.5, 0.5).
        width: pixels.
        height: pixels.

    Raises:
        TypeError: not floating tensors of one dtype; a size that is not an integer.
        ValueError: wrong shape, several devices, non-finite, a bottom row other than (0, 0, 0, 1), no rotation, skew,
            a focal length or an image size that is not positive.
    """

    viewmats: Float[Tensor, "V 4 4"]
    Ks: Float[Tensor, "V 3 3"]
    width: int
    height: int

    def __post_init__(self) -> None:
        require_tensors("Cameras", {"viewmats": self.viewmats, "Ks": self.Ks})
        require_shape("Cameras", "viewmats", self.viewmats, ("V", 4, 4))
        require_shape("Cameras", "Ks", self.Ks, (self.num_views, 3, 3))
        for name in ("width", "height"):
            size = getattr(self, name)
            if isinstance(size, bool) or not isinstance(size, int):
                raise TypeError(f"Cameras.{name} must be an int, got {type(size).__name__}")
            if size <= 0:
                raise ValueError(f"Cameras.{name} must be positive, got {size}")
        viewmats, Ks = self.viewmats.detach().cpu(), self.Ks.detach().cpu()  # a wait each, not one a check
        require_finite("Cameras", "viewmats", viewmats)
        require_finite("Cameras", "Ks", Ks)
        self._check_matrices(viewmats, Ks)

    @staticmethod
    def _check_matrices(viewmats: Tensor, Ks: Tensor) -> None:
        rotations = viewmats[:, :3, :3].double()
        deviation = rotations @ rotations.transpose(-1, -2) - torch.eye(3, dtype=torch.float64, device=viewmats.device)
        if (viewmats[:, 3] != viewmats.new_tensor([0.0, 0.0, 0.0, 1.0])).any():
            raise ValueError("Cameras.viewmats: the bottom row of every matrix must be (0, 0, 0, 1)")
        if (deviation.abs() > ROTATION_TOLERANCE).any() or (torch.linalg.det(rotations) < 0).any():
            raise ValueError("Cameras.viewmats: the upper left 3x3 block must be a rotation (no scale, no mirror)")
        if (Ks[:, [0, 1], [0, 1]] <= 0).any():
            raise ValueError("Cameras.Ks: focal lengths must be positive")
        fixed = Ks[:, [0, 1, 2, 2, 2], [1, 0, 0, 1, 2]]
        if (fixed != Ks.new_tensor([0.0, 0.0, 0.0, 0.0, 1.0])).any():
            raise ValueError("Cameras.Ks must be [[fx, 0, cx], [0, fy, cy], [0, 0, 1]] (no skew)")

    @property
    def num_views(self) -> int:
        """V."""
        return self.viewmats.shape[0]

    @property
    def dtype(self) -> torch.dtype:
        """Data type of every tensor."""
        return self.viewmats.dtype

    @property
    def device(self) -> torch.device:
        """Device of every tensor."""
        return self.viewmats.device

    @property
    def centers(self) -> Float[Tensor, "V 3"]:
        """Positions in the world, -Rᵀt; differentiable."""
        rotations, translations = self.viewmats[:, :3, :3], self.viewmats[:, :3, 3]
        return -(rotations * translations[:, :, None]).sum(dim=1)

    def project(self, points: Float[Tensor, "P 3"]) -> tuple[Float[Tensor, "V P 2"], Float[Tensor, "V P"]]:
        """(pixels, depths) of world points in every view: the centre of the first pixel is at 0.5, depths are camera z.

        Pixels are of the line through the point and the camera, also where the depth is not positive; not finite where
        it is 0. Differentiable; of the points' dtype, which is that of the cameras.
        """
        local = torch.einsum("vij,pj->vpi", self.viewmats[:, :3, :3], points) + self.viewmats[:, None, :3, 3]
        depths = local[..., 2]
        return torch.einsum("vij,vpj->vpi", self.Ks[:, :2], local) / depths[..., None], depths

    def in_image(self, pixels: Float[Tensor, "V P 2"], depths: Float[Tensor, "V P"]) -> Bool[Tensor, "V P"]:
        """Which of `project`'s points lie in front of the camera and inside the image."""
        size = pixels.new_tensor([self.width, self.height])
        return (depths > 0) & (pixels >= 0).all(dim=-1) & (pixels < size).all(dim=-1)

    def __repr__(self) -> str:
        return (
            f"Cameras(num_views={self.num_views}, width={self.width}, height={self.height}, "
            f"dtype={self.dtype}, device={self.device})"
        )

    def __getitem__(self, index: int | slice | Int[Tensor, " M"] | Bool[Tensor, " V"]) -> Cameras:
        """Select views; an integer gives cameras with one view."""
        if isinstance(index, int):
            index = slice(range(self.num_views)[index], range(self.num_views)[index] + 1)
        return Cameras(self.viewmats[index], self.Ks[index], self.width, self.height)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Cameras:
        """Copy to a device and/or dtype; differentiable."""
        viewmats, Ks = (tensor.to(device=device, dtype=dtype) for tensor in (self.viewmats, self.Ks))
        return Cameras(viewmats, Ks, self.width, self.height)

    @staticmethod
    def from_camera_to_world_opengl(
        camera_to_worlds: Float[Tensor, "V 4 4"] | Float[Tensor, "V 3 4"],
        Ks: Float[Tensor, "V 3 3"],
        width: int,
        height: int,
    ) -> Cameras:
        """From camera-to-world matrices with OpenGL axes (x right, y up, z backward), as nerfstudio stores them.

        A full [V, 4, 4] or only its upper three rows; differentiable. Raises as the constructor does.
        """
        require_tensors("Cameras", {"camera_to_worlds": camera_to_worlds, "Ks": Ks})
        if camera_to_worlds.ndim != 3 or tuple(camera_to_worlds.shape[1:]) not in ((3, 4), (4, 4)):
            raise ValueError(f"camera_to_worlds must be [V, 3, 4] or [V, 4, 4], got {list(camera_to_worlds.shape)}")
        axes = camera_to_worlds[:, :3, :3] * camera_to_worlds.new_tensor([1.0, -1.0, -1.0])  # OpenGL → OpenCV axes
        rotations = axes.transpose(-1, -2)
        translations = -(rotations * camera_to_worlds[:, None, :3, 3]).sum(-1)
        bottom = camera_to_worlds.new_tensor([0.0, 0.0, 0.0, 1.0]).expand(camera_to_worlds.shape[0], 1, 4)
        viewmats = torch.cat([torch.cat([rotations, translations[:, :, None]], dim=-1), bottom], dim=1)
        return Cameras(viewmats, Ks, width, height)
