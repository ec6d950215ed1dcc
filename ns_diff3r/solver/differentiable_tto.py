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

from ..rasterization import linearize
from ..rasterization.config import resolve_preset
from ..rasterization.protocol import Linearization
from ..splats import GROUPS, Cameras, Gaussians, Views
from ..splats.frames import Similarity, normalized_frame
from .backward import AnchorObserver, BackwardMode, FinishedTTO, OuterLoss, make_backward_pass
from .config import TTOConfig
from .curvature_scale import CurvatureScale, floored, scene_curvature
from .image_loss import ImageObjective
from .inner import InnerState, StepObserver, Trajectory, TTOStatus, rerun_steps, run_trajectory
from .prior import Prior, flat_strength
from .problem import Evaluation, SceneProblem
from .solution import TTOBatchSolution, TTOSolution

logger = logging.getLogger("ns_diff3r")

STATIONARITY_ADVICE = (
    'backward_mode "adjoint" is exact at any number of steps; more steps or a larger λ help "implicit"'
)


class DifferentiableTTO(nn.Module):
    """Test-time optimisation as a layer (design §2, §3).

    Forward runs the inner optimiser on the context photographs and keeps no graph of it; backward turns ∂L/∂θ* into
    ∂L/∂θ⁰ and ∂L/∂λ by the configured mode (`BackwardMode`). It works under autocast (inputs are converted, the
    optimisation runs in float32 or float64) and with a grad scaler.

    The module's only state is the moving average D (`curvature_scale`), updated in training mode.
    """

    def __init__(self, config: TTOConfig | None = None) -> None:
        """ValueError for a preset that does not exist."""
        super().__init__()
        self.config = config or TTOConfig()
        resolve_preset(self.config.preset)
        self.curvature_scale = CurvatureScale(self.config.curvature_decay)
        self._warm_starts: dict[int, Tensor] = {}
        self._warned = False
        self.progress: Callable[[int, float], None] | None = None
        """Called at every iterate of every scene with the number of steps taken and the inner loss there."""

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
            seed: of what is random in this call (view sampling, the horizon of "metagrad"); None draws one from torch.

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
        config = self._config_of_call(seed)

        with torch.autocast(scenes[0].device.type, enabled=False):
            measure = self.training or not self.curvature_scale.has_history
            jobs = []
            for scene, strength, views, loss in zip(scenes, priors, contexts, losses, strict=True):
                jobs.append(_SceneJob(config, scene, strength, views, measure, loss))
                if not single:
                    jobs[-1].at_start = None  # made again when its turn comes: not all scenes in memory at once
            self._set_scales(jobs)
            results = [self._run(index, job) for index, job in enumerate(jobs)]
        self._warn_once([text for _, report in results for text in report.warnings])
        if single:
            return results[0]
        return [theta for theta, _ in results], TTOBatchSolution(tuple(report for _, report in results))

    def _config_of_call(self, seed: int | None) -> TTOConfig:
        """The settings with what is random drawn: the horizon of "metagrad" in training."""
        config, anchors = self.config, self.config.backward.metagrad
        random_horizon = config.backward_mode == BackwardMode.METAGRAD and anchors.random_horizon
        if not (random_horizon and self.training and torch.is_grad_enabled()):
            return config
        if seed is None:
            seed = int(torch.randint(2**31, (1,)))
        return replace(config, num_steps=random.Random(seed).randint(anchors.min_steps, anchors.max_steps))

    def _warn_once(self, warnings: list[str]) -> None:
        """Log that the implicit gradient is out of its range, once in the life of the layer."""
        if not self._warned and self.training and torch.is_grad_enabled():
            for text in warnings:
                if text.endswith(STATIONARITY_ADVICE):
                    self._warned = True
                    logger.warning("%s", text)
                    return

    def _set_scales(self, jobs: list[_SceneJob]) -> None:
        """D of every scene: the moving average, after this batch has entered it; a scene's own without a history."""
        curvatures = [job.curvature for job in jobs if job.curvature is not None]
        if self.training and curvatures:
            self.curvature_scale.update(torch.stack(curvatures))
        for job in jobs:
            if job.multiplier is not None:
                own = None if self.training else job.curvature
                job.scale = self.curvature_scale.scale() if own is None else floored(own.tolist())

    def _run(self, index: int, job: _SceneJob) -> tuple[Gaussians, TTOSolution]:
        warm = self._warm_starts.get(index) if self.config.pcg.warm_start else None

        def remember(solution: Tensor | None) -> None:
            if self.config.pcg.warm_start and solution is not None:
                self._warm_starts[index] = solution

        return job.run(warm, remember, self.progress)


class _SceneJob:
    """One scene of a call: checked and brought into the normalised frame, ready to run."""

    def __init__(
        self,
        config: TTOConfig,
        init: Gaussians,
        prior: Any,
        context: Views,
        measure: bool,
        outer_loss: OuterLoss | None = None,
    ) -> None:
        self.config = config
        self.mode = BackwardMode(config.backward_mode)
        self.outer_loss = outer_loss
        _check_scene(init, context)
        cameras = context.cameras.to(dtype=init.dtype)
        self.frame = normalized_frame(init, cameras) if config.normalize_frame else Similarity.identity(init.dtype)
        self.start = self.frame.apply_gaussians(init)
        self.multiplier = None if prior is None else flat_strength(init, prior)
        self.backward_pass = make_backward_pass(self.mode, config.backward)
        self._check_mode()
        linearizer = make_linearizer(config, self.frame.apply_cameras(cameras), init)
        self.problem = SceneProblem(ImageObjective(config.loss, context.images.to(init.dtype)), linearizer)
        self.scale: list[float] | None = None
        with torch.no_grad():
            at = self.problem.evaluate(self.start.detach())
        self.at_start: Evaluation | None = at
        if not bool(at.linearization.visible.any()):
            raise ValueError(
                f"none of {init.num_gaussians} Gaussians is visible in the {context.num_views} context views: nothing "
                "can be optimised. Are the cameras world-to-camera OpenCV, and in the units of the Gaussians?"
            )
        self.curvature: Tensor | None = None
        """Mean diag(JᵀWJ)/n per group at θ⁰, where a prior needs it."""
        if measure and prior is not None:
            with torch.no_grad():
                self.curvature = scene_curvature(at.linearization, at.loss.curvature, self.problem.num_residuals)

    @property
    def differentiates(self) -> bool:
        """Whether the caller may ask for gradients through the optimisation."""
        inputs = self.start.requires_grad or (self.multiplier is not None and self.multiplier.requires_grad)
        return torch.is_grad_enabled() and inputs and self.mode is not BackwardMode.NONE

    def _check_mode(self) -> None:
        """Raise ValueError for a mode that lacks what it needs."""
        if not self.differentiates:
            return
        if self.multiplier is None:
            self.backward_pass.check(None)
        if self.mode is BackwardMode.METAGRAD and self.outer_loss is None:
            raise ValueError(
                "backward mode 'metagrad' takes the outer loss at anchors along the optimisation: pass "
                "outer_loss=function of Gaussians, and add TTOSolution.anchor_loss to the loss"
            )

    def run(
        self,
        warm: Tensor | None,
        remember: Callable[[Tensor | None], None],
        progress: Callable[[int, float], None] | None = None,
    ) -> tuple[Gaussians, TTOSolution]:
        """Optimise; the result carries the configured backward mode."""
        at_start, self.at_start = self.at_start, None
        start = self.start.flatten()
        prior = None
        if self.multiplier is not None and self.scale is not None:
            slices = self.start.group_slices()
            prior = Prior(start.detach().clone(), self.multiplier.detach().contiguous(), self.scale, slices)
        optimizer, frozen = self.config.make_optimizer(), frozenset(self.config.frozen_groups)
        template, problem = self.start.detach(), self.problem

        def rerun(theta: Tensor, state: InnerState, first_step: int, num_steps: int, observer: StepObserver) -> None:
            state = state or optimizer.init(template)
            rerun_steps(problem, template, optimizer, prior, frozen, theta, state, first_step, num_steps, observer)

        anchors, observer = None, None
        if self.differentiates:
            observer = self.backward_pass.observer(rerun, self.config.num_steps)
            if self.mode is BackwardMode.METAGRAD and self.outer_loss is not None:
                world, shape = self.frame.inverse(), template
                settings = self.config.backward.metagrad
                observer = anchors = AnchorObserver(
                    settings, self.outer_loss, lambda flat: world.apply_gaussians(shape.unflatten(flat))
                )
        trajectory = run_trajectory(
            problem,
            template,
            optimizer,
            self.config.num_steps,
            prior,
            frozen=frozen,
            stationarity_tolerance=self.config.stationarity_tolerance,
            first=at_start,
            progress=progress,
            observer=observer,
        )
        trajectory.state = {}  # the moments are of no use any more
        scale = None if self.scale is None else {name: self.scale[i] for i, name in enumerate(GROUPS)}
        solution = TTOSolution.of(trajectory, self.frame, scale, self._warnings(trajectory))
        to_world = self.frame.inverse()
        if not self.differentiates:
            return to_world.apply_gaussians(template.unflatten(trajectory.theta)), solution
        if anchors is not None and trajectory.status is not TTOStatus.DIVERGED:
            solution.anchor_loss = anchors.anchored_loss(start, self.multiplier, trajectory.theta)
        finished = FinishedTTO(
            problem=problem,
            template=template,
            prior=prior,
            trajectory=trajectory,
            frozen=frozen,
            pcg=self.config.pcg,
            warm_start=warm if warm is not None and warm.shape == start.shape and warm.dtype == start.dtype else None,
            optimizer=optimizer,
            observer=observer,
        )
        backward_pass = self.backward_pass

        def backward(gradient: Tensor) -> tuple[Tensor, Tensor | None]:
            result = backward_pass(finished, gradient)
            solution.backward = result.info
            remember(result.solution)
            return result.start, result.multiplier

        theta = _PassThroughTTO.apply(start, self.multiplier, trajectory.theta, backward)
        assert isinstance(theta, Tensor)
        return to_world.apply_gaussians(self.start.unflatten(theta)), solution

    def _warnings(self, trajectory: Trajectory) -> list[str]:
        if trajectory.status is TTOStatus.DIVERGED:
            return [
                f"the inner loss became non-finite after {trajectory.num_steps} steps; the result is the last iterate "
                "before. Lower the learning rates, raise λ, or look for degenerate Gaussians in the initialisation"
            ]
        ratio = trajectory.stationarity
        stationary = ratio <= self.config.stationarity_warning
        if self.mode is BackwardMode.IMPLICIT and self.multiplier is not None and not stationary:
            return [
                f"after {trajectory.num_steps} steps the gradient of the inner loss is still {ratio:.2g} of its start, "
                f"and the implicit gradient is right only at a stationary point; {STATIONARITY_ADVICE}"
            ]
        return []


def make_linearizer(config: TTOConfig, cameras: Cameras, template: Gaussians) -> Callable[[Gaussians], Linearization]:
    """The configured renderer of these cameras, as a function of the Gaussians alone."""
    background = None if config.background is None else template.means.new_tensor(config.background)

    def at(gaussians: Gaussians) -> Linearization:
        return linearize(
            gaussians,
            cameras,
            preset=config.preset,
            background=background,
            antialiased=config.antialiased,
            backend=config.backend,
            check_finite=False,  # of θ⁰ it has been checked, and the loop tests its loss and gradient
        )

    return at


def _check_scene(init: Gaussians, context: Views) -> None:
    """Raise ValueError for what cannot be optimised, TypeError for what is no scene."""
    if not isinstance(init, Gaussians) or not isinstance(context, Views):
        raise TypeError(f"a scene is Gaussians and Views, got {type(init).__name__} and {type(context).__name__}")
    if init.num_gaussians == 0 or context.num_views == 0:
        raise ValueError(f"nothing to optimise: {init.num_gaussians} Gaussians, {context.num_views} context views")
    if init.device != context.device:
        raise ValueError(f"the Gaussians are on {init.device}, the context views on {context.device}")
    init.check_finite("init")


class _PassThroughTTO(torch.autograd.Function):
    """θ⁰, λ → θ*, whose backward is a closure over the finished run."""

    @staticmethod
    def forward(
        ctx: Any,
        start: Tensor,
        multiplier: Tensor | None,
        theta: Tensor,
        backward: Callable[[Tensor], tuple[Tensor, Tensor | None]],
    ) -> Tensor:
        ctx.run_backward = backward
        # A tensor of its own: the caller may change the result in place, the closure's θ* must stay.
        return theta.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        (gradient,) = gradients
        with torch.autocast(gradient.device.type, enabled=False):
            start, multiplier = ctx.run_backward(gradient.contiguous())
        return start, multiplier if ctx.needs_input_grad[1] else None, None, None
