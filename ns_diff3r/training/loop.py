# SPDX-License-Identifier: Apache-2.0
"""The training loop of `ns-diff3r fit`: nerfstudio's Trainer without nerfstudio."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch

from ..data import BatchSampler, ReadAhead
from .optimizers import GroupOptimizers
from .outputs import StepOutput
from .published import begin_with_published_weights
from .run import RunFolder, RunSettings, load_weights
from .step import TrainingModule
from .weights import open_weights


@dataclass(eq=False)
class StepRecord:
    """One step that has been taken."""

    step: int
    scalars: dict[str, float]
    """Loss, times and everything that `StepOutput` knows after backward."""
    output: StepOutput


class TrainingLoop:
    """Steps of one run, from its beginning or from where it was interrupted.

    With equal settings, machine, number of threads and torch, a run that was interrupted at any moment takes the same
    steps to the bit as one that was not.
    """

    def __init__(
        self,
        settings: RunSettings,
        folder: RunFolder,
        save_every: int = 500,
        keep_checkpoints: bool = False,
        device: str = "cpu",
        workers: int = 0,
    ) -> None:
        """Open the data, build the network, and restore the last complete checkpoint of the folder.

        Raises:
            SceneError, ValueError, OSError: data, settings, checkpoint or folder that cannot be used.
        """
        self.settings = settings
        self.folder = folder
        self.save_every = save_every
        self.keep_checkpoints = keep_checkpoints
        self.sampler: BatchSampler = settings.batch_sampler()
        self._reading = ReadAhead(self.sampler, workers, num_steps=settings.training.num_steps)
        self.device = device
        module = settings.module()
        if settings.weights is not None:
            trained = open_weights(settings.weights)
            load_weights(module, trained.module.state_dict(), str(trained.checkpoint))
        elif folder.last_checkpoint is None:
            begin_with_published_weights(module.network, settings.training)
        self.module: TrainingModule = module.to(device).train()
        self.optimizers = GroupOptimizers.make(self.module.network.param_groups(), settings.training)
        torch.manual_seed(settings.training.seed)  # for networks with random layers; a checkpoint holds the state
        self.steps_done = folder.restore(self.module, self.optimizers)
        folder.begin(settings)
        folder.keep_metrics_before(self.steps_done)

    def run(self) -> Iterator[StepRecord]:
        """Take the remaining steps; each is yielded once its metrics are written."""
        with self.folder.metrics_file.open("a") as stream:
            while self.steps_done < self.settings.training.num_steps:
                record = self._step(self.steps_done)
                line = {"step": record.step, "stage": record.output.stage.value, **record.scalars}
                # JSON has no NaN.
                known = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in line.items()}
                stream.write(json.dumps(known) + "\n")
                stream.flush()
                self.steps_done += 1
                if self._saves():
                    self.folder.save(
                        self.settings, self.module, self.optimizers, self.steps_done, self.keep_checkpoints
                    )
                yield record

    def _step(self, step: int) -> StepRecord:
        times = [time.perf_counter()]
        self.optimizers.begin_step(step)
        batches = [batch.to(self.device) for batch in self._reading.batch(step)]
        times.append(time.perf_counter())
        output = self.module(batches, step)
        loss = output.loss
        times.append(time.perf_counter())
        loss.backward()
        times.append(time.perf_counter())
        norms = self.optimizers.end_step(step)
        times.append(time.perf_counter())
        parts = ("seconds_data", "seconds_forward", "seconds_backward", "seconds_update")
        durations = {name: end - begin for name, (begin, end) in zip(parts, pairwise(times), strict=True)}
        scalars: dict[str, Any] = {
            "loss": float(loss.detach()),
            **{name: float(term.detach()) for name, term in output.losses.items()},
            **output.scalars,
            **output.backward_scalars(),
            **{f"gradient_norm_{name}": norm for name, norm in norms.items()},
            **durations,
        }
        return StepRecord(step, scalars, output)

    def _saves(self) -> bool:
        """Whether to save now: at the end, and every so many steps, but not within an accumulation of gradients."""
        done, total = self.steps_done, self.settings.training.num_steps
        if done == total:
            return True
        every = self.settings.training.gradient_accumulation
        # The first end of an accumulation at or after each multiple of save_every.
        return done % every == 0 and done // self.save_every != (done - every) // self.save_every
