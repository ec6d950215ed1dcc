# SPDX-License-Identifier: Apache-2.0
"""Gates on the way of gradients: they time what lies between, and stop a scene whose gradient is unsound.

A gate is the identity on several tensors at once. Backward through it happens once, when the gradients of all of them
are there, so that a decision is about the scene as a whole.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

Gradients = Sequence[Tensor | None]


def gate(tensors: Sequence[Tensor], passes: Callable[[Gradients], bool]) -> list[Tensor]:
    """The same tensors; in the backward pass `passes` sees their gradients and says whether they go on.

    Gradients that do not go on become undefined, not zero: parameters that get no other gradient keep `grad` None, so
    that an optimiser leaves them (and their momentum) alone.
    """
    watched = [tensor for tensor in tensors if tensor.requires_grad]
    if not watched or not torch.is_grad_enabled():
        return list(tensors)
    results = iter(_Gate.apply(passes, *watched))
    return [next(results) if tensor.requires_grad else tensor for tensor in tensors]


def all_finite(gradients: Gradients) -> bool:
    """Whether no gradient holds a NaN or an infinity."""
    return all(bool(gradient.isfinite().all()) for gradient in gradients if gradient is not None)


class _Gate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, passes: Callable[[Gradients], bool], *tensors: Tensor) -> Any:
        ctx.set_materialize_grads(False)
        ctx.passes = passes
        return tuple(tensor.view_as(tensor) for tensor in tensors)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        if ctx.passes(gradients):
            return (None, *gradients)
        return (None,) * (1 + len(gradients))
