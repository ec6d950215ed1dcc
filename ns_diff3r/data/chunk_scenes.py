# SPDX-License-Identifier: Apache-2.0
"""Scenes in chunks as a collection: read when they are asked for, drawn chunk by chunk in a shuffled order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, overload

import numpy as np
from jaxtyping import Float, Int

from .chunks import ChunkFolder, chunk_folders, image_bytes
from .collection import CollectionConfig, SceneCollection
from .errors import SceneError
from .frames import Frame
from .image_cache import ImageCache
from .images import Raster, read_image, size_of_image
from .intrinsics import Intrinsics
from .scenes import Scene
from .split import MIN_TRAINING_VIEWS, split_indices

SCENES_IN_MEMORY = 256
"""Cameras of so many scenes are kept."""
TEST = "test/"


@dataclass(frozen=True, eq=False)
class ChunkFrame(Frame):
    """A photograph within a chunk; `image_path` only names it.

    Attributes:
        folder: of the chunks.
        key: of the scene.
        index: of the photograph in it.
    """

    folder: ChunkFolder = field(kw_only=True)
    key: str = field(kw_only=True)
    index: int = field(kw_only=True)

    def stored(self) -> bytes:
        """The JPEG file."""
        return image_bytes(self.folder.example(self.key)["images"][self.index])

    def raster(self, reduction: int) -> Raster:
        """See `Frame`."""
        return read_image(self.image_path, reduction=reduction, content=self.stored())


def chunk_scene(folder: ChunkFolder, key: str) -> Scene:
    """The scene of a key, its images unread.

    Raises:
        SceneError: as `ChunkFolder.example`, or cameras that are none.
    """
    example = folder.example(key)
    where = folder.path / key
    rows = example["cameras"].double().numpy()
    if not np.isfinite(rows).all():
        raise SceneError(f"{where}: a camera holds a NaN or an infinity")
    frames = []
    for index, (row, stored) in enumerate(zip(rows, example["images"], strict=True)):
        width, height = size_of_image(where / f"{index:06d}.jpg", image_bytes(stored))
        fx, fy, cx, cy = row[:4] * (width, height, width, height)
        frames.append(
            ChunkFrame(
                where / f"{index:06d}.jpg",
                _opengl_pose(row[6:].reshape(3, 4)),
                Intrinsics(fx, fy, cx, cy, width, height),
                folder=folder,
                key=key,
                index=index,
            )
        )
    return Scene(where, tuple(frames))


def _opengl_pose(world_to_camera: Float[np.ndarray, "3 4"]) -> Float[np.ndarray, "4 4"]:
    """Camera-to-world with OpenGL axes and the nearest rotation."""
    left, _, right = np.linalg.svd(world_to_camera[:, :3])
    rotation = (left @ right).T
    pose = np.eye(4)
    pose[:3, :3] = rotation * [1.0, -1.0, -1.0]
    pose[:3, 3] = -rotation @ world_to_camera[:, 3]
    return pose


class _Lazy(Sequence[Any]):
    """A sequence whose elements are made when they are asked for."""

    def __init__(self, count: int, make: Callable[[int], Any], kept: int) -> None:
        self._count = count
        self._make = lru_cache(maxsize=kept)(make)

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Any]: ...
    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return [self._make(i) for i in range(*index.indices(self._count))]
        return self._make(range(self._count)[index])

    def __iter__(self) -> Iterator[Any]:
        return (self._make(index) for index in range(self._count))


class ChunkCollection(SceneCollection):
    """Scenes of chunks under their keys, those of the test folder as "test/key".

    Those of the train folder are for training, with images held out by the config's split; those of the test folder
    are held out as a whole, as are scenes that `eval_scenes` names.
    """

    def __init__(self, folders: dict[str, ChunkFolder], config: CollectionConfig | None = None) -> None:
        self.config = CollectionConfig() if config is None else config
        self._check_config()
        entries = [
            (folder, key, split == "test", (split, folder.chunk_of[place]))
            for split, folder in folders.items()
            for place, key in enumerate(folder.keys)
        ]
        if not entries:
            raise SceneError("a collection needs at least one scene, and the chunks hold none")
        self.names = tuple((TEST if test else "") + key for _, key, test, _ in entries)
        self._scenes = _Lazy(len(entries), lambda i: self._checked(*entries[i][:2]), SCENES_IN_MEMORY)
        self._splits = _Lazy(len(entries), self._split, 16 * SCENES_IN_MEMORY)
        self._cache = ImageCache(self.config.cache_megabytes * 2**20)
        unknown = [name for name in self.config.eval_scenes if name not in self.names]
        if unknown:
            raise SceneError(f"eval_scenes: there is no scene {unknown[0]!r} among {len(entries)} in the chunks")
        chosen = set(self.config.eval_scenes)
        held_out = [i for i, (_, _, test, _) in enumerate(entries) if test or self.names[i] in chosen]
        out = set(held_out)
        self.training_scenes = tuple(i for i in range(len(entries)) if i not in out) or tuple(held_out)
        self.evaluation_scenes = tuple(held_out or range(len(entries)))
        chunks: dict[Any, list[int]] = {}
        for scene in self.training_scenes:
            chunks.setdefault(entries[scene][3], []).append(scene)
        self._chunks = list(chunks.values())

    @property
    def is_read_ahead(self) -> bool:
        """False: what a scene holds is only known once it is read."""
        return False

    def shuffled(self, generator: np.random.Generator, source: int = 0) -> Int[np.ndarray, " S"]:
        """Training scenes, chunks and the scenes within each in a random order: few files are open at once."""
        order = generator.permutation(len(self._chunks))
        return np.concatenate([generator.permutation(self._chunks[chunk]) for chunk in order])

    def _checked(self, folder: ChunkFolder, key: str) -> Scene:
        scene = chunk_scene(folder, key)
        if scene.num_frames < MIN_TRAINING_VIEWS:
            raise SceneError(f"{scene.path}: {scene.num_frames} image; at least {MIN_TRAINING_VIEWS} are needed")
        return scene

    def _split(self, index: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        return split_indices(self._scenes[index].num_frames, self.config.split)


def open_chunks(path: Path, config: CollectionConfig | None = None) -> ChunkCollection | None:
    """The chunks at `path`, or None if there are none; SceneError if they cannot be used."""
    folders = chunk_folders(path)
    if not folders:
        return None
    return ChunkCollection({split: ChunkFolder(folder) for split, folder in folders.items()}, config)
