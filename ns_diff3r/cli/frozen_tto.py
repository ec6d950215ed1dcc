# SPDX-License-Identifier: Apache-2.0
"""A whole test-time optimisation and its outer loss as one smooth function, for finite differences.

TTO jumps where the depth order flips, a pair crosses a threshold or an L1 sign changes, and where a first gradient changes
its sign: Adam's first step is a full learning rate either way. So the run is recorded once and replayed at other starts
and priors with the linearisations and the first step of the record (docs/design.md §7).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from ..rasterization import Linearization, linearize
from ..solver import TTOConfig
from ..solver.image_loss import ImageObjective
from ..solver.inner import Adam, InnerOptimizer, InnerPoint, InnerState, InnerStep, Trajectory, run_trajectory
from ..solver.prior import Prior
from ..solver.problem import DecidedProblem, InnerProblem, SceneProblem
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
        it was there: rounding alone makes two runs flip different L1 signs, and they part.
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
            _run(config, replace(other, linearize=watched), optimizer, *rounded, scale)
            problem = DecidedProblem(scene(context), other, places)
            optimizer = _with_first_step(optimizer, places)
        trajectory = _run(config, problem, optimizer, start, multiplier, scale, record=True)
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
        run = _run(self.config, self.trajectory.replay(), self.optimizer, gaussians, multiplier, self.scale)
        rgb = self.outer.at(gaussians.unflatten(run.theta)).rgb
        return float((rgb - self.targets.images).double().square().mean())


@dataclass(frozen=True)
class _FirstStepTaken:
    """Adam whose first step is the one given, and its moments those of the gradients that come."""

    adam: Adam
    change: Float[Tensor, " P"]

    def init(self, theta: Gaussians) -> InnerState:
        return self.adam.init(theta)

    def rates(self, step: int) -> dict[str, float]:
        return self.adam.rates(step)

    def step(self, state: InnerState, point: InnerPoint, out: Float[Tensor, " P"]) -> InnerStep:
        done = self.adam.step(state, point, out)
        if state["step"] == 1:
            torch.add(point.theta, self.change, out=out)
        return done


def _with_first_step(optimizer: InnerOptimizer, steps: Sequence[Gaussians]) -> InnerOptimizer:
    """`optimizer`, of whose run these were the first iterates, with its first step frozen if that can jump."""
    if not isinstance(optimizer, Adam) or len(steps) < 2:
        return optimizer
    before, after = (gaussians.flatten().double() for gaussians in steps[:2])
    return _FirstStepTaken(optimizer, after - before)


def _run(
    config: TTOConfig,
    problem: InnerProblem,
    optimizer: InnerOptimizer,
    start: Gaussians,
    multiplier: Tensor,
    scale: dict[str, float],
    record: bool = False,
) -> Trajectory:
    prior = Prior(start.flatten().clone(), multiplier, [scale[name] for name in GROUPS], start.group_slices())
    frozen = frozenset(config.frozen_groups)
    return run_trajectory(problem, start, optimizer, config.num_steps, prior, frozen=frozen, record=record)
