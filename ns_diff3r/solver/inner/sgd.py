# SPDX-License-Identifier: Apache-2.0
"""Gradient descent with one learning rate per attribute group."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from ...splats import Gaussians
from .. import vector_ops
from .protocol import InnerPoint, InnerState, InnerStep


@dataclass(frozen=True)
class SGD:
    """θ ← θ − rate · ∇L_in; no state. After a step `point.image_gradient` holds the total gradient."""

    learning_rates: dict[str, float]

    def init(self, theta: Gaussians) -> InnerState:
        """Nothing to remember."""
        return {}

    def step(self, state: InnerState, point: InnerPoint, out: Float[Tensor, " P"]) -> InnerStep:
        """One step, in one pass over memory."""
        ranges = point.ranges(self.learning_rates)
        vectors = (point.theta, point.anchor, point.strength, point.image_gradient, out)
        return InnerStep(out, vector_ops.sgd_step(ranges, *vectors))
