# SPDX-License-Identifier: Apache-2.0
"""Images that explain a rendering: how sure the network was of what is seen, and how it differs from a photograph."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from .splats import Cameras, Views

MIN_ALPHA = 0.5
"""Pixels that are less opaque have no depth by which a photograph could be looked up."""


def relative_uncertainty(prior: Mapping[str, Float[Tensor, "N ..."]], group: str) -> Float[Tensor, " N"]:
    """−log λ of one attribute group, brought to [0, 1] over the scene: 0 where the prediction is trusted most.

    A scene with one λ everywhere is 0.5 throughout. KeyError for a group that `prior` lacks.
    """
    logs = prior[group].detach().float().log().flatten(1)
    if logs.shape[1] == 0:  # shN of degree 0
        return logs.new_full((logs.shape[0],), 0.5)
    value = -logs.mean(dim=1)
    low, high = value.aminmax()
    return (value - low) / (high - low) if high > low else torch.full_like(value, 0.5)


def nearest_view(cameras: Cameras, camera: Cameras) -> int:
    """Index of the camera nearest to `camera` in position and direction, for looking up colours.

    Distances count relative to the mean distance; angles between optical axes in quarter turns.
    """
    apart = (cameras.centers - camera.centers).norm(dim=-1)
    cosine = (cameras.viewmats[:, 2, :3] * camera.viewmats[:, 2, :3]).sum(-1).clamp(-1, 1)
    return int((apart / apart.mean().clamp(min=1e-12) + cosine.acos() / (torch.pi / 2)).argmin())


def error_against(
    photograph: Views,
    camera: Cameras,
    rgb: Float[Tensor, "H W 3"],
    depth: Float[Tensor, "H W 1"],
    alpha: Float[Tensor, "H W 1"],
) -> Float[Tensor, "H W 1"]:
    """Mean absolute difference between a rendering and one photograph looked up at the rendered surface.

    Every pixel's point is projected into the photograph; what lies outside it or has no surface is 0. Surfaces that
    the photograph does not see are compared with what hides them.

    Args:
        photograph: one view.
        camera: one camera, that of the rendering.
        rgb, depth, alpha: the rendering; depth is camera z.
    """
    height, width = rgb.shape[:2]
    y, x = (torch.arange(size, device=rgb.device, dtype=rgb.dtype) + 0.5 for size in (height, width))
    K, view = camera.Ks[0], camera.viewmats[0]
    rays = torch.stack(torch.broadcast_tensors((x - K[0, 2])[None] / K[0, 0], (y - K[1, 2])[:, None] / K[1, 1]), dim=-1)
    local = torch.cat([rays * depth, depth], dim=-1)
    world = (local - view[:3, 3]) @ view[:3, :3]
    other_view, other_K = photograph.cameras.viewmats[0], photograph.cameras.Ks[0]
    seen = world @ other_view[:3, :3].T + other_view[:3, 3]
    z = seen[..., 2:].clamp(min=1e-9)
    pixel = seen[..., :2] / z * other_K[[0, 1], [0, 1]] + other_K[:2, 2]
    size = pixel.new_tensor([photograph.cameras.width, photograph.cameras.height])
    inside = (seen[..., 2] > 0) & (pixel >= 0).all(-1) & (pixel <= size).all(-1) & (alpha[..., 0] >= MIN_ALPHA)
    image = photograph.images.permute(0, 3, 1, 2).to(rgb.dtype)
    found = functional.grid_sample(image, (2 * pixel / size - 1)[None], align_corners=False, padding_mode="border")
    difference = (rgb - found[0].permute(1, 2, 0)).abs().mean(dim=-1, keepdim=True)
    return torch.where(inside[..., None], difference, torch.zeros_like(difference))
