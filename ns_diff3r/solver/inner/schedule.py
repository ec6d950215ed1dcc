# SPDX-License-Identifier: Apache-2.0
"""Learning rates per attribute group that fall along a run."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from ...dataclass_state import DefaultsForMissingFields


@dataclass(frozen=True)
class RateSchedule(DefaultsForMissingFields):
    """From the full learning rate to a fraction of it. gsplat's trainer lets that of the means fall, exponentially."""

    decay: Literal["constant", "exponential", "cosine"] = "constant"
    """How rates fall."""
    final_fraction: float = 0.01
    """Rate of the last step, as a fraction of the first step's."""
    groups: tuple[str, ...] = ()
    """Attribute groups whose rates fall; empty: all."""
    num_steps: int = 0
    """Steps over which they fall, and stay then; 0: as many as the run takes."""

    def __post_init__(self) -> None:
        if self.decay not in ("constant", "exponential", "cosine"):
            raise ValueError(f'RateSchedule.decay must be "constant", "exponential" or "cosine", not {self.decay!r}')
        if not 0.0 < self.final_fraction <= 1.0:
            raise ValueError(f"RateSchedule.final_fraction must lie in (0, 1], not {self.final_fraction}")
        if self.num_steps < 0:
            raise ValueError(f"RateSchedule.num_steps must not be negative, not {self.num_steps}")

    def factor(self, step: int, horizon: int) -> float:
        """Of step `step`, counted from 0, in a run of `horizon` steps."""
        length = self.num_steps or horizon
        done = min(1.0, step / (length - 1)) if length > 1 else 0.0
        if self.decay == "exponential":
            return self.final_fraction**done
        if self.decay == "cosine":
            return self.final_fraction + (1.0 - self.final_fraction) * 0.5 * (1.0 + math.cos(math.pi * done))
        return 1.0

    def rates(self, learning_rates: dict[str, float], step: int, horizon: int) -> dict[str, float]:
        """The rate of every group in a step."""
        if self.decay == "constant":
            return learning_rates
        factor = self.factor(step, horizon)
        return {n: factor * r if n in (self.groups or learning_rates) else r for n, r in learning_rates.items()}
