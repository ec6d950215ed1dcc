# SPDX-License-Identifier: Apache-2.0
"""What the adjoint modes keep of a forward run, and how they walk back through it."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from typing import NamedTuple, Protocol

from jaxtyping import Float
from torch import Tensor

from ..inner import InnerState, StepObserver, StepRecord
from ..inner.protocol import copy_state
from .protocol import RerunSteps


class Tape(StepObserver, Protocol):
    """Watches a run, and gives its steps back in reverse."""

    def backwards(self, num_steps: int) -> Iterator[StepRecord]:
        """The records of steps `num_steps − 1`, `num_steps − 2`, …; steps beyond are ignored (a run that diverged)."""
        ...


class SnapshotTape:
    """Copies of everything: four vectors of the size of the parameters a step (θ, g and Adam's two moments)."""

    def __init__(self, last: int | None = None) -> None:
        """`last`: keep no more than so many steps, counted from the end; None: all."""
        # One more: the step that a run took before it found that it had diverged is not part of it.
        self._records: deque[StepRecord] = deque(maxlen=None if last is None else last + 1)

    def __call__(self, record: StepRecord, next_theta: Float[Tensor, " P"]) -> None:
        """Keep the step."""
        self._records.append(record._replace(state=copy_state(record.state)))

    def backwards(self, num_steps: int) -> Iterator[StepRecord]:
        """The steps that are still held."""
        return (record for record in reversed(self._records) if record.step < num_steps)


class _Checkpoint(NamedTuple):
    step: int
    theta: Float[Tensor, " P"]
    state: InnerState
    """Before the step."""


class RecomputationTape:
    """θ and the optimiser's state every √K steps; the steps between are taken again, one segment at a time.

    Memory: √K checkpoints and the snapshots of √K steps. Time: every step once more.
    """

    def __init__(self, rerun: RerunSteps, num_steps: int) -> None:
        self._rerun = rerun
        self._interval = max(1, math.isqrt(max(0, num_steps - 1)) + 1)
        self._checkpoints: list[_Checkpoint] = []

    def __call__(self, record: StepRecord, next_theta: Float[Tensor, " P"]) -> None:
        """Keep what follows the step, if a segment begins there."""
        if not self._checkpoints:
            self._checkpoints.append(_Checkpoint(record.step, record.theta, {}))
        following = record.step + 1
        if following % self._interval == 0:
            self._checkpoints.append(_Checkpoint(following, next_theta, copy_state(record.state)))

    def backwards(self, num_steps: int) -> Iterator[StepRecord]:
        """All steps, segment after segment."""
        end = num_steps
        for checkpoint in reversed(self._checkpoints):
            if checkpoint.step >= end:
                continue
            segment = SnapshotTape()
            state = copy_state(checkpoint.state)
            self._rerun(checkpoint.theta, state, checkpoint.step, end - checkpoint.step, segment)
            yield from segment.backwards(end)
            end = checkpoint.step
