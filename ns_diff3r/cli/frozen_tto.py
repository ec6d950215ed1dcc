# SPDX-License-Identifier: Apache-2.0
"""A whole test-time optimisation and its outer loss as one smooth function, for finite differences.

TTO jumps where the depth order flips, a pair crosses a threshold or an L1 sign changes. So the run is recorded once and
replayed at other starts and priors with the linearisations of the record (docs/design.md §7).
"""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from ..rasterization import Linearization, linearize
from ..solver import TTOConfig
from ..solver.image_loss import ImageObjective
from ..solver.inner import Trajectory, run_trajectory
from ..solver.prior import Prior
from ..solver.problem import InnerProblem, SceneProblem
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
    ) -> FrozenTTO:
        """Run TTO from `start` with λ = `multiplier` and keep its linearisations."""

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

        objective = ImageObjective(config.loss, context.images)
        problem = SceneProblem(objective, lambda gaussians: around(context.cameras, gaussians))
        start = start.detach()
        trajectory = _run(config, problem, start, multiplier, scale, record=True)
        outer = around(targets.cameras, start.unflatten(trajectory.theta))
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
