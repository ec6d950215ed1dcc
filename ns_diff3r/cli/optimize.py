# SPDX-License-Identifier: Apache-2.0
"""`ns-diff3r optimize`: test-time optimisation of one posed scene, from its sparse points to a splat."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from .scene_options import SceneOptions

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from ..solver import TTOConfig
    from ..splats import Gaussians, Views


@dataclass
class Optimize:
    """Fit Gaussians to a posed scene: before and after on held-out views, a comparison picture and a .ply.

    Gaussians begin at the scene's sparse points and keep their number. Held-out views enter nothing but the comparison.
    """

    scene: tyro.conf.OmitArgPrefixes[SceneOptions]
    output: Path = Path("outputs/optimize")
    """Folder for scene.ply, comparison.png and results.json."""
    steps: int = 300
    """Optimisation steps."""
    prior: float | None = None
    """λ that holds the Gaussians near their beginning; default: none."""
    learning_rate_factor: float = 4.0
    """Multiplies the learning rates, which are meant for thousands of steps."""
    preset: str = "gsplat-1.4.0"
    """Semantics of the renderer: gsplat-1.4.0, gsplat-1.5.3 or inria."""
    threads: int = 0
    """Threads; 0: as torch chooses."""

    def config(self) -> TTOConfig:
        """Settings of the optimisation."""
        from ..solver import LearningRates, TTOConfig

        rates = {name: self.learning_rate_factor * rate for name, rate in asdict(LearningRates()).items()}
        return TTOConfig(num_steps=self.steps, learning_rates=LearningRates(**rates), preset=self.preset)

    def run(self) -> int:
        """Optimise, print the table, write the files; status 1 if the optimisation diverged."""
        import torch

        from ..evaluation.reports import save_pictures
        from ..solver import DifferentiableTTO, TTOStatus
        from .tables import make_folder, print_table, write_json

        if self.threads:
            torch.set_num_threads(self.threads)
        make_folder(self.output)
        scene, start, context, targets = self.scene.load(torch.float32)
        print(
            f"{scene.path}: {context.num_views} of {scene.num_frames} views as context, "
            f"{targets.num_views if targets else 0} held out, {context.cameras.width}x{context.cameras.height}; "
            f"{start.num_gaussians} Gaussians, {self.steps} steps",
            flush=True,
        )
        layer = DifferentiableTTO(self.config()).eval()
        begin = time.perf_counter()
        with torch.no_grad():
            result, solution = layer(start, self.prior, context)
        duration = time.perf_counter() - begin
        for warning in solution.warnings:
            print(f"note: {warning}")

        shown = targets if targets is not None else context
        images = {"before": _render(start, shown, self.preset), "after": _render(result, shown, self.preset)}
        rows = _rows(images, shown, "held out" if targets is not None else "context (none is held out)")
        fitted = [_render(g, context, self.preset) for g in (start, result)]
        rows.append(_row("mean, context", fitted[0], fitted[1], context.images))
        print_table(
            "PSNR [dB]",
            rows,
            f"{duration:.1f} s, inner loss {solution.loss_curve[0]:.4f} → {solution.loss_curve[-1]:.4f}",
        )

        result.save_ply(self.output / "scene.ply")
        pictures = list(zip(shown.images, images["before"], images["after"], strict=True))
        save_pictures(self.output / "comparison.png", pictures, min_height=180)
        write_json(
            self.output / "results.json",
            {"psnr": rows, "seconds": duration, "status": solution.status.value, "loss_curve": solution.loss_curve},
        )
        print(f"wrote scene.ply, comparison.png (photograph, before, after) and results.json to {self.output}")
        return 1 if solution.status is TTOStatus.DIVERGED else 0


def _render(gaussians: Gaussians, views: Views, preset: str) -> Float[Tensor, "V H W 3"]:
    import torch

    from ..rasterization import render

    with torch.no_grad():
        return render(gaussians, views.cameras, preset=preset).rgb.clamp(0, 1)


def _row(name: str, before: Tensor, after: Tensor, truth: Tensor) -> dict[str, Any]:
    from ..evaluation.metrics import psnr

    values = psnr(before, truth), psnr(after, truth)
    return {"view": name, "before": values[0], "after": values[1], "gain": values[1] - values[0]}


def _rows(images: dict[str, Tensor], views: Views, kind: str) -> list[dict[str, Any]]:
    """One row a view, and their mean (of the dB values)."""
    from ..evaluation.evaluate import mean_figures

    triples = zip(images["before"], images["after"], views.images, strict=True)
    rows = [_row(f"{kind} {i}", *triple) for i, triple in enumerate(triples)]
    return [*rows, {"view": f"mean, {kind}", **mean_figures(rows, ("before", "after", "gain"))}]
