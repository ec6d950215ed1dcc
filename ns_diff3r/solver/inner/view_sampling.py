# SPDX-License-Identifier: Apache-2.0
"""Which photographs an inner step looks at, where it does not look at all of them."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from ...dataclass_state import DefaultsForMissingFields

ViewOrder = Literal["all", "random", "sequential", "neighbours", "farthest_point"]
VIEW_ORDERS = ("all", "random", "sequential", "neighbours", "farthest_point")


@dataclass(frozen=True)
class ViewSampling(DefaultsForMissingFields):
    """Every view comes once before any comes again (as the first of a step, where a step takes a neighbourhood)."""

    order: ViewOrder = "all"
    """"all" views in every step; "random"; "sequential" as they are given; "neighbours": a random view and those whose
    cameras are nearest to it; "farthest_point": a random view, then always the camera farthest from those taken."""
    views_per_step: int = 1
    """Views in a step, for every order but "all"."""

    def __post_init__(self) -> None:
        if self.order not in VIEW_ORDERS:
            raise ValueError(f"ViewSampling.order must be one of {', '.join(VIEW_ORDERS)}, not {self.order!r}")
        if self.views_per_step < 1:
            raise ValueError(f"ViewSampling.views_per_step must be at least 1, not {self.views_per_step}")


class ViewSampler:
    """The views of every step: a function of the step and a seed alone, so that steps can be taken again."""

    def __init__(self, sampling: ViewSampling, centers: Float[Tensor, "V 3"], seed: int) -> None:
        """`centers`: positions of the cameras."""
        self.sampling, self.seed = sampling, seed
        self.num_views = len(centers)
        self.per_step = min(sampling.views_per_step, self.num_views)
        self._shuffles: list[list[int]] = []
        self._distances = torch.cdist(centers.double(), centers.double())

    @property
    def takes_all(self) -> bool:
        """Whether every step sees every view."""
        return self.sampling.order == "all" or self.per_step == self.num_views

    def views(self, step: int) -> list[int]:
        """Indices of the views of a step, each once."""
        order, count = self.sampling.order, self.per_step
        if self.takes_all:
            return list(range(self.num_views))
        if order == "sequential":
            return [(step * count + i) % self.num_views for i in range(count)]
        if order == "random":
            return self._shuffled(step, count)
        taken = [self._drawn(step)]
        while len(taken) < count:
            if order == "neighbours":
                score = -self._distances[taken[0]]
            else:
                score = self._distances[taken].amin(0)
            score = score.index_fill(0, torch.tensor(taken), -torch.inf)
            taken.append(int(score.argmax()))
        return taken

    def _shuffled(self, step: int, count: int) -> list[int]:
        """The step's share of an endless sequence of shuffles, none of which repeats a view within a step."""
        first = step * count
        return [self._drawn(index, count) for index in range(first, first + count)]

    def _drawn(self, index: int, count: int = 1) -> int:
        epoch, place = divmod(index, self.num_views)
        while len(self._shuffles) <= epoch:
            self._shuffles.append(self._next_shuffle(count))
        return self._shuffles[epoch][place]

    def _next_shuffle(self, count: int) -> list[int]:
        epoch = len(self._shuffles)
        views = list(range(self.num_views))
        random.Random(1_000_003 * self.seed + epoch).shuffle(views)
        begun = (epoch * self.num_views) % count  # views that a step across the border has from the shuffle before
        if begun:
            taken = self._shuffles[-1][-begun:]
            views = [view for view in views if view not in taken] + taken
        return views
