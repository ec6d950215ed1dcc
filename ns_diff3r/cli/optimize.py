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

        from ..solver import DifferentiableTTO, TTOStatus
        from .tables import print_table, write_json

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
        save_comparison(self.output / "comparison.png", [shown.images, images["before"], images["after"]])
        write_json(
            self.output / "results.json",
            {"psnr": rows, "seconds": duration, "status": solution.status.value, "loss_curve": solution.loss_curve},
        )
        print(f"wrote scene.ply, comparison.png (photograph, before, after) and results.json to {self.output}")
        return 1 if solution.status is TTOStatus.DIVERGED else 0


def make_folder(path: Path) -> None:
    """Make a folder if it is missing; OSError naming it if nothing can be written there."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        (path / ".writable").touch()
        (path / ".writable").unlink()
    except OSError as error:
        raise OSError(f"cannot write to {path}: {error.strerror}") from error


def _render(gaussians: Gaussians, views: Views, preset: str) -> Float[Tensor, "V H W 3"]:
    import torch

    from ..rasterization import render

    with torch.no_grad():
        return render(gaussians, views.cameras, preset=preset).rgb.clamp(0, 1)


def psnr(images: Float[Tensor, "*batch 3"], truth: Float[Tensor, "*batch 3"]) -> float:
    """Peak signal-to-noise ratio in dB of images in [0, 1]; infinite for equal images."""
    return float(-10 * (images - truth).double().square().mean().log10())


def _row(name: str, before: Tensor, after: Tensor, truth: Tensor) -> dict[str, Any]:
    values = psnr(before, truth), psnr(after, truth)
    return {"view": name, "before": values[0], "after": values[1], "gain": values[1] - values[0]}


def _rows(images: dict[str, Tensor], views: Views, kind: str) -> list[dict[str, Any]]:
    """One row a view, and their mean (of the dB values)."""
    triples = zip(images["before"], images["after"], views.images, strict=True)
    rows = [_row(f"{kind} {i}", *triple) for i, triple in enumerate(triples)]
    mean = {name: sum(row[name] for row in rows) / len(rows) for name in ("before", "after", "gain")}
    return [*rows, {"view": f"mean, {kind}", **mean}]


def save_comparison(path: Path, columns: list[Float[Tensor, "V H W 3"]], max_rows: int = 3) -> None:
    """One picture: a row per view, a column per stack of images, thin white lines between."""
    import numpy as np
    import torch
    from PIL import Image

    rows = [torch.cat([_framed(stack[v]) for stack in columns], dim=1) for v in range(min(max_rows, len(columns[0])))]
    pixels = torch.cat(rows, dim=0)[:-2, :-2].clamp(0, 1)
    Image.fromarray(np.rint(pixels.numpy() * 255).astype(np.uint8)).save(path)


def _framed(image: Float[Tensor, "H W 3"]) -> Float[Tensor, "h w 3"]:
    import torch

    return torch.nn.functional.pad(image, (0, 0, 0, 2, 0, 2), value=1.0)
