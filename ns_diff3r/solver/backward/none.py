# SPDX-License-Identifier: Apache-2.0
"""Mode "none": θ* is a constant. The layer hands it out detached, so that nothing of this is called in a training."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from .first_order import FirstOrder
from .protocol import BackwardInfo, BackwardMode, BackwardResult, FinishedTTO


class NoBackward(FirstOrder):
    """∂L/∂θ⁰ = 0, ∂L/∂λ = 0."""

    def __call__(self, finished: FinishedTTO, gradient: Float[Tensor, " P"]) -> BackwardResult:
        """Zeros."""
        nothing = torch.zeros_like(gradient)
        info = BackwardInfo(BackwardMode.NONE, "completed", iterations=0)
        return BackwardResult(nothing, None if finished.prior is None else nothing.clone(), info)
