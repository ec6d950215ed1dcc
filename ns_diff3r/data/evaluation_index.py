# SPDX-License-Identifier: Apache-2.0
"""Evaluation indices of pixelSplat and its successors: which views of which scenes are judged, as JSON.

{"<key>": {"context": [left, right], "target": [a, b, c]}, "<key>": null, …}        null: the scene is left out
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from .errors import SceneError


@dataclass(frozen=True)
class IndexEntry:
    """Frames of one scene."""

    context: tuple[int, ...]
    targets: tuple[int, ...]


def read_evaluation_index(path: Path) -> dict[str, IndexEntry]:
    """Key → frames, without the scenes that are left out.

    Raises:
        SceneError: unreadable, or an entry that is not of the format; names the file and the key.
    """
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise SceneError(f"{path}: not a readable evaluation index ({error})") from error
    if not isinstance(content, dict):
        raise SceneError(f"{path}: not an evaluation index (an object of scene keys)")
    return {key: _entry(path, key, entry) for key, entry in content.items() if entry is not None}


def _entry(path: Path, key: str, entry: object) -> IndexEntry:
    frames = [entry.get(name) for name in ("context", "target")] if isinstance(entry, dict) else [None]
    for values in frames:
        if not isinstance(values, list) or not values or not all(type(v) is int and v >= 0 for v in values):
            raise SceneError(f"{path}: scene {key!r} needs lists of frame numbers, context and target, or null")
    context, targets = (tuple(values) for values in frames)  # pyright: ignore[reportArgumentType]
    return IndexEntry(context, targets)
