# SPDX-License-Identifier: Apache-2.0
"""Gradient descent with one learning rate per attribute group, and its adjoint: ∂L/∂g_k = −rate · ∂L/∂θ_{k+1}."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from ...splats import Gaussians
from .. import vector_ops
from ..vector_ops import ParameterRange
from .protocol import InnerPoint, InnerState, InnerStep, StepRecord, parameter_ranges
from .schedule import RateSchedule


@dataclass(frozen=True)
class SGD:
    """θ ← θ − rate · ∇L_in; no state. After a step `point.image_gradient` holds the total gradient."""

    learning_rates: dict[str, float]
    schedule: RateSchedule = field(default_factory=RateSchedule)
    horizon: int = 0
    """Steps of the run, over which the schedule falls."""

    def init(self, theta: Gaussians) -> InnerState:
        """Nothing to remember."""
        return {}

    def step(self, state: InnerState, point: InnerPoint, out: Float[Tensor, " P"]) -> InnerStep:
        """One step, in one pass over memory."""
        ranges = point.ranges(self.rates(point.step))
        vectors = (point.theta, point.anchor, point.strength, point.image_gradient, out)
        return InnerStep(out, vector_ops.sgd_step(ranges, *vectors))

    def rates(self, step: int) -> dict[str, float]:
        """Learning rate of every group in a step."""
        return self.schedule.rates(self.learning_rates, step, self.horizon)

    def adjoint(self, template: Gaussians, frozen: frozenset[str]) -> SGDAdjoint:
        """A fresh backward sweep."""
        return SGDAdjoint(self, template, frozen)

    def unrolled_step(
        self, state: InnerState, theta: Float[Tensor, " P"], gradient: Float[Tensor, " P"], ranges: list[ParameterRange]
    ) -> tuple[Float[Tensor, " P"], InnerState]:
        """One step in torch, differentiable by autograd."""
        rates = torch.zeros_like(theta)
        for part in ranges:
            rates[part.begin : part.end] = 0.0 if part.frozen else part.learning_rate
        return theta - rates * gradient, {}


@dataclass(frozen=True, eq=False)
class SGDAdjoint:
    """`protocol.StepAdjoint` of SGD, which has no state."""

    sgd: SGD
    template: Gaussians
    frozen: frozenset[str]

    def pull(self, record: StepRecord, cotangent: Float[Tensor, " P"]) -> Float[Tensor, " P"]:
        """∂L/∂g_k from ∂L/∂θ_{k+1}."""
        out = torch.empty_like(cotangent)
        for part in parameter_ranges(self.template, self.sgd.rates(record.step), self.frozen):
            rate = 0.0 if part.frozen else part.learning_rate
            torch.mul(cotangent[part.begin : part.end], -rate, out=out[part.begin : part.end])
        return out
