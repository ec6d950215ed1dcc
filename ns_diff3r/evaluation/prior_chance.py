# SPDX-License-Identifier: Apache-2.0
"""What correlations a λ has that learned nothing: that of heads of random weights on the features of the same network.

Features differ between what one view sees and what two see, so any function of them is correlated with that, in every
scene alike: a mean over scenes that differs from 0 shows that λ is a function of the features, not that it was learned.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..splats import GROUPS
from .rank_correlation import ranks, spearman

NUM_HEADS = 10
"""Random heads; the λ of each attribute group is a draw of its own."""


@torch.no_grad()
def random_strengths(head: nn.Module, features: Float[Tensor, "N F"], num_heads: int) -> list[Float[Tensor, " N"]]:
    """log λ of every Gaussian by heads like this one whose weights are drawn anew, the same draws in every call."""
    draws: list[Tensor] = []
    for seed in range(num_heads):
        other = copy.deepcopy(head)
        with torch.random.fork_rng():
            torch.default_generator.manual_seed(seed)
            for part in other.modules():
                if isinstance(part, (nn.Linear, nn.LayerNorm)):
                    part.reset_parameters()
        prior = other(features)
        draws += [prior[group].double().log().flatten(1).mean(1) for group in GROUPS if prior[group].numel()]
    return draws


class RandomStrengths:
    """The ranks of λ by random heads, made once, to be correlated with several measures."""

    def __init__(self, draws: Sequence[Float[Tensor, " N"]]) -> None:
        self.draws = [draw.double().cpu().numpy() for draw in draws]
        self.ranked = [ranks(draw) for draw in self.draws]

    def correlations(self, values: Float[Tensor, " N"]) -> list[float | None]:
        """With every draw; None where it is undefined."""
        column = values.double().cpu().numpy()
        if np.isnan(column).any():
            return [spearman(draw, column).value for draw in self.draws]
        ranked = ranks(column)  # ranks of ranks are ranks
        return [spearman(draw, ranked).value for draw in self.ranked]


def chance_interval(
    items: Iterable[tuple[str, Sequence[float | None]]], num_seeds: int = 1, confidence: float = 0.95
) -> tuple[float, float] | None:
    """The range in which the mean over scenes, and over `num_seeds` draws, lies with this probability; None where it is
    defined for no draw.

    Args:
        items: (scene, correlation of every draw); several of one scene are averaged.
        num_seeds: networks over which the correlation to compare with is a mean.
        confidence: the probability.
    """
    scenes: dict[str, list[Sequence[float | None]]] = {}
    for scene, values in items:
        scenes.setdefault(scene, []).append(values)
    means = []
    for draw in range(min((len(values) for found in scenes.values() for values in found), default=0)):
        of_scenes = [_mean([values[draw] for values in found]) for found in scenes.values()]
        mean = _mean(of_scenes)
        means += [] if mean is None else [mean]
    if not means:
        return None
    if num_seeds > 1:
        means = np.random.default_rng(0).choice(means, (10_000, num_seeds)).mean(1)
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
