# SPDX-License-Identifier: Apache-2.0
"""Similarities of the world, and the normalised frame in which test-time optimisation runs (docs/design.md)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from .cameras import Cameras
from .checks import require_finite, require_shape, require_tensors
from .gaussians import Gaussians
from .rotations import multiply_quats, rotations_to_quats
from .sparse_points import SparsePoints
from .spherical_harmonics import spherical_harmonics_rotation
from .views import Views


@dataclass(frozen=True, eq=False)
class Similarity:
    """x ↦ scale · rotation · x + translation, a change of world coordinates.

    Applied to a scene (Gaussians and cameras) it changes no image; depths grow by `scale`. Differentiable in what it is
    applied to; images of Gaussians do not differentiate to `rotation`.

    Attributes:
        scale: [] positive.
        rotation: [3, 3] proper rotation.
        translation: [3] in the units of the result.

    Raises:
        TypeError, ValueError: wrong types, shapes or devices, non-finite, scale not positive, not a rotation.
    """

    scale: Float[Tensor, ""]
    rotation: Float[Tensor, "3 3"]
    translation: Float[Tensor, " 3"]

    def __post_init__(self) -> None:
        fields = {"scale": self.scale, "rotation": self.rotation, "translation": self.translation}
        require_tensors("Similarity", fields)
        values = {name: value.detach().cpu() for name, value in fields.items()}  # a wait each, not one a check
        for (name, value), shape in zip(values.items(), ((), (3, 3), (3,)), strict=True):
            require_shape("Similarity", name, value, shape)
            require_finite("Similarity", name, value)
        if values["scale"] <= 0:
            raise ValueError(f"Similarity.scale must be positive, got {float(values['scale'])}")
        rotation = values["rotation"].double()
        deviation = rotation @ rotation.T - torch.eye(3, dtype=torch.float64, device=rotation.device)
        if deviation.abs().max() > 1e-4 or torch.linalg.det(rotation) < 0:
            raise ValueError("Similarity.rotation must be a proper rotation")

    @staticmethod
    def identity(dtype: torch.dtype = torch.float32, device: torch.device | str | None = None) -> Similarity:
        """x ↦ x."""
        eye = torch.eye(3, dtype=dtype, device=device)
        return Similarity(eye.new_ones(()), eye, eye.new_zeros(3))

    @property
    def rotates(self) -> bool:
        """False if the rotation is exactly the identity; quaternions and SH then stay as they are."""
        return not torch.equal(self.rotation, torch.eye(3, dtype=self.rotation.dtype, device=self.rotation.device))

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Similarity:
        """Copy to a device and/or dtype; itself if there is nothing to change."""
        if device in (None, self.scale.device) and dtype in (None, self.scale.dtype):
            return self
        return Similarity(*(t.to(device=device, dtype=dtype) for t in (self.scale, self.rotation, self.translation)))

    def inverse(self) -> Similarity:
        """The similarity that undoes this one."""
        back = self.rotation.T
        return Similarity(1 / self.scale, back, -_rotate(back, self.translation) / self.scale)

    def compose(self, first: Similarity) -> Similarity:
        """The similarity that applies `first`, then this one."""
        rotation = torch.stack([_rotate(self.rotation, column) for column in first.rotation.T], dim=-1)
        return Similarity(self.scale * first.scale, rotation, self.apply_points(first.translation))

    def apply_points(self, points: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3"]:
        """Image of points."""
        moved = _rotate(self.rotation, points) if self.rotates else points
        return self.scale * moved + self.translation

    def apply_gaussians(self, gaussians: Gaussians) -> Gaussians:
        """Image of Gaussians: means, orientations, sizes and, under a rotation, the directions of their SH."""
        frame = self.to(gaussians.device, gaussians.dtype)
        quats, sh_rest = gaussians.quats, gaussians.shN
        if self.rotates:
            quats = multiply_quats(rotations_to_quats(frame.rotation).expand_as(quats), quats)
            if gaussians.sh_degree > 0:
                # from the rotation as given, which may be more precise than the Gaussians
                matrix = spherical_harmonics_rotation(gaussians.sh_degree, self.rotation.double())[1:, 1:]
                sh_rest = (matrix.to(sh_rest)[:, :, None] * sh_rest[:, None]).sum(2)
        return Gaussians(
            means=frame.apply_points(gaussians.means),
            quats=quats,
            scales=gaussians.scales + frame.scale.log(),
            opacities=gaussians.opacities,
            sh0=gaussians.sh0,
            shN=sh_rest,
        )

    def apply_cameras(self, cameras: Cameras) -> Cameras:
        """Cameras that see the image of a scene as `cameras` saw the scene; camera coordinates grow by `scale`."""
        frame = self.to(cameras.device, cameras.dtype)
        rotations, translations = cameras.viewmats[:, :3, :3], cameras.viewmats[:, :3, 3]
        if self.rotates:
            rotations = (rotations[:, :, None, :] * frame.rotation).sum(-1)  # W Rᵀ
        moved = frame.scale * translations - (rotations * frame.translation).sum(-1)
        upper = torch.cat([rotations, moved[:, :, None]], dim=-1)
        return Cameras(
            torch.cat([upper, cameras.viewmats[:, 3:]], dim=1), cameras.Ks, width=cameras.width, height=cameras.height
        )

    def apply_views(self, views: Views) -> Views:
        """Views whose cameras, near, far and points are those of the image of the scene."""
        scale = self.scale.to(views.images)
        near, far = (None if depth is None else scale * depth for depth in (views.near, views.far))
        points = views.points
        if points is not None:
            moved = self.to(points.positions.device, points.positions.dtype).apply_points(points.positions)
            points = SparsePoints(moved, points.colors)
        return Views(views.images, self.apply_cameras(views.cameras), near, far, points)


def _rotate(rotation: Tensor, points: Tensor) -> Tensor:
    """rotation · point for every point, elementwise so that autocast keeps the precision."""
    return (rotation * points[..., None, :]).sum(-1)


def normalized_frame(gaussians: Gaussians, cameras: Cameras) -> Similarity:
    """The frame in which test-time optimisation runs: the first camera at the origin, the median depth 1.

    The depth is the median camera z of the Gaussians whose means lie in front of the first camera and inside its image;
    where it sees none, of those that any camera sees. Rotations stay. The result is a constant for autograd, and
    rescaling or translating the world before changes nothing after it.

    Returns:
        World to normalised frame, in the dtype of the Gaussians.

    Raises:
        ValueError: no camera sees a Gaussian.
    """
    if cameras.num_views == 0:
        raise ValueError("normalized_frame: needs at least one camera")
    if gaussians.device != cameras.device:
        raise ValueError(f"normalized_frame: Gaussians are on {gaussians.device}, cameras on {cameras.device}")
    depths = _depths_seen(gaussians, cameras, 0)
    if depths.numel() == 0:
        depths = torch.cat([_depths_seen(gaussians, cameras, view) for view in range(cameras.num_views)])
    if depths.numel() == 0:
        raise ValueError(
            f"normalized_frame: none of {gaussians.num_gaussians} Gaussians lies in front of and inside the image of "
            f"any of {cameras.num_views} cameras, so the scene has no depth; are the cameras world-to-camera OpenCV?"
        )
    scale = 1 / depths.median()
    identity = torch.eye(3, dtype=torch.float64, device=depths.device)
    return Similarity(scale, identity, -scale * cameras.centers[0].detach().double()).to(dtype=gaussians.dtype)


def _depths_seen(gaussians: Gaussians, cameras: Cameras, view: int) -> Float[Tensor, " M"]:
    """Camera z of the Gaussians whose means lie in front of camera `view` and inside its image, float64."""
    viewmat, K = cameras.viewmats[view].detach().double(), cameras.Ks[view].detach().double()
    in_camera = _rotate(viewmat[:3, :3], gaussians.means.detach().double()) + viewmat[:3, 3]
    depths = in_camera[:, 2]
    pixels = in_camera[:, :2] / depths[:, None] * K[[0, 1], [0, 1]] + K[[0, 1], 2]
    inside = (pixels >= 0) & (pixels <= pixels.new_tensor([cameras.width, cameras.height]))
    return depths[(depths > 0) & inside.all(-1)]
