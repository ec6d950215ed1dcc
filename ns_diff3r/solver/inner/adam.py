# SPDX-License-Identifier: Apache-2.0
"""Adam with one learning rate per attribute group, on the photometric gradient plus the prior's, and its adjoint.

With g = ∇L_in(θ_k), r the learning rate and c₁ = 1 − β₁ᵏ, c₂ = 1 − β₂ᵏ (k counts from 1), a step is

    m_k = β₁ m_{k−1} + (1−β₁) g        s_k = β₂ s_{k−1} + (1−β₂) g²        θ_{k+1} = θ_k − r (m_k/c₁) / (√(s_k/c₂) + ε)

Backwards, with w = ∂L/∂θ_{k+1}, and u_m, u_s the derivatives of L with respect to m_k, s_k by way of later steps,

    u_m += −(r/c₁) / (√(s_k/c₂) + ε) · w
    u_s += r (m_k/c₁) / ((√(s_k/c₂) + ε)² · 2 c₂ √(s_k/c₂)) · w          both 0 where s_k = 0
    ∂L/∂g = (1−β₁) u_m + 2(1−β₂) g u_s;        u_m ← β₁ u_m;        u_s ← β₂ u_s.

The first step is r · sign(g), and its jump at g = 0 is left out of the derivative like everything else that jumps,
unless ε is large enough for the gradients' precision to resolve it (`vector_ops.adam_adjoint`).
Where s_k = 0 no gradient has ever come: a parameter that nothing sees does not move, wherever it begins.
"""

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
class Adam:
    """m ← β₁m + (1−β₁)g, s ← β₂s + (1−β₂)g², θ ← θ − rate · m̂ / (sqrt(ŝ) + ε), with bias-corrected m̂, ŝ.

    State: "step" (steps taken), "first_moment" and "second_moment" [P]. After a step `point.image_gradient` holds the
    total gradient g_k.
    """

    learning_rates: dict[str, float]
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-15
    schedule: RateSchedule = field(default_factory=RateSchedule)
    horizon: int = 0
    """Steps of the run, over which the schedule falls."""

    def init(self, theta: Gaussians) -> InnerState:
        """Zero moments."""
        size = {"dtype": theta.dtype, "device": theta.device}
        moments = (torch.zeros(theta.num_parameters, **size) for _ in range(2))
        return dict(zip(("first_moment", "second_moment"), moments, strict=True), step=0)

    def step(self, state: InnerState, point: InnerPoint, out: Float[Tensor, " P"]) -> InnerStep:
        """One Adam step, in one pass over memory."""
        state["step"] += 1
        statistics = vector_ops.adam_step(
            point.ranges(self.rates(point.step)),
            point.theta,
            point.anchor,
            point.strength,
            point.image_gradient,
            self.betas,
            self.epsilon,
            state["step"],
            (state["first_moment"], state["second_moment"]),
            out,
        )
        return InnerStep(out, statistics)

    def rates(self, step: int) -> dict[str, float]:
        """Learning rate of every group in a step."""
        return self.schedule.rates(self.learning_rates, step, self.horizon)

    def adjoint(self, template: Gaussians, frozen: frozenset[str]) -> AdamAdjoint:
        """A fresh backward sweep."""
        return AdamAdjoint(self, template, frozen)

    def unrolled_step(
        self, state: InnerState, theta: Float[Tensor, " P"], gradient: Float[Tensor, " P"], ranges: list[ParameterRange]
    ) -> tuple[Float[Tensor, " P"], InnerState]:
        """One step in torch, differentiable by autograd."""
        step = state["step"] + 1
        first = self.betas[0] * state["first_moment"] + (1 - self.betas[0]) * gradient
        second = self.betas[1] * state["second_moment"] + (1 - self.betas[1]) * gradient.square()
        seen = second > 0
        scale = (torch.where(seen, second, 1.0) / (1 - self.betas[1] ** step)).sqrt() + self.epsilon
        change = torch.where(seen, (first / (1 - self.betas[0] ** step)) / scale, 0.0)
        rates = torch.zeros_like(theta)
        for part in ranges:
            rates[part.begin : part.end] = 0.0 if part.frozen else part.learning_rate
        return theta - rates * change, {"first_moment": first, "second_moment": second, "step": step}


class AdamAdjoint:
    """`protocol.StepAdjoint` of Adam; see the module's text."""

    def __init__(self, adam: Adam, template: Gaussians, frozen: frozenset[str]) -> None:
        self.adam, self.template, self.frozen = adam, template, frozen
        # In float64: ∂θ/∂s goes with the third power of the root of s, beyond what float32 can hold.
        size = {"dtype": torch.float64, "device": template.device}
        self.moments = (
            torch.zeros(template.num_parameters, **size),
            torch.zeros(template.num_parameters, **size),
        )

    def pull(self, record: StepRecord, cotangent: Float[Tensor, " P"]) -> Float[Tensor, " P"]:
        """∂L/∂g_k from ∂L/∂θ_{k+1}."""
        out = torch.empty_like(cotangent)
        vector_ops.adam_adjoint(
            parameter_ranges(self.template, self.adam.rates(record.step), self.frozen),
            self.adam.betas,
            self.adam.epsilon,
            record.state["step"],
            record.gradient,
            (record.state["first_moment"], record.state["second_moment"]),
            cotangent,
            self.moments,
            out,
        )
        return out
