# SPDX-License-Identifier: Apache-2.0
"""From DepthSplat's raw maps to Gaussians: as the official code gives them, and as `Gaussians` of the world."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import softplus

from ...splats import Gaussians
from ...splats.rotations import multiply_quats, quats_to_rotations, rotations_to_quats
from ...splats.spherical_harmonics import rgb_to_sh0
from .harmonics import standard_from_cycled, trained_rotation

SH_DEGREE = 2
NUM_CHANNELS = 10 + 3 * (SH_DEGREE + 1) ** 2
SCALE_SHIFT = 4.0
BAND_WEIGHTS = (1.0, 0.025, 0.00625)
"""Of the harmonics by degree, 0.1 · 0.25^degree above degree 0."""


@dataclass(frozen=True, eq=False)
class PixelGaussians:
    """One Gaussian per pixel, in the order view, row, column; activated values.

    Attributes:
        means: [N, 3] world.
        scales: [N, 3] standard deviations, world units.
        camera_quats: [N, 4] wxyz, unit, in the frame of the Gaussian's camera.
        world_quats: [N, 4] wxyz, unit, in the world.
        opacities: [N] in (0, 1).
        harmonics: [N, 9, 3] in the model's own basis (`harmonics.py`).
    """

    means: Float[Tensor, "N 3"]
    scales: Float[Tensor, "N 3"]
    camera_quats: Float[Tensor, "N 4"]
    world_quats: Float[Tensor, "N 4"]
    opacities: Float[Tensor, " N"]
    harmonics: Float[Tensor, "N 9 3"]

    def covariances(self) -> Float[Tensor, "N 3 3"]:
        """World covariances, which the official code renders."""
        axes = quats_to_rotations(self.world_quats) * self.scales[:, None]
        return axes @ axes.transpose(-1, -2)

    def standard_harmonics(self) -> Float[Tensor, "N 9 3"]:
        """Coefficients of the standard harmonics."""
        matrix = standard_from_cycled(SH_DEGREE).to(self.harmonics)
        return torch.einsum("kl,nlc->nkc", matrix, self.harmonics)

    def gaussians(self) -> Gaussians:
        """Raw parameters in the standard conventions, for any renderer."""
        return Gaussians.from_activated(
            self.means, self.world_quats, self.scales, self.opacities, sh=self.standard_harmonics()
        )


def pixel_gaussians(
    raw: Float[Tensor, "V 37 H W"],
    depth: Float[Tensor, "V H W"],
    images: Float[Tensor, "V 3 H W"],
    camera_to_world: Float[Tensor, "V 4 4"],
    Ks: Float[Tensor, "V 3 3"],
    scale_range: tuple[float, float] = (1e-10, 3.0),
) -> PixelGaussians:
    """Gaussians of the raw channels: opacity 1, offset 2, scales 3, quaternion xyzw 4, harmonics (rgb, 9).

    Args:
        raw: output of the Gaussian head.
        depth: camera z, world units.
        images: in [0, 1], the base of the colours.
        camera_to_world: OpenCV.
        Ks: pixels.
        scale_range: clamp of the standard deviations, world units.
    """
    channels = raw.permute(0, 2, 3, 1)
    opacity, offset, scales, quats, harmonics = channels.split([1, 2, 3, 4, 27], dim=-1)
    rotations = camera_to_world[:, :3, :3]

    rays = _rays(offset.sigmoid() - 0.5, Ks)
    directions = (rotations[:, None, None] * rays[..., None, :]).sum(-1)
    means = camera_to_world[:, None, None, :3, 3] + directions * depth[..., None]

    quats = quats / (quats.norm(dim=-1, keepdim=True) + 1e-8)
    camera_quats = quats[..., [3, 0, 1, 2]]
    turns = rotations_to_quats(rotations.double()).to(raw.dtype)[:, None, None].expand_as(camera_quats)

    weights = raw.new_tensor([w for band, w in enumerate(BAND_WEIGHTS) for _ in range(2 * band + 1)])
    coefficients = harmonics.unflatten(-1, (3, 9)) * weights  # [V, H, W, 3, 9]
    base = rgb_to_sh0(images.permute(0, 2, 3, 1))
    coefficients = torch.cat([coefficients[..., :1] + base[..., None], coefficients[..., 1:]], dim=-1)
    matrices = torch.stack([trained_rotation(SH_DEGREE, rotation) for rotation in rotations]).to(raw)
    return PixelGaussians(
        means=means.flatten(0, 2),
        scales=softplus(scales - SCALE_SHIFT).clamp(*scale_range).flatten(0, 2),
        camera_quats=camera_quats.flatten(0, 2),
        world_quats=multiply_quats(turns, camera_quats).flatten(0, 2),
        opacities=opacity.sigmoid().flatten(),
        harmonics=torch.einsum("vkl,vhwcl->vhwkc", matrices, coefficients).flatten(0, 2),
    )


def _rays(offset: Float[Tensor, "V H W 2"], Ks: Float[Tensor, "V 3 3"]) -> Float[Tensor, "V H W 3"]:
    """Camera-frame directions with z = 1 through the pixels' centres, shifted by `offset` pixels."""
    height, width = offset.shape[1:3]
    column = torch.arange(width, device=offset.device, dtype=offset.dtype) + 0.5
    row = torch.arange(height, device=offset.device, dtype=offset.dtype)[:, None] + 0.5
    Ks = Ks.to(offset.dtype)[..., None, None]
    x = (column + offset[..., 0] - Ks[:, 0, 2]) / Ks[:, 0, 0]
    y = (row + offset[..., 1] - Ks[:, 1, 2]) / Ks[:, 1, 1]
    return torch.stack([x, y, torch.ones_like(x)], dim=-1)
