# SPDX-License-Identifier: Apache-2.0
"""Generated scenes as a collection: made when they are asked for, the last few kept."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache, partial

from .collection import CollectionConfig, SceneCollection
from .errors import SceneError
from .generated_settings import GENERATED, check_generated
from .image_cache import ImageCache
from .scenes import Scene
from .split import split_indices
from .worlds.generation import generate_scene

SCENES_IN_MEMORY = 32
DEFAULT_SIZE = 96
"""Longer side of the views where no size is asked for."""


class GeneratedCollection(SceneCollection):
    """The scenes of `config.generated`; each is made when it is asked for, and the last few are kept.

    Raises:
        SceneError: settings that make no sense.
    """

    def __init__(self, config: CollectionConfig) -> None:
        if config.max_size is None and config.image_size is None:
            config = replace(config, max_size=DEFAULT_SIZE)
        self.config = config
        self._check_config()
        generated = config.generated
        check_generated(generated)
        if config.eval_scenes:
            raise SceneError(
                "eval_scenes names scenes of a folder; of generated ones, give generated.num_evaluation_scenes"
            )
        total = generated.num_scenes + generated.num_evaluation_scenes
        self.names = tuple(f"{GENERATED}-{index:06d}" for index in range(total))
        self.training_scenes = tuple(range(generated.num_scenes))
        self.evaluation_scenes = tuple(range(generated.num_scenes, total)) or self.training_scenes[:8]
        self._split = split_indices(generated.num_views, config.split)
        self._cache = ImageCache(config.cache_megabytes * 2**20)
        self._made = lru_cache(maxsize=SCENES_IN_MEMORY)(partial(generate_scene, generated))

    def scene(self, index: int) -> Scene:
        """A scene with its sparse points; IndexError if there are not so many."""
        return self._made(range(self.num_scenes)[index])

    def training_indices(self, index: int) -> tuple[int, ...]:
        """As for scenes of files; the same for all scenes."""
        return self._split[0]

    def evaluation_indices(self, index: int) -> tuple[int, ...]:
        """As for scenes of files; the same for all scenes."""
        return self._split[1]
