# SPDX-License-Identifier: Apache-2.0
"""Levenberg-Marquardt: damped Gauss-Newton steps that are taken only where the loss falls."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from ...dataclass_state import DefaultsForMissingFields
from ...splats import Gaussians
from .. import vector_ops
from ..normal_operator import NormalOperator
from ..pcg import PCGConfig, pcg
from ..preconditioners import make_preconditioner
from .protocol import InnerPoint, InnerState, InnerStep

ROUNDING = 4.0
"""Gains below this many units of rounding of the loss are none."""


@dataclass(frozen=True)
class LMConfig(DefaultsForMissingFields):
    """Step control of the inner optimiser "lm"; see docs/backward_modes.md for what else was tried."""

    damping: float = 10.0
    """μ of the first step: multiplies the diagonal of (1/n) JᵀWJ."""
    damping_floor: float = 3.0
    """Smallest entry of that diagonal, as a multiple of the mean of its group. Few views see most parameters hardly:
    damped by their own curvature alone they take huge steps."""
    damping_down: float = 3.0
    """A step that is taken divides μ by this."""
    damping_up: float = 4.0
    """A step that is refused multiplies μ by this."""
    damping_min: float = 1e-6
    """Smallest μ."""
    damping_max: float = 1e6
    """Largest μ."""
    min_relative_decrease: float = 1e-5
    """A step is taken if the loss falls by at least this share of what the quadratic model promises."""
    line_search: int = 0
    """How often a step that is refused is halved and tried again before μ grows."""
    pcg: PCGConfig = field(default_factory=lambda: PCGConfig(preconditioner="jacobi", tolerance=1e-2, max_iterations=4))
    """The linear solve of a step."""

    def __post_init__(self) -> None:
        if not 0.0 < self.damping_min <= self.damping <= self.damping_max < float("inf"):
            raise ValueError(
                "LMConfig: 0 < damping_min <= damping <= damping_max is needed, not "
                f"{self.damping_min}, {self.damping}, {self.damping_max}"
            )
        for name in ("damping_down", "damping_up"):
            if not 1.0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"LMConfig.{name} must be at least 1, not {getattr(self, name)}")
        if not 0.0 < self.damping_floor < float("inf"):
            raise ValueError(f"LMConfig.damping_floor must be positive, not {self.damping_floor}")
        if not 0.0 <= self.min_relative_decrease < 1.0:
            raise ValueError(f"LMConfig.min_relative_decrease must lie in [0, 1), not {self.min_relative_decrease}")
        if self.line_search < 0:
            raise ValueError(f"LMConfig.line_search must not be negative, not {self.line_search}")


@dataclass(frozen=True)
class LevenbergMarquardt:
    """θ ← θ − u with (A + μ diag(JᵀWJ)/n) u = ∇L_in, if the loss falls as the model of it says; else μ grows.

    The loss is compared with depth order and lists frozen at θ: across a flip of the order it jumps for reasons that no
    model of it knows. Where it then turns out to have risen, μ grows as well, but the step stays. State: "damping" μ,
    "loss" where the last step began, and "taken" and "refused", how many steps were.
    """

    config: LMConfig = field(default_factory=LMConfig)

    def init(self, theta: Gaussians) -> InnerState:
        """The first damping."""
        return {"damping": self.config.damping, "loss": float("inf"), "taken": 0, "refused": 0}

    def step(self, state: InnerState, point: InnerPoint, out: Float[Tensor, " P"]) -> InnerStep:
        """One solve, and the step if it is an improvement; θ stays where it is not."""
        gradient, statistics = point.total_gradient()
        before = point.loss.value + sum(part.prior for part in statistics)
        if before > state["loss"]:  # the order that the last step was accepted on did not hold
            self._damp(state, self.config.damping_up * self.config.damping_down)
        state["loss"] = before
        plain = point.normal_operator()
        diagonal = _floored_diagonal(point, plain, self.config.damping_floor)
        strength = state["damping"] * diagonal
        if point.strength is not None:
            strength += point.strength
        n = plain.num_residuals
        operator = NormalOperator(point.linearization, plain.weights, n, strength, tuple(point.frozen))
        settings = self.config.pcg
        preconditioner = make_preconditioner(settings.preconditioner, operator, settings.geometric_mean)
        u = pcg(operator, gradient, settings, preconditioner).solution

        # Conjugate gradients from zero end with uᵀr = 0, so that uᵀ(A + μD)u = uᵀ∇L and no product is needed.
        slope = vector_ops.dot(gradient, u)
        damped = state["damping"] * vector_ops.dot(diagonal, u * u)
        size = 1.0
        for _ in range(1 + self.config.line_search):
            torch.sub(point.theta, u, alpha=size, out=out)
            promised = size * slope - 0.5 * size * size * (slope - damped)
            if promised <= ROUNDING * torch.finfo(out.dtype).eps * before:
                return InnerStep(out.copy_(point.theta), statistics)  # nothing left that could be measured
            if before - self._loss(point, out) >= self.config.min_relative_decrease * promised:
                self._damp(state, 1.0 / self.config.damping_down)
                state["taken"] += 1
                return InnerStep(out, statistics)
            size *= 0.5
        self._damp(state, self.config.damping_up)
        state["refused"] += 1
        return InnerStep(out.copy_(point.theta), statistics)

    def _damp(self, state: InnerState, factor: float) -> None:
        state["damping"] = min(self.config.damping_max, max(self.config.damping_min, factor * state["damping"]))

    @staticmethod
    def _loss(point: InnerPoint, theta: Float[Tensor, " P"]) -> float:
        """L_in at θ with the order of the point, its L1 signs those of θ."""
        rendered = point.linearization.at(point.template.unflatten(theta), "order").rgb
        loss = point.loss.objective.linearize(rendered).value
        if point.prior is not None:
            loss += sum(
                part.prior
                for part in vector_ops.prior_gradient(
                    point.ranges(), theta, point.anchor, point.strength, torch.zeros_like(theta)
                )
            )
        return loss


def _floored_diagonal(point: InnerPoint, operator: NormalOperator, share: float) -> Float[Tensor, " P"]:
    """diag(JᵀWJ)/n, at least `share` times its group's mean."""
    diagonal = point.linearization.diagonal(operator.weights).flatten().mul_(1.0 / operator.num_residuals)
    for part in operator.slices.values():
        if part.stop > part.start:
            floor = share * float(diagonal[part].mean())
            diagonal[part].clamp_(min=max(floor, torch.finfo(diagonal.dtype).tiny))
    return diagonal
