# SPDX-License-Identifier: Apache-2.0
"""Which images of a scene are held out."""

from __future__ import annotations

from dataclasses import dataclass

from ..dataclass_state import DefaultsForMissingFields
from .errors import SceneError

MIN_TRAINING_VIEWS = 2


@dataclass
class SplitConfig(DefaultsForMissingFields):
    """Which images are never context or target in training."""

    every: int = 8
    """Hold out every n-th image."""
    first: int = 1
    """The first image held out, counted from 0. The default is not at the end of a sequence, so that it is seen from
    both sides even where few images are all there is."""
    all: bool = False
    """Use every image for training; nothing is held out then."""


def split_indices(num_frames: int, config: SplitConfig | None = None) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(training, evaluation) indices of a scene of `num_frames` images, both ascending.

    Held out are `first`, `first + every`, …: at least one image from three images on (the middle one, where the rule
    gives none), and never so many that fewer than two images are left for training. Of two images, or with `all`,
    none is held out.

    Raises:
        SceneError: fewer than two images, or a setting that holds everything out.
    """
    config = SplitConfig() if config is None else config
    if config.every < 2 or config.first < 0:
        raise SceneError(f"split: every must be at least 2 and first at least 0, got {config.every}, {config.first}")
    if num_frames < MIN_TRAINING_VIEWS:
        raise SceneError(f"split: a scene needs at least {MIN_TRAINING_VIEWS} images, got {num_frames}")
    evaluation: list[int] = []
    if not config.all and num_frames > MIN_TRAINING_VIEWS:
        evaluation = list(range(config.first, num_frames, config.every)) or [num_frames // 2]
        evaluation = evaluation[: num_frames - MIN_TRAINING_VIEWS]
    return tuple(i for i in range(num_frames) if i not in set(evaluation)), tuple(evaluation)
