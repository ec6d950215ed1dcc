# SPDX-License-Identifier: Apache-2.0
"""Choosing views by where their cameras are and look."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

if TYPE_CHECKING:
    from .scenes import Frame

QUARTER_TURN = np.pi / 2


def view_distances(frames: Sequence[Frame]) -> Float[np.ndarray, "V V"]:
    """How far apart views are: distance of the cameras over the largest such distance of the scene, and angle between
    their optical axes in quarter turns, added in quadrature. Needs no order of the photographs and no unit of length.

    Two cameras at one place that look in opposite directions have little in common, hence the angle.
    """
    centers = np.stack([frame.camera_to_world[:3, 3] for frame in frames])
    axes = np.stack([frame.camera_to_world[:3, 2] for frame in frames])
    apart = np.linalg.norm(centers[:, None] - centers[None], axis=-1)
    apart = apart / max(float(apart.max()), np.finfo(np.float64).tiny)
    angles = np.arccos(np.clip(axes @ axes.T, -1.0, 1.0)) / QUARTER_TURN
    np.fill_diagonal(angles, 0.0)
    return np.hypot(apart, angles)


def nearest_views(
    distances: Float[np.ndarray, "V V"], view: int, candidates: Sequence[int], count: int
) -> tuple[int, ...]:
    """The `count` candidates nearest to `view` (all, if there are not more), in ascending order of index."""
    order = sorted(candidates, key=lambda j: (distances[view, j], j))
    return tuple(sorted(order[:count]))


def farthest_views(
    distances: Float[np.ndarray, "V V"], start: int, candidates: Sequence[int], count: int
) -> tuple[int, ...]:
    """Farthest-point selection: `start`, then each time the candidate farthest from all chosen so far; ascending."""
    chosen = [start]
    left = [j for j in candidates if j != start]
    while left and len(chosen) < count:
        best = max(left, key=lambda j: (distances[j, chosen].min(), -j))
        chosen.append(best)
        left.remove(best)
    return tuple(sorted(chosen))


def covering_views(
    distances: Float[np.ndarray, "V V"], targets: Sequence[int], candidates: Sequence[int], count: int
) -> tuple[int, ...]:
    """Candidates chosen one by one so that the mean distance of each target to the nearest of them falls most."""
    chosen: list[int] = []
    left = list(candidates)
    best = np.full(len(targets), np.inf)
    rows = np.asarray(targets, dtype=np.int64)
    while left and len(chosen) < count:
        gain = [np.minimum(best, distances[rows, j]).mean() for j in left]
        j = left[int(np.argmin(gain))]
        best = np.minimum(best, distances[rows, j])
        chosen.append(j)
        left.remove(j)
    return tuple(sorted(chosen))


def central_view(distances: Float[np.ndarray, "V V"], candidates: Sequence[int]) -> int:
    """The candidate with the smallest sum of distances to the others; the first of several."""
    rows = np.asarray(candidates, dtype=np.int64)
    return int(rows[np.argmin(distances[np.ix_(rows, rows)].sum(axis=1))])
