# SPDX-License-Identifier: Apache-2.0
"""DepthSplat's plane sweep: how well features of a view match those of others, if the pixels had certain depths."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import grid_sample
from torch.utils.checkpoint import checkpoint

NEAREST_DEPTH = 1e-3
"""Depths in another view are clamped here before the division."""


def other_views(camera_to_world: Float[Tensor, "V 4 4"], most: int) -> Int[Tensor, "V M"]:
    """The views that each view is compared with: all others up to three views, else the `most` nearest centres.

    Nearest first; without a selection in the order of the views.
    """
    num_views = len(camera_to_world)
    if num_views <= 3:
        rows = [[other for other in range(num_views) if other != view] for view in range(num_views)]
        return torch.tensor(rows, device=camera_to_world.device)
    centers = camera_to_world[:, :3, 3].detach()
    distances = torch.cdist(centers, centers).fill_diagonal_(-1.0)
    return distances.argsort(dim=1, stable=True)[:, 1 : most + 1]


def cost_volume(
    features: Float[Tensor, "V C h w"],
    others: Int[Tensor, "V M"],
    camera_to_world: Float[Tensor, "V 4 4"],
    Ks: Float[Tensor, "V 3 3"],
    depths: Float[Tensor, "V D h w"] | Float[Tensor, "V D 1 1"],
) -> Float[Tensor, "V D h w"]:
    """⟨feature, feature of the other view there⟩/√C at every candidate, averaged over the other views.

    Gradients flow to the features only.

    Args:
        features: maps at the resolution of the sweep.
        others: by `other_views`.
        camera_to_world: OpenCV.
        Ks: pixels of `features`. Pixel centres are taken at integers, and the view's own intrinsics are used in the
            other view as well: both as the official weights were trained.
        depths: candidates, world units.
    """
    height, width = features.shape[-2:]
    with torch.no_grad():
        relative = torch.linalg.inv(camera_to_world[others].double()) @ camera_to_world[:, None].double()
        K = Ks.double()[:, None]
        rotation = (K @ relative[..., :3, :3] @ torch.linalg.inv(K)).to(features.dtype)  # [V, M, 3, 3]
        translation = (K @ relative[..., :3, 3:]).to(features.dtype)[..., 0]
        y, x = torch.meshgrid(
            torch.arange(height, device=features.device, dtype=features.dtype),
            torch.arange(width, device=features.device, dtype=features.dtype),
            indexing="ij",
        )
        pixels = torch.stack([x, y, torch.ones_like(x)])
    watched = torch.is_grad_enabled() and features.requires_grad
    costs = []
    for view in range(len(features)):
        total: Tensor | None = None
        for index, other in enumerate(others[view].tolist()):
            arguments = (features[view], features[other], rotation[view, index], translation[view, index])
            arguments = (*arguments, pixels, depths[view])
            # The warped features of all candidates need far more memory than all the rest.
            cost = checkpoint(_matches, *arguments, use_reentrant=False) if watched else _matches(*arguments)
            total = cost if total is None else total + cost
        assert total is not None
        costs.append(total / others.shape[1])
    return torch.stack(costs)


def _matches(
    reference: Float[Tensor, "C h w"],
    target: Float[Tensor, "C h w"],
    rotation: Float[Tensor, "3 3"],
    translation: Float[Tensor, " 3"],
    pixels: Float[Tensor, "3 h w"],
    depths: Float[Tensor, "D h w"] | Float[Tensor, "D 1 1"],
) -> Float[Tensor, "D h w"]:
    channels, height, width = reference.shape
    with torch.no_grad():
        rays = (rotation[:, :, None, None] * pixels).sum(1)
        points = rays[:, None] * depths + translation[:, None, None, None]  # [3, D, h, w]
        in_front = points[2].clamp(min=NEAREST_DEPTH)
        grid = torch.stack(
            [2 * points[0] / in_front / (width - 1) - 1, 2 * points[1] / in_front / (height - 1) - 1], dim=-1
        )
    warped = grid_sample(target[None], grid.flatten(0, 1)[None], mode="bilinear", align_corners=True)[0]
    return (reference[:, None] * warped.view(channels, -1, height, width)).sum(0) / channels**0.5
