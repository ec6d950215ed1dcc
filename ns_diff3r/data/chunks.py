# SPDX-License-Identifier: Apache-2.0
"""The chunk format of pixelSplat, MVSplat and DepthSplat (RealEstate10K, ACID, DL3DV): many scenes in few files.

    <root>/{train,test}/000000.torch    a list of examples, about 100 MB
    <root>/{train,test}/index.json      key of a scene → its file

An example is {key, url, timestamps int64 [N], cameras float32 [N, 18], images: N uint8 vectors of JPEG bytes}; a camera
is fx, fy, cx, cy by width and height, two zeros, and world-to-camera [3, 4] row by row (OpenCV).
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from .errors import SceneError

INDEX = "index.json"
SPLITS = ("train", "test")
CHUNK_BYTES = 100_000_000
OPEN_CHUNKS = 8
"""Files that are kept open; their images are read from disk when they are asked for."""


def chunk_folders(path: Path) -> dict[str, Path]:
    """Split name → folder of chunks at `path` or in its train and test folders; "" for `path` itself, {} for none."""
    if (path / INDEX).is_file() and any(path.glob("*.torch")):
        return {"": path}
    return {split: path / split for split in SPLITS if (path / split / INDEX).is_file()}


class ChunkFolder:
    """The scenes of one folder of chunks; what is in memory is bounded by `OPEN_CHUNKS` tables of contents.

    Attributes:
        path: the folder.
        keys: of the scenes, those of one chunk together.
        chunk_of: number of the chunk of every key.

    Raises:
        SceneError: no readable index.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            index = json.loads((path / INDEX).read_text())
            names = sorted({str(name) for name in index.values()})
        except (OSError, ValueError, AttributeError) as error:
            raise SceneError(f"{path / INDEX}: not a readable index of chunks ({error})") from error
        order = {name: number for number, name in enumerate(names)}
        self.keys = sorted(index, key=lambda key: (order[str(index[key])], key))
        self.chunk_of = [order[str(index[key])] for key in self.keys]
        self._file_of = {key: str(index[key]) for key in self.keys}
        self._open: OrderedDict[str, dict[str, Mapping[str, Any]]] = OrderedDict()
        self._lock = Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": OrderedDict(), "_lock": None}  # files are opened anew in every process

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = Lock()

    def example(self, key: str) -> Mapping[str, Any]:
        """One scene as it is stored; its tensors are read when they are used.

        Raises:
            SceneError: an unknown key, or a chunk that is missing, damaged, of another kind, or without the scene.
        """
        name = self._file_of.get(key)
        if name is None:
            raise SceneError(f"{self.path}: there is no scene {key!r}")
        with self._lock:
            if name not in self._open:
                self._open[name] = read_chunk(self.path / name)
                while len(self._open) > OPEN_CHUNKS:
                    self._open.popitem(last=False)
            self._open.move_to_end(name)
            content = self._open[name]
        if key not in content:
            raise SceneError(f"{self.path / name}: scene {key!r} is not in the chunk that {INDEX} names")
        return content[key]


def read_chunk(path: Path) -> dict[str, Mapping[str, Any]]:
    """Key → example of a chunk; runs no code from the file.

    Raises:
        SceneError: missing, damaged, or not of the format.
    """
    if not path.is_file():
        raise SceneError(f"{path}: no such chunk")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # a damaged file fails in many ways
        lines = str(error).splitlines() or [type(error).__name__]
        raise SceneError(f"{path}: not a readable chunk ({lines[0]})") from error
    fields = {"key", "cameras", "images"}
    if not isinstance(content, list) or not all(isinstance(e, dict) and fields <= set(e) for e in content):
        raise SceneError(f"{path}: not a chunk of scenes (a list of objects with key, cameras, images)")
    for example in content:
        cameras, images = example["cameras"], example["images"]
        if not isinstance(cameras, Tensor) or cameras.shape != (len(images), 18):
            raise SceneError(f"{path}: scene {example['key']}: cameras must be [{len(images)}, 18], one row an image")
    return {str(example["key"]): example for example in content}


def write_chunks(folder: Path, examples: Iterable[Mapping[str, Any]], chunk_bytes: int = CHUNK_BYTES) -> int:
    """Write examples in their order into new chunks of about `chunk_bytes`, and the index; returns how many scenes.

    Raises:
        SceneError: there are chunks in the folder already, or a key comes twice.
    """
    if (folder / INDEX).exists():
        raise SceneError(f"{folder}: there are chunks in this folder already; choose another one")
    folder.mkdir(parents=True, exist_ok=True)
    index: dict[str, str] = {}
    waiting: list[Mapping[str, Any]] = []
    size = number = 0
    for example in examples:
        key = str(example["key"])
        if key in index:
            raise SceneError(f"{folder}: two scenes have the key {key!r}")
        index[key] = f"{number:06d}.torch"
        waiting.append(example)
        size += sum(image.numel() for image in example["images"])
        if size >= chunk_bytes:
            torch.save(waiting, folder / f"{number:06d}.torch")
            waiting, size, number = [], 0, number + 1
    if waiting:
        torch.save(waiting, folder / f"{number:06d}.torch")
    (folder / INDEX).write_text(json.dumps(index))
    return len(index)


def camera_row(
    world_to_camera: Float[np.ndarray, "4 4"], fx: float, fy: float, cx: float, cy: float, width: int, height: int
) -> Float[np.ndarray, " 18"]:
    """A camera as the format has it, from an OpenCV pose and pixel intrinsics."""
    intrinsics = [fx / width, fy / height, cx / width, cy / height, 0.0, 0.0]
    return np.concatenate([intrinsics, world_to_camera[:3].reshape(-1)]).astype(np.float32)


def image_bytes(image: Tensor) -> bytes:
    """The bytes of a stored image."""
    return image.numpy().tobytes()


def bytes_tensor(content: bytes | Sequence[int]) -> Tensor:
    """Bytes as the format stores them."""
    return torch.frombuffer(bytearray(content), dtype=torch.uint8)
