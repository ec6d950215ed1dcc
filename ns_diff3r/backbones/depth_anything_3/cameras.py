# SPDX-License-Identifier: Apache-2.0
"""DA3's cameras: encoded into tokens where they are given, decoded from tokens always.

A camera is nine numbers: translation and quaternion xyzw of camera-to-world, vertical and horizontal field of view.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ...splats.rotations import quats_to_rotations, rotations_to_quats
from ..blocks import Block
from ..blocks.vision_transformer import FeedForward
from .architecture import FINAL_EPSILON

NUM_HEADS = 16
NUM_BLOCKS = 4
SMALLEST_TANGENT = 1e-6
INITIAL_VIEW = 1.0
"""Field of view that random weights begin near, radians; behind a ReLU they might else never have one."""


class PredictedCameras(NamedTuple):
    """Cameras in the network's own frame."""

    world_to_camera: Float[Tensor, "V 4 4"]
    """OpenCV."""
    Ks: Float[Tensor, "V 3 3"]
    """Pixels; the principal point is the centre."""

    @property
    def camera_to_world(self) -> Float[Tensor, "V 4 4"]:
        """The inverses."""
        return rigid_inverse(self.world_to_camera)


def rigid_inverse(matrices: Float[Tensor, "V 4 4"]) -> Float[Tensor, "V 4 4"]:
    """Inverses of rotations with translations; differentiable."""
    rotations = matrices[:, :3, :3].transpose(1, 2)
    translations = -(rotations * matrices[:, None, :3, 3]).sum(-1)
    return homogeneous(rotations, translations)


def homogeneous(rotations: Float[Tensor, "V 3 3"], translations: Float[Tensor, "V 3"]) -> Float[Tensor, "V 4 4"]:
    """4x4 matrices."""
    bottom = rotations.new_tensor([0.0, 0.0, 0.0, 1.0]).expand(len(rotations), 1, 4)
    return torch.cat([torch.cat([rotations, translations[:, :, None]], dim=-1), bottom], dim=1)


class CameraEncoder(nn.Module):
    """Known cameras → one token per view."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.pose_branch = FeedForward(9, width // 2, width)
        self.token_norm = nn.LayerNorm(width, eps=FINAL_EPSILON)
        blocks = (Block(width, NUM_HEADS, FINAL_EPSILON, layer_scale=0.01) for _ in range(NUM_BLOCKS))
        self.trunk = nn.Sequential(*blocks)
        self.trunk_norm = nn.LayerNorm(width, eps=FINAL_EPSILON)

    def forward(
        self, world_to_camera: Float[Tensor, "V 4 4"], Ks: Float[Tensor, "V 3 3"], size: tuple[int, int]
    ) -> Float[Tensor, "V C"]:
        """Tokens of OpenCV cameras with pixel intrinsics of images of `size` (height, width)."""
        tokens = self.token_norm(self.pose_branch(_encoded(world_to_camera, Ks, size)))
        return self.trunk_norm(self.trunk(tokens[None]))[0]


def _encoded(
    world_to_camera: Float[Tensor, "V 4 4"], Ks: Float[Tensor, "V 3 3"], size: tuple[int, int]
) -> Float[Tensor, "V 9"]:
    camera_to_world = rigid_inverse(world_to_camera)
    quats = rotations_to_quats(camera_to_world[:, :3, :3])
    quats = torch.where(quats[:, :1] < 0, -quats, quats)
    views = [2 * torch.atan(side / 2 / Ks[:, axis, axis]) for side, axis in ((size[0], 1), (size[1], 0))]
    return torch.cat([camera_to_world[:, :3, 3], quats[:, [1, 2, 3, 0]], torch.stack(views, dim=-1)], dim=-1)


class CameraDecoder(nn.Module):
    """The views' class tokens → cameras."""

    def __init__(self, width: int) -> None:
        """`width`: of the tokens, twice the transformer's."""
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
        self.fc_t = nn.Linear(width, 3)
        self.fc_qvec = nn.Linear(width, 4)
        views = nn.Linear(width, 2)
        nn.init.constant_(views.bias, INITIAL_VIEW)
        self.fc_fov = nn.Sequential(views, nn.ReLU())

    def forward(self, tokens: Float[Tensor, "V C"], size: tuple[int, int]) -> PredictedCameras:
        """Cameras of images of `size` (height, width)."""
        decoded = self.backbone(tokens)
        rotations = quats_to_rotations(self.fc_qvec(decoded)[:, [3, 0, 1, 2]])
        camera_to_world = homogeneous(rotations, self.fc_t(decoded))
        tangents = (self.fc_fov(decoded) / 2).tan().clamp_min(SMALLEST_TANGENT)
        height, width = size
        zero, one = torch.zeros_like(tangents[:, 0]), torch.ones_like(tangents[:, 0])
        entries = (width / 2 / tangents[:, 1], zero, width / 2 * one)
        entries += (zero, height / 2 / tangents[:, 0], height / 2 * one, zero, zero, one)
        return PredictedCameras(rigid_inverse(camera_to_world), torch.stack(entries, dim=-1).unflatten(-1, (3, 3)))
