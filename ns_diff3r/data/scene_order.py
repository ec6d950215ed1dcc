# SPDX-License-Identifier: Apache-2.0
"""In which order a training run meets its scenes, as a pure function of a seed and the place in the sequence."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from threading import Lock

import numpy as np
from jaxtyping import Int

from .collection import SceneCollection

ORDER, SOURCES = 0, 2
"""First numbers of the keys of what is drawn here."""
BLOCK = 4096
"""Places whose sources are drawn together."""
EPOCHS_KEPT = 2
"""Orders of so many epochs are kept, of every source."""

Generators = Callable[..., np.random.Generator]


class SceneOrder:
    """Scene of every place of the sequence: of each source every training scene comes once before any comes again.

    Of several sources, each place draws its own by the weights. How often a source came before a place is counted by
    drawing them all, about 0.1 s for ten million, once where a run is continued.

    Args:
        collection: of the scenes.
        generators: key → generator, a function of the seed.
    """

    def __init__(self, collection: SceneCollection, generators: Generators) -> None:
        self._collection, self._generators = collection, generators
        weights = np.cumsum(collection.weights)
        self._shares = weights / weights[-1]
        self._before = [np.zeros(len(weights), dtype=np.int64)]  # how often each source came before a block
        self._lock = Lock()
        self._block = lru_cache(maxsize=4)(self._draw_block)
        self._order = lru_cache(maxsize=EPOCHS_KEPT * len(weights))(self._shuffle)
        self._sizes = [len(self._shuffle(source, 0)) for source in range(len(weights))] if len(weights) > 1 else []

    def scene(self, position: int) -> int:
        """Index of the scene at a place, counted from 0."""
        if len(self._shares) == 1:
            epoch, place = divmod(position, len(self._collection.training_scenes))
            return int(self._order(0, epoch)[place])
        number, within = divmod(position, BLOCK)
        with self._lock:
            while len(self._before) <= number:
                drawn = self._block(len(self._before) - 1)
                self._before.append(self._before[-1] + np.bincount(drawn, minlength=len(self._shares)))
        drawn = self._block(number)
        source = int(drawn[within])
        turn = int(self._before[number][source]) + int((drawn[:within] == source).sum())
        epoch, place = divmod(turn, self._sizes[source])
        return int(self._order(source, epoch)[place])

    def _draw_block(self, number: int) -> Int[np.ndarray, " B"]:
        drawn = self._generators(SOURCES, number).random(BLOCK)
        return np.searchsorted(self._shares, drawn, side="right")

    def _shuffle(self, source: int, epoch: int) -> Int[np.ndarray, " S"]:
        key = (ORDER, epoch) if len(self._shares) == 1 else (ORDER, epoch, source)
        return self._collection.shuffled(self._generators(*key), source)
