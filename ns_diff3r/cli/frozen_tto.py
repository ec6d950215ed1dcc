# SPDX-License-Identifier: Apache-2.0
"""A whole test-time optimisation and its outer loss as one smooth function, for finite differences.

TTO jumps where the depth order flips, a pair crosses a threshold or an L1 sign changes. So the run is recorded once and
replayed at other starts and priors with the linearisations of the record (docs/design.md §7).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from ..rasterization import Linearization, linearize
from ..solver import TTOConfig
from ..solver.image_loss import ImageObjective
from ..solver.inner import Trajectory, run_trajectory
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
        decisions: list[tuple[Gaussians, Tensor]] = []
        if decided_in is not None:
            other = scene(context.to(dtype=decided_in))

            def watched(gaussians: Gaussians) -> Linearization:
                linearization = other.linearize(gaussians)
                place = gaussians.map(lambda leaf: leaf.to(start.dtype, copy=True))  # its memory serves later steps
                decisions.append((place, linearization.rgb.to(start.dtype, copy=True)))
                return linearization

            _run(
                config, replace(other, linearize=watched), start.to(dtype=decided_in), multiplier.to(decided_in), scale
            )
            problem = DecidedProblem(scene(context), decisions)
        trajectory = _run(config, problem, start, multiplier, scale, record=True)
        result = start.unflatten(trajectory.theta)
        outer = around(targets.cameras, decisions[-1][0] if decisions else result)
        return FrozenTTO(config, start, scale, trajectory, targets, outer)

    def __call__(self, start: Float[Tensor, " P"], multiplier: Float[Tensor, " P"]) -> float:
        """The outer loss at another start and another λ."""
        gaussians = self.start.unflatten(start)
        run = _run(self.config, self.trajectory.replay(), gaussians, multiplier, self.scale)
        rgb = self.outer.at(gaussians.unflatten(run.theta)).rgb
        return float((rgb - self.targets.images).double().square().mean())


def _run(
    config: TTOConfig,
    problem: InnerProblem,
    start: Gaussians,
    multiplier: Tensor,
    scale: dict[str, float],
    record: bool = False,
) -> Trajectory:
    prior = Prior(start.flatten().clone(), multiplier, [scale[name] for name in GROUPS], start.group_slices())
    optimizer, frozen = config.make_optimizer(), frozenset(config.frozen_groups)
    return run_trajectory(problem, start, optimizer, config.num_steps, prior, frozen=frozen, record=record)
