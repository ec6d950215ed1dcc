# SPDX-License-Identifier: Apache-2.0
"""The inner loop: linearise, measure, step; and what it reports."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

import torch
from jaxtyping import Float
from torch import Tensor

from ...splats import GROUPS, Gaussians
from ..prior import Prior
from ..problem import Evaluation, InnerProblem, ReplayedProblem
from ..vector_ops import RangeStatistics
from . import device_run
from .protocol import InnerOptimizer, InnerPoint, InnerState, StepObserver, StepRecord


class TTOStatus(str, Enum):
    """How test-time optimisation ended."""

    COMPLETED = "completed"
    """All steps were taken."""
    STATIONARY = "stationary"
    """The stationarity ratio fell to its tolerance before all steps were taken."""
    TIME_BUDGET = "time_budget"
    """The time allowed was over before all steps were taken."""
    DIVERGED = "diverged"
    """The loss or its gradient became non-finite; the result is the last iterate before."""


@dataclass(eq=False)
class Trajectory:
    """One run of an inner optimiser from θ_0 to θ_K."""

    theta: Float[Tensor, " P"]
    """The result θ_K, detached."""
    status: TTOStatus
    loss_curve: list[float]
    """L_in at θ_0 … θ_K."""
    image_loss_curve: list[float]
    """Its photometric part."""
    first_gradient: dict[str, float]
    """|∇L_in(θ_0)| per group, frozen ones left out."""
    last_gradient: dict[str, float]
    """|∇L_in(θ_K)| per group."""
    state: InnerState = field(repr=False)
    """State of the optimiser after the last step."""
    record: list[Evaluation] | None = field(default=None, repr=False)
    """Linearisations at θ_0 … θ_K, if asked for."""

    @property
    def num_steps(self) -> int:
        """Steps taken, K."""
        return max(0, len(self.loss_curve) - 1)

    @property
    def stationarity(self) -> float:
        """|∇L_in(θ_K)| / |∇L_in(θ_0)|; 0 if both vanish."""
        first, last = (math.hypot(*norms.values()) for norms in (self.first_gradient, self.last_gradient))
        return _ratio(last, first)

    @property
    def group_stationarity(self) -> dict[str, float]:
        """The same per attribute group."""
        return {name: _ratio(self.last_gradient[name], first) for name, first in self.first_gradient.items()}

    def replay(self) -> ReplayedProblem:
        """The recorded run as a smooth function of start and prior; ValueError if it was not recorded."""
        if self.record is None:
            raise ValueError("this trajectory was not recorded: run it with record=True")
        return ReplayedProblem(self.record)


def _ratio(last: float, first: float) -> float:
    if first == 0.0:
        return 0.0 if last == 0.0 else math.inf
    return last / first


@torch.no_grad()
def run_trajectory(
    problem: InnerProblem,
    start: Gaussians,
    optimizer: InnerOptimizer,
    num_steps: int,
    prior: Prior | None = None,
    *,
    frozen: frozenset[str] = frozenset(),
    stationarity_tolerance: float = 0.0,
    time_budget: float | None = None,
    record: bool = False,
    state: InnerState | None = None,
    first_step: int = 0,
    first: Evaluation | None = None,
    progress: Callable[[int, float], None] | None = None,
    observer: StepObserver | None = None,
) -> Trajectory:
    """Take `num_steps` steps from `start`, or fewer when the gradient has fallen by `stationarity_tolerance`.

    Memory does not depend on the number of steps unless the run is recorded. The loss and its gradient are evaluated
    once more at the result, so that its loss and stationarity are known.

    Args:
        problem: the photometric loss.
        start: θ_0; not modified.
        optimizer: the rule.
        num_steps: K >= 0.
        prior: ½ Σ Λ (θ − θ⁰)², or None.
        frozen: groups that stay at `start`.
        stationarity_tolerance: ratio of gradient norms at which to stop; 0 takes all steps.
        time_budget: seconds after which no further step begins; None: no limit.
        record: keep the linearisation of every iterate, for `Trajectory.replay`.
        state: of the optimiser, to continue an earlier run (the same object is updated); None starts afresh.
        first_step: number of the first step, for a run that continues: schedules and view sampling depend on it.
        first: `problem` evaluated at `start`, if the caller has it.
        progress: called at every iterate with the number of steps taken and L_in there.
        observer: sees every step after it has been taken.
    """
    state = optimizer.init(start) if state is None else state
    if not record and device_run.applies(problem, optimizer, start):
        from .device_trajectory import DeviceTrajectory

        first = problem.evaluate(start.detach(), first_step) if first is None else first
        deadline = math.inf if time_budget is None else time.perf_counter() + time_budget
        plan = DeviceTrajectory(
            num_steps, frozen, stationarity_tolerance, deadline, state, first_step, progress, observer
        )
        done = plan.run(problem, start, optimizer, prior, first)
        if done is not None:
            return done
    theta = next_theta = start.detach().flatten()
    losses: list[float] = []
    image_losses: list[float] = []
    norms: list[dict[str, float]] = []
    evaluations: list[Evaluation] | None = [] if record else None
    previous: Tensor | None = None
    spare: Tensor | None = None
    status = TTOStatus.COMPLETED
    deadline = math.inf if time_budget is None else time.perf_counter() + time_budget

    for step in range(num_steps + 1):
        late = time.perf_counter() >= deadline
        number = None if late else first_step + step  # what ends here is measured as a result
        evaluation = first if first is not None else problem.evaluate(start.unflatten(theta), number)
        first = None
        point = InnerPoint(theta, evaluation.linearization, evaluation.loss, prior, frozen, first_step + step)
        if step == num_steps or late or (stationarity_tolerance > 0.0 and step > 0):
            _, statistics = point.total_gradient()
            stationary = step > 0 and reached(statistics, norms[0], frozen, stationarity_tolerance)
            last = step == num_steps or late or stationary
        else:
            statistics, last, stationary = [], False, False
        if not last:
            out = spare if spare is not None else torch.empty_like(theta)
            next_theta, statistics = optimizer.step(state, point, out)
            if observer is not None:
                observer(StepRecord(point.step, theta, point.image_gradient, state), next_theta)
        loss = evaluation.loss.value + sum(part.prior for part in statistics)
        if not math.isfinite(loss + sum(part.squared_gradient for part in statistics)):
            status = TTOStatus.DIVERGED
            theta = theta if previous is None else previous
            break
        losses.append(loss)
        image_losses.append(evaluation.loss.value)
        if progress is not None:
            progress(step, loss)
        norms.append(gradient_norms(statistics, frozen))
        if evaluations is not None:
            evaluations.append(evaluation)
        if last:
            if step < num_steps:
                status = TTOStatus.STATIONARY if stationary else TTOStatus.TIME_BUDGET
            break
        # θ_{k−1} is no longer needed, unless it is the start or others may hold it: its buffer takes θ_{k+2}.
        spare = None if record or observer is not None or step < 2 else previous
        previous, theta = theta, next_theta
        del evaluation, point  # their memory serves the next step
    empty = {name: math.nan for name in GROUPS if name not in frozen}
    return Trajectory(
        theta=theta.clone() if len(losses) < 2 else theta,  # never the caller's own tensor
        status=status,
        loss_curve=losses,
        image_loss_curve=image_losses,
        first_gradient=norms[0] if norms else empty,
        last_gradient=norms[-1] if norms else empty,
        state=state,
        record=evaluations,
    )


@torch.no_grad()
def rerun_steps(
    problem: InnerProblem,
    template: Gaussians,
    optimizer: InnerOptimizer,
    prior: Prior | None,
    frozen: frozenset[str],
    theta: Float[Tensor, " P"],
    state: InnerState,
    first_step: int,
    num_steps: int,
    observer: StepObserver,
) -> None:
    """Steps `first_step`, …, `first_step + num_steps − 1` of an earlier run again, from its θ and state there.

    To the bit, on a backend whose results repeat. `state` is updated; nothing is measured at the end.
    """
    first = None
    if num_steps > 1 and device_run.applies(problem, optimizer, template):
        from .device_trajectory import rerun_on_device

        first = problem.evaluate(template.unflatten(theta), first_step)
        plan = (optimizer, prior, frozen, theta, state, first_step, num_steps, observer)
        if rerun_on_device(problem, first, *plan):
            return
    for step in range(first_step, first_step + num_steps):
        evaluation = problem.evaluate(template.unflatten(theta), step) if first is None else first
        first = None
        point = InnerPoint(theta, evaluation.linearization, evaluation.loss, prior, frozen, step)
        theta, _ = optimizer.step(state, point, torch.empty_like(theta))
        observer(StepRecord(step, point.theta, point.image_gradient, state), theta)
        del evaluation, point


@torch.no_grad()
def first_gradient(
    at: Evaluation, theta: Float[Tensor, " P"], prior: Prior | None, frozen: frozenset[str]
) -> dict[str, float]:
    """|∇L_in| per free group at a point: the measure of stationarity where steps see only some of the views."""
    point = InnerPoint(theta, at.linearization, at.loss, prior, frozen, 0)
    return gradient_norms(point.total_gradient()[1], frozen)


def reached(
    statistics: list[RangeStatistics], first: dict[str, float], frozen: frozenset[str], tolerance: float
) -> bool:
    """Whether |∇L_in| has fallen to `tolerance` times what the norms `first` of the groups are; never for 0."""
    if tolerance <= 0.0:
        return False
    norms = gradient_norms(statistics, frozen)
    return math.hypot(*norms.values()) <= tolerance * math.hypot(*first.values())


def gradient_norms(statistics: list[RangeStatistics], frozen: frozenset[str]) -> dict[str, float]:
    """|∇L_in| per free group."""
    pairs = zip(GROUPS, statistics, strict=True)
    return {name: math.sqrt(part.squared_gradient) for name, part in pairs if name not in frozen}
