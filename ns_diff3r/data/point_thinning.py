# SPDX-License-Identifier: Apache-2.0
"""Sparse points as uneven as those of registration, which finds many on rich texture and few on bare walls."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from ..splats import SparsePoints, Views
from .batches import SceneBatch

REGIONS = 16
"""Parts that a scene is cut into, each of which keeps a share of its points that is drawn evenly from 0 to 1."""


def thinned_batch(batch: SceneBatch, generator: np.random.Generator) -> SceneBatch:
    """A scene with the same part of its points in context and targets."""
    points = batch.context.points
    if points is None:
        return batch
    kept = thinned(points, generator)
    return replace(batch, context=_with_points(batch.context, kept), targets=_with_points(batch.targets, kept))


def without_points(batch: SceneBatch) -> SceneBatch:
    """A scene of photographs alone."""
    return replace(batch, context=_with_points(batch.context, None), targets=_with_points(batch.targets, None))


def thinned(points: SparsePoints, generator: np.random.Generator) -> SparsePoints:
    """Some of the points: those nearest to each of `REGIONS` random ones are kept with a share of the region's own."""
    count = points.num_points
    if count == 0:
        return points
    middles = points.positions[torch.from_numpy(generator.choice(count, REGIONS))]
    region = torch.cdist(points.positions, middles).argmin(1)
    share = torch.from_numpy(generator.random(REGIONS))
    keep = torch.from_numpy(generator.random(count)) < share[region.cpu()]
    keep = keep.to(points.positions.device)
    return SparsePoints(points.positions[keep], points.colors[keep])


def _with_points(views: Views, points: SparsePoints | None) -> Views:
    return replace(views, points=points)
