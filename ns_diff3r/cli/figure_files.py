# SPDX-License-Identifier: Apache-2.0
"""The files of `ns-diff3r figures` for one scene: strips, maps of λ, curves. Each appears when it is complete."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..data import SceneBatch
from ..evaluation.curves import Curve, curve_rows, curves_of_rows, mean_curve, optimisation_curves
from ..evaluation.metrics import psnr
from ..evaluation.picture_grid import Panel, PanelRow, save_picture_grid
from ..evaluation.prior_maps import strength_map
from ..rasterization import render
from ..splats import Cameras, Gaussians
from ..training.inference import device_of, reconstruct
from ..training.step import TrainingModule
from ..training.weights import TrainedNetwork
from .charts import Chart, Mark, Points, stacked_charts
from .whole_files import whole_file


@torch.no_grad()
def drawn_strips(
    networks: Mapping[str, TrainedNetwork],
    num_images: int,
    num_steps: int | None,
    min_height: int,
    path: Path,
    batches: Sequence[SceneBatch],
) -> None:
    """Context, before, after and the photograph of the first target images; a row for every image and network."""
    rows = []
    for batch, view in _first_targets(batches, num_images):
        for name, network in networks.items():
            module = network.module
            batch = batch.to(device_of(module))
            found = reconstruct(module, batch.context, num_steps)
            truth = batch.targets.images[view]
            panels = [Panel(image, f"context {i + 1}") for i, image in enumerate(batch.context.images)]
            for when, gaussians in (("before", found.before), ("after", found.after)):
                image = module.draw(gaussians, batch.targets.cameras[view]).clamp(0, 1)[0]
                panels.append(Panel(image, f"{when} {psnr(image, truth):.2f} dB"))
            panels.append(Panel(truth, "photograph"))
            steps = 0 if found.solution is None else found.solution.num_steps
            rows.append(PanelRow(_title(batch, view, f"{name}, {steps} steps"), panels))
    _save(path, rows, min_height)


@torch.no_grad()
def drawn_maps(
    networks: Mapping[str, TrainedNetwork],
    num_images: int,
    groups: Sequence[str],
    min_height: int,
    path: Path,
    batches: Sequence[SceneBatch],
) -> None:
    """The photograph, the prediction and λ of each group at the first target images; a row for every network."""
    rows = []
    for batch, view in _first_targets(batches, num_images):
        for name, network in networks.items():
            module = network.module
            batch = batch.to(device_of(module))
            output = reconstruct(module, batch.context, 0).output
            assert output.prior is not None
            camera = batch.targets.cameras[view]
            before = module.draw(output.gaussians, camera).clamp(0, 1)[0]
            panels = [Panel(batch.targets.images[view], "photograph"), Panel(before, "prediction")]
            for group in groups:
                if getattr(output.gaussians, group).numel():
                    drawn = strength_map(output.gaussians, output.prior[group], _on_black(module, camera))
                    panels += [] if drawn is None else [Panel(drawn.image, group, (drawn.low, drawn.high))]
            rows.append(PanelRow(_title(batch, view, f"lambda of {name}"), panels))
    _save(path, rows, min_height)


def drawn_curves(
    networks: Mapping[str, TrainedNetwork],
    priors: Sequence[str],
    num_steps: int,
    rate_factor: float | None,
    path: Path,
    batches: Sequence[SceneBatch],
) -> None:
    """PSNR along the optimisation, mean over the target images of the scene, as .csv, and as .svg beside it."""
    rows, means = [], {}
    for name, network in networks.items():
        found: dict[str, list[Curve]] = {}
        for batch in batches:
            for prior, curve in optimisation_curves(network.module, batch, priors, num_steps, rate_factor).items():
                found.setdefault(prior, []).append(curve)
        of_network = {prior: mean_curve(curves) for prior, curves in found.items()}
        rows += curve_rows(batches[0].name, name, of_network)
        means |= {(name, prior): curve for prior, curve in of_network.items()}
    draw_curves(path.with_suffix(".svg"), means, batches[0].name)
    write_rows(path, rows)  # last: that it is there says that the scene is done


def draw_curves(path: Path, curves: Mapping[tuple[str, str], Curve], title: str) -> None:
    """A chart of (network, prior) → curve: the target views with the last value (square) and the best (ring), and below
    the context views. Nothing is written where nothing is finite."""
    targets: dict[str, Points] = {}
    contexts: dict[str, Points] = {}
    marks: dict[str, Sequence[Mark]] = {}
    for (network, prior), curve in curves.items():
        name, best, last = f"{network}, {_prior_name(prior)}", curve.best, curve.last
        contexts[name] = [(point.step, point.context) for point in curve.points]
        name += f": {last.target:.2f} ({best.target:.2f})"
        targets[name] = [(point.step, point.target) for point in curve.points]
        marks[name] = [Mark(last.step, last.target, "square"), Mark(best.step, best.target, "ring")]
    steps, dB = "steps of test-time optimisation", "PSNR [dB]"
    of_targets = Chart(targets, f"{title}: target views", f"{steps}; square: last, ring: best", dB, marks=marks)
    if any(math.isfinite(value) for line in (*targets.values(), *contexts.values()) for _, value in line):
        with whole_file(path) as temporary:
            stacked_charts(temporary, [of_targets, Chart(contexts, f"{title}: context views", steps, dB, marks={})])


def read_curves(path: Path) -> dict[tuple[str, str, str], Curve]:
    """(scene, network, prior) → curve of a file that `drawn_curves` wrote."""
    with path.open(newline="") as stream:
        return curves_of_rows(csv.DictReader(stream))


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """A CSV of rows of equal keys."""
    with whole_file(path) as temporary, temporary.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _prior_name(prior: str) -> str:
    return {"learned": "learned λ", "none": "no prior"}.get(prior, f"λ = {prior}")


def _first_targets(batches: Sequence[SceneBatch], count: int) -> list[tuple[SceneBatch, int]]:
    return [(batch, view) for batch in batches for view in range(batch.targets.num_views)][:count]


def _title(batch: SceneBatch, view: int, text: str) -> str:
    index = batch.target_indices[view] if batch.target_indices else view
    return f"{batch.name}, image {index}: {text}"


def _on_black(module: TrainingModule, camera: Cameras) -> Callable[[Gaussians], Tensor]:
    """Gaussians → their image [H, W, 3] by the renderer of the network, without its background."""
    config = module.config.tto

    def draw(gaussians: Gaussians) -> Tensor:
        return render(gaussians, camera, config.preset, antialiased=config.antialiased, backend=config.backend).rgb[0]

    return draw


def _save(path: Path, rows: Sequence[PanelRow], min_height: int) -> None:
    with whole_file(path) as temporary:
        save_picture_grid(temporary, rows, min_height)
