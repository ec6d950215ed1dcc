# SPDX-License-Identifier: Apache-2.0
"""Steps of a learned optimiser, with the graph that trains it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ...splats import Gaussians
from ..prior import Prior
from ..problem import InnerProblem
from .protocol import InnerOptimizer, InnerPoint, InnerState


class TrainingStep(NamedTuple):
    """One step of a learned optimiser."""

    theta: Float[Tensor, " P"]
    """Where it led: differentiable in the optimiser's parameters, by this step and by the state that came into it."""
    loss: float
    """L_in where it began."""
    state: InnerState
    """After the step; detach it (`detach_state`) where the graph is to end."""


def training_steps(
    problem: InnerProblem,
    start: Gaussians,
    optimizer: InnerOptimizer,
    num_steps: int,
    prior: Prior | None = None,
    *,
    frozen: frozenset[str] = frozenset(),
    state: InnerState | None = None,
    first_step: int = 0,
) -> Iterator[TrainingStep]:
    """Take steps that autograd can go back through, into the parameters of the rule (truncated backpropagation).

    θ is detached where a step begins, and its gradient is a constant; the graph runs through what each step adds, and
    from step to step through the optimiser's state alone (Learn2Splat). The caller takes a loss of every result, adds
    them up and calls backward; to continue later, it keeps θ and the state, detached: both are plain tensors and
    numbers, which `torch.save` keeps.

    Args:
        problem, start, optimizer, prior, frozen: as for `run_trajectory`.
        num_steps: steps to take.
        state: of an earlier run to be continued, updated in place; None starts afresh.
        first_step: number of the first step.
    """
    theta = start.detach().flatten()
    state = optimizer.init(start) if state is None else state
    for step in range(first_step, first_step + num_steps):
        with torch.no_grad():
            evaluation = problem.evaluate(start.unflatten(theta), step)
        point = InnerPoint(theta, evaluation.linearization, evaluation.loss, prior, frozen, step)
        result, statistics = optimizer.step(state, point, torch.empty_like(theta))
        yield TrainingStep(result, evaluation.loss.value + sum(part.prior for part in statistics), state)
        theta = result.detach()


def detach_state(state: InnerState) -> InnerState:
    """The same numbers without a graph, in tensors of their own."""
    return {name: value.detach().clone() if isinstance(value, Tensor) else value for name, value in state.items()}
