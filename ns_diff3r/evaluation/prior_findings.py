# SPDX-License-Identifier: Apache-2.0
"""What λ has learned over many scenes: correlations with intervals, and λ by the number of views."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ..splats import GROUPS
from .paired import Cells, PairedDifference, paired_difference
from .prior_analysis import MEASURES, ItemAnalysis, Measure
from .prior_chance import chance_interval

Verdict = Literal[
    "as claimed", "against the claim", "undecided", "no more than chance", "no sign claimed", "λ hardly varies"
]

HARDLY = 1.1
"""Ratio of the 95 % and 5 % quantiles of λ below which its ranks are without effect on the optimisation."""


@dataclass(frozen=True)
class Finding:
    """A correlation over all scenes.

    Attributes:
        group: attribute group.
        measure: what λ is compared with.
        difference: mean of the correlation over scenes, with its interval; None where it is undefined in all.
        chance: range of the same mean for λ of random weights (`prior_chance`); None where that is not measured.
        spread: ratio of the 95 % and 5 % quantiles of λ, geometric mean over the images.
        reason: why it is undefined; "" where it is not.
        of_seeds: the same mean for each network alone.
    """

    group: str
    measure: Measure
    difference: PairedDifference | None
    chance: tuple[float, float] | None = None
    spread: float = math.inf
    reason: str = ""
    of_seeds: tuple[float, ...] = ()

    @property
    def verdict(self) -> Verdict:
        """Whether the whole interval has the sign that is claimed, or the other one, and the mean is beyond chance. One
        scene decides nothing."""
        if self.difference is None or self.difference.num_scenes < 2:
            return "undecided"
        if self.spread < HARDLY:
            return "λ hardly varies"
        if self.measure.claimed == 0:
            return "no sign claimed"
        if self.chance is not None and self.chance[0] <= self.difference.mean <= self.chance[1]:
            return "no more than chance"
        low, high = sorted(self.measure.claimed * bound for bound in (self.difference.low, self.difference.high))
        return "as claimed" if low > 0 else "against the claim" if high < 0 else "undecided"


def findings(items: Iterable[tuple[int, ItemAnalysis]], confidence: float = 0.95) -> list[Finding]:
    """Every group and measure over scenes, each the mean over its images, with a bootstrap interval over scenes (and
    over seeds, where there are several).

    Args:
        items: (seed, analysis); several of one scene are averaged.
        confidence: of the interval.
    """
    known = list(items)
    results, first_seed = [], min((seed for seed, _ in known), default=0)
    for measure in MEASURES:
        for group in GROUPS:
            key = (group, measure.key)
            cells = _complete(_scene_means([(seed, item.scene, item.correlations[key].value) for seed, item in known]))
            if cells:
                of_first = [item for seed, item in known if seed == first_seed]
                draws = [(item.scene, item.chance[key]) for item in of_first if key in item.chance]
                chance = chance_interval(draws, len({seed for _, seed in cells}), confidence)
                difference = paired_difference(cells, dict.fromkeys(cells, 0.0), confidence)
                low, high = strength_range([item for _, item in known], group) or (1.0, 1.0)
                of_seeds = tuple(_mean_of_seed(cells, seed) for seed in sorted({seed for _, seed in cells}))
                results.append(Finding(group, measure, difference, chance, high / low, of_seeds=of_seeds))
            else:
                reasons = dict.fromkeys(item.correlations[key].reason for _, item in known)
                results.append(Finding(group, measure, None, reason="; ".join(reason for reason in reasons if reason)))
    return results


def _scene_means(values: Iterable[tuple[int, str, float | None]]) -> dict[tuple[str, int], float]:
    found: dict[tuple[str, int], list[float]] = {}
    for seed, scene, value in values:
        if value is not None:
            found.setdefault((scene, seed), []).append(value)
    return {cell: sum(numbers) / len(numbers) for cell, numbers in found.items()}


def _mean_of_seed(cells: Cells, seed: int) -> float:
    values = [value for (_, own), value in cells.items() if own == seed]
    return sum(values) / len(values)


def _complete(cells: Cells) -> dict[tuple[str, int], float]:
    """The cells of the scenes that have every seed."""
    seeds = {seed for _, seed in cells}
    return {cell: value for cell, value in cells.items() if all((cell[0], seed) in cells for seed in seeds)}


def strength_by_views(items: Iterable[ItemAnalysis]) -> dict[str, dict[int, tuple[float, float]]]:
    """Group → number of views that see a Gaussian → (share of the Gaussians, geometric mean of λ), all items alike."""
    known = list(items)
    table: dict[str, dict[int, tuple[float, float]]] = {}
    for group in GROUPS:
        having = [item.log_strength[group] for item in known if group in item.log_strength]
        counts = sorted({count for found in having for count in found})
        table[group] = {}
        for count in counts:
            shares = [found.get(count, (0, 0.0))[0] / sum(n for n, _ in found.values()) for found in having]
            logs = [found[count][1] for found in having if count in found]
            table[group][count] = (sum(shares) / len(shares), float(np.exp(sum(logs) / len(logs))))
    return table


def strength_range(items: Iterable[ItemAnalysis], group: str) -> tuple[float, float] | None:
    """(5 %, 95 %) quantiles of λ of a group, geometric means over the items; None for a group without parameters."""
    having = [item.log_range[group] for item in items if group in item.log_range]
    if not having:
        return None
    low, high = (math.exp(sum(bounds) / len(bounds)) for bounds in zip(*having, strict=True))
    return low, high
