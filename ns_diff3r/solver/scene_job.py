# SPDX-License-Identifier: Apache-2.0
"""One scene on its way through `DifferentiableTTO`: checked, brought into the normalised frame, optimised, wired."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..rasterization import linearize
from ..rasterization.protocol import Linearization
from ..splats import GROUPS, Cameras, Gaussians, Views
from ..splats.frames import Similarity, normalized_frame
from .backward import AnchorObserver, BackwardMode, FinishedTTO, OuterLoss, make_backward_pass
from .config import TTOConfig
from .curvature_scale import scene_curvature
from .image_loss import ImageObjective
from .inner import (
    InnerOptimizer,
    InnerState,
    StepObserver,
    StepRecord,
    Trajectory,
    TTOStatus,
    ViewSampler,
    first_gradient,
    rerun_steps,
    run_trajectory,
)
from .prior import Prior, flat_strength
from .problem import Evaluation, InnerProblem, SampledProblem, SceneProblem
from .solution import TTOSolution

STATIONARITY_ADVICE = (
    'backward_mode "adjoint" is exact at any number of steps; more steps or a larger λ help "implicit"'
)


class SceneJob:
    """One scene of a call: checked and brought into the normalised frame, ready to run."""

    def __init__(
        self,
        config: TTOConfig,
        init: Gaussians,
        prior: Any,
        context: Views,
        measure: bool,
        outer_loss: OuterLoss | None = None,
        seed: int = 0,
        optimizer: InnerOptimizer | None = None,
    ) -> None:
        self.config = config
        self.mode = BackwardMode(config.backward_mode)
        self.outer_loss = outer_loss
        self.optimizer = optimizer or config.make_optimizer()
        check_scene(init, context)
        cameras = context.cameras.to(dtype=init.dtype)
        self.frame = normalized_frame(init, cameras) if config.normalize_frame else Similarity.identity(init.dtype)
        self.start = self.frame.apply_gaussians(init)
        self.multiplier = None if prior is None else flat_strength(init, prior)
        self.backward_pass = make_backward_pass(self.mode, config.backward)
        self._check_mode()
        linearizer = make_linearizer(config, self.frame.apply_cameras(cameras), init)
        self.problem = SceneProblem(ImageObjective(config.loss, context.images.to(init.dtype)), linearizer)
        self.sampler = ViewSampler(config.view_sampling, cameras.centers, seed)
        self.cameras = self.frame.apply_cameras(cameras)
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
        watch: Callable[[int, Gaussians], None] | None = None,
    ) -> tuple[Gaussians, TTOSolution]:
        """Optimise; the result carries the configured backward mode."""
        at_start, self.at_start = self.at_start, None
        start = self.start.flatten()
        prior = None
        if self.multiplier is not None and self.scale is not None:
            slices = self.start.group_slices()
            prior = Prior(start.detach().clone(), self.multiplier.detach().contiguous(), self.scale, slices)
        optimizer, frozen = self.optimizer, frozenset(self.config.frozen_groups)
        template, problem = self.start.detach(), self._problem_of_steps()

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
        to_world = self.frame.inverse()

        def observe(record: StepRecord, next_theta: Tensor) -> None:
            if observer is not None:
                observer(record, next_theta)
            if watch is not None:
                watch(record.step + 1, to_world.apply_gaussians(template.unflatten(next_theta)))

        trajectory = run_trajectory(
            problem,
            template,
            optimizer,
            self.config.num_steps,
            prior,
            frozen=frozen,
            stationarity_tolerance=self.config.stationarity_tolerance,
            time_budget=self.config.time_budget,
            first=at_start if self.sampler.takes_all else None,
            progress=progress,
            observer=None if observer is None and watch is None else observe,
        )
        if at_start is not None and not self.sampler.takes_all:
            trajectory.first_gradient = first_gradient(at_start, start.detach(), prior, frozen)
        trajectory.state = {}  # the moments are of no use any more
        scale = None if self.scale is None else {name: self.scale[i] for i, name in enumerate(GROUPS)}
        solution = TTOSolution.of(trajectory, self.frame, scale, self._warnings(trajectory))
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

    def _problem_of_steps(self) -> InnerProblem:
        """The scene, of which a step sees what view sampling says."""
        if self.sampler.takes_all:
            return self.problem
        config, cameras, template, objective = self.config, self.cameras, self.start.detach(), self.problem.objective

        def select(views: Sequence[int]) -> SceneProblem:
            chosen = cameras[torch.tensor(views, device=cameras.device)]
            return SceneProblem(objective.select(views), make_linearizer(config, chosen, template))

        return SampledProblem(self.problem, select, self.sampler, config.num_steps)

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


def check_scene(init: Gaussians, context: Views) -> None:
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
