# SPDX-License-Identifier: Apache-2.0
"""A whole test-time optimisation and its outer loss as one smooth function, for finite differences.

TTO jumps where the depth order flips, a pair crosses a threshold or an L1 sign changes, and where a first gradient
changes its sign, Adam's first step being a full learning rate either way. So the run is recorded once and replayed at
other starts and priors with the linearisations and the first step of the record (docs/design.md §7). What rounding did
to the steps of a run in lower precision is kept as well: an optimisation is chaotic enough that it leads elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Float
from torch import Tensor

from ..rasterization import Linearization, linearize
from ..solver import BackwardConfig, TTOConfig
from ..solver.backward import FinishedTTO
from ..solver.backward.adjoint import Adjoint
from ..solver.backward.protocol import RerunSteps
from ..solver.backward.tape import RecomputationTape
from ..solver.image_loss import ImageObjective
from ..solver.inner import (
    Adam,
    DifferentiableOptimizer,
    InnerOptimizer,
    InnerPoint,
    InnerState,
    InnerStep,
    StepObserver,
    StepRecord,
    Trajectory,
    rerun_steps,
    run_trajectory,
)
from ..solver.inner.adam import AdamAdjoint
from ..solver.inner.protocol import StepAdjoint
from ..solver.prior import Prior
from ..solver.problem import DecidedProblem, InnerProblem, SceneProblem
from ..solver.vector_ops import ParameterRange
from ..splats import GROUPS, Cameras, Gaussians, Views


@dataclass(frozen=True, eq=False)
class FrozenTTO:
    """L_out(θ*(θ⁰, λ)) with everything discrete as it was at the recorded start; L_out is the MSE of the target views.

    All vectors are flat, in the frame in which TTO runs.
    """

    config: TTOConfig
    start: Gaussians
    scale: dict[str, float]
    """D per group."""
    trajectory: Trajectory
    targets: Views
    outer: Linearization
    """The renderer of the target views around the recorded θ*."""
    optimizer: InnerOptimizer
    """The rule of the run, with the first step as it was."""

    @staticmethod
    def record(
        config: TTOConfig,
        start: Gaussians,
        multiplier: Float[Tensor, " P"],
        scale: dict[str, float],
        context: Views,
        targets: Views,
        decided_in: torch.dtype | None = None,
    ) -> FrozenTTO:
        """Run TTO from `start` with λ = `multiplier` and keep its linearisations.

        With `decided_in`, say float32, the same run is taken in that precision first, and everything discrete stays as
        it was there: rounding alone makes two runs flip different L1 signs, and they part. What rounding did to each of
        its steps (of an optimiser that has an adjoint) is added to them as a constant, so that the recorded run passes
        through its iterates.
        """

        def around(cameras: Cameras, gaussians: Gaussians) -> Linearization:
            background = None if config.background is None else gaussians.means.new_tensor(config.background)
            return linearize(
                gaussians,
                cameras,
                preset=config.preset,
                antialiased=config.antialiased,
                background=background,
                backend=config.backend,
                freeze="pairs",
            )

        def scene(views: Views) -> SceneProblem:
            objective = ImageObjective(config.loss, views.images)
            return SceneProblem(objective, lambda gaussians: around(views.cameras, gaussians))

        start = start.detach()
        problem: InnerProblem = scene(context)
        optimizer = config.make_optimizer()
        places: list[Gaussians] = []
        if decided_in is not None:
            other = scene(context.to(dtype=decided_in))

            def watched(gaussians: Gaussians) -> Linearization:
                places.append(gaussians.map(torch.clone))  # its memory serves later steps
                return other.linearize(gaussians)

            rounded = start.to(dtype=decided_in), multiplier.to(decided_in)
            _Run.of(config, optimizer, *rounded, scale).trajectory(replace(other, linearize=watched))
            problem = DecidedProblem(scene(context), other, places)
            optimizer = _with_first_step(optimizer, places)
            if isinstance(optimizer, DifferentiableOptimizer):
                optimizer = _RoundedSteps(optimizer, places, [])
        trajectory = _Run.of(config, optimizer, start, multiplier, scale).trajectory(problem, record=True)
        if decided_in is None:
            outer = around(targets.cameras, start.unflatten(trajectory.theta))
            steps = [evaluation.linearization.gaussians for evaluation in (trajectory.record or [])[:2]]
            optimizer = _with_first_step(optimizer, steps)
        else:
            outer = around(targets.cameras.to(dtype=decided_in), places[-1]).to(start.dtype)
        return FrozenTTO(config, start, scale, trajectory, targets, outer, optimizer)

    def __call__(self, start: Float[Tensor, " P"], multiplier: Float[Tensor, " P"]) -> float:
        """The outer loss at another start and another λ."""
        gaussians = self.start.unflatten(start)
        run = _Run.of(self.config, self.optimizer, gaussians, multiplier, self.scale).trajectory(
            self.trajectory.replay()
        )
        rgb = self.outer.at(gaussians.unflatten(run.theta)).rgb
        return float((rgb - self.targets.images).double().square().mean())

    @torch.no_grad()
    def gradient(
        self, start: Float[Tensor, " P"], multiplier: Float[Tensor, " P"]
    ) -> tuple[Float[Tensor, " P"], Float[Tensor, " P"]]:
        """(∂L_out/∂θ⁰, ∂L_out/∂λ) of this function by the exact adjoint: what differences tend to.

        Raises:
            TypeError: an inner optimiser without an adjoint.
        """
        if not isinstance(self.optimizer, DifferentiableOptimizer):
            raise TypeError(f"{type(self.optimizer).__name__} has no adjoint")
        gaussians, problem = self.start.unflatten(start), self.trajectory.replay()
        run = _Run.of(self.config, self.optimizer, gaussians, multiplier, self.scale)
        tape = RecomputationTape(run.rerun(problem), self.config.num_steps)
        finished = run.finished(problem, run.trajectory(problem, observer=tape), tape)
        outer = self.outer.at(gaussians.unflatten(finished.theta))
        error = outer.rgb - self.targets.images
        result = Adjoint(BackwardConfig())(finished, outer.vjp(2.0 / error.numel() * error).flatten())
        assert result.multiplier is not None
        return result.start, result.multiplier


@dataclass(frozen=True, eq=False)
class _Run:
    """What an optimisation is beside its problem."""

    config: TTOConfig
    optimizer: InnerOptimizer
    start: Gaussians
    prior: Prior
    frozen: frozenset[str]

    @staticmethod
    def of(
        config: TTOConfig, optimizer: InnerOptimizer, start: Gaussians, multiplier: Tensor, scale: dict[str, float]
    ) -> _Run:
        prior = Prior(start.flatten().clone(), multiplier, [scale[name] for name in GROUPS], start.group_slices())
        return _Run(config, optimizer, start, prior, frozenset(config.frozen_groups))

    def trajectory(
        self, problem: InnerProblem, record: bool = False, observer: StepObserver | None = None
    ) -> Trajectory:
        return run_trajectory(
            problem,
            self.start,
            self.optimizer,
            self.config.num_steps,
            self.prior,
            frozen=self.frozen,
            record=record,
            observer=observer,
        )

    def rerun(self, problem: InnerProblem) -> RerunSteps:
        def rerun(theta: Tensor, state: InnerState, first_step: int, num_steps: int, observer: StepObserver) -> None:
            state = state or self.optimizer.init(self.start)
            settings = (self.start, self.optimizer, self.prior, self.frozen)
            rerun_steps(problem, *settings, theta, state, first_step, num_steps, observer)

        return rerun

    def finished(self, problem: InnerProblem, trajectory: Trajectory, tape: StepObserver) -> FinishedTTO:
        return FinishedTTO(
            problem=problem,
            template=self.start,
            prior=self.prior,
            trajectory=trajectory,
            frozen=self.frozen,
            pcg=self.config.pcg,
            optimizer=self.optimizer,
            observer=tape,
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class _FirstStepTaken(Adam):
    """Adam whose first step is the one given, and its moments those of the gradients that come."""

    change: Float[Tensor, " P"]

    def step(self, state: InnerState, point: InnerPoint, out: Float[Tensor, " P"]) -> InnerStep:
        done = super().step(state, point, out)
        if state["step"] == 1:
            torch.add(point.theta, self.change, out=out)
        return done

    def adjoint(self, template: Gaussians, frozen: frozenset[str]) -> AdamAdjoint:
        return _FirstStepAdjoint(self, template, frozen)


class _FirstStepAdjoint(AdamAdjoint):
    def pull(self, record: StepRecord, cotangent: Float[Tensor, " P"]) -> Float[Tensor, " P"]:
        if record.state["step"] == 1:
            self.adam = replace(self.adam, epsilon=0.0)  # with which the step depends on the sign of g alone
        return super().pull(record, cotangent)


@dataclass(frozen=True, eq=False)
class _RoundedSteps:
    """A rule whose steps differ by constants from those of `optimizer`: by what led another run through `iterates`."""

    optimizer: DifferentiableOptimizer
    iterates: Sequence[Gaussians]
    """θ_0 … θ_K of that run."""
    rounding: list[Float[Tensor, " P"]]
    """Of every step, filled while the run is taken for the first time."""

    def init(self, theta: Gaussians) -> InnerState:
        return self.optimizer.init(theta)

    def step(self, state: InnerState, point: InnerPoint, out: Float[Tensor, " P"]) -> InnerStep:
        done = self.optimizer.step(state, point, out)
        if len(self.rounding) == point.step:
            wanted = self.iterates[point.step + 1].flatten().to(done.theta)
            self.rounding.append((wanted - done.theta).float())  # tiny, and one vector a step
        done.theta.add_(self.rounding[point.step])
        return done

    def rates(self, step: int) -> dict[str, float]:
        return self.optimizer.rates(step)

    def adjoint(self, template: Gaussians, frozen: frozenset[str]) -> StepAdjoint:
        return self.optimizer.adjoint(template, frozen)

    def unrolled_step(
        self, state: InnerState, theta: Float[Tensor, " P"], gradient: Float[Tensor, " P"], ranges: list[ParameterRange]
    ) -> tuple[Float[Tensor, " P"], InnerState]:
        step = state["step"]
        theta, state = self.optimizer.unrolled_step(state, theta, gradient, ranges)
        return theta + self.rounding[step], state


def _with_first_step(optimizer: InnerOptimizer, steps: Sequence[Gaussians]) -> InnerOptimizer:
    """`optimizer`, of whose run these were the first iterates, with its first step frozen if that can jump."""
    if not isinstance(optimizer, Adam) or len(steps) < 2:
        return optimizer
    before, after = (gaussians.flatten().double() for gaussians in steps[:2])
    return _FirstStepTaken(**{f.name: getattr(optimizer, f.name) for f in fields(optimizer)}, change=after - before)
