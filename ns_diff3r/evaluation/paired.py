# SPDX-License-Identifier: Apache-2.0
"""Paired differences of two methods over the same scenes and seeds, with a bootstrap interval."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

Cells = Mapping[tuple[str, int], float]
"""(scene, seed) → a figure, the mean over the images of the scene."""


@dataclass(frozen=True)
class PairedDifference:
    """First minus second.

    Attributes:
        mean: over scenes, each the mean over its seeds, so that scenes of many images or seeds weigh no more.
        low: of the interval.
        high: of the interval.
        num_scenes: that both methods have.
        num_seeds: that both methods have.
        wins: share of the pairs in which the first is larger.
    """

    mean: float
    low: float
    high: float
    num_scenes: int
    num_seeds: int
    wins: float


def paired_difference(
    first: Cells, second: Cells, confidence: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> PairedDifference:
    """Compare two methods pair by pair, with a percentile bootstrap over scenes and over seeds.

    Each resample draws scenes with replacement and, independently, seeds with replacement, and averages the
    differences of the drawn pairs. With one scene, or one seed, that source of chance is not in the interval.

    Args:
        first, second: figures of the methods; pairs that one of them lacks are left out.
        confidence: share of resamples within the interval.
        resamples: of the bootstrap.
        seed: of the bootstrap.

    Raises:
        ValueError: no common pair, scenes that lack a seed which others have, a confidence outside (0, 1).
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie in (0, 1), got {confidence}")
    common = sorted(set(first) & set(second))
    if not common:
        raise ValueError("the two methods have no scene and seed in common")
    scenes, seeds = sorted({scene for scene, _ in common}), sorted({run for _, run in common})
    missing = [(scene, run) for scene in scenes for run in seeds if (scene, run) not in common]
    if missing:
        raise ValueError(
            f"scene {missing[0][0]} has no figure for seed {missing[0][1]} of both methods; other scenes do"
        )
    table = np.array([[first[scene, run] - second[scene, run] for run in seeds] for scene in scenes])
    generator = np.random.default_rng(seed)
    # How often each scene and each seed is drawn: the mean of the drawn pairs is bilinear in these.
    scene_counts = generator.multinomial(len(scenes), np.full(len(scenes), 1 / len(scenes)), resamples)
    seed_counts = generator.multinomial(len(seeds), np.full(len(seeds), 1 / len(seeds)), resamples)
    means = np.einsum("rs,sk,rk->r", scene_counts, table, seed_counts) / table.size
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return PairedDifference(
        float(table.mean()), float(low), float(high), len(scenes), len(seeds), float((table > 0).mean())
    )
