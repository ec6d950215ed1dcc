# SPDX-License-Identifier: Apache-2.0
"""Gauss-Newton steps: the inner optimiser that reaches a stationary point, where the implicit gradient is exact."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from ...splats import Gaussians
from ..pcg import PCGConfig, pcg
from ..preconditioners import make_preconditioner
from .protocol import InnerPoint, InnerState, InnerStep


@dataclass(frozen=True)
class GaussNewton:
    """θ ← θ − A⁻¹ ∇L_in with A = (1/n) JᵀWJ + Λ, by conjugate gradients; the prior is its only damping.

    For problems that are close to linear, and for checking gradients at a stationary point; no step control. State:
    nothing.
    """

    pcg: PCGConfig = field(default_factory=lambda: PCGConfig(tolerance=1e-6, max_iterations=500))

    def init(self, theta: Gaussians) -> InnerState:
        """Nothing to remember."""
        return {}

    def step(self, state: InnerState, point: InnerPoint, out: Float[Tensor, " P"]) -> InnerStep:
        """One solve and one step."""
        gradient, statistics = point.total_gradient()
        operator = point.normal_operator()
        preconditioner = make_preconditioner(self.pcg.preconditioner, operator, self.pcg.geometric_mean)
        step = pcg(operator, gradient, self.pcg, preconditioner).solution
        return InnerStep(torch.sub(point.theta, step, out=out), statistics)
