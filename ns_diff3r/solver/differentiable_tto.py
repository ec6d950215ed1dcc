# SPDX-License-Identifier: Apache-2.0
"""The layer: Gaussians in, Gaussians fitted to photographs out, gradients to the initialisation and to λ."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, overload

import torch
from torch import Tensor, nn

from ..rasterization.config import resolve_preset
from ..splats import Gaussians, Views
from .backward import THROUGH_STEPS, BackwardMode, OuterLoss
from .config import TTOConfig
from .curvature_scale import CurvatureScale, floored
from .inner import DifferentiableOptimizer, InnerOptimizer
from .scene_job import STATIONARITY_ADVICE, SceneJob
from .solution import TTOBatchSolution, TTOSolution

logger = logging.getLogger("ns_diff3r")


class DifferentiableTTO(nn.Module):
    """Test-time optimisation as a layer (design §2, §3).

    Forward runs the inner optimiser on the context photographs and keeps no graph of it; backward turns ∂L/∂θ* into
    ∂L/∂θ⁰ and ∂L/∂λ by the configured mode (`BackwardMode`). It works under autocast (inputs are converted, the
    optimisation runs in float32 or float64) and with a grad scaler.

    The module's only state is the moving average D (`curvature_scale`), updated in training mode.
    """

    def __init__(self, config: TTOConfig | None = None, optimizer: InnerOptimizer | None = None) -> None:
        """`optimizer` takes the place of the settings' own; one that is a module (a learned rule) becomes a part of
        this one. ValueError for a preset that does not exist, or a backward mode that `optimizer` has no adjoint for.
        """
        super().__init__()
        self.config = config or TTOConfig()
        self.optimizer = optimizer
        through_steps = BackwardMode(self.config.backward_mode) in THROUGH_STEPS
        if optimizer is not None and through_steps and not isinstance(optimizer, DifferentiableOptimizer):
            raise ValueError(
                f'backward_mode "{BackwardMode(self.config.backward_mode).value}" goes back through the steps of the '
                f"inner optimiser, for which {type(optimizer).__name__} has no adjoint"
            )
        resolve_preset(self.config.preset)
        self.curvature_scale = CurvatureScale(self.config.curvature_decay)
        self._warm_starts: dict[int, Tensor] = {}
        self._warned = False
        self.progress: Callable[[int, float], None] | None = None
        """Called at every iterate of every scene with the number of steps taken and the inner loss there."""
        self.watch: Callable[[int, Gaussians], None] | None = None
        """Called after every step of every scene with the number of steps taken and where it led, in world units."""

    @overload
    def forward(
        self,
        init: Gaussians,
        prior: Any,
        context: Views,
        outer_loss: OuterLoss | None = None,
        seed: int | None = None,
    ) -> tuple[Gaussians, TTOSolution]: ...

    @overload
    def forward(
        self,
        init: Sequence[Gaussians],
        prior: Any,
        context: Sequence[Views],
        outer_loss: Sequence[OuterLoss] | OuterLoss | None = None,
        seed: int | None = None,
    ) -> tuple[list[Gaussians], TTOBatchSolution]: ...

    def forward(
        self,
        init: Gaussians | Sequence[Gaussians],
        prior: Any,
        context: Views | Sequence[Views],
        outer_loss: Sequence[OuterLoss] | OuterLoss | None = None,
        seed: int | None = None,
    ) -> tuple[Gaussians, TTOSolution] | tuple[list[Gaussians], TTOBatchSolution]:
        """Optimise one scene, or a list of scenes of any sizes, each on its own.

        Args:
            init: θ⁰, in world units; raw parameters.
            prior: λ: a number, a Gaussians-shaped value (see `prior.flat_strength`), or None for no prior; for a list
                of scenes one of these for all, or a list of them.
            context: photographs and cameras to fit.
            outer_loss: mode "metagrad" alone: Gaussians in world units → the loss at an anchor, a scalar; for a list of
                scenes one for all, or a list of them. See `TTOSolution.anchor_loss`.
            seed: of what is random in this call (view sampling, the horizon of "metagrad"); None draws one from torch
                in training, and is 0 in evaluation.

        Returns:
            (θ*, report); lists for lists. θ* carries gradients to the leaves of `init` and of `prior`.

        Raises:
            TypeError: one of `init` and `context` is a list and the other is not.
            ValueError: non-finite parameters, no Gaussian visible in the context, different devices, lists of different
                length, a λ that is not positive, a mode that cannot work without a prior, or "metagrad" without
                an outer loss. All scenes are checked before the first is optimised.
        """
        single = isinstance(init, Gaussians)
        if single != isinstance(context, Views):
            raise TypeError("give one Gaussians and one Views, or a list of each")
        scenes = [init] if isinstance(init, Gaussians) else list(init)
        contexts = [context] if isinstance(context, Views) else list(context)
        priors = list(prior) if isinstance(prior, (list, tuple)) and not single else [prior] * len(scenes)
        losses = list(outer_loss) if isinstance(outer_loss, Sequence) else [outer_loss] * len(scenes)
        if not len(scenes) == len(contexts) == len(priors) == len(losses) or not scenes:
            raise ValueError(
                f"{len(scenes)} scenes, {len(contexts)} contexts, {len(priors)} priors and {len(losses)} outer losses "
                "do not match"
            )
        if seed is None:
            seed = int(torch.randint(2**31, (1,))) if self._draws else 0
        config = self._config_of_call(seed)

        with torch.autocast(scenes[0].device.type, enabled=False):
            measure = self.training or not self.curvature_scale.has_history
            jobs = []
            for scene, strength, views, loss in zip(scenes, priors, contexts, losses, strict=True):
                jobs.append(SceneJob(config, scene, strength, views, measure, loss, seed, self.optimizer))
                if not single:
                    jobs[-1].at_start = None  # made again when its turn comes: not all scenes in memory at once
            self._set_scales(jobs)
            results = [self._run(index, job) for index, job in enumerate(jobs)]
        self._warn_once([text for _, report in results for text in report.warnings])
        if single:
            return results[0]
        return [theta for theta, _ in results], TTOBatchSolution(tuple(report for _, report in results))

    @property
    def _random_horizon(self) -> bool:
        """Whether "metagrad" draws the number of steps in a call."""
        chosen = self.config.backward_mode == BackwardMode.METAGRAD and self.config.backward.metagrad.random_horizon
        return chosen and self.training and torch.is_grad_enabled()

    @property
    def _draws(self) -> bool:
        """Whether anything in a training call is random; evaluation has a fixed seed."""
        return self._random_horizon or (self.training and self.config.view_sampling.order != "all")

    def _config_of_call(self, seed: int) -> TTOConfig:
        """The settings with what is random drawn: the horizon of "metagrad" in training."""
        config, anchors = self.config, self.config.backward.metagrad
        if not self._random_horizon:
            return config
        return replace(config, num_steps=random.Random(seed).randint(anchors.min_steps, anchors.max_steps))

    def _warn_once(self, warnings: list[str]) -> None:
        """Log that the implicit gradient is out of its range, once in the life of the layer."""
        if not self._warned and self.training and torch.is_grad_enabled():
            for text in warnings:
                if text.endswith(STATIONARITY_ADVICE):
                    self._warned = True
                    logger.warning("%s", text)
                    return

    def _set_scales(self, jobs: list[SceneJob]) -> None:
        """D of every scene: the moving average, after this batch has entered it; a scene's own without a history."""
        curvatures = [job.curvature for job in jobs if job.curvature is not None]
        if self.training and curvatures:
            self.curvature_scale.update(torch.stack(curvatures))
        for job in jobs:
            if job.multiplier is not None:
                own = None if self.training else job.curvature
                job.scale = self.curvature_scale.scale() if own is None else floored(own.tolist())

    def _run(self, index: int, job: SceneJob) -> tuple[Gaussians, TTOSolution]:
        warm = self._warm_starts.get(index) if self.config.pcg.warm_start else None

        def remember(solution: Tensor | None) -> None:
            if self.config.pcg.warm_start and solution is not None:
                self._warm_starts[index] = solution

        return job.run(warm, remember, self.progress, self.watch)
