# SPDX-License-Identifier: Apache-2.0
"""Rows of the ablation (Diff3R, Table 4, and beyond), and the figures of one row on one scene."""

from __future__ import annotations

import csv
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

import torch

from ..data.batches import SceneBatch
from ..data.sampler import BatchSampler
from ..solver import DifferentiableTTO
from ..splats import Gaussians
from ..training.inference import device_of, evaluating
from ..training.step import TrainingModule, unusable
from .corruptions import CorruptionName, corrupted
from .metrics import psnr, ssim

PriorAtTest = Literal["learned", "none", "uniform"]

COLUMNS = ("phase", "row", "seed", "scene", "image", "rate", "prior", "steps", "seconds", "psnr", "ssim")
"""Of the CSV: one line per row, image and number of steps; phase is "tuning", "test", or what was done to the context
(`corruptions`), rate multiplies gsplat's learning rates, prior is the λ of "uniform", else empty, seconds are those of
test-time optimisation up to there, on the machine and under the load of the run."""


class Figure(NamedTuple):
    """Of one image after some steps."""

    image: int
    seconds: float
    psnr: float
    ssim: float


@dataclass(frozen=True)
class Row:
    """One row: which trained weights, and how test-time optimisation holds them.

    Attributes:
        name: of the row.
        weights: key of the weights; "plain" is the first stage given the further steps without TTO.
        prior: λ at test: as the network predicts it, none, or one number for everything.
        stops_early: the number of steps is tuned too.
    """

    name: str
    weights: str
    prior: PriorAtTest
    stops_early: bool = False


ROWS = (
    Row("plain", "plain", "none"),
    Row("plain, stopped early", "plain", "none", stops_early=True),
    Row("plain, best uniform prior", "plain", "uniform"),
    Row("uniform", "uniform", "learned"),
    Row("full without prior", "implicit", "none"),
    Row("full", "implicit", "learned"),
    Row("adjoint without prior", "adjoint", "none"),
    Row("adjoint", "adjoint", "learned"),
    Row("truncated", "truncated", "learned"),
    Row("first_order", "first_order", "learned"),
    Row("metagrad", "metagrad", "learned"),
    Row("small", "small", "learned"),
)
"""Every row by what trained its weights; rows whose weights are not given are left out."""


@dataclass(frozen=True)
class Setting:
    """What is tuned for a row on the development scenes: the factor on the learning rates, a uniform λ, the steps."""

    rate: float
    steps: int
    prior: float | None = None


@torch.no_grad()
def row_figures(
    module: TrainingModule,
    sampler: BatchSampler,
    scene: int,
    row: Row,
    setting: Setting,
    at: Sequence[int] | None = None,
    corruption: CorruptionName | None = None,
) -> dict[int, list[Figure]]:
    """Number of steps → figures of the evaluation images of a scene, optimised as the row has it.

    Args:
        module: the trained network.
        sampler: of the scenes.
        scene: its index.
        row: which prior.
        setting: learning rates, steps, a uniform λ.
        at: numbers of steps along one optimisation; default: those of the setting alone.
        corruption: what is done to the context before it is seen.

    Raises:
        ValueError: a prediction that cannot be used.
    """
    at = sorted(set([setting.steps] if at is None else at))
    figures: dict[int, list[Figure]] = {steps: [] for steps in at}
    for item in sampler.evaluation_items(scene):
        batch = sampler.load(item)
        batch = (batch if corruption is None else corrupted(batch, corruption)).to(device_of(module))
        for steps, (seconds, gaussians) in _iterates(module, batch, row, setting, at).items():
            drawn = module.draw(gaussians, batch.targets.cameras).clamp(0, 1)
            for index, image, truth in zip(item.targets, drawn, batch.targets.images, strict=True):
                figures[steps].append(Figure(index, seconds, psnr(image, truth), ssim(image, truth)))
    return figures


def _iterates(
    module: TrainingModule, batch: SceneBatch, row: Row, setting: Setting, at: Sequence[int]
) -> dict[int, tuple[float, Gaussians]]:
    """Number of steps → seconds and where they led, along one optimisation; `at` is sorted."""
    with evaluating(module):
        output = module.network(batch.context)
    fault = unusable(output, batch.context.cameras)
    if fault is not None:
        raise ValueError(f"{batch.name}: the prediction cannot be used: {fault}")
    iterates = {0: (0.0, output.gaussians)} if at[0] == 0 else {}
    if at[-1] == 0:
        return iterates
    config = replace(module.config, tto_rate_factor=setting.rate)
    layer = DifferentiableTTO(config.evaluation_config(at[-1]))
    layer.curvature_scale = module.tto.curvature_scale
    layer.training = False
    begin = time.perf_counter()

    def keep(steps: int, gaussians: Gaussians) -> None:
        if steps in at:
            iterates[steps] = (time.perf_counter() - begin, gaussians)

    layer.watch = keep
    prior = {"learned": output.prior, "none": None, "uniform": setting.prior}[row.prior]
    result, _ = layer(output.gaussians, prior, batch.context)
    for steps in at:  # an optimisation that ended early stays where it ended
        iterates.setdefault(steps, (time.perf_counter() - begin, result))
    return iterates


class Ledger:
    """The CSV of an ablation: whole lines only, so that a run that was killed goes on where it was."""

    def __init__(self, path: Path) -> None:
        """ValueError: a file with other columns."""
        self.path = path
        self.lines: list[dict[str, str]] = []
        if path.is_file():
            text = path.read_text()
            whole = text[: text.rfind("\n") + 1]  # the last line may be cut off
            lines = list(csv.DictReader(whole.splitlines()))
            if whole and whole.splitlines()[0] != ",".join(COLUMNS):
                raise ValueError(f"{path}: not the CSV of an ablation (its columns should be {', '.join(COLUMNS)})")
            self.lines = lines
        path.parent.mkdir(parents=True, exist_ok=True)
        self._write("w", [",".join(COLUMNS), *(",".join(line[c] for c in COLUMNS) for line in self.lines)])

    def key(self, phase: str, row: Row, seed: int, scene: str, setting: Setting) -> dict[str, str]:
        """The columns that say what a line is about."""
        prior = "" if setting.prior is None else f"{setting.prior:g}"
        about = {"row": row.name.replace(",", ";"), "seed": str(seed), "scene": scene}
        return {"phase": phase, **about, "rate": f"{setting.rate:g}", "prior": prior, "steps": str(setting.steps)}

    def known(self, key: Mapping[str, str]) -> list[float]:
        """PSNR of the images of a key; [] if it has not been measured."""
        return [float(line["psnr"]) for line in self.lines if all(line[name] == value for name, value in key.items())]

    def add(self, key: Mapping[str, str], figures: Iterable[Figure]) -> None:
        """Append the lines of one scene, all or (after a kill) none but a cut-off one."""
        lines = [
            {
                **key,
                "image": str(f.image),
                "seconds": f"{f.seconds:.3f}",
                "psnr": f"{f.psnr:.5f}",
                "ssim": f"{f.ssim:.5f}",
            }
            for f in figures
        ]
        self._write("a", [",".join(line[c] for c in COLUMNS) for line in lines])
        self.lines += lines

    def points(self, phase: str, row: Row, setting: Setting) -> dict[tuple[str, int, str], tuple[float, float]]:
        """(scene, seed, image) → (seconds, PSNR), of a row with a setting."""
        wanted = self.key(phase, row, 0, "", setting)
        fixed = {name: value for name, value in wanted.items() if name not in ("seed", "scene")}
        return {
            (line["scene"], int(line["seed"]), line["image"]): (float(line["seconds"]), float(line["psnr"]))
            for line in self.lines
            if all(line[name] == value for name, value in fixed.items())
        }

    def images(self, phase: str, row: Row, setting: Setting) -> dict[tuple[str, int, str], float]:
        """(scene, seed, image) → PSNR, of a row with a setting."""
        return {image: psnr for image, (_, psnr) in self.points(phase, row, setting).items()}

    def cells(self, phase: str, row: Row, setting: Setting) -> dict[tuple[str, int], float]:
        """(scene, seed) → mean PSNR over its images, of a row with a setting."""
        found: dict[tuple[str, int], list[float]] = {}
        for (scene, seed, _), value in self.images(phase, row, setting).items():
            found.setdefault((scene, seed), []).append(value)
        return {cell: sum(values) / len(values) for cell, values in found.items()}

    def _write(self, mode: str, lines: Sequence[str]) -> None:
        with self.path.open(mode) as stream:
            stream.write("".join(f"{line}\n" for line in lines))
            stream.flush()
            os.fsync(stream.fileno())


def candidates(
    row: Row, rates: Sequence[float], steps: int, early: Sequence[int], priors: Sequence[float]
) -> list[Setting]:
    """The settings among which a row's is chosen."""
    counts = [*early, steps] if row.stops_early else [steps]
    strengths: list[float | None] = list(priors) if row.prior == "uniform" else [None]
    return [Setting(rate, count, prior) for rate in rates for count in counts for prior in strengths]
