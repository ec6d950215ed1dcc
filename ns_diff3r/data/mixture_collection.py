# SPDX-License-Identifier: Apache-2.0
"""A weighted mixture of sources as one collection."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int

from ..splats import Cameras, Similarity, Views
from .collection import CollectionConfig, SceneCollection, ViewBounds
from .errors import SceneError
from .mixture import SourceConfig, is_mixture, read_mixture
from .scenes import PointCloud, Scene

SCENES_IN_MEMORY = 256
"""Cameras of so many scenes in the mixture's unit are kept."""
UNBOUNDED = (1e6, 1e6)
"""Baseline of a source that bounds its views by a gap alone."""

OpenSource = Callable[[SourceConfig, CollectionConfig], SceneCollection]


class MixtureCollection(SceneCollection):
    """Scenes of several sources under "source/scene", those of each in its own scale.

    Attributes:
        sources: what the file says, in its order.

    Raises:
        SceneError: a source that cannot be used; the message names the file and the source.
    """

    def __init__(self, sources: Sequence[SourceConfig], config: CollectionConfig, open_source: OpenSource) -> None:
        self.config = config
        self._check_config()
        self.sources = tuple(sources)
        self._check_held_out()
        self._parts: list[SceneCollection] = []
        for source in self.sources:
            try:
                self._parts.append(open_source(source, self._config_of(source)))
            except SceneError as error:
                raise SceneError(f"{source.where} ({source.name}): {error}") from error
        self._offsets = [0, *accumulate(part.num_scenes for part in self._parts)]
        names = zip(self.sources, self._parts, strict=True)
        self.names = tuple(f"{source.name}/{name}" for source, part in names for name in part.names)
        self.training_scenes = self._scenes_of(lambda source, part: part.training_scenes if source.weight > 0 else ())
        judged = self._scenes_of(lambda source, part: part.evaluation_scenes if source.evaluate else ())
        if not judged:
            raise SceneError(f"{self.sources[0].where}.evaluate: no source is left to evaluate")
        self.evaluation_scenes = judged
        self._scaled = lru_cache(maxsize=SCENES_IN_MEMORY)(self._scale_scene)

    def _config_of(self, source: SourceConfig) -> CollectionConfig:
        """The collection's settings in the source's unit; memory is shared by the weights."""
        near, far = self.config.near, self.config.far
        total = sum(other.weight for other in self.sources)
        own: dict[str, Any] = {
            "near": source.near if source.near is not None or near is None else near / source.scale,
            "far": source.far if source.far is not None or far is None else far / source.scale,
            "cache_megabytes": int(self.config.cache_megabytes * source.weight / total),
            "eval_scenes": (*source.eval_scenes, *self._held_out_by_option(source)),
        }
        if source.generated is not None:
            own["generated"] = source.generated
        return replace(self.config, **own)

    def _held_out_by_option(self, source: SourceConfig) -> list[str]:
        prefix = f"{source.name}/"
        return [name.removeprefix(prefix) for name in self.config.eval_scenes if name.startswith(prefix)]

    def _check_held_out(self) -> None:
        for name in self.config.eval_scenes:
            if not any(name.startswith(f"{source.name}/") for source in self.sources):
                known = ", ".join(source.name for source in self.sources)
                raise SceneError(
                    f"eval_scenes: {name!r} is not of the form source/scene; the sources of the mixture are {known}"
                )

    def _scenes_of(self, chosen: Callable[[SourceConfig, SceneCollection], Sequence[int]]) -> tuple[int, ...]:
        parts = zip(self._offsets, self.sources, self._parts, strict=False)
        return tuple(offset + scene for offset, source, part in parts for scene in chosen(source, part))

    @property
    def weights(self) -> tuple[float, ...]:
        """See `SceneCollection`."""
        return tuple(source.weight for source in self.sources)

    def source_of(self, index: int) -> int:
        """The source that a scene is from."""
        return bisect_right(self._offsets, range(self.num_scenes)[index]) - 1

    def view_bounds(self, source: int) -> ViewBounds:
        """See `SceneCollection`. A source that has a gap and no baseline is bounded by the gap alone."""
        own = self.sources[source]
        settings: dict[str, Any] = {} if own.selection is None else {"selection": own.selection}
        baseline = UNBOUNDED if own.baseline is None and own.gap is not None else own.baseline
        if baseline is not None:
            settings |= {"baseline_start": baseline, "baseline_end": own.baseline_end or baseline}
        if own.gap is not None:
            settings |= {"gap_start": own.gap, "gap_end": own.gap_end}
        return ViewBounds(own.where, settings)

    def shuffled(self, generator: np.random.Generator, source: int = 0) -> Int[np.ndarray, " S"]:
        """The training scenes of a source in a random order, each once; chunk by chunk where it has chunks."""
        return self._offsets[source] + self._parts[source].shuffled(generator)

    @property
    def is_read_ahead(self) -> bool:
        """Whether all sources are."""
        return all(part.is_read_ahead for part in self._parts)

    def scene(self, index: int) -> Scene:
        """A scene in the mixture's unit."""
        return self._scaled(range(self.num_scenes)[index])

    def training_indices(self, index: int) -> tuple[int, ...]:
        """See `SceneCollection`."""
        part, scene = self._place(index)
        return part.training_indices(scene)

    def evaluation_indices(self, index: int) -> tuple[int, ...]:
        """See `SceneCollection`."""
        part, scene = self._place(index)
        return part.evaluation_indices(scene)

    def views(self, index: int, frames: Sequence[int], dtype: torch.dtype = torch.float32) -> Views:
        """See `SceneCollection`; poses, near and far in the mixture's unit."""
        part, scene = self._place(index)
        return self._scaling(index).apply_views(part.views(scene, frames, dtype))

    def cameras(self, index: int, frames: Sequence[int], dtype: torch.dtype = torch.float32) -> Cameras:
        """The cameras of `views`, without opening an image."""
        part, scene = self._place(index)
        return self._scaling(index).apply_cameras(part.cameras(scene, frames, dtype))

    def _place(self, index: int) -> tuple[SceneCollection, int]:
        source = self.source_of(index)
        return self._parts[source], range(self.num_scenes)[index] - self._offsets[source]

    def _scaling(self, index: int) -> Similarity:
        eye = torch.eye(3, dtype=torch.float64)
        return Similarity(eye.new_tensor(self.sources[self.source_of(index)].scale), eye, eye.new_zeros(3))

    def _scale_scene(self, index: int) -> Scene:
        part, number = self._place(index)
        scene, scale = part.scene(number), self.sources[self.source_of(index)].scale
        if scale == 1.0:
            return scene
        poses = [frame.camera_to_world.copy() for frame in scene.frames]
        for pose in poses:
            pose[:3, 3] *= scale
        frames = tuple(replace(f, camera_to_world=pose) for f, pose in zip(scene.frames, poses, strict=True))
        points = None if scene.points is None else PointCloud(scene.points.points * scale, scene.points.colors)
        return Scene(scene.path, frames, points)


def open_mixture(
    path: Path,
    config: CollectionConfig,
    open_path: Callable[[Path, CollectionConfig], SceneCollection],
    open_with_dataparser: OpenSource | None = None,
) -> MixtureCollection:
    """The mixture that a file describes.

    Args:
        path: of the file.
        config: for all sources, where the file says nothing else.
        open_path: `open_collection`.
        open_with_dataparser: opens sources that nerfstudio's dataparsers read; None where nerfstudio has no part in it.

    Raises:
        SceneError: as `read_mixture` and `MixtureCollection`.
    """

    def open_source(source: SourceConfig, own: CollectionConfig) -> SceneCollection:
        if source.dataparser is None:
            if is_mixture(source.path):
                raise SceneError("a mixture within a mixture; name its sources here instead")
            return open_path(source.path, own)
        if open_with_dataparser is None:
            raise SceneError(
                f"the dataparser {source.dataparser!r} is nerfstudio's: such a mixture is for ns-train and its commands"
            )
        return open_with_dataparser(source, own)

    return MixtureCollection(read_mixture(path), config, open_source)
