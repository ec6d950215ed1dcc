# SPDX-License-Identifier: Apache-2.0
"""Context and target views of every training step, as a pure function of seed, step and rank; the evaluation index."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float

from ..dataclass_state import DefaultsForMissingFields
from .batches import SceneBatch
from .collection import SceneCollection
from .errors import SceneError, SceneWarning
from .evaluation_index import IndexEntry, read_evaluation_index
from .mirroring import mirrored_batch
from .point_thinning import thinned_batch, without_points
from .scene_order import SceneOrder
from .split import split_indices
from .step_views import choose_views, num_context_of
from .view_selection import central_view, covering_views, farthest_views, nearest_views, view_distances

Selection = Literal["nearest", "farthest", "random", "bounded"]
VIEWS, MIRROR, POINTS, THINNING = 1, 3, 4, 5
"""First numbers of the keys of what is drawn here; `scene_order` has others."""


@dataclass
class SamplerConfig(DefaultsForMissingFields):
    """How scenes and views are chosen for a training step and for evaluation."""

    num_context: int = 2
    """Context views of a scene, from which it is predicted and fitted; fewer where a scene has too few images."""
    num_targets: int = 4
    """Target views of a scene, on which the result is judged; fewer where too few images are near."""
    scenes_per_step: int = 1
    """Scenes of one training step (of each process)."""
    selection: Selection = "farthest"
    """Context views of a training step. farthest: spread as widely as the baseline of the step allows, the targets
    among them; nearest: nearest to the first target; random: any within the baseline; bounded: for video, the outer
    two a random gap apart, the targets (and further context views) between them."""
    baseline_start: tuple[float, float] = (0.1, 0.3)
    """Range of the baseline at step 0: how far the views of a step are from its first one. The unit is the distance of
    the farthest cameras of the scene, a quarter turn between viewing directions counting as much."""
    baseline_end: tuple[float, float] = (0.15, 0.5)
    """Range of the baseline after the warm-up."""
    gap_start: tuple[int, int] | None = None
    """Range at step 0 of how far apart views may be in the sequence of images, for video; default: no bound."""
    gap_end: tuple[int, int] | None = None
    """Range of that gap after the warm-up; default: as at the start."""
    warmup_steps: int = 1000
    """Steps in which baseline and gap grow linearly from start to end."""
    flip_probability: float = 0.0
    """How often a scene of a training step is mirrored, left and right changing places in pictures and cameras."""
    points_probability: float = 1.0
    """How often a scene of a training step has its sparse points, where the collection gives them."""
    thin_points: bool = False
    """In training steps, leave out points of some parts of a scene more than of others, as registration finds few where
    there is little texture."""
    evaluation_selection: Literal["nearest", "farthest"] = "nearest"
    """Context views of evaluation, among training images alone. nearest: those nearest to each held-out image;
    farthest: one set for the whole scene, spread widely."""
    num_evaluation_context: int | None = None
    """Context views in evaluation; default: num_context."""
    evaluation_context: tuple[int, ...] | None = None
    """These frames are the context views of evaluation, viewer and export, for a collection of one scene; default:
    chosen by the rule above."""
    evaluation_index: Path | None = None
    """JSON file that names the context and target frames of every scene to judge (pixelSplat's format, null entries
    left out), instead of the rules above; scenes that it lacks are not judged."""
    seed: int = 0
    """Of every choice in training."""


@dataclass(frozen=True)
class SceneIndices:
    """Which frames of which scene are context and targets, whether left and right change places, whether sparse points
    are seen, and the key of the part of them that is (None: all)."""

    scene: int
    context: tuple[int, ...]
    targets: tuple[int, ...]
    mirrored: bool = False
    with_points: bool = True
    thinning: tuple[int, ...] | None = None


@dataclass(frozen=True)
class EvaluationItem:
    """Held-out images of one scene that share their context views.

    `held_out` is False where a scene has no held-out image and training images stand in for them (two images, or
    `split.all`); figures on those say how well the scene is fitted, not how well it generalises.
    """

    scene: int
    context: tuple[int, ...]
    targets: tuple[int, ...]
    held_out: bool


class BatchSampler:
    """Chooses views of a collection. Two samplers of equal config and collection choose alike, in any order of calls.

    Raises:
        SceneError: settings that make no sense.
    """

    def __init__(self, config: SamplerConfig, collection: SceneCollection) -> None:
        self.config, self.collection = config, collection
        _check(config)
        self._configs = [self._with_bounds(source) for source in range(len(collection.weights))]
        _check_evaluation_context(config, collection)
        self._index = None if config.evaluation_index is None else read_evaluation_index(config.evaluation_index)
        if self._index is not None and not any(self._indexed(scene) for scene in collection.evaluation_scenes):
            raise SceneError(f"{config.evaluation_index}: no scene of the data is in this evaluation index")
        for scene in collection.training_scenes if collection.is_read_ahead else ():
            self._warn_of_few(scene)
        self._distances = lru_cache(maxsize=256)(self._compute_distances)
        self._order = SceneOrder(collection, self._generator)

    def _with_bounds(self, source: int) -> SamplerConfig:
        """The settings for scenes of a source; SceneError that names it, if what it says makes no sense."""
        own = self.collection.view_bounds(source)
        config = replace(self.config, **own.settings)
        try:
            _check(config)
        except SceneError as error:
            raise SceneError(f"{own.where}: {error}") from error
        return config

    def _warn_of_few(self, scene: int) -> None:
        count, asked = len(self.collection.training_indices(scene)), self.config.num_context
        used = num_context_of(count, asked)
        notes = [f"so {used} context views instead of the {asked} asked for"] if used < asked else []
        notes += ["so its targets are context views as well"] if count <= used else []
        if notes:
            message = f"scene {self.collection.names[scene]}: {count} training images, {' and '.join(notes)}"
            warnings.warn(message, SceneWarning, stacklevel=3)

    def plan(self, step: int, rank: int = 0, world_size: int = 1) -> list[SceneIndices]:
        """What `batch` reads, without reading it.

        The scenes of all ranks of a step are consecutive in a sequence in which every training scene (of a source)
        comes once before any comes again; `world_size` ranks with one scene each choose what one rank with `world_size`
        scenes does.

        Raises:
            ValueError: a negative step, or a rank outside the world.
        """
        if step < 0 or not 0 <= rank < world_size:
            raise ValueError(f"step must not be negative and rank be in [0, {world_size}), got {step} and {rank}")
        slots = range(rank * self.config.scenes_per_step, (rank + 1) * self.config.scenes_per_step)
        per_step = world_size * self.config.scenes_per_step
        return [self._choose(step, slot, step * per_step + slot) for slot in slots]

    def batch(self, step: int, rank: int = 0, world_size: int = 1) -> list[SceneBatch]:
        """The scenes of one training step on one rank, with their images; a pure function of seed, step and rank.

        Raises:
            ValueError: as `plan`.
            SceneError: an image that cannot be read.
        """
        return [self.load(indices) for indices in self.plan(step, rank, world_size)]

    def load(self, indices: SceneIndices | EvaluationItem) -> SceneBatch:
        """Read the views of a choice."""
        context = self.collection.views(indices.scene, indices.context)
        targets = self.collection.views(indices.scene, indices.targets)
        name = self.collection.names[indices.scene]
        batch = SceneBatch(name, context, targets, indices.scene, indices.context, indices.targets)
        if not isinstance(indices, SceneIndices):
            return batch
        if not indices.with_points:
            batch = without_points(batch)
        elif indices.thinning is not None:
            batch = thinned_batch(batch, self._generator(*indices.thinning))
        return mirrored_batch(batch) if indices.mirrored else batch

    def evaluation(self, scene: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """(context, target) indices of a scene as a whole, the same ever after: one set of training images for all
        held-out images (none where the scene has none).

        nearest: images such that each held-out one has one of them near; farthest: spread widely.
        """
        candidates, targets = self.collection.training_indices(scene), self.collection.evaluation_indices(scene)
        if self.config.evaluation_context is not None:
            context = tuple(sorted(self.config.evaluation_context))
            return context, tuple(i for i in targets if i not in context)
        distances = self._distances(scene)
        if targets and self.config.evaluation_selection == "nearest":
            return covering_views(distances, targets, candidates, self._num_evaluation_context), targets
        return self._spread_views(distances, candidates), targets

    def evaluation_items(self, scene: int) -> list[EvaluationItem]:
        """The images of a scene to judge it by, with their context views, the same ever after.

        nearest: the training images nearest to each; farthest: as `evaluation`. Images of equal context are one item. A
        scene without held-out images is judged on training images: those that `split` would hold out, or both of two.
        An image is its own context only where a scene has no two others. With an evaluation index it is what that says,
        and [] for a scene that it leaves out.
        """
        if self._index is not None:
            entry = self._indexed(scene)
            return [] if entry is None else [EvaluationItem(scene, entry.context, entry.targets, held_out=True)]
        candidates, (context, targets) = self.collection.training_indices(scene), self.evaluation(scene)
        held_out = bool(targets)
        if self.config.evaluation_context is not None:
            targets = targets or tuple(i for i in candidates if i not in context) or context
            return [EvaluationItem(scene, context, targets, held_out)]
        if not held_out:
            split = replace(self.collection.config.split, all=False)
            targets = split_indices(len(candidates), split)[1] or candidates
        distances, groups = self._distances(scene), {}
        for target in targets:
            others = tuple(i for i in candidates if i != target)
            others = others if len(others) >= 2 else candidates
            if self.config.evaluation_selection == "nearest":
                chosen = nearest_views(distances, target, others, self._num_evaluation_context)
            else:
                chosen = self._spread_views(distances, others)
            groups.setdefault(chosen, []).append(target)
        return [EvaluationItem(scene, chosen, tuple(members), held_out) for chosen, members in groups.items()]

    def _indexed(self, scene: int) -> IndexEntry | None:
        """What the evaluation index says of a scene; names of test scenes in chunks begin with a folder."""
        name = self.collection.names[scene]
        return None if self._index is None else self._index.get(name, self._index.get(name.rsplit("/", 1)[-1]))

    @property
    def _num_evaluation_context(self) -> int:
        return self.config.num_evaluation_context or self.config.num_context

    def _spread_views(self, distances: Float[np.ndarray, "V V"], candidates: tuple[int, ...]) -> tuple[int, ...]:
        start = central_view(distances, candidates)
        return farthest_views(distances, start, candidates, self._num_evaluation_context)

    def _compute_distances(self, scene: int) -> Float[np.ndarray, "V V"]:
        return view_distances(self.collection.scene(scene).frames)

    def _generator(self, *key: int) -> np.random.Generator:
        return np.random.Generator(np.random.PCG64(np.random.SeedSequence([self.config.seed, *key])))

    def _choose(self, step: int, slot: int, position: int) -> SceneIndices:
        scene = self._order.scene(position)
        candidates, config = self.collection.training_indices(scene), self._configs[self.collection.source_of(scene)]
        generator = self._generator(VIEWS, step, slot)
        context, targets = choose_views(config, candidates, lambda: self._distances(scene), step, generator)
        mirrored = (
            config.flip_probability > 0.0 and self._generator(MIRROR, step, slot).random() < config.flip_probability
        )
        with_points = (
            config.points_probability >= 1.0 or self._generator(POINTS, step, slot).random() < config.points_probability
        )
        thinning = (THINNING, step, slot) if config.thin_points else None
        return SceneIndices(scene, context, targets, mirrored, with_points, thinning)


def _check(config: SamplerConfig) -> None:
    for name, least in {"num_context": 2, "num_evaluation_context": 2, "num_targets": 1, "scenes_per_step": 1}.items():
        if getattr(config, name) is not None and getattr(config, name) < least:
            raise SceneError(f"{name} must be at least {least}, got {getattr(config, name)}")
    for name in ("flip_probability", "points_probability"):
        if not 0.0 <= getattr(config, name) <= 1.0:
            raise SceneError(f"{name} must lie in [0, 1], got {getattr(config, name)}")
    if config.selection == "bounded" and config.gap_start is None:
        raise SceneError("selection bounded needs gap_start: how many images apart the outer context views are")
    for name in ("warmup_steps", "seed"):
        if getattr(config, name) < 0:
            raise SceneError(f"{name} must not be negative, got {getattr(config, name)}")
    for name in ("baseline_start", "baseline_end", "gap_start", "gap_end"):
        bounds = getattr(config, name)
        if bounds is not None and not 0 <= bounds[0] <= bounds[1]:
            raise SceneError(f"{name} must be 0 <= low <= high, got {bounds}")
    if config.gap_end is not None and config.gap_start is None:
        raise SceneError("gap_end is the range after the warm-up from gap_start, which is not given")


def _check_evaluation_context(config: SamplerConfig, collection: SceneCollection) -> None:
    chosen = config.evaluation_context
    if chosen is None:
        return
    if collection.num_scenes > 1:
        raise SceneError(f"evaluation_context is for one scene, the collection has {collection.num_scenes}")
    count = collection.scene(0).num_frames
    for index in chosen:
        if not 0 <= index < count:
            raise SceneError(f"evaluation_context: there is no view {index}, {collection.names[0]} has {count}")
    if len(chosen) < 2 or len(set(chosen)) < len(chosen):
        raise SceneError(f"evaluation_context must be at least two different views, got {list(chosen)}")
