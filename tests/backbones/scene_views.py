# SPDX-License-Identifier: Apache-2.0
"""A textured scene with known depth, for the tests of backbones."""

import math

import torch
from torch import Tensor

from ns_diff3r.splats import Cameras, Views


def wall_views(
    num_views: int = 3, size: tuple[int, int] = (32, 40), seed: int = 0, dtype: torch.dtype = torch.float32
) -> tuple[Views, Tensor]:
    """Views of a slanted wall painted with smooth noise, and the depth of every pixel [V, H, W].

    The wall is the plane z = 4 + 0.5 x + 0.2 y of the world; cameras stand around the origin and look along z.
    """
    random = torch.Generator().manual_seed(seed)
    height, width = size
    focal = 1.1 * width
    viewmats = torch.eye(4, dtype=torch.float64).repeat(num_views, 1, 1)
    for view in range(num_views):
        angle = 0.12 * (torch.rand(3, generator=random, dtype=torch.float64) - 0.5)
        cross = torch.zeros(3, 3, dtype=torch.float64)
        cross[2, 1], cross[0, 2], cross[1, 0] = angle
        viewmats[view, :3, :3] = torch.linalg.matrix_exp(cross - cross.T)
        turn = 2 * math.pi * view / num_views
        center = torch.tensor([0.5 * math.cos(turn), 0.5 * math.sin(turn), 0.1 * view], dtype=torch.float64)
        viewmats[view, :3, 3] = -viewmats[view, :3, :3] @ center
    K = torch.tensor([[focal, 0, width / 2 + 0.7], [0, focal, height / 2 - 0.4], [0, 0, 1]], dtype=torch.float64)
    cameras = Cameras(viewmats, K.repeat(num_views, 1, 1), width, height)

    x = torch.arange(width, dtype=torch.float64) + 0.5
    y = torch.arange(height, dtype=torch.float64) + 0.5
    pixels = torch.stack([*torch.meshgrid(x, y, indexing="xy"), torch.ones(height, width, dtype=torch.float64)], dim=-1)
    rays = pixels @ torch.linalg.inv(K).T  # camera frame, z = 1
    directions = torch.einsum("vji,hwj->vhwi", viewmats[:, :3, :3], rays)
    normal = torch.tensor([-0.5, -0.2, 1.0], dtype=torch.float64)
    depth = (4 - cameras.centers @ normal)[:, None, None] / (directions @ normal)
    points = cameras.centers[:, None, None] + depth[..., None] * directions
    frequency = 6 * torch.rand(24, 2, generator=random, dtype=torch.float64) - 3
    phase = 6.3 * torch.rand(24, 3, generator=random, dtype=torch.float64)
    waves = torch.einsum("vhwk,fk->vhwf", points[..., :2], 2 * frequency)[..., None] + phase
    images = (0.5 + 0.09 * waves.sin().sum(-2)).clamp(0, 1)
    bounds = torch.full((num_views,), 2.0, dtype=dtype), torch.full((num_views,), 12.0, dtype=dtype)
    return Views(images.to(dtype), cameras.to(dtype=dtype), *bounds), depth
