# SPDX-License-Identifier: Apache-2.0
"""`ns-diff3r reconstruct`: photographs in, a splat out."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..data import BatchSampler, CollectionConfig, SamplerConfig
    from ..training.inference import Reconstruction
    from ..training.weights import TrainedNetwork

MOST_CONTEXT = 8


@dataclass
class Reconstruct:
    """Predict a splat from photographs with a trained network, and optimise it on them.

    Writes scene.ply (in the world of the poses), comparison.png, results.json and, where nerfstudio is installed, a run
    that ns-viewer, ns-render, ns-eval and ns-export open. A folder of photographs without poses gets them by pycolmap
    (the extra `colmap`), or from the network itself where that
    predicts poses (Depth Anything 3).
    """

    data: Path
    """A posed scene (transforms.json or COLMAP), or a folder of photographs."""
    weights: Path = Path("diff3r-wide")
    """Run folder of ns-train diff3r or ns-diff3r fit, a checkpoint in one, the name of weights that come with the
    package, or published weights: a file, or a name that `ns-diff3r weights list` shows."""
    output: Path = Path("outputs/reconstruct")
    """Folder for the results."""
    context: tuple[int, ...] = ()
    """Indices of the photographs to use, in the order of the scene; default: chosen."""
    num_context: int = 0
    """Use this many photographs, spread widely; default: all, at most 8."""
    steps: int | None = None
    """Steps of test-time optimisation; default: as the network was trained for; 0: prediction alone."""
    max_size: int | None = None
    """Longest side of the photographs; default: as in training."""
    network_size: int | None = None
    """Longest side of the photographs as the network sees them; it predicts a Gaussian for every pixel of these, and
    test-time optimisation then sees `max_size`. Compact network only; default: as its weights say."""
    sparse_points: bool = True
    """Use the scene's sparse points, where it has them and the network (compact) reads them: depths then agree with
    them, and what no photograph in use shows is made of them. Registration triangulated them from all photographs,
    those held out among them."""
    hold_out: bool = False
    """Hold every 8th photograph out, and compare with it before and after optimisation."""
    nerfstudio_run: bool = True
    """Also write a nerfstudio run, where nerfstudio is installed."""
    threads: int = 0
    """Threads; 0: as torch chooses."""

    def run(self) -> int:
        """Reconstruct, print the figures, write the files."""
        import torch

        from ..data import SceneError
        from ..training.inference import reconstruct
        from ..training.weights import at_working_size, open_weights
        from .tables import make_folder

        if not self.data.exists():
            raise SceneError(f"{self.data}: no such file or folder")
        if self.threads:
            torch.set_num_threads(self.threads)
        make_folder(self.output)
        network = open_weights(self.weights)
        if self.network_size is not None:
            network = at_working_size(network, self.network_size)
        print(f"weights: {network.checkpoint} after {network.step} steps, sha256 {network.sha256}")
        scene = self._scene(network)
        sampler = self._sampler(network, scene)
        collection = sampler.collection
        frames = sampler.evaluation(0)[0]
        context = collection.views(0, frames)
        names = [collection.scene(0).frames[i].image_path.name for i in frames]
        reads_points = network.module.network.backbone.uses_points
        print(
            f"{scene}: {len(frames)} of {collection.scene(0).num_frames} photographs, "
            f"{context.cameras.width}x{context.cameras.height}: {', '.join(names)}"
            + (f"; {context.points.num_points} sparse points" if context.points is not None and reads_points else "")
        )
        begin = time.perf_counter()
        total = network.module.config.evaluation_config(self.steps).num_steps
        with _progress("optimising", total) as progress:
            result = reconstruct(network.module, context, self.steps, progress)
        seconds = time.perf_counter() - begin
        result.after.save_ply(self.output / "scene.ply")
        print(
            f"{result.after.num_gaussians} Gaussians in {seconds:.1f} s: predicted in {result.predict_seconds:.1f} s, "
            f"optimised in {result.tto_seconds:.1f} s"
        )
        figures = self._judge(network, sampler, result)
        run = self._write_run(network, scene, sampler)
        self._write_results(network, names, result, figures, seconds, run)
        return 0

    def _scene(self, network: TrainedNetwork) -> Path:
        """The posed scene: `data`, or what the network or else pycolmap makes of its photographs."""
        from ..data.readers import has_photographs, is_scene
        from ..data.registration import register_photographs
        from ..training.predicted_poses import predict_poses

        if self.data.is_file() or is_scene(self.data) or not has_photographs(self.data):
            return self.data
        with _status("finding poses") as report:
            backbone, poses = network.module.network.backbone, self.output / "poses"
            if backbone.predicts_cameras:
                size = self.max_size or network.settings.collection.max_size or 504
                found = predict_poses(backbone, self.data, poses, max_size=size, progress=report)
            else:
                found = register_photographs(self.data, poses, progress=report)
        print(f"poses of {found.num_registered} of {found.num_photographs} photographs: {found.transforms}")
        return found.transforms.parent

    def _sampler(self, network: TrainedNetwork, scene: Path) -> BatchSampler:
        from ..data import BatchSampler, SceneError, open_collection

        collection = open_collection(scene, self._collection_config(network.settings.collection))
        if collection.num_scenes != 1:
            raise SceneError(
                f"{scene}: {collection.num_scenes} scenes; reconstruct takes one: {', '.join(collection.names)}"
            )
        count = len(collection.training_indices(0))
        return BatchSampler(self._sampler_config(network.settings.sampler, count), collection)

    def _collection_config(self, trained: CollectionConfig) -> CollectionConfig:
        config = replace(trained, eval_scenes=(), near=None, far=None, sparse_points=self.sparse_points)
        config.split = replace(trained.split, all=not self.hold_out)
        if self.max_size is not None:
            config.image_size, config.max_size = None, self.max_size
        return config

    def _sampler_config(self, trained: SamplerConfig, count: int) -> SamplerConfig:
        from ..data import SceneError

        if self.num_context < 0 or self.num_context == 1 or self.num_context > count:
            raise SceneError(f"--num-context {self.num_context}: between 2 and the {count} photographs there are")
        return replace(
            trained,
            num_context=2,
            num_evaluation_context=self.num_context or min(count, MOST_CONTEXT),
            evaluation_selection="farthest",
            evaluation_context=self.context or None,
        )

    def _judge(self, network: TrainedNetwork, sampler: BatchSampler, result: Reconstruction) -> list[dict[str, Any]]:
        """Figures on held-out views, or on the context where none is held out, as a table and a picture."""
        from ..data.batches import SceneBatch
        from ..evaluation.evaluate import judge, mean_figures
        from ..evaluation.metrics import ImageMetrics
        from ..evaluation.reports import save_pictures, title
        from .tables import print_table

        context, targets = sampler.evaluation(0)
        shown = targets or context
        collection = sampler.collection
        batch = SceneBatch(collection.names[0], collection.views(0, context), collection.views(0, shown))
        side = min(batch.targets.cameras.width, batch.targets.cameras.height)
        metrics = ImageMetrics.find("auto", network.settings.training.losses.vgg_weights, side)
        rows, pictures = judge(network.module, batch, result, metrics)
        kind = "held out" if targets else "context"
        figures = [{"view": f"{kind} {frame}", **row} for frame, row in zip(shown, rows, strict=True)]
        names = [name for name in figures[0] if name.endswith(("_before", "_after", "_gain"))]
        mean = {"view": f"mean, {kind}", **mean_figures(figures, names)}
        table = [{"view": row["view"], **{title(name): row[name] for name in names}} for row in [*figures, mean]]
        caption = "" if targets else "these photographs were used: --hold-out measures on others"
        print_table("Before and after optimisation", table, caption)
        save_pictures(self.output / "comparison.png", pictures, min_height=180)
        return figures

    def _write_run(self, network: TrainedNetwork, scene: Path, sampler: BatchSampler) -> Path | None:
        if not self.nerfstudio_run:
            return None
        with _status("writing a nerfstudio run") as report:
            report("importing nerfstudio")
            try:
                from ..run_files import write_run
            except ImportError as error:
                print(f"no nerfstudio run: {error} (pip install 'ns-diff3r[nerfstudio]')")
                return None
            report("config and checkpoint")
            return write_run(
                network,
                scene.resolve(),
                (self.output / "nerfstudio").resolve(),
                name=(self.data if self.data.is_dir() else self.data.parent).resolve().name,
                collection=sampler.collection.config,
                sampler=sampler.config,
                tto_steps=self.steps,
            )

    def _write_results(
        self,
        network: TrainedNetwork,
        photographs: list[str],
        result: Reconstruction,
        figures: list[dict[str, Any]],
        seconds: float,
        run: Path | None,
    ) -> None:
        from .tables import write_json

        solution = result.solution
        content = {
            "weights": {"file": str(network.checkpoint), "sha256": network.sha256, "step": network.step},
            "context": photographs,
            "num_gaussians": result.after.num_gaussians,
            "seconds": {"all": seconds, "predict": result.predict_seconds, "tto": result.tto_seconds},
            "tto": None
            if solution is None
            else {"steps": solution.num_steps, "status": solution.status.value, "loss_curve": solution.loss_curve},
            "figures": figures,
        }
        write_json(self.output / "results.json", content)
        print(f"wrote scene.ply, comparison.png (photograph, before, after) and results.json to {self.output}")
        if run is not None:
            print(f"look at it: ns-viewer --load-config {run}")


@contextmanager
def _progress(title: str, total: int) -> Iterator[Any]:
    """A callback (steps taken, loss) that moves a bar on a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(file=sys.stderr)
    columns = (TextColumn(title), BarColumn(), TextColumn("{task.fields[text]}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=total, text="")
        yield lambda step, loss: progress.update(task, completed=step, text=f"step {step}, loss {loss:.4f}")


@contextmanager
def _status(title: str) -> Iterator[Any]:
    """A callback (stage) that shows what is being done; on no terminal it prints a line a stage."""
    from rich.console import Console

    console = Console(file=sys.stderr)
    if not console.is_terminal:
        yield lambda stage: print(f"{title}: {stage}", flush=True)
        return
    with console.status(title) as status:
        yield lambda stage: status.update(f"{title}: {stage}")
