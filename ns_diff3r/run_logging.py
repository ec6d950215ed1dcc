# SPDX-License-Identifier: Apache-2.0
"""What a run tells: scalars known after backward, histograms of λ, figures of an evaluation."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackLocation
from nerfstudio.utils import writer

from .cli.tables import print_table
from .evaluation.evaluate import Evaluation
from .evaluation.reports import save_pictures, table_rows
from .run_checks import say
from .training.outputs import StepOutput

if TYPE_CHECKING:
    from nerfstudio.engine.trainer import Trainer

HISTOGRAM_RANGE = (-6.0, 6.0)
"""Of log10 λ, as `StepOutput.prior_histogram` has it."""


class StepLogger:
    """Writes what only the end of a training iteration knows to nerfstudio's event writers and console."""

    def __init__(self, trainer: Trainer | None, last_output: Callable[[], StepOutput | None]) -> None:
        self.last_output = last_output
        self.every = 10 if trainer is None else trainer.config.logging.steps_per_log
        self._said: set[str] = set()

    def callbacks(self) -> list[TrainingCallback]:
        """Called after every iteration."""
        return [TrainingCallback([TrainingCallbackLocation.AFTER_TRAIN_ITERATION], self.log)]

    def log(self, step: int) -> None:
        """Warnings of the step, each kind once; numbers in the rhythm of nerfstudio's own."""
        output = self.last_output()
        if output is None:
            return
        for text in output.warnings:
            kind = re.sub(r"[-+]?\d[\d.e+-]*", "#", text.split(": ", 1)[-1])
            if kind not in self._said:
                self._said.add(kind)
                say(f"step {step}: {text}", style="yellow")
        if step % self.every == 0:
            writer.put_dict(name="Train Backward", scalar_dict=output.backward_scalars(), step=step)
            for group, counts in output.prior_histogram().items():
                write_histogram(f"log10 lambda/{group}", counts, HISTOGRAM_RANGE, step)


def write_histogram(name: str, counts: torch.Tensor, limits: tuple[float, float], step: int) -> None:
    """A histogram of counts [bins] over bins of equal width, to TensorBoard where the run writes to it."""
    edges = torch.linspace(*limits, len(counts) + 1, dtype=torch.float64)
    centers, counts = (edges[1:] + edges[:-1]) / 2, counts.double().cpu()
    for target in writer.EVENT_WRITERS:
        if isinstance(target, writer.TensorboardWriter):
            target.tb_writer.add_histogram_raw(
                name,
                min=float(edges[0]),
                max=float(edges[-1]),
                num=int(counts.sum()),
                sum=float((counts * centers).sum()),
                sum_squares=float((counts * centers.square()).sum()),
                bucket_limits=edges[1:].tolist(),
                bucket_counts=counts.tolist(),
                global_step=step,
            )


def averages(evaluation: Evaluation, with_deviation: bool) -> dict[str, float]:
    """Means over all images as nerfstudio names them ("psnr" is after test-time optimisation), and all of ours.

    Args:
        evaluation: the figures.
        with_deviation: add "<name>_std" where there are two images or more.
    """
    means = dict(evaluation.means)
    if with_deviation and len(evaluation.rows) > 1:
        values = {name: torch.tensor([row[name] for row in evaluation.rows]).double() for name in evaluation.names}
        means |= {f"{name}_std": float(column.std()) for name, column in values.items()}
    plain = {name.replace("_after", ""): value for name, value in means.items() if "_after" in name}
    return {**plain, **means, "num_images": float(len(evaluation.rows))}


def as_json(value: Any) -> Any:
    """Numbers as JSON has them: None for infinities (the PSNR of equal images) and NaN."""
    if isinstance(value, dict):
        return {name: as_json(item) for name, item in value.items()}
    if isinstance(value, list):
        return [as_json(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def print_evaluation(evaluation: Evaluation) -> None:
    """The table before and after test-time optimisation, and what must be known about it."""
    print_table("Before and after test-time optimisation", table_rows(evaluation))
    for note in evaluation.notes:
        say(f"note: {note}")


def save_evaluation_images(evaluation: Evaluation, folder: Path) -> None:
    """One picture per evaluated image, of an evaluation that has kept all pictures: photograph, before, after."""
    folder.mkdir(parents=True, exist_ok=True)
    for row, images in zip(evaluation.rows, evaluation.pictures, strict=True):
        save_pictures(folder / f"eval_{row['scene'].replace('/', '_')}_{row['image']:04d}.png", [images])
