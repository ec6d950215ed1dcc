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
from typing import Protocol

from ..rasterization.protocol import Linearization
from ..splats import Gaussians
from .image_loss import ImageObjective, LossLinearization


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

    def evaluate(self, gaussians: Gaussians, step: int) -> Evaluation:
        """Around `gaussians`, the iterate from which step number `step` starts."""
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

    def evaluate(self, gaussians: Gaussians, step: int = 0) -> Evaluation:
        """Render and linearise at `gaussians`; every decision of the renderer is taken anew."""
        linearization = self.linearize(gaussians)
        return Evaluation(linearization, self.objective.linearize(linearization.rgb))


@dataclass(frozen=True, eq=False)
class ReplayedProblem:
    """A recorded trajectory as a function of its starting point and prior: step k uses the decisions of record k."""

    record: Sequence[Evaluation]

    @property
    def num_residuals(self) -> int:
        """n of the recorded loss."""
        return self.record[0].loss.objective.num_residuals

    def evaluate(self, gaussians: Gaussians, step: int) -> Evaluation:
        """The recorded frozen renderer and loss, around other parameters; IndexError beyond the recorded steps."""
        recorded = self.record[step]
        linearization = recorded.linearization.at(gaussians)
        return Evaluation(linearization, recorded.loss.at(linearization.rgb))
