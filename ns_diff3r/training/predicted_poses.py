# SPDX-License-Identifier: Apache-2.0
"""Poses of photographs from a network that predicts them, written as a scene that everything else reads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from ..backbones import Backbone
from ..data.registration import Registration
from ..data.scenes import PointCloud
from ..data.transforms_writing import frame_fields, write_transforms
from ..data.unposed import load_unposed
from ..splats import Cameras, Views
from ..splats.spherical_harmonics import sh0_to_rgb
from .inference import evaluating

MOST_PHOTOGRAPHS = 24
NUM_POINTS = 4000
MIN_OPACITY = 0.1
"""Points are the means of the most opaque Gaussians, but of none fainter than this where there are enough."""


@torch.no_grad()
def predict_poses(
    backbone: Backbone,
    photographs: str | Path,
    output: str | Path,
    *,
    max_size: int = 504,
    most: int = MOST_PHOTOGRAPHS,
    progress: Callable[[str], None] | None = None,
) -> Registration:
    """Poses, intrinsics and points of photographs by one pass of a network; transforms.json and sparse_pc.ply.

    The world is that of the first camera, in the network's own unit.

    Args:
        backbone: one that predicts cameras.
        photographs: a folder with images in it or in its sub-folder `images`.
        output: folder to write to.
        max_size: longest side of what the network sees.
        most: photographs that are used, evenly spread; more take more memory.
        progress: called with what begins.

    Raises:
        ValueError: the backbone predicts no cameras, or what it predicts cannot be used.
        SceneError: no readable photographs.
    """
    report = progress or (lambda stage: None)
    if not backbone.predicts_cameras:
        raise ValueError(f"{type(backbone).__name__} does not predict poses: give it a posed scene")
    report("photographs")
    loaded = load_unposed(photographs, max_size, most)
    count, height, width, _ = loaded.images.shape
    report("poses")
    device = next(backbone.parameters()).device
    rest = torch.eye(4).repeat(count, 1, 1)
    Ks = torch.tensor([[width, 0, width / 2], [0, width, height / 2], [0, 0, 1.0]]).repeat(count, 1, 1)
    with evaluating(backbone):
        prediction = backbone(Views(loaded.images, Cameras(rest, Ks, width, height)).to(device))
    cameras, gaussians = prediction.cameras, prediction.gaussians.check_finite("the prediction").to("cpu")
    assert cameras is not None
    cameras = cameras.to("cpu", torch.float64)
    camera_to_world = torch.linalg.inv(cameras.viewmats)
    camera_to_world = torch.linalg.inv(camera_to_world[0]) @ camera_to_world
    first = cameras.viewmats[0]
    opengl = camera_to_world * torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=torch.float64)
    folder = Path(output)
    frames = [
        frame_fields(folder, frame.image_path, opengl[i].numpy(), loaded.full_size(i, cameras.Ks[i]))
        for i, frame in enumerate(loaded.frames)
    ]
    seen = gaussians.opacities_activated.argsort(descending=True)[: 4 * NUM_POINTS]
    clear = gaussians.opacities_activated[seen] >= MIN_OPACITY
    seen = seen[clear] if int(clear.sum()) >= NUM_POINTS // 4 else seen
    chosen = gaussians[seen[torch.linspace(0, len(seen) - 1, min(NUM_POINTS, len(seen))).long()]]
    positions = chosen.means.double() @ first[:3, :3].T + first[:3, 3]
    points = PointCloud(positions.numpy(), np.asarray(sh0_to_rgb(chosen.sh0[:, 0]).clamp(0, 1).double()))
    return Registration(write_transforms(folder, frames, points), count, count)
