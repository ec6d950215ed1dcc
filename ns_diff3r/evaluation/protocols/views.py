# SPDX-License-Identifier: Apache-2.0
"""Which views of which scenes a protocol looks at."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ...data import BatchSampler, SamplerConfig, SceneCollection, SceneError
from ...data.chunk_scenes import TEST, ChunkCollection
from ...data.evaluation_index import IndexEntry
from ...data.view_selection import view_distances

ExtraViews = Literal["even", "random", "spread"]
OwnViews = Literal["nearest", "covering"]
NAMES_SHOWN = 3


@dataclass(frozen=True)
class ProtocolScene:
    """Frames of one scene.

    Attributes:
        index: of the scene in its collection.
        name: its key in evaluation indices, in tables and as a file name.
        context: frames, ascending.
        targets: frames, none of them context.
    """

    index: int
    name: str
    context: tuple[int, ...]
    targets: tuple[int, ...]


@dataclass(frozen=True)
class ProtocolPlan:
    """Scenes to measure, and what the reader must know about the choice."""

    scenes: tuple[ProtocolScene, ...]
    notes: tuple[str, ...]

    def to_index(self) -> dict[str, dict[str, list[int]]]:
        """The choice as an evaluation index, so that other programs can look at the same views."""
        return {s.name: {"context": list(s.context), "target": list(s.targets)} for s in self.scenes}


def choose_views(
    collection: SceneCollection,
    index: Mapping[str, IndexEntry] | None,
    num_context: int,
    extra_views: ExtraViews = "even",
    names: Sequence[str] = (),
    whole_index: bool = False,
    own_views: OwnViews = "nearest",
) -> ProtocolPlan:
    """The views of every scene.

    With an index, its scenes and frames: of more context views than asked for, evenly spread ones with the outermost
    two; of fewer, further ones by `extra_views`. Without, the collection's evaluation scenes and images that its split
    holds out, by `own_views`.

    Args:
        collection: the data.
        index: scene key → frames.
        num_context: context views, at least 2.
        extra_views: how views that the index does not name are chosen.
        names: of the scenes to take; all if none is given.
        own_views: without an index. nearest: the held-out image whose nearest training images are nearest, these as its
            context, and whichever held-out images have the same; covering: all held-out images, and training images
            that cover them.
        whole_index: an index that names scenes which the data lack is an error; otherwise a note.

    Raises:
        SceneError: no scene is left; an unknown name in `names`; with `whole_index`, a scene of the index that is not
            there.
    """
    keys = {scene_key(collection, i): i for i in range(collection.num_scenes)}
    unknown = [name for name in names if name not in keys]
    if unknown:
        raise SceneError(f"there is no scene {unknown[0]!r} in the data; there are {_some(list(keys))}")
    notes: list[str] = []
    if index is not None:
        missing = [key for key in index if key not in keys]
        if missing and (whole_index or len(missing) == len(index)):
            raise SceneError(
                f"the evaluation index names scenes that the data lack: {_some(missing)} ({len(missing)} of "
                f"{len(index)}); the data have {_some(list(keys))}"
            )
        if missing:
            notes.append(
                f"{len(missing)} of the {len(index)} scenes of the evaluation index are not in the data "
                f"({_some(missing)}): figures are over the others"
            )
        # In the order of the data: scenes of one chunk come together.
        chosen = [key for key in names or keys if key in index]
    else:
        held_out = set(collection.evaluation_scenes)
        chosen = list(names) or [key for key, i in keys.items() if i in held_out]
    rule = _Rule(collection, num_context, extra_views, own_views)
    scenes, left_out = [], []
    for key in chosen:
        entry = rule.own(keys[key]) if index is None else rule.indexed(keys[key], key, index[key])
        if entry is None:
            left_out.append(key)
        else:
            scenes.append(ProtocolScene(keys[key], key, entry.context, entry.targets))
    if left_out:
        notes.append(
            f"left out, without {num_context} context views and a target besides: {_some(left_out)} ({len(left_out)})"
        )
    if not scenes:
        why = notes[-1] if left_out else "none of the scenes asked for is in the evaluation index"
        raise SceneError(f"no scene is left to measure: {why}")
    return ProtocolPlan(tuple(scenes), tuple(notes))


def scene_key(collection: SceneCollection, index: int) -> str:
    """Name of a scene as evaluation indices have it."""
    name = collection.names[index]
    return name.removeprefix(TEST) if isinstance(collection, ChunkCollection) else name


class _Rule:
    """How the views of one scene follow from what is known about it; None where there are too few."""

    def __init__(
        self, collection: SceneCollection, num_context: int, extra_views: ExtraViews, own_views: OwnViews
    ) -> None:
        self.collection, self.num_context = collection, num_context
        self.extra_views, self.own_views = extra_views, own_views
        self.sampler = BatchSampler(SamplerConfig(num_context=2, num_evaluation_context=num_context), collection)

    def own(self, scene: int) -> IndexEntry | None:
        if self.own_views == "covering":
            context, targets = self.sampler.evaluation(scene)
            return IndexEntry(context, targets) if targets and len(context) == self.num_context else None
        distances = view_distances(self.collection.scene(scene).frames)
        items = [item for item in self.sampler.evaluation_items(scene) if item.held_out]
        items = [item for item in items if len(item.context) == self.num_context]
        if not items:
            return None
        best = min(items, key=lambda item: distances[np.ix_(item.targets, item.context)].mean())
        return IndexEntry(best.context, best.targets)

    def indexed(self, scene: int, key: str, entry: IndexEntry) -> IndexEntry | None:
        given = tuple(sorted(set(entry.context)))
        targets = tuple(frame for frame in entry.targets if frame not in given)
        if len(given) >= self.num_context:
            places = np.linspace(0, len(given) - 1, self.num_context).round().astype(int)
            return IndexEntry(tuple(given[i] for i in places), targets)
        missing, taken = self.num_context - len(given), {*given, *targets}
        free = [frame for frame in range(given[0] + 1, given[-1]) if frame not in taken]
        if len(free) < missing:
            free = [frame for frame in range(self.collection.scene(scene).num_frames) if frame not in taken]
        if len(free) < missing or not targets:
            return None
        return IndexEntry(tuple(sorted((*given, *self._extra(scene, key, given, free, missing)))), targets)

    def _extra(self, scene: int, key: str, given: tuple[int, ...], free: list[int], missing: int) -> list[int]:
        if self.extra_views == "random":
            generator = np.random.default_rng(zlib.crc32(key.encode()))
            return [int(i) for i in generator.choice(free, missing, replace=False)]
        if self.extra_views == "spread":
            distances = view_distances(self.collection.scene(scene).frames)
            chosen = list(given)
            while len(chosen) < len(given) + missing:
                left = [frame for frame in free if frame not in chosen]
                chosen.append(max(left, key=lambda j: (distances[j, chosen].min(), -j)))
            return chosen[len(given) :]
        chosen = []
        for step in range(1, missing + 1):
            wanted = given[0] + (given[-1] - given[0]) * step / (missing + 1)
            chosen.append(min((frame for frame in free if frame not in chosen), key=lambda j: (abs(j - wanted), j)))
        return chosen


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:NAMES_SHOWN])
    return shown + (", …" if len(names) > NAMES_SHOWN else "")
