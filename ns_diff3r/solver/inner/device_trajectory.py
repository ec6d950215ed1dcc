# SPDX-License-Identifier: Apache-2.0
"""`run_trajectory` over a `DeviceRun`: the same trajectory, put together from what the steps wrote down."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from ...rasterization.cuda import CudaLinearization
from ...splats import GROUPS, Gaussians
from ..prior import Prior
from ..problem import Evaluation, InnerProblem, SceneProblem
from .adam import Adam
from .device_run import DeviceRun, Row, applies
from .protocol import InnerOptimizer, InnerState, StepObserver, StepRecord
from .sgd import SGD
from .trajectory import Trajectory, TTOStatus, gradient_norms, reached


def rerun_on_device(
    problem: InnerProblem,
    first: Evaluation,
    optimizer: InnerOptimizer,
    prior: Prior | None,
    frozen: frozenset[str],
    theta: Float[Tensor, " P"],
    state: InnerState,
    first_step: int,
    num_steps: int,
    observer: StepObserver,
) -> bool:
    """The steps of `rerun_steps`, `first` being the problem at θ; False where they cannot be taken on the device."""
    if not isinstance(first.linearization, CudaLinearization):
        return False
    assert isinstance(problem, SceneProblem)
    assert isinstance(optimizer, (Adam, SGD))
    run = DeviceRun(problem, first, optimizer, state, num_steps, prior, frozen, first_step)
    for step in range(first_step, first_step + num_steps):
        gradient, following = torch.empty_like(theta), torch.empty_like(theta)
        run.measure(theta, gradient)
        run.take_measured_step(theta, gradient, following)
        if "step" in state:
            state["step"] += 1
        observer(StepRecord(step, theta, gradient, state), following)
        theta = following
    return True


@dataclass
class DeviceTrajectory:
    """What `run_trajectory` was asked for, and what is known of the run so far."""

    num_steps: int
    frozen: frozenset[str]
    stationarity_tolerance: float
    deadline: float
    state: InnerState
    first_step: int
    progress: Callable[[int, float], None] | None
    observer: StepObserver | None
    losses: list[float] = field(default_factory=list)
    image_losses: list[float] = field(default_factory=list)
    norms: list[dict[str, float]] = field(default_factory=list)

    def run(
        self, problem: InnerProblem, start: Gaussians, optimizer: InnerOptimizer, prior: Prior | None, first: Evaluation
    ) -> Trajectory | None:
        """The run; None where its steps cannot be taken on the device. `first`: `problem` evaluated at `start`."""
        if not applies(problem, optimizer, start) or not isinstance(first.linearization, CudaLinearization):
            return None
        assert isinstance(problem, SceneProblem)
        assert isinstance(optimizer, (Adam, SGD))
        run = DeviceRun(problem, first, optimizer, self.state, self.num_steps, prior, self.frozen, self.first_step)
        theta = start.detach().flatten().clone()
        watched = self.observer or self.progress or self.deadline < math.inf or self.stationarity_tolerance > 0.0
        status, theta = (self._watched if watched else self._alone)(run, theta)
        empty = {name: math.nan for name in GROUPS if name not in self.frozen}
        return Trajectory(
            theta=theta,
            status=status,
            loss_curve=self.losses,
            image_loss_curve=self.image_losses,
            first_gradient=self.norms[0] if self.norms else empty,
            last_gradient=self.norms[-1] if self.norms else empty,
            state=self.state,
        )

    def _alone(self, run: DeviceRun, theta: Float[Tensor, " P"]) -> tuple[TTOStatus, Tensor]:
        places = [theta, torch.empty_like(theta), torch.empty_like(theta)]
        run.take_all(places)
        finite = all(self._add(run.row(k)) for k in range(run.step + 1)) and not run.diverged
        # the step that found numbers that are none has been taken too
        self._count(run.step if finite else min(run.step + 1, self.num_steps))
        last = run.step if finite else max(0, run.step - 1)
        return TTOStatus.COMPLETED if finite else TTOStatus.DIVERGED, places[last % 3]

    def _watched(self, run: DeviceRun, theta: Float[Tensor, " P"]) -> tuple[TTOStatus, Tensor]:
        """A look before every step. What observers see is theirs to keep, so it gets memory of its own."""
        spare = [torch.empty_like(theta), torch.empty_like(theta)] if self.observer is None else []
        previous, gradient = None, run.gradient
        for step in range(self.num_steps + 1):
            late = time.perf_counter() >= self.deadline
            if self.observer is not None:
                gradient = torch.empty_like(theta)
            row = run.measure(theta, gradient)
            stationary = step > 0 and reached(row.statistics, self.norms[0], self.frozen, self.stationarity_tolerance)
            last = step == self.num_steps or late or stationary
            next_theta = theta
            if not last:
                next_theta = spare.pop() if spare else torch.empty_like(theta)
                run.take_measured_step(theta, gradient, next_theta)
                self._count(1)
                if self.observer is not None:
                    record = StepRecord(self.first_step + step, theta, gradient, self.state)
                    self.observer(record, next_theta)
            if not self._add(row):
                return TTOStatus.DIVERGED, theta if previous is None else previous
            if last and step < self.num_steps:
                return TTOStatus.STATIONARY if stationary else TTOStatus.TIME_BUDGET, theta
            if self.observer is None and previous is not None:
                spare.append(previous)
            previous, theta = theta, next_theta
        return TTOStatus.COMPLETED, theta

    def _count(self, steps: int) -> None:
        if "step" in self.state:
            self.state["step"] += steps

    def _add(self, row: Row) -> bool:
        """Enter what was measured at an iterate; False if it is not finite."""
        loss = row.image_loss + sum(part.prior for part in row.statistics)
        if not math.isfinite(loss + sum(part.squared_gradient for part in row.statistics)):
            return False
        self.losses.append(loss)
        self.image_losses.append(row.image_loss)
        self.norms.append(gradient_norms(row.statistics, self.frozen))
        if self.progress is not None:
            self.progress(len(self.losses) - 1, loss)
        return True
