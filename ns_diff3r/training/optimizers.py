# SPDX-License-Identifier: Apache-2.0
"""One AdamW and one learning-rate schedule per parameter group; the nerfstudio face uses the same numbers."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from .config import GroupOptimizer, TrainingConfig
from .schedules import warmup_cosine
from .stages import GROUP_NAMES, TRUNK

logger = logging.getLogger("ns_diff3r")

CLIP_WINDOW = 200
"""Norms of gradients that are remembered."""


class GuardedAdamW(torch.optim.AdamW):
    """AdamW that leaves weights and moments alone, with a warning, where a gradient is not finite.

    On the CPU without a grad scaler nothing else stands between a NaN and the weights. With a scaler the scaler has
    looked already and this finds nothing.
    """

    num_skipped: int = 0
    """Steps that were not taken."""

    @property
    def clip_quantile(self) -> float | None:
        """Gradients of all parameters together that are longer than this quantile of the norms of the last
        `CLIP_WINDOW` steps with one, their own among them, are shortened to it (AutoClip, Seetharaman et al. 2020).

        It is in `state_dict`, as the norms are, so that a run that is continued clips as before.
        """
        return self.param_groups[0].get("clip_quantile")

    @clip_quantile.setter
    def clip_quantile(self, quantile: float | None) -> None:
        self.param_groups[0]["clip_quantile"] = quantile

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One step, or none."""
        gradients = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
        if gradients:
            # One number to look at: a NaN or an infinity anywhere makes the sum of squares not finite.
            norm = float(torch.stack([g.detach().float().square().sum() for g in gradients]).sum().sqrt())
            if not math.isfinite(norm):
                self.num_skipped += 1
                logger.warning("a gradient of the network's weights is not finite: this group's update is skipped")
                return None
            if self.clip_quantile is not None:
                limit = self._limit(norm, self.clip_quantile)
                if norm > limit:
                    torch._foreach_mul_(gradients, limit / norm)
        return super().step(closure)

    def _limit(self, norm: float, quantile: float) -> float:
        """The quantile, after `norm` has joined the norms, which `state_dict` holds."""
        norms = [*self.param_groups[0].get("norms", []), norm][-CLIP_WINDOW:]
        self.param_groups[0]["norms"] = norms
        return float(torch.tensor(norms, dtype=torch.float64).quantile(quantile))


def learning_rate(group: str, step: int, config: TrainingConfig) -> float:
    """Learning rate of a parameter group at a step: a rise and a cosine in each stage; 0 where the stage freezes it."""
    return optimizer_of(group, config).base_rate * learning_rate_factor(group, step, config)


def learning_rate_factor(group: str, step: int, config: TrainingConfig) -> float:
    """`learning_rate` as a fraction of the group's `base_rate`, as schedulers of torch want it."""
    settings = optimizer_of(group, config)
    stage = config.stage(step)
    if settings.base_rate == 0.0 or group not in config.stages.trained_groups(stage):
        return 0.0
    first, last = config.stages.interval(step, config.num_steps)
    factor = warmup_cosine(step - first, last - first, config.warmup_fraction, config.final_fraction)
    return factor * settings.rate(stage) / settings.base_rate


def clip_quantile(group: str, step: int, config: TrainingConfig) -> float | None:
    """Quantile of earlier norms to which a parameter group's gradient is shortened at a step; None: it is not."""
    return optimizer_of(group, config).clip_quantile(config.stage(step))


def optimizer_of(group: str, config: TrainingConfig) -> GroupOptimizer:
    """Settings of a group's optimiser; KeyError for a name that is none."""
    if group not in GROUP_NAMES:
        raise KeyError(f"there is no parameter group {group!r}; the groups are {', '.join(GROUP_NAMES)}")
    return getattr(config, group)


def with_trunk(stored: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """States of optimisers of a checkpoint from before the trunk had one of its own, as they are now.

    Args:
        stored: group → state, of the checkpoint.
        own: the same of this run, before its first step.

    Raises:
        ValueError: the checkpoint has trained the backbone, trunk included; its moments cannot be told apart.
    """
    if TRUNK in stored or TRUNK not in own:
        return dict(stored)
    if stored.get("backbone", {}).get("state"):
        raise ValueError(
            "the checkpoint is from before the backbone's trunk had an optimiser of its own, and has trained both; "
            "begin anew with its weights (--weights)"
        )
    return {**stored, "backbone": own["backbone"], TRUNK: own[TRUNK]}


@dataclass(eq=False)
class GroupOptimizers:
    """The optimisers of all groups, driven as nerfstudio's Trainer drives its own."""

    config: TrainingConfig
    parameters: Mapping[str, list[nn.Parameter]]
    optimizers: dict[str, GuardedAdamW]

    @staticmethod
    def make(param_groups: Mapping[str, Iterable[nn.Parameter]], config: TrainingConfig) -> GroupOptimizers:
        """One optimiser for every group that has parameters."""
        parameters = {name: list(group) for name, group in param_groups.items()}
        optimizers = {}
        for name, group in parameters.items():
            if group:
                settings = optimizer_of(name, config)
                optimizers[name] = GuardedAdamW(
                    group,
                    lr=settings.base_rate,
                    betas=settings.betas,
                    eps=settings.epsilon,
                    weight_decay=settings.weight_decay,
                )
        return GroupOptimizers(config, parameters, optimizers)

    def begin_step(self, step: int) -> None:
        """Set the learning rates and clipping of a step, and forget old gradients where an accumulation begins."""
        for name, optimizer in self.optimizers.items():
            optimizer.clip_quantile = clip_quantile(name, step, self.config)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(name, step, self.config)
            if step % self.config.gradient_accumulation == 0:
                optimizer.zero_grad(set_to_none=True)

    def end_step(self, step: int) -> dict[str, float]:
        """Clip and apply the gradients where an accumulation ends; a group without any gradient is left alone.

        Returns:
            Norm of the gradient per group that was updated, before it was clipped.
        """
        norms: dict[str, float] = {}
        if (step + 1) % self.config.gradient_accumulation != 0:
            return norms
        for name, optimizer in self.optimizers.items():
            if all(parameter.grad is None for parameter in self.parameters[name]):
                continue
            limit = optimizer_of(name, self.config).max_norm
            limit = float("inf") if limit is None else limit
            norms[name] = float(nn.utils.clip_grad_norm_(self.parameters[name], limit))
            optimizer.step()
        return norms

    def state_dict(self) -> dict[str, Any]:
        """States of all optimisers: tensors and plain numbers."""
        return {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore `state_dict`; ValueError if it is of other groups."""
        state = with_trunk(state, self.state_dict())
        if set(state) != set(self.optimizers):
            raise ValueError(f"the checkpoint has optimisers of {sorted(state)}, not of {sorted(self.optimizers)}")
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state[name])
