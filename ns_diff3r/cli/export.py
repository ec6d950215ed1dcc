# SPDX-License-Identifier: Apache-2.0
"""`ns-diff3r export`: the Gaussians of a scene, as a trained run reconstructs it, in a file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro


@dataclass
class Export:
    """Reconstruct a scene with a trained network and write its Gaussians, in the units of the scene's own poses.

    Neither nerfstudio nor open3d is needed.
    """

    run_folder: Annotated[Path, tyro.conf.arg(name="run")]
    """Folder of a run of `ns-diff3r fit` or `ns-train`, or one of its checkpoints."""
    output: Path = Path("scene.ply")
    """File to write: .ply (standard 3DGS layout), .compressed.ply (SuperSplat) or .spz; the last two need gsply."""
    data: Path | None = None
    """A scene, or a folder of scenes; default: the run's data."""
    scene: str | None = None
    """Name of the scene where there are several; default: the first."""
    context: tuple[int, ...] = ()
    """Indices of the views to reconstruct from; default: as in evaluation."""
    num_context: int | None = None
    """Take this many context views, chosen as in evaluation."""
    steps: int | None = None
    """Steps of test-time optimisation, 0 for the prediction alone; default: as in evaluation."""
    threads: int = 0
    """Threads; 0: as torch chooses."""

    def run(self) -> int:
        """Reconstruct and write."""
        from dataclasses import replace

        import torch

        from ..data import BatchSampler, SceneError, open_collection
        from ..splats.writing import check_format, save_gaussians
        from ..training.inference import reconstruct
        from ..training.weights import open_weights

        check_format(self.output)
        if self.steps is not None and self.steps < 0:
            raise ValueError(f"--steps must not be negative, not {self.steps}")
        if self.threads:
            torch.set_num_threads(self.threads)
        network = open_weights(self.run_folder)
        settings = network.settings
        collection = open_collection(self.data or settings.data, replace(settings.collection, eval_scenes=()))
        count = self.num_context or settings.sampler.num_evaluation_context
        sampler = BatchSampler(replace(settings.sampler, num_evaluation_context=count), collection)
        scene = self._scene(collection.names)
        context = self.context or sampler.evaluation(scene)[0]
        if len(context) < 2:
            raise SceneError(f"a reconstruction needs at least two context views, got {len(context)}")
        print(
            f"{network.checkpoint.name} ({network.step} steps); scene {collection.names[scene]}, "
            f"context views {', '.join(map(str, context))}",
            flush=True,
        )
        result = reconstruct(network.module, collection.views(scene, context), self.steps)
        self.output.parent.mkdir(parents=True, exist_ok=True)
        save_gaussians(result.after, self.output)
        steps = 0 if result.solution is None else result.solution.num_steps
        print(f"wrote {result.after.num_gaussians} Gaussians after {steps} TTO steps to {self.output}")
        return 0

    def _scene(self, names: tuple[str, ...]) -> int:
        from ..data import SceneError

        if self.scene is None:
            return 0
        if self.scene not in names:
            raise SceneError(f"there is no scene {self.scene!r}; the scenes are {', '.join(names)}")
        return names.index(self.scene)
