# SPDX-License-Identifier: Apache-2.0
"""The files of `ns-diff3r figures` for one scene: strips, maps of λ, curves. Each appears when it is complete."""

from __future__ import annotations

import csv
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
from .charts import LineStyle, Mark, Points, line_chart
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
    """A chart of (network, prior) → curve: target views as lines with their best (ring) and last (square) value,
    context views dashed in the same colour. Nothing is written where nothing is finite."""
    series: dict[str, Points] = {}
    styles: dict[str, LineStyle] = {}
    marks: dict[str, Sequence[Mark]] = {}
    for color, ((network, prior), curve) in enumerate(curves.items()):
        name = f"{network}, {_prior_name(prior)}"
        series[name] = [(point.step, point.target) for point in curve.points]
        styles[name] = LineStyle(color)
        best, last = curve.best, curve.last
        marks[name] = [
            Mark(last.step, last.target, f"{last.target:.2f}", "square"),
            Mark(best.step, best.target, f"{best.target:.2f}" if best.step != last.step else ""),
        ]
        context = f"{name}, context"
        series[context] = [(point.step, point.context) for point in curve.points]
        styles[context] = LineStyle(color, dashed=True)
    with whole_file(path) as temporary:
        line_chart(
            temporary,
            series,
            title=f"{title}: target views (lines), context views (dashed)",
            x_label="steps of test-time optimisation; ring: best, square: last",
            y_label="PSNR [dB]",
            styles=styles,
            marks=marks,
        )


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
