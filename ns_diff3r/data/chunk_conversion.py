# SPDX-License-Identifier: Apache-2.0
"""From scenes to chunks and back."""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from .chunk_scenes import ChunkFrame, chunk_scene
from .chunks import CHUNK_BYTES, ChunkFolder, bytes_tensor, camera_row, write_chunks
from .collection import SceneCollection
from .errors import SceneError
from .frames import Development, Frame
from .intrinsics import Intrinsics
from .resampling import Resampling
from .transforms_writing import frame_fields, write_transforms

JPEG_QUALITY = 95
JPEG_SUFFIXES = (".jpg", ".jpeg")


def scenes_to_chunks(
    collection: SceneCollection,
    output: Path,
    *,
    test: Sequence[str] = (),
    max_size: int | None = None,
    chunk_bytes: int = CHUNK_BYTES,
    progress: Callable[[str], None] | None = None,
) -> dict[str, int]:
    """Write all scenes of a collection as chunks; returns the number of scenes by split.

    JPEG files that are used as they are keep their bytes. Other images, those that must be turned or undistorted, and
    all where `max_size` is smaller are encoded anew. Sparse points have no place in the format.

    Args:
        collection: scenes with names that are unique as keys.
        output: root folder; scenes go to its sub-folders train and test.
        test: names of the scenes for `test`; the others are for `train`.
        max_size: longest side of the images.
        chunk_bytes: size of a file, about.
        progress: called with the name of each scene when it begins.

    Raises:
        SceneError: an unknown name in `test`, a folder that holds chunks already, an image that cannot be read.
    """
    unknown = sorted(set(test) - set(collection.names))
    if unknown:
        raise SceneError(f"there is no scene {unknown[0]!r}; the scenes are {', '.join(collection.names)}")
    counts = {}
    for split in ("train", "test"):
        members = [i for i, name in enumerate(collection.names) if (name in test) == (split == "test")]
        if members:
            examples = _examples(collection, members, max_size, progress or (lambda name: None))
            counts[split] = write_chunks(output / split, examples, chunk_bytes)
    return counts


def _examples(
    collection: SceneCollection, members: Sequence[int], max_size: int | None, progress: Callable[[str], None]
) -> Iterator[dict[str, Any]]:
    for index in members:
        name = collection.names[index]
        progress(name)
        images, rows = [], []
        for frame in collection.scene(index).frames:
            content, size = _stored(frame, max_size)
            images.append(bytes_tensor(content))
            rows.append(_row(size, frame.camera_to_world))
        yield {
            "key": _plain(name),
            "url": "",
            "timestamps": torch.arange(len(images)),
            "cameras": torch.from_numpy(np.stack(rows)),
            "images": images,
        }


def _plain(name: str) -> str:
    """A name that stays within the folder that it is used in."""
    return re.sub(r"[^\w.-]+", "_", name).lstrip(".") or "_"


def _stored(frame: Frame, max_size: int | None) -> tuple[bytes, Intrinsics]:
    """A JPEG file of a photograph, and the intrinsics of that."""
    stored = frame.intrinsics
    shrinks = max_size is not None and max_size < max(stored.width, stored.height)
    if not shrinks and isinstance(frame, ChunkFrame):
        return frame.stored(), stored
    as_it_is = frame.development == Development(background=frame.development.background)
    if not shrinks and as_it_is and frame.image_path.suffix.lower() in JPEG_SUFFIXES:
        return frame.image_path.read_bytes(), stored
    fitted = max_size if max_size is not None else max(stored.width, stored.height)
    resampling = Resampling.to_fit((stored.height, stored.width), fitted)
    pixels = (frame.image(resampling) * 255).round().to(torch.uint8).numpy()
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return buffer.getvalue(), resampling.apply_to_intrinsics(stored)


def _row(k: Intrinsics, camera_to_world: Any) -> Any:
    opencv = np.asarray(camera_to_world) * [1.0, -1.0, -1.0, 1.0]
    return camera_row(np.linalg.inv(opencv), k.fx, k.fy, k.cx, k.cy, k.width, k.height)


def chunks_to_scenes(
    folder: ChunkFolder, output: Path, *, keys: Sequence[str] = (), progress: Callable[[str], None] | None = None
) -> int:
    """Write scenes of chunks as folders with transforms.json and the stored JPEG files; returns how many.

    Args:
        folder: of chunks.
        output: folder of the scenes; one sub-folder per key, where characters that no file name should have are `_`.
        keys: of the scenes; all if none is given.
        progress: called with the key of each scene when it begins.

    Raises:
        SceneError: an unknown key, a scene that cannot be read, or two keys that would share a sub-folder.
    """
    chosen = list(keys) or folder.keys
    names = [_plain(key) for key in chosen]
    counts = Counter(names)
    shared = [key for key, name in zip(chosen, names, strict=True) if counts[name] > 1]
    if shared:
        raise SceneError(f"{folder.path}: scenes {shared[0]!r} and {shared[1]!r} would share a folder in {output}")
    for key, name in zip(chosen, names, strict=True):
        if progress is not None:
            progress(key)
        scene, target = chunk_scene(folder, key), output / name
        (target / "images").mkdir(parents=True, exist_ok=True)
        entries = []
        for frame in scene.frames:
            assert isinstance(frame, ChunkFrame)
            path = target / "images" / frame.image_path.name
            path.write_bytes(frame.stored())
            entries.append(frame_fields(target, path, frame.camera_to_world, frame.intrinsics))
        write_transforms(target, entries)
    return len(chosen)
