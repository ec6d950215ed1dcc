# SPDX-License-Identifier: Apache-2.0
"""nerfstudio's cameras (camera-to-world, OpenGL axes, many models) and ours (world-to-camera, OpenCV axes, pinhole)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras as NerfstudioCameras
from nerfstudio.cameras.cameras import CameraType
from torch import Tensor

from .splats import Cameras

OPENGL_AXES = (1.0, -1.0, -1.0)
"""Signs of OpenGL's x, y and z axes in terms of OpenCV's."""


def to_cameras(cameras: NerfstudioCameras, dtype: torch.dtype = torch.float32) -> Cameras:
    """Perspective cameras of one image size, [] or [V]; any distortion they carry is not looked at.

    Raises:
        ValueError: another camera type, or different sizes.
    """
    if cameras.shape == ():
        cameras = cameras.reshape((1,))
    types = {CameraType(value) for value in cameras.camera_type.flatten().tolist()}
    if types != {CameraType.PERSPECTIVE}:
        names = ", ".join(sorted(kind.name.lower() for kind in types))
        raise ValueError(f"ns-diff3r renders perspective cameras only, not {names}")
    sizes = set(zip(cameras.width.flatten().tolist(), cameras.height.flatten().tolist(), strict=True))
    if len(sizes) != 1:
        raise ValueError(f"cameras of different sizes must be rendered one by one, got {sorted(sizes)}")
    ((width, height),) = sizes
    return Cameras.from_camera_to_world_opengl(
        cameras.camera_to_worlds.to(dtype), intrinsics_matrices(cameras).to(dtype), int(width), int(height)
    )


def intrinsics_matrices(cameras: NerfstudioCameras) -> Float[Tensor, "V 3 3"]:
    """[[fx, 0, cx], [0, fy, cy], [0, 0, 1]] of every camera, pixels."""
    matrices = torch.zeros(cameras.shape[0], 3, 3, device=cameras.device)
    for (row, column), values in {
        (0, 0): cameras.fx,
        (1, 1): cameras.fy,
        (0, 2): cameras.cx,
        (1, 2): cameras.cy,
    }.items():
        matrices[:, row, column] = values.flatten()
    matrices[:, 2, 2] = 1.0
    return matrices


def from_cameras(cameras: Cameras) -> NerfstudioCameras:
    """The same cameras for nerfstudio, [V] perspective cameras without distortion; V may be 0."""
    rotations = cameras.viewmats[:, :3, :3].transpose(-1, -2)
    axes = rotations * rotations.new_tensor(OPENGL_AXES)
    poses = torch.cat([axes, cameras.centers[:, :, None]], dim=-1)
    Ks = cameras.Ks.float()
    return NerfstudioCameras(
        camera_to_worlds=poses.float(),
        fx=Ks[:, 0, 0].contiguous(),
        fy=Ks[:, 1, 1].contiguous(),
        cx=Ks[:, 0, 2].contiguous(),
        cy=Ks[:, 1, 2].contiguous(),
        width=torch.full((cameras.num_views,), cameras.width),
        height=torch.full((cameras.num_views,), cameras.height),
        camera_type=CameraType.PERSPECTIVE,
    )
