# SPDX-License-Identifier: Apache-2.0
"""`ns-diff3r gradcheck --modes …`: backward modes side by side, as table, JSON and chart."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import torch
from rich.progress import Progress

from ..solver import TTOConfig
from ..splats import Gaussians, Views
from .charts import line_chart
from .gradcheck import Gradcheck, keep_differences, plain
from .ruler import EXACT, Problem, measure_modes
from .tables import print_table, write_json


def compare_modes(options: Gradcheck, config: TTOConfig, start: Gaussians, context: Views, targets: Views) -> int:
    """The table of `options.modes`, for every number of steps and every λ.

    Status 1 if a cosine of the exact adjoint with the differences is smaller than asked for.
    """
    loss = f"{options.loss} + {options.ssim_weight:g} SSIM"
    dtype = torch.float32 if options.precision == "float32" else torch.float64
    start = start.to(dtype=dtype).to(dtype=torch.float64)  # the same numbers for the modes and the differences
    kept = keep_differences(options)
    summaries: list[dict[str, Any]] = []
    details: list[dict[str, Any]] = []
    groups = sum(p.stop > p.start and n not in options.frozen_groups for n, p in start.group_slices().items())
    for steps in options.horizons or (options.steps,):
        for prior in options.priors or (options.prior,):
            problem = Problem(replace(config, num_steps=steps), start, prior, context, targets)
            with Progress(transient=True) as progress:
                task = progress.add_task(f"{steps} steps, λ {prior:g}", total=2 * groups * options.directions)
                summary, detail = measure_modes(
                    problem,
                    options.modes,
                    dtype,
                    options.directions,
                    (options.step, options.prior_step),
                    lambda task=task: progress.advance(task),
                    lambda function, key=f"{steps} steps, λ {prior:g}": kept.of(key, function),
                )
            key = {"steps": steps, "λ": prior}
            summaries += [{**key, **row} for row in summary]
            details += [{**key, **row} for row in detail]
    caption = (
        f"{start.num_gaussians} Gaussians, {context.num_views} context and {targets.num_views} target views of "
        f"{context.cameras.width}x{context.cameras.height}, {options.optimizer}, {loss}, "
        f"{options.precision}; cos, error and decrease are relative to the exact adjoint"
    )
    print_table(f"gradcheck {options.scene.data}", summaries, caption)
    if options.directions or options.precision == "float32":
        shown = [row for row in details if row["mode"] == options.modes[0]]
        print_table(f"{options.modes[0]} per group", shown, "of the other modes: in the JSON")
    if options.json is not None:
        content = {"command": plain(asdict(options)), "Gaussians": start.num_gaussians}
        write_json(options.json, {**content, "modes": summaries, "groups": details})
    kept.finish()
    if options.chart is not None:
        series: dict[str, list[tuple[float, float]]] = {}
        for row in summaries:
            for to in ("θ⁰", "λ"):
                name = f"{row['mode']}, {to}" + (f", λ={row['λ']:g}" if len(options.priors) > 1 else "")
                series.setdefault(name, []).append((row["steps"], row[f"cos {to}"]))
        y_label = "cosine with the exact adjoint"
        line_chart(
            options.chart, series, title=options.scene.data.name, x_label="inner steps", y_label=y_label, log_x=True
        )
    found = [row["cosine to differences"] for row in details if row["mode"] == EXACT and options.directions]
    worst = min(found, default=1.0)
    if options.require_cosine is not None and not worst >= options.require_cosine:
        print(f"FAILED: a cosine of {worst:.4f} is below {options.require_cosine}")
        return 1
    return 0
