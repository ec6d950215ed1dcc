# SPDX-License-Identifier: Apache-2.0
"""How well a network does on held-out views, before and after test-time optimisation, and beside two baselines."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..data.batches import SceneBatch
from ..data.sampler import BatchSampler
from ..splats import Cameras, Views
from ..training.inference import Reconstruction, device_of, reconstruct
from ..training.step import TrainingModule
from .metrics import ImageMetrics, psnr

logger = logging.getLogger("ns_diff3r")

BASELINES = ("psnr_constant", "psnr_nearest")


@dataclass(eq=False)
class Evaluation:
    """Figures of every evaluation image, and pictures of some."""

    rows: list[dict[str, Any]]
    """One per image: "scene", "image" (its index in the scene), "held_out", then `names`."""
    names: tuple[str, ...]
    """Keys of the figures, the same in every row."""
    pictures: list[tuple[Tensor, Tensor, Tensor]] = field(default_factory=list, repr=False)
    """(photograph, before, after), each [H, W, 3], of the first image of each scene."""
    notes: list[str] = field(default_factory=list)
    """What the reader must know: metrics left out, scenes that failed, views that are not held out."""

    @property
    def means(self) -> dict[str, float]:
        """Mean of every figure over all images; {} without any."""
        return mean_figures(self.rows, self.names)

    def scene_means(self) -> dict[str, dict[str, float]]:
        """Means per scene, in the order of the rows."""
        scenes = dict.fromkeys(row["scene"] for row in self.rows)
        return {s: mean_figures([row for row in self.rows if row["scene"] == s], self.names) for s in scenes}

    def to_json(self) -> dict[str, Any]:
        """All figures as plain values."""
        return {"means": self.means, "scenes": self.scene_means(), "images": self.rows, "notes": self.notes}


def mean_figures(rows: Sequence[dict[str, Any]], names: Iterable[str]) -> dict[str, float]:
    """Mean of each named figure over the rows; {} for no rows."""
    return {name: sum(float(row[name]) for row in rows) / len(rows) for name in names} if rows else {}


def evaluate(
    module: TrainingModule,
    sampler: BatchSampler,
    metrics: ImageMetrics,
    scenes: Sequence[int] | None = None,
    num_steps: int | None = None,
    progress: Callable[[str], None] | None = None,
    all_pictures: bool = False,
) -> Evaluation:
    """Reconstruct every evaluation scene from its fixed context views, and judge its evaluation images.

    Args:
        module: as trained.
        sampler: chooses context and evaluation images.
        metrics: what is measured.
        scenes: indices in the collection; default: its evaluation scenes.
        num_steps: of test-time optimisation; default: as the settings say.
        progress: called with a line of text before each reconstruction.
        all_pictures: keep pictures of every image, in the order of the rows, not of the first of each scene alone.

    A scene that fails is left out with a warning. ValueError if every one does.
    """
    collection = sampler.collection
    names = figure_names(metrics)
    result = Evaluation([], names, notes=list(metrics.notes))
    chosen = list(collection.evaluation_scenes if scenes is None else scenes)
    fault: Exception | None = None
    for scene in chosen:
        for number, item in enumerate(sampler.evaluation_items(scene)):
            name = collection.names[scene]
            if progress is not None:
                progress(f"{name}: images {', '.join(map(str, item.targets))}")
            try:
                batch = sampler.load(item).to(device_of(module))
                reconstruction = reconstruct(module, batch.context, num_steps)
                rows, pictures = judge(module, batch, reconstruction, metrics)
            except ValueError as error:
                fault = error
                logger.warning("scene %s, images %s: not evaluated: %s", name, list(item.targets), error)
                result.notes.append(f"{name}, images {list(item.targets)}: not evaluated: {error}")
                continue
            for index, row in zip(item.targets, rows, strict=True):
                result.rows.append({"scene": name, "image": index, "held_out": item.held_out, **row})
            if all_pictures or number == 0:
                result.pictures += pictures if all_pictures else pictures[:1]
            if number == 0 and not item.held_out:
                result.notes.append(f"{name}: no image is held out; its figures are on training images")
    if not result.rows and fault is not None:
        raise ValueError(f"no scene could be evaluated; the last: {fault}") from fault
    return result


def figure_names(metrics: ImageMetrics) -> tuple[str, ...]:
    """Keys of the figures of one image."""
    pairs = tuple(f"{name}_{when}" for name in metrics.names for when in ("before", "after", "gain"))
    return (*pairs, *BASELINES, "tto_seconds", "num_gaussians")


@torch.no_grad()
def judge(
    module: TrainingModule, batch: SceneBatch, reconstruction: Reconstruction, metrics: ImageMetrics
) -> tuple[list[dict[str, float]], list[tuple[Tensor, Tensor, Tensor]]]:
    """Figures and (photograph, before, after) of every target view of a reconstructed scene."""
    before, after = (
        module.draw(gaussians, batch.targets.cameras).clamp(0, 1)
        for gaussians in (reconstruction.before, reconstruction.after)
    )
    copies = nearest_context_images(batch.context, batch.targets)
    rows, pictures = [], []
    for view, truth in enumerate(batch.targets.images):
        rows.append(
            {
                **metrics.before_and_after(before[view], after[view], truth),
                "psnr_constant": psnr(constant_image(truth), truth),
                "psnr_nearest": psnr(copies[view], truth) if copies is not None else math.nan,
                "tto_seconds": reconstruction.tto_seconds,
                "num_gaussians": float(reconstruction.before.num_gaussians),
            }
        )
        pictures.append((truth, before[view], after[view]))
    return rows, pictures


def constant_image(truth: Float[Tensor, "H W 3"]) -> Float[Tensor, "H W 3"]:
    """The image of one colour that has the highest PSNR: the mean colour, which no method knows beforehand."""
    return truth.mean((0, 1)).expand_as(truth)


def nearest_context_images(context: Views, targets: Views) -> Float[Tensor, "V H W 3"] | None:
    """The photograph of the nearest context camera for every target; None where the images differ in size.

    The distance of two cameras is that of their positions, in units of the largest among all, plus the angle between
    their viewing directions, a quarter turn counting 1.
    """
    if context.images.shape[1:] != targets.images.shape[1:]:
        return None
    return context.images[_camera_distances(targets.cameras, context.cameras).argmin(dim=1)]


def _camera_distances(first: Cameras, second: Cameras) -> Float[Tensor, "A B"]:
    places = torch.cdist(first.centers.double(), second.centers.double())
    forward = [cameras.viewmats[:, 2, :3].double() for cameras in (first, second)]
    angles = (forward[0] @ forward[1].T).clamp(-1, 1).arccos() / (0.5 * math.pi)
    return places / places.max().clamp_min(1e-12) + angles
