# SPDX-License-Identifier: Apache-2.0
"""Times of the backward modes against the forward optimisation, and their memory against the number of steps."""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any

import torch

from ..rasterization import render
from ..solver import BackwardConfig, BackwardMode, DifferentiableTTO, PCGConfig, TTOConfig
from ..splats import Gaussians, Views
from .benchmark_memory import memory_in_subprocess
from .benchmark_solver import training_pair
from .charts import line_chart

VARIANTS: dict[str, tuple[BackwardMode, BackwardConfig]] = {
    "adjoint": (BackwardMode.ADJOINT, BackwardConfig()),
    "adjoint, recomputation": (BackwardMode.ADJOINT, BackwardConfig(trajectory="recomputation")),
    "adjoint, finite_difference": (BackwardMode.ADJOINT, BackwardConfig(hessian="finite_difference")),
    "adjoint, gauss_newton": (BackwardMode.ADJOINT, BackwardConfig(hessian="gauss_newton")),
    "truncated (10)": (BackwardMode.TRUNCATED, BackwardConfig(num_iterations=10)),
    "implicit (20 iterations)": (BackwardMode.IMPLICIT, BackwardConfig()),
    "first_order": (BackwardMode.FIRST_ORDER, BackwardConfig()),
}
"""What is timed."""


def backward_times(image_size: int, num_steps: int, rounds: int, num_views: int = 2) -> list[dict[str, Any]]:
    """One row a variant: forward with what the mode keeps, and backward, as multiples of a forward that keeps nothing.

    All variants take turns in every round; ratios are medians of ratios within a round. Times are those of the
    processor (the sum over its threads), which other programs change little.
    """
    start, views = training_pair(image_size, num_views)
    leaves = start.map(lambda leaf: leaf.requires_grad_())
    strength = torch.tensor(1.0, requires_grad=True)
    layers = {name: _layer(name, num_steps) for name in VARIANTS}
    plain = DifferentiableTTO(TTOConfig(num_steps=num_steps)).eval()
    ratios: dict[str, list[tuple[float, float]]] = {name: [] for name in VARIANTS}
    forward_ms = []
    for turn in range(1 + rounds):
        with torch.no_grad():
            begin = time.process_time()
            plain(start, 1.0, views)
            base = time.process_time() - begin
        for name, layer in layers.items():
            forward, backward = _once(layer, leaves, strength, views)
            if turn:  # the first warms up
                ratios[name].append((forward / base, backward / base))
        if turn:
            forward_ms.append(1e3 * base)
    rows = []
    for name, pairs in ratios.items():
        forward, backward = (statistics.median(column) for column in zip(*pairs, strict=True))
        rows.append(
            {
                "views": f"{num_views} x {image_size}²",
                "Gaussians": start.num_gaussians,
                "steps": num_steps,
                "TTO ms": statistics.median(forward_ms),
                "mode": name,
                "forward": forward,
                "backward": backward,
            }
        )
    return rows


def _layer(name: str, num_steps: int) -> DifferentiableTTO:
    mode, backward = VARIANTS[name]
    pcg = PCGConfig(tolerance=1e-30, max_iterations=20)
    return DifferentiableTTO(TTOConfig(num_steps=num_steps, backward_mode=mode, backward=backward, pcg=pcg)).eval()


def _once(layer: DifferentiableTTO, start: Gaussians, strength: torch.Tensor, views: Views) -> tuple[float, float]:
    begin = time.process_time()
    theta, _ = layer(start, strength, views)
    forward = time.process_time() - begin
    loss = (render(theta, views.cameras).rgb - views.images).square().mean()
    by_theta = torch.autograd.grad(loss, theta.leaves())
    theta, _ = layer(start, strength, views)
    begin = time.process_time()
    torch.autograd.grad(theta.leaves(), (*start.leaves(), strength), by_theta, allow_unused=True)
    return forward, time.process_time() - begin


def backward_memory(image_size: int, steps: tuple[int, ...] = (10, 25, 50, 100, 200)) -> list[dict[str, Any]]:
    """Peak memory in MiB of forward and backward for a growing number of steps, each in a process of its own."""
    kinds, large = ("adjoint", "recomputation", "implicit"), 2 * image_size**2
    jobs = [(kind, count, image_size, large) for kind in kinds for count in steps]
    jobs += [("unroll", count, 24, 300) for count in (5, 10, 20)]  # needs the dense renderer
    rows = []
    for kind, count, size, gaussians in jobs:
        row = memory_in_subprocess(kind, count, size, gaussians)  # pyright: ignore[reportArgumentType]
        names = ("forward", "held for backward", "backward")
        rows.append({**row, **{name: row[name] / 2**20 for name in names}})
    return rows


def draw_memory(rows: list[dict[str, Any]], path: Path) -> None:
    """A chart of the larger of both peaks against the number of steps."""
    series: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        label = f"{row['kind']}, {row['size']}², {row['Gaussians']} G."
        series.setdefault(label, []).append((row["steps"], max(row["forward"], row["backward"])))
    title = "Peak memory of a training step through TTO"
    line_chart(path, series, title=title, x_label="inner steps", y_label="MiB", log_x=True, log_y=True)
