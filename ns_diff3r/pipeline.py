# SPDX-License-Identifier: Apache-2.0
# pyright: reportIncompatibleVariableOverride=false, reportIncompatibleMethodOverride=false
# nerfstudio narrows attributes by annotation, and its signatures name the rays of other methods.
"""nerfstudio's pipeline: the training step, the active scene, evaluation before and after test-time optimisation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import torch
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackAttributes
from nerfstudio.models.base_model import Model
from nerfstudio.pipelines.base_pipeline import VanillaPipeline, VanillaPipelineConfig
from nerfstudio.utils import profiler
from torch import Tensor, nn
from torch.cuda.amp.grad_scaler import GradScaler
from torch.nn.parallel import DistributedDataParallel

from .compat import usable_device
from .dataclass_state import DefaultsForMissingFields
from .datamanager import Diff3RDataManager, Diff3RDataManagerConfig
from .evaluation.evaluate import Evaluation, evaluate, judge
from .model import ActiveScene, Diff3RModel, Diff3RModelConfig
from .run_checks import say
from .run_logging import StepLogger, as_json, averages, print_evaluation, save_evaluation_images
from .training.inference import Reconstruction, evaluating, reconstruct
from .training.outputs import StepOutput
from .training.run import load_weights
from .viewer_panel import ViewerPanel

CORE = "core."
"""Prefix, within the model, of all that is trained and saved."""


@dataclass
class Diff3RPipelineConfig(DefaultsForMissingFields, VanillaPipelineConfig):
    """Data and model of a run."""

    _target: type = field(default_factory=lambda: Diff3RPipeline)
    datamanager: Diff3RDataManagerConfig = field(default_factory=Diff3RDataManagerConfig)
    """Scenes and views."""
    model: Diff3RModelConfig = field(default_factory=Diff3RModelConfig)
    """Network and training."""
    num_context_shown: int = 6
    """Context views of the scene on show (viewer, ns-render, ns-export), where the sampler's settings of evaluation
    leave it open."""
    refresh_every: int = 500
    """Training steps after which the scene that the viewer shows is predicted and fitted anew."""


class Diff3RPipeline(VanillaPipeline):
    """Trains through `self._model(...)`, so that DistributedDataParallel takes part.

    Attributes:
        scene_step: training step after which the active scene was last predicted; -1: never.
        context_frames: frames of the active scene that it is predicted from and fitted to.
        tto_steps: of test-time optimisation of the active scene; None: as the settings say for evaluation.
        diff3r: controls in the viewer, under this name there.
    """

    config: Diff3RPipelineConfig
    datamanager: Diff3RDataManager

    def __init__(
        self,
        config: Diff3RPipelineConfig,
        device: torch.device | str,
        test_mode: Literal["test", "val", "inference"] = "val",
        world_size: int = 1,
        local_rank: int = 0,
        grad_scaler: GradScaler | None = None,
    ) -> None:
        # VanillaPipeline's own constructor wraps the model in a way that works on CUDA only.
        nn.Module.__init__(self)
        self.config = config
        self.test_mode = test_mode
        self.world_size = world_size
        target = usable_device(device)
        self.datamanager = config.datamanager.setup(
            device=target, test_mode=test_mode, world_size=world_size, local_rank=local_rank
        )
        if isinstance(self.datamanager, nn.Module):  # a plain class in later versions of nerfstudio
            self.datamanager.to(target)
        dataset = self.datamanager.train_dataset
        self._model = config.model.setup(
            scene_box=dataset.scene_box,
            num_train_data=len(dataset),
            metadata=dataset.metadata,
            device=target,
            grad_scaler=grad_scaler,
        )
        self.model.to(target)
        self.scene_step = -1
        self.tto_steps: int | None = None
        self.context_frames = self._default_context()
        self._last_output: StepOutput | None = None
        self.diff3r = ViewerPanel(self)
        if world_size > 1:
            devices = [local_rank] if target.type == "cuda" else None
            wrapped = DistributedDataParallel(self._model, device_ids=devices, find_unused_parameters=True)
            self._model = cast(Model, wrapped)
            torch.distributed.barrier()

    def describe(self) -> str:
        """What is trained on what, in a few lines."""
        data, core = self.datamanager, self.model.core
        groups = core.network.param_groups()
        sizes = ", ".join(f"{name} {sum(p.numel() for p in group):,}" for name, group in groups.items())
        if not data.collection.is_read_ahead:  # counting images would read every scene
            counts = len(data.collection.training_scenes), len(data.collection.evaluation_scenes)
            return "\n".join(
                [
                    f"{counts[0]} training scenes, {counts[1]} scenes to judge by, read when their turn comes",
                    f"parameters: {sizes}; device: {self.device}",
                    core.outer_loss.description,
                ]
            )
        images = sum(len(data.collection.training_indices(i)) for i in data.collection.training_scenes)
        held_out = sum(len(data.collection.evaluation_indices(i)) for i in data.collection.evaluation_scenes)
        lines = [
            f"{len(data.collection.training_scenes)} training scenes with {images} images, {held_out} images held out",
            f"parameters: {sizes}; device: {self.device}",
            core.outer_loss.description,
        ]
        if held_out == 0:
            lines.append("no image is held out: evaluation is on training images")
        return "\n".join(lines)

    @property
    def model(self) -> Diff3RModel:
        """The model without its wrapper."""
        return cast(Diff3RModel, super().model)

    # --- training ---

    @profiler.time_function
    def get_train_loss_dict(self, step: int) -> tuple[StepOutput, dict[str, Tensor], dict[str, float]]:
        """The step's report, the terms of its loss, and its scalars."""
        batches, _ = self.datamanager.next_train(step)
        output: StepOutput = self._model(batches, step)
        self._last_output = output
        return output, output.losses, dict(output.scalars)

    def get_training_callbacks(
        self, training_callback_attributes: TrainingCallbackAttributes
    ) -> list[TrainingCallback]:
        """Scalars known only after backward, histograms of λ, and a fresh scene for the viewer now and then."""
        logger = StepLogger(training_callback_attributes.trainer, lambda: self._last_output)
        return [*logger.callbacks(), *self.diff3r.callbacks(training_callback_attributes.trainer)]

    # --- evaluation ---

    @profiler.time_function
    @torch.no_grad()
    def get_eval_loss_dict(self, step: int) -> tuple[StepOutput, dict[str, Tensor], dict[str, float]]:
        """The same as in training, on held-out images and without gradients."""
        batches, _ = self.datamanager.next_eval(step)
        with evaluating(self):
            output = self.model(batches, step)
        return output, output.losses, dict(output.scalars)

    @profiler.time_function
    def get_eval_image_metrics_and_images(self, step: int) -> tuple[dict[str, float], dict[str, Tensor]]:
        """Figures before and after test-time optimisation of one evaluation item (their means), and its first image."""
        (batch,), _ = self.datamanager.next_eval(step)
        reconstruction = reconstruct(self.model.core, batch.context)
        height, width = batch.targets.images.shape[1:3]
        rows, pictures = judge(self.model.core, batch, reconstruction, self.model.metrics(min(height, width)))
        figures = {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}
        figures["num_rays"] = float(height * width * len(rows))
        return figures, {"photograph_before_after": torch.cat(pictures[0], dim=1)}

    @profiler.time_function
    def get_average_eval_image_metrics(
        self, step: int | None = None, output_path: Path | None = None, get_std: bool = False
    ) -> dict[str, Any]:
        """Means over all evaluation images of all evaluation scenes; for ns-eval (`step` None) every image's row too.

        Args:
            step: of training, where this is called during training.
            output_path: folder for photograph, before and after of every image.
            get_std: add "<name>_std" where there are two images or more.
        """
        evaluation = self.evaluate(all_pictures=output_path is not None)
        results: dict[str, Any] = averages(evaluation, get_std)
        if output_path is not None:
            save_evaluation_images(evaluation, output_path)
        if step is None:
            print_evaluation(evaluation)
            results["images"], results["notes"] = evaluation.rows, evaluation.notes
            results = as_json(results)
        return results

    def evaluate(self, *, all_pictures: bool = False) -> Evaluation:
        """Figures of every evaluation image, before and after test-time optimisation, with fixed context views."""
        cameras = self.datamanager.train_dataset.cameras
        metrics = self.model.metrics(int(min(cameras.height.min(), cameras.width.min())))
        sampler = self.datamanager.batch_sampler
        return evaluate(self.model.core, sampler, metrics, num_steps=self.tto_steps, all_pictures=all_pictures)

    # --- the active scene ---

    def set_active_scene(self, index: int) -> None:
        """Choose the scene on show; it is not predicted yet."""
        self.datamanager.set_active_scene(index)
        self.context_frames = self._default_context()

    def _default_context(self) -> tuple[int, ...]:
        data = self.datamanager
        sampler = data.config.sampler
        if sampler.evaluation_context is not None or sampler.num_evaluation_context is not None:
            return data.batch_sampler.evaluation(data.active)[0]
        return data.covering_frames(self.config.num_context_shown)

    def refresh_scene(
        self,
        frames: Sequence[int] | None = None,
        num_steps: int | None = None,
        progress: Callable[[int, float], None] | None = None,
    ) -> Reconstruction:
        """Predict the active scene from its context views, optimise it on them, and show it.

        Args:
            frames: context views from now on; default: as they are.
            num_steps: of optimisation; default: `tto_steps`.
            progress: called at every iterate with the number of steps taken and the inner loss.

        Raises:
            ValueError: a prediction that cannot be used, or what the backbone refuses; the scene on show stays.
        """
        data = self.datamanager
        chosen = self.context_frames if frames is None else tuple(frames)
        context = data.collection.views(data.active, chosen).to(data.device)
        steps = self.tto_steps if num_steps is None else num_steps
        result = reconstruct(self.model.core, context, steps, progress)
        world = data.placement.similarity.to(dtype=torch.float64)
        before = world.apply_gaussians(result.before)
        after = before if result.after is result.before else world.apply_gaussians(result.after)
        self.context_frames = chosen
        seen = world.apply_views(result.output.prediction.as_seen(context))
        self.model.scene = ActiveScene(before, after, result.output.prior, seen)
        return result

    # --- checkpoints ---

    def load_pipeline(self, loaded_state: Mapping[str, Any], step: int) -> None:
        """Load a checkpoint and predict the active scene with it; what does not fit is said.

        Raises:
            ValueError: a checkpoint of another method or another network.
        """
        self.model.update_to_step(step)
        self.load_state_dict(loaded_state)
        self.show_scene(step)

    def show_scene(self, step: int) -> None:
        """`refresh_scene` where a failure must not end the run: it is printed, and the scene on show stays."""
        self.scene_step = step
        try:
            self.refresh_scene()
        except ValueError as error:
            say(f"The scene on show was not refreshed: {error}", style="yellow")

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool | None = None) -> None:
        """Load what is trained, from a run with or without DistributedDataParallel.

        Raises:
            ValueError: a checkpoint of another method, or weights that do not fit; the message lists the keys.
        """
        state = {}
        for key, value in state_dict.items():
            name = key.removeprefix("module.").removeprefix("_model.").removeprefix("module.")
            if name.startswith(CORE):
                state[name.removeprefix(CORE)] = value
        if not state:
            shown = ", ".join(list(state_dict)[:4])
            raise ValueError(f"a checkpoint of another method: nothing in it belongs to diff3r (it holds {shown}, …)")
        load_weights(self.model.core, state, "the checkpoint")
