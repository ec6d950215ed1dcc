# SPDX-License-Identifier: Apache-2.0
"""From DA3's raw maps to Gaussians in the frame of its predicted cameras, as the official code makes and draws them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ...splats import Gaussians
from ...splats.rotations import multiply_quats, rotations_to_quats
from ...splats.spherical_harmonics import spherical_harmonics_rotation
from .cameras import PredictedCameras

SH_DEGREE = 2
BAND_WEIGHTS = (1.0, 0.025, 0.00625)
SCALE_RANGE = (1e-5, 30.0)
"""Of the standard deviations, in tenths of a pixel's width and height together."""


@dataclass(frozen=True, eq=False)
class PixelGaussians:
    """One Gaussian per pixel, in the order view, row, column; activated values.

    Attributes:
        means: [N, 3] in the frame of the predicted cameras.
        scales: [N, 3] standard deviations; negative where a learned correction put the depth behind the camera.
        quats: [N, 4] unit, as the official renderer reads them: wxyz.
        opacities: [N] in (0, 1).
        harmonics: [N, 9, 3] standard basis.
    """

    means: Float[Tensor, "N 3"]
    scales: Float[Tensor, "N 3"]
    quats: Float[Tensor, "N 4"]
    opacities: Float[Tensor, " N"]
    harmonics: Float[Tensor, "N 9 3"]

    def gaussians(self) -> Gaussians:
        """Raw parameters. Scales that are not positive become the smallest there are: such Gaussians are not seen."""
        return Gaussians.from_activated(self.means, self.quats, self.scales, self.opacities, sh=self.harmonics)


def pixel_gaussians(
    raw: Float[Tensor, "V 38 H W"],
    depth: Float[Tensor, "V H W"],
    cameras: PredictedCameras,
    scale: float = 1.0,
) -> PixelGaussians:
    """Gaussians of the raw channels: offset 2, scales 3, quaternion 4, harmonics (rgb, 9), depth 1, opacity 1.

    Three habits of the official code are kept, because the weights were trained with them: depths are taken along
    rays of unit length; quaternions are turned to the world in one order of their components and drawn in another;
    intrinsics get no gradient.

    Args:
        raw: output of the Gaussian head.
        depth: of the depth head.
        cameras: as predicted, also where cameras were given.
        scale: multiplies centres and depths (`alignment.umeyama_scale` where cameras were given).
    """
    channels = raw.permute(0, 2, 3, 1)
    offset, scales, quats, harmonics, extra, opacity = channels.split([2, 3, 4, 27, 1, 1], dim=-1)
    camera_to_world = cameras.camera_to_world
    Ks = cameras.Ks.detach()
    rotations = camera_to_world[:, :3, :3]

    distance = scale * (depth + extra[..., 0])
    directions = (rotations[:, None, None] * _unit_rays(offset, Ks)[..., None, :]).sum(-1)
    means = scale * camera_to_world[:, None, None, :3, 3] + directions * distance[..., None]

    low, high = SCALE_RANGE
    pixel = 0.1 * (1 / Ks[:, 0, 0] + 1 / Ks[:, 1, 1])[:, None, None]
    deviations = (low + (high - low) * scales.sigmoid()) * (distance * pixel)[..., None]

    weights = raw.new_tensor([w for band, w in enumerate(BAND_WEIGHTS) for _ in range(2 * band + 1)])
    turns = [spherical_harmonics_rotation(SH_DEGREE, rotation.detach().double().cpu()) for rotation in rotations]
    coefficients = harmonics.unflatten(-1, (3, 9)) * weights
    return PixelGaussians(
        means=means.flatten(0, 2),
        scales=deviations.flatten(0, 2),
        quats=_drawn_quats(quats, rotations).flatten(0, 2),
        opacities=opacity.sigmoid().flatten(),
        harmonics=torch.einsum("vkl,vhwcl->vhwkc", torch.stack(turns).to(raw), coefficients).flatten(0, 2),
    )


def _unit_rays(offset: Float[Tensor, "V H W 2"], Ks: Float[Tensor, "V 3 3"]) -> Float[Tensor, "V H W 3"]:
    """Camera-frame directions of length 1 through the pixels' centres, shifted by `offset` pixels."""
    height, width = offset.shape[1:3]
    column = torch.arange(width, device=offset.device, dtype=offset.dtype) + 0.5
    row = torch.arange(height, device=offset.device, dtype=offset.dtype)[:, None] + 0.5
    Ks = Ks[..., None, None]
    x = (column + offset[..., 0] - Ks[:, 0, 2]) / Ks[:, 0, 0]
    y = (row + offset[..., 1] - Ks[:, 1, 2]) / Ks[:, 1, 1]
    rays = torch.stack([x, y, torch.ones_like(x)], dim=-1)
    return rays / rays.norm(dim=-1, keepdim=True)


def _drawn_quats(quats: Float[Tensor, "V H W 4"], rotations: Float[Tensor, "V 3 3"]) -> Float[Tensor, "V H W 4"]:
    """Quaternions as the renderer reads them.

    Channels (a, b, c, d) are turned to the world as xyzw = (d, a, b, c); the result xyzw, with positive w, is then
    read as wxyz. With cameras at rest the two confusions cancel.
    """
    quats = quats / (quats.norm(dim=-1, keepdim=True) + 1e-8)
    local = quats[..., [2, 3, 0, 1]]  # wxyz of xyzw = (d, a, b, c)
    turns = rotations_to_quats(rotations)[:, None, None].expand_as(local)
    world = multiply_quats(turns, local)
    world = torch.where(world[..., :1] < 0, -world, world)
    return world[..., [1, 2, 3, 0]]
