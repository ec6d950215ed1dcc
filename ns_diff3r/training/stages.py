# SPDX-License-Identifier: Apache-2.0
"""The two stages of one training run: the network alone, then the network through test-time optimisation."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from ..dataclass_state import DefaultsForMissingFields

TRUNK = "trunk"
GROUP_NAMES = ("backbone", TRUNK, "gaussian_head", "uncertainty_head")
"""Parameter groups of the network, the same in both stages; what a stage does not train is frozen, not removed. The
trunk, the image encoder that a backbone was given from elsewhere, is trained where the rest of the backbone is."""


class Stage(str, Enum):
    """What a training step does."""

    PRETRAIN = "pretrain"
    """Feed-forward only: the loss of θ⁰ on the target views."""
    BILEVEL = "bilevel"
    """Test-time optimisation of θ⁰ on the context views; the loss of θ* on the target views, differentiated through
    the optimisation."""


@dataclass(frozen=True)
class StageConfig(DefaultsForMissingFields):
    """When the stages change, and what the second one trains."""

    pretrain_fraction: float = 0.75
    """Share of all steps that belong to the first stage; 1: no second stage, 0: no first."""
    pretrain_steps: int | None = None
    """Steps of the first stage; None: by `pretrain_fraction`."""
    freeze_backbone: bool = True
    """Whether the second stage trains the Gaussian head and the uncertainty head only, and leaves the rest."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.pretrain_fraction <= 1.0:
            raise ValueError(f"StageConfig.pretrain_fraction must lie in [0, 1], not {self.pretrain_fraction}")
        if self.pretrain_steps is not None and self.pretrain_steps < 0:
            raise ValueError(f"StageConfig.pretrain_steps must not be negative, not {self.pretrain_steps}")

    def boundary(self, num_steps: int) -> int:
        """First step of the second stage in a run of `num_steps` steps; `num_steps` if there is none."""
        steps = self.pretrain_steps
        return min(num_steps, round(self.pretrain_fraction * num_steps) if steps is None else steps)

    def stage(self, step: int, num_steps: int) -> Stage:
        """The stage of step `step`, counted from 0. Steps beyond the end belong to the stage of the last one."""
        step = max(0, min(step, num_steps - 1))
        return Stage.PRETRAIN if step < self.boundary(num_steps) else Stage.BILEVEL

    def interval(self, step: int, num_steps: int) -> tuple[int, int]:
        """[first, last) of the steps of the stage that `step` belongs to."""
        boundary = self.boundary(num_steps)
        return (0, boundary) if self.stage(step, num_steps) is Stage.PRETRAIN else (boundary, num_steps)

    def trained_groups(self, stage: Stage) -> frozenset[str]:
        """Names of the parameter groups that a stage trains."""
        if stage is Stage.PRETRAIN:
            return frozenset(("backbone", TRUNK, "gaussian_head"))
        return frozenset(GROUP_NAMES) - ({"backbone", TRUNK} if self.freeze_backbone else set())
