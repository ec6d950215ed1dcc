# SPDX-License-Identifier: Apache-2.0
"""Many scenes under one name each; photographs are read when they are asked for, through one bounded cache."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Int

from ..dataclass_state import DefaultsForMissingFields
from ..splats import Cameras, SparsePoints, Views
from .errors import SceneError, SceneWarning
from .generated_settings import GENERATED, GeneratedConfig, is_generated
from .image_cache import ImageCache
from .readers import has_photographs, is_scene, load_scene
from .scenes import Scene
from .split import MIN_TRAINING_VIEWS, SplitConfig, split_indices

if TYPE_CHECKING:
    from .mixture_collection import OpenSource

SEARCH_DEPTH = 3
"""How many folders deep scenes are looked for."""


@dataclass
class CollectionConfig(DefaultsForMissingFields):
    """Which scenes are for training, which of their images, and at what size."""

    split: SplitConfig = field(default_factory=SplitConfig)
    """Which images of each scene are held out."""
    eval_scenes: tuple[str, ...] = ()
    """Names of scenes that are held out as a whole."""
    image_size: tuple[int, int] | None = None
    """(height, width) of every view, exactly; the centre of each photograph is taken."""
    max_size: int | None = None
    """Instead of `image_size`, the longest side of the views of each scene."""
    near: float | None = None
    """Smallest depth of every view in world units; default: from each scene's points or cameras."""
    far: float | None = None
    """Largest depth of every view in world units; default: from each scene's points or cameras."""
    sparse_points: bool = False
    """Give the network the scene's sparse points, where it has them and the network (compact) reads them: depths then
    agree with them, and what no context view sees is made of them. Registration triangulates them from all photographs,
    those held out among them."""
    cache_megabytes: int = 1024
    """Memory for images that have been read, in MiB."""
    generated: GeneratedConfig = field(default_factory=GeneratedConfig)
    """Scenes that are made while they are used, with `--data generated`."""


@dataclass(frozen=True)
class ViewBounds:
    """Settings of the sampler that a source of scenes has of its own.

    Attributes:
        where: they stand, for messages.
        settings: name of the sampler's setting → value.
    """

    where: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)


class SceneCollection:
    """One or more scenes, their split into training and evaluation images, and their views at one size per scene.

    Cameras and sparse points of all scenes are kept in memory; images are read when views are asked for, and kept up to
    `cache_megabytes`.

    Attributes:
        config: as given.
        names: of the scenes, each once, in ascending order where they come from a folder.
        training_scenes: indices of the scenes to train on.
        evaluation_scenes: indices of the scenes held out as a whole; all scenes where none is.

    Raises:
        SceneError: no scene, a scene of fewer than two images or smaller than `image_size`, an unknown name in
            `eval_scenes`, no scene left for training, settings that contradict one another.
    """

    def __init__(
        self, scenes: Sequence[Scene], config: CollectionConfig | None = None, names: Sequence[str] | None = None
    ) -> None:
        self.config = CollectionConfig() if config is None else config
        self._check_config()
        if not scenes:
            raise SceneError("a collection needs at least one scene")
        for scene in scenes:
            _check_scene(scene, self.config)
        self._scenes: Sequence[Scene] = list(scenes)
        self.names = tuple(_unique([scene.name for scene in scenes] if names is None else names))
        splits = [split_indices(scene.num_frames, self.config.split) for scene in scenes]
        self._splits: Sequence[tuple[tuple[int, ...], tuple[int, ...]]] = splits
        self._cache = ImageCache(self.config.cache_megabytes * 2**20)
        unknown = [name for name in self.config.eval_scenes if name not in self.names]
        if unknown:
            raise SceneError(f"eval_scenes: there is no scene {unknown[0]!r}; the scenes are {', '.join(self.names)}")
        held_out = [i for i, name in enumerate(self.names) if name in self.config.eval_scenes]
        self.training_scenes = tuple(i for i in range(len(self.names)) if i not in held_out)
        self.evaluation_scenes = tuple(held_out or range(len(self.names)))
        if not self.training_scenes:
            raise SceneError(f"eval_scenes: all {len(self.names)} scenes are held out, none is left for training")

    @classmethod
    def from_scenes(
        cls, scenes: Sequence[Scene], config: CollectionConfig | None = None, names: Sequence[str] | None = None
    ) -> SceneCollection:
        """A collection of scenes that are at hand, as from a nerfstudio dataparser; as the constructor."""
        return cls(scenes, config, names)

    def _check_config(self) -> None:
        near, far = self.config.near, self.config.far
        if self.config.image_size is not None and self.config.max_size is not None:
            raise SceneError("give image_size or max_size, not both")
        if self.config.cache_megabytes < 0:
            raise SceneError(f"cache_megabytes must not be negative, got {self.config.cache_megabytes}")
        if (near is not None and near <= 0) or (far is not None and far <= (near or 0)):
            raise SceneError(f"near and far must satisfy 0 < near < far, got near = {near}, far = {far}")

    @property
    def num_scenes(self) -> int:
        """How many scenes there are, held out or not."""
        return len(self.names)

    @property
    def is_read_ahead(self) -> bool:
        """Whether cameras of all scenes are in memory, so that asking about all of them is cheap."""
        return True

    @property
    def weights(self) -> tuple[float, ...]:
        """How often scenes of each source come in training, by proportion; one source unless it is a mixture."""
        return (1.0,)

    def source_of(self, index: int) -> int:
        """The source that a scene is from."""
        return 0

    def view_bounds(self, source: int) -> ViewBounds:
        """What a source says of the choice of views in training."""
        return ViewBounds()

    def shuffled(self, generator: np.random.Generator, source: int = 0) -> Int[np.ndarray, " S"]:
        """The training scenes of a source in a random order, each once."""
        return np.asarray(self.training_scenes)[generator.permutation(len(self.training_scenes))]

    def scene(self, index: int) -> Scene:
        """A scene with its sparse points."""
        return self._scenes[index]

    def training_indices(self, index: int) -> tuple[int, ...]:
        """Frames of a scene that may be context or target in training, and context in evaluation."""
        return self._splits[index][0]

    def evaluation_indices(self, index: int) -> tuple[int, ...]:
        """Frames of a scene that are held out; () for a scene of two images and with `split.all`."""
        return self._splits[index][1]

    def views(self, index: int, frames: Sequence[int], dtype: torch.dtype = torch.float32) -> Views:
        """Frames of a scene as views of the collection's size, with near and far, and points if settings say so.

        Raises:
            SceneError: as Scene.views does.
        """
        size, max_size = self.config.image_size, self.config.max_size
        views = self.scene(index).views(frames, size=size, max_size=max_size, dtype=dtype, cache=self._cache)
        near, far, points = views.near, views.far, None
        if self.config.near is not None:
            near = views.images.new_full((views.num_views,), self.config.near)
        if self.config.far is not None:
            far = views.images.new_full((views.num_views,), self.config.far)
        if self.config.sparse_points and (cloud := self.scene(index).points) is not None:
            points = SparsePoints(*(torch.from_numpy(x).to(dtype) for x in (cloud.points, cloud.colors)))
        return replace(views, near=near, far=far, points=points)

    def cameras(self, index: int, frames: Sequence[int], dtype: torch.dtype = torch.float32) -> Cameras:
        """The cameras of `views`, without opening an image."""
        size, max_size = self.config.image_size, self.config.max_size
        return self.scene(index).cameras(frames, size=size, max_size=max_size, dtype=dtype)


def open_collection(
    path: str | Path, config: CollectionConfig | None = None, open_with_dataparser: OpenSource | None = None
) -> SceneCollection:
    """One scene, a folder of scenes at most three levels deep, chunks of scenes, or a file that names several such
    sources (`mixture`); no image is decoded for it.

    The path "generated" is `config.generated`, unless there is a file or folder of that name.

    Scenes that cannot be used are left out with a warning that names the file and the reason, as long as one is left.

    Args:
        path: of the data.
        config: which scenes and images, and their size.
        open_with_dataparser: opens sources of a mixture that nerfstudio's dataparsers read.

    Raises:
        SceneError: the path does not exist, or no scene under it can be used.
    """
    path, config = Path(path), CollectionConfig() if config is None else config
    if is_generated(path):
        from .generated_collection import GeneratedCollection

        return GeneratedCollection(config)
    if not path.exists():
        raise SceneError(f"{path}: no such file or folder (generated scenes are called {GENERATED!r})")
    from .chunk_scenes import open_chunks
    from .mixture_collection import is_mixture, open_mixture

    if is_mixture(path):
        return open_mixture(path, config, open_collection, open_with_dataparser)
    chunks = open_chunks(path, config) if path.is_dir() else None
    if chunks is not None:
        return chunks
    if path.is_file() or is_scene(path):
        return SceneCollection([load_scene(path, min_frames=MIN_TRAINING_VIEWS)], config)
    scenes, names, reasons = [], [], []
    for folder in find_scenes(path):
        try:
            scene = load_scene(folder, min_frames=MIN_TRAINING_VIEWS)
            _check_scene(scene, config)
        except SceneError as error:
            reasons.append(error)
            continue
        scenes.append(scene)
        names.append(folder.relative_to(path).as_posix())
    if not scenes and not reasons:
        load_scene(path)  # raises, and says what is missing
    if not scenes:
        count = "the only scene cannot" if len(reasons) == 1 else f"none of the {len(reasons)} scenes can"
        raise SceneError(f"{path}: {count} be used: {reasons[0]}") from reasons[0]
    for reason in reasons:
        warnings.warn(f"scene left out: {reason}", SceneWarning, stacklevel=2)
    return SceneCollection(scenes, config, names)


def _check_scene(scene: Scene, config: CollectionConfig) -> None:
    """Raise SceneError where a scene cannot give the views that the collection promises."""
    if scene.num_frames < MIN_TRAINING_VIEWS:
        raise SceneError(f"{scene.path}: {scene.num_frames} image; at least {MIN_TRAINING_VIEWS} are needed")
    scene.cameras(range(scene.num_frames), size=config.image_size, max_size=config.max_size)
    if scene.depth_range is not None:
        low = scene.depth_range[0] if config.near is None else config.near
        high = scene.depth_range[1] if config.far is None else config.far
        if (np.asarray(low) >= np.asarray(high)).any():
            raise SceneError(f"{scene.path}: the near or far asked for contradicts the depth range found in the scene")


def find_scenes(path: Path, depth: int = SEARCH_DEPTH) -> list[Path]:
    """Folders below `path`, at most so deep, that look like scenes or like photographs without poses."""
    found = []
    for folder in sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith(".")):
        if is_scene(folder):
            found.append(folder)
            continue
        inside = find_scenes(folder, depth - 1) if depth > 1 else []
        # A folder of photographs without poses is a scene that cannot be used, and shall be named as such.
        found += inside or ([folder] if has_photographs(folder) else [])
    return found


def _unique(names: Sequence[str]) -> list[str]:
    """The names with a number where one has been taken already."""
    taken: list[str] = []
    for name in names:
        count, candidate = 1, name
        while candidate in taken:
            count += 1
            candidate = f"{name}-{count}"
        taken.append(candidate)
    return taken
