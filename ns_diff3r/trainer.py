# SPDX-License-Identifier: Apache-2.0
# pyright: reportIncompatibleVariableOverride=false, reportIncompatibleMethodOverride=false
# nerfstudio narrows attributes by annotation, and its signatures name the rays of other methods.
"""nerfstudio's Trainer with atomic checkpoints, our optimisers, and errors in one line before training starts."""

from __future__ import annotations

import json
import warnings
from copy import copy
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from nerfstudio.configs.base_config import MachineConfig
from nerfstudio.engine.optimizers import Optimizers
from nerfstudio.engine.trainer import TRAIN_INTERATION_OUTPUT, Trainer, TrainerConfig
from nerfstudio.utils import writer
from nerfstudio.utils.decorators import check_main_thread

from .compat import allow_numpy_scalars_in_checkpoints, resolve_device_type
from .configs.optimizers import group_optimizers
from .data.generated_settings import lasting
from .dataclass_state import DefaultsForMissingFields
from .photograph_runs import pose_photographs
from .pipeline import Diff3RPipeline, Diff3RPipelineConfig
from .resuming import RunPlan, plan_run
from .run_checks import check_data, check_space, check_writable, one_clear_error, say
from .training.checkpoint import load_checkpoint, save_checkpoint
from .training.config import TrainingConfig
from .training.optimizers import with_trunk
from .training.published import begin_with_published_weights, names_left_out
from .training.run import NETWORK_PREFIX, RunSettings, load_weights, write_text
from .training.settings import to_plain
from .training.stages import TRUNK
from .training.weights import SETTINGS_FILE, bundled_or_path, open_weights

allow_numpy_scalars_in_checkpoints()

CHECKPOINT_KEYS = ("step", "pipeline", "optimizers", "schedulers", "scalers")


@dataclass
class Diff3RMachineConfig(DefaultsForMissingFields, MachineConfig):
    """nerfstudio's machine settings with a device that is chosen where the run starts."""

    device_type: Literal["auto", "cuda", "cpu"] = "auto"
    """Where to train: "auto" takes CUDA where torch and this installation can use it, else the CPU."""


@dataclass
class Diff3RTrainerConfig(DefaultsForMissingFields, TrainerConfig):
    """A run of ns-train. Learning rates and schedules are in --pipeline.model.training."""

    _target: type = field(default_factory=lambda: Diff3RTrainer)
    machine: MachineConfig = field(default_factory=Diff3RMachineConfig)
    """Seed, devices and processes."""
    pipeline: Diff3RPipelineConfig = field(default_factory=Diff3RPipelineConfig)
    """Data and model."""
    optimizers: tyro.conf.Suppress[dict[str, Any]] = field(default_factory=dict)
    """nerfstudio's {group: {"optimizer", "scheduler"}} for groups that should not follow --pipeline.model.training."""
    gradient_accumulation_steps: tyro.conf.Suppress[dict[str, int]] = field(default_factory=dict)
    """By --pipeline.model.training.gradient-accumulation, for all groups alike."""
    vis: Literal[
        "viewer", "wandb", "tensorboard", "comet", "viewer+wandb", "viewer+tensorboard", "viewer+comet", "viewer_legacy"
    ] = "viewer+tensorboard"
    """What shows the run. With "viewer" alone nerfstudio evaluates nothing during training."""
    weights: Path | None = None
    """Trained weights to begin with: a run folder, a checkpoint in one, a weights file, or the name of weights that
    come with the package (left out for a network that they do not fit); None: untrained. Steps and optimisers begin
    anew, unlike with --load-dir, which continues a run."""
    eval_scenes: tuple[str, ...] = ()
    """Alias for --pipeline.datamanager.collection.eval-scenes: scenes held out as a whole."""

    def save_config(self) -> None:
        """Write config.yml, then settle what is decided on this machine. ns-train calls this before anything else."""
        with one_clear_error():
            data = self.pipeline.datamanager
            check_data(data.data or data.dataparser.data)
            check_writable(self.get_base_dir())
            self.settle()
            pose_photographs(self)
            super().save_config()
            # After saving: the file says "auto", so that the run can be continued on another machine.
            self.settle_device()

    def settle(self) -> None:
        """Bring what is said in two places together: the length of the run, scenes held out."""
        model = self.pipeline.model
        model.training = replace(model.training, num_steps=self.max_num_iterations)
        if self.eval_scenes:
            self.pipeline.datamanager.collection.eval_scenes = self.eval_scenes

    def settle_device(self) -> None:
        """Replace "auto" by the device type that is used; ValueError if what was asked for cannot be used."""
        self.machine = replace(self.machine, device_type=resolve_device_type(self.machine.device_type))

    def setup(self, **kwargs: Any) -> Diff3RTrainer:
        """The trainer of this run."""
        with one_clear_error():
            settled = copy(self)
            settled.settle()
            settled.settle_device()
            return super(Diff3RTrainerConfig, settled).setup(**kwargs)


def shapes_of(module: torch.nn.Module) -> dict[str, torch.Size]:
    """Name → shape of everything in a module's state."""
    return {name: value.shape for name, value in module.state_dict().items()}


class Diff3RTrainer(Trainer):
    """nerfstudio's training loop, with checkpoints that are whole or not there.

    Attributes:
        plan: what it continues and how far it goes; set by `setup`.
    """

    plan: RunPlan
    config: Diff3RTrainerConfig
    pipeline: Diff3RPipeline

    def __init__(self, config: Diff3RTrainerConfig, local_rank: int = 0, world_size: int = 1) -> None:
        super().__init__(config, local_rank=local_rank, world_size=world_size)
        self._accumulated = config.pipeline.model.training.gradient_accumulation
        self.gradient_accumulation_steps.default_factory = lambda: self._accumulated
        self._save_is_due = False
        self._begins_with: Path | None = None

    def setup(self, test_mode: Literal["test", "val", "inference"] = "val") -> None:
        """Everything before the first step; what is wrong with the input ends here in one message."""
        with one_clear_error():
            check_writable(self.base_dir)
            self._follow(plan_run(self.config))
            super().setup(test_mode)
            if self.plan.checkpoint is None:
                self._begin_with(self.config.weights)
            self._write_settings()
            writer.GLOBAL_BUFFER["max_iter"] = self.plan.first_step + self.plan.num_iterations
        say(self.pipeline.describe())

    def _follow(self, plan: RunPlan) -> None:
        """Bring the settings into line with a plan, before anything is built from them."""
        self.plan = plan
        self.config.max_num_iterations = plan.num_iterations  # in the trainer's own copy
        model = self.config.pipeline.model
        model.training = replace(model.training, num_steps=plan.num_steps)

    def _begin_with(self, weights: Path | None) -> None:
        """Take trained weights, or the backbone's published ones; steps, optimisers and schedules begin anew."""
        core = self.pipeline.model.core
        trained = None if weights is None else open_weights(weights)
        if (
            trained is not None
            and weights != bundled_or_path(str(weights))
            and shapes_of(trained.module) != shapes_of(core)
        ):
            say(f"note: the weights {weights} that come with the package are of another network and are left out")
            trained = None
        if trained is None:
            begin_with_published_weights(core.network, self.config.pipeline.model.training, say)
            return
        load_weights(core, trained.module.state_dict(), str(trained.checkpoint))
        self._begins_with = trained.checkpoint.absolute()
        say(f"Weights of {trained.checkpoint} (sha256 {trained.sha256})")

    @check_main_thread
    def _write_settings(self) -> None:
        """settings.json, by which `ns-diff3r` opens the run without nerfstudio or unpickling config.yml."""
        data, model = self.config.pipeline.datamanager, self.config.pipeline.model
        settings = RunSettings(
            data=lasting(data.dataparser.data),
            backbone=model.backbone,
            uncertainty=model.uncertainty_head,
            collection=data.collection,
            sampler=data.sampler,
            training=TrainingConfig(**{f.name: getattr(model.training, f.name) for f in fields(TrainingConfig)}),
            weights=self._begins_with,
        )
        write_text(self.base_dir / SETTINGS_FILE, json.dumps(to_plain(settings), indent=1) + "\n")

    def train(self) -> None:
        """nerfstudio's loop, without two warnings of torch about what nerfstudio does on purpose."""
        with warnings.catch_warnings():
            # A group that the stage freezes has no gradient and takes no step, but its schedule goes on.
            warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step", category=UserWarning)
            # The writer turns losses with a graph into numbers.
            warnings.filterwarnings("ignore", message="Converting a tensor with requires_grad", category=UserWarning)
            super().train()

    def setup_optimizers(self) -> Optimizers:
        """By the settings of training; groups without parameters have no optimiser."""
        core = self.pipeline.model.core
        check_space(self.base_dir, core, names_left_out(core.network, NETWORK_PREFIX))
        groups = {name: group for name, group in self.pipeline.get_param_groups().items() if group}
        training = self.config.pipeline.model.training
        return Optimizers(group_optimizers(training, self.config.optimizers), groups)

    def train_iteration(self, step: int) -> TRAIN_INTERATION_OUTPUT:
        """One iteration, and a checkpoint that had to wait for it."""
        output = super().train_iteration(step)
        if self._save_is_due and (step + 1) % self._accumulated == 0:
            self.save_checkpoint(step)
        return output

    @check_main_thread
    def save_checkpoint(self, step: int) -> None:
        """Write nerfstudio's checkpoint of a step; the previous one stays whole until this one is.

        Within an accumulation of gradients, which no checkpoint holds, it waits for its end, unless the run ends.
        """
        self._save_is_due = (step + 1) % self._accumulated != 0 and self.training_state != "completed"
        if self._save_is_due:
            return
        pipeline: Any = self.pipeline
        state = {
            "step": step,
            "pipeline": getattr(pipeline, "module", pipeline).state_dict(),
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.optimizers.items()},
            "schedulers": {name: scheduler.state_dict() for name, scheduler in self.optimizers.schedulers.items()},
            "scalers": self.grad_scaler.state_dict(),
        }
        with one_clear_error():
            save_checkpoint(self.checkpoint_dir, step, state, keep_previous=not self.config.save_only_latest_checkpoint)

    def _load_checkpoint(self) -> None:
        """Continue from a checkpoint where one is asked for.

        Raises:
            FileNotFoundError, ValueError: it is not there, not whole, or of another method.
        """
        path = self.plan.checkpoint
        if path is None:
            return
        state = load_checkpoint(path)
        missing = [key for key in CHECKPOINT_KEYS if key not in state]
        if missing:
            raise ValueError(f"{path}: not a checkpoint of ns-train (it has no {', '.join(missing)})")
        try:
            self.pipeline.load_pipeline(state["pipeline"], state["step"])
            self._load_optimizers(state)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        self._start_step = self.plan.first_step
        say(f"Continuing after step {state['step']} of {path}")

    def _load_optimizers(self, state: dict[str, Any]) -> None:
        own = {name: optimizer.state_dict() for name, optimizer in self.optimizers.optimizers.items()}
        stored = with_trunk(state["optimizers"], own)
        if set(stored) != set(own):
            raise ValueError(f"the checkpoint has optimisers of {sorted(stored)}, this method of {sorted(own)}")
        self.optimizers.load_optimizers(stored)
        if self.config.load_scheduler:
            schedulers = dict(state["schedulers"])
            if TRUNK in own and TRUNK not in schedulers:  # it keeps step with the others, from rates of its own
                rates = self.optimizers.schedulers[TRUNK].state_dict()["base_lrs"]
                schedulers[TRUNK] = {**schedulers["backbone"], "base_lrs": rates}
            self.optimizers.load_schedulers(schedulers)
        self.grad_scaler.load_state_dict(state["scalers"])
