# SPDX-License-Identifier: Apache-2.0
"""The MetaGrad mode (ForeSplat): first-order gradients at anchors along the optimisation, averaged.

With iterates G_0 = θ⁰, G_1, …, G_K, anchors A = {G_k : k mod stride = 0, k > 0} and L_A the outer loss,

    ĝ = (1/|A|) Σ_{k ∈ A} ∇L_A(G_k)        every G_k detached, dG_{k+1}/dG_k taken as the identity,

and the training loss has the gradient ĝ at θ⁰, whatever its value. L_A is needed while the optimisation runs, so it is
given to the layer as a function. `TTOSolution.anchor_loss` is the mean of L_A over the anchors, a scalar whose gradient
with respect to θ⁰ is ĝ; θ* itself passes its gradient on unchanged, as one more anchor would. Only a running sum is
kept: memory does not grow with the horizon. K may be random in training (`MetaGradConfig`). Nothing reaches λ.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ...splats import Gaussians
from ..inner import StepObserver, StepRecord
from .config import MetaGradConfig
from .first_order import FirstOrder
from .protocol import BackwardMode, BackwardResult, FinishedTTO, RerunSteps

OuterLoss = Callable[[Gaussians], Float[Tensor, ""]]
"""Gaussians in world units → a scalar that autograd differentiates."""


class AnchorObserver:
    """Sums L_A and its gradient over the anchors of a run."""

    def __init__(self, config: MetaGradConfig, loss: OuterLoss, to_world: Callable[[Tensor], Gaussians]) -> None:
        """`to_world`: flat vector in the frame of the optimisation → Gaussians in world units, differentiable."""
        self.config, self.loss, self.to_world = config, loss, to_world
        self.values: list[float] = []
        self._sum: Tensor | None = None

    def __call__(self, record: StepRecord, next_theta: Float[Tensor, " P"]) -> None:
        """Take the loss where the step led, or at the start."""
        if record.step == 0 and self.config.include_start:
            self._add(record.theta)
        if (record.step + 1) % self.config.stride == 0:
            self._add(next_theta)

    def _add(self, theta: Tensor) -> None:
        leaf = theta.detach().clone()
        if not bool(torch.isfinite(leaf).all()):
            return  # the run finds out at its next iterate, and reports that it diverged
        with torch.enable_grad():
            leaf.requires_grad_()
            value = self.loss(self.to_world(leaf))
            (gradient,) = torch.autograd.grad(value, leaf)
        self.values.append(float(value.detach()))
        self._sum = gradient if self._sum is None else self._sum.add_(gradient)

    def anchored_loss(
        self, start: Float[Tensor, " P"], multiplier: Float[Tensor, " P"] | None, result: Float[Tensor, " P"]
    ) -> Float[Tensor, ""]:
        """Mean of L_A over the anchors, with gradient ĝ to `start` and zeros to `multiplier`. A run that ended before
        its first anchor, because it was stationary, has its result as the only one."""
        if self._sum is None:
            self._add(result)
        assert self._sum is not None
        mean = start.new_tensor(sum(self.values) / len(self.values))
        loss = _LossWithGradient.apply(start, multiplier, mean, self._sum / len(self.values))
        assert isinstance(loss, Tensor)
        return loss


class MetaGrad(FirstOrder):
    """What becomes of a gradient at θ* itself: it passes through."""

    def observer(self, rerun: RerunSteps, num_steps: int) -> StepObserver | None:
        """The layer makes the `AnchorObserver`, for it has the outer loss."""
        return None

    def __call__(self, finished: FinishedTTO, gradient: Float[Tensor, " P"]) -> BackwardResult:
        """First order."""
        result = super().__call__(finished, gradient)
        result.info.mode = BackwardMode.METAGRAD
        return result


class _LossWithGradient(torch.autograd.Function):
    """A number with a gradient that was found elsewhere."""

    @staticmethod
    def forward(ctx: Any, start: Tensor, multiplier: Tensor | None, value: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return value.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *cotangents: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        (gradient,) = ctx.saved_tensors
        # Zeros, not nothing: DistributedDataParallel waits for every parameter that was used.
        nothing = torch.zeros_like(gradient) if ctx.needs_input_grad[1] else None
        return cotangents[0] * gradient, nothing, None, None
