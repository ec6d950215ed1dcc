# SPDX-License-Identifier: Apache-2.0
"""Adam with one learning rate per attribute group, on the photometric gradient plus the prior's."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ...splats import Gaussians
from .. import vector_ops
from .protocol import InnerPoint, InnerState, InnerStep


@dataclass(frozen=True)
class Adam:
    """m ← β₁m + (1−β₁)g, s ← β₂s + (1−β₂)g², θ ← θ − rate · m̂ / (sqrt(ŝ) + ε), with bias-corrected m̂, ŝ.

    State: "step" (steps taken), "first_moment" and "second_moment" [P]. After a step `point.image_gradient` holds the
    total gradient g_k.
    """

    learning_rates: dict[str, float]
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-15

    def init(self, theta: Gaussians) -> InnerState:
        """Zero moments."""
        size = {"dtype": theta.dtype, "device": theta.device}
        moments = (torch.zeros(theta.num_parameters, **size) for _ in range(2))
        return dict(zip(("first_moment", "second_moment"), moments, strict=True), step=0)

    def step(self, state: InnerState, point: InnerPoint, out: Float[Tensor, " P"]) -> InnerStep:
        """One Adam step, in one pass over memory."""
        state["step"] += 1
        statistics = vector_ops.adam_step(
            point.ranges(self.learning_rates),
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
