# SPDX-License-Identifier: Apache-2.0
# pyright: reportIncompatibleVariableOverride=false, reportIncompatibleMethodOverride=false
# nerfstudio narrows attributes by annotation, and its signatures name the rays of other methods.
"""The training settings' optimisers and learning rates in nerfstudio's form; all numbers are plain Python floats."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from nerfstudio.engine.optimizers import OptimizerConfig
from nerfstudio.engine.schedulers import Scheduler, SchedulerConfig
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from ..dataclass_state import DefaultsForMissingFields
from ..training.config import TrainingConfig
from ..training.optimizers import GuardedAdamW, clip_quantile, learning_rate_factor, optimizer_of
from ..training.stages import GROUP_NAMES


@dataclass
class GuardedAdamWConfig(DefaultsForMissingFields, OptimizerConfig):
    """AdamW that skips updates with a gradient that is not finite."""

    _target: type = field(default_factory=lambda: GuardedAdamW)
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay of the first and second moments."""
    weight_decay: float = 0.0
    """Decoupled weight decay."""


@dataclass
class StageSchedulerConfig(DefaultsForMissingFields, SchedulerConfig):
    """A rise and a cosine in each of the two stages, by the settings of training."""

    _target: type = field(default_factory=lambda: StageScheduler)
    group: str = GROUP_NAMES[0]
    """Parameter group that the learning rate is for."""
    training: TrainingConfig = field(default_factory=TrainingConfig)
    """Stages and rates."""


class StageScheduler(Scheduler):
    """Learning rates and clipping as `ns-diff3r fit` sets them, to the bit."""

    config: StageSchedulerConfig

    def get_scheduler(self, optimizer: Optimizer, lr_init: float) -> LambdaLR:
        """Multiplies `lr_init`, the larger of the group's two peak rates."""
        group, training = self.config.group, self.config.training

        def factor(step: int) -> float:
            if isinstance(optimizer, GuardedAdamW):  # there may be another in its place
                optimizer.clip_quantile = clip_quantile(group, step, training)
            return learning_rate_factor(group, step, training)

        return LambdaLR(optimizer, factor)


def group_optimizers(training: TrainingConfig, chosen: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """{group: {"optimizer", "scheduler"}} of every parameter group; entries of `chosen` replace ours."""
    ours = {}
    for group in GROUP_NAMES:
        settings = optimizer_of(group, training)
        optimizer = GuardedAdamWConfig(
            lr=settings.base_rate,
            eps=settings.epsilon,
            max_norm=settings.max_norm,
            betas=settings.betas,
            weight_decay=settings.weight_decay,
        )
        ours[group] = {"optimizer": optimizer, "scheduler": StageSchedulerConfig(group=group, training=training)}
    return {**ours, **chosen}
