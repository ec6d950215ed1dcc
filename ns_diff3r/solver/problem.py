# SPDX-License-Identifier: Apache-2.0
"""The photometric part of one scene's inner problem, as a function of flat parameter vectors.

A problem is asked for a linearisation of the renderer and of the loss at the iterate of a step. `SceneProblem` renders;
`ReplayedProblem` evaluates a recorded run at other parameters with the decisions of the recorded linearisations frozen
(depth order, tile lists, and with freeze="pairs" everything else that jumps; L1 signs), so that differences of whole
trajectories are differences of a smooth function.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from ..rasterization.protocol import Linearization
from ..splats import Gaussians
from .image_loss import ImageObjective, LossLinearization

if TYPE_CHECKING:
    from .inner.view_sampling import ViewSampler


class Evaluation:
    """The renderer and the loss around one point."""

    def __init__(self, linearization: Linearization, loss: LossLinearization) -> None:
        self.linearization = linearization
        self.loss = loss


class InnerProblem(Protocol):
    """Linearisations of the renderer and of the photometric loss along a trajectory."""

    @property
    def num_residuals(self) -> int:
        """n, by which the loss is averaged."""
        ...

    def evaluate(self, gaussians: Gaussians, step: int | None) -> Evaluation:
        """Around `gaussians`, the iterate from which step number `step` starts; None: on all views, for no step."""
        ...


@dataclass(frozen=True, eq=False)
class SceneProblem:
    """Photographs of a scene and the renderer that is to reproduce them."""

    objective: ImageObjective
    linearize: Callable[[Gaussians], Linearization]
    """Gaussians → linearised renderer of the views of `objective`."""

    @property
    def num_residuals(self) -> int:
        """n = views × pixels × 3."""
        return self.objective.num_residuals

    def evaluate(self, gaussians: Gaussians, step: int | None = None) -> Evaluation:
        """Render and linearise at `gaussians`; every decision of the renderer is taken anew."""
        linearization = self.linearize(gaussians)
        return Evaluation(linearization, self.objective.linearize(linearization.rgb))


@dataclass(frozen=True, eq=False)
class SampledProblem:
    """A scene of which every step sees some views only."""

    whole: SceneProblem
    select: Callable[[Sequence[int]], SceneProblem]
    """Indices of views → the problem that they pose."""
    sampler: ViewSampler
    num_steps: int
    """Steps of the run: its result is measured on all views."""

    @property
    def num_residuals(self) -> int:
        """n of all views together."""
        return self.whole.num_residuals

    def evaluate(self, gaussians: Gaussians, step: int | None) -> Evaluation:
        """Render and linearise the views of a step; all of them for None and after the last step."""
        if step is None or step >= self.num_steps:
            return self.whole.evaluate(gaussians)
        return self.select(self.sampler.views(step)).evaluate(gaussians)


@dataclass(frozen=True, eq=False)
class ReplayedProblem:
    """A recorded trajectory as a function of its starting point and prior: step k uses the decisions of record k."""

    record: Sequence[Evaluation]

    @property
    def num_residuals(self) -> int:
        """n of the recorded loss."""
        return self.record[0].loss.objective.num_residuals

    def evaluate(self, gaussians: Gaussians, step: int | None) -> Evaluation:
        """The recorded frozen renderer and loss around other parameters (None: those of the last record).

        Raises:
            IndexError: beyond the recorded steps.
        """
        recorded = self.record[-1 if step is None else step]
        linearization = recorded.linearization.at(gaussians)
        return Evaluation(linearization, recorded.loss.at(linearization.rgb))


@dataclass(frozen=True, eq=False)
class DecidedProblem:
    """A scene with everything discrete as another run had it, say one of lower precision: the two then differ in
    rounding alone, where otherwise it would decide L1 signs and contributing pairs, and they would part."""

    scene: SceneProblem
    other: SceneProblem
    """The same photographs as the other run saw them."""
    places: Sequence[Gaussians]
    """Where the other run was as each step began, its result last; of its precision."""

    @property
    def num_residuals(self) -> int:
        """n of the scene."""
        return self.scene.num_residuals

    def evaluate(self, gaussians: Gaussians, step: int | None) -> Evaluation:
        """Around `gaussians`, with the decisions of the other run in that step (None: at its result).

        Raises:
            IndexError: beyond the other run's steps.
            TypeError: a renderer that cannot take its decisions to another precision.
        """
        decided = self.other.linearize(self.places[-1 if step is None else step])
        linearization = decided.to(gaussians.dtype).at(gaussians)
        drawn = decided.rgb.to(gaussians.dtype)
        return Evaluation(linearization, self.scene.objective.linearize(drawn).at(linearization.rgb))
