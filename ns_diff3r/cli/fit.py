# SPDX-License-Identifier: Apache-2.0
"""`ns-diff3r fit`: train a network on posed photographs, without nerfstudio."""

from __future__ import annotations

import logging
import os
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..backbones.compact import CompactConfig
from ..backbones.protocol import BackboneConfig
from ..backbones.uncertainty import UncertaintyHeadConfig
from ..data.collection import CollectionConfig
from ..data.sampler import SamplerConfig
from ..training.config import TrainingConfig
from .devices import DeviceChoice, chosen_device

if TYPE_CHECKING:
    from ..training.loop import StepRecord, TrainingLoop
    from ..training.run import RunSettings


SUMMARISED = ("stationarity", "pcg_residual", "pcg_iterations", "skipped_scenes")


@dataclass
class Fit:
    """Train the compact network on one scene or a folder of scenes, in both stages, and evaluate it.

    Does the steps of `ns-train diff3r` in a plain loop. Interrupted or killed, the same command continues the run.
    `ns-diff3r fit depthsplat` and `ns-diff3r fit da3` train the official networks.
    """

    data: Path
    """A scene, a folder of scenes or of chunks, "generated" (scenes made from a seed while they are used), or a file
    that names several such sources (.json, .yaml)."""
    weights: Path | None = None
    """Trained weights of the same network to begin with: a run, a checkpoint, a weights file, or the name of weights
    that come with the package; default: untrained."""
    output: Path = Path("outputs/fit")
    """Folder of the run: settings.json, metrics.jsonl, checkpoints, evaluation.json, comparison.png."""
    training: TrainingConfig = field(default_factory=TrainingConfig)
    """Length, stages, losses, optimisers, test-time optimisation."""
    backbone: BackboneConfig = field(default_factory=CompactConfig)
    """The network that predicts Gaussians."""
    uncertainty: UncertaintyHeadConfig = field(default_factory=UncertaintyHeadConfig)
    """The head that predicts λ."""
    collection: CollectionConfig = field(default_factory=CollectionConfig)
    """Scenes, split and image size."""
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    """Choice of context and target views."""
    resume: bool = True
    """Continue a run that is in the output folder; with --no-resume such a folder is an error."""
    save_every: int = 500
    """Steps between checkpoints."""
    keep_checkpoints: bool = False
    """Keep every checkpoint instead of the last one."""
    lpips_metric: Literal["auto", "on", "off"] = "auto"
    """LPIPS in the evaluation: where its weights are found, demanded, or not at all."""
    evaluate: bool = True
    """Evaluate at the end."""
    device: DeviceChoice = "auto"
    """Where to train: "auto" takes CUDA where torch and this installation can use it, else the CPU."""
    workers: int = 2
    """Threads that read scenes of the next steps while one is taken; 0: none. Results do not depend on it."""
    threads: int = 0
    """Threads; 0: as torch chooses. Results depend on it in the last digits."""

    def settings(self) -> RunSettings:
        """What determines the run."""
        from ..data.generated_settings import lasting
        from ..data.mixture import mixture_digest
        from ..training.run import RunSettings
        from ..training.weights import bundled_or_path

        return RunSettings(
            data=lasting(self.data),
            backbone=self.backbone,
            uncertainty=self.uncertainty,
            collection=self.collection,
            sampler=self.sampler,
            training=self.training,
            weights=None if self.weights is None else Path(os.path.abspath(bundled_or_path(self.weights))),
            mixture_sha256=mixture_digest(self.data),
        )

    def run(self) -> int:
        """Train, evaluate, write the files."""
        import torch

        from ..evaluation.metrics import ImageMetrics
        from ..training.loop import TrainingLoop
        from ..training.run import RunFolder

        if self.save_every < 1:
            raise ValueError(f"--save-every must be at least 1, not {self.save_every}")
        if self.threads:
            torch.set_num_threads(self.threads)
        settings, folder = self.settings(), RunFolder(self.output)
        self._check_folder(folder, settings)
        ImageMetrics.find(self.lpips_metric, self.training.losses.vgg_weights)  # an error now, not after training
        device = chosen_device(self.device)
        loop = TrainingLoop(settings, folder, self.save_every, self.keep_checkpoints, device, self.workers)
        self._describe(loop)
        begin = time.perf_counter()
        records = list(_compact(loop))
        if records:
            print(_summary(records, time.perf_counter() - begin))
        return self._evaluate(loop) if self.evaluate else 0

    def _check_folder(self, folder: Any, settings: RunSettings) -> None:
        from ..training.checkpoint import last_complete_checkpoint

        if last_complete_checkpoint(folder.checkpoints) is None:
            return
        if not self.resume:
            raise ValueError(f"{folder.path}: holds a run already; choose another --output, or continue it by --resume")
        changed = folder.changed_settings(settings)
        if changed:
            raise ValueError(
                f"{folder.path}: holds a run with other settings ({', '.join(changed[:5])}); it can only be continued "
                "with its own. Choose another --output"
            )

    def _describe(self, loop: TrainingLoop) -> None:
        collection, network, training = loop.sampler.collection, loop.module.network, self.training
        counts = {name: sum(p.numel() for p in group) for name, group in network.param_groups().items()}
        known = collection.training_scenes if collection.is_read_ahead else ()
        images = sum(len(collection.training_indices(scene)) for scene in known)
        boundary = training.stages.boundary(training.num_steps)
        counted = f", {images} training images" if known else ", read when their turn comes"
        print(f"{self.data}: {len(collection.training_scenes)} scenes{counted}")
        print(f"parameters: {', '.join(f'{name} {count:,}' for name, count in counts.items())}")
        print(f"steps: {boundary} feed-forward, {training.num_steps - boundary} through test-time optimisation")
        print(loop.module.outer_loss.description)
        if loop.steps_done:
            print(f"continuing after step {loop.steps_done}")

    def _evaluate(self, loop: TrainingLoop) -> int:
        from ..evaluation.evaluate import evaluate
        from ..evaluation.metrics import ImageMetrics
        from ..evaluation.reports import save_pictures, table_rows
        from .tables import print_table, write_json

        sampler = loop.sampler
        scenes = sampler.collection.evaluation_scenes
        first = next(item for scene in scenes for item in sampler.evaluation_items(scene))
        views = sampler.collection.views(first.scene, first.targets[:1])
        side = min(views.cameras.width, views.cameras.height)
        metrics = ImageMetrics.find(self.lpips_metric, self.training.losses.vgg_weights, side)
        result = evaluate(loop.module, sampler, metrics)
        for note in result.notes:
            print(f"note: {note}")
        steps = self.training.evaluation_config().num_steps
        print_table("Held-out views, before and after test-time optimisation", table_rows(result), f"{steps} TTO steps")
        write_json(self.output / "evaluation.json", {"steps": loop.steps_done, "tto_steps": steps, **result.to_json()})
        save_pictures(self.output / "comparison.png", result.pictures, min_height=180)
        print(f"wrote evaluation.json and comparison.png (photograph, before, after) to {self.output}")
        return 0


def _compact(loop: TrainingLoop) -> Iterator[dict[str, float]]:
    """What `_summary` needs of every step, shown while they come; the file has the rest."""
    with _progress(loop) as show:
        for record in loop.run():
            show(record)
            yield {name: record.scalars[name] for name in SUMMARISED if name in record.scalars}


@contextmanager
def _progress(loop: TrainingLoop) -> Iterator[Any]:
    """A bar on a terminal, now and then a line elsewhere; warnings of our code go above it."""
    from rich.console import Console
    from rich.logging import RichHandler
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(width=None if os.isatty(1) else 200)
    columns = (TextColumn("{task.fields[stage]}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    progress = Progress(*columns, TextColumn("{task.fields[text]}"), console=console, disable=not console.is_terminal)
    total = loop.settings.training.num_steps
    task = progress.add_task("", total=total, completed=loop.steps_done, stage="", text="")
    handler = RichHandler(console=console, show_path=False)
    logger = logging.getLogger("ns_diff3r")

    def show(record: StepRecord) -> None:
        stage, text = record.output.stage.value, _line(record.scalars)
        progress.update(task, completed=record.step + 1, stage=stage, text=text)
        if not console.is_terminal and ((record.step + 1) % max(1, total // 20) == 0 or record.step + 1 == total):
            console.print(f"step {record.step + 1}/{total} {stage}: {text}")

    logger.addHandler(handler)
    try:
        with progress:
            yield show
    finally:
        logger.removeHandler(handler)


def _line(scalars: dict[str, float]) -> str:
    psnr = f"PSNR {scalars['psnr_before']:.2f}" if "psnr_before" in scalars else ""
    if "psnr_after" in scalars:
        psnr += f" → {scalars['psnr_after']:.2f}"
    solve = f", PCG {scalars['pcg_iterations']:.0f}" if "pcg_iterations" in scalars else ""
    return f"loss {scalars['loss']:.5f}  {psnr}{solve}"


def _summary(records: Sequence[dict[str, float]], seconds: float) -> str:
    """What a reader should know about the steps as a whole."""
    lines = [f"{len(records)} steps in {seconds:.1f} s"]
    bilevel = [record for record in records if "pcg_residual" in record]
    if bilevel:
        ratio = statistics.median(record["stationarity"] for record in bilevel if "stationarity" in record)
        residual = statistics.median(record["pcg_residual"] for record in bilevel)
        iterations = statistics.median(record["pcg_iterations"] for record in bilevel)
        lines.append(
            f"through optimisation: median stationarity {ratio:.2g}, PCG iterations {iterations:.0f}, "
            f"PCG residual {residual:.2g}"
        )
    skipped = sum(record.get("skipped_scenes", 0.0) for record in records)
    if skipped:
        lines.append(f"{skipped:.0f} scenes were left out of their step; see the warnings above")
    return "\n".join(lines)
