# SPDX-License-Identifier: Apache-2.0
"""The mirrored world: every picture flipped left to right, its camera with it."""

from __future__ import annotations

from dataclasses import replace

from ..splats import Cameras, Views
from .batches import SceneBatch


def mirrored_batch(batch: SceneBatch) -> SceneBatch:
    """Context and targets in the mirrored world."""
    return replace(batch, context=mirrored_views(batch.context), targets=mirrored_views(batch.targets))


def mirrored_views(views: Views) -> Views:
    """What cameras mirrored with the world at its plane x = 0 see: flipped pictures, the same depths."""
    points = views.points
    if points is not None:
        points = replace(points, positions=points.positions * points.positions.new_tensor([-1.0, 1.0, 1.0]))
    return replace(views, images=views.images.flip(2), cameras=mirrored_cameras(views.cameras), points=points)


def mirrored_cameras(cameras: Cameras) -> Cameras:
    """Poses S·W·S with S = diag(-1, 1, 1), so that handedness stays; the principal point at width − cx.

    A point at -x of the world then has -x in the camera. Intrinsics mirror as u ↦ width − u: focal lengths stay, an
    entry of skew changes its sign.
    """
    sign = cameras.viewmats.new_tensor([-1.0, 1.0, 1.0, 1.0])
    Ks = cameras.Ks.clone()
    Ks[:, 0, 1] = -Ks[:, 0, 1]
    Ks[:, 0, 2] = cameras.width - Ks[:, 0, 2]
    return Cameras(sign[:, None] * cameras.viewmats * sign, Ks, cameras.width, cameras.height)
