# SPDX-License-Identifier: Apache-2.0
"""The first-order mode (FOMAML): 0 sweeps of the adjoint.

θ* = θ⁰ + Δ with Δ taken as a constant: ∂L/∂θ⁰ = ∂L/∂θ*, ∂L/∂λ = 0. Right where the optimisation hardly moves.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from .. import vector_ops
from ..inner import StepObserver
from ..prior import Prior
from .protocol import BackwardInfo, BackwardMode, BackwardResult, FinishedTTO, RerunSteps


class FirstOrder:
    """∂L/∂θ⁰ = ∂L/∂θ*, nothing for λ."""

    def check(self, prior: Prior | None) -> None:
        """Works on every run."""

    def observer(self, rerun: RerunSteps, num_steps: int) -> StepObserver | None:
        """Nothing."""
        return None

    def __call__(self, finished: FinishedTTO, gradient: Float[Tensor, " P"]) -> BackwardResult:
        """Hand the gradient on."""
        info = BackwardInfo(BackwardMode.FIRST_ORDER, "completed", iterations=0)
        info.gradient_norm = math.sqrt(vector_ops.dot(gradient, gradient))
        if not math.isfinite(info.gradient_norm):
            info.status = "non_finite_gradient"
        nothing = None if finished.prior is None else torch.zeros_like(gradient)
        return BackwardResult(gradient.clone(), nothing, info)
