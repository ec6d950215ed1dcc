# SPDX-License-Identifier: Apache-2.0
"""`ns-diff3r compare`: inner optimisers and priors side by side, by what held-out views say, step by step."""

from __future__ import annotations

import csv
import math
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro

from .scene_options import SceneOptions

if TYPE_CHECKING:
    from ..evaluation.metrics import ImageMetrics
    from ..solver import TTOConfig
    from ..splats import Gaussians, Views

OptimizerName = Literal["adam", "adam-tuned", "adam-decayed", "sgd", "lm"]
HORIZONS = (0, 1, 2, 5, 10, 20, 50, 100, 200, 300, 500, 1000, 2000, 3000, 4000)


@dataclass
class Pool(SceneOptions):
    """Which scene, which of its views, and the Gaussians to begin with."""

    data: tyro.conf.Suppress[Path] = Path()
    num_context: int = 0
    max_size: int = 128


@dataclass
class Compare:
    """Optimise scenes from the same beginning by several rules, and measure target and context views along the way.

    Curves against steps and against seconds (of the optimisation alone, this machine) as CSV and SVG; last and best
    values, the gap between context and target views, and runs that diverged, as a table.
    """

    data: tuple[Path, ...]
    """Scenes: folders with a transforms.json."""
    pool: tyro.conf.OmitArgPrefixes[Pool] = field(default_factory=Pool)
    initial: tuple[Path, ...] = ()
    """Gaussians to begin with, a .ply for every scene; default: the sparse points."""
    optimizers: tuple[OptimizerName, ...] = ("adam", "lm")
    """Rules: "adam"; "adam-tuned" with five times the rates and shorter memory; "adam-decayed", whose rates fall to a
    hundredth; "sgd"; "lm", Levenberg-Marquardt."""
    priors: tuple[float, ...] = (0.0,)
    """Values of λ; 0: no prior."""
    steps: int = 300
    """Steps of every run; the curves of the literature go to 4000."""
    lm_steps: int = 0
    """Steps of "lm", which cost more; 0: a tenth of `steps`."""
    learning_rate_factor: float = 1.0
    """Multiplies the default learning rates."""
    sgd_rate: float = 1.0
    """Learning rate of every group for "sgd"."""
    loss: Literal["l1", "mse", "huber", "charbonnier"] = "l1"
    """Penalty of the inner loss."""
    ssim_weight: float = 0.2
    """Share of 1 - SSIM in the inner loss."""
    views_per_step: int = 0
    """Views that a step looks at, drawn at random; 0: all."""
    lpips: Literal["auto", "on", "off"] = "auto"
    """LPIPS among the metrics: where its weights are found, demanded, or not."""
    output: Path = Path("outputs/compare")
    """Folder for curves.csv, summary.json and the charts."""

    def run(self) -> int:
        """Run everything, write the files, print the summary. Status 0 also if runs diverged: that is a result."""
        import torch

        from ..evaluation.metrics import ImageMetrics
        from ..splats import Gaussians
        from .tables import make_folder, print_table, write_json

        if self.initial and len(self.initial) != len(self.data):
            raise ValueError(f"{len(self.data)} scenes and {len(self.initial)} initial Gaussians: give one for each")
        make_folder(self.output)
        metrics = ImageMetrics.find(self.lpips)
        for note in metrics.notes:
            print(note)
        curves: list[dict[str, Any]] = []
        summary: list[dict[str, Any]] = []
        for index, path in enumerate(self.data):
            scene, start, context, targets = replace(self.pool, data=path).load(torch.float32)
            if targets is None:
                raise ValueError(f"{scene.path}: no view is left as target; give --targets")
            if self.initial:
                start = Gaussians.load_ply(self.initial[index]).to(dtype=torch.float32)
            for prior in self.priors:
                for name in self.optimizers:
                    run = _Run(path.name, name, prior, metrics, context, targets)
                    points, row = run.measure(self.config(name), start)
                    curves += points
                    summary.append(row)
            _draw(self.output, path.name, [row for row in curves if row["scene"] == path.name])
        _at_equal_time(summary, curves)
        with (self.output / "curves.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(curves[0]))
            writer.writeheader()
            writer.writerows(curves)
        write_json(self.output / "summary.json", {"summary": summary})
        caption = (
            "target views; best: over the steps that were measured; gap: context minus target PSNR at the end; equal "
            "time: the last measured when the first rule of the same scene and prior had ended"
        )
        print_table("Inner optimisers", summary, caption)
        print(f"wrote curves.csv, summary.json and charts to {self.output}")
        return 0

    def config(self, name: str) -> TTOConfig:
        """Settings of one rule."""
        from ..solver import BackwardMode, ImageLoss, LearningRates, TTOConfig
        from ..solver.inner import RateSchedule, ViewSampling

        factor = self.learning_rate_factor * (5.0 if name == "adam-tuned" else 1.0)
        rates = {group: factor * rate for group, rate in asdict(LearningRates()).items()}
        if name == "sgd":
            rates = dict.fromkeys(rates, self.sgd_rate)
        sampling = ViewSampling("random", self.views_per_step) if self.views_per_step else ViewSampling()
        return TTOConfig(
            num_steps=(self.lm_steps or max(1, self.steps // 10)) if name == "lm" else self.steps,
            optimizer="adam" if name.startswith("adam") else name,  # pyright: ignore[reportArgumentType]
            learning_rates=LearningRates(**rates),
            adam_betas=(0.99, 0.999) if name == "adam-tuned" else (0.9, 0.999),
            rate_schedule=RateSchedule("exponential" if name == "adam-decayed" else "constant"),
            view_sampling=sampling,
            loss=ImageLoss(kind=self.loss, ssim_weight=self.ssim_weight),
            backward_mode=BackwardMode.NONE,
        )


class _Run:
    """One scene, one rule, one prior."""

    def __init__(
        self, scene: str, name: str, prior: float, metrics: ImageMetrics, context: Views, targets: Views
    ) -> None:
        self.key = {"scene": scene, "optimizer": name, "λ": prior}
        self.prior = prior or None
        self.metrics, self.context, self.targets = metrics, context, targets
        self.points: list[dict[str, Any]] = []
        self.clock = 0.0
        """Seconds of optimisation, up to the last measurement."""

    def measure(self, config: TTOConfig, start: Gaussians) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """(one row a measured step, the summary)."""
        import torch

        from ..solver import DifferentiableTTO, TTOStatus

        layer = DifferentiableTTO(config).eval()
        horizons = {step for step in HORIZONS if step < config.num_steps} | {config.num_steps}
        if config.optimizer == "lm":
            horizons = set(range(config.num_steps + 1))
        self._add(config, 0, start)
        begin = time.perf_counter()

        def watch(step: int, gaussians: Gaussians) -> None:
            nonlocal begin
            if step in horizons:
                self.clock += time.perf_counter() - begin
                self._add(config, step, gaussians)
                begin = time.perf_counter()

        layer.watch = watch
        with torch.no_grad():
            _, solution = layer(start, self.prior, self.context)
        diverged = solution.status is TTOStatus.DIVERGED
        last = self.points[-1]
        finite = [point for point in self.points if math.isfinite(point["psnr"])]
        best = max(finite, key=lambda point: point["psnr"], default=last)
        row = {
            **self.key,
            "steps": solution.num_steps,
            "seconds": self.clock,
            "before": self.points[0]["psnr"],
            "last": math.nan if diverged else last["psnr"],
            "best": best["psnr"],
            "best at": best["step"],
            "gap": math.nan if diverged else last["context_psnr"] - last["psnr"],
            **{name: last[name] for name in self.metrics.names if name != "psnr"},
            "inner loss": solution.loss_curve[-1],
            "status": "DIV" if diverged else solution.status.value,
        }
        return self.points, row

    def _add(self, config: TTOConfig, step: int, gaussians: Gaussians) -> None:
        import torch

        from ..rasterization import render

        try:
            with torch.no_grad():
                drawn = [render(gaussians, views.cameras, config.preset).rgb for views in (self.targets, self.context)]
        except ValueError:  # no longer finite: the run ends as diverged
            drawn = []
        if not drawn:
            missing = dict.fromkeys((*self.metrics.names, "context_psnr", "context_loss"), math.nan)
            self.points.append({**self.key, "step": step, "seconds": self.clock, **missing})
            return
        found = [self.metrics(image, truth) for image, truth in zip(drawn[0], self.targets.images, strict=True)]
        seen = [self.metrics(image, truth)["psnr"] for image, truth in zip(drawn[1], self.context.images, strict=True)]
        means = {name: sum(values[name] for values in found) / len(found) for name in self.metrics.names}
        loss = config.loss.linearize(drawn[1], self.context.images).value
        row = {**self.key, "step": step, "seconds": self.clock, **means}
        self.points.append({**row, "context_psnr": sum(seen) / len(seen), "context_loss": loss})


def _at_equal_time(summary: list[dict[str, Any]], curves: list[dict[str, Any]]) -> None:
    """Add to every run what it had reached when the first rule of its scene and prior had ended."""
    budgets: dict[tuple[str, float], float] = {}
    for row in summary:
        budget = budgets.setdefault((row["scene"], row["λ"]), row["seconds"])
        own = [c for c in curves if all(c[name] == row[name] for name in ("scene", "optimizer", "λ"))]
        within = [c for c in own if c["seconds"] <= budget]
        row["equal time"] = within[-1]["psnr"] if within else math.nan


def _draw(folder: Path, scene: str, curves: list[dict[str, Any]]) -> None:
    from .charts import line_chart

    for axis in ("step", "seconds"):
        series: dict[str, list[tuple[float, float]]] = {}
        for row in curves:
            label = row["optimizer"] + (f", λ={row['λ']:g}" if row["λ"] else "")
            series.setdefault(label, []).append((row[axis], row["psnr"]))
        line_chart(
            folder / f"{scene}_psnr_by_{axis}.svg",
            series,
            title=f"{scene}: target views",
            x_label="steps" if axis == "step" else "seconds",
            y_label="PSNR [dB]",
        )
