# SPDX-License-Identifier: Apache-2.0
"""From maps of a view (inverse depth, what the decoder says about each pixel) to Gaussians of the world."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from ..splats import Cameras, Gaussians
from ..splats.rotations import multiply_quats, rotations_to_quats
from ..splats.spherical_harmonics import rgb_to_sh0, spherical_harmonics_rotation

NEAREST, FARTHEST = 1.25, 0.5
"""A learned inverse depth stays within 1.25/near and 0.5/far: it may leave a wrong depth range, not reach infinity."""


@dataclass(frozen=True)
class Corrections:
    """What the network adds to the Gaussian that each pixel has by itself; all zero at initialisation.

    Attributes:
        fraction: [V, H, W] of the inverse depth's fraction between 1/far and 1/near.
        offset: [V, 2, H, W] of the position in the image, pixels.
        log_scale: [V, 3, H, W] of the logarithms of the standard deviations.
        rotation: [V, 3, H, W] imaginary part of the quaternion (1, ...) in the camera's frame.
        opacity: [V, H, W] of the logit.
        sh0: [V, 3, H, W] of the constant harmonic.
        shN: [V, K-1, 3, H, W] further harmonics in the camera's frame.
    """

    fraction: Float[Tensor, "V H W"]
    offset: Float[Tensor, "V 2 H W"]
    log_scale: Float[Tensor, "V 3 H W"]
    rotation: Float[Tensor, "V 3 H W"]
    opacity: Float[Tensor, "V H W"]
    sh0: Float[Tensor, "V 3 H W"]
    shN: Float[Tensor, "V K-1 3 H W"]  # noqa: N815 - gsplat's name

    @staticmethod
    def num_channels(sh_degree: int) -> int:
        """Channels of the tensor that `split` takes."""
        return 13 + 3 * ((sh_degree + 1) ** 2 - 1)

    @staticmethod
    def split(raw: Float[Tensor, "V C H W"], sh_degree: int) -> Corrections:
        """From the head's output, each part in a range in which one unit is a large change."""
        count = (sh_degree + 1) ** 2 - 1
        fraction, offset, log_scale, rotation, opacity, sh0, rest = raw.split([1, 2, 3, 3, 1, 3, 3 * count], dim=1)
        return Corrections(
            fraction=bounded(0.1 * fraction[:, 0], 0.3),
            offset=bounded(offset, 1.0),
            log_scale=bounded(log_scale, 3.0),
            rotation=bounded(rotation, 1.0),
            opacity=bounded(opacity[:, 0], 6.0),
            sh0=bounded(sh0, 2.0),
            shN=bounded(0.2 * rest.unflatten(1, (count, 3)), 1.0),
        )


def bounded(x: Tensor, limit: float) -> Tensor:
    """Smoothly kept within ±limit; the identity near zero."""
    return limit * (x / limit).tanh()


def sharpened(images: Float[Tensor, "V 3 H W"], amount: float) -> Float[Tensor, "V 3 H W"]:
    """images + amount · (images − blurred), within [0, 1]: against the blur of about half a pixel that drawing adds.

    The blur is the 3x3 binomial filter.
    """
    if amount == 0:
        return images
    height, width = images.shape[-2:]
    padded = pad(images, (1, 1, 1, 1), mode="replicate")
    rows = (padded[..., :height, :] + 2 * padded[..., 1:-1, :] + padded[..., 2:, :]) / 4
    blurred = (rows[..., :width] + 2 * rows[..., 1:-1] + rows[..., 2:]) / 4
    return (images + amount * (images - blurred)).clamp(0, 1)


def pixel_gaussians(
    cameras: Cameras,
    colors: Float[Tensor, "V 3 H W"],
    near: Float[Tensor, " V"],
    far: Float[Tensor, " V"],
    fractions: Float[Tensor, "V H W"],
    opacity_logits: Float[Tensor, "V H W"],
    footprint: float,
    corrections: Corrections,
    widening: float = 0.0,
) -> Gaussians:
    """One Gaussian per pixel, in the order view, row, column: on its ray, of its colour, round, and of its width.

    Args:
        cameras: of the views, of size H × W.
        colors: [V, 3, H, W] of the Gaussians, in [0, 1].
        near, far: [V] float64 depth range, world units.
        fractions: [V, H, W] inverse depth from 1/far (0) to 1/near (1).
        opacity_logits: [V, H, W].
        footprint: standard deviation in pixels (at the Gaussian's depth).
        corrections: what the network adds.
        widening: added to every variance in the end, in squares of pixels (at the Gaussian's depth).
    """
    dtype = fractions.dtype
    num_views, height, width = fractions.shape
    low = (near / far).to(dtype)[:, None, None]
    fractions = fractions + corrections.fraction
    inverse_depth = (low + fractions * (1 - low)).clamp(max=NEAREST)
    inverse_depth = torch.maximum(inverse_depth, FARTHEST * low)  # in units of 1/near
    depth = near.to(dtype)[:, None, None] / inverse_depth  # world units

    rays = _rays(cameras, corrections.offset)  # [V, H, W, 3], z = 1
    to_world = cameras.viewmats[:, :3, :3].transpose(1, 2)
    directions = (to_world.to(dtype)[:, None, None] * rays[..., None, :]).sum(-1)
    means = cameras.centers.to(dtype)[:, None, None] + depth[..., None] * directions

    focal = (cameras.Ks[:, 0, 0] * cameras.Ks[:, 1, 1]).sqrt().to(dtype)[:, None, None]
    pixel = (depth / focal)[..., None]
    scales = (footprint * pixel).log() + corrections.log_scale.permute(0, 2, 3, 1)
    if widening > 0.0:
        scales = 0.5 * torch.logaddexp(2.0 * scales, (widening * pixel.square()).log())

    imaginary = corrections.rotation.permute(0, 2, 3, 1)
    local = torch.cat([torch.ones_like(imaginary[..., :1]), imaginary], dim=-1)
    world = rotations_to_quats(to_world.double()).to(dtype)[:, None, None].expand_as(local)

    sh0 = rgb_to_sh0(colors.permute(0, 2, 3, 1)) + corrections.sh0.permute(0, 2, 3, 1)
    rest = _rotated_harmonics(corrections.shN, to_world)  # [V, H, W, K-1, 3]
    count = num_views * height * width
    return Gaussians(
        means=means.reshape(count, 3),
        quats=multiply_quats(world, local).reshape(count, 4),
        scales=scales.reshape(count, 3),
        opacities=(opacity_logits + corrections.opacity).reshape(count),
        sh0=sh0.reshape(count, 1, 3),
        shN=rest.reshape(count, -1, 3),
    )


def _rays(cameras: Cameras, offset: Float[Tensor, "V 2 H W"]) -> Float[Tensor, "V H W 3"]:
    """Camera-frame directions with z = 1 through the pixels' centres, shifted by `offset` pixels."""
    Ks = cameras.Ks.to(offset.dtype)[:, :, :, None, None]
    height, width = offset.shape[-2:]
    column = torch.arange(width, device=offset.device, dtype=offset.dtype) + 0.5
    row = torch.arange(height, device=offset.device, dtype=offset.dtype)[:, None] + 0.5
    x = (column + offset[:, 0] - Ks[:, 0, 2]) / Ks[:, 0, 0]
    y = (row + offset[:, 1] - Ks[:, 1, 2]) / Ks[:, 1, 1]
    return torch.stack([x, y, torch.ones_like(x)], dim=-1)


def _rotated_harmonics(
    coefficients: Float[Tensor, "V K-1 3 H W"], to_world: Float[Tensor, "V 3 3"]
) -> Float[Tensor, "V H W K-1 3"]:
    """Harmonics above degree 0 from each camera's frame to the world's."""
    count = coefficients.shape[1]
    if count == 0:
        return coefficients.permute(0, 3, 4, 1, 2)
    degree = int((count + 1) ** 0.5 + 0.5) - 1
    matrices = torch.stack([spherical_harmonics_rotation(degree, rotation.double()) for rotation in to_world])
    return torch.einsum("vkl,vlchw->vhwkc", matrices[:, 1:, 1:].to(coefficients), coefficients)
