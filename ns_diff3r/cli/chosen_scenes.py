# SPDX-License-Identifier: Apache-2.0
"""The scenes that a command is asked to judge."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..data import SceneCollection


def chosen_scenes(collection: SceneCollection, names: Sequence[str]) -> list[int]:
    """Indices of the scenes of these names; of none, the evaluation scenes. SceneError for a name that is not there."""
    from ..data import SceneError

    unknown = [name for name in names if name not in collection.names]
    if unknown:
        raise SceneError(f"--scenes: there is no {unknown[0]!r}; the scenes are {', '.join(collection.names[:20])}")
    return [collection.names.index(name) for name in names] or list(collection.evaluation_scenes)
