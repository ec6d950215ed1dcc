# SPDX-License-Identifier: Apache-2.0
"""PSNR of context and target views along test-time optimisation, with the prior of a network and with others."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from ..data.batches import SceneBatch
from ..solver import DifferentiableTTO
from ..splats import Gaussians, Views
from ..training.inference import device_of, reconstruct
from ..training.step import TrainingModule
from .metrics import psnr

HORIZONS = (0, 1, 2, 3, 5, 7, 10, 15, 20, 25, 30, 40, 50, 60, 75, 100, 125, 150, 175, 200, 225, 250, 275, 300)
"""Steps at which curves are measured; longer ones every hundred steps beyond."""


@dataclass(frozen=True)
class CurvePoint:
    """Mean PSNR in dB over the context and over the target views after `step` steps; NaN once a run has diverged."""

    step: int
    context: float
    target: float


@dataclass(frozen=True)
class Curve:
    """Points in the order of their steps, with the weight (number of target images) that they have in a mean."""

    points: tuple[CurvePoint, ...]
    weight: int = 1

    @property
    def last(self) -> CurvePoint:
        """After all steps."""
        return self.points[-1]

    @property
    def best(self) -> CurvePoint:
        """Where the target views are best; the first of equals, and the last point if none is finite."""
        finite = [point for point in self.points if math.isfinite(point.target)]
        return max(finite, key=lambda point: point.target, default=self.last)


def horizons(num_steps: int) -> tuple[int, ...]:
    """Steps at which a run of `num_steps` is measured; the first and the last are among them."""
    beyond = range(HORIZONS[-1], num_steps, 100)
    return tuple(sorted({0, num_steps, *(step for step in (*HORIZONS, *beyond) if step < num_steps)}))


def parse_prior(text: str) -> float | str:
    """ "learned", "none", or λ, one positive number for everything.

    Raises:
        ValueError: anything else.
    """
    if text in ("learned", "none"):
        return text
    try:
        strength = float(text)
    except ValueError:
        strength = math.nan
    if not 0.0 < strength < math.inf:
        raise ValueError(f'a prior is "learned", "none" or a positive number (λ of everything), not {text!r}')
    return strength


@torch.no_grad()
def optimisation_curves(
    module: TrainingModule,
    batch: SceneBatch,
    priors: Sequence[str],
    num_steps: int,
    rate_factor: float | None = None,
) -> dict[str, Curve]:
    """One curve for every prior, all from the same prediction.

    Args:
        module: as trained.
        batch: context, which is fitted, and targets, on which it is judged.
        priors: as `parse_prior` reads them.
        num_steps: of every run.
        rate_factor: on the learning rates; None: as the network was trained.

    Raises:
        ValueError: a prediction that cannot be used, or a prior that is none.
    """
    batch = batch.to(device_of(module))
    found = reconstruct(module, batch.context, 0)
    context = found.output.prediction.as_seen(batch.context)
    training = module.config if rate_factor is None else replace(module.config, tto_rate_factor=rate_factor)
    layer = DifferentiableTTO(training.evaluation_config(num_steps))
    layer.curvature_scale = module.tto.curvature_scale
    layer.training = False
    measured, curves = horizons(num_steps), {}
    for text in priors:
        prior = parse_prior(text)
        points = {0: _measure(module, found.before, context, batch.targets, 0)}

        def watch(step: int, gaussians: Gaussians, points: dict[int, CurvePoint] = points) -> None:
            if step in measured:
                points[step] = _measure(module, gaussians, context, batch.targets, step)

        layer.watch = watch
        if num_steps:
            layer(found.before, {"learned": found.output.prior, "none": None}.get(text, prior), context)
        missing = {step: CurvePoint(step, math.nan, math.nan) for step in measured if step not in points}
        curves[text] = Curve(
            tuple(point for _, point in sorted({**points, **missing}.items())), batch.targets.num_views
        )
    return curves


def mean_curve(curves: Iterable[Curve]) -> Curve:
    """The mean of curves measured at the same steps, each counting by its weight; their weights are added.

    Raises:
        ValueError: no curve, or curves of different steps.
    """
    known = list(curves)
    steps = [tuple(point.step for point in curve.points) for curve in known]
    if not known or len(set(steps)) > 1:
        raise ValueError("a mean of curves needs at least one, all measured at the same steps")
    total = sum(curve.weight for curve in known)
    points = []
    for number, step in enumerate(steps[0]):
        of_step = [(curve.points[number], curve.weight / total) for curve in known]
        context, target = (sum(w * getattr(p, side) for p, w in of_step) for side in ("context", "target"))
        points.append(CurvePoint(step, context, target))
    return Curve(tuple(points), total)


def curve_rows(scene: str, network: str, curves: Mapping[str, Curve]) -> list[dict[str, str | int]]:
    """Lines of a CSV: one per prior and step."""
    return [
        {
            "scene": scene,
            "network": network,
            "prior": prior,
            "images": curve.weight,
            "step": point.step,
            "context_psnr": f"{point.context:.5f}",
            "target_psnr": f"{point.target:.5f}",
        }
        for prior, curve in curves.items()
        for point in curve.points
    ]


def curves_of_rows(rows: Iterable[Mapping[str, str]]) -> dict[tuple[str, str, str], Curve]:
    """(scene, network, prior) → curve, of lines as `curve_rows` makes them."""
    found: dict[tuple[str, str, str], tuple[int, list[CurvePoint]]] = {}
    for row in rows:
        point = CurvePoint(int(row["step"]), float(row["context_psnr"]), float(row["target_psnr"]))
        key = (row["scene"], row["network"], row["prior"])
        found.setdefault(key, (int(row["images"]), []))[1].append(point)
    return {key: Curve(tuple(points), weight) for key, (weight, points) in found.items()}


def _measure(module: TrainingModule, gaussians: Gaussians, context: Views, targets: Views, step: int) -> CurvePoint:
    means = []
    for views in (context, targets):
        try:
            drawn = module.draw(gaussians, views.cameras).clamp(0, 1)
        except ValueError:  # no longer finite: the run ends as diverged
            return CurvePoint(step, math.nan, math.nan)
        found = [psnr(image, truth) for image, truth in zip(drawn, views.images, strict=True)]
        means.append(sum(found) / len(found))
    return CurvePoint(step, *means)
